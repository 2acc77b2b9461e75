"""Attention: a Segformer block, a GPT block, and a block that a time modulates."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten
from benchmarks.corpus.mutations.tenth.registry import defect, neighbours, network, one_layer, slip, ways


def _heads(x: keras.KerasTensor, count: int) -> keras.KerasTensor:
    return ops.transpose(ops.reshape(x, (-1, count, 2, 4)), (0, 2, 1, 3))


def _looked(
    q: keras.KerasTensor, k: keras.KerasTensor, v: keras.KerasTensor, mask: np.ndarray | None = None
) -> keras.KerasTensor:
    """Two heads of four features each."""
    scores = ops.matmul(_heads(q, q.shape[1]), ops.transpose(_heads(k, k.shape[1]), (0, 1, 3, 2))) / 2
    shares = ops.softmax(scores if mask is None else scores + mask, axis=-1)
    y = ops.matmul(shares, _heads(v, v.shape[1]))
    return ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, q.shape[1], 8))


class Scene(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.patch, self.less = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 2, stride=2)
        self.norm0, self.norm1, self.norm2, self.less_norm = (nn.LayerNorm(8, eps=1e-6) for _ in range(4))
        self.query, self.both, self.mix = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 8)
        self.wide, self.deep = nn.Linear(8, 12), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.narrow, self.head = nn.Linear(12, 8), nn.Linear(8, 8)

    def grid(self, x: torch.Tensor) -> torch.Tensor:
        if "tokens-viewed-as-maps" in self.ways:
            return x.reshape(len(x), -1, 6, 6)
        return x.transpose(1, 2).unflatten(2, (6, 6))

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (2, 4)).transpose(1, 2)

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        less = self.less(self.grid(x)).flatten(2).transpose(1, 2)
        less = less if "fewer-not-normed" in self.ways else self.less_norm(less)
        k, v = self.both(less).chunk(2, dim=2)
        k, v = (v, k) if "values-first" in self.ways else (k, v)
        q, k, v = (self.heads(part) for part in (self.query(x), k, v))
        if "looked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.transpose(2, 3) / (8**0.5 if "scaled-by-the-whole-width" in self.ways else 2)
            y = F.softmax(scores, dim=2 if "shared-among-queries" in self.ways else 3) @ v
        return self.mix((y if "heads-not-turned-back" in self.ways else y.transpose(1, 2)).reshape(x.shape))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.norm0(self.patch(image).flatten(2).transpose(1, 2))
        x = x + self.attended(self.norm1(x))
        y = self.deep(self.grid(self.wide(self.norm2(x)))).flatten(2).transpose(1, 2)
        x = x + self.narrow(F.gelu(y, approximate="tanh" if "gelu-by-tanh" in self.ways else "none"))
        x = self.head(x).transpose(1, 2).unflatten(2, (6, 6))
        if "pixels-of-torch" in self.ways:
            return F.pixel_shuffle(x, 2)
        return x.unflatten(1, (2, 2, 2)).permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


@network
def scene() -> Pair:
    """Segformer: many queries look at fewer keys, a depthwise kernel between two dense layers, depth to space."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")

    def norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.LayerNormalization(epsilon=1e-6, name=name)(x)

    x = layers.Conv2D(8, 3, 2, name="patch")(layers.ZeroPadding2D(name="around")(image))
    x = norm(layers.Reshape((36, 8), name="tokens")(x), "norm0")
    y = norm(x, "norm1")
    less = layers.Conv2D(8, 2, 2, name="less")(layers.Reshape((6, 6, 8), name="grid1")(y))
    k, v = ops.split(layers.Dense(16, name="both")(norm(layers.Reshape((9, 8), name="fewer")(less), "less_norm")), 2, 2)
    y = layers.Dense(8, name="mix")(_looked(layers.Dense(8, name="query")(y), k, v))
    x = layers.Add(name="sum1")([x, y])
    y = layers.Reshape((6, 6, 12), name="grid2")(layers.Dense(12, name="wide")(norm(x, "norm2")))
    y = layers.Reshape((36, 12), name="back")(layers.DepthwiseConv2D(3, padding="same", name="deep")(y))
    y = layers.Dense(8, name="narrow")(layers.Activation("gelu", name="gelu")(y))
    x = layers.Dense(8, name="head")(layers.Add(name="sum2")([x, y]))
    x = ops.transpose(layers.Reshape((6, 6, 2, 2, 2), name="squares")(x), (0, 1, 3, 2, 4, 5))
    model = keras.Model(image, layers.Reshape((12, 12, 2), name="labels")(x))
    fill(model)
    grown(model, 2, "query", "both", "wide")
    return Pair(model, fed(1041, 2, 12, 12, 3), ported(model, Scene), "NHWC->NCHW")


