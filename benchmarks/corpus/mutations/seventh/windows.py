"""Attention in shifted windows, and from few latents to many inputs."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, grown, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported, rewritten

_SIDE, _WINDOW, _SHIFT = 8, 4, 2


def _distances() -> np.ndarray:
    """Row of the table for each two places of a window, (16, 16)."""
    at = np.stack(np.meshgrid(np.arange(_WINDOW), np.arange(_WINDOW), indexing="ij")).reshape(2, -1)
    apart = at[:, :, None] - at[:, None, :] + _WINDOW - 1
    return apart[0] * (2 * _WINDOW - 1) + apart[1]


def _apart() -> np.ndarray:
    """Much less than zero where two places of a shifted window are not neighbours, (4, 16, 16)."""
    part = np.digitize(np.arange(_SIDE), [_SIDE - _WINDOW, _SIDE - _SHIFT])
    parts = (part[:, None] * 3 + part[None]).reshape(2, _WINDOW, 2, _WINDOW).transpose(0, 2, 1, 3).reshape(4, -1)
    return np.where(parts[:, :, None] == parts[:, None], 0, -100).astype(np.float32)


class Windows(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.embed, self.norm1, self.norm2 = nn.Conv2d(3, 8, 1), nn.LayerNorm(8, eps=1e-3), nn.LayerNorm(8, eps=1e-3)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.near = nn.ParameterDict({"table": torch.zeros(49, 2)})
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.merge_norm, self.merge = nn.LayerNorm(32, eps=1e-3), nn.Linear(32, 12, bias=False)
        self.head = nn.Linear(12, 4)
        self.register_buffer("distances", torch.from_numpy(_distances()), persistent=False)
        self.register_buffer("apart", torch.from_numpy(_apart()), persistent=False)

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        if "windows-viewed" in self.ways:
            return x.reshape(-1, 16, 8)
        if "windows-unfolded" in self.ways:
            return x.unfold(1, 4, 4).unfold(2, 4, 4).flatten(4).transpose(3, 4).flatten(0, 2)
        return x.unflatten(1, (2, 4)).unflatten(3, (2, 4)).transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        if "heads-before-parts" in self.ways:
            q, k, v = self.qkv(x).unflatten(2, (2, 3, 4)).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        distances = self.distances.T if "distances-turned" in self.ways else self.distances
        bias = self.near["table"][distances].permute(2, 0, 1)[None]
        bias = torch.zeros_like(bias) if "distances-forgotten" in self.ways else bias
        if "windows-not-parted" not in self.ways:
            bias = bias + self.apart.repeat(len(x) // 4, 1, 1)[:, None]
        if "attention-of-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v, bias)
        else:
            q = q if "attention-unscaled" in self.ways else q * 4**-0.5
            y = F.softmax(q @ k.transpose(2, 3) + bias, dim=-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))

    def merged(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2]]
        if "columns-merged-first" in self.ways:
            parts[1], parts[2] = parts[2], parts[1]
        return self.merge(self.merge_norm(torch.cat(parts, dim=-1)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image).permute(0, 2, 3, 1)
        y = self.norm1(x)
        y = y if "never-rolled" in self.ways else y.roll((-2, -2), (1, 2))
        y = self.attended(self.cut(y)).unflatten(0, (-1, 2, 2)).unflatten(3, (4, 4))
        y = y.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if not {"never-rolled", "never-rolled-back"} & self.ways:
            y = y.roll((2, 2), (1, 2))
        x = x + y
        y = self.narrow(F.gelu(self.wide(self.norm2(x))))
        x = self.merged(y if "second-sum-lost" in self.ways else x + y)
        return self.head(x.mean((1, 2)))


class _Near(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="table", shape=(49, 2))

    def call(self, scores: keras.KerasTensor) -> keras.KerasTensor:
        bias = ops.reshape(ops.take(self.table, _distances().reshape(-1), axis=0), (16, 16, 2))
        return scores + ops.transpose(bias, (2, 0, 1)) + ops.convert_to_tensor(_apart()[:, None])


@network
def windows() -> Pair:
    """A shifted block of a Swin transformer: windows, a bias by distance, and four patches merged."""
    keras.backend.clear_session()
    image = layers.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 1, name="embed")(image)
    y = ops.roll(layers.LayerNormalization(name="norm1")(x), (-2, -2), (1, 2))
    y = ops.reshape(ops.transpose(ops.reshape(y, (-1, 2, 4, 2, 4, 8)), (0, 1, 3, 2, 4, 5)), (-1, 4, 16, 8))
    y = ops.reshape(layers.Dense(24, name="qkv")(y), (-1, 4, 16, 3, 2, 4))
    q, k, v = ops.unstack(ops.transpose(y, (3, 0, 1, 4, 2, 5)), axis=0)
    scores = _Near(name="near")(ops.matmul(q * 0.5, ops.transpose(k, (0, 1, 2, 4, 3))))
    y = ops.matmul(layers.Softmax(name="shares")(scores), v)
    y = layers.Dense(8, name="proj")(ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4)), (-1, 4, 16, 8)))
    y = ops.reshape(ops.transpose(ops.reshape(y, (-1, 2, 2, 4, 4, 8)), (0, 1, 3, 2, 4, 5)), (-1, 8, 8, 8))
    x = layers.Add(name="sum1")([x, ops.roll(y, (2, 2), (1, 2))])
    y = layers.Dense(16, activation="gelu", name="wide")(layers.LayerNormalization(name="norm2")(x))
    x = layers.Add(name="sum2")([x, layers.Dense(8, name="narrow")(y)])
    x = layers.Concatenate(name="merged")([x[:, ::2, ::2], x[:, 1::2, ::2], x[:, ::2, 1::2], x[:, 1::2, 1::2]])
    x = layers.Dense(12, use_bias=False, name="merge")(layers.LayerNormalization(name="merge_norm")(x))
    model = keras.Model(image, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))
    fill(model)
    grown(model, 2, "qkv", "proj")
    near = model.get_layer("near").table
    near.assign(near * 3)
    return Pair(model, fed(108, 2, 8, 8, 3), ported(model, Windows), "NHWC->NCHW")


_ROLLED = "roll* reshape* transpose* flatten* unflatten* norm1 sum1 add* qkv"
_SCORES = "near near.* matmul* add* softmax shares scaled_dot* mul* multiply* proj qkv slice* take* repeat"
slip("windows/never-rolled", _ROLLED, "shift block-missing", "wiring")
slip("windows/never-rolled-back", _ROLLED, "shift block-missing", "wiring")
slip("windows/windows-viewed", _ROLLED, "reshape-order", "wiring")
slip("windows/windows-not-parted", _SCORES, "attention-mask", "bias-missing")
slip("windows/distances-turned", _SCORES, "axis-permutation weights-perturbed", "embedding-offset operand-order")
slip("windows/distances-forgotten", _SCORES, "bias-missing block-missing weights-not-loaded",
     "attention-mask residual-missing")  # fmt: skip
slip("windows/attention-unscaled", _SCORES, "attention-scale", "operation-kind")
slip("windows/heads-before-parts", "qkv unflatten* permute* reshape* transpose* unstack* " + _SCORES,
     "qkv-order head-layout reshape-order", "wiring channel-order weights-swapped")  # fmt: skip
slip("windows/columns-merged-first", "merged cat merge_norm", "concat-order", "operand-order reshape-order wiring")
slip("windows/second-sum-lost", "sum2 add* narrow merged slice* get_item* cat", "residual-missing",
     "block-missing wiring")  # fmt: skip
defect("windows/norm-eps-of-torch", "norm? merge_norm", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
ways("windows", "windows-unfolded", "attention-of-torch")
one_layer("windows", "distances-turned+windows-not-parted", "attention-unscaled+distances-forgotten")
neighbours("windows", "never-rolled-back+second-sum-lost", "windows-viewed+attention-unscaled")


# --- few latents --------------------------------------------------------------------------------------------


class Attend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.attention_output = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)


class Latents(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.first = nn.ParameterDict({"table": torch.zeros(3, 8)})
        self.embed, self.norm_in, self.norm_of = nn.Linear(8, 8), nn.LayerNorm(8, eps=1e-3), nn.LayerNorm(8, eps=1e-3)
        self.cross, self.norm_wide = Attend(), nn.LayerNorm(8, eps=1e-3)
        self.wide, self.narrow, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 3)

    def attended(self, x: torch.Tensor, given: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        own = self.cross
        query, key, value = own.query, own.key, own.value
        there = torch.ones_like(there) if "padding-attended" in self.ways else there
        if "attention-of-torch" in self.ways:
            weight = torch.cat([part.weight for part in (query, key, value)])
            bias = torch.cat([part.bias for part in (query, key, value)])
            result = own.attention_output
            x, given = x.transpose(0, 1), given.transpose(0, 1)
            return F.multi_head_attention_forward(
                x, given, given, 8, 2, weight, bias, None, None, False, 0.0, result.weight, result.bias,
                training=False, key_padding_mask=~there, need_weights=False,
            )[0].transpose(0, 1)  # fmt: skip
        turned = (lambda y: y.unflatten(2, (4, 2)).permute(0, 3, 1, 2)) if "heads-innermost" in self.ways else (
            lambda y: y.unflatten(2, (2, 4)).transpose(1, 2)
        )  # fmt: skip
        q, k, v = turned(query(x)), turned(key(given)), turned(value(given))
        scores = q @ k.transpose(2, 3) / (8**0.5 if "scaled-by-all-features" in self.ways else 2)
        scores = scores.masked_fill(~there[:, None, None], -1e9)
        y = F.softmax(scores, dim=2 if "shares-over-the-latents" in self.ways else 3) @ v
        if "heads-innermost" in self.ways:
            return own.attention_output(y.permute(0, 2, 3, 1).flatten(2))
        if "heads-viewed-back" in self.ways:
            return own.attention_output(y.reshape(x.shape))
        return own.attention_output(y.transpose(1, 2).flatten(2))

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        there = given.abs().sum(2) > 0
        places = torch.arange(9.0)[:, None] * (torch.pi * torch.tensor([0.125, 0.25]))
        waves = torch.stack([places.sin(), places.cos()], dim=-1).flatten(1) if "waves-in-turn" in self.ways else (
            torch.cat([places.sin(), places.cos()], dim=-1)
        )  # fmt: skip
        waves = waves.expand(len(given), -1, -1)
        x = torch.cat([waves, given] if "waves-first" in self.ways else [given, waves], dim=2)
        given = self.norm_in(self.embed(x))
        x = self.first["table"].expand(len(given), -1, -1)
        asking = x if "latents-not-normed" in self.ways else self.norm_of(x)
        y = self.attended(asking, given, there)
        x = y if "latents-not-added" in self.ways else x + y
        x = x + self.narrow(F.gelu(self.wide(self.norm_wide(x))))
        return self.head(x[:, 0] if "first-latent-alone" in self.ways else x.mean(1))


class _First(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="table", shape=(3, 8))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.broadcast_to(self.table[None], (ops.shape(x)[0], 3, 8))


class _There(layers.Layer):  # type: ignore[misc]
    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.sum(ops.absolute(x), axis=-1)[:, None] > 0


@network
def latents() -> Pair:
    """A Perceiver's first block: three latents look at nine steps of which some are padding."""
    keras.backend.clear_session()
    given = layers.Input((9, 4), name="given")
    places = np.arange(9)[:, None] * (np.pi * np.array([0.125, 0.25]))
    waves = np.concatenate([np.sin(places), np.cos(places)], axis=1).astype("float32")[None]
    x = ops.concatenate([given, ops.zeros_like(given) + waves], axis=-1)
    x = layers.LayerNormalization(name="norm_in")(layers.Dense(8, name="embed")(x))
    first = _First(name="first")(x)
    y = layers.LayerNormalization(name="norm_of")(first)
    y = layers.MultiHeadAttention(2, 4, name="cross")(y, x, attention_mask=_There(name="there")(given))
    x = layers.Add(name="sum1")([first, y])
    y = layers.Dense(16, activation="gelu", name="wide")(layers.LayerNormalization(name="norm_wide")(x))
    x = layers.Add(name="sum2")([x, layers.Dense(8, name="narrow")(y)])
    model = keras.Model(given, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D(name="pool")(x)))
    fill(model)
    inputs = fed(109, 4, 9, 4)
    inputs[1, 6:], inputs[2, 4:], inputs[3, 8:] = 0, 0, 0
    for layer in model.get_layer("cross")._flatten_layers(include_self=False):
        if layer.name in ("query", "key"):
            layer.kernel.assign(layer.kernel * 4)
    return Pair(model, inputs, ported(model, Latents), "same")


