"""What a layer is in the shared words: kind, configuration, layout, parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tracer.graph import Layout, Param
from tracer_keras.flavour import Flavour
from tracer_keras.tree import Paths, weights_of
from tracer_keras.vocabulary import LAYER_KINDS, activation_kind, op_kind, snake, words

_RENAMED = {
    "dilation_rate": "dilation",
    "dims": "permutation",
    "subscripts": "equation",
}
_KEPT = words(
    "filters kernel_size strides padding dilation groups epsilon momentum units alpha negative_slope axis axes "
    "pool_size data_format target_shape permutation return_sequences return_state go_backwards reset_after "
    "recurrent_activation interpolation rate use_bias center scale max_value threshold theta shared_axes "
    "depth_multiplier output_padding input_dim output_dim mask_zero num_heads key_dim value_dim cropping size "
    "repeats merge_mode stateful time_major keepdims offset approximate output_size height width "
    "normalize mask_value dropout recurrent_dropout antialias equation"
)
_NORMS = frozenset({"batchnorm", "layernorm", "groupnorm", "rmsnorm"})
_SPATIAL = ("conv", "depthwise_conv", "separable_conv", "max_pool", "avg_pool", "global_", "adaptive_")


def label_of(layer: Any, flavour: Flavour) -> str:
    """The layer in Keras's own words."""
    symbol = getattr(layer, "symbol", None)
    if type(layer).__name__ == "TFOpLambda":
        return f"tf.{symbol}" if symbol else str(layer.name)
    if not isinstance(layer, flavour.layer_class):
        return f"ops.{type(layer).__name__}"
    return type(layer).__name__


def kind_of(layer: Any, flavour: Flavour) -> str:
    """The kind of a layer or Keras operation; ``other:…`` when the vocabulary has no word for it."""
    if not isinstance(layer, flavour.layer_class):
        return _operation_kind(layer)
    name = type(layer).__name__
    if name == "TFOpLambda":
        return op_kind(str(getattr(layer, "symbol", None) or layer.name))
    if name == "SlicingOpLambda":
        return "slice"
    if name == "Activation":
        return activation_name_kind(layer.activation)
    if name in ("Bidirectional", "TimeDistributed", "SpectralNormalization"):
        inner = getattr(layer, "forward_layer", None) or layer.layer
        return kind_of(inner, flavour)
    if name == "RNN":
        kind = kind_of(layer.cell, flavour)
        return kind.removesuffix("_cell") if kind.endswith("_cell") else f"other:{name}"
    if name == "ReLU":
        return _relu_kind(layer)
    found = next((LAYER_KINDS[cls.__name__] for cls in type(layer).__mro__ if cls.__name__ in LAYER_KINDS), None)
    if found is None:
        return "dropout" if name.endswith(("DropPath", "StochasticDepth")) else f"other:{name}"
    return _by_settings(layer, found)


def _by_settings(layer: Any, kind: str) -> str:
    """What a layer of this kind is with its settings: a convolution with as many groups as channels is depthwise."""
    if kind in ("conv1d", "conv2d", "conv3d") and getattr(layer, "groups", 1) > 1:
        shape = getattr(getattr(layer, "kernel", None), "shape", None)
        return f"depthwise_{kind}" if shape is not None and int(shape[-2]) == 1 else kind
    if kind == "pad":
        return kind if np.any(getattr(layer, "padding", True)) else "identity"
    if kind in ("adaptive_avg_pool", "adaptive_max_pool"):
        one = np.all(np.equal(getattr(layer, "output_size", 0), 1))
        return kind.replace("adaptive", "global") if one else kind
    return kind


def _relu_kind(layer: Any) -> str:
    slope, limit = float(layer.negative_slope or 0), layer.max_value
    if float(layer.threshold or 0):
        return "threshold"
    if slope:
        return "leaky_relu"
    return "relu6" if limit is not None and float(limit) == 6 else "relu"


def _operation_kind(operation: Any) -> str:
    name = type(operation).__name__
    if name == "Reshape" and len(getattr(operation, "newshape", ())) == 2:
        return "flatten"
    parts = _index(operation)
    if parts is not None and None in parts and all(part in (None, ":", "...") for part in parts):
        return "expand_dims"
    nodes = getattr(operation, "_inbound_nodes", ())
    outputs = getattr(nodes[0], "output_tensors", ()) if nodes else ()
    return op_kind(name, len(outputs[0].shape) if outputs else None)


