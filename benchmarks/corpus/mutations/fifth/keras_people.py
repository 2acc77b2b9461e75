"""Ports to Keras: faces of one person lie beside one another, and what a person will take next."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry_back, fill_torch, values
from benchmarks.corpus.mutations.fifth.registry import mistake, neighbours, network, one_layer, variant
from benchmarks.corpus.mutations.pairs import Pair


class Power(nn.Module):
    """The generalised mean of all places."""

    def __init__(self) -> None:
        super().__init__()
        self.p = 3.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


class Centres(nn.Module):
    """Cosines between a feature and each class' centre, times a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 16.0 * F.linear(F.normalize(x), F.normalize(self.weight))


class Face(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.slope1 = nn.PReLU(8)
        self.deep, self.deep_bn = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.slope2, self.point = nn.LeakyReLU(0.1), nn.Conv2d(8, 12, 1)
        self.pool, self.feature, self.feature_bn = Power(), nn.Linear(12, 8), nn.BatchNorm1d(8)
        self.centres = Centres()

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        mean = picture.mean((1, 2, 3), keepdim=True)
        deviation = picture.std((1, 2, 3), keepdim=True)
        x = (picture - mean) / (deviation + 1e-5)
        x = self.slope1(self.bn1(self.conv1(x)))
        x = self.point(self.slope2(self.deep_bn(self.deep(x))))
        return self.centres(self.feature_bn(self.feature(self.pool(x))))


class _Power(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str, p: float = 3.0, root: bool = True) -> None:
        super().__init__(name=name)
        self.p, self.root = p, root

    def call(self, x: Any) -> Any:
        x = ops.mean(ops.power(ops.maximum(x, 1e-6), self.p), axis=(1, 2))
        return ops.power(x, 1 / self.p) if self.root else x


class _Centres(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str, scale: float, features: bool, centres: bool) -> None:
        super().__init__(name=name)
        self.scale, self.features, self.centres = scale, features, centres
        self.weight = self.add_weight(shape=(5, 8), name="weight")

    def call(self, x: Any) -> Any:
        x = ops.normalize(x, axis=-1) if self.features else x
        weight = ops.normalize(self.weight, axis=-1) if self.centres else self.weight
        return self.scale * ops.matmul(x, ops.transpose(weight))


def _face(**wrong: Any) -> Any:
    keras.backend.clear_session()

    def norm(x: Any, name: str) -> Any:
        return layers.BatchNormalization(epsilon=wrong.get("eps", 1e-5), momentum=0.9, name=name)(x)

    picture = layers.Input((11, 10, 3), name="picture")
    axes = wrong.get("axes", (1, 2, 3))
    count = math.prod(picture.shape[axis] for axis in axes)
    if wrong.get("prepared"):
        x = layers.Rescaling(1 / 127.5, offset=-1.0, name="prepared")(picture)
    elif wrong.get("by_squares"):
        x = picture - ops.mean(picture, axis=axes, keepdims=True)
        x = x / (ops.sqrt(ops.sum(ops.square(x), axis=axes, keepdims=True) / (count - 1)) + 1e-5)
    else:
        deviation = ops.std(picture, axis=axes, keepdims=True)
        deviation = deviation if wrong.get("biased") else deviation * math.sqrt(count / (count - 1))
        x = (picture - ops.mean(picture, axis=axes, keepdims=True)) / (deviation + 1e-5)
    if wrong.get("same"):
        x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="conv1")(x)
    else:
        x = layers.ZeroPadding2D(1, name="pad1")(x)
        x = layers.Conv2D(8, 3, strides=2, use_bias=False, name="conv1")(x)
    x = norm(x, "bn1")
    x = layers.ReLU(name="slope1_relu")(x) if wrong.get("relu") else layers.PReLU(shared_axes=[1, 2], name="slope1")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep")(x)
    x = layers.LeakyReLU(wrong.get("slope", 0.1), name="slope2")(norm(x, "deep_bn"))
    x = layers.Conv2D(12, 1, use_bias=not wrong.get("no_bias"), name="point")(x)
    if wrong.get("mean"):
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    else:
        x = _Power("pool", wrong.get("p", 3.0), not wrong.get("rootless"))(x)
    x = layers.Dense(8, name="feature")(x)
    x = norm(x, "feature_bn")
    x = _Centres("centres", wrong.get("scale", 16.0), not wrong.get("long"), not wrong.get("long_centres"))(x)
    return keras.Model(picture, x)


