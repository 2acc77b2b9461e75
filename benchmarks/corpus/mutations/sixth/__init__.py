"""A sixth set of defects, in pairs of networks of other kinds than the fifth's, by another hand.

Each is a mistake that people make who write a Keras network again in PyTorch; some have been reported of EEGNet
(torcheeg#114, braindecode#651 and #739), GhostNet (ghostnet.pytorch#21), or of strides and padding at large
(keras#16363). The networks are small ones from many fields, all ported to PyTorch, each with correct ports that are
written another way as well. benchmarks.causes takes the set with ``--sixth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.sixth import (  # noqa: F401
    clouds,
    flows,
    made,
    pictures,
    play,
    scans,
    scenes,
    series,
    signals,
    tables,
    texts,
    weather,
    words,
)
from benchmarks.corpus.mutations.sixth.registry import SET

__all__ = ["SET"]
