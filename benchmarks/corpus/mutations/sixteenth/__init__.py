"""A sixteenth set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; many have been reported: which axis a
mean is taken over (keras-io#845, keras-io#1876), means over padding (transformers#17463, keras#2897), an epsilon that
one side leaves to its framework (transformers#15332, transformers#1089), softmax twice or never
(attention-is-all-you-need-keras#12), what comes before what (pytorch-GAT#9), gates and biases of recurrent layers. The
networks are small ones of what is carried over most in text, series, recommendation, tables, graphs and science, all
ported to PyTorch, each with correct ports that are written another way as well. benchmarks.causes takes the set with
``--sixteenth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.sixteenth import (  # noqa: F401
    chances,
    decoders,
    graphs,
    items,
    rows,
    science,
    series,
    texts,
)
from benchmarks.corpus.mutations.sixteenth.registry import SET

__all__ = ["SET"]
