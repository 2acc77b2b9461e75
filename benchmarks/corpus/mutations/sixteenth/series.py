"""Series: engines by a transformer, sales by dense blocks, and a memory of the past."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixteenth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to


class Ford(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.attention = nn.ModuleDict({name: nn.Linear(6, 8) for name in ("query", "key", "value")})
        self.attention["attention_output"] = nn.Linear(8, 6)
        self.norm1, self.norm2 = nn.LayerNorm(6, eps=1e-6), nn.LayerNorm(6, eps=1e-6)
        self.near, self.far = nn.Conv1d(6, 6, 1), nn.Conv1d(6, 6, 1)
        self.dense, self.label = nn.Linear(6, 8), nn.Linear(8, 3)

    def looked(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.attention[name](x).unflatten(2, (2, 4)).transpose(1, 2) for name in ("query", "key", "value"))
        if "looked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = F.softmax(q @ k.mT / (6**0.5 if "scaled-by-the-series" in self.ways else 2), dim=3) @ v
        y = y.permute(0, 2, 3, 1) if "heads-innermost" in self.ways else y.transpose(1, 2)
        return self.attention["attention_output"](y.flatten(2))

    def points(self, x: torch.Tensor) -> torch.Tensor:
        if "points-by-products" in self.ways:
            y = F.relu(F.linear(x, self.near.weight[:, :, 0], self.near.bias))
            return F.linear(y, self.far.weight[:, :, 0], self.far.bias)
        y = self.near(x.mT)
        return self.far(y if "points-not-bent" in self.ways else F.relu(y)).mT

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        if "norms-behind-the-sums" in self.ways:
            x = self.norm1(self.looked(series) + series)
            x = self.norm2(self.points(x) + x)
        else:
            x = self.norm1(self.looked(series)) + series
            y = self.norm2(self.points(x))
            x = y if "points-alone" in self.ways else y + x
        x = x.mean(1 if "mean-over-steps" in self.ways else 2)
        return F.softmax(self.label(F.relu(self.dense(x))), dim=1)


@network
def ford() -> Pair:
    """A transformer for series as Keras' example has it: norms inside the branches, a mean that keeps the steps."""
    keras.backend.clear_session()
    series = layers.Input((6, 6), name="series")
    x = layers.MultiHeadAttention(2, 4, name="attention")(series, series)
    x = layers.Add(name="sum1")([layers.LayerNormalization(epsilon=1e-6, name="norm1")(x), series])
    y = layers.Conv1D(6, 1, activation="relu", name="near")(x)
    y = layers.LayerNormalization(epsilon=1e-6, name="norm2")(layers.Conv1D(6, 1, name="far")(y))
    x = layers.Add(name="sum2")([y, x])
    x = layers.GlobalAveragePooling1D(data_format="channels_first", name="pool")(x)
    x = layers.Dense(8, activation="relu", name="dense")(x)
    model = keras.Model(series, layers.Dense(3, activation="softmax", name="label")(x))
    fill(model)
    for part in (model.get_layer("attention").output_dense, model.get_layer("far")):
        part.kernel.assign(part.kernel * 0.02)
        part.bias.assign(part.bias * 0.02)
    for part in (model.get_layer("attention").query_dense, model.get_layer("attention").key_dense):
        part.kernel.assign(part.kernel * 2)
    grown(model, 3, "dense", "label")
    return Pair(model, fed(1621, 4, 6, 6), ported(model, Ford), "same")


