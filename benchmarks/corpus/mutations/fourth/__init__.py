"""A fourth set of defects, in pairs of networks of other kinds than the third's, by another hand.

Each is a mistake that people have reported of a port between Keras and PyTorch: on forums, in the issues of
repositories that carry a network over, in the notes of those who did. Every pair has correct ports that are written
another way as well. benchmarks.causes takes the set with ``--fourth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.fourth import (  # noqa: F401
    keras_pictures,
    keras_texts,
    pictures,
    signals,
    sound,
    speech,
    tables,
    texts,
    twins,
)
from benchmarks.corpus.mutations.fourth.registry import SET

__all__ = ["SET"]
