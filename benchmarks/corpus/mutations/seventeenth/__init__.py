"""A seventeenth set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; many have been reported: what is bent
before or behind a norm, a sum or a depthwise kernel (darts#329, ghostnet.pytorch#21, Compact-Transformers#25), a sum
that adds something to itself or is left out (vnet-tensorflow#12, delira#91), epsilons and means that one side leaves
to its framework (wide-resnet.pytorch#9), the last softmax (EEG-Conformer#10), padding, flattening, gates. Half of the
networks are small ones of what is carried over most in vision, medicine and audio, half in text, series,
recommendation, tables, graphs and science, all ported to PyTorch, each with correct ports that are written another way
as well. benchmarks.causes takes the set with ``--seventeenth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.seventeenth import (  # noqa: F401
    clinics,
    items,
    pictures,
    reading,
    salient,
    science,
    series,
    sounds,
    texts,
    voices,
)
from benchmarks.corpus.mutations.seventeenth.registry import SET

__all__ = ["SET"]
