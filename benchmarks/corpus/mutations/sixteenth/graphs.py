"""Graphs: roads whose neighbours are learnt, and molecules whose bonds are matrices."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import regated
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixteenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported, rewritten


class Roads(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter = nn.Conv2d(2, 4, 1)
        for i in (1, 2):
            dilation = 1 if "second-not-dilated" in ways else i
            self.add_module(f"filter{i}", nn.Conv2d(4, 4, (2, 1), dilation=(dilation, 1)))
            self.add_module(f"gate{i}", nn.Conv2d(4, 4, (2, 1), dilation=(dilation, 1)))
            self.add_module(f"skip{i}", nn.Conv2d(4, 5, 1))
        self.links = nn.ParameterDict({"source": torch.zeros(4, 3), "target": torch.zeros(3, 4)})
        self.mix, self.bn = nn.Conv2d(12, 4, 1), nn.BatchNorm2d(4, eps=1e-3)
        self.end1, self.end2 = nn.Conv2d(5, 6, 1), nn.Conv2d(6, 3, 1)

    def gated(self, i: int, x: torch.Tensor) -> torch.Tensor:
        one, two = self.get_submodule(f"filter{i}"), self.get_submodule(f"gate{i}")
        if "one-kernel-for-both" in self.ways:
            weight, bias = torch.cat([one.weight, two.weight]), torch.cat([one.bias, two.bias])
            y, z = F.conv2d(x, weight, bias, dilation=one.dilation).chunk(2, dim=1)
            return torch.tanh(y) * torch.sigmoid(z)
        return torch.tanh(one(x)) * torch.sigmoid(two(x))

    def heard(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.links["source"] @ self.links["target"]
        scores = scores if "links-not-bent" in self.ways else F.relu(scores)
        links = F.softmax(scores, dim=0 if "shared-among-hearers" in self.ways else 1)
        links = links if "neighbours-turned" in self.ways else links.T
        once = x @ links
        if "twice-at-once" in self.ways:
            return torch.cat([x, once, x @ (links @ links)], dim=1)
        twice = once if "once-for-twice" in self.ways else once @ links
        return torch.cat([x, once, twice], dim=1)

    def forward(self, speeds: torch.Tensor) -> torch.Tensor:
        x = self.enter(speeds)
        y = self.gated(1, x)
        told = self.skip1(y)[:, :, -1:]
        before = x[:, :, :-1] if "first-steps-added" in self.ways else x[:, :, 1:]
        x = self.gated(2, self.bn(self.mix(self.heard(y)) + before))
        last = self.skip2(x)[:, :, -1:]
        x = last if "first-skip-forgotten" in self.ways else told + last
        return self.end2(F.relu(self.end1(F.relu(x))))[:, :, 0]


class _Links(layers.Layer):  # type: ignore[misc]
    """Each place, what its neighbours say, and what theirs do; who is whose neighbour is learnt."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.source = self.add_weight(name="source", shape=(shape[2], 3))
        self.target = self.add_weight(name="target", shape=(3, shape[2]))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        links = ops.softmax(ops.relu(ops.matmul(self.source, self.target)), axis=1)
        once = ops.einsum("nm,btmc->btnc", links, x)
        return ops.concatenate([x, once, ops.einsum("nm,btmc->btnc", links, once)], axis=3)


