"""A third set of defects, in small pairs of networks of their own, by a hand that has not seen the engine.

Each is what goes wrong when a network is carried over: an argument left at its default, an axis, an order, a shape
that fits by chance. Every pair has a correct port as well, and some have other correct ways to write it: nothing may
be said of these. benchmarks.causes takes the set with ``--third``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.third import keras_side, pictures, shapes, signals, texts  # noqa: F401
from benchmarks.corpus.mutations.third.registry import SET

__all__ = ["SET"]
