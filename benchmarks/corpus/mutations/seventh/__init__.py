"""A seventh set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; some have been reported: of ALBERT's gelu
(transformers#2395), of a norm for each level of EfficientDet (Yet-Another-EfficientDet-Pytorch#560), of the order in
which Swin merges patches (mmsegmentation#2350), of CoordConv (CoordConv-pytorch#9), of corners that grids are aligned
to (pytorch#23923), of padding (EfficientNet-PyTorch#235) and of GRUs (keras#15915, coremltools#1124). The networks are
small ones from many fields, all ported to PyTorch, each with correct ports that are written another way as well.
benchmarks.causes takes the set with ``--seventh``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.seventh import (  # noqa: F401
    blocks,
    codes,
    made,
    motion,
    scenes,
    series,
    sharp,
    signals,
    tables,
    texts,
    voices,
    windows,
)
from benchmarks.corpus.mutations.seventh.registry import SET

__all__ = ["SET"]
