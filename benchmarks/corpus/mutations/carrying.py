"""Weights as training might leave them, and how they are carried from one framework to the other."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Moved = Iterator[tuple[str, np.ndarray]]
"""A parameter's name in PyTorch, and its values there."""
_NAMES = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "alpha": "weight", "scale": "weight",
          "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}  # fmt: skip


def values(path: str, shape: tuple[int, ...], fan: int) -> np.ndarray:
    """Drawn by the weight's name alone."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    name = path.replace("/", ".").rpartition(".")[2]
    if name in ("gamma", "moving_variance", "running_var", "scale") or (name == "weight" and len(shape) == 1):
        drawn = rng.uniform(0.5, 1.5, shape)
    elif name == "alpha":
        drawn = rng.uniform(0.05, 0.5, shape)
    elif len(shape) < 2 or "bias" in name or name in ("beta", "moving_mean", "running_mean"):
        drawn = rng.normal(0, 0.3, shape)
    elif name == "embeddings":
        drawn = rng.normal(0, 0.5, shape)
    else:
        drawn = rng.normal(0, 1.2 / max(fan, 1) ** 0.5, shape)
    return drawn.astype(np.float32)


def fill(model: Any) -> None:
    """Give a Keras model weights."""
    for weight in model.weights:
        if weight.dtype == "float32" and not weight.path.startswith("normalization"):
            shape = tuple(weight.shape)
            weight.assign(values(weight.path, shape, int(np.prod(shape[:-1]))))


def fill_torch(module: Any) -> None:
    """Give a PyTorch module weights."""
    import torch

    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                shape = tuple(tensor.shape)
                tensor.copy_(torch.from_numpy(values(name, shape, int(np.prod(shape[1:])))))


def carry(reference: Any, port: Any, rename: Callable[[str], str] = str) -> Any:
    """Fill a module with the Keras model's weights by their layers' names, and return it.

    ``rename`` turns a layer's name into the module's.

    Raises:
        AssertionError: a weight fits nowhere, or a parameter gets nothing.
    """
    import torch

    state = {n: t for n, t in port.state_dict(keep_vars=True).items() if not n.endswith("num_batches_tracked")}
    whole = ("Bidirectional", "LSTM", "GRU", "SimpleRNN")
    with torch.no_grad():
        for layer in reference._flatten_layers(include_self=False, recursive=True):
            if type(layer).__name__ in whole:
                if layer.name.startswith(("forward_", "backward_")):
                    continue
                moved, place = recurrent(layer), layer.name
            else:
                own = layer._trainable_variables + layer._non_trainable_variables
                own = [weight for weight in own if weight.dtype == "float32"]
                if not own or "cell" in type(layer).__name__.lower():
                    continue
                moved, place = plain(layer, own), own[0].path.rpartition("/")[0].replace("/", ".")
            for name, array in moved:
                tensor = state.pop(f"{rename(place)}.{name}")
                assert tuple(tensor.shape) == array.shape, (place, name, tensor.shape, array.shape)
                tensor.copy_(torch.from_numpy(np.array(array)))
    assert not state, f"nothing goes to {sorted(state)}"
    return port.eval()


def plain(layer: Any, own: list[Any]) -> Moved:
    for weight in own:
        array = np.asarray(weight)
        name = _NAMES.get(weight.name, weight.name)
        if weight.name == "kernel" and "Depthwise" in type(layer).__name__:
            array = array.transpose(-2, -1, *range(array.ndim - 2))  # (k…, C, M): all of a channel's beside one another
            array = array.reshape(-1, 1, *array.shape[2:])
        elif weight.name == "kernel" and type(layer).__name__ == "EinsumDense":  # heads and features are two axes
            joined = (-1, array.shape[-1]) if layer.name == "attention_output" else (array.shape[0], -1)
            array = array.reshape(joined).T
        elif weight.name == "kernel":
            array = array.transpose(-1, -2, *range(array.ndim - 2))
        yield name, array.reshape(-1) if weight.name in ("alpha", "bias") else array


def recurrent(layer: Any) -> Moved:
    if type(layer).__name__ == "Bidirectional":
        for side, end in ((layer.forward_layer, ""), (layer.backward_layer, "_reverse")):
            yield from ((f"{name}{end}", array) for name, array in recurrent(side))
        return
    kernel, hidden, bias = (np.asarray(weight) for weight in layer.weights)
    if type(layer).__name__ == "GRU" and not layer.reset_after:  # a cell written by hand keeps Keras' own layout
        yield from (("kernel", kernel), ("recurrent", hidden), ("bias", bias))
        return
    order = np.arange(kernel.shape[1])
    if type(layer).__name__ == "GRU":
        width = layer.units
        order = np.r_[width : 2 * width, :width, 2 * width : 3 * width]
    both = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    yield from (("weight_ih_l0", kernel.T[order]), ("weight_hh_l0", hidden.T[order]),
                ("bias_ih_l0", both[0][order]), ("bias_hh_l0", both[1][order]))  # fmt: skip


def carry_back(reference: Any, port: Any) -> Any:
    """Fill a Keras model with a module's weights by their names, and return it; a bias it has not is dropped."""
    state = {name: tensor.detach().numpy() for name, tensor in reference.state_dict().items()}
    for layer in port.layers:
        if layer.weights:
            own = {name.removeprefix(f"{layer.name}."): array for name, array in state.items()
                   if name.startswith(f"{layer.name}.")}  # fmt: skip
            layer.set_weights(_back(layer, own))
    return port


def _back(layer: Any, own: dict[str, np.ndarray]) -> list[np.ndarray]:
    kind = type(layer).__name__
    if kind == "LSTM":
        return [own["weight_ih_l0"].T, own["weight_hh_l0"].T, own["bias_ih_l0"] + own["bias_hh_l0"]]
    if kind == "MultiHeadAttention":
        wide, heads = own["out_proj.weight"].shape[0], layer.num_heads
        found = []
        for weight, bias in zip(np.split(own["in_proj_weight"], 3), np.split(own["in_proj_bias"], 3), strict=True):
            found += [weight.T.reshape(wide, heads, -1), bias.reshape(heads, -1)]
        query, key, value = found[:2], found[2:4], found[4:]
        return [*query, *key, *value, own["out_proj.weight"].T.reshape(heads, -1, wide), own["out_proj.bias"]]
    weight = own["weight"]
    if "running_mean" in own:
        return [weight, own["bias"], own["running_mean"], own["running_var"]]
    if kind == "DepthwiseConv2D":  # one output for each channel
        weight = weight.transpose(2, 3, 0, 1)
    elif kind.startswith(("Conv", "Dense")):
        weight = weight.transpose(*range(2, weight.ndim), 1, 0)
    return [weight, own["bias"]] if "bias" in own and getattr(layer, "use_bias", True) else [weight]