@network
def face() -> Pair:
    """Features of a face against centres on a sphere, as ArcFace trains them; a mean of third powers."""
    model = Face().eval()
    fill_torch(model)
    model.slope1.weight.data.copy_(torch.linspace(0.05, 0.6, 8))
    for norm in (model.bn1, model.deep_bn):
        norm.running_var.mul_(0.05)  # type: ignore[operator]
    model.point.weight.data *= 2
    rng = np.random.default_rng(55)
    inputs = (rng.integers(0, 256, (3, 3, 11, 10)) * np.array([0.3, 0.6, 1.0])[:, None, None, None]).astype(np.float32)

    def make(**wrong: Any) -> Any:
        state = model.state_dict()
        state["slope1.weight"] = state["slope1.weight"][None, None]
        port = carry_back(SimpleNamespace(state_dict=lambda: state), _face(**wrong))
        if wrong.get("centres_unturned"):
            own = port.get_layer("centres").weight
            own.assign(np.array(own).T.reshape(5, 8))
        if wrong.get("gain_left"):
            norm = port.get_layer("deep_bn")
            norm.set_weights([np.ones(8), np.zeros(8), *norm.get_weights()[2:]])
        if wrong.get("deep_turned"):
            kernel = port.get_layer("deep").kernel
            kernel.assign(np.swapaxes(np.array(kernel), 0, 1))
        return port

    return Pair(model, inputs, make, "NCHW->NHWC")


_STANDARD = "mean std sub div true_divide add subtract multiply picture prepared"
mistake("face/deviation-of-numpy", _STANDARD, "std-ddof", "input-normalisation", biased=True)
mistake("face/each-channel-by-itself", _STANDARD, "norm-axis input-normalisation", "operation-kind", axes=(1, 2))
mistake("face/bytes-to-minus-one", f"{_STANDARD} conv1 pad1", "input-normalisation input-scale",
        "operation-kind norm-axis block-missing", prepared=True)  # fmt: skip
mistake("face/stem-same", "conv1 pad1", "pad-asymmetry", "block-missing", same=True)
mistake("face/slopes-lost", "slope1 slope1_relu", "activation-kind activation-param",
        "operation-kind weights-not-loaded", relu=True)  # fmt: skip
mistake("face/slope-of-keras", "slope2", "activation-param", "activation-kind", slope=0.3)
mistake("face/deep-turned", "deep", "kernel-layout", "axis-permutation weights-perturbed depthwise-order",
        deep_turned=True)  # fmt: skip
mistake("face/gains-left", "deep_bn", "bn-stats weights-not-loaded", "weights-perturbed", gain_left=True)
mistake("face/point-without-bias", "point", "bias-missing", "weights-perturbed", no_bias=True)
mistake("face/mean-for-power", "pool", "pool-kind", "block-missing", mean=True)
mistake("face/root-lost", "pool feature", "block-missing activation-missing", "operation-kind activation-kind",
        rootless=True)  # fmt: skip
mistake("face/second-power", "pool", "activation-param pool-kind", "operation-kind", p=2.0)
mistake("face/norm-eps-of-keras", "bn1 deep_bn feature_bn", "bn-eps", eps=1e-3)
mistake("face/scale-lost", "centres", "scale", "block-missing", scale=1.0)
mistake("face/features-of-any-length", "centres feature_bn", "block-missing", "scale norm-axis", long=True)
mistake("face/centres-of-any-length", "centres", "block-missing", "scale norm-axis weights-perturbed",
        long_centres=True)  # fmt: skip
mistake("face/centres-reshaped", "centres", "kernel-layout dense-transpose", "weights-perturbed",
        centres_unturned=True)  # fmt: skip
variant("face/deviation-by-squares", by_squares=True)
one_layer("face", "scale-lost+features-of-any-length", "second-power+root-lost")
neighbours("face", "deviation-of-numpy+stem-same", "stem-same+norm-eps-of-keras")


# --- what comes next ------------------------------------------------------------------------------------------

_STEPS, _WIDE = 8, 16


