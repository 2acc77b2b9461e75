"""A fifth set of defects, in pairs of networks of other kinds than the fourth's, by another hand.

Each is a mistake that people have reported of a port between Keras and PyTorch, or of one network written again in the
other; where a report was found, it is named. Half of the networks are ported to PyTorch, half to Keras, and each has
correct ports that are written another way as well. benchmarks.causes takes the set with ``--fifth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.fifth import (  # noqa: F401
    codes,
    keras_maps,
    keras_people,
    keras_pictures,
    keras_series,
    labels,
    pictures,
    reading,
    scenes,
    signals,
    tables,
)
from benchmarks.corpus.mutations.fifth.registry import SET

__all__ = ["SET"]