@network
def roads() -> Pair:
    """Graph WaveNet: gated kernels along time, learnt neighbours and theirs, a norm, the last step of two skips."""
    keras.backend.clear_session()
    speeds = layers.Input((6, 4, 2), name="speeds")

    def gated(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        both = [layers.Conv2D(4, (2, 1), dilation_rate=(i, 1), activation=bend, name=f"{name}{i}")(x)
                for name, bend in (("filter", "tanh"), ("gate", "sigmoid"))]  # fmt: skip
        return layers.Multiply(name=f"gated{i}")(both)

    x = layers.Conv2D(4, 1, name="enter")(speeds)
    y = gated(x, 1)
    told = layers.Conv2D(5, 1, name="skip1")(y)[:, -1:]
    x = layers.Add(name="joined")([layers.Conv2D(4, 1, name="mix")(_Links(name="links")(y)), x[:, 1:]])
    x = gated(layers.BatchNormalization(name="bn")(x), 2)
    x = layers.Add(name="told")([told, layers.Conv2D(5, 1, name="skip2")(x)[:, -1:]])
    x = layers.Conv2D(6, 1, activation="relu", name="end1")(layers.ReLU(name="bend")(x))
    x = layers.Permute((2, 1), name="turned")(layers.Conv2D(3, 1, name="end2")(x)[:, 0])
    model = keras.Model(speeds, x)
    fill(model)
    grown(model, 1.5, "filter1", "gate1", "filter2", "gate2")
    return Pair(model, fed(1661, 4, 6, 4, 2), ported(model, Roads), "NHWC->NCHW")


_LINKS = "links matmul* softmax* relu relu_1 T* cat* mix einsum*"
slip("roads/links-not-bent", _LINKS, "activation-missing weights-perturbed", "block-missing")
slip("roads/shared-among-hearers", _LINKS, "softmax-axis weights-perturbed", "operation-kind")
slip("roads/neighbours-turned", _LINKS, "axis-permutation dense-transpose wiring", "block-missing weights-perturbed")
slip("roads/once-for-twice", _LINKS, "block-missing wiring", "residual-missing")
slip("roads/second-not-dilated", "filter2 gate2 gated2 tanh* sigmoid* mul* skip2", "dilation", "shift")
slip("roads/first-steps-added", "joined add* get_item* slice* bn", "shift wiring", "operand-order")
slip("roads/first-skip-forgotten", "told add* skip1 skip2 get_item* slice*", "residual-missing", "block-missing wiring")
defect("roads/bn-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("roads/filter-for-gate", "filter1 gate1 gated1 tanh sigmoid mul", "weights-swapped wiring", "weights-perturbed")(
    exchanged("filter1", "gate1")
)
defect("roads/kernel-turned-round", "filter2", "kernel-flip", "kernel-layout weights-perturbed")(
    rewritten("filter2.weight", lambda weight: weight.flip(2))
)
ways("roads", "one-kernel-for-both", "twice-at-once")
control("roads/channels-last")(lambda port: port.to(memory_format=torch.channels_last))
one_layer("roads", "links-not-bent+neighbours-turned", "second-not-dilated+kernel-turned-round")
neighbours("roads", "first-steps-added+bn-eps-of-torch", "filter-for-gate+shared-among-hearers")


# --- bonds --------------------------------------------------------------------------------------------------


def _one_bias(port: Any) -> None:
    """Adds a GRU's two biases up, as is right for an LSTM's."""
    gru = port.update
    gru.bias_ih_l0.data.add_(gru.bias_hh_l0.data)
    gru.bias_hh_l0.data.zero_()


class Solvent(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.edge, self.update = nn.Linear(3, 36), nn.GRU(6, 6, batch_first=True)
        self.wide, self.soluble = nn.Linear(6, 7), nn.Linear(7, 1)

    def told(self, x: torch.Tensor, bonds: torch.Tensor, links: torch.Tensor) -> torch.Tensor:
        each = self.edge(bonds).unflatten(3, (6, 6))
        each = each.mT if "matrices-turned" in self.ways else each
        if "told-by-einsum" in self.ways:
            return torch.einsum("bnmij,bmj,bnm->bni", each, x, links)
        each = (each @ x[:, None, :, :, None])[..., 0]
        each = each if "all-bonds-there" in self.ways else each * links[..., None]
        return each.mean(2) if "mean-of-bonds" in self.ways else each.sum(2)

    def moved(self, told: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        given, state = told.flatten(0, 1), x.flatten(0, 1)
        given, state = (state, given) if "state-told" in self.ways else (given, state)
        if "cell-of-torch" in self.ways:
            gru = self.update
            own = (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)
            return torch.gru_cell(given, state, *own).view_as(x)
        return self.update(given[:, None], state[None])[0].view_as(x)

    def forward(
        self, atoms: torch.Tensor, bonds: torch.Tensor, links: torch.Tensor, there: torch.Tensor
    ) -> torch.Tensor:
        x = F.pad(atoms, (2, 0) if "filled-in-front" in self.ways else (0, 2))
        for _ in range(1 if "one-round-alone" in self.ways else 2):
            x = self.moved(self.told(x, bonds, links), x)
        if "mean-with-padding" in self.ways:
            x = x.mean(1)
        else:
            x = (x * there[:, :, None]).sum(1) / there.sum(1, keepdim=True)
        x = self.wide(x)
        return self.soluble(x if "wide-not-bent" in self.ways else F.relu(x))


@network
def solvent() -> Pair:
    """A message-passing network as Keras' example has it: atoms filled up, a matrix for each bond, a GRU, twice."""
    keras.backend.clear_session()
    atoms, bonds = layers.Input((5, 4), name="atoms"), layers.Input((5, 5, 3), name="bonds")
    links, there = layers.Input((5, 5), name="links"), layers.Input((5,), name="there")
    x = ops.pad(atoms, ((0, 0), (0, 0), (0, 2)))
    matrices = layers.Reshape((5, 5, 6, 6), name="matrices")(layers.Dense(36, name="edge")(bonds))
    update = layers.GRU(6, name="update")
    for i in (1, 2):
        each = ops.squeeze(ops.matmul(matrices, ops.expand_dims(ops.expand_dims(x, 1), 4)), axis=4)
        told = ops.sum(layers.Multiply(name=f"linked{i}")([each, ops.expand_dims(links, 3)]), axis=2)
        x = update(ops.reshape(told, (-1, 1, 6)), initial_state=ops.reshape(x, (-1, 6)))
        x = ops.reshape(x, (-1, 5, 6))
    mask = ops.expand_dims(there, 2)
    x = ops.sum(x * mask, axis=1) / ops.sum(mask, axis=1)
    x = layers.Dense(1, name="soluble")(layers.Dense(7, activation="relu", name="wide")(x))
    model = keras.Model([atoms, bonds, links, there], x)
    fill(model)
    grown(model, 2, "wide")
    count = np.array([5, 3, 4, 5])
    real = (np.arange(5) < count[:, None]).astype(np.float32)
    drawn = (np.random.default_rng(1662).random((4, 5, 5)) < 0.5).astype(np.float32)
    drawn = np.maximum(drawn, drawn.transpose(0, 2, 1)) * (1 - np.eye(5, dtype=np.float32))
    drawn = drawn * real[:, :, None] * real[:, None]
    inputs = {"atoms": fed(1663, 4, 5, 4), "bonds": np.abs(fed(1664, 4, 5, 5, 3)), "links": drawn, "there": real}
    return Pair(model, inputs, ported(model, Solvent), "same")


_TOLD = "matrices edge unflatten* matmul* mT* linked? mul* multiply* sum* mean* update*"
_READ = "mul* multiply* sum* div* true_divide* mean* wide update*"
slip("solvent/filled-in-front", "atoms pad* matmul* update*", "pad-asymmetry shift channel-order", "wiring pad-mode")
slip("solvent/matrices-turned", _TOLD, "reshape-order axis-permutation dense-transpose kernel-layout")
slip("solvent/all-bonds-there", _TOLD, "attention-mask block-missing", "wiring")
slip("solvent/mean-of-bonds", _TOLD, "pool-kind scale", "operation-kind")
slip("solvent/state-told", "update*", "operand-order wiring", "weights-swapped")
slip("solvent/one-round-alone", "update* linked2 matmul* sum* mul*", "block-missing", "wiring")
slip("solvent/mean-with-padding", _READ, "attention-mask pool-count-include-pad block-missing",
     "pool-kind scale operation-kind wiring")  # fmt: skip
slip("solvent/wide-not-bent", "wide relu* soluble", "activation-missing", "block-missing")
defect("solvent/gates-of-keras", "update*", "gru-gate-order", "weights-perturbed weights-swapped")(
    regated("update", 1, 0, 2)
)
defect("solvent/biases-added-up", "update*", "rnn-bias weights-perturbed")(_one_bias)
ways("solvent", "told-by-einsum", "cell-of-torch")
one_layer("solvent", "matrices-turned+all-bonds-there", "gates-of-keras+biases-added-up")
neighbours("solvent", "mean-of-bonds+state-told")
