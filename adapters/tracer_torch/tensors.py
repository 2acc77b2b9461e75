"""Tensors in and out of torch: finding them in outputs, and turning them into numpy without changing a bit."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Set
from importlib import import_module
from typing import Any, cast

import numpy as np
import torch

from tracer.adapter import Array, NotRecorded
from tracer.errors import InputError
from tracer.graph import MOST_DIMENSIONS
from tracer.names import display
from tracer.text import described

ml_dtypes: Any = None
with contextlib.suppress(ImportError):  # a worker in another environment may be without
    ml_dtypes = import_module("ml_dtypes")

_DEEPEST = 8
_MOST_OBJECTS = 10_000
_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
"""Bytes of this machine: an expanded tensor may stand for more, which nobody can copy or sum up."""
_DIRECT = frozenset({
    torch.float16, torch.float32, torch.float64, torch.complex64, torch.complex128, torch.bool, torch.uint8, torch.int8,
    torch.int16, torch.int32, torch.int64,
})  # fmt: skip
"""dtypes that numpy has."""
_USUAL = (torch.Tensor, torch.nn.Parameter)
_BITS: dict[torch.dtype, tuple[torch.dtype, Any]] = {}
for _name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"):
    if hasattr(torch, _name) and hasattr(ml_dtypes, _name):
        _bits = torch.uint16 if _name == "bfloat16" else torch.uint8
        _BITS[getattr(torch, _name)] = (_bits, getattr(ml_dtypes, _name))
"""dtypes that numpy lacks: an integer of their width, and their ml_dtypes twin; none where that is not installed."""


@functools.cache
def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float32`` as ``float32``."""
    return str(dtype).removeprefix("torch.")


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape of ``tensor``; nothing for nested ones, which have none."""
    try:
        return tuple(map(int, tensor.shape))
    except (RuntimeError, AttributeError):
        return ()


def walk(value: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors in a module's output with their path (``[1][0]``, ``[logits]``), in order.

    Looks into sequences, mappings and dataclasses; everything else holds none.
    """
    if isinstance(value, torch.Tensor):
        yield path, value
    elif depth < _DEEPEST:
        for key, item in _parts(value) or ():
            yield from walk(item, f"{path}[{key}]", depth + 1)


@dataclasses.dataclass
class Returned:
    """What a module returned: its tensors as :func:`walk` gives them, and the places and types of all else but None.

    Objects of classes that :func:`walk` does not know are looked into as well, but for those in ``passed`` (by id):
    a cache that is handed through a hundred modules is not the output of each.
    """

    value: dataclasses.InitVar[object]
    passed: Set[int] = frozenset()
    tensors: list[tuple[str, torch.Tensor]] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self, value: object) -> None:
        self._seen: set[int] = set(self.passed)
        self._look(value, "", 0)

    def _look(self, value: object, path: str, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            self.tensors.append((path, value))
            return
        parts = _parts(value)
        attributes = _attributes(value) if parts is None and id(value) not in self._seen else None
        found, before = len(self.tensors), len(self.others)
        if depth < _DEEPEST and len(self._seen) < _MOST_OBJECTS:
            self._seen.add(id(value))
            for key, part in parts or attributes or ():
                self._look(part, f"{path}[{key}]", depth + 1)
        if attributes:
            del self.others[before:]
        if parts is None and value is not None and len(self.tensors) == found:
            self.others.append(f"{path} {type(value).__name__}".strip())


def _parts(value: object) -> list[tuple[object, object]] | None:
    """The items of a container with their keys; None for what is none."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(spec.name, getattr(value, spec.name, None)) for spec in dataclasses.fields(value)]
    return None


def _attributes(value: object) -> list[tuple[object, object]] | None:
    """What an object of some class of its own holds; None for modules, functions, classes and torch's settings."""
    if isinstance(value, torch.nn.Module | type) or callable(value) or type(value).__module__ in ("builtins", "torch"):
        return None
    slots = [name for cls in type(value).__mro__ for name in _names(getattr(cls, "__slots__", ()))]
    held = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
    return list({**held, **getattr(value, "__dict__", {})}.items())


def _names(slots: object) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots) if isinstance(slots, tuple | list) else ()


def unfit(tensor: torch.Tensor) -> str | None:
    """Why ``tensor`` has no plain array of numbers behind it; None when it has."""
    placements = getattr(tensor, "placements", None)  # a DTensor's: looked for without importing torch.distributed
    if placements is not None and not all(placement.is_replicate() for placement in placements):
        return f"a shard of a tensor of shape {shape_of(tensor)}: {', '.join(map(str, placements))}"
    if tensor.is_nested:
        return "nested tensor"
    if tensor.is_meta:
        return "meta tensor (no values)"
    if tensor.layout != torch.strided:
        kind = "sparse" if "sparse" in str(tensor.layout) else str(tensor.layout).removeprefix("torch.")
        return f"{kind} tensor"
    if tensor.dim() > MOST_DIMENSIONS:
        return f"tensor of {tensor.dim()} dimensions (at most {MOST_DIMENSIONS} can be stored)"
    if tensor.nbytes > _MEMORY:
        return f"tensor of {tensor.nbytes / 1e9:,.0f} GB, more than this machine's memory"
    if isinstance(tensor, torch._subclasses.FakeTensor):
        return "fake tensor (no values)"
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "tensor inside a torch.func transform (vmap, grad)"
    if ml_dtypes is None and tensor.dtype == torch.bfloat16:
        return "dtype bfloat16 (that Python has no ml_dtypes)"
    if tensor.is_floating_point() and tensor.dtype not in _BITS and tensor.element_size() < 2:
        return f"dtype {dtype_name(tensor.dtype)}"
    return None


def to_array(tensor: torch.Tensor) -> tuple[Array | NotRecorded, bool]:
    """The values of ``tensor`` as they are, and whether nobody else holds their memory.

    Quantized values come as the numbers they stand for. The array may be a view of the tensor's memory (not
    contiguous, not owned).
    """
    if type(tensor) in _USUAL and tensor.dtype in _DIRECT:
        try:
            array = (tensor.detach() if tensor.requires_grad else tensor).numpy()
            if array.nbytes <= _MEMORY:
                return array, False
        except (RuntimeError, TypeError):  # on another device, without values, or to be negated first
            pass
    reason = unfit(tensor)
    if reason is not None:
        return NotRecorded(reason), True
    plain = tensor.detach()
    if hasattr(plain, "placements"):  # a DTensor that every process has whole
        plain = cast(Any, plain).to_local()
    owned = False
    if plain.is_quantized:
        plain, owned = plain.dequantize(), True
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
        what = f"dtype {dtype_name(plain.dtype)}" if type(plain) is torch.Tensor else type(plain).__name__
        return NotRecorded(f"{what} ({type(error).__name__})"), True


def taken(tensor: torch.Tensor) -> tuple[Array | NotRecorded, bool]:
    """:func:`to_array`, which never raises."""
    try:
        return to_array(tensor)
    except Exception as error:
        return NotRecorded(described(error, 120)), True


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
        return tensor._version
    except RuntimeError:
        return -1
