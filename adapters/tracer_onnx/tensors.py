"""Element types and tensors between ONNX, onnxruntime and numpy, without changing a bit."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from tracer.adapter import Array, NotRecorded
from tracer.errors import InputError
from tracer.names import display

_PLAIN: dict[int, str] = {
    TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8", TensorProto.INT8: "int8", TensorProto.UINT16: "uint16",
    TensorProto.INT16: "int16", TensorProto.INT32: "int32", TensorProto.INT64: "int64", TensorProto.BOOL: "bool",
    TensorProto.FLOAT16: "float16", TensorProto.DOUBLE: "float64", TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64", TensorProto.COMPLEX64: "complex64", TensorProto.COMPLEX128: "complex128",
}  # fmt: skip
_REDUCED: dict[int, str] = {
    TensorProto.BFLOAT16: "bfloat16", TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    TensorProto.FLOAT8E4M3FNUZ: "float8_e4m3fnuz", TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
}  # fmt: skip
_FOUR_BITS: dict[int, bool] = {TensorProto.INT4: True, TensorProto.UINT4: False}
"""Two elements a byte, the lower half first; whether signed."""
_BITS: dict[int, int] = {
    TensorProto.FLOAT4E2M1: 4,
    getattr(TensorProto, "INT2", -1): 2,
    getattr(TensorProto, "UINT2", -2): 2,
}


def type_name(element: int) -> str:
    """The name of an element type: numpy's or ml_dtypes's, else ONNX's own in lower case."""
    known = _PLAIN.get(element) or _REDUCED.get(element)
    if known is None and element in TensorProto.DataType.values():
        known = TensorProto.DataType.Name(element).lower()
    return known or f"type {element}"


def passable(element: int) -> bool:
    """Whether onnxruntime takes arrays of this element type from numpy's memory."""
    return element in _PLAIN or element in _REDUCED


def element_bits(element: int) -> int | None:
    """Bits that an element takes; None for text."""
    if element in _FOUR_BITS:
        return 4
    if element in _BITS:
        return _BITS[element]
    name = _PLAIN.get(element)
    if name is not None:
        return 8 * int(np.dtype(name).itemsize)
    if element in _REDUCED:
        return 16 if element == TensorProto.BFLOAT16 else 8
    return 8 if element not in (TensorProto.STRING, TensorProto.UNDEFINED) else None


def stored_name(element: int) -> str:
    """The element type under which a tensor is handed over: four-bit integers become ``int8`` and ``uint8``."""
    if element in _FOUR_BITS:
        return "int8" if _FOUR_BITS[element] else "uint8"
    return type_name(element)


def to_array(value: onnxruntime.OrtValue) -> Array | NotRecorded:
    """What onnxruntime computed as an array over its own memory; four-bit integers are unpacked."""
    if not value.has_value():
        return NotRecorded("an optional that is empty")
    if not value.is_tensor():
        return NotRecorded(f"not a tensor: {value.data_type()}")
    element, shape = value.element_type(), tuple(value.shape())
    if element in _PLAIN:
        return np.asarray(value.numpy())
    if element not in _REDUCED and element not in _FOUR_BITS:
        return NotRecorded(f"elements of type {type_name(element)}")
    count = math.prod(shape)
    size = count if element in _FOUR_BITS else count * (element_bits(element) or 8) // 8
    size = (size + 1) // 2 if element in _FOUR_BITS else size
    raw: Array = np.zeros(size, np.uint8)
    if size:
        ctypes.memmove(raw.ctypes.data, value.data_ptr(), size)
    if element in _REDUCED:
        reduced: Array = raw.view(getattr(ml_dtypes, _REDUCED[element])).reshape(shape)
        return reduced
    return unpacked(raw, count, signed=_FOUR_BITS[element]).reshape(shape)


def unpacked(raw: Array, count: int, *, signed: bool) -> Array:
    """Four-bit integers, two a byte, as ``int8`` or ``uint8``."""
    halves = np.stack([raw & 0xF, raw >> 4], axis=-1).reshape(-1)[:count]
    return ((halves ^ 8).astype(np.int8) - np.int8(8)) if signed else halves


def plain(array: Array) -> Array:
    """ml_dtypes's four-bit integers as ``int8`` and ``uint8``; everything else as it is."""
    return array.astype({"int4": np.int8, "uint4": np.uint8}.get(array.dtype.name, array.dtype), copy=False)


def to_value(name: str, array: Array) -> onnxruntime.OrtValue:
    """An array for onnxruntime. Raises InputError for element types it has not."""
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
    for element, known in _REDUCED.items():
        if native.dtype.name == known:
            bits = native.view(np.uint16 if element == TensorProto.BFLOAT16 else np.uint8)
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, element)
    try:
        return onnxruntime.OrtValue.ortvalue_from_numpy(native)
    except Exception as error:
        raise InputError(f"'{display(name)}' has type {array.dtype}, which onnxruntime does not take") from error


def proto_array(tensor: TensorProto) -> Array:
    """The values of a tensor in the file. Raises InputError when they do not fill its shape."""
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except Exception as error:
        raise InputError(f"damaged weight '{display(tensor.name, 80)}': its data does not fill its shape") from error


def type_proto(value: onnxruntime.OrtValue) -> Any:
    """The type of a computed value, with its rank, for an input of a further session.

    Not with its lengths: a branch that is not taken need not fit them, and would be refused.
    """
    if value.is_tensor():
        return helper.make_tensor_type_proto(value.element_type(), [None] * len(value.shape()))
    return parsed(value.data_type())


_WORDS = {"float": TensorProto.FLOAT, "double": TensorProto.DOUBLE}


def type_word(element: int) -> str:
    """The type of a tensor with such elements as onnxruntime writes it: ``tensor(float)``."""
    return f"tensor({TensorProto.DataType.Name(element).lower()})"


def parsed(text: str) -> Any:
    """A type as onnxruntime writes it, ``seq(tensor(float))`` as a TypeProto."""
    head, _, rest = text.partition("(")
    inner = rest[:-1]
    if head == "tensor":
        element = _WORDS.get(inner) or TensorProto.DataType.Value(inner.upper())
        return helper.make_tensor_type_proto(element, None)
    make = {"seq": helper.make_sequence_type_proto, "optional": helper.make_optional_type_proto}[head]
    return make(parsed(inner))
