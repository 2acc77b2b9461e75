"""Tensors in and out of torch: finding them in outputs, and turning them into numpy without changing a bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import torch

from tracer.adapter import Array, NotRecorded
from tracer.errors import InputError
from tracer.names import display

_DEEPEST = 8
_BITS: dict[torch.dtype, tuple[torch.dtype, Any]] = {torch.bfloat16: (torch.uint16, ml_dtypes.bfloat16)}
for _name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"):
    if hasattr(torch, _name) and hasattr(ml_dtypes, _name):
        _BITS[getattr(torch, _name)] = (torch.uint8, getattr(ml_dtypes, _name))
"""dtypes that numpy lacks: an integer of their width, and their ml_dtypes twin."""


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` as ``float32``."""
    return str(dtype).removeprefix("torch.")


def walk(value: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in a module's output with their path (``[1][0]``, ``[logits]``), in order.

    Looks into sequences, mappings and dataclasses; everything else holds none.
    """
    if isinstance(value, torch.Tensor):
        yield path, value
    elif depth >= _DEEPEST:
        return
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk(item, f"{path}[{key}]", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}[{index}]", depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for spec in dataclasses.fields(value):
            yield from walk(getattr(value, spec.name, None), f"{path}[{spec.name}]", depth + 1)


def unfit(tensor: torch.Tensor) -> str | None:
    """Why ``tensor`` has no plain array of numbers behind it; None when it has."""
    if tensor.is_nested:
        return "nested tensor"
    if tensor.is_meta:
        return "meta tensor (no values)"
    if tensor.is_quantized:
        return "quantized tensor"
    if tensor.layout != torch.strided:
        kind = "sparse" if "sparse" in str(tensor.layout) else str(tensor.layout).removeprefix("torch.")
        return f"{kind} tensor"
    if isinstance(tensor, torch._subclasses.FakeTensor):
        return "fake tensor (no values)"
    if tensor.is_floating_point() and tensor.dtype not in _BITS and tensor.element_size() < 2:
        return f"dtype {dtype_name(tensor.dtype)}"
    return None


def to_array(tensor: torch.Tensor) -> tuple[Array | NotRecorded, bool]:
    """The values of ``tensor`` as they are, and whether nobody else holds their memory.

    The array may be a view of the tensor's memory (not contiguous, not owned).
    """
    reason = unfit(tensor)
    if reason is not None:
        return NotRecorded(reason), True
    plain = tensor.detach()
    owned = False
    if plain.is_conj() or plain.is_neg():
        plain, owned = plain.resolve_conj().resolve_neg(), True
    if plain.device.type != "cpu":
        plain, owned = plain.cpu(), True
    bits = _BITS.get(plain.dtype)
    try:
        if bits is None:
            return np.asarray(plain.numpy()), owned
        return plain.view(bits[0]).numpy().view(bits[1]), owned
    except Exception as error:
        return NotRecorded(f"dtype {dtype_name(plain.dtype)} ({type(error).__name__})"), True


def from_array(name: str, array: Array, device: torch.device) -> torch.Tensor:
    """A tensor with a copy of ``array``, so that a model working in place does not change the caller's.

    Raises InputError for values torch has no type for.
    """
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
    for dtype, (bits, twin) in _BITS.items():
        if native.dtype == np.dtype(twin):
            return torch.from_numpy(native.view(dtype_name(bits))).view(dtype).to(device)
    try:
        return torch.from_numpy(native).to(device)
    except TypeError:
        raise InputError(f"input '{display(name)}' has type {array.dtype}, which torch has not") from None


def version(tensor: torch.Tensor) -> int:
    """How often ``tensor`` was changed in place; -1 where torch does not count."""
    try:
        return int(tensor._version)
    except RuntimeError:
        return -1
