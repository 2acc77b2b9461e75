"""An eleventh set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; some have been reported: of padding that
an LSTM reads on through (delft#231, tensorflow-onnx#1871), of gates and where a GRU resets (keras#8720, keras#15915),
of preprocessing that another network has (keras-applications#65), of norms' epsilons (transformers#25558), of what SAME
adds (mobilenet_v2_keras#5), and of corners (pytorch#10604). The networks are small ones from many fields, all ported to
PyTorch, each with correct ports that are written another way as well. benchmarks.causes takes the set with
``--eleventh``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.eleventh import (  # noqa: F401
    images,
    others,
    scenes,
    science,
    sequences,
    signals,
    sounds,
    worlds,
)
from benchmarks.corpus.mutations.eleventh.registry import SET

__all__ = ["SET"]
