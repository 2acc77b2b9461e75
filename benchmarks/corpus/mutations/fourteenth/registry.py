"""Where the fourteenth set's modules register, and what its networks and ports share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import torch
from keras import layers, ops

from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("fourteenth")
network, control, defect, slip, ways = SET.network, SET.control, SET.defect, SET.slip, SET.ways
one_layer, neighbours = SET.one_layer, SET.neighbours


class Plus(layers.Layer):  # type: ignore[misc]
    """Adds one learnt number for each feature."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.shift = self.add_weight(name="shift", shape=(shape[-1],))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.shift


class Scores(layers.Layer):  # type: ignore[misc]
    """The product with each row of a table that is another layer's."""

    def __init__(self, table: layers.Embedding, **own: str) -> None:
        super().__init__(**own)
        self.table = lambda: table.embeddings

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.matmul(x, ops.transpose(self.table()))


def zeroed_row(path: str) -> Callable[[Any], None]:
    """Sets a table's first row to zero, as ``padding_idx`` has it where the table is filled before it is set."""

    def apply(port: Any) -> None:
        port.get_submodule(path).weight.data[0] = 0

    return apply


def drawn_bias(path: str) -> Callable[[Any], None]:
    """Leaves the second bias of a recurrent layer as PyTorch draws it."""

    def apply(port: Any) -> None:
        rnn = port.get_submodule(path)
        drawn = torch.rand(len(rnn.bias_hh_l0), generator=torch.Generator().manual_seed(0))
        rnn.bias_hh_l0.data.copy_((2 * drawn - 1) / rnn.hidden_size**0.5)

    return apply
