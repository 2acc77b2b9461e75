"""Operators that onnxruntime has in single precision only, computed in double precision with numpy.

What onnx's own reference computes in double precision, and fast, is left to it; its Erf and its Gelu round to single
precision, its convolutions, pools and resizings walk over every output in Python.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from tracer.adapter import Array

Kernel = Callable[[Sequence[Array | None]], Sequence[Array]]
"""Takes an operator's inputs in their order, None where one is left out, and gives its outputs."""

_REFERENCE = frozenset(
    {"Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Col2Im", "Cosh", "Det", "Elu", "HardSigmoid",
     "HardSwish", "Hardmax", "LeakyRelu", "Mean", "Mish", "NonZero", "OneHot", "PRelu", "Selu", "Shrink", "Sinh",
     "Softplus", "Softsign", "Tan", "ThresholdedRelu"}
)  # fmt: skip
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_DEFAULTS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}


def kernel(node: NodeProto, header: ModelProto) -> Kernel | None:
    """What computes ``node`` in double precision; None where nothing here does."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    attributes = {name: v.decode() if isinstance(v, bytes) else v for name, v in attributes.items()}
    kind = node.op_type
    if node.domain not in ("", "ai.onnx"):
        return _CONTRIBUTED.get((node.domain, kind))
    if kind in _RECURRENT:
        return _reference(node, header) if _plain_recurrence(node, attributes) else None
    if kind in _REFERENCE or (kind == "Gelu" and attributes.get("approximate") == "tanh"):
        return _reference(node, header)
    made = _OWN.get(kind)
    return made(attributes, len(node.output)) if made is not None else None


def _plain_recurrence(node: NodeProto, attributes: dict[str, Any]) -> bool:
    """Whether the reference knows all that this recurrent layer is told to do: it passes over the rest in silence."""
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    usual = _DEFAULTS[node.op_type] * ways
    named = [name.decode().lower() for name in attributes.get("activations", [])] or usual
    lengths = node.input[4] if len(node.input) > 4 else ""
    told = attributes.keys() & {"clip", "activation_alpha", "activation_beta"}
    return named == usual and not lengths and not told and not attributes.get("layout") and not attributes.get(
        "input_forget"
    )  # fmt: skip


def _reference(node: NodeProto, header: ModelProto) -> Kernel:
    from onnx.reference import ReferenceEvaluator  # which is long to import, and rarely wanted

    model = ModelProto()
    model.CopyFrom(header)
    model.graph.name = "one"
    model.graph.node.append(node)
    taken = [name for name in dict.fromkeys(node.input) if name]
    given = [name for name in node.output if name]
    model.graph.input.extend(ValueInfoProto(name=name) for name in taken)
    model.graph.output.extend(ValueInfoProto(name=name) for name in given)
    evaluator = ReferenceEvaluator(model)

    def run(inputs: Sequence[Array | None]) -> Sequence[Array]:
        feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        with np.errstate(all="ignore"):
            found = dict(zip(given, evaluator.run(given, feeds), strict=True))
        return [np.asarray(found[name]) for name in node.output if name]

    return run


# --- windows ---------------------------------------------------------------------------------------------------


def _pads(attributes: dict[str, Any], shape: Sequence[int], kernel_: Sequence[int]) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis."""
    rank = len(shape)
    automatic = attributes.get("auto_pad", "NOTSET")
    strides, dilations = _steps(attributes, rank)
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
            for n, s, k, d in zip(shape, strides, kernel_, dilations, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        return (less, more) if automatic == "SAME_UPPER" else (more, less)
    pads = list(attributes.get("pads", ())) if automatic == "NOTSET" else []
    pads = pads or [0] * (2 * rank)
    return pads[:rank], pads[rank:]


def _steps(attributes: dict[str, Any], rank: int) -> tuple[list[int], list[int]]:
    return list(attributes.get("strides") or [1] * rank), list(attributes.get("dilations") or [1] * rank)


def _window(offset: Sequence[int], strides: Sequence[int], counts: Sequence[int]) -> tuple[Any, ...]:
    """Where the element of every window lies that has this offset in it."""
    return _at([slice(o, o + (n - 1) * s + 1, s) for o, s, n in zip(offset, strides, counts, strict=True)])


def _at(spatial: Sequence[Any]) -> tuple[Any, ...]:
    """An index of the last axes alone."""
    return ..., *spatial


def _offsets(kernel_: Sequence[int], dilations: Sequence[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Each place in the kernel, and how far it lies from the window's start."""
    places = itertools.product(*(range(k) for k in kernel_))
    return [(place, tuple(p * d for p, d in zip(place, dilations, strict=True))) for place in places]


def _padded(x: Array, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Array:
    widths = [(0, 0), (0, 0), *zip(before, after, strict=True)]
    return np.pad(x, widths, constant_values=value) if any(map(any, widths)) else x


def _conv(attributes: dict[str, Any], _outputs: int) -> Kernel:
    def run(inputs: Sequence[Array | None]) -> Sequence[Array]:
        x, w = _given(inputs, 0), _given(inputs, 1)
        size, groups = w.shape[2:], attributes.get("group", 1)
        before, after = _pads(attributes, x.shape[2:], size)
        strides, dilations = _steps(attributes, len(size))
        x = _padded(x, before, after)
        counts = [
            (n - (k - 1) * d - 1) // s + 1
            for n, k, d, s in zip(x.shape[2:], size, dilations, strides, strict=True)
        ]  # fmt: skip
        if x.shape[1] != w.shape[1] * groups or min(counts, default=1) < 1:
            raise ValueError(f"an input of shape {x.shape} does not go with a weight of shape {w.shape}")
        filters = w.shape[0] // groups
        split = w.reshape(groups, filters, *w.shape[1:])
        out = np.zeros((len(x), groups, filters, math.prod(counts)))
        for place, offset in _offsets(size, dilations):
            part = x[_window(offset, strides, counts)].reshape(len(x), groups, w.shape[1], -1)
            factor = np.ascontiguousarray(split[_at(place)])  # only such matrices go to BLAS
            # A product of matrices with one column each is slow.
            out += factor * part if w.shape[1] == 1 else factor @ part
        out = out.reshape(len(x), w.shape[0], *counts)
        return [_biased(out, inputs)]

    return run


def _conv_transpose(attributes: dict[str, Any], _outputs: int) -> Kernel | None:
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attributes:
        return None

    def run(inputs: Sequence[Array | None]) -> Sequence[Array]:
        x, w = _given(inputs, 0), _given(inputs, 1)
        size, groups = w.shape[2:], attributes.get("group", 1)
        before, after = _pads(attributes, x.shape[2:], size)
        strides, dilations = _steps(attributes, len(size))
        extra = attributes.get("output_padding") or [0] * len(size)
        if x.shape[1] != w.shape[0]:
            raise ValueError(f"an input of shape {x.shape} does not go with a weight of shape {w.shape}")
        whole = [
            (n - 1) * s + (k - 1) * d + 1 + e
            for n, s, k, d, e in zip(x.shape[2:], strides, size, dilations, extra, strict=True)
        ]
        parts = x.reshape(len(x), groups, -1, math.prod(x.shape[2:]))
        split = w.reshape(groups, w.shape[0] // groups, *w.shape[1:])
        out = np.zeros((len(x), groups * w.shape[1], *whole))
        for place, offset in _offsets(size, dilations):
            made = np.ascontiguousarray(np.swapaxes(split[_at(place)], 1, 2)) @ parts
            out[_window(offset, strides, x.shape[2:])] += made.reshape(len(x), -1, *x.shape[2:])
        ends = [n - a for n, a in zip(whole, after, strict=True)]
        out = out[_at([slice(b, e) for b, e in zip(before, ends, strict=True)])]
        return [_biased(out, inputs)]

    return run


def _biased(out: Array, inputs: Sequence[Array | None]) -> Array:
    bias = inputs[2] if len(inputs) > 2 else None
    return out if bias is None else out + bias.reshape(-1, *[1] * (out.ndim - 2))


def _average(attributes: dict[str, Any], _outputs: int) -> Kernel | None:
    if attributes.get("ceil_mode"):
        return None

    def run(inputs: Sequence[Array | None]) -> Sequence[Array]:
        x = _given(inputs, 0)
        size = list(attributes["kernel_shape"])
        before, after = _pads(attributes, x.shape[2:], size)
        strides, dilations = _steps(attributes, len(size))
        included = bool(attributes.get("count_include_pad"))
        count = _padded(np.ones((1, 1, *x.shape[2:])), before, after, float(included))
        x = _padded(x, before, after)
        counts = [
            (n - (k - 1) * d - 1) // s + 1
            for n, k, d, s in zip(x.shape[2:], size, dilations, strides, strict=True)
        ]  # fmt: skip
        windows = [_window(offset, strides, counts) for _, offset in _offsets(size, dilations)]
        return [sum(x[window] for window in windows) / sum(count[window] for window in windows)]

    return run


def _global(reduce: Callable[..., Any]) -> Callable[[dict[str, Any], int], Kernel]:
    def made(_attributes: dict[str, Any], _outputs: int) -> Kernel:
        return lambda inputs: [
            reduce(_given(inputs, 0), axis=tuple(range(2, _given(inputs, 0).ndim)), keepdims=True)
        ]  # fmt: skip

    return made


# --- elementwise and normalisation -----------------------------------------------------------------------------


def erf(x: Array) -> Array:
    """The error function, to the last bits of double precision."""
    return np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size).reshape(x.shape)


def _gelu(x: Array) -> Array:
    out: Array = x / 2 * (1 + erf(x / math.sqrt(2)))
    return out


def _elementwise(function: Callable[[Array], Array]) -> Callable[[dict[str, Any], int], Kernel]:
    return lambda _attributes, _outputs: lambda inputs: [function(_given(inputs, 0))]


def _instance(attributes: dict[str, Any], _outputs: int) -> Kernel:
    def run(inputs: Sequence[Array | None]) -> Sequence[Array]:
        x, scale, bias = (_given(inputs, place) for place in range(3))
        axes, shape = tuple(range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
        centred = x - x.mean(axes, keepdims=True)
        variance = np.square(centred).mean(axes, keepdims=True)
        normal = centred / np.sqrt(variance + attributes.get("epsilon", np.float64(np.float32(1e-5))))
        return [normal * scale.reshape(shape) + bias.reshape(shape)]

    return run


def _local_response(attributes: dict[str, Any], _outputs: int) -> Kernel:
    size = attributes["size"]
    alpha, beta = attributes.get("alpha", 1e-4), attributes.get("beta", 0.75)
    before, after = (size - 1) // 2, size // 2

    def run(inputs: Sequence[Array | None]) -> Sequence[Array]:
        x = _given(inputs, 0)
        square = np.pad(np.square(x), [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
        total = sum(square[:, k : k + x.shape[1]] for k in range(size))
        return [x / np.power(attributes.get("bias", 1.0) + alpha / size * total, beta)]

    return run


# --- resizing --------------------------------------------------------------------------------------------------


def _resize(attributes: dict[str, Any], _outputs: int) -> Kernel | None:
    way = attributes.get("coordinate_transformation_mode", "half_pixel")
    mode = attributes.get("mode", "nearest")
    if (
        way not in _COORDINATES
        or attributes.get("antialias")
        or attributes.get("exclude_outside")
        or attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch"
        or (mode == "nearest" and way == "half_pixel_symmetric")  # whose last bits are not those of one formula
    ):
        return None

    def run(inputs: Sequence[Array | None]) -> Sequence[Array]:
        x = _given(inputs, 0)
        scales, sizes = (inputs[k] if len(inputs) > k else None for k in (2, 3))
        axes = [axis % x.ndim for axis in attributes.get("axes") or range(x.ndim)]
        for place, axis in enumerate(axes):
            old = x.shape[axis]
            if sizes is not None and sizes.size:
                new = int(sizes[place])
                scale = np.float32(new) / np.float32(old)
            else:
                scale = np.float32(_given([scales], 0)[place])
                new = math.floor(old * scale)
            if new == old and scale == 1:
                continue
            if mode == "nearest":
                x = np.take(x, _nearest(old, new, scale, attributes), axis)
            else:
                exact = float(scale) if sizes is None or not sizes.size else new / old
                x = np.moveaxis(np.tensordot(_weights(old, new, exact, attributes), x, (1, axis)), 0, axis)
        return [np.ascontiguousarray(x)]

    return run


_COORDINATES: dict[str, Callable[[Array, int, int, float], Array]] = {
    "half_pixel": lambda i, old, new, scale: (i + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda i, old, new, scale: (i + 0.5) / scale - 0.5 if new > 1 else i * 0.0,
    "asymmetric": lambda i, old, new, scale: i / scale,
    "align_corners": lambda i, old, new, scale: i * (old - 1) / (new - 1) if new > 1 else i * 0.0,
    "half_pixel_symmetric": lambda i, old, new, scale: (
        old / 2 * (1 - new / (scale * old)) + (i + 0.5) / scale - 0.5
    ),
}  # fmt: skip


def _nearest(old: int, new: int, scale: Any, attributes: dict[str, Any]) -> Array:
    """The place that each new one copies: in single precision, since a last bit decides between two."""
    way = attributes.get("coordinate_transformation_mode", "half_pixel")
    x = _COORDINATES[way](np.arange(new, dtype=np.float32), old, new, scale)
    rounding = attributes.get("nearest_mode", "round_prefer_floor")
    if rounding.startswith("round"):
        low = np.floor(x)
        tie = low if rounding.endswith("floor") else low + 1
        x = np.where(x - low == 0.5, tie, np.floor(x + np.float32(0.5)))
    else:
        x = np.floor(x) if rounding == "floor" else np.ceil(x)
    return np.clip(x, 0, old - 1).astype(np.int64)


def _weights(old: int, new: int, scale: float, attributes: dict[str, Any]) -> Array:
    """What each of the ``new`` places takes of each of the ``old`` ones."""
    way = attributes.get("coordinate_transformation_mode", "half_pixel")
    x = _COORDINATES[way](np.arange(new, dtype=np.float64), old, new, scale)
    out, rows = np.zeros((new, old)), np.arange(new)
    if attributes["mode"] == "linear":
        x = np.clip(x, 0, old - 1)
    base = np.floor(x).astype(np.int64)
    part = x - base
    if attributes["mode"] == "linear":
        taken = {0: 1 - part, 1: part}
    else:
        a = attributes.get("cubic_coeff_a", -0.75)
        far, near = part + 1, 2 - part
        taken = {
            -1: ((a * far - 5 * a) * far + 8 * a) * far - 4 * a,
            0: ((a + 2) * part - (a + 3)) * part**2 + 1,
            1: ((a + 2) * (1 - part) - (a + 3)) * (1 - part) ** 2 + 1,
            2: ((a * near - 5 * a) * near + 8 * a) * near - 4 * a,
        }
    for step, weight in taken.items():
        np.add.at(out, (rows, np.clip(base + step, 0, old - 1)), weight)
    return out


def _given(inputs: Sequence[Array | None], place: int) -> Array:
    value = inputs[place]
    if value is None:
        raise ValueError(f"input {place} is missing")
    return value


_OWN: dict[str, Callable[[dict[str, Any], int], Kernel | None]] = {
    "AveragePool": _average,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Erf": _elementwise(erf),
    "Gelu": _elementwise(_gelu),
    "GlobalAveragePool": _global(np.mean),
    "GlobalMaxPool": _global(np.max),
    "InstanceNormalization": _instance,
    "LRN": _local_response,
    "Resize": _resize,
}
_CONTRIBUTED: dict[tuple[str, str], Kernel] = {
    ("com.microsoft", "Gelu"): lambda inputs: [_gelu(_given(inputs, 0))],
    ("com.microsoft", "BiasGelu"): lambda inputs: [_gelu(_given(inputs, 0) + _given(inputs, 1))],
}
