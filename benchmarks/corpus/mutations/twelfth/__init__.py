"""A twelfth set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; many have been reported: of what Keras'
EfficientNet takes for a variance (tensorflow#49930, hub#821), of the shift in a transposed kernel with a stride
(keras#22876, pytorch2keras#7), of even padding at a stride (EfficientNet-PyTorch#235, wide_resnets_keras#17), of a
BatchNorm's epsilon (tacotron_pytorch#19), of gates (keras#8720) and where a GRU resets (keras#15915), of flattened maps
(nn-transfer#11, MMdnn#595), of an activation that was left out (UGATIT-pytorch#11) or put in (ghostnet.pytorch#21),
and of slopes that frameworks choose (DW2TF#2). The networks are small ones of what is carried over most in medicine,
sound, vision, text and tables, all ported to PyTorch, each with correct ports that are written another way as well.
benchmarks.causes takes the set with ``--twelfth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.twelfth import (  # noqa: F401
    attention,
    cells,
    images,
    scenes,
    sequences,
    signals,
    sounds,
    tables,
    voices,
)
from benchmarks.corpus.mutations.twelfth.registry import SET

__all__ = ["SET"]
