"""A fifteenth set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; many have been reported: what is padded
where a kernel strides (keras#16363), an epsilon that each framework chooses (nn-transfer#3, tensorflow#42605), where a
resize takes its corners (pytorch#10604, segmentation_models#37), windows that go beyond the edge (torch/nn#116), blue
or red first and what is then subtracted (pytorch/vision#28, keras#16179), a gate made of lines of another slope
(tinygrad#7433), decibels (kapre#68). The networks are small ones of what is carried over most in vision, medicine and
audio, all ported to PyTorch, each with correct ports that are written another way as well. benchmarks.causes takes the
set with ``--fifteenth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.fifteenth import (  # noqa: F401
    clinics,
    fields,
    finders,
    made,
    mice,
    photos,
    reading,
    sounds,
    speech,
    views,
    waves,
)
from benchmarks.corpus.mutations.fifteenth.registry import SET

__all__ = ["SET"]
