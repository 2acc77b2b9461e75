"""Pairing the nodes of two recordings."""

from tracer.alignment.engine import Alignment, Pair, align

__all__ = ["Alignment", "Pair", "align"]