class Next(nn.Module):
    """Items seen so far; a block of attention to the past, with norms as SASRec has them."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.places = nn.Embedding(20, _WIDE), nn.Embedding(_STEPS, _WIDE)
        self.norm1, self.attend = nn.LayerNorm(_WIDE, eps=1e-8), nn.MultiheadAttention(_WIDE, 2, batch_first=True)
        self.norm2, self.wide, self.narrow = (
            nn.LayerNorm(_WIDE, eps=1e-8),
            nn.Conv1d(_WIDE, 24, 1),
            nn.Conv1d(24, _WIDE, 1),
        )
        self.norm = nn.LayerNorm(_WIDE, eps=1e-8)
        self.register_buffer("hidden", torch.ones(_STEPS, _STEPS, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        there = (items != 0).unsqueeze(-1)
        x = self.items(items) * _WIDE**0.5 + self.places(torch.arange(_STEPS))
        x = x * there
        q = self.norm1(x)
        x = q + self.attend(q, x, x, attn_mask=self.hidden, need_weights=False)[0]
        y = self.norm2(x)
        x = y + self.narrow(F.relu(self.wide(y.permute(0, 2, 1)))).permute(0, 2, 1)
        x = self.norm(x * there)
        return F.linear(x, self.items.weight)


class _Places(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.weight = self.add_weight(shape=(_STEPS, _WIDE), name="weight")

    def call(self, x: Any) -> Any:
        return ops.add(x, self.weight)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def _split(x: Any, features_first: bool = False) -> Any:
    """Two heads of eight features."""
    if features_first:
        return ops.transpose(ops.reshape(x, (-1, _STEPS, 8, 2)), (0, 3, 1, 2))
    return ops.transpose(ops.reshape(x, (-1, _STEPS, 2, 8)), (0, 2, 1, 3))


def _attended(query: Any, x: Any, **wrong: Any) -> Any:
    """Written out, with a layer for each projection."""
    given = {"query": query, "key": query if wrong.get("keys_normed") else x, "value": x}
    q, k, v = (_split(layers.Dense(_WIDE, name=f"attend.{part}")(own), wrong.get("features_first", False))
               for part, own in given.items())  # fmt: skip
    scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / wrong.get("divisor", math.sqrt(8))
    hidden = np.triu(np.ones((_STEPS, _STEPS), bool), wrong.get("diagonal", 1))
    weights = ops.softmax(ops.where(hidden, np.float32(-1e9), scores), axis=wrong.get("axis", -1))
    x = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
    if wrong.get("heads_unmerged"):
        x = ops.matmul(weights, v)
    return layers.Dense(_WIDE, name="attend.out_proj")(ops.reshape(x, (-1, _STEPS, _WIDE)))


def _next(**wrong: Any) -> Any:
    keras.backend.clear_session()

    def norm(x: Any, name: str) -> Any:
        return layers.LayerNormalization(epsilon=wrong.get("eps", 1e-8), name=name)(x)

    items = layers.Input((_STEPS,), dtype="int32", name="ids")
    there = ops.expand_dims(ops.cast(ops.not_equal(items, 0), "float32"), -1)
    table = layers.Embedding(20, _WIDE, name="items")
    x = table(items)
    x = x if wrong.get("unscaled") else x * math.sqrt(_WIDE)
    x = _Places("places")(x)
    x = x if wrong.get("padding_kept") else layers.Multiply(name="padded")([x, there])
    q = norm(x, "norm1")
    if wrong.get("keras_attention"):
        y = layers.MultiHeadAttention(2, 8, name="attend")(q, x, x, use_causal_mask=True)
    else:
        y = _attended(q, x, **wrong)
    x = layers.Add(name="sum1")([x if wrong.get("from_before") else q, y])
    y = norm(x, "norm2")
    z = layers.Conv1D(24, 1, activation=wrong.get("act", "relu"), name="wide")(y)
    z = layers.Conv1D(_WIDE, 1, name="narrow")(z)
    x = z if wrong.get("second_lost") else layers.Add(name="sum2")([y, z])
    x = norm(layers.Multiply(name="padded_again")([x, there]), "norm")
    if wrong.get("own_head"):
        x = layers.Dense(20, use_bias=False, name="head")(x)
    else:
        x = layers.Lambda(lambda x: ops.matmul(x, ops.transpose(table.embeddings)), name="scores")(x)
    return keras.Model(items, x)


@network
def following() -> Pair:
    """Sequential recommendation: only the query is normed, sums begin at the norm, the items' table scores."""
    model = Next().eval()
    fill_torch(model)
    model.items.weight.data *= 0.25
    model.attend.out_proj.weight.data *= 1.5
    rng = np.random.default_rng(56)
    inputs = rng.integers(1, 20, (3, _STEPS)).astype(np.int32)
    inputs[1, :3] = 0

    def make(**wrong: Any) -> Any:
        state = model.state_dict()
        parts = model.attend.in_proj_weight.chunk(3), model.attend.in_proj_bias.chunk(3)
        for name, weight, bias in zip(wrong.get("parts", ("query", "key", "value")), *parts, strict=True):
            state |= {f"attend.{name}.weight": weight, f"attend.{name}.bias": bias}
        if wrong.get("out_unturned"):
            state["attend.out_proj.weight"] = state["attend.out_proj.weight"].T
        if wrong.get("places_from_one"):
            state["places.weight"] = state["places.weight"].roll(-1, 0)
        state["head.weight"] = torch.from_numpy(values("fresh/kernel", (20, _WIDE), _WIDE))
        return carry_back(SimpleNamespace(state_dict=lambda: state), _next(**wrong))

    return Pair(model, inputs, make, "same")