_LOOK = "both query mix matmul* softmax* div* truediv* transpose* reshape* split* chunk* unflatten*"
slip("scene/tokens-viewed-as-maps", "grid? reshape* less deep unflatten* transpose*", "reshape-order", "wiring")
slip("scene/fewer-not-normed", "less less_norm both", "block-missing", "wiring")
slip("scene/values-first", _LOOK, "qkv-order concat-order", "operand-order wiring channel-order weights-swapped")
slip("scene/scaled-by-the-whole-width", _LOOK, "attention-scale", "scale")
slip("scene/shared-among-queries", _LOOK, "softmax-axis", "operation-kind")
slip("scene/heads-not-turned-back", _LOOK, "head-layout reshape-order", "wiring channel-order")
slip("scene/gelu-by-tanh", "gelu* narrow", "gelu-approx")
slip("scene/pixels-of-torch", "squares labels transpose* pixel_shuffle* head unflatten* permute* flatten*",
     "depth-to-space-order")  # fmt: skip
defect("scene/norm-eps-of-keras", "norm? less_norm", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
ways("scene", "looked-by-torch")
one_layer("scene", "values-first+scaled-by-the-whole-width", "shared-among-queries+heads-not-turned-back")
neighbours("scene", "fewer-not-normed+values-first")


# --- a language model ---------------------------------------------------------------------------------------


class Gpt(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.places = nn.Embedding(12, 8), nn.Embedding(10, 8)
        self.norm1, self.norm2, self.last = (nn.LayerNorm(8, eps=1e-5) for _ in range(3))
        self.qkv, self.proj, self.wide, self.narrow = (
            nn.Linear(*shape) for shape in ((8, 24), (8, 8), (8, 16), (16, 8))
        )

    def parts(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = self.qkv(x)
        if "parts-of-each-head" in self.ways:
            return list(y.unflatten(2, (2, 3, 4)).permute(3, 0, 2, 1, 4).unbind(0))
        q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in y.chunk(3, dim=2))
        return [k, q, v] if "keys-first" in self.ways else [q, k, v]

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.parts(x)
        if "each-head-alone" in self.ways:
            mask = torch.full((7, 7), -torch.inf).triu(1)
            y = [F.softmax(q[:, i] @ k[:, i].mT / 2 + mask, dim=2) @ v[:, i] for i in (0, 1)]
            return self.proj(torch.cat(y, dim=2))
        scale = 1.0 if "scores-unscaled" in self.ways else None
        y = F.scaled_dot_product_attention(q, k, v, is_causal="future-seen" not in self.ways, scale=scale)
        return self.proj(y.transpose(1, 2).flatten(2))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        start = int("places-from-one" in self.ways)
        x = self.words(words)
        x = x * 8**0.5 if "words-scaled" in self.ways else x
        x = x + self.places(torch.arange(start, start + 7))
        y = self.norm1(x)
        x = (y if "skip-behind-the-norm" in self.ways else x) + self.attended(y)
        y = self.wide(self.norm2(x))
        y = F.gelu(y) if "gelu-by-erf" in self.ways else F.gelu(y, approximate="tanh")
        x = self.last(x + self.narrow(y))
        return x @ self.words.weight.T


class _Placed(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.embeddings = self.add_weight(name="embeddings", shape=(10, 8))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.embeddings[: x.shape[1]]


class _Scores(layers.Layer):  # type: ignore[misc]
    """Of each word, by a table that is another layer's."""

    def __init__(self, table: layers.Embedding, **own: str) -> None:
        super().__init__(**own)
        self.table = lambda: table.embeddings

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.matmul(x, ops.transpose(self.table()))


@network
def gpt() -> Pair:
    """GPT-2: norms before, one product for queries, keys and values, a gelu by tanh, the words' table for scores."""
    keras.backend.clear_session()
    words = layers.Input((7,), dtype="int32", name="tokens")
    table = layers.Embedding(12, 8, name="words")
    x = _Placed(name="places")(table(words))
    y = layers.Dense(24, name="qkv")(layers.LayerNormalization(epsilon=1e-5, name="norm1")(x))
    mask = np.triu(np.full((7, 7), -1e9, np.float32), 1)
    y = layers.Dense(8, name="proj")(_looked(*ops.split(y, 3, axis=2), mask))
    x = layers.Add(name="sum1")([x, y])
    y = layers.Dense(16, name="wide")(layers.LayerNormalization(epsilon=1e-5, name="norm2")(x))
    y = layers.Dense(8, name="narrow")(ops.gelu(y, approximate=True))
    x = layers.LayerNormalization(epsilon=1e-5, name="last")(layers.Add(name="sum2")([x, y]))
    model = keras.Model(words, _Scores(table, name="scores")(x))
    fill(model)
    grown(model, 2, "qkv", "wide")
    return Pair(model, counted(1042, 12, 3, 7), ported(model, Gpt), "same")


_PARTS = (
    "qkv proj matmul* softmax* scaled_dot* split* chunk* transpose* reshape* unflatten* permute* div* truediv* add*"
)
slip("gpt/parts-of-each-head", _PARTS, "head-layout qkv-order reshape-order", "channel-order concat-order wiring")
slip("gpt/keys-first", _PARTS, "qkv-order concat-order", "operand-order wiring channel-order weights-swapped")
slip("gpt/scores-unscaled", _PARTS, "attention-scale", "scale block-missing")
slip("gpt/future-seen", _PARTS, "attention-mask", "block-missing")
slip("gpt/places-from-one", "places words add* arange*", "embedding-offset", "shift weights-perturbed")
slip("gpt/words-scaled", "places words add* mul*", "embedding-scale", "scale block-extra")
slip("gpt/skip-behind-the-norm", "sum1 add* norm1", "wiring residual-order", "operand-order block-extra")
slip("gpt/gelu-by-erf", "gelu* wide narrow", "gelu-approx")
defect("gpt/proj-as-it-lies", "proj", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("proj.weight", lambda weight: weight.T)
)
ways("gpt", "each-head-alone")
one_layer("gpt", "keys-first+future-seen", "places-from-one+words-scaled", "scores-unscaled+proj-as-it-lies")
neighbours("gpt", "skip-behind-the-norm+gelu-by-erf")


# --- modulated by a time ------------------------------------------------------------------------------------


class Denoiser(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.time1, self.time2, self.ada, self.out = (nn.Linear(*shape) for shape in ((8, 8), (8, 8), (8, 48), (8, 4)))
        self.query, self.key, self.value, self.mix = (nn.Linear(8, 8) for _ in range(4))
        self.wide, self.narrow, self.enter = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(4, 8)

    def waves(self, time: torch.Tensor) -> torch.Tensor:
        time = time * 1000 if "time-in-thousandths" in self.ways else time
        angles = time * torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(4) / 4)
        both = [angles.cos(), angles.sin()]
        return torch.cat(both[::-1] if "sines-first" in self.ways else both, dim=1)

    def modulated(self, x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        x = F.layer_norm(x, (8,), eps=1e-3 if "norm-eps-of-keras" in self.ways else 1e-6)
        scale = scale if "one-not-added" in self.ways else 1 + scale
        return x * scale[:, None] + shift[:, None]

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        if "looked-by-torch" in self.ways:
            parts = (self.query, self.key, self.value)
            weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
            x = x.transpose(0, 1)
            own = (weight, bias, None, None, False, 0.0, self.mix.weight, self.mix.bias, False)
            return F.multi_head_attention_forward(x, x, x, 8, 2, *own)[0].transpose(0, 1)
        q, k, v = (part(x).unflatten(2, (2, 4)).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, latents: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        t = self.time2(F.silu(self.time1(self.waves(time))))
        parts = self.ada(t if "time-left-linear" in self.ways else F.silu(t)).chunk(6, dim=1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        if "scale-before-shift" in self.ways:
            shift1, scale1, shift2, scale2 = scale1, shift1, scale2, shift2
        x = self.enter(latents)
        y = self.attended(self.modulated(x, shift1, scale1))
        x = x + (y if "gate-forgotten" in self.ways else gate1[:, None] * y)
        y = self.wide(self.modulated(x, shift2, scale2))
        return self.out(x + gate2[:, None] * self.narrow(F.gelu(y, approximate="tanh")))


@network
def denoiser() -> Pair:
    """DiT: a time's waves shift, scale and gate a block whose norms have no weights of their own."""
    keras.backend.clear_session()
    latents, time = layers.Input((6, 4), name="latents"), layers.Input((1,), name="time")
    angles = time * np.exp(-np.log(10000) * np.arange(4) / 4).astype(np.float32)
    t = layers.Concatenate(name="waves")([ops.cos(angles), ops.sin(angles)])
    t = layers.Dense(8, name="time2")(layers.Dense(8, activation="silu", name="time1")(t))
    ada = layers.Dense(48, name="ada")(layers.Activation("silu", name="time_silu")(t))
    shift1, scale1, gate1, shift2, scale2, gate2 = (ops.expand_dims(x, 1) for x in ops.split(ada, 6, axis=1))

    def modulated(
        x: keras.KerasTensor, shift: keras.KerasTensor, scale: keras.KerasTensor, i: int
    ) -> keras.KerasTensor:
        norm = layers.LayerNormalization(epsilon=1e-6, center=False, scale=False, name=f"norm{i}")
        return norm(x) * (1 + scale) + shift

    x = layers.Dense(8, name="enter")(latents)
    y = modulated(x, shift1, scale1, 1)
    y = _looked(*(layers.Dense(8, name=name)(y) for name in ("query", "key", "value")))
    x = layers.Add(name="sum1")([x, gate1 * layers.Dense(8, name="mix")(y)])
    y = ops.gelu(layers.Dense(12, name="wide")(modulated(x, shift2, scale2, 2)), approximate=True)
    x = layers.Add(name="sum2")([x, gate2 * layers.Dense(8, name="narrow")(y)])
    model = keras.Model([latents, time], layers.Dense(4, name="out")(x))
    fill(model)
    grown(model, 2, "ada")
    inputs = {"latents": fed(1043, 3, 6, 4), "time": np.float32([[0.3], [1.7], [4.2]])}
    return Pair(model, inputs, ported(model, Denoiser), "same")


_ADA = "norm? layer_norm* mul* multiply* add* ada split* chunk* get_item* expand_dims*"
slip("denoiser/time-in-thousandths", "mul* multiply* cos* sin* waves cat* time", "input-scale", "scale block-extra")
slip("denoiser/sines-first", "waves cat* time1", "concat-order", "operand-order channel-order")
slip("denoiser/norm-eps-of-keras", "norm? layer_norm*", "ln-eps")
slip("denoiser/one-not-added", _ADA, "residual-missing block-missing", "wiring bias-missing")
slip("denoiser/time-left-linear", "time2 time_silu silu* ada", "activation-missing", "block-missing")
slip("denoiser/scale-before-shift", _ADA, "concat-order wiring channel-order", "operand-order weights-swapped")
slip("denoiser/gate-forgotten", "mix sum1 mul* multiply* add*", "block-missing", "wiring scale")
ways("denoiser", "looked-by-torch")
one_layer("denoiser", "scale-before-shift+one-not-added", "time-in-thousandths+sines-first")
neighbours("denoiser", "time-left-linear+scale-before-shift")