def activation_name_kind(activation: Any) -> str:
    """The kind of a fused activation: a function, or a layer used as one."""
    name = getattr(activation, "__name__", None)
    if name is None:
        cls = type(activation).__name__
        return LAYER_KINDS.get(cls) or activation_kind(snake(cls))
    return "identity" if name == "linear" else activation_kind(name)


def config_of(layer: Any, kind: str, flavour: Flavour) -> dict[str, Any]:
    """What matters for porting, in shared words, as JSON values."""
    try:
        raw = dict(layer.get_config())
    except Exception:  # a custom layer need not have a configuration
        return {}
    nested = raw.get("layer")
    name = type(layer).__name__
    inner = getattr(layer, "forward_layer", None) or getattr(layer, "layer", None) or getattr(layer, "cell", None)
    if isinstance(nested, dict) and inner is not None:
        raw = {**config_of(inner, kind, flavour), **{k: v for k, v in raw.items() if k == "merge_mode"}}
    out: dict[str, Any] = {}
    for key, value in raw.items():
        known = _RENAMED.get(key, key)
        if known in _KEPT and value is not None:
            plain = _json(value)
            if plain is not None:
                out[known] = plain
        elif key in ("activation", "recurrent_activation", "bidirectional", "time_distributed"):
            out[key] = value if isinstance(value, bool) else _activation_name(value)
    if name == "RNN" and inner is not None:
        out = {**config_of(inner, kind, flavour), **out}
    if name == "RepeatVector":
        out["repeats"] = raw.get("n")
    if name == "Bidirectional":
        out["bidirectional"] = True
    if name == "TimeDistributed":
        out["time_distributed"] = True
    if kind == "leaky_relu" and "alpha" in out:
        out["negative_slope"] = out.pop("alpha")
    if name == "Activation":
        out = {**activation_config(layer.activation, kind), **out}
    if isinstance(out.get("approximate"), bool):
        out["approximate"] = "tanh" if out["approximate"] else "none"
    if "axis" in out and isinstance(out["axis"], list) and len(out["axis"]) == 1:
        out["axis"] = out["axis"][0]
    if not isinstance(layer, flavour.layer_class):
        if kind == "permute" and (order := _order(layer)) is not None:
            out = {"permutation": order}
        elif kind in _BINARY and (number := _number(layer)) is not None:
            out["args"] = [number]
        elif kind in ("slice", "expand_dims") and (index := _index(layer)) is not None:
            out["index"] = index
    return out


_BINARY = frozenset({"add", "sub", "mul", "div", "power", "floor_div", "mod", "maximum", "minimum"})


def _given(operation: Any) -> Sequence[Any]:
    """What an operation that is called once is given, by position."""
    nodes: Sequence[Any] = getattr(operation, "_inbound_nodes", ())
    found: Sequence[Any] = getattr(getattr(nodes[0], "arguments", None), "args", ()) if len(nodes) == 1 else ()
    return found


def _index(operation: Any) -> list[Any] | None:
    """The parts of an index, slices as Python writes them; None where one of them is an array."""
    given = _given(operation)
    if type(operation).__name__ != "GetItem" or len(given) != 2:
        return None
    parts = given[1] if isinstance(given[1], tuple) else (given[1],)
    found: list[Any] = []
    for part in parts:
        if isinstance(part, slice):
            ends = [*(part.start, part.stop), *(() if part.step is None else (part.step,))]
            if not all(end is None or isinstance(end, int | np.integer) for end in ends):
                return None
            found.append(":".join("" if end is None else str(int(end)) for end in ends))
        elif part is Ellipsis:
            found.append("...")
        elif part is None or (isinstance(part, int | np.integer) and not isinstance(part, bool)):
            found.append(None if part is None else int(part))
        else:
            return None
    return found


def _number(operation: Any) -> float | int | None:
    """The operand of an operation on one tensor and a number; None where it has no such."""
    given = _given(operation)
    numbers = [value for value in given if isinstance(value, int | float | np.number) and not isinstance(value, bool)]
    return _json(numbers[0]) if len(given) == 2 and len(numbers) == 1 else None


