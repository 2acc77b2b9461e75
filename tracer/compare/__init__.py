"""Comparing two recordings, from the trace alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.lazy import exports

if TYPE_CHECKING:
    from tracer.compare.comparing import Diff, diff
    from tracer.compare.pair import PairDiff
    from tracer.compare.places import words_of
    from tracer.compare.stats import Stats
    from tracer.compare.verdict import Tolerance, Verdict

__all__ = ["Diff", "PairDiff", "Stats", "Tolerance", "Verdict", "diff", "words_of"]

__getattr__, __dir__ = exports(
    __name__,
    {
        **dict.fromkeys(("Diff", "diff"), "tracer.compare.comparing"),
        "PairDiff": "tracer.compare.pair",
        "Stats": "tracer.compare.stats",
        **dict.fromkeys(("Tolerance", "Verdict"), "tracer.compare.verdict"),
        "words_of": "tracer.compare.places",
    },
)