_CROSS = "cross cross.* softmax masked_fill matmul* div* transpose* unflatten* flatten* reshape* permute*"
slip("latents/padding-attended", _CROSS, "attention-mask", "block-missing")
slip("latents/heads-innermost", _CROSS, "head-layout reshape-order", "channel-order")
slip("latents/heads-viewed-back", _CROSS, "head-layout reshape-order", "axis-permutation")
slip("latents/scaled-by-all-features", _CROSS, "attention-scale", "scale")
slip("latents/shares-over-the-latents", _CROSS, "softmax-axis", "operation-kind")
slip("latents/waves-in-turn", "concatenate* cat* stack sin cos flatten expand embed", "concat-order reshape-order",
     "operation-kind wiring channel-order weights-perturbed")  # fmt: skip
slip("latents/waves-first", "concatenate cat* embed", "concat-order", "operand-order")
slip("latents/latents-not-normed", "norm_of cross cross.*", "block-missing", "wiring")
slip("latents/latents-not-added", "sum1 add* cross cross.* norm_wide", "residual-missing", "block-missing wiring")
slip("latents/first-latent-alone", "pool mean slice* head", "pool-kind rnn-last-step", "operation-kind block-missing")
defect("latents/keys-for-queries", "cross cross.*", "qkv-order weights-swapped", "weights-perturbed wiring")(
    exchanged("cross.query", "cross.key")
)
defect("latents/value-unturned", "cross cross.*", "dense-transpose", "weights-perturbed kernel-layout")(
    rewritten("cross.value.weight", lambda weight: weight.T)
)
defect("latents/latents-as-begun", "first first.* expand* norm_of", "weights-not-loaded", "weights-perturbed")(
    rewritten("first.table", lambda table: 0.1 * torch.from_numpy(fed(110, *table.shape)))
)
ways("latents", "attention-of-torch")
one_layer("latents", "padding-attended+shares-over-the-latents", "keys-for-queries+value-unturned",
          "waves-first+waves-in-turn")  # fmt: skip
neighbours("latents", "latents-not-normed+scaled-by-all-features")