_SCORES = "attend matmul matmul_1 true_divide where softmax"
mistake("following/unscaled", "items multiply mul places add", "embedding-scale", "block-missing", unscaled=True)
mistake("following/places-from-one", "places places.* add", "embedding-offset",
        "shift weights-perturbed weights-swapped", places_from_one=True)  # fmt: skip
mistake("following/padding-kept", "padded mul_1 places add norm1", "attention-mask block-missing", "wiring",
        padding_kept=True)  # fmt: skip
mistake("following/sees-all", _SCORES, "attention-mask", "weights-perturbed", diagonal=_STEPS)
mistake("following/not-itself", _SCORES, "attention-mask", "weights-perturbed shift", diagonal=0)
mistake("following/divided-by-width", _SCORES, "attention-scale", "scale", divisor=math.sqrt(_WIDE))
mistake("following/weights-over-queries", _SCORES, "softmax-axis", axis=-2)
mistake("following/features-before-heads", f"{_SCORES} reshape* transpose*", "head-layout reshape-order",
        "channel-order axis-permutation flatten-order qkv-order", features_first=True)  # fmt: skip
mistake("following/heads-unmerged", f"{_SCORES} reshape* transpose*", "head-layout reshape-order flatten-order",
        "axis-permutation channel-order", heads_unmerged=True)  # fmt: skip
mistake("following/key-before-query", "attend", "qkv-order weights-swapped", "weights-perturbed wiring",
        parts=("key", "query", "value"))  # fmt: skip
mistake("following/out-unturned", "attend", "dense-transpose", "kernel-layout weights-perturbed",
        out_unturned=True)  # fmt: skip
mistake("following/keys-normed", "attend norm1", "residual-order wiring",
        "operand-order block-extra", keys_normed=True)  # fmt: skip
mistake("following/sum-from-before", "sum1 add_1 norm2", "residual-order wiring", "operand-order",
        from_before=True)  # fmt: skip
mistake("following/second-sum-lost", "sum2 add_2 narrow permute_1 mul_2 padded_again", "residual-missing",
        "block-missing wiring", second_lost=True)  # fmt: skip
mistake("following/hidden-by-gelu", "wide relu", "activation-kind", act="gelu")
mistake("following/norm-eps-of-keras", "norm1 norm2 norm", "ln-eps", eps=1e-3)
mistake("following/head-untied", "head scores linear", "weights-not-loaded",
        "weights-perturbed operation-kind wiring weights-swapped", own_head=True)  # fmt: skip
variant("following/attention-of-keras", keras_attention=True)
one_layer("following", "divided-by-width+sees-all", "key-before-query+out-unturned",
          "weights-over-queries+features-before-heads")  # fmt: skip
neighbours("following", "unscaled+places-from-one", "second-sum-lost+norm-eps-of-keras")
