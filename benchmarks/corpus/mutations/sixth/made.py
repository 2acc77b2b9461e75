"""Pictures that are made: in the style of others, and out of noise."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifth.padded import SameConv2d
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    counted,
    defect,
    epsilon,
    exchanged,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    set_to,
    slip,
    way,
)


class Style(Port):
    """Its convolutions mirror the edges without doubling them."""

    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        edges = "replicate" if "edges-repeated" in ways else "reflect"
        last = "zeros" if "last-edges-of-zeros" in ways else "reflect"
        self.look1 = nn.Conv2d(3, 8, 3, padding=1, padding_mode=edges)
        self.look2 = nn.Conv2d(8, 8, 3, padding=0 if "padded-apart" in ways else 1, padding_mode="reflect")
        self.paint1 = nn.Conv2d(8, 6, 3, padding=1, padding_mode=last)
        self.paint2 = nn.Conv2d(6, 3, 3, padding=1, padding_mode="reflect")

    def look(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.look1(x.flip(1) if "blue-first" in self.ways else x))
        x = F.avg_pool2d(x, 2) if "pool-of-means" in self.ways else F.max_pool2d(x, 2)
        return F.relu(self.look2(F.pad(x, (1, 1, 1, 1), mode="reflect") if "padded-apart" in self.ways else x))

    def spread(self, x: torch.Tensor, correction: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        axes = (1, 2, 3) if "all-channels-at-once" in self.ways else (2, 3)
        variance, mean = torch.var_mean(x, dim=axes, keepdim=True, correction=correction)
        return (variance + (1e-5 if "little-added" in self.ways else 1e-3)).sqrt(), mean

    def dressed(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        (one, mean), (other, aim) = self.spread(x, int("deviation-unbiased" in self.ways)), self.spread(style)
        if "as-a-norm" in self.ways:
            return torch.addcmul(aim, F.instance_norm(x, eps=1e-3), other)
        return (x - mean) / one * (other**2 if "variance-of-the-style" in self.ways else other) + aim

    def forward(self, content: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        x = self.look(content)
        y = self.dressed(x, self.look(style))
        x = 0.2 * y + 0.8 * x if "shares-exchanged" in self.ways else 0.8 * y + 0.2 * x
        x = F.relu(self.paint1(x))
        x = F.interpolate(x, scale_factor=2, mode="bilinear" if "raised-smoothly" in self.ways else "nearest")
        return self.paint2(x)


@network
def style() -> Pair:
    """One picture's features with the mean and deviation of another's, and a picture of them."""
    keras.backend.clear_session()
    edges = ((0, 0), (1, 1), (1, 1), (0, 0))
    content, other = (layers.Input((12, 10, 3), name=name) for name in ("content", "style"))
    own = {name: layers.Conv2D(width, 3, activation=act, name=name)
           for name, width, act in (("look1", 8, "relu"), ("look2", 8, "relu"), ("paint1", 6, "relu"),
                                    ("paint2", 3, None))}  # fmt: skip
    pool = layers.MaxPooling2D(2, name="pool")

    def mirrored(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return own[name](ops.pad(x, edges, mode="reflect"))

    x, y = (mirrored(pool(mirrored(image, "look1")), "look2") for image in (content, other))

    def spread(x: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        return ops.sqrt(ops.var(x, axis=(1, 2), keepdims=True) + 1e-3), ops.mean(x, axis=(1, 2), keepdims=True)

    (one, mean), (wanted, aim) = spread(x), spread(y)
    x = layers.Add(name="blended")([0.8 * ((x - mean) / one * wanted + aim), 0.2 * x])
    x = layers.UpSampling2D(2, name="raise")(mirrored(x, "paint1"))
    model = keras.Model([content, other], mirrored(x, "paint2"))
    fill(model)
    inputs = {"content": fed(74, 2, 12, 10, 3), "style": fed(75, 2, 12, 10, 3) * 0.5}
    return Pair(model, inputs, ported(model, Style), "NHWC->NCHW")


_DRESSED = "var* sqrt* mean* subtract* true_divide* multiply* add* sub* div* mul* pow* instance_norm* addcmul*"
slip("style/blue-first", "look1 look1#* flip* pad content style", "channel-order", "weights-swapped kernel-layout")
slip("style/edges-repeated", "look1 look1#* pad*", "pad-mode", "operation-kind")
slip("style/last-edges-of-zeros", "paint1 pad*", "pad-mode", "operation-kind")
slip("style/pool-of-means", "pool pool#* max_pool2d* avg_pool2d*", "pool-kind")
slip("style/all-channels-at-once", _DRESSED, "norm-axis", "operation-kind pool-kind")
slip("style/deviation-unbiased", _DRESSED, "std-ddof", "operation-kind")
slip("style/little-added", _DRESSED, "ln-eps", "bn-eps")
slip("style/variance-of-the-style", _DRESSED, "block-missing block-extra activation-missing activation-extra",
     "operation-kind scale wiring")  # fmt: skip
slip("style/shares-exchanged", "blended multiply_* mul_* add_*", "scale residual-order", "operand-order wiring")
slip("style/raised-smoothly", "raise interpolate", "resize-mode", "operation-kind")
way("style/as-a-norm")
way("style/padded-apart")
one_layer("style", "deviation-unbiased+little-added", "blue-first+edges-repeated")
neighbours("style", "raised-smoothly+last-edges-of-zeros")


# --- out of noise -------------------------------------------------------------------------------------------


class Diffuse(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.time1, self.time2 = nn.Linear(8, 12), nn.Linear(12, 16)
        groups = 4 if "norm-of-more-groups" in ways else 2
        self.stem, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(groups, 8, eps=1e-3)
        self.conv1, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(2, 8, eps=1e-3)
        self.conv2, self.down = nn.Conv2d(8, 8, 3, padding=1), SameConv2d(8, 8, 3, stride=2)
        self.q, self.k, self.v, self.o = (nn.Conv2d(8, 8, 1) for _ in range(4))
        self.up, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def when(self, step: torch.Tensor) -> torch.Tensor:
        rate = torch.exp(-np.log(10000) * torch.arange(4) / (3 if "rates-to-the-end" in self.ways else 4))
        angles = step[:, None] * rate
        both = [angles.sin(), angles.cos()]
        if "sines-and-cosines-in-turn" in self.ways:
            x = torch.stack(both, dim=-1).flatten(1)
        else:
            x = torch.cat(both[::-1] if "cosines-first" in self.ways else both, dim=-1)
        x = self.time1(x)
        return self.time2(x if "time-not-bent" in self.ways else F.silu(x))

    def changed(self, x: torch.Tensor, when: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.when(when)[:, :, None, None].chunk(2, dim=1)
        scale, shift = (shift, scale) if "shift-before-scale" in self.ways else (scale, shift)
        y = self.norm2(y)
        y = y * scale + shift if "one-not-added" in self.ways else y * (1 + scale) + shift
        y = self.conv2(F.silu(y))
        return y if "shortcut-lost" in self.ways else x + y

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).flatten(2) for part in (self.q, self.k, self.v))
        if "attention-of-torch" in self.ways:
            y = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v))).transpose(1, 2)
            return x + self.o(y.reshape(x.shape))
        weights = q.transpose(1, 2) @ k
        weights = weights if "attention-unscaled" in self.ways else weights * 8**-0.5
        weights = F.softmax(weights, dim=1 if "weights-over-queries" in self.ways else 2)
        return x + self.o((v @ weights.transpose(1, 2)).view_as(x))

    def forward(self, noisy: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        x = self.changed(self.stem(noisy), step.float())
        y = self.attended(self.down(x))
        y = self.up(F.interpolate(y, scale_factor=2))
        return self.out(torch.cat([y, x] if "raised-first" in self.ways else [x, y], dim=1))


@network
def diffuse() -> Pair:
    """The noise in a picture at a step: group norms shifted by the step, an attention over few pixels."""
    keras.backend.clear_session()
    noisy, step = layers.Input((8, 8, 3), name="noisy"), layers.Input((), dtype="int32", name="step")
    angles = ops.expand_dims(ops.cast(step, "float32"), 1) * np.exp(-np.log(10000) * np.arange(4) / 4).astype("float32")
    when = layers.Concatenate(name="when")([ops.sin(angles), ops.cos(angles)])
    when = layers.Dense(16, name="time2")(layers.Dense(12, activation="silu", name="time1")(when))
    when = layers.Reshape((1, 1, 16), name="everywhere")(when)
    x = layers.Conv2D(8, 3, padding="same", name="stem")(noisy)
    y = layers.Activation("silu", name="silu1")(layers.GroupNormalization(2, name="norm1")(x))
    y = layers.GroupNormalization(2, name="norm2")(layers.Conv2D(8, 3, padding="same", name="conv1")(y))
    y = layers.Activation("silu", name="silu2")(y * (1 + when[..., :8]) + when[..., 8:])
    x = layers.Add(name="sum1")([x, layers.Conv2D(8, 3, padding="same", name="conv2")(y)])
    y = layers.Conv2D(8, 3, strides=2, padding="same", name="down")(x)
    q, k, v = (layers.Reshape((16, 8), name=f"{name}_list")(layers.Conv2D(8, 1, name=name)(y)) for name in "qkv")
    weights = layers.Softmax(name="weights")(layers.Dot(axes=2, name="scores")([q, k]) * 8**-0.5)
    z = layers.Reshape((4, 4, 8), name="found")(layers.Dot(axes=(2, 1), name="read")([weights, v]))
    y = layers.UpSampling2D(2, name="raise")(layers.Add(name="sum2")([y, layers.Conv2D(8, 1, name="o")(z)]))
    x = layers.Concatenate(name="joined")([x, layers.Conv2D(8, 3, padding="same", name="up")(y)])
    model = keras.Model([noisy, step], layers.Conv2D(3, 3, padding="same", name="out")(x))
    fill(model)
    inputs = {"noisy": fed(76, 3, 8, 8, 3), "step": counted(77, 50, 3, least=5)}
    return Pair(model, inputs, ported(model, Diffuse), "NHWC->NCHW")


_WHEN = "when sin cos cat stack flatten multiply mul exp time1"
slip("diffuse/rates-to-the-end", _WHEN, "scale weights-perturbed embedding-scale", "block-missing")
slip("diffuse/sines-and-cosines-in-turn", _WHEN, "concat-order reshape-order", "wiring operation-kind")
slip("diffuse/cosines-first", _WHEN, "concat-order", "operand-order")
slip("diffuse/time-not-bent", "time1 time2 silu silu_2", "activation-missing", "block-missing")
slip("diffuse/shift-before-scale", "norm2 silu2 chunk* get_item* add* mul* multiply*", "concat-order channel-order",
     "operand-order wiring weights-swapped")  # fmt: skip
slip("diffuse/one-not-added", "norm2 silu2 add* mul* multiply*", "residual-missing block-missing", "bias-missing")
slip("diffuse/shortcut-lost", "sum1 conv2 add_1 add_2 add", "residual-missing", "block-missing wiring")
slip("diffuse/norm-of-more-groups", "norm1", "norm-axis", "groups operation-kind")
slip("diffuse/attention-unscaled", "scores multiply_* mul_* matmul weights softmax", "attention-scale", "wiring")
slip("diffuse/weights-over-queries", "weights softmax", "softmax-axis", "operation-kind")
slip("diffuse/raised-first", "joined cat_1 out", "concat-order", "operand-order")
defect("diffuse/norm-eps-of-others", "norm1 norm2", "ln-eps", "bn-eps")(epsilon(1e-6, nn.GroupNorm))
defect("diffuse/down-padded-around", "down", "pad-asymmetry", "shift")(set_to("down", around=lambda x: [1, 1, 1, 1]))
defect("diffuse/key-for-query", "q k scores matmul", "qkv-order", "weights-perturbed operand-order")(
    exchanged("q", "k")
)
way("diffuse/attention-of-torch")
one_layer("diffuse", "norm-of-more-groups+norm-eps-of-others", "attention-unscaled+weights-over-queries",
          "cosines-first+rates-to-the-end")  # fmt: skip
neighbours("diffuse", "time-not-bent+shift-before-scale")
