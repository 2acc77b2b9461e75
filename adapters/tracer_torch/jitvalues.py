"""TorchScript's own values: lists, dicts, tuples, strings and type tests.

Its operators on containers cannot be called through torch's registry without copying the container, and what they
change must stay changed; so these few are Python's.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


class Unsupported(Exception):
    """What cannot be run step by step; its text names it."""


@dataclass(slots=True, eq=False)
class Instance:
    """An object of a TorchScript class made while a graph runs; its attributes live here."""

    object: Any
    fields: dict[str, Any] = field(default_factory=dict)


UNSET = object()
"""Stands for ``prim::Uninitialized``: never read by a graph that is right."""


@dataclass(frozen=True, slots=True)
class Native:
    """An operation done in Python; ``always`` also where it has a tensor among its arguments."""

    compute: Callable[[Sequence[Any]], Any]
    always: bool

    def __call__(self, args: Sequence[Any]) -> Any:
        return self.compute(args)


def native(kind: str, outputs: int) -> Native | None:
    """How to do ``kind`` in Python; None where torch does it."""
    if kind in ("prim::TupleUnpack", "prim::ListUnpack"):
        return Native((lambda a: _same_number(a[0], outputs)) if outputs != 1 else (lambda a: a[0][0]), True)
    if kind in _ALWAYS:
        return Native(_ALWAYS[kind], True)
    if kind in _CONTAINERS:
        return Native(_CONTAINERS[kind], False)
    return None


def _same_number(values: Sequence[Any], count: int) -> Sequence[Any]:
    if len(values) != count:
        raise ValueError(f"expected {count} values, not {len(values)}")
    return values


def raised(message: object, qualified: object = None) -> BaseException:
    """The exception that a graph raises; of a class of its own where Python has none of that name."""
    name = str(qualified or "").removeprefix("builtins.")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        return kind(str(message))
    return RuntimeError(str(message))


def _raise(args: Sequence[Any]) -> None:
    raise raised(*args[:2])


def _pairs(args: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(args[::2], args[1::2], strict=True))


def _get(args: Sequence[Any]) -> Any:
    return args[0].get(args[1], args[2] if len(args) > 2 else None)


def _set(args: Sequence[Any]) -> Any:
    args[0][args[1]] = args[2]
    return args[0]


def _delete(args: Sequence[Any]) -> None:
    del args[0][args[1]]


def _changed(change: Callable[..., Any]) -> Callable[[Sequence[Any]], Any]:
    def run(args: Sequence[Any]) -> Any:
        change(*args)
        return args[0]

    return run


def _slice(args: Sequence[Any]) -> Any:
    if isinstance(args[0], torch.Tensor):
        raise Unsupported("aten::slice of a tensor of unknown type")
    start, end, step = (*args[1:], *(None,) * 3)[:3]
    return args[0][start:end:step]


def _sort(args: Sequence[Any]) -> None:
    args[0].sort(reverse=bool(args[1]) if len(args) > 1 else False)


def _percent(args: Sequence[Any]) -> str:
    return str(args[0] % tuple(args[1:]))


def _format(args: Sequence[Any]) -> str:
    text, *values = args
    parts = str(text).split("{}")
    shown = [str(value) for value in values] + [""] * len(parts)
    return "".join(part + (shown[i] if i < len(parts) - 1 else "") for i, part in enumerate(parts))


_ALWAYS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "prim::ListConstruct": list,
    "prim::TupleConstruct": tuple,
    "prim::DictConstruct": _pairs,
    "prim::TupleIndex": lambda a: a[0][a[1]],
    "prim::Uninitialized": lambda a: UNSET,
    "prim::unchecked_cast": operator.itemgetter(0),
    "prim::unchecked_unwrap_optional": operator.itemgetter(0),
    "aten::_unwrap_optional": operator.itemgetter(0),
    "prim::RaiseException": _raise,
    "prim::Print": lambda a: None,
    "prim::ModuleContainerIndex": lambda a: a[0]._modules[str(a[1])],
    "prim::annotate": operator.itemgetter(0),
    "aten::wait": operator.itemgetter(0),
    "aten::warn": lambda a: None,
    "aten::format": _format,
    "aten::percentFormat": _percent,
    "aten::__is__": lambda a: a[0] is a[1],
    "aten::__isnot__": lambda a: a[0] is not a[1],
    "aten::append": _changed(list.append),
    "aten::extend": _changed(list.extend),
    "aten::insert": _changed(list.insert),
    "aten::_set_item": _set,
    "aten::Delete": _delete,
    "aten::__getitem__": lambda a: a[0][a[1]],
    "aten::dict": lambda a: dict(*a),
    "aten::keys": lambda a: list(a[0]),
    "aten::values": lambda a: list(a[0].values()),
    "aten::items": lambda a: list(a[0].items()),
    "aten::get": _get,
    "aten::setdefault": lambda a: a[0].setdefault(*a[1:]),
    "aten::update": _changed(dict.update),
}
_CONTAINERS: dict[str, Callable[[Sequence[Any]], Any]] = {
    "aten::add": lambda a: a[0] + a[1],
    "aten::add_": _changed(list.extend),
    "aten::mul": lambda a: a[0] * a[1],
    "aten::eq": lambda a: a[0] == a[1],
    "aten::ne": lambda a: a[0] != a[1],
    "aten::len": lambda a: len(a[0]),
    "aten::pop": lambda a: a[0].pop(*a[1:]),
    "aten::popitem": lambda a: a[0].popitem(),
    "aten::clear": lambda a: a[0].clear(),
    "aten::remove": lambda a: a[0].remove(a[1]),
    "aten::reverse": lambda a: a[0].reverse(),
    "aten::sort": _sort,
    "aten::copy": lambda a: a[0].copy(),
    "aten::list": lambda a: list(a[0]),
    "aten::slice": _slice,
    "aten::__contains__": lambda a: a[1] in a[0],
}
"""Operators that torch has for tensors under the same name."""


def is_instance(value: Any, types: Sequence[Any], static: Any) -> bool:
    """``prim::isinstance``: whether ``value``, known to the compiler as ``static``, is of one of ``types``."""
    return any(static.isSubtypeOf(wanted) or _is(value, wanted) for wanted in types)


_PLAIN: dict[str, tuple[type, ...]] = {
    "TensorType": (torch.Tensor,), "StringType": (str,), "NoneType": (type(None),), "BoolType": (bool,),
    "FloatType": (float,), "AnyListType": (list,), "AnyTupleType": (tuple,), "AnyType": (object,),
    "DeviceObjType": (torch.device,), "ComplexType": (complex,), "AnyClassType": (Instance,),
}  # fmt: skip


def _is(value: Any, wanted: Any) -> bool:
    kind = wanted.kind()
    if kind in _PLAIN:
        return isinstance(value, _PLAIN[kind])
    if kind in ("IntType", "NumberType"):
        plain = (int,) if kind == "IntType" else (int, float, complex)
        return isinstance(value, plain) and not isinstance(value, bool)
    inner = wanted.containedTypes()
    if kind == "OptionalType":
        return value is None or _is(value, inner[0])
    if kind == "ListType":
        return isinstance(value, list) and all(_is(item, inner[0]) for item in value)
    if kind == "DictType":
        return isinstance(value, dict) and all(_is(k, inner[0]) and _is(v, inner[1]) for k, v in value.items())
    if kind == "TupleType":
        same = isinstance(value, tuple) and len(value) == len(inner)
        return same and all(_is(item, part) for item, part in zip(value, inner, strict=True))
    raise Unsupported(f"isinstance(…, {kind})")
