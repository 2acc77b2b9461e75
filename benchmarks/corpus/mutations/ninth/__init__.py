"""A ninth set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; some have been reported: of Spleeter's
padding and norms (spleeter-pytorch#2), of the levels behind RetinaNet's last (mmdetection#6988, yolact#110), of kernels
along a molecule's alphabet (molecular-VAE#2), of the order in which Glow squeezes (glow#88, tensorflow#53291), of sines
and cosines (tensorflow#37191, text#1122), of gains around zero (compare_gan#54), of a ReLU in place that reaches what
skips (vq-vae-2-pytorch#60), of corners (DenseDepth#169) and of the last states of two directions (pytorch#3587). The
networks are small ones from many fields, all ported to PyTorch, each with correct ports that are written another way
as well. benchmarks.causes takes the set with ``--ninth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.ninth import (  # noqa: F401
    audio,
    bodies,
    fields,
    genes,
    graphs,
    made,
    mixing,
    pictures,
    scenes,
    texts,
)
from benchmarks.corpus.mutations.ninth.registry import SET

__all__ = ["SET"]
