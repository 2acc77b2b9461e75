"""torch's operators (``aten::conv2d``) in the terms of the Python functions whose calls :mod:`functions` describes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tracer_torch import shadows
from tracer_torch.functions import ASKING, name_of

_ENDLESS = 1 << 62
"""Ends of slices from here on are no ends."""
ASSIGNING = frozenset({"aten::copy_", "aten::fill_"})
"""What ``x[…] = y`` writes with."""
_RENAMED = {
    "select": "slice", "slice": "slice", "index": "slice", "index_put": "setitem",
    "constant_pad_nd": "pad", "numpy_T": "T", "matrix_H": "H", "_softmax": "softmax", "_log_softmax": "log_softmax",
    "_unsafe_view": "view", "_reshape_alias": "reshape", "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_adaptive_avg_pool3d": "adaptive_avg_pool3d", "native_dropout": "dropout",
}  # fmt: skip
for _rank in ("1d", "2d", "3d"):
    _RENAMED[f"reflection_pad{_rank}"] = _RENAMED[f"replication_pad{_rank}"] = "pad"


class Function:
    """Stands for a Python function in a recording: named as it is, and called as the operator behind it.

    ``line`` is the place of the next call in the model's own source, if known.
    """

    def __init__(self, name: str, module: str, call: Callable[..., Any]) -> None:
        self.__name__ = name
        self.__qualname__ = name
        self.__module__ = module
        self.line: str | None = None
        self._call = call
        self._actual: Sequence[Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._actual is not None:
            actual, self._actual = self._actual, None
            return self._call(*actual)
        return self._call(*args, **kwargs)

    def run(self, args: Sequence[Any], actual: Sequence[Any], line: str | None) -> Any:
        """Call with ``actual``, shown to who watches torch's functions as a call with ``args``."""
        if not torch._C._is_torch_function_mode_enabled():
            return self._call(*actual)
        self.line, self._actual = line, actual
        try:
            return torch.overrides.handle_torch_function(self, (), *args)
        finally:
            self.line = self._actual = None


Call = tuple[Function, tuple[Any, ...]]


def plain_name(operator: str) -> str:
    """``conv2d`` for ``aten::conv2d``; in-place twins have the name of the operator itself."""
    name = operator.rpartition("::")[2]
    if name.startswith("__") or name == "_":
        return name
    return name.rstrip("_") or name


def _unfused(name: str) -> str:
    return _RENAMED.get(name, name.removesuffix("_dynamic").removesuffix("_relu"))


def _tensors(value: object) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, list) and isinstance(next(iter(value), 0), torch.Tensor)
    )


def asks(operator: str) -> bool:
    """Whether it only asks something of a tensor (its shape, its type)."""
    return plain_name(operator).strip("_") in ASKING


@functools.lru_cache(maxsize=4096)
def _function(name: str, call: Callable[..., Any], space: str) -> Function:
    return Function(name, f"torch.ops.{space}", call)


def recorded_name(operator: str) -> str:
    """The name its node has in a recording."""
    name = plain_name(operator)
    if "upsample" in name:
        name = "interpolate"
    return name_of(_function(_unfused(name), plain_name, "aten"))


def described(
    operator: str,
    call: Callable[..., Any],
    names: Sequence[str],
    defaults: Sequence[Any],
    args: Sequence[Any],
) -> Call:
    """The call of an operator as that of the Python function it stands for: function and arguments.

    ``names`` and ``defaults`` are the schema's, ``args`` positional.
    """
    space, _, _ = operator.rpartition("::")
    name = plain_name(operator)
    given = dict(zip(names, args, strict=False))
    if space == "quantized":  # scales and packed weights are told by what comes of them
        return _function(_unfused(name), call, space), tuple(arg for arg in args if _tensors(arg))
    if name in ("_convolution", "convolution"):
        return _convolution(call, space, given)
    if "upsample_" in name:
        size, scale = given.get("output_size"), given.get("scale_factors")
        target = _function("interpolate", call, space)
        aligned = given.get("align_corners")
        return target, (args[0], size, scale, shadows.interpolation(name), aligned)
    if name in ("slice", "select", "index"):
        return _function("slice", call, space), (args[0], _index(name, args))
    if name == "index_put":
        return _function("__setitem__", call, space), (args[0], _parts(args[1]), args[2])
    if name.startswith(("reflection_pad", "replication_pad")):
        mode = "reflect" if name.startswith("reflection") else "replicate"
        return _function("pad", call, space), (args[0], args[1], mode)
    if name == "constant_pad_nd":
        return _function("pad", call, space), (args[0], args[1], "constant", args[2] if len(args) > 2 else 0.0)
    if name == "conv_tbc" or "conv" not in name:
        args = _without_defaults(args, names, defaults)
    args = list(args)
    if name.startswith(("max_pool", "avg_pool")) and len(args) > 2 and args[2] == []:
        args[2] = args[1]
    if name in ("mean", "sum", "amax", "amin", "std", "var") and len(args) > 1 and _single(args[1]):
        args[1] = args[1][0]
    # The name of what changes its argument tells so: what it was is kept then, to be put back.
    end = "_" if operator.endswith("_") and not operator.endswith("__") else ""
    return _function(_RENAMED.get(name, name) + end, call, space), tuple(args)


