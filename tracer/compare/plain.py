"""Statistics, and what they are of, as JSON values, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tracer.alignment.arrange import Rearrangement
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
    found = _reader(Stats)(raw)
    assert isinstance(found, Stats)
    return found


def plain_pairs(alignment: Alignment) -> dict[str, Any]:
    """What an alignment says about nodes as JSON values; not what it says about parameters, and not why."""
    return {name: _plain(getattr(alignment, name)) for name in _ABOUT_NODES}


def pairs_from_plain(raw: Any) -> Alignment:
    """The inverse of :func:`plain_pairs`. Raises TypeError, ValueError, KeyError or IndexError for anything else."""
    hints = _hints(Alignment)
    found = Alignment(**{name: _reader(hints[name])(raw[name]) for name in _ABOUT_NODES})
    for pair in found.pairs:
        _ = str(pair.arrangement)  # of numbers that need not fit together
    return found


def pairs_from_record(raw: Any) -> Alignment:
    """What :meth:`Alignment.to_json` keeps of an alignment. Raises as :func:`pairs_from_plain`, and AttributeError."""
    pairs = [{**pair, "what": "", "arrangement": _arranged(pair["arrangement"])} for pair in raw["pairs"]]
    lonely = {f"unmatched_{side}": raw["unmatched"][side] for side in ("reference", "candidate")}
    return pairs_from_plain({"pairs": pairs, **lonely, "ambiguous": [], "outputs": []})


def _arranged(raw: Any) -> Any:
    return None if raw is None else _plain(Rearrangement.parse(raw["pattern"], raw["lengths"]))


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
def _reader(kind: Any) -> Callable[[Any], Any]:
    """What makes ``raw`` into what a field's annotation asks for; made once, for a large comparison has 100,000."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:
        (some,) = (_reader(choice) for choice in arguments if choice is not NoneType)
        return lambda raw: None if raw is None else some(raw)
    if origin is Literal:
        return partial(_one_of, arguments)
    if origin is Mapping:
        return partial(_table, _reader(arguments[1]))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return partial(_list, arguments[0] is float, _reader(arguments[0]))
        return partial(_row, [_reader(one) for one in arguments])
    if is_dataclass(kind):
        assert isinstance(kind, type)
        fields_ = [(name, _reader(hint)) for name, hint in _hints(kind).items()]
        return lambda raw: kind(**{name: read(raw[name]) for name, read in fields_})
    return _float if kind is float else partial(_plain_value, kind)


def _one_of(choices: tuple[Any, ...], raw: Any) -> Any:
    if raw not in choices:
        raise ValueError(f"{raw!r} is none of {choices}")
    return raw


def _table(read: Callable[[Any], Any], raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise TypeError("a table is wanted")
    return {key: read(item) for key, item in raw.items()}


def _list(floats: bool, read: Callable[[Any], Any], raw: Any) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise TypeError("a list is wanted")
    if floats and all(type(item) is float for item in raw):
        return tuple(raw)  # the profiles: nearly all there is
    return tuple(map(read, raw))


def _row(parts: Sequence[Callable[[Any], Any]], raw: Any) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise TypeError("a list is wanted")
    return tuple(read(item) for read, item in zip(parts, raw, strict=True))


def _float(raw: Any) -> float:
    if type(raw) is float:
        return raw
    if isinstance(raw, str) and raw in ("inf", "-inf", "nan"):
        return float(raw)
    if not isinstance(raw, int | float) or isinstance(raw, bool):
        raise TypeError("float is wanted")
    return float(raw)


def _plain_value(kind: type, raw: Any) -> Any:
    if not isinstance(raw, kind) or (isinstance(raw, bool) and kind is not bool):
        raise TypeError(f"{kind.__name__} is wanted")
    return kind(raw)
