"""Rain: maps of the last minutes, read by a recurrent convolution that the port writes itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    defect,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    slip,
    way,
)


class Cell(Port):
    """Gates in the order of Keras: i, f, c, o."""

    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.given = nn.Conv2d(2, 24, 3, padding=0 if "edges-of-the-state-alone" in ways else 1)
        self.kept = nn.Conv2d(6, 24, 3, padding=1, bias=False)

    def gates(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        if "both-at-once" in self.ways:
            weight = torch.cat([self.given.weight, self.kept.weight], dim=1)
            return F.conv2d(torch.cat([x, h], dim=1), weight, self.given.bias, padding=1)
        if "edges-of-the-state-alone" in self.ways:
            x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return self.given(x) + self.kept(h)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, g, o = self.gates(x, h).chunk(4, dim=1)
        if "gates-as-in-the-paper" in self.ways:
            g, o = o, g
        gate = F.hardsigmoid if "gates-hard" in self.ways else torch.sigmoid
        c = gate(f) * c + gate(i) * torch.tanh(g)
        return gate(o) * (c if "state-not-squashed" in self.ways else torch.tanh(c)), c


class Rain(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.cell, self.norm = Cell(ways), nn.BatchNorm2d(6, eps=1e-3)
        self.ahead = nn.Conv2d(6, 8, 3, padding=1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        steps = list(maps.unbind(2))
        if "newest-first" in self.ways:
            steps.reverse()
        if "last-map-left-out" in self.ways:
            steps.pop()
        h = c = maps.new_zeros(len(maps), 6, 7, 8)
        for x in steps:
            h, c = self.cell(x, h, c)
        x = self.ahead(self.norm(c if "state-for-output" in self.ways else h))
        if "pixels-as-in-torch" not in self.ways:
            x = x.unflatten(1, (4, 2)).transpose(1, 2).flatten(1, 2)
        x = F.pixel_shuffle(x, 2)
        return F.relu(x) if "rain-by-rectifier" in self.ways else F.softplus(x)


@network
def rain() -> Pair:
    """Two finer maps of the next minute from four maps, by a ConvLSTM."""
    keras.backend.clear_session()
    maps = layers.Input((4, 7, 8, 2), name="maps")
    lstm = layers.ConvLSTM2D(6, 3, padding="same", recurrent_activation="sigmoid", name="cell")
    x = layers.BatchNormalization(name="norm")(lstm(maps))
    x = layers.Conv2D(8, 3, padding="same", name="ahead")(x)
    x = layers.Lambda(lambda x: tf.nn.depth_to_space(x, 2), name="finer")(x)
    model = keras.Model(maps, layers.Activation("softplus", name="rain")(x))
    fill(model)
    given, kept, bias = (weight.numpy() for weight in lstm.weights)
    own: Mapping[str, Any] = {"cell.given.weight": given.transpose(3, 2, 0, 1), "cell.given.bias": bias,
                              "cell.kept.weight": kept.transpose(3, 2, 0, 1)}  # fmt: skip
    return Pair(model, fed(67, 2, 4, 7, 8, 2), ported(model, Rain, own), "NHWC->NCHW")


slip("rain/edges-of-the-state-alone", "cell cell.* cell#*", "pad-mode", "rnn-activation operation-kind")
slip("rain/gates-as-in-the-paper", "cell cell.* cell#*", "lstm-gate-order weights-swapped",
     "weights-perturbed operand-order wiring activation-kind")  # fmt: skip
slip("rain/gates-hard", "cell cell.* cell#*", "rnn-activation activation-kind", "operation-kind")
slip("rain/state-not-squashed", "cell cell.* cell#*", "activation-missing rnn-activation", "block-missing")
slip("rain/newest-first", "cell cell.* cell#* maps unbind*", "rnn-direction", "axis-permutation wiring")
slip("rain/last-map-left-out", "cell cell.* cell#* maps unbind*", "rnn-last-step block-missing", "wiring rnn-direction")
slip("rain/state-for-output", "cell cell.* cell#* norm", "wiring block-missing activation-missing", "rnn-activation")
slip("rain/rain-by-rectifier", "rain softplus relu", "activation-kind")
slip("rain/pixels-as-in-torch", "finer pixel_shuffle ahead unflatten transpose flatten", "depth-to-space-order")
defect("rain/state-kernel-turned", "cell cell.* cell#*", "kernel-layout", "weights-perturbed")(
    rewritten("cell.kept.weight", lambda weight: weight.transpose(2, 3))
)
defect("rain/forgets-more", "cell cell.* cell#*", "rnn-bias", "weights-perturbed bias-missing")(
    rewritten("cell.given.bias", lambda bias: bias + torch.eye(4)[1].repeat_interleave(6))
)
way("rain/both-at-once")
one_layer(
    "rain", "gates-hard+newest-first", "state-kernel-turned+forgets-more", "gates-as-in-the-paper+last-map-left-out"
)
neighbours("rain", "state-for-output+rain-by-rectifier")
