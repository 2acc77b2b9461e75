"""The generic ECG model of seed 000: convolutions with fused ReLU, then flatten. The porter forgot the permute."""

from __future__ import annotations

from typing import Any

from .pair import Defect, Pair
from .weights import before_activation, seed_weights, to_torch

STEPS, LEADS, CLASSES = 500, 12, 5
BLOCKS = ((16, 7), (32, 5), (64, 3))

TRUTH = {"max_pooling1d": "pool1", "max_pooling1d_1": "pool2", "max_pooling1d_2": "pool3", "flatten": "flatten"}
FUSED = {
    "conv1d": ("conv1", "relu1"),
    "conv1d_1": ("conv2", "relu2"),
    "conv1d_2": ("conv3", "relu3"),
    "dense": ("fc1", "relu4"),
    "dense_1": ("fc2", "softmax"),
}


def build_keras() -> Any:
    from keras import Sequential, layers

    model = Sequential(name="ecg")
    model.add(layers.Input((STEPS, LEADS), name="ecg_input"))
    for i, (filters, width) in enumerate(BLOCKS):
        suffix = f"_{i}" if i else ""
        model.add(layers.Conv1D(filters, width, activation="relu", name=f"conv1d{suffix}"))
        model.add(layers.MaxPooling1D(3, name=f"max_pooling1d{suffix}"))
    model.add(layers.Flatten(name="flatten"))
    model.add(layers.Dense(48, activation="relu", name="dense"))
    model.add(layers.Dense(CLASSES, activation="softmax", name="dense_1"))
    seed_weights(model, seed=1)
    return model


def architecture(permute: bool = True) -> Any:
    """ECG_PyTorch without weights; ``permute=False`` is the porter's first attempt."""
    from torch import nn

    class ECGPyTorch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = LEADS
            for i, (filters, width) in enumerate(BLOCKS, start=1):
                self.add_module(f"conv{i}", nn.Conv1d(channels, filters, width))
                self.add_module(f"relu{i}", nn.ReLU())
                self.add_module(f"pool{i}", nn.MaxPool1d(3))
                channels = filters
            self.flatten = nn.Flatten()
            self.fc1 = nn.Linear(17 * 64, 48)
            self.relu4 = nn.ReLU()
            self.fc2 = nn.Linear(48, CLASSES)
            self.softmax = nn.Softmax(dim=1)

        def forward(self, x: Any) -> Any:
            x = self.pool1(self.relu1(self.conv1(x)))
            x = self.pool2(self.relu2(self.conv2(x)))
            x = self.pool3(self.relu3(self.conv3(x)))
            if permute:
                x = x.permute(0, 2, 1)
            x = self.flatten(x)
            x = self.relu4(self.fc1(x))
            return self.softmax(self.fc2(x))

    return ECGPyTorch()


def build_torch(permute: bool = True) -> Any:
    return to_torch(build_keras(), architecture(permute), before_activation(TRUTH, FUSED))


PAIRS = [
    Pair(
        name="ecg_generic",
        keras=build_keras,
        torch=build_torch,
        input_shape=(3, STEPS, LEADS),
        truth=TRUTH,
        fused=FUSED,
        defects={
            "flatten-order": Defect(
                "nn.Flatten on (N, C, L), the kernel's rows wait for (N, L, C)",
                lambda: build_torch(permute=False),
                first="flatten",
            )
        },
    )
]
