"""Comparing two recordings, from the trace alone."""

from tracer.compare.diff import Diff, diff
from tracer.compare.pair import PairDiff
from tracer.compare.places import words_of
from tracer.compare.stats import Stats
from tracer.compare.verdict import Tolerance, Verdict

__all__ = ["Diff", "PairDiff", "Stats", "Tolerance", "Verdict", "diff", "words_of"]
