"""Rows of tables: a small network for each number, and kinds that look at one another beside numbers."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
    Plus,
    control,
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.twelfth.registry import folded_ahead


class Additive(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for i in range(3):
            self.add_module(f"unit{i}", nn.ParameterDict({"steep": torch.zeros(1, 6), "moved": torch.zeros(6)}))
            self.add_module(f"dense{i}", nn.Linear(6, 5))
            self.add_module(f"share{i}", nn.Linear(5, 1, bias=False))
        self.level = nn.ParameterDict({"shift": torch.zeros(1)})

    def capped(self, x: torch.Tensor) -> torch.Tensor:
        if "capped-by-relus" in self.ways:
            return F.relu(x) - F.relu(x - 1)
        return F.relu(x) if "not-capped" in self.ways else x.clamp(0, 1)

    def unit(self, i: int, x: torch.Tensor) -> torch.Tensor:
        own = self.get_submodule(f"unit{i}")
        steep = own["steep"] if "steepness-not-raised" in self.ways else torch.exp(own["steep"])
        x = self.capped((x - own["moved"]) * steep)
        return self.get_submodule(f"share{i}")(F.relu(self.get_submodule(f"dense{i}")(x)))

    def all_at_once(self, row: torch.Tensor) -> torch.Tensor:
        units, denses, shares = ([self.get_submodule(f"{n}{i}") for i in range(3)] for n in ("unit", "dense", "share"))
        steep, moved = torch.cat([u["steep"] for u in units]), torch.stack([u["moved"] for u in units])
        x = ((row[:, :, None] - moved) * torch.exp(steep)).clamp(0, 1)
        x = torch.einsum("bfi,foi->bfo", x, torch.stack([d.weight for d in denses]))
        x = F.relu(x + torch.stack([d.bias for d in denses]))
        return (x * torch.cat([s.weight for s in shares])).sum(2)

    def forward(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if "all-at-once" in self.ways:
            parts = self.all_at_once(row)
        else:
            order = (0, 2, 1) if "networks-out-of-order" in self.ways else (0, 1, 2)
            parts = torch.cat([self.unit(k, row[:, i : i + 1]) for i, k in enumerate(order)], dim=1)
        x = parts.mean(1, keepdim=True) if "mean-of-parts" in self.ways else parts.sum(1, keepdim=True)
        x = x if "level-forgotten" in self.ways else x + self.level["shift"]
        return parts, torch.sigmoid(x)


class _Unit(layers.Layer):  # type: ignore[misc]
    """How far a number is beyond each of some places, by a learnt steepness, from zero to one."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.steep = self.add_weight(name="steep", shape=(1, 6))
        self.moved = self.add_weight(name="moved", shape=(6,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.clip((x - self.moved) * ops.exp(self.steep), 0, 1)


@network
def additive() -> Pair:
    """A neural additive model: units with exponential steepness and a cap, a network for each number, their sum."""
    keras.backend.clear_session()
    row = layers.Input((3,), name="row")
    parts = []
    for i in range(3):
        x = layers.Dense(5, activation="relu", name=f"dense{i}")(_Unit(name=f"unit{i}")(row[:, i : i + 1]))
        parts.append(layers.Dense(1, use_bias=False, name=f"share{i}")(x))
    x = layers.Concatenate(name="parts")(parts)
    both = [x, ops.sigmoid(Plus(name="level")(ops.sum(x, axis=1, keepdims=True)))]
    model = keras.Model(row, both)
    fill(model)
    return Pair(model, fed(1461, 6, 3), ported(model, Additive), "same")


_UNIT = "unit? sub* mul* exp* clamp* dense? relu*"
_PARTS = "parts cat* sum* mean* level add* sigmoid*"
slip("additive/steepness-not-raised", _UNIT, "block-missing activation-missing operation-kind",
     "weights-perturbed scale wiring")  # fmt: skip
slip(
    "additive/not-capped", _UNIT, "activation-kind activation-param", "activation-missing block-missing operation-kind"
)
slip("additive/networks-out-of-order", "unit? dense? share? parts cat* sub* mul* exp* clamp* relu* get_item* slice*",
     "weights-swapped wiring", "channel-order concat-order weights-perturbed operand-order")  # fmt: skip
slip("additive/mean-of-parts", _PARTS, "pool-kind scale operation-kind")
slip("additive/level-forgotten", _PARTS, "bias-missing block-missing", "residual-missing wiring")
ways("additive", "capped-by-relus", "all-at-once")
one_layer("additive", "steepness-not-raised+not-capped", "mean-of-parts+level-forgotten")
neighbours("additive", "not-capped+mean-of-parts")


# --- kinds --------------------------------------------------------------------------------------------------

_KINDS = (5, 4, 6)


class Kinds(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for i, size in enumerate(_KINDS):
            self.add_module(f"kind{i}", nn.Embedding(size, 4))
        self.places = nn.ParameterDict({"table": torch.zeros(3, 4)})
        self.attention = nn.ModuleDict({name: nn.Linear(4, 8) for name in ("query", "key", "value")})
        self.attention["attention_output"] = nn.Linear(8, 4)
        self.norm1, self.norm2 = (nn.LayerNorm(4, eps=1e-6) for _ in range(2))
        self.wide, self.narrow, self.numbers_norm = nn.Linear(4, 8), nn.Linear(8, 4), nn.LayerNorm(4, eps=1e-3)
        self.bn, self.dense, self.out = nn.BatchNorm1d(16, eps=1e-3), nn.Linear(16, 8), nn.Linear(8, 1)

    def looked(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.attention[name](x).unflatten(2, (2, 4)).transpose(1, 2) for name in ("query", "key", "value"))
        if "looked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = F.softmax(q @ k.mT / (2**0.5 if "scaled-by-half-the-width" in self.ways else 2), dim=3) @ v
        return self.attention["attention_output"](y.transpose(1, 2).flatten(2))

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "gelu-by-hand" in self.ways:
            return x * 0.5 * (1 + torch.erf(x / 2**0.5))
        return F.gelu(x, approximate="tanh" if "gelu-by-tanh" in self.ways else "none")

    def forward(self, kinds: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        x = torch.stack([self.get_submodule(f"kind{i}")(kinds[:, i]) for i in range(3)], dim=1)
        x = x if "places-forgotten" in self.ways else x + self.places["table"]
        x = self.norm1(x + self.looked(x))
        norm = self.norm1 if "first-norm-again" in self.ways else self.norm2
        x = norm(x + self.narrow(self.bent(self.wide(x))))
        x = x.mT.flatten(1) if "features-outermost" in self.ways else x.flatten(1)
        if "numbers-normed-by-column" in self.ways:
            y = (numbers - numbers.mean(0)) * torch.rsqrt(numbers.var(0, correction=0) + 1e-3)
            y = y * self.numbers_norm.weight + self.numbers_norm.bias
        else:
            y = self.numbers_norm(numbers)
        x = torch.cat([x, y], dim=1)
        return torch.sigmoid(self.out(F.selu(self.dense(self.bn(x)))))


class _Places(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="table", shape=shape[1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.table


@network
def kinds() -> Pair:
    """TabTransformer: kinds with a row for their column, one block of wide heads, normed numbers beside, a SELU."""
    keras.backend.clear_session()
    given, numbers = layers.Input((3,), dtype="int32", name="kinds"), layers.Input((4,), name="numbers")
    x = ops.stack([layers.Embedding(size, 4, name=f"kind{i}")(given[:, i]) for i, size in enumerate(_KINDS)], axis=1)
    x = _Places(name="places")(x)
    x = layers.Add(name="sum1")([x, layers.MultiHeadAttention(2, 4, name="attention")(x, x)])
    x = layers.LayerNormalization(epsilon=1e-6, name="norm1")(x)
    y = layers.Dense(4, name="narrow")(layers.Dense(8, activation="gelu", name="wide")(x))
    x = layers.LayerNormalization(epsilon=1e-6, name="norm2")(layers.Add(name="sum2")([x, y]))
    y = layers.LayerNormalization(name="numbers_norm")(numbers)
    x = layers.Concatenate(name="beside")([layers.Flatten(name="row")(x), y])
    x = layers.Dense(8, activation="selu", name="dense")(layers.BatchNormalization(name="bn")(x))
    model = keras.Model([given, numbers], layers.Dense(1, activation="sigmoid", name="out")(x))
    fill(model)
    grown(model, 2, "wide", "narrow", "dense", "out")
    attention = model.get_layer("attention")
    for part in (attention.query_dense, attention.key_dense):
        part.kernel.assign(part.kernel * 2)
    drawn = np.stack([counted(1462 + i, size, 6) for i, size in enumerate(_KINDS)], axis=1)
    return Pair(model, {"kinds": drawn, "numbers": fed(1466, 6, 4) * 0.3}, ported(model, Kinds), "same")


_LOOK = "attention matmul* softmax* div* truediv* transpose* mT* unflatten* flatten* sum1"
_BESIDE = "row flatten* mT* beside cat* bn dense"
slip("kinds/places-forgotten", "places add* kind? stack*", "block-missing residual-missing bias-missing", "wiring")
slip("kinds/scaled-by-half-the-width", _LOOK, "attention-scale", "scale")
slip("kinds/gelu-by-tanh", "wide gelu* narrow", "gelu-approx")
slip(
    "kinds/first-norm-again",
    "norm1 norm2",
    "weights-swapped wiring",
    "weights-not-loaded weights-perturbed block-missing block-extra",
)
slip("kinds/features-outermost", _BESIDE, "flatten-order dense-row-order", "wiring")
slip("kinds/numbers-normed-by-column", "numbers_norm sub* mul* mean* var* rsqrt* add* beside cat*", "norm-axis bn-mode",
     "block-missing block-extra operation-kind")  # fmt: skip
defect("kinds/norm-eps-of-torch", "numbers_norm", "ln-eps")(set_to("numbers_norm", eps=1e-5))
defect("kinds/deviation-for-variance", "bn", "bn-stats", "weights-perturbed")(
    rewritten("bn.running_var", lambda variance: variance.sqrt())
)
defect("kinds/bn-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("kinds/value-for-query", "attention", "qkv-order weights-swapped", "weights-perturbed wiring")(
    exchanged("attention.query", "attention.value")
)
ways("kinds", "looked-by-torch", "gelu-by-hand")
control("kinds/norm-in-the-dense")(folded_ahead("bn", "dense"))
one_layer("kinds", "scaled-by-half-the-width+value-for-query", "deviation-for-variance+bn-eps-of-torch")
neighbours("kinds", "features-outermost+deviation-for-variance", "gelu-by-tanh+first-norm-again")
