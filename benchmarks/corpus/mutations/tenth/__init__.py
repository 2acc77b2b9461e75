"""A tenth set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; some have been reported: of the slope
before HiFi-GAN's last kernel (hifi-gan#48), of slopes that frameworks choose (DW2TF#2), of GPT-2's kernels that lie the
other way (transformers#311, AutoGPTQ#139), of squares of pixels (tensorflow#53291, onnx2tf#91), of the hard sigmoid
(pytorch#34545, torch-mlir#2682), of causal padding (WaveNetVA#3, pytorch#1333) and of what SAME adds at a stride
(keras#16363, Pytorch-Keras-ToAndroid#2). The networks are small ones from many
fields, all ported to PyTorch, each with correct ports that are written another way as well. benchmarks.causes takes
the set with ``--tenth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.tenth import (  # noqa: F401
    attention,
    dense,
    images,
    science,
    signals,
    sounds,
    tables,
    texts,
)
from benchmarks.corpus.mutations.tenth.registry import SET

__all__ = ["SET"]
