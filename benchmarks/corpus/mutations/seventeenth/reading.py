"""Reading: a long text, where words see their neighbours and the first word alone sees all."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventeenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, ported, rewritten

_STEPS = 9
_PROJECTIONS = ("query", "key", "value", "attention_output")
_APART = np.abs(np.subtract.outer(np.arange(_STEPS), np.arange(_STEPS)))


def _seen(reach: int, whole: bool) -> np.ndarray:
    """Which words each word sees: those near it, and the first one, which sees all."""
    seen = reach >= _APART
    if whole:
        seen[0] = seen[:, 0] = True
    return seen


class Windowed(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(_STEPS, 8)
        self.attention = nn.ModuleDict(
            {name: nn.Linear(8, 8) for name in ("query", "key", "value", "attention_output")}
        )
        self.norm1, self.norm2 = nn.LayerNorm(8, eps=1e-3), nn.LayerNorm(8, eps=1e-3)
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.pooled, self.label = nn.Linear(8, 6), nn.Linear(6, 3)

    def heads(self, x: torch.Tensor) -> list[torch.Tensor]:
        parts = [self.attention[name] for name in _PROJECTIONS[:3]]
        if "one-product" in self.ways:
            weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
            return list(F.linear(x, weight, bias).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4))
        if "heads-innermost" in self.ways:
            return [part(x).unflatten(2, (4, 2)).permute(0, 3, 1, 2) for part in parts]
        return [part(x).unflatten(2, (2, 4)).transpose(1, 2) for part in parts]

    def look(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        q, k, v = self.heads(x)
        reach = 1 if "window-too-narrow" in self.ways else 2
        seen = torch.from_numpy(_seen(reach, "first-word-as-others" not in self.ways))
        seen = seen if "padding-seen" in self.ways else seen & there[:, None, None]
        if "looked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        else:
            scores = q @ k.mT / (8**0.5 if "scaled-by-the-model" in self.ways else 2)
            scores = scores.masked_fill(~seen, -1e9)
            y = F.softmax(scores, dim=2 if "shared-among-askers" in self.ways else 3) @ v
        return self.attention["attention_output"](y.transpose(1, 2).flatten(2))

    def told(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        if "padding-in-the-mean" in self.ways:
            return x.mean(1)
        share = there[..., None].float()
        if "mean-by-product" in self.ways:
            return (share.mT @ x)[:, 0] / share.sum(1)
        return (x * share).sum(1) / share.sum(1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        there = tokens != 0
        words = self.words(tokens)
        words = words if "words-not-scaled" in self.ways else words * 8**0.5
        place = torch.arange(_STEPS)
        x = words + self.places((place + 1) % _STEPS if "places-from-one" in self.ways else place)
        if "norms-ahead" in self.ways:
            x = x + self.look(self.norm1(x), there)
            y = self.norm2(x)
        else:
            y = x = self.norm1(x + self.look(x, there))
        y = self.narrow(F.gelu(self.wide(y), approximate="tanh" if "gelu-by-tanh" in self.ways else "none"))
        x = x + y if "norms-ahead" in self.ways else self.norm2(x + y)
        x = self.pooled(self.told(x, there))
        return self.label(x if "pooled-not-bent" in self.ways else torch.tanh(x))


@network
def windowed() -> Pair:
    """Longformer of one block: scaled words, a window of two to each side, a first word that all see, norms behind."""
    keras.backend.clear_session()
    tokens = layers.Input((_STEPS,), dtype="int32", name="tokens")
    there = ops.not_equal(tokens, 0)
    words = layers.Rescaling(8**0.5, name="scaled")(layers.Embedding(20, 8, name="words")(tokens))
    ids = ops.zeros_like(tokens) + np.arange(_STEPS, dtype=np.int32)
    x = layers.Add(name="placed")([words, layers.Embedding(_STEPS, 8, name="places")(ids)])
    seen = ops.logical_and(ops.expand_dims(there, 1), _seen(2, True))
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x, attention_mask=seen)
    x = layers.LayerNormalization(name="norm1")(layers.Add(name="sum1")([x, y]))
    wide = ops.gelu(layers.Dense(12, name="wide")(x), approximate=False)
    x = layers.Add(name="sum2")([x, layers.Dense(8, name="narrow")(wide)])
    x = layers.LayerNormalization(name="norm2")(x)
    share = ops.expand_dims(ops.cast(there, "float32"), 2)
    x = layers.Multiply(name="kept")([x, share])
    x = ops.sum(x, axis=1) / ops.sum(share, axis=1)
    x = layers.Dense(6, activation="tanh", name="pooled")(x)
    model = keras.Model(tokens, layers.Dense(3, name="label")(x))
    fill(model)
    attention = model.get_layer("attention")
    for part in (attention.query_dense, attention.key_dense):
        part.kernel.assign(part.kernel * 3)
    table = model.get_layer("words").embeddings
    table.assign(table * 0.4)
    attention.output_dense.kernel.assign(attention.output_dense.kernel * 0.4)
    grown(model, 0.5, "narrow")
    grown(model, 3, "pooled", "label")
    given = counted(1733, 20, 4, _STEPS, least=1)
    given[0, 6:] = given[2, 5:] = given[3, 8:] = 0
    return Pair(model, given, ported(model, Windowed), "same")


_LOOK = ("attention* matmul* mT* softmax* masked_fill* div* truediv* and* bitwise_and* logical_and* permute* "
         "transpose* unflatten* flatten* getitem* slice* unseen*")  # fmt: skip
_TOLD = "kept sum* mean* mul* div* truediv* true_divide* divide* float* get_item* getitem* slice* pooled"
slip("windowed/words-not-scaled", "words scaled mul* placed add*", "embedding-scale block-missing")
slip("windowed/places-from-one", "places* arange* add* remainder* mod* placed", "embedding-offset",
     "shift weights-perturbed block-extra axis-permutation")  # fmt: skip
slip("windowed/heads-innermost", _LOOK, "head-layout reshape-order", "channel-order axis-permutation wiring")
slip("windowed/window-too-narrow", _LOOK, "attention-mask")
slip("windowed/first-word-as-others", _LOOK, "attention-mask")
slip("windowed/padding-seen", _LOOK, "attention-mask")
slip("windowed/scaled-by-the-model", _LOOK, "attention-scale")
slip("windowed/shared-among-askers", _LOOK, "softmax-axis")
slip("windowed/padding-in-the-mean", _TOLD, "attention-mask pool-kind block-missing", "operation-kind scale wiring")
slip("windowed/norms-ahead", "norm? sum? add* attention* wide narrow", "residual-order wiring", "operand-order")
slip("windowed/gelu-by-tanh", "wide gelu* narrow", "gelu-approx")
slip("windowed/pooled-not-bent", "pooled tanh* label", "activation-missing", "block-missing")
defect("windowed/norm-eps-of-torch", "norm1 norm2", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("windowed/key-for-query", "attention*", "qkv-order", "weights-perturbed operand-order wiring")(
    exchanged("attention.query", "attention.key")
)
defect("windowed/output-as-it-lies", "attention*", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("attention.attention_output.weight", lambda weight: weight.T)
)
ways("windowed", "one-product", "looked-by-torch", "mean-by-product")


@control("windowed/dense-by-einsum")
def _by_einsum(port: Windowed) -> Windowed:
    for dense in (port.wide, port.narrow):
        dense.forward = lambda x, own=dense: torch.einsum("bti,oi->bto", x, own.weight) + own.bias
    return port


one_layer("windowed", "scaled-by-the-model+padding-seen", "heads-innermost+first-word-as-others",
          "words-not-scaled+places-from-one")  # fmt: skip
neighbours("windowed", "gelu-by-tanh+norm-eps-of-torch", "padding-in-the-mean+pooled-not-bent")
