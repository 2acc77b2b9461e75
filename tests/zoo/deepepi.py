"""DeepEpiCnn of seed 001: fourteen convolutions with BatchNorm and ReLU, global pooling, a dense head.

TensorFlow's SAME padding at stride 2, kernel 5 and an even length is 1 at the start and 2 at the end.
"""

from __future__ import annotations

from typing import Any

from .pair import Defect, Pair, built
from .weights import before_activation, calibrate, seed_weights, to_torch

LENGTH, CHANNELS, CLASSES = 1024, 1, 2
FILTERS = (16, *(32,) * 11, 64, 64)
STRIDES = (1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 1, 1, 1, 2)
UNITS = (64, 64, 32, 16)
EPSILON = 1e-3

# nn.Sequential of the head: Linear, BatchNorm, ReLU each, a Dropout behind the first.
HEAD = (0, 4, 7, 10)
TRUTH = {
    **{f"conv1d_{i}": f"convs.{i}" for i in range(14)},
    **{f"batch_normalization_{i}": f"norms.{i}" for i in range(14)},
    **{f"re_lu_{i}": f"relu_{i}" if i else "relu" for i in range(14)},
    "global_average_pooling1d": "global_pool",
    **{f"dense_{i}": f"head.{at}" for i, at in enumerate(HEAD)},
    **{f"batch_normalization_{14 + i}": f"head.{at + 1}" for i, at in enumerate(HEAD)},
    **{f"re_lu_{14 + i}": f"head.{at + 2}" for i, at in enumerate(HEAD)},
}
FUSED = {"dense_4": ("head.13", "softmax")}


def build_keras() -> Any:
    from keras import Sequential, layers

    model = Sequential([layers.Input((LENGTH, CHANNELS), name="acceleration")], name="deep_epi_cnn")
    for i, (filters, stride) in enumerate(zip(FILTERS, STRIDES, strict=True)):
        model.add(layers.Conv1D(filters, 5, strides=stride, padding="same", name=f"conv1d_{i}"))
        model.add(layers.BatchNormalization(name=f"batch_normalization_{i}"))
        model.add(layers.ReLU(name=f"re_lu_{i}"))
    model.add(layers.GlobalAveragePooling1D(name="global_average_pooling1d"))
    for i, units in enumerate(UNITS):
        model.add(layers.Dense(units, name=f"dense_{i}"))
        model.add(layers.BatchNormalization(name=f"batch_normalization_{14 + i}"))
        model.add(layers.ReLU(name=f"re_lu_{14 + i}"))
        if i == 0:
            model.add(layers.Dropout(0.025, seed=0, name="dropout"))
    model.add(layers.Dense(CLASSES, activation="softmax", name="dense_4"))
    seed_weights(model, seed=2)
    calibrate(model, (32, LENGTH, CHANNELS), seed=3)
    return model


def architecture(symmetric: bool = False, eps: float = EPSILON) -> Any:
    """DeepEpiCnn without weights; ``symmetric`` pads the strided convolutions by 2 on both sides."""
    import torch.nn.functional as F
    from torch import nn

    class DeepEpiCnn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = (CHANNELS, *FILTERS)
            padding = [2 if stride == 1 or symmetric else 0 for stride in STRIDES]
            self.convs = nn.ModuleList(
                nn.Conv1d(channels[i], channels[i + 1], 5, STRIDES[i], padding[i]) for i in range(14)
            )
            self.norms = nn.ModuleList(nn.BatchNorm1d(filters, eps) for filters in FILTERS)
            self.global_pool = nn.AdaptiveAvgPool1d(1)
            blocks: list[nn.Module] = []
            for fan_in, fan_out in zip((64, *UNITS), UNITS, strict=False):
                blocks += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out, eps), nn.ReLU()]
            blocks.insert(3, nn.Dropout(0.025))
            self.head = nn.Sequential(*blocks, nn.Linear(16, CLASSES))

        def forward(self, x: Any) -> Any:
            for conv, norm in zip(self.convs, self.norms, strict=True):
                if conv.padding == (0,):
                    x = F.pad(x, (1, 2))
                x = F.relu(norm(conv(x)))
            return F.softmax(self.head(self.global_pool(x).squeeze(-1)), dim=1)

    return DeepEpiCnn()


def build_torch(symmetric: bool = False, eps: float = EPSILON) -> Any:
    return to_torch(built(build_keras), architecture(symmetric, eps), before_activation(TRUTH, FUSED))


PAIRS = [
    Pair(
        name="deepepi",
        keras=build_keras,
        torch=build_torch,
        input_shape=(3, LENGTH, CHANNELS),
        truth=TRUTH,
        fused=FUSED,
        defects={
            "pad-asymmetry": Defect(
                "padding=2 on both sides of the strided convolutions",
                lambda: build_torch(symmetric=True),
                first="conv1d_4",
            ),
            "bn-eps": Defect(
                "PyTorch's default epsilon 1e-5",
                lambda: build_torch(eps=1e-5),
                first="batch_normalization_0",
            ),
        },
    )
]
