"""A thirteenth set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; many have been reported: of what SAME
means at a stride (keras#19291, keras#16363, alf#457), of the rest of a transposed kernel's padding (pytorch2keras#7,
onnx2tf#56, TICO#420), of a BatchNorm's epsilon and its weights' order (nn-transfer#3, pytorch2keras#120), of flattened
maps (nn-transfer#16, nn-transfer#17), of gates (keras#10179), of which bytes are which (keras-applications#65,
deepface#131), and of a face that is whitened or levelled by what is fixed (facenet#1050, facenet-pytorch#42). The
networks are small ones of what is carried over most in vision, medicine and sound, all ported to PyTorch, each with
correct ports that are written another way as well. benchmarks.causes takes the set with ``--thirteenth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.thirteenth import (  # noqa: F401
    blocks,
    finders,
    made,
    medicine,
    organs,
    pictures,
    sounds,
    waves,
    words,
)
from benchmarks.corpus.mutations.thirteenth.registry import SET

__all__ = ["SET"]
