"""Pairing the nodes of two recordings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.lazy import exports

if TYPE_CHECKING:
    from tracer.alignment.engine import align
    from tracer.alignment.result import Alignment, Ambiguous, Pair

__all__ = ["Alignment", "Ambiguous", "Pair", "align"]

__getattr__, __dir__ = exports(
    __name__,
    {
        "align": "tracer.alignment.engine",
        **dict.fromkeys(("Alignment", "Ambiguous", "Pair"), "tracer.alignment.result"),
    },
)
