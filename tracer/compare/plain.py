"""Statistics, and what they are of, as JSON values, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tracer.alignment.result import Alignment
from tracer.compare.stats import Stats

_ABOUT_NODES = ("pairs", "unmatched_reference", "unmatched_candidate", "ambiguous", "outputs")


def to_plain(stats: Stats) -> dict[str, Any]:
    """JSON values; infinities as text."""
    found = _plain(stats)
    assert isinstance(found, dict)
    return found


def from_plain(raw: Any) -> Stats:
    """The inverse of :func:`to_plain`. Raises TypeError, ValueError or KeyError for anything else."""
    found = _read(Stats, raw)
    assert isinstance(found, Stats)
    return found


def plain_pairs(alignment: Alignment) -> dict[str, Any]:
    """What an alignment says about nodes as JSON values; not what it says about parameters, and not why."""
    return {name: _plain(getattr(alignment, name)) for name in _ABOUT_NODES}


def pairs_from_plain(raw: Any) -> Alignment:
    """The inverse of :func:`plain_pairs`. Raises TypeError, ValueError or KeyError for anything else."""
    hints = _hints(Alignment)
    return Alignment(**{name: _read(hints[name], raw[name]) for name in _ABOUT_NODES})


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _form(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(kind), get_args(kind)


def _read(kind: Any, raw: Any) -> Any:
    """``raw`` as what a field's annotation asks for."""
    if kind is float and type(raw) is float:
        return raw
    origin, arguments = _form(kind)
    if origin is UnionType:
        (kind,) = (choice for choice in arguments if choice is not NoneType)
        return None if raw is None else _read(kind, raw)
    if origin is Literal:
        if raw not in arguments:
            raise ValueError(f"{raw!r} is none of {arguments}")
        return raw
    if origin is Mapping:
        if not isinstance(raw, dict):
            raise TypeError("a table is wanted")
        return {key: _read(arguments[1], item) for key, item in raw.items()}
    if origin is tuple:
        if not isinstance(raw, list):
            raise TypeError("a list is wanted")
        if arguments == (float, Ellipsis) and all(type(item) is float for item in raw):
            return tuple(raw)  # the profiles: nearly all there is
        kinds = [arguments[0]] * len(raw) if arguments[-1] is Ellipsis else arguments
        return tuple(_read(one, item) for one, item in zip(kinds, raw, strict=True))
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return kind(**{name: _read(hint, raw[name]) for name, hint in _hints(kind).items()})
    if kind is float and raw in ("inf", "-inf", "nan"):
        return float(raw)
    wanted = (int, float) if kind is float else kind
    if not isinstance(raw, wanted) or (isinstance(raw, bool) and kind is not bool):
        raise TypeError(f"{kind.__name__} is wanted")
    return kind(raw)
