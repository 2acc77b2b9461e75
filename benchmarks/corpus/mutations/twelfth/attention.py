"""Attention: BERT with its pooler, decisions from what was seen and won, and queries that ask a map for objects."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.twelfth.registry import defect, neighbours, network, one_layer, slip, ways


class Intent(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.kinds = nn.Embedding(14, 8), nn.Embedding(2, 8)
        self.places = nn.ParameterDict({"table": torch.zeros(10, 8)})
        names = ("query", "key", "value", "attention_output")
        self.attention = nn.ModuleDict({name: nn.Linear(8, 8) for name in names})
        self.norm, self.norm1, self.norm2 = (nn.LayerNorm(8, eps=1e-12) for _ in range(3))
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.pooler, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def projected(self, x: torch.Tensor) -> list[torch.Tensor]:
        own = [self.attention[name] for name in ("query", "key", "value")]
        if "one-projection" in self.ways:
            weight, bias = torch.cat([one.weight for one in own]), torch.cat([one.bias for one in own])
            parts = list(F.linear(x, weight, bias).chunk(3, dim=2))
        else:
            parts = [one(x) for one in own]
        if "heads-innermost" in self.ways:
            return [part.unflatten(2, (4, 2)).permute(0, 3, 1, 2) for part in parts]
        return [part.unflatten(2, (2, 4)).transpose(1, 2) for part in parts]

    def looked(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = self.projected(x)
        there = mask[:, None, :, None] if "mask-over-queries" in self.ways else mask[:, None, None]
        if "looked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=there.bool())
        else:
            scores = q @ k.transpose(2, 3) / (8**0.5 if "scaled-by-the-whole-width" in self.ways else 2)
            if "mask-forgotten" not in self.ways:
                scores = scores.masked_fill(there == 0, -1e9)
            y = F.softmax(scores, dim=3) @ v
        return self.attention["attention_output"](y.transpose(1, 2).flatten(2))

    def forward(self, words: torch.Tensor, kinds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        first = 2 if "places-from-two" in self.ways else 0
        x = self.words(words) + self.places["table"][first : first + 8]
        x = self.norm(x if "kinds-forgotten" in self.ways else x + self.kinds(kinds))
        y = self.looked(x, mask)
        x = x + self.norm1(y) if "norm-inside-the-sum" in self.ways else self.norm1(x + y)
        y = F.gelu(self.wide(x), approximate="tanh" if "gelu-by-tanh" in self.ways else "none")
        x = self.norm2(x + self.narrow(y))
        x = self.pooler(x[:, 0])
        return self.head(x if "pooler-left-linear" in self.ways else torch.tanh(x))


class _Places(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="table", shape=(10, shape[-1]))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.table[: x.shape[1]]


@network
def intent() -> Pair:
    """BERT of one block: words, places and kinds, norms behind the sums, and a pooler on the first word."""
    keras.backend.clear_session()
    words, kinds, mask = (layers.Input((8,), dtype="int32", name=name) for name in ("words", "kinds", "mask"))

    def norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.LayerNormalization(epsilon=1e-12, name=name)(x)

    x = _Places(name="places")(layers.Embedding(14, 8, name="words_table")(words))
    x = norm(layers.Add(name="all")([x, layers.Embedding(2, 8, name="kinds_table")(kinds)]), "norm")
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    y = attention(x, x, attention_mask=ops.expand_dims(ops.cast(mask, "bool"), 1))
    x = norm(layers.Add(name="sum1")([x, y]), "norm1")
    y = layers.Dense(8, name="narrow")(layers.Dense(12, activation="gelu", name="wide")(x))
    x = norm(layers.Add(name="sum2")([x, y]), "norm2")
    x = layers.Dense(8, activation="tanh", name="pooler")(x[:, 0])
    model = keras.Model([words, kinds, mask], layers.Dense(4, name="head")(x))
    fill(model)
    grown(model, 2, "wide", "head")
    for part in (attention.query_dense, attention.key_dense):
        part.kernel.assign(part.kernel * 3)
    there = np.ones((3, 8), np.int32)
    there[0, 5:] = there[2, 6:] = 0
    inputs = {"words": counted(1251, 14, 3, 8, least=1) * there, "kinds": counted(1252, 2, 3, 8), "mask": there}
    port = ported(model, Intent, rename=lambda name: name.removesuffix("_table"))
    return Pair(model, inputs, port, "same")


_LOOK = "attention matmul* softmax* masked_fill* div* truediv* transpose* unflatten* flatten* permute* eq* __eq__*"
slip("intent/heads-innermost", _LOOK, "head-layout reshape-order", "wiring channel-order axis-permutation")
slip("intent/mask-over-queries", _LOOK, "attention-mask", "axis-permutation wiring")
slip("intent/mask-forgotten", _LOOK, "attention-mask", "block-missing")
slip("intent/scaled-by-the-whole-width", _LOOK, "attention-scale", "scale")
slip("intent/places-from-two", "places add* get_item* words words_table", "embedding-offset shift",
     "weights-perturbed")  # fmt: skip
slip("intent/kinds-forgotten", "kinds kinds_table all add* norm", "residual-missing block-missing", "wiring")
slip("intent/norm-inside-the-sum", "norm1 sum1 add*", "residual-order wiring", "operand-order")
slip("intent/gelu-by-tanh", "wide gelu* narrow", "gelu-approx")
slip("intent/pooler-left-linear", "pooler tanh* head", "activation-missing", "block-missing")
defect("intent/norm-eps-of-keras", "norm norm?", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
defect("intent/values-for-keys", "attention", "qkv-order weights-swapped", "weights-perturbed wiring")(
    exchanged("attention.key", "attention.value")
)
ways("intent", "one-projection", "looked-by-torch")
one_layer("intent", "mask-forgotten+scaled-by-the-whole-width", "heads-innermost+values-for-keys")
neighbours("intent", "norm-inside-the-sum+gelu-by-tanh", "places-from-two+kinds-forgotten")


# --- decisions ----------------------------------------------------------------------------------------------


class Decisions(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.won, self.seen, self.done = nn.Linear(1, 8), nn.Linear(4, 8), nn.Linear(2, 8)
        self.times, self.norm = nn.Embedding(9, 8), nn.LayerNorm(8, eps=1e-5)
        self.query, self.key, self.value, self.mix = (nn.Linear(8, 8) for _ in range(4))
        self.act = nn.Linear(8, 2)

    def looked(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.query(x), self.key(x), self.value(x)
        if "keys-and-values-in-one-product" in self.ways:
            weight = torch.cat([self.key.weight, self.value.weight])
            k, v = F.linear(x, weight, torch.cat([self.key.bias, self.value.bias])).chunk(2, dim=2)
        if "looked-by-torch" in self.ways:
            return self.mix(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        scores = q @ k.mT if "scores-not-scaled" in self.ways else q @ k.mT / 8**0.5
        if "future-seen" not in self.ways:
            past = torch.ones(9, 9).tril(-1 if "itself-not-seen" in self.ways else 0)
            scores = scores.masked_fill(past == 0, -1e9)
        return self.mix(F.softmax(scores, dim=2) @ v)

    def forward(
        self, returns: torch.Tensor, states: torch.Tensor, actions: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        time = self.times(times + 1 if "times-from-one" in self.ways else times)
        won = self.won(returns if "returns-as-they-are" in self.ways else returns / 100)
        parts = [won + time, self.seen(states) + time, self.done(actions) + time]
        if "kinds-outermost" in self.ways:
            x = torch.cat(parts, dim=1)
        elif "tokens-written-in" in self.ways:
            x = won.new_zeros(len(won), 9, 8)
            for i, part in enumerate(parts):
                x[:, i::3] = part
        else:
            x = torch.stack(parts, dim=2).flatten(1, 2)
        x = self.norm(x)
        x = x + self.looked(x)
        x = x.unflatten(1, (3, 3))[:, :, 2 if "read-at-actions" in self.ways else 1]
        return torch.tanh(self.act(x))


@network
def decisions() -> Pair:
    """A decision transformer: returns, states and actions in turn, a look at the past, and an act for each state."""
    keras.backend.clear_session()
    returns, states = layers.Input((3, 1), name="returns"), layers.Input((3, 4), name="states")
    actions, times = layers.Input((3, 2), name="actions"), layers.Input((3,), dtype="int32", name="times")
    time = layers.Embedding(9, 8, name="times_table")(times)
    given = [layers.Dense(8, name="won")(returns / 100), layers.Dense(8, name="seen")(states)]
    given.append(layers.Dense(8, name="done")(actions))
    x = ops.stack([layers.Add(name=f"timed{i}")([part, time]) for i, part in enumerate(given)], axis=2)
    x = layers.LayerNormalization(epsilon=1e-5, name="norm")(layers.Reshape((9, 8), name="tokens")(x))
    q, k, v = (layers.Dense(8, name=name)(x) for name in ("query", "key", "value"))
    scores = ops.matmul(q, ops.transpose(k, (0, 2, 1))) / 8**0.5
    shares = ops.softmax(scores - 1e9 * (1 - np.tril(np.ones((9, 9), np.float32))), axis=-1)
    x = layers.Add(name="sum")([x, layers.Dense(8, name="mix")(ops.matmul(shares, v))])
    x = layers.Reshape((3, 3, 8), name="steps")(x)[:, :, 1]
    model = keras.Model([returns, states, actions, times], layers.Dense(2, activation="tanh", name="act")(x))
    fill(model)
    grown(model, 2, "query", "key")
    inputs = {"returns": 90 * fed(1254, 3, 3, 1), "states": fed(1255, 3, 3, 4), "actions": fed(1256, 3, 3, 2),
              "times": counted(1257, 8, 3, 3)}  # fmt: skip
    return Pair(model, inputs, ported(model, Decisions, rename=lambda name: name.removesuffix("_table")), "same")


_SHARES = "query key value matmul* softmax* masked_fill* sub* div* truediv* mul* mix eq* __eq__* transpose*"
_TOKENS = "timed? add* stack* cat* flatten* tokens norm"
slip("decisions/scores-not-scaled", _SHARES, "attention-scale", "scale")
slip("decisions/future-seen", _SHARES, "attention-mask", "block-missing")
slip("decisions/itself-not-seen", _SHARES, "attention-mask", "shift")
slip("decisions/times-from-one", "times times_table add* timed?", "embedding-offset", "shift weights-perturbed")
slip(
    "decisions/returns-as-they-are", "returns div* truediv* true_divide* divide* won", "input-scale scale block-missing"
)
slip("decisions/kinds-outermost", _TOKENS, "reshape-order concat-order axis-permutation", "wiring operation-kind")
slip("decisions/read-at-actions", "steps get_item* unflatten* select* act", "wiring shift",
     "operand-order rnn-last-step")  # fmt: skip
defect("decisions/mix-as-it-lies", "mix", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("mix.weight", lambda weight: weight.T)
)
defect("decisions/value-not-biased", "value", "bias-missing", "weights-not-loaded")(set_to("value", bias=None))
ways("decisions", "looked-by-torch", "tokens-written-in", "keys-and-values-in-one-product")
one_layer("decisions", "scores-not-scaled+future-seen")
neighbours("decisions", "times-from-one+returns-as-they-are")


# --- queries ------------------------------------------------------------------------------------------------


def _waves() -> np.ndarray:
    """Waves of nine places in eight features: all sines, then all cosines."""
    angles = np.arange(1, 10)[:, None] / 50 ** (np.arange(4) / 4)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class Queries(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.asked = nn.Conv2d(5, 8, 1), nn.ParameterDict({"table": torch.zeros(4, 8)})
        names = ("query", "key", "value", "attention_output")
        self.own = nn.ModuleDict({name: nn.Linear(8, 8) for name in names})
        self.across = nn.ModuleDict({name: nn.Linear(8, 8) for name in names})
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(8, eps=1e-5) for _ in range(3))
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.kind, self.corner, self.box = nn.Linear(8, 3), nn.Linear(8, 6), nn.Linear(6, 4)

    def looked(self, own: nn.ModuleDict, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        last = own["attention_output"]
        if "looked-by-torch" in self.ways:
            bias = torch.cat([own[name].bias for name in ("query", "key", "value")])
            weights = {f"{name[0]}_proj_weight": own[name].weight for name in ("query", "key", "value")}
            y, _ = F.multi_head_attention_forward(
                q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), 8, 2, None, bias, None, None, False, 0.0,
                last.weight, last.bias, training=False, use_separate_proj_weight=True, **weights)  # fmt: skip
            return y.transpose(0, 1)
        q, k, v = own["query"](q), own["key"](k), own["value"](v)
        q, k, v = (x.unflatten(2, (2, 4)).transpose(1, 2) for x in (q, k, v))
        y = F.softmax(q @ k.transpose(2, 3) / 2, dim=3) @ v
        return last(y.flatten(1, 2).unflatten(1, (-1, 2)).flatten(2) if "heads-not-turned-back" in self.ways
                    else y.transpose(1, 2).flatten(2))  # fmt: skip

    def fed(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.wide(x))
        if "narrow-in-half" in self.ways:
            return F.linear(y.bfloat16(), self.narrow.weight.bfloat16(), self.narrow.bias.bfloat16()).float()
        return self.narrow(y)

    def forward(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.enter(grid)
        if "columns-before-rows" in self.ways:
            x = x.transpose(2, 3)
        x = x.flatten(2).transpose(1, 2)
        places = torch.from_numpy(_waves())
        if "sines-and-cosines-in-turn" in self.ways:
            places = torch.stack(places.chunk(2, dim=1), dim=2).flatten(1)
        both = x + places
        x = self.norm1(x + self.looked(self.own, both, both, both if "places-in-values" in self.ways else x))
        asked = self.asked["table"].expand(len(x), -1, -1)
        x = self.looked(self.across, asked, x if "keys-without-places" in self.ways else x + places, x)
        x = self.norm2(x)
        x = self.norm3(x + self.fed(x))
        return self.kind(x), torch.sigmoid(self.box(F.relu(self.corner(x))))


class _Asked(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="table", shape=(4, shape[-1]))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.zeros_like(x[:, :4]) + self.table


@network
def queries() -> Pair:
    """DETR of one block each: places in queries and keys and never in values, four learnt queries, kinds and boxes."""
    keras.backend.clear_session()
    grid = layers.Input((3, 3, 5), name="grid")

    def norm(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        return layers.LayerNormalization(epsilon=1e-5, name=f"norm{i}")(x)

    x = layers.Reshape((9, 8), name="tokens")(layers.Conv2D(8, 1, name="enter")(grid))
    both = x + _waves()
    own, across = (layers.MultiHeadAttention(2, 4, name=name) for name in ("own", "across"))
    x = norm(layers.Add(name="sum1")([x, own(both, value=x, key=both)]), 1)
    x = norm(across(_Asked(name="asked")(x), value=x, key=x + _waves()), 2)
    y = layers.Dense(8, name="narrow")(layers.Dense(12, activation="relu", name="wide")(x))
    x = norm(layers.Add(name="sum3")([x, y]), 3)
    box = layers.Dense(4, activation="sigmoid", name="box")(layers.Dense(6, activation="relu", name="corner")(x))
    model = keras.Model(grid, [layers.Dense(3, name="kind")(x), box])
    fill(model)
    for dense in (own.query_dense, own.key_dense, across.query_dense, across.key_dense):
        dense.kernel.assign(2.5 * dense.kernel)
    return Pair(model, fed(1258, 3, 3, 3, 5), ported(model, Queries), "NHWC->NCHW")


_OWN = "own matmul* softmax* div* truediv* transpose* flatten* unflatten*"
_PLACES = "add* own across stack* flatten*"
slip("queries/columns-before-rows", "enter tokens transpose* flatten*", "flatten-order axis-permutation", "wiring")
slip("queries/sines-and-cosines-in-turn", _PLACES, "concat-order channel-order axis-permutation", "weights-perturbed")
slip("queries/places-in-values", _PLACES, "wiring", "operand-order block-extra")
slip("queries/keys-without-places", _PLACES, "residual-missing wiring block-missing", "operand-order")
slip("queries/heads-not-turned-back", _OWN + " across", "head-layout reshape-order", "wiring channel-order")
slip("queries/narrow-in-half", "narrow linear* to* bfloat16* float*", "dtype")
defect("queries/keys-for-queries", "across", "qkv-order weights-swapped", "weights-perturbed wiring")(
    exchanged("across.query", "across.key")
)
defect("queries/wide-not-biased", "wide", "bias-missing", "weights-not-loaded")(set_to("wide", bias=None))
ways("queries", "looked-by-torch")
one_layer("queries", "heads-not-turned-back+keys-for-queries", "keys-without-places+sines-and-cosines-in-turn")
neighbours("queries", "narrow-in-half+wide-not-biased", "columns-before-rows+places-in-values")
