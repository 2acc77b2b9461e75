"""Settings that two nodes both state in their adapters' words and that differ: a quick look, without their graphs."""

from __future__ import annotations

import math
from typing import Any

from tracer.graph import Node

_NOT_SAID = frozenset(
    {
        "data_format",
        "axis",
        "permutation",
        "name",
        "args",
        "activation",
        "batch_first",
        "momentum",
        "rate",
        "in_features",
        "dropout",
        "recurrent_dropout",
        "weight_norm",
    }
)
"""Configuration that differs between right ports (layout), or is shown elsewhere (activations are nodes)."""


def differences(ours: Node, theirs: Node) -> list[tuple[str, Any, Any]]:
    """Settings that both nodes state and that differ: (name, reference's, candidate's)."""
    shared = [key for key in ours.config if key in theirs.config and key not in _NOT_SAID]
    return [(k, ours.config[k], theirs.config[k]) for k in shared if not _same(k, ours.config[k], theirs.config[k])]


def _taken(index: Any) -> list[str]:
    """The parts of an index that leave something out, whichever axes they are of: these are the layout's matter."""
    parts = (
        part.removeprefix("0") if str(part).startswith("0:") else str(part)
        for part in _as_list(index)
        if part is not None
    )
    return sorted(part for part in parts if part not in (":", "..."))


def _same(key: str, a: Any, b: Any) -> bool:
    if key == "padding" and (isinstance(a, str) or isinstance(b, str)):
        return True  # "same" against numbers says nothing by itself
    if key == "index":
        x, y = _taken(a), _taken(b)
        return x == y or any("-" in part for part in (*x, *y))  # counted from the end it may be the same
    if isinstance(a, list | tuple) or isinstance(b, list | tuple):
        x, y = _as_list(a), _as_list(b)
        length = max(len(x), len(y))
        x, y = (v * length if len(v) == 1 else v for v in (x, y))
        return len(x) == len(y) and all(_same(key, p, q) for p, q in zip(x, y, strict=True))
    if isinstance(a, float | int) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-6)
    return bool(a == b)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
