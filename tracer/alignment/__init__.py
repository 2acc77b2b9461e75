"""Pairing the nodes of two recordings."""

from tracer.alignment.engine import align
from tracer.alignment.result import Alignment, Ambiguous, Pair

__all__ = ["Alignment", "Ambiguous", "Pair", "align"]
