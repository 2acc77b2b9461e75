"""Random but realistic weights for Keras models, and carrying them over to PyTorch with every array accounted for."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.corpus.port import Built, Parameter
from tests.zoo.weights import weighted_layers

Twin = str | tuple[str, ...]
"""Where a layer's weights go: a module, or for a separable convolution its depthwise and its pointwise one."""

NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
IMAGE_MEAN, IMAGE_VARIANCE = (0.485, 0.456, 0.406), (0.229**2, 0.224**2, 0.225**2)
"""Of the channels of photographs whose pixels lie between 0 and 1."""
_OTHER_SAMPLES = 6


@dataclass
class Carried:
    """What becomes of a Keras model's weights.

    Attributes:
        twins: Keras layer to PyTorch module.
        rows: for a dense layer behind a flatten, the (height, width, channels) that Keras flattened: PyTorch flattens
            the channels first.
        left_out: Keras layers whose weights have no twin, such as an input's normalisation.
        constant: parameters that only the PyTorch side has, with the value that makes them do nothing.
    """

    twins: Mapping[str, Twin]
    rows: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    constant: Mapping[Parameter, float] = field(default_factory=dict)


def parameter_name(weight: Any) -> str:
    """A Keras weight's name without its layer's."""
    return str(weight.name).split(":")[0].rsplit("/", 1)[-1]


def randomise(model: Any, seed: int) -> None:
    """Give a Keras model the weights a trained one might have.

    Kernels are He-scaled, biases small and not zero, scales uneven. BatchNorm's statistics are those of what reaches
    it, each off by up to a fifth, as if they were of other data: every layer's output stays of the order of one.
    What is drawn depends on the layers' names only.
    """
    layers = weighted_layers(model)
    for path, layer in layers.items():
        rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
        for weight in layer.weights:
            name = parameter_name(weight)
            weight.assign(_draw(rng, type(layer).__name__, name, tuple(weight.shape)))
        if type(layer).__name__ == "Normalization":
            layer.finalize_state()  # it computes with what it derives from its weights
    norms = {path: layer for path, layer in layers.items() if type(layer).__name__ == "BatchNormalization"}
    if norms:
        _calibrate(model, norms, seed)


def _draw(rng: np.random.Generator, layer: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if layer == "Normalization":
        return np.broadcast_to({"mean": IMAGE_MEAN, "variance": IMAGE_VARIANCE, "count": 0}[name], shape)
    if name in {"gamma", "moving_variance"}:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32) * np.float32(0.4 if layer == "LayerScale" else 1)
    values = rng.standard_normal(shape, dtype=np.float32)
    if name == "beta":
        # Most of a ReLU's inputs then pass: half of them at each of a hundred layers would let rounding errors grow.
        return values * np.float32(0.4) + np.float32(0.4)
    if not name.endswith("kernel"):
        return values * np.float32(0.1)
    # A depthwise kernel (height, width, channels, multiplier) sums over its window only.
    depthwise = layer == "DepthwiseConv2D" or name == "depthwise_kernel"
    return values * np.float32(math.sqrt(2 / math.prod(shape[: 2 if depthwise else -1])))


def _calibrate(model: Any, norms: Mapping[str, Any], seed: int) -> None:
    """Set the statistics of each BatchNorm when a batch reaches it, so that the next one sees what that gives.

    The batch holds the images that the models are run on: a deep network strays far on those it was not scaled for.
    """
    written = {path: norm.call for path, norm in norms.items()}
    for path, norm in norms.items():
        object.__setattr__(norm, "call", partial(_calibrating, norm, written[path], path, seed))
    try:
        model(np.concatenate([images(model, 2), images(model, _OTHER_SAMPLES, seed)]), training=False)
    finally:
        for norm in norms.values():
            object.__delattr__(norm, "call")


def _calibrating(norm: Any, call: Any, path: str, seed: int, inputs: Any, *args: Any, **options: Any) -> Any:
    values = np.asarray(inputs, np.float64).reshape(-1, inputs.shape[-1])
    mean, variance = _rounded(values.mean(axis=0)), _rounded(values.var(axis=0))
    # A channel that is zero on these samples has no variance; dividing by it would blow up what others bring.
    variance = np.maximum(variance, 0.02 * variance.max())
    off = np.random.default_rng([seed, 1, zlib.crc32(path.encode())]).uniform(-0.2, 0.2, (2, mean.size))
    norm.moving_mean.assign((mean + off[0] * np.sqrt(variance)).astype(np.float32))
    norm.moving_variance.assign((variance * (1 + off[1])).astype(np.float32))
    return call(inputs, *args, **options)


def _rounded(values: np.ndarray) -> np.ndarray:
    """To three figures: two runs cannot differ by the order of a sum."""
    return np.array([float(f"{value:.3g}") for value in values])