def _order(operation: Any) -> list[int] | None:
    """Which axis of its input each axis of a transposition's output is; None where its rank is not known."""
    nodes = getattr(operation, "_inbound_nodes", ())
    outputs = getattr(nodes[0], "output_tensors", ()) if nodes else ()
    if not outputs:
        return None
    probe = np.broadcast_to(0, range(len(outputs[0].shape)))  # of no size: each axis is known by its length
    moved = {
        "Transpose": lambda: np.transpose(probe, operation.axes),
        "Swapaxes": lambda: np.swapaxes(probe, operation.axis1, operation.axis2),
        "Moveaxis": lambda: np.moveaxis(probe, operation.source, operation.destination),
    }.get(type(operation).__name__)
    return None if moved is None else list(moved().shape)


_ARGUMENTS = frozenset({"alpha", "negative_slope", "max_value", "threshold", "approximate", "axis"})


def activation_config(activation: Any, kind: str) -> dict[str, Any]:
    """What an activation function computes with where its caller gives it nothing but a tensor."""
    try:
        parameters = inspect.signature(activation).parameters
    except (TypeError, ValueError):
        return {}
    known = ((name, parameters[name].default) for name in sorted(_ARGUMENTS & parameters.keys()))
    out = {name: value for name, value in known if isinstance(value, bool | int | float | str)}
    if kind in ("relu", "relu6", "leaky_relu") and "alpha" in out:
        out["negative_slope"] = out.pop("alpha")
    if isinstance(out.get("approximate"), bool):
        out["approximate"] = "tanh" if out["approximate"] else "none"
    return out


def _activation_name(value: Any) -> Any:
    if isinstance(value, dict):
        inner = value.get("config")
        return inner if isinstance(inner, str) else str(value.get("class_name", "custom"))
    return value if isinstance(value, str) else getattr(value, "__name__", None)


def _json(value: Any) -> Any:
    """``value`` as JSON, None where it is none."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        items = [_json(item) for item in value]
        return items if all(item is not None for item in items) else None
    if isinstance(value, dict):
        return None
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return None


def layout_of(layer: Any, kind: str, rank: int | None) -> Layout | None:
    """Where a convolution, pooling or normalisation keeps its channels; None elsewhere."""
    target = getattr(layer, "layer", None) if type(layer).__name__ == "TimeDistributed" else layer
    data_format = getattr(target, "data_format", None)
    if kind.startswith(_SPATIAL) or kind in ("pad", "crop", "upsample", "resize", "dropout"):
        if data_format == "channels_first":
            return "channels_first"
        return "channels_last" if data_format == "channels_last" else None
    if kind in _NORMS and rank is not None and rank > 2:
        axis = getattr(target, "axis", None)
        first = axis[0] if isinstance(axis, (list, tuple)) and len(axis) else axis
        if isinstance(first, int):
            return "channels_last" if first % rank == rank - 1 else "channels_first" if first == 1 else None
    return None


def param(name: str, weight: Any, layer: Any = None) -> Param:
    """The description of one variable of ``layer``; tf_keras freezes the layer, not the variable."""
    dtype = getattr(weight.dtype, "name", None) or str(weight.dtype)
    trainable = bool(getattr(weight, "trainable", True))
    if trainable and layer is not None:
        trainable = any(weight is other for other in layer.trainable_weights)
    return Param(name, tuple(int(d) for d in weight.shape), dtype, trainable)


def inside(layer: Any) -> list[Any]:
    """A layer and the layers that it wraps: cells, both directions."""
    names = ("cell", "cells", "layer", "forward_layer", "backward_layer")
    found = [getattr(layer, name, None) for name in names]
    return [layer, *(deeper for item in found if item is not None for one in _listed(item) for deeper in inside(one))]


def _listed(item: Any) -> list[Any]:
    return list(item) if isinstance(item, (list, tuple)) else [item]


def params_of(layer: Any, flavour: Flavour) -> tuple[Param, ...]:
    """The parameters and buffers that belong to ``layer``'s node."""
    return tuple(param(name, weight, layer) for name, weight in weights_of(layer, flavour))


def weights(paths: Paths) -> Iterator[tuple[str, Param, Any]]:
    """Every weight once: the path of the first layer that has it, its description, and itself."""
    seen: set[int] = set()
    for path, layer in paths.layers():
        for name, weight in weights_of(layer, paths.flavour):
            if id(weight) not in seen:
                seen.add(id(weight))
                yield path, param(name, weight, layer), weight
