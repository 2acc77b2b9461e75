"""A fourteenth set of defects, in pairs of networks of other kinds than the sets' before, by a hand of its own.

Each is a mistake that people make who write a Keras network again in PyTorch; many have been reported: gates and biases
of recurrent layers (keras#8720, keras#15915), what a padded step gives (keras#1569, keras#7227), an epsilon that each
framework chooses (nn-transfer#3), even kernels and causal ones (pytorch#1333, TCN#12), a bend on what should be linear
and a bias where none belongs (n-beats#52), a slope that was left out (RGAT-ABSA#3), the order of features and the width
of heads (DeepCTR-Torch#311), what attention takes along with its context (OpenNMT-py#110). The networks are small ones
of what is carried over most in text, series, recommendation, tables, graphs and science, all ported to PyTorch, each
with correct ports that are written another way as well. benchmarks.causes takes the set with ``--fourteenth``.
"""

from __future__ import annotations

from benchmarks.corpus.mutations.fourteenth import (  # noqa: F401
    densities,
    forecasts,
    graphs,
    items,
    machines,
    maps,
    play,
    ratings,
    reading,
    rivers,
    rows,
    states,
    texts,
)
from benchmarks.corpus.mutations.fourteenth.registry import SET

__all__ = ["SET"]