def images(model: Any, samples: int, seed: int = 0) -> np.ndarray:
    """Smooth noise of the model's input shape, float32: neighbours are alike.

    Standard deviation about one; values of pixels where the model itself rescales them.
    """
    rng = np.random.default_rng(seed)
    height, width, channels = model.input_shape[1:]
    coarse = rng.standard_normal((samples, height // 8 + 2, width // 8 + 2, channels))
    smooth = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    fine = rng.standard_normal((samples, height, width, channels))
    noise = 0.8 * smooth + 0.6 * fine
    if any(type(layer).__name__ == "Rescaling" for layer in model.layers):
        noise = np.clip(128 + 64 * noise, 0, 255).round()
    return noise.astype(np.float32)


def carry(reference: Any, candidate: Any, carried: Carried) -> dict[Parameter, Parameter]:
    """Fill a PyTorch module with a Keras model's weights and return which went where.

    Raises AssertionError when a weight of either side is neither carried over nor declared to have no twin, or is
    claimed twice.
    """
    import torch

    layers = weighted_layers(reference)
    left = {path for path in layers if path not in carried.twins}
    assert left == set(carried.left_out), f"no twin for {sorted(left ^ set(carried.left_out))}"
    unknown = set(carried.twins) - set(layers)
    assert not unknown, f"not a layer with weights: {sorted(unknown)}"
    state = {n: t for n, t in candidate.state_dict(keep_vars=True).items() if not n.endswith("num_batches_tracked")}
    parameters: dict[Parameter, Parameter] = {}
    with torch.no_grad():
        for path, twin in carried.twins.items():
            moved = as_torch(layers[path], candidate, twin, carried.rows.get(path))
            for ours, (owner, name), values in moved:
                tensor = state.pop(f"{owner}.{name}" if owner else name)
                assert tuple(tensor.shape) == values.shape, f"{path} {values.shape}, {owner}.{name} {tensor.shape}"
                tensor.copy_(torch.from_numpy(np.array(values)))
                parameters[path, ours] = (owner, name)
        for (owner, name), value in carried.constant.items():
            state.pop(f"{owner}.{name}").fill_(value)
    assert not state, f"nothing goes to {sorted(state)}"
    return parameters


Moved = tuple[str, Parameter, np.ndarray]


def as_torch(layer: Any, candidate: Any, twin: Twin, rows: tuple[int, int, int] | None) -> Iterator[Moved]:
    """A Keras layer's weights: their names there, where they go, and their values as PyTorch has them."""
    kind = type(layer).__name__
    arrays = {parameter_name(weight): np.asarray(weight) for weight in layer.weights}
    if kind == "SeparableConv2D":
        depthwise, pointwise = twin
        yield "depthwise_kernel", (depthwise, "weight"), _depthwise(arrays.pop("depthwise_kernel"))
        yield "pointwise_kernel", (pointwise, "weight"), arrays.pop("pointwise_kernel").transpose(3, 2, 0, 1)
        yield from (("bias", (pointwise, "bias"), values) for values in arrays.values())
        return
    assert isinstance(twin, str), f"one twin for {layer.name}, not {twin}"
    if kind in {"BatchNormalization", "LayerNormalization"}:
        yield from ((name, (twin, NORM[name]), values) for name, values in arrays.items())
        return
    if kind == "LayerScale":
        owner, _, name = twin.rpartition(".")
        (values,) = arrays.values()
        yield "gamma", (owner, name), values.reshape(candidate.get_parameter(twin).shape)
        return
    assert kind in {"Conv2D", "DepthwiseConv2D", "Dense"}, kind
    kernel = arrays.pop("kernel")
    if kind == "DepthwiseConv2D":
        kernel = _depthwise(kernel)
    else:
        if rows is not None:
            kernel = kernel.reshape(*rows, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        kernel = kernel.transpose(-1, -2, *range(kernel.ndim - 2))
    wanted = candidate.get_submodule(twin).weight.shape
    if kernel.ndim != len(wanted):  # a 1×1 convolution is a linear layer over the channels
        kernel = kernel.reshape(kernel.shape[:2] + (1,) * (len(wanted) - 2))
    yield "kernel", (twin, "weight"), kernel
    yield from ((name, (twin, name), values) for name, values in arrays.items())


def _depthwise(kernel: np.ndarray) -> np.ndarray:
    height, width, channels, multiplier = kernel.shape
    return kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)


def ported(reference: Any, candidate: Any, carried: Carried, *, seed: int, samples: int = 2) -> Built:
    """Both models with the reference's new random weights, in evaluation mode."""
    randomise(reference, seed)
    parameters = carry(reference, candidate, carried)
    candidate.eval()
    return Built(reference, candidate, images(reference, samples), parameters=parameters)


def disagreement(built: Built) -> float:
    """Largest difference of the outputs of a pair of image networks over the reference's largest output."""
    import torch

    ours = np.asarray(built.reference(built.inputs, training=False))
    with torch.inference_mode():
        theirs = built.candidate(torch.from_numpy(np.ascontiguousarray(np.moveaxis(built.inputs, -1, 1)))).numpy()
    assert ours.shape == theirs.shape, f"{ours.shape} and {theirs.shape}"
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())