def _single(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 1


def _without_defaults(args: Sequence[Any], names: Sequence[str], defaults: Sequence[Any]) -> list[Any]:
    """``args`` up to the last one that says something: who wrote the code will not have written the rest."""
    kept = list(args)
    while len(kept) > 1:
        place, last = len(kept) - 1, kept[-1]
        if place >= len(names):
            break
        default = defaults[place]
        same = last is None or (not isinstance(last, torch.Tensor) and default is not None and last == default)
        if not same and not (names[place] == "alpha" and last == 1):
            break
        kept.pop()
    return kept


def _parts(indices: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(slice(None) if part is None else part for part in indices)


def _index(name: str, args: Sequence[Any]) -> tuple[Any, ...]:
    """The index in the brackets (``x[:, 0]``) that an operator is."""
    if name == "index":
        return _parts(args[1])
    axis = int(args[1])
    lead: tuple[Any, ...] = (slice(None),) * axis if axis >= 0 else (Ellipsis,)
    tail = (slice(None),) * (-1 - axis) if axis < 0 else ()
    if name == "select":
        return (*lead, args[2], *tail)
    start, end, step = (*args[2:], None, None, None)[:3]
    end = None if isinstance(end, int) and end >= _ENDLESS else end
    return (*lead, slice(start or None, end, None if step == 1 else step), *tail)


def index_of(operator: str, args: Sequence[Any]) -> tuple[Any, ...] | None:
    """The index in the brackets that an indexing operator is; None where there are none for it."""
    name = plain_name(operator)
    if name == "unsqueeze":
        return None if args[1] < 0 else (*(slice(None),) * args[1], None)
    return _index(name, args)


def joined_index(first: tuple[Any, ...], then: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    """One index for two in turn; None where that cannot be written."""
    if then is None or any(part is Ellipsis for part in (*first, *then)):
        return None if first or then is None else then
    out: list[Any] = []
    later = list(then)
    every = slice(None)
    for part in first:
        if isinstance(part, int):
            out.append(part)  # took an axis away: what comes then does not count it
            continue
        while later and later[0] is None:
            out.append(later.pop(0))
        if not later:
            out.append(part)
            continue
        now = later.pop(0)
        if part is None:
            if not _same(now, every):
                return None
            out.append(None)
        elif _same(part, every):
            out.append(now)
        elif _same(now, every):
            out.append(part)
        else:
            return None
    return (*out, *later)


def _same(part: object, other: slice) -> bool:
    return isinstance(part, slice) and part == other


def indexing(
    operator: str, call: Callable[..., Any], source: Any, before: tuple[Any, ...], args: Sequence[Any]
) -> Call:
    """The last operator of one indexing expression as ``x[…]`` or ``x[…] = y`` of the tensor that it began with."""
    if operator in ASSIGNING:
        return _function("__setitem__", call, "aten"), (source, before, args[1])
    joined = joined_index(before, index_of(operator, args))
    return _function("slice", call, "aten"), (source, joined if joined is not None else before)


def takes_all(operator: str, start: Any, end: Any, step: Any) -> bool:
    """Whether a slice takes whatever is there: the first step of ``x[:, 0]``."""
    endless = end is None or (isinstance(end, int) and end >= _ENDLESS)
    return plain_name(operator) == "slice" and start in (None, 0) and endless and step in (None, 1)


def _convolution(call: Callable[..., Any], space: str, given: dict[str, Any]) -> Call:
    weight = given.get("weight")
    rank = weight.dim() - 2 if isinstance(weight, torch.Tensor) else len(given.get("stride", (0, 0)))
    common = tuple(given.get(key) for key in ("input", "weight", "bias", "stride", "padding"))
    if given.get("transposed"):
        rest = (given.get("output_padding"), given.get("groups"), given.get("dilation"))
        return _function(f"conv_transpose{rank}d", call, space), (*common, *rest)
    rest = (given.get("dilation"), given.get("groups"), None)
    return _function(f"conv{rank}d", call, space), (*common, *rest[:2])


def python_function(name: str, call: Callable[..., Any], args: Sequence[Any]) -> Call:
    """The call of a function of torch's in Python (``torch.nn.functional.interpolate``)."""
    module, _, last = name.rpartition(".")
    last = last.lstrip("_")
    own = getattr(torch.nn.functional, last, None)
    try:
        defaults = [p.default for p in inspect.signature(own).parameters.values()] if own is not None else []
    except (TypeError, ValueError):
        defaults = []
    kept = list(args)
    while len(kept) > 1:
        place, value = len(kept) - 1, kept[-1]
        default = defaults[place] if place < len(defaults) else None
        if isinstance(value, torch.Tensor) or (value is not None and value != default):
            break
        kept.pop()
    return _named(last, module, call), tuple(kept)


@functools.lru_cache(maxsize=4096)
def _named(name: str, module: str, call: Callable[..., Any]) -> Function:
    return Function(name, module, call)
