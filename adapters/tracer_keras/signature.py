"""The inputs of a model: what it states, whether given arrays fit, and how they are passed to the call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from tracer.adapter import Array, InputSpec
from tracer.errors import InputError
from tracer.graph import Layout
from tracer_keras.describe import kind_of
from tracer_keras.flavour import Flavour, tensorflow

_CONTEXT = frozenset({"training", "mask", "self", "args", "kwargs"})
_CHANNELED = ("conv", "depthwise_conv", "separable_conv", "max_pool", "avg_pool", "global_", "adaptive_")


def shown(spec: InputSpec) -> str:
    """``name (batch, 28, 28, 1) float32``"""
    if spec.shape is None:
        return f"{spec.name} {spec.dtype}"
    sizes = ", ".join("?" if size is None else str(size) for size in spec.shape)
    return f"{spec.name} ({sizes}) {spec.dtype}"


@dataclass(frozen=True)
class Signature:
    """The inputs of one model.

    Attributes:
        specs: what the user is told.
        dtypes: what the model's call is given, per input.
        form: how the tensors are packed: the functional model's own structure, one argument, a list or a mapping
            in the first argument, or one argument each.
        packing: what ``form`` needs: the input structure, or the argument names.
        stated: whether the model itself states shapes.
        optional: further arguments of the call that are passed on where they are given.
    """

    specs: tuple[InputSpec, ...]
    dtypes: tuple[str | None, ...]
    form: Literal["structure", "arguments", "list", "mapping"]
    packing: Any
    stated: bool
    optional: tuple[InputSpec, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.specs)

    @classmethod
    def of(cls, model: Any, flavour: Flavour) -> Signature:
        """The signature of ``model`` as it is now; building it later does not change it."""
        if flavour.is_functional(model):
            return _functional(model, flavour)
        return _subclassed(model, flavour)

    def given(self, inputs: Mapping[str, Array]) -> Signature:
        """The signature with those of the optional inputs that are among ``inputs``."""
        more = [
            replace(spec, dtype=str(np.asarray(inputs[spec.name]).dtype))
            for spec in self.optional
            if spec.name in inputs
        ]
        if not more:
            return self
        names = (*self.packing, *(spec.name for spec in more))
        dtypes = (*self.dtypes, *(None,) * len(more))
        return replace(self, specs=(*self.specs, *more), dtypes=dtypes, packing=names)

    def pack(self, tensors: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the model's call."""
        if self.form == "structure":
            return (_fill(self.packing, iter(tensors)),), {}
        if self.form == "list":
            return (list(tensors),), {}
        if self.form == "mapping":
            return (dict(zip(self.packing, tensors, strict=True)),), {}
        return (tensors[0],), dict(zip(self.packing[1:], tensors[1:], strict=True))

    def check(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The arrays in the order of the signature. Raises InputError where one does not fit."""
        wrong = [*(n for n in self.names if n not in inputs), *(n for n in inputs if n not in self.names)]
        if wrong:
            expected = ", ".join(shown(spec) for spec in self.specs)
            raise InputError(f"the model's inputs are {expected}; given: {', '.join(inputs) or 'none'}")
        return {spec.name: _fitting(spec, np.asarray(inputs[spec.name])) for spec in self.specs}

    def tensors(self, arrays: Mapping[str, Array]) -> list[Any]:
        """The arrays as the tensors that the model wants."""
        tf = tensorflow()
        out = []
        for spec, dtype in zip(self.specs, self.dtypes, strict=True):
            value = arrays[spec.name]
            wanted = dtype or spec.dtype
            if wanted != "string" and str(value.dtype) != wanted:
                value = value.astype(tf.as_dtype(wanted).as_numpy_dtype)
            out.append(tf.constant(value))
        return out


def _fitting(spec: InputSpec, array: Array) -> Array:
    given = f"given ({', '.join(map(str, array.shape))}) {array.dtype}"
    if spec.shape is not None:
        fits = len(spec.shape) == array.ndim and all(
            want is None or want == have for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(f"the model takes {shown(spec)}; {given}")
    if spec.dtype == "string":
        if array.dtype.kind not in "USO":
            raise InputError(f"the model takes {shown(spec)}; {given}")
        return array
    if array.dtype.kind in "USOMm" or (array.dtype.kind == "c" and not spec.dtype.startswith("complex")):
        raise InputError(f"the model takes {shown(spec)}; {given}")
    if np.dtype(spec.dtype if spec.dtype != "bfloat16" else "float32").kind in "iu" and array.dtype.kind == "f":
        whole = array.astype(spec.dtype)
        if not np.array_equal(whole, array):
            raise InputError(f"the model takes whole numbers: {shown(spec)}; {given}")
        array = whole
    if spec.maximum is not None and array.size:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > spec.maximum:
            raise InputError(f"input '{spec.name}' holds {low}…{high}; the embedding takes 0…{spec.maximum}")
    return array


# -- functional models -----------------------------------------------------------------------------------------


def _functional(model: Any, flavour: Flavour) -> Signature:
    specs, dtypes, ids = [], [], []
    for tensor in model.inputs:
        history = tensor._keras_history
        layer = getattr(history, "layer", None) or getattr(history, "operation", None) or history[0]
        shape = tuple(None if size is None else int(size) for size in tensor.shape)
        dtype = getattr(tensor.dtype, "name", None) or str(tensor.dtype)
        consumers = _consumers(layer, model, flavour)
        maximum = _maximum(consumers)
        layout = _layout(consumers, shape, flavour)
        told = "int32" if maximum is not None and not dtype.startswith(("int", "uint")) else dtype
        specs.append(InputSpec(str(layer.name), shape, told, maximum, layout))
        dtypes.append(dtype)
        ids.append(id(tensor))
    inner = getattr(model, "_functional", None) or model
    structure = getattr(inner, "_inputs_struct", None)
    if structure is None:
        structure = getattr(model, "_nested_inputs", None)
    order = [id(leaf) for leaf in _leaves(structure)]
    packing: Any = _marked(structure, ids) if sorted(order) == sorted(ids) else list(range(len(ids)))
    if len(ids) == 1 and isinstance(packing, list):
        packing = packing[0]
    return Signature(tuple(specs), tuple(dtypes), "structure", packing, True)


def _leaves(structure: Any) -> list[Any]:
    if isinstance(structure, Mapping):
        return [leaf for item in structure.values() for leaf in _leaves(item)]
    if isinstance(structure, (list, tuple)):
        return [leaf for item in structure for leaf in _leaves(item)]
    return [] if structure is None else [structure]


def _marked(structure: Any, ids: list[int]) -> Any:
    """The structure with each tensor replaced by its number among the inputs."""
    if isinstance(structure, Mapping):
        return {key: _marked(item, ids) for key, item in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [_marked(item, ids) for item in structure]
    return ids.index(id(structure))


def _fill(packing: Any, tensors: Any) -> Any:
    values = list(tensors)

    def place(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: place(value) for key, value in item.items()}
        return [place(value) for value in item] if isinstance(item, list) else values[item]

    return place(packing)


def _consumers(layer: Any, model: Any, flavour: Flavour, depth: int = 0) -> list[Any]:
    """The layers that read an input, looking into nested models."""
    found: list[Any] = []
    inside = {id(item) for item in getattr(getattr(model, "_functional", None) or model, "_operations", model.layers)}
    for node in getattr(layer, "_outbound_nodes", ()):
        consumer = getattr(node, "operation", None) or getattr(node, "layer", None)
        if consumer is None or id(consumer) not in inside:
            continue
        if flavour.is_functional(consumer) and depth < 8:
            for tensor in consumer.inputs:
                found.extend(_consumers(tensor._keras_history[0], consumer, flavour, depth + 1))
        elif type(consumer).__name__ == "Masking":
            found.extend(_consumers(consumer, model, flavour, depth + 1) if depth < 8 else [])
        else:
            found.append(consumer)
    return found


def _maximum(consumers: list[Any]) -> int | None:
    sizes = [int(c.input_dim) - 1 for c in consumers if type(c).__name__ == "Embedding"]
    return min(sizes) if sizes else None


def _layout(consumers: list[Any], shape: tuple[int | None, ...], flavour: Flavour) -> Layout | None:
    for consumer in consumers:
        if kind_of(consumer, flavour).startswith(_CHANNELED):
            first = getattr(consumer, "data_format", None) == "channels_first"
            return "channels_first" if first else "channels_last"
    return "channels_last" if len(shape) >= 3 else None


# -- models written as classes ---------------------------------------------------------------------------------


def _subclassed(model: Any, flavour: Flavour) -> Signature:
    names, further = _arguments(model)
    shapes = _build_shapes(model, flavour)
    dtype = _input_dtype(model, flavour)
    first = names[0]
    known = shapes.get("input_shape", shapes.get(f"{first}_shape", next(iter(shapes.values()), None)))
    said = _said(model)
    if isinstance(known, Mapping):
        specs = tuple(_spec(str(key), shape, said.get(str(key), (None, dtype))[1]) for key, shape in known.items())
        return Signature(specs, (None,) * len(specs), "mapping", tuple(known), True)
    if isinstance(known, (list, tuple)) and known and isinstance(known[0], (list, tuple)):
        specs = tuple(_spec(f"{first}_{i}", shape, dtype) for i, shape in enumerate(known))
        return Signature(specs, (None,) * len(specs), "list", None, True)
    specs = tuple(
        _spec(name, *said.get(name, (known if name == first else shapes.get(f"{name}_shape"), dtype))) for name in names
    )
    optional = tuple(InputSpec(name, None) for name in further)
    return Signature(specs, (None,) * len(specs), "arguments", names, known is not None or first in said, optional)


def _said(model: Any) -> dict[str, tuple[Any, str]]:
    """Shapes and types by argument, of a model that states them as TensorSpecs (transformers does)."""
    stated = getattr(model, "input_signature", None)
    if not isinstance(stated, Mapping):
        return {}
    return {
        str(name): (tuple(spec.shape), spec.dtype.name)
        for name, spec in stated.items()
        if isinstance(spec, tensorflow().TensorSpec) and spec.shape.rank is not None
    }


def _spec(name: str, shape: Any, dtype: str) -> InputSpec:
    if shape is None:
        return InputSpec(name, None, dtype)
    sizes = tuple(None if size is None else int(size) for size in shape)
    if sizes:
        # The batch a model was built with does not bind it.
        sizes = (None, *sizes[1:])
    return InputSpec(name, sizes, dtype, None, "channels_last" if len(sizes) >= 3 else None)


def _arguments(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The call's arguments that must be tensors: the first, and further ones without a default; and those that may."""
    try:
        parameters = list(inspect.signature(model.call).parameters.values())
    except (TypeError, ValueError):
        return ("inputs",), ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    usable = [p for p in parameters if p.name not in _CONTEXT and p.kind in kinds]
    names = [p.name for i, p in enumerate(usable) if i == 0 or p.default is inspect.Parameter.empty]
    further = [p.name for p in usable if p.name not in names and p.default is None]
    return tuple(names) or ("inputs",), tuple(further)


def _build_shapes(model: Any, flavour: Flavour) -> dict[str, Any]:
    """The shapes the model was built with, by argument of ``build``."""
    if flavour.legacy:
        shape = getattr(model, "_build_input_shape", None)
        if shape is None:
            return {}
        return {"input_shape": _plain_shape(shape)}
    found = getattr(model, "_build_shapes_dict", None)
    if found:
        return {key: shape for key, shape in dict(found).items() if shape is not None}
    if getattr(model, "built", False) and found is not None:
        # build() ran on its own default.
        default = inspect.signature(type(model).build).parameters.get("input_shape")
        if default is not None and isinstance(default.default, tuple):
            return {"input_shape": default.default}
    return {}


def _plain_shape(shape: Any) -> Any:
    if hasattr(shape, "as_list"):
        return tuple(shape.as_list())
    if isinstance(shape, Mapping):
        return {key: _plain_shape(item) for key, item in shape.items()}
    if isinstance(shape, (list, tuple)) and any(
        hasattr(item, "as_list") or isinstance(item, (list, tuple)) for item in shape
    ):
        return [_plain_shape(item) for item in shape]
    return tuple(shape)


def _input_dtype(model: Any, flavour: Flavour) -> str:
    dtype = getattr(model, "variable_dtype", None) or "float32"
    return dtype if isinstance(dtype, str) else "float32"
