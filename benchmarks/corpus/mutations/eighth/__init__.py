"""An eighth set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; some have been reported: of the light
along a ray (TinyNeRF-pytorch#1, pytorch-dnc#5), of places in RoBERTa (transformers#1761), of padding that Keras masks
(delft#231, tensorflow-onnx#1871), of weights that are normed (transformers#26796), of kernels that look into the past
(pytorch#1333, WaveNetVA#3), of gates (keras#8720) and of hard sigmoids (mobilenetv3-tensorflow#11). The networks are
small ones from many fields, all ported to PyTorch, each with correct ports that are written another way as well.
benchmarks.causes takes the set with ``--eighth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.eighth import (  # noqa: F401
    chains,
    drawn,
    found,
    made,
    pictures,
    rays,
    series,
    signals,
    sounds,
    tables,
    texts,
    waves,
)
from benchmarks.corpus.mutations.eighth.registry import SET

__all__ = ["SET"]
