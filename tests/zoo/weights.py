"""Seeding Keras models and carrying weights between the frameworks, every array accounted for."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .pair import normal

Arrays = dict[str, np.ndarray]
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def weighted_layers(model: Any, prefix: str = "") -> dict[str, Any]:
    """The innermost Keras layers that hold weights, by path."""
    found: dict[str, Any] = {}
    for layer in model._flatten_layers(include_self=False, recursive=False):
        inner = weighted_layers(layer, f"{prefix}{layer.name}/")
        found |= inner or ({prefix + layer.name: layer} if layer.get_weights() else {})
    return found


def seed_weights(model: Any, seed: int) -> None:
    """He-scaled kernels, small biases and uneven statistics that depend on the layers' names only."""
    for path, layer in weighted_layers(model).items():
        rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
        names = [weight.name.split(":")[0].rsplit("/", 1)[-1] for weight in layer.weights]
        arrays = [_draw(rng, name, tuple(w.shape)) for name, w in zip(names, layer.weights, strict=True)]
        layer.set_weights(arrays)


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name in {"gamma", "moving_variance"}:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = math.sqrt(2 / math.prod(shape[:-1])) if name == "kernel" else 0.1
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)


def calibrate(model: Any, input_shape: tuple[int, ...], seed: int) -> None:
    """Give every Keras BatchNorm the statistics of what it sees, each off by up to a fifth.

    They are rounded to three figures first, so that two runs cannot differ by the order of a sum.
    """
    norms = [layer for layer in model.layers if type(layer).__name__ == "BatchNormalization"]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    model(normal(input_shape), training=True)
    rng = np.random.default_rng(seed)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        gamma, beta, mean, variance = layer.get_weights()
        off = rng.uniform(0.8, 1.2, (2, *mean.shape)).astype(np.float32)
        layer.set_weights([gamma, beta, _rounded(mean) * off[0], _rounded(variance) * off[1]])


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.array([float(f"{value:.3g}") for value in values], np.float32)


def as_torch(layer: Any) -> Arrays:
    """A Keras layer's weights under PyTorch's names and layouts."""
    kind, values = type(layer).__name__, layer.get_weights()
    if kind == "BatchNormalization":
        return dict(zip(BATCH_NORM, values, strict=True))
    if kind == "PReLU":
        return {"weight": values[0].reshape(-1)}
    assert kind in {"Conv1D", "Conv2D", "Dense"}, kind
    kernel, bias = values
    # (k…, in, out) to (out, in, k…); a dense kernel is the case without k.
    return {"weight": kernel.transpose(-1, -2, *range(kernel.ndim - 2)), "bias": bias}


def to_torch(keras_model: Any, torch_model: Any, twins: Mapping[str, str]) -> Any:
    """Carry all weights of ``keras_model`` over by ``twins`` (weightless entries are ignored)."""
    layers = weighted_layers(keras_model)
    assert not layers.keys() - twins.keys(), f"no twin for {layers.keys() - twins.keys()}"
    arrays = {f"{twins[path]}.{name}": a for path, layer in layers.items() for name, a in as_torch(layer).items()}
    return load(torch_model, arrays)


def load(torch_model: Any, arrays: Arrays) -> Any:
    """Fill a module with exactly these arrays, none missing and none left over; in evaluation mode."""
    import torch

    counters = {k: v for k, v in torch_model.state_dict().items() if k.endswith("num_batches_tracked")}
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    torch_model.load_state_dict(state | counters, strict=True)
    return torch_model.eval()


def to_keras(torch_model: Any, keras_model: Any, twins: Mapping[str, str]) -> Any:
    """Carry all weights of convolutions and linear layers over to a built Keras model."""
    state = {name: tensor.numpy() for name, tensor in torch_model.state_dict().items()}
    for path, layer in weighted_layers(keras_model).items():
        weight, bias = state.pop(f"{twins[path]}.weight"), state.pop(f"{twins[path]}.bias")
        layer.set_weights([weight.transpose(*range(2, weight.ndim), 1, 0), bias])
    assert not state, f"left over: {list(state)}"
    return keras_model


def before_activation(truth: Mapping[str, str], fused: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Keras layer to the PyTorch module that holds its weights."""
    return dict(truth) | {layer: before for layer, (before, _) in fused.items()}
