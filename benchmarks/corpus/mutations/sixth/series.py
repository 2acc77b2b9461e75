"""Series: what comes next, by residuals of residuals and by patches."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    defect,
    epsilon,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    slip,
    way,
)

_PAST, _AHEAD = 12, 5


def _basis(steps: int, shift: int = 0) -> np.ndarray:
    """A line, a curve, and one wave, (4, steps)."""
    t = (np.arange(steps) + shift) / steps
    return np.stack([np.ones(steps), t, t**2, np.cos(2 * np.pi * t)]).astype(np.float32)


class Beat(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.fc1, self.fc2 = nn.Linear(_PAST, 10), nn.Linear(10, 10)
        self.back, self.ahead = nn.Linear(10, 4, bias=False), nn.Linear(10, 4, bias=False)
        for name, steps in (("past", _PAST), ("coming", _AHEAD)):
            curves = torch.from_numpy(_basis(steps, int("time-from-one" in ways)))
            self.register_buffer(name, curves, persistent=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.fc2(F.relu(self.fc1(x)))
        x = x if "second-not-rectified" in self.ways else F.relu(x)
        past, coming = self.past, self.coming.flip(1) if "coming-backwards" in self.ways else self.coming
        if "bases-in-the-weights" in self.ways:
            return F.linear(x, past.T @ self.back.weight), F.linear(x, coming.T @ self.ahead.weight)
        return self.back(x) @ past, self.ahead(x) @ coming


class Beats(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.blocks = nn.ModuleList(Beat(ways) for _ in range(3))

    def forward(self, series: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        level = series.mean(1, keepdim=True) if "levelled-by-the-mean" in self.ways else series.amax(1, keepdim=True)
        x = series / level
        found = []
        for block in self.blocks:
            past, coming = block(x)
            if "past-added" in self.ways:
                x = x + past
            elif "past-alone" in self.ways:
                x = past
            else:
                x = x - past
            found.append(coming)
        if "last-block-alone" in self.ways:
            total = found[-1]
        elif "blocks-in-the-mean" in self.ways:
            total = torch.stack(found).mean(0)
        else:
            total = torch.stack(found).sum(0)
        return total if "level-left" in self.ways else total * level, x


@network
def beats() -> Pair:
    """N-BEATS: three blocks, each explains what the one before has left over, by a few curves."""
    keras.backend.clear_session()
    series = layers.Input((_PAST,), name="series")
    level = ops.max(series, axis=1, keepdims=True)
    x, found = series / level, []
    for i in range(3):
        y = layers.Dense(10, activation="relu", name=f"blocks.{i}.fc1")(x)
        y = layers.Dense(10, activation="relu", name=f"blocks.{i}.fc2")(y)
        past = layers.Dense(4, use_bias=False, name=f"blocks.{i}.back")(y)
        coming = layers.Dense(4, use_bias=False, name=f"blocks.{i}.ahead")(y)
        x = layers.Subtract(name=f"left.{i}")([x, ops.matmul(past, ops.convert_to_tensor(_basis(_PAST)))])
        found.append(ops.matmul(coming, ops.convert_to_tensor(_basis(_AHEAD))))
    model = keras.Model(series, [layers.Add(name="total")(found) * level, x])
    fill(model)
    return Pair(model, np.abs(fed(83, 4, _PAST)) + 0.5, ported(model, Beats), "same")


_LEFT = "left.* sub sub_? add add_?"
_CURVES = "blocks.?.matmul blocks.?.matmul_1 matmul*"
slip("beats/second-not-rectified", "blocks.?.fc2 blocks.?.relu_1 blocks.?.back blocks.?.ahead", "activation-missing",
     "block-missing")  # fmt: skip
slip("beats/time-from-one", _CURVES, "weights-perturbed shift", "scale embedding-offset")
slip(
    "beats/coming-backwards",
    "blocks.?.matmul_1 matmul* blocks.?.flip",
    "axis-permutation",
    "rnn-direction weights-perturbed",
)
slip(
    "beats/levelled-by-the-mean",
    "max amax mean true_divide div",
    "pool-kind input-scale input-normalisation",
    "operation-kind",
)
slip("beats/past-added", _LEFT, "operation-kind scale", "operand-order residual-order")
slip("beats/past-alone", _LEFT, "residual-missing block-missing", "wiring")
slip("beats/last-block-alone", "total stack sum mul", "residual-missing block-missing", "wiring")
slip("beats/blocks-in-the-mean", "total stack sum mean", "pool-kind scale", "operation-kind")
slip("beats/level-left", "multiply total mul sum", "block-missing scale", "input-normalisation")
defect("beats/back-for-ahead", "blocks.1.back blocks.1.ahead", "weights-swapped", "weights-perturbed wiring")(
    lambda port: _swap(port.blocks[1])
)


def _swap(block: Beat) -> None:
    block.back.weight, block.ahead.weight = block.ahead.weight, block.back.weight


way("beats/bases-in-the-weights")
one_layer("beats", "past-added+last-block-alone", "time-from-one+coming-backwards")
neighbours("beats", "blocks-in-the-mean+level-left", "second-not-rectified+back-for-ahead")


# --- patches of a series ------------------------------------------------------------------------------------


class Patch(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.level = nn.ParameterDict({"weight": torch.ones(2), "bias": torch.zeros(2)})
        self.embed, self.places = nn.Linear(6, 8), nn.Embedding(8, 8)
        self.query, self.key, self.value, self.result = (nn.Linear(8, 8) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(8, eps=1e-3), nn.LayerNorm(8, eps=1e-3)
        self.wide, self.narrow, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(64, 5)

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2)
        if "patches-viewed" in self.ways:  # of six values one after another, as if none were shared
            return F.pad(x, (0, 24), mode="circular").reshape(-1, 8, 6)
        x = F.pad(x, (0, 3), mode="constant") if "end-of-zeros" in self.ways else F.pad(x, (0, 3), mode="replicate")
        return x.unfold(2, 6, 3).flatten(0, 1)

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        k, v = (v, k) if "value-for-key" in self.ways else (k, v)
        y = F.scaled_dot_product_attention(q, k, v, scale=1.0 if "attention-unscaled" in self.ways else None)
        if "heads-not-turned-back" in self.ways:
            return self.result(y.reshape(x.shape))
        return self.result(y.transpose(1, 2).flatten(2))

    def block(self, x: torch.Tensor) -> torch.Tensor:
        tanh = "tanh" if "gelu-by-tanh" in self.ways else "none"
        if "norms-before" in self.ways:
            x = x + self.attended(self.norm1(x))
            return x + self.narrow(F.gelu(self.wide(self.norm2(x)), approximate=tanh))
        x = self.norm1(x + self.attended(x))
        if "dense-by-name" in self.ways:
            y = torch.einsum("npi,oi->npo", x, self.wide.weight) + self.wide.bias
            y = y * 0.5 * (1 + torch.erf(y / 2**0.5))
            return self.norm2(x + torch.einsum("npi,oi->npo", y, self.narrow.weight) + self.narrow.bias)
        return self.norm2(x + self.narrow(F.gelu(self.wide(x), approximate=tanh)))

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        variance, mean = torch.var_mean(series, 1, keepdim=True, correction=int("deviation-unbiased" in self.ways))
        deviation = torch.sqrt(variance + 1e-5)
        weight, bias = self.level["weight"], self.level["bias"]
        x = (series - mean) / deviation * weight + bias
        x = self.embed(self.patches(x)) + self.places.weight
        x = self.block(x)
        x = x.transpose(1, 2).flatten(1) if "features-outermost" in self.ways else x.flatten(1)
        x = self.head(x).unflatten(0, (-1, 2)).transpose(1, 2)
        if "shift-and-scale-left" not in self.ways:
            x = (x - bias) / weight
        return x * deviation + mean


class _Level(layers.Layer):  # type: ignore[misc]
    """Scales and shifts each series, or takes it back."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.gamma = self.add_weight(name="gamma", shape=(shape[-1],))
        self.beta = self.add_weight(name="beta", shape=(shape[-1],))

    def call(self, x: keras.KerasTensor, back: bool = False) -> keras.KerasTensor:
        return (x - self.beta) / self.gamma if back else x * self.gamma + self.beta