_LOOK = "attention matmul* softmax* div* truediv* transpose* permute* unflatten* flatten* norm1"
slip("ford/scaled-by-the-series", _LOOK, "attention-scale", "scale")
slip("ford/heads-innermost", _LOOK, "head-layout reshape-order", "channel-order axis-permutation wiring")
slip("ford/points-not-bent", "near relu* far", "activation-missing", "block-missing")
slip("ford/norms-behind-the-sums", "norm? sum? add* near far", "residual-order", "wiring operand-order")
slip("ford/points-alone", "norm2 sum2 add* pool mean*", "residual-missing", "wiring block-missing")
slip("ford/mean-over-steps", "pool mean* dense", "norm-axis axis-permutation wiring", "pool-kind operation-kind")
defect("ford/norm-eps-of-torch", "norm1 norm2", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("ford/point-as-it-lies", "near", "kernel-layout dense-transpose", "weights-perturbed axis-permutation")(
    rewritten("near.weight", lambda weight: weight.transpose(0, 1))
)
defect("ford/output-not-biased", "attention", "bias-missing", "weights-not-loaded")(
    set_to("attention.attention_output", bias=None)
)
ways("ford", "looked-by-torch", "points-by-products")
one_layer("ford", "heads-innermost+scaled-by-the-series", "points-not-bent+point-as-it-lies")
neighbours("ford", "points-alone+mean-over-steps", "output-not-biased+norm-eps-of-torch")


# --- dense blocks -------------------------------------------------------------------------------------------


class Tide(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, given, hidden, out in (("known", 3, 5, 2), ("encode", 34, 9, 6), ("decode", 6, 9, 12)):
            self.add_module(f"{name}_in", nn.Linear(given, hidden))
            self.add_module(f"{name}_out", nn.Linear(hidden, out))
            self.add_module(f"{name}_skip", nn.Linear(given, out))
            self.add_module(f"{name}_norm", nn.LayerNorm(out, eps=1e-3))
        self.step_in, self.step_out, self.step_skip = nn.Linear(5, 6), nn.Linear(6, 1), nn.Linear(5, 1)
        self.straight = nn.Linear(8, 4)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        enter, leave, skip = (self.get_submodule(f"{name}_{end}") for end in ("in", "out", "skip"))
        y = enter(x)
        y = leave(y if name == "encode" and "encoder-not-bent" in self.ways else F.relu(y))
        if name == "step":
            return y + skip(x)
        norm = self.get_submodule(f"{name}_norm")
        if name == "decode" and "norm-before-the-sum" in self.ways:
            return norm(y) + skip(x)
        y = y + skip(x)
        if "norms-by-hand" in self.ways:
            var, mean = torch.var_mean(y, dim=-1, correction=0, keepdim=True)
            return (y - mean) / torch.sqrt(var + 1e-3) * norm.weight + norm.bias
        return norm(y)

    def forward(self, past: torch.Tensor, known: torch.Tensor, shop: torch.Tensor) -> torch.Tensor:
        if "known-in-rows" in self.ways:
            x = self.block("known", known.reshape(-1, 3)).reshape(-1, 12, 2)
        else:
            x = self.block("known", known)
        row = x.mT.flatten(1) if "known-by-feature" in self.ways else x.flatten(1)
        both = [shop, past, row] if "shop-first" in self.ways else [past, shop, row]
        y = self.block("decode", self.block("encode", torch.cat(both, dim=1)))
        y = y.unflatten(1, (3, 4)).mT if "steps-innermost" in self.ways else y.unflatten(1, (4, 3))
        ahead = x[:, :4] if "first-steps-known" in self.ways else x[:, 8:]
        y = self.block("step", torch.cat([y, ahead], dim=2))[..., 0]
        return y if "straight-forgotten" in self.ways else y + self.straight(past)


@network
def tide() -> Pair:
    """TiDE: what is known of each step made small, one code for all, a row for each step ahead, a straight line."""
    keras.backend.clear_session()
    past, known, shop = (layers.Input(shape, name=name)
                         for name, shape in (("past", (8,)), ("known", (12, 3)), ("shop", (2,))))  # fmt: skip

    def block(x: keras.KerasTensor, name: str, hidden: int, out: int, norm: bool = True) -> keras.KerasTensor:
        y = layers.Dense(out, name=f"{name}_out")(layers.Dense(hidden, activation="relu", name=f"{name}_in")(x))
        y = layers.Add(name=f"{name}_sum")([y, layers.Dense(out, name=f"{name}_skip")(x)])
        return layers.LayerNormalization(name=f"{name}_norm")(y) if norm else y

    x = block(known, "known", 5, 2)
    y = layers.Concatenate(name="all")([past, shop, layers.Flatten(name="known_row")(x)])
    y = layers.Reshape((4, 3), name="steps")(block(block(y, "encode", 9, 6), "decode", 9, 12))
    y = block(layers.Concatenate(name="ahead")([y, x[:, 8:]]), "step", 6, 1, norm=False)
    y = layers.Add(name="told")([layers.Reshape((4,), name="row")(y), layers.Dense(4, name="straight")(past)])
    model = keras.Model([past, known, shop], y)
    fill(model)
    inputs = {"past": fed(1622, 4, 8), "known": fed(1623, 4, 12, 3) * 0.3, "shop": fed(1624, 4, 2)}
    return Pair(model, inputs, ported(model, Tide), "same")


_ALL = "all cat* known_row flatten* mT* encode_in encode_skip"
_AHEAD = "steps unflatten* mT* ahead cat* get_item* slice* step_in step_skip"
slip("tide/encoder-not-bent", "encode_in relu* encode_out", "activation-missing", "block-missing")
slip("tide/norm-before-the-sum", "decode_norm decode_sum add* decode_skip decode_out", "residual-order",
     "wiring operand-order")  # fmt: skip
slip("tide/known-by-feature", _ALL, "flatten-order dense-row-order", "wiring")
slip("tide/shop-first", _ALL, "concat-order", "operand-order wiring channel-order")
slip("tide/steps-innermost", _AHEAD, "reshape-order", "wiring")
slip("tide/first-steps-known", _AHEAD, "wiring shift", "operand-order concat-order")
slip("tide/straight-forgotten", "told add* straight row", "residual-missing", "block-missing wiring")
defect("tide/norm-eps-of-torch", "*_norm", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("tide/skip-not-biased", "encode_skip", "bias-missing", "weights-not-loaded")(set_to("encode_skip", bias=None))
ways("tide", "known-in-rows", "norms-by-hand")
one_layer("tide", "known-by-feature+shop-first", "steps-innermost+first-steps-known")
neighbours("tide", "encoder-not-bent+skip-not-biased", "norm-before-the-sum+steps-innermost")


# --- a memory -----------------------------------------------------------------------------------------------


def _legendre(order: int, span: float) -> tuple[np.ndarray, np.ndarray]:
    """How a window's Legendre coefficients move on, in continuous time (Voelker and others, 2019)."""
    q = np.arange(order)
    step = (2 * q + 1)[:, None] / span
    sign = np.where(q[:, None] < q, -1.0, (-1.0) ** (q[:, None] - q + 1))
    return sign * step, (-1.0) ** q[:, None] * step


def _held(order: int, span: float) -> tuple[np.ndarray, np.ndarray]:
    """The same from step to step, what comes in held between them."""
    a, b = _legendre(order, span)
    moved = np.linalg.matrix_power(np.eye(order) + a / 2**16, 2**16)
    return moved.astype(np.float32), (np.linalg.inv(a) @ (moved - np.eye(order)) @ b).astype(np.float32)


_A, _B = _held(4, 6.0)
_EULER = tuple(part.astype(np.float32) for part in (np.eye(4) + _legendre(4, 6.0)[0], _legendre(4, 6.0)[1]))


class Memory(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, wide in (("x", 2), ("h", 5), ("m", 4)):
            self.add_module(f"told_{name}", nn.Linear(wide, 1, bias=False))
            self.add_module(f"new_{name}", nn.Linear(wide, 5, bias=False))
        self.out = nn.Linear(5, 3)

    def summed(self, name: str, *parts: torch.Tensor) -> torch.Tensor:
        own = [self.get_submodule(f"{name}_{end}") for end in ("x", "h", "m")]
        if "one-product" in self.ways:
            return torch.cat(parts, dim=1) @ torch.cat([one.weight for one in own], dim=1).T
        if name == "told" and "memory-not-told" in self.ways:
            return own[0](parts[0]) + own[1](parts[1])
        return own[0](parts[0]) + own[1](parts[1]) + own[2](parts[2])

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        a, b = (torch.from_numpy(part) for part in (_EULER if "steps-of-euler" in self.ways else (_A, _B)))
        a = a if "memory-turned" in self.ways else a.T
        h, m = series.new_zeros(len(series), 5), series.new_zeros(len(series), 4)
        found = []
        for x in (series.flip(1) if "read-backwards" in self.ways else series).unbind(1):
            u = self.summed("told", x, h, m)
            new = torch.einsum("bi,ij->bj", m, a) + u * b[:, 0] if "moved-by-einsum" in self.ways else m @ a + u @ b.T
            h = self.summed("new", x, h, m if "memory-of-before" in self.ways else new)
            h = h if "state-not-bent" in self.ways else torch.tanh(h)
            m = new
            found.append(h)
        return self.out(torch.stack(found, dim=1).mean(1) if "mean-of-steps" in self.ways else h)


@network
def memory() -> Pair:
    """A Legendre memory unit, its steps written out: a window's coefficients that are told one number at a time."""
    keras.backend.clear_session()
    series = layers.Input((5, 2), name="series")
    told = [layers.Dense(1, use_bias=False, name=f"told_{name}") for name in ("x", "h", "m")]
    new = [layers.Dense(5, use_bias=False, name=f"new_{name}") for name in ("x", "h", "m")]
    h = ops.zeros_like(ops.repeat(series[:, 0, :1], 5, axis=1))
    m = ops.zeros_like(ops.repeat(series[:, 0, :1], 4, axis=1))
    for t in range(5):
        parts = (series[:, t], h, m)
        u = layers.Add(name=f"told{t}")([layer(part) for layer, part in zip(told, parts, strict=True)])
        m = ops.matmul(m, _A.T) + ops.matmul(u, _B.T)
        parts = (series[:, t], h, m)
        h = ops.tanh(layers.Add(name=f"new{t}")([layer(part) for layer, part in zip(new, parts, strict=True)]))
    model = keras.Model(series, layers.Dense(3, name="out")(h))
    fill(model)
    grown(model, 3, "new_m")
    return Pair(model, fed(1625, 4, 5, 2), ported(model, Memory), "same")


_MOVE = "matmul* add* mul* T told? told_m told_x told_h new_m"
_NEW = "new? new_? add* tanh* out"
slip("memory/steps-of-euler", _MOVE, "weights-perturbed", "weights-not-loaded operation-kind")
slip("memory/memory-turned", _MOVE, "dense-transpose axis-permutation",
     "weights-perturbed kernel-layout block-missing")  # fmt: skip
slip("memory/memory-not-told", _MOVE, "block-missing residual-missing", "wiring")
slip("memory/memory-of-before", _NEW, "wiring", "shift operand-order residual-missing")
slip("memory/state-not-bent", _NEW, "activation-missing", "block-missing")
slip("memory/mean-of-steps", "out tanh* mean* stack*", "rnn-last-step pool-kind", "block-extra wiring")
slip("memory/read-backwards", "series input* flip* get_item* unbind* told_x new_x", "rnn-direction", "axis-permutation")
ways("memory", "one-product", "moved-by-einsum")
one_layer("memory", "steps-of-euler+memory-turned", "memory-of-before+state-not-bent")
neighbours("memory", "memory-not-told+state-not-bent")
