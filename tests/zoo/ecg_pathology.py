"""The pathology ECG models of seed 000: one architecture, four sets of weights, ELU as layers of their own.

LBBB's fourth convolution has large weights and its fifth small ones, so that `activation_3` differs by about 1e-4
although port and weights are exact, and everything else agrees to 1e-5, the softmax too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from .pair import Defect, Pair
from .weights import seed_weights, to_torch

STEPS, LEADS, CLASSES = 2000, 12, 2
FILTERS, WIDTHS = (16, 24, 32, 48, 64), (9, 7, 5, 5, 3)
UNITS = (40, 20)
SEEDS = {"avb": 11, "isch": 12, "lbbb": 13, "rbbb": 14}

BLOCKS = range(5)
TRUTH = {
    **{f"conv1d_{i}": f"conv{i + 1}" for i in BLOCKS},
    **{f"activation_{i}": f"elu_{i}" if i else "elu" for i in BLOCKS},
    **{f"max_pooling1d_{i}": f"pool{i + 1}" for i in BLOCKS},
    "global_average_pooling1d": "mean",
    **{f"dense_{i}": f"fc{i + 1}" for i in range(3)},
    "activation_5": "elu_5",
    "activation_6": "elu_6",
    "activation_7": "softmax",
}


def build_keras(which: str = "avb", library: str = "keras") -> Any:
    """The model in Keras 3, or in Keras 2 with ``library="tf_keras"``; the weights are the same."""
    import importlib

    layers = importlib.import_module(f"{library}.layers")
    x = inputs = layers.Input((STEPS, LEADS), name="input_1")
    for i in BLOCKS:
        x = layers.Conv1D(FILTERS[i], WIDTHS[i], padding="same", name=f"conv1d_{i}")(x)
        x = layers.Activation("elu", name=f"activation_{i}")(x)
        x = layers.MaxPooling1D(2, name=f"max_pooling1d_{i}")(x)
    x = layers.GlobalAveragePooling1D(name="global_average_pooling1d")(x)
    for i, units in enumerate(UNITS):
        x = layers.Dense(units, name=f"dense_{i}")(x)
        x = layers.Activation("elu", name=f"activation_{i + 5}")(x)
        x = layers.Dropout(0.3, name=f"dropout_{i}")(x)
    x = layers.Dense(CLASSES, name="dense_2")(x)
    x = layers.Activation("softmax", name="activation_7")(x)
    model = importlib.import_module(library).Model(inputs, x, name="pathology_ecg")
    seed_weights(model, SEEDS[which])
    if which == "lbbb":
        grow(model)
    return model


def grow(model: Any) -> None:
    """Scale the fourth convolution up and the fifth down by as much."""
    for name, factor in {"conv1d_3": 16.0, "conv1d_4": 1 / 16}.items():
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([kernel * factor, bias])


def architecture(activations: tuple[str, ...] = ("elu",) * 5) -> Any:
    """Pathology_ECG_PyTorch without weights; ``activations`` of the five blocks by name in torch.nn.functional."""
    import torch.nn.functional as F
    from torch import nn

    class PathologyECGPyTorch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            channels = (LEADS, *FILTERS)
            for i in BLOCKS:
                conv = nn.Conv1d(channels[i], channels[i + 1], WIDTHS[i], padding=WIDTHS[i] // 2)
                self.add_module(f"conv{i + 1}", conv)
                self.add_module(f"pool{i + 1}", nn.MaxPool1d(2))
            self.fc1 = nn.Linear(FILTERS[-1], UNITS[0])
            self.dropout1 = nn.Dropout(0.3)
            self.fc2 = nn.Linear(*UNITS)
            self.dropout2 = nn.Dropout(0.3)
            self.fc3 = nn.Linear(UNITS[-1], CLASSES)

        def forward(self, x: Any) -> Any:
            for i, activation in enumerate(activations, start=1):
                x = getattr(F, activation)(self.get_submodule(f"conv{i}")(x))
                x = self.get_submodule(f"pool{i}")(x)
            x = x.mean(dim=2)
            x = self.dropout1(F.elu(self.fc1(x)))
            x = self.dropout2(F.elu(self.fc2(x)))
            return F.softmax(self.fc3(x), dim=1)

    return PathologyECGPyTorch()


def build_torch(which: str = "avb", activations: tuple[str, ...] = ("elu",) * 5) -> Any:
    return to_torch(build_keras(which), architecture(activations), TRUTH)


def write_keras2(directory: Path, which: str = "avb") -> tuple[Path, Path]:
    """Write `model.json` and `weights.h5` as Keras 2 did, and return their paths."""
    model = build_keras(which, library="tf_keras")
    directory.mkdir(parents=True, exist_ok=True)
    structure, weights = directory / "model.json", directory / "weights.h5"
    structure.write_text(model.to_json(), encoding="utf-8")
    model.save_weights(weights)
    return structure, weights


def write_torch(directory: Path, which: str = "avb") -> Path:
    """Write the port's state dict as `model.pt`, for `architecture`."""
    import torch

    directory.mkdir(parents=True, exist_ok=True)
    torch.save(build_torch(which).state_dict(), directory / "model.pt")
    return directory / "model.pt"


def _pair(which: str) -> Pair:
    defect = Defect(
        "ReLU in the fourth block where the model has ELU",
        partial(build_torch, which, ("elu", "elu", "elu", "relu", "elu")),
        first="activation_3",
        # One ELU fewer: the functions that follow are counted anew.
        truth={"activation_3": "relu", "activation_4": "elu_3", "activation_5": "elu_4", "activation_6": "elu_5"},
    )
    return Pair(
        name=f"ecg_pathology_{which}",
        keras=partial(build_keras, which),
        torch=partial(build_torch, which),
        input_shape=(3, STEPS, LEADS),
        truth=TRUTH,
        # Where activations are in the hundreds, what ELU keeps of the negative ones hardly reaches the output.
        defects={} if which == "lbbb" else {"activation-kind": defect},
        notes="a correct port with noise of about 1e-4 at activation_3" if which == "lbbb" else "",
    )


PAIRS = [_pair(which) for which in SEEDS]