class _Places(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="embeddings", shape=shape[1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.table


@network
def patch() -> Pair:
    """PatchTST: each series levelled, cut into patches that share half, one block, and set back."""
    keras.backend.clear_session()
    series = layers.Input((24, 2), name="series")
    mean = ops.mean(series, axis=1, keepdims=True)
    deviation = ops.sqrt(ops.var(series, axis=1, keepdims=True) + 1e-5)
    level = _Level(name="level")
    x = ops.transpose(level((series - mean) / deviation), (0, 2, 1))
    x = ops.concatenate([x, x[..., -1:], x[..., -1:], x[..., -1:]], axis=-1)
    x = ops.stack([x[..., i : i + 6] for i in range(0, 22, 3)], axis=2)
    x = layers.Dense(8, name="embed")(ops.reshape(x, (-1, 8, 6)))
    x = _Places(name="places")(x)
    att = layers.MultiHeadAttention(2, 4, name="att")
    x = layers.LayerNormalization(name="norm1")(layers.Add(name="sum1")([x, att(x, x)]))
    y = layers.Dense(8, name="narrow")(layers.Dense(12, activation="gelu", name="wide")(x))
    x = layers.LayerNormalization(name="norm2")(layers.Add(name="sum2")([x, y]))
    x = ops.reshape(layers.Dense(5, name="head")(layers.Flatten(name="flat")(x)), (-1, 2, 5))
    x = level(ops.transpose(x, (0, 2, 1)), back=True) * deviation + mean
    model = keras.Model(series, x)
    fill(model)
    for weight, share in ((model.get_layer("wide").kernel, 5), (model.get_layer("norm1").gamma, 0.3)):
        weight.assign(weight * share)
    names = {"att.attention_output": "result"}
    return Pair(
        model, fed(84, 3, 24, 2), ported(model, Patch, rename=lambda n: names.get(n, n.removeprefix("att."))), "same"
    )


_ATT = "att att.* query key value scaled_dot* transpose* unflatten* flatten* reshape* result"
slip(
    "patch/patches-viewed", "stack pad unfold reshape* concatenate get_item* embed", "reshape-order", "wiring pad-mode"
)
slip("patch/end-of-zeros", "concatenate pad unfold stack get_item* reshape* embed", "pad-mode", "operation-kind")
slip("patch/value-for-key", _ATT, "qkv-order weights-swapped", "wiring operand-order")
slip("patch/attention-unscaled", _ATT, "attention-scale", "operation-kind")
slip("patch/heads-not-turned-back", _ATT, "head-layout reshape-order", "axis-permutation")
slip("patch/norms-before", "norm? sum? add_? att att.* query key value wide", "residual-order wiring",
     "operand-order block-missing block-extra operation-kind")  # fmt: skip
slip("patch/gelu-by-tanh", "wide gelu", "gelu-approx")
slip("patch/deviation-unbiased", "var var_mean sqrt add", "std-ddof", "operation-kind")
slip("patch/features-outermost", "flat flatten* transpose* head", "flatten-order dense-row-order", "wiring")
slip("patch/shift-and-scale-left", "level level#1 level#1/* sub_? div_? transpose* mul_? multiply*", "block-missing",
     "scale bias-missing wiring")  # fmt: skip
defect("patch/places-from-one", "places places.weight add* add_?", "embedding-offset", "weights-perturbed shift")(
    rewritten("places.weight", lambda table: table.roll(-1, 0))
)
defect("patch/norm-eps-default", "norm?", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
way("patch/dense-by-name")
one_layer("patch", "value-for-key+attention-unscaled", "gelu-by-tanh+norms-before")
neighbours("patch", "end-of-zeros+places-from-one", "deviation-unbiased+shift-and-scale-left")
