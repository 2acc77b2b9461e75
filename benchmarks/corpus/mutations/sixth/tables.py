"""Tables and shops: two aims from the same experts, features as words, what a history says of an article."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
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
    rewritten,
    slip,
    way,
)


class Experts(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.experts = nn.ModuleList(nn.Linear(9, 6) for _ in range(3))
        self.gates = nn.ModuleList(nn.Linear(9, 3) for _ in range(2))
        self.towers = nn.ModuleList(nn.Linear(6, 5) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(2))

    def known(self, x: torch.Tensor) -> torch.Tensor:
        if "experts-at-once" in self.ways:
            weight, bias = (torch.stack([getattr(e, name) for e in self.experts]) for name in ("weight", "bias"))
            return F.relu(torch.einsum("bi,eoi->beo", x, weight) + bias)
        found = [e(x) if "experts-linear" in self.ways else F.relu(e(x)) for e in self.experts]
        if "experts-viewed" in self.ways:
            return torch.stack(found, dim=2).reshape(len(x), 3, 6)
        return torch.stack(found[::-1] if "last-expert-first" in self.ways else found, dim=1)

    def mixed(self, x: torch.Tensor, known: torch.Tensor, gate: nn.Module) -> torch.Tensor:
        share = gate(x)
        if "gate-not-shared-out" not in self.ways:
            share = F.softmax(share, dim=0 if "gate-over-the-batch" in self.ways else -1)
        if "mixed-by-name" in self.ways:
            return torch.einsum("be,beo->bo", share, known)
        mixed = share[:, :, None] * known
        return mixed.mean(1) if "experts-in-the-mean" in self.ways else mixed.sum(1)

    def forward(self, person: torch.Tensor) -> tuple[torch.Tensor, ...]:
        known, found = self.known(person), []
        alpha = 0.5 if "elu-of-half" in self.ways else 1.0
        for gate, tower, head in zip(self.gates, self.towers, self.heads, strict=True):
            found.append(head(F.elu(tower(self.mixed(person, known, gate)), alpha)))
        return torch.sigmoid(found[0]), found[1] if "amount-below-zero" in self.ways else F.softplus(found[1])


@network
def experts() -> Pair:
    """Several experts, mixed for each of two aims by a gate: whether one buys, and for how much."""
    keras.backend.clear_session()
    person = layers.Input((9,), name="person")
    known = [layers.Dense(6, activation="relu", name=f"experts.{i}")(person) for i in range(3)]
    known = ops.stack(known, axis=1)
    found = []
    for i, act in enumerate(("sigmoid", "softplus")):
        share = layers.Dense(3, activation="softmax", name=f"gates.{i}")(person)
        x = layers.Dot(axes=(1, 1), name=f"mixed.{i}")([share, known])
        x = layers.Dense(5, activation="elu", name=f"towers.{i}")(x)
        found.append(layers.Dense(1, activation=act, name=f"heads.{i}")(x))
    model = keras.Model(person, found)
    fill(model)
    return Pair(model, fed(78, 5, 9), ported(model, Experts), "same")


_MIXED = "mixed.? mul mul_1 sum sum_1 mean mean_1"
slip("experts/experts-linear", "experts experts.* stack relu*", "activation-missing", "block-missing")
slip("experts/experts-viewed", "stack reshape " + _MIXED, "reshape-order concat-order", "axis-permutation wiring")
slip("experts/last-expert-first", "stack " + _MIXED, "concat-order", "operand-order")
slip("experts/gate-not-shared-out", "gates.* softmax softmax_1 " + _MIXED, "activation-missing logits", "block-missing")
slip("experts/gate-over-the-batch", "gates.* softmax softmax_1", "softmax-axis", "operation-kind")
slip("experts/experts-in-the-mean", _MIXED, "pool-kind scale", "operation-kind")
slip("experts/elu-of-half", "towers.* elu elu_1", "activation-param", "activation-kind")
slip("experts/amount-below-zero", "heads.1 softplus", "activation-missing", "block-missing logits")
defect("experts/gates-exchanged", "gates.0 gates.1", "weights-swapped", "weights-perturbed wiring")(
    exchanged("gates.0", "gates.1")
)
way("experts/experts-at-once")
way("experts/mixed-by-name")
one_layer("experts", "gates-exchanged+gate-over-the-batch", "experts-linear+last-expert-first")
neighbours("experts", "experts-in-the-mean+elu-of-half")


# --- features as words --------------------------------------------------------------------------------------


class Features(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.numbers = nn.ParameterDict({"rates": torch.zeros(5, 8), "starts": torch.zeros(5, 8)})
        self.sorts, self.whole = nn.Embedding(9, 8), nn.ParameterDict({"token": torch.zeros(1, 8)})
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(8, eps=1e-3) for _ in range(3))
        self.query, self.key, self.value, self.result = (nn.Linear(8, 8) for _ in range(4))
        self.wide, self.narrow, self.head = nn.Linear(8, 20), nn.Linear(10, 8), nn.Linear(8, 3)

    def words(self, numbers: torch.Tensor, sorts: torch.Tensor) -> torch.Tensor:
        x = numbers[:, :, None] * self.numbers["rates"]
        x = x if "numbers-from-zero" in self.ways else x + self.numbers["starts"]
        y = self.sorts(sorts if "sorts-of-one-table" in self.ways else sorts + torch.tensor([0, 4]))
        token = self.whole["token"].expand(len(x), 1, 8)
        return torch.cat([y, x, token] if "whole-at-the-end" in self.ways else [token, x, y], dim=1)

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(x)
        parts = [part(x) for part in (self.query, self.key, self.value)]
        if "features-before-heads" in self.ways:
            q, k, v = (part.unflatten(-1, (4, 2)).permute(0, 3, 1, 2) for part in parts)
        else:
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
        scale = 8**-0.5 if "divided-by-the-width" in self.ways else 0.5
        y = F.softmax(q @ k.transpose(2, 3) * scale, dim=-1) @ v
        y = y.permute(0, 2, 3, 1) if "features-before-heads" in self.ways else y.transpose(1, 2)
        return self.result(y.flatten(2))

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.wide(x).chunk(2, dim=-1)
        one, other = (other, one) if "other-half-bent" in self.ways else (one, other)
        return self.narrow(one * (F.gelu(other) if "bent-by-gelu" in self.ways else F.relu(other)))

    def forward(self, numbers: torch.Tensor, sorts: torch.Tensor) -> torch.Tensor:
        x = self.words(numbers, sorts)
        x = x + self.attended(x)
        y = self.norm2(x)
        x = (y if "sum-of-the-normed" in self.ways else x) + self.bent(y)
        x = x.mean(1) if "whole-in-the-mean" in self.ways else x[:, -1 if "whole-at-the-end" in self.ways else 0]
        x = self.norm3(x)
        return self.head(x if "last-not-rectified" in self.ways else F.relu(x))


class _Numbers(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.rates = self.add_weight(name="rates", shape=(shape[-1], 8))
        self.starts = self.add_weight(name="starts", shape=(shape[-1], 8))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.expand_dims(x, -1) * self.rates + self.starts


class _Whole(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.token = self.add_weight(name="token", shape=(1, shape[-1]))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        token = ops.zeros_like(x[:, :1]) + self.token
        return ops.concatenate([token, x], axis=1)


@network
def features() -> Pair:
    """An FT-Transformer of one block: each feature of a row is a word, and one more stands for the whole."""
    keras.backend.clear_session()
    numbers, sorts = layers.Input((5,), name="numbers"), layers.Input((2,), dtype="int32", name="sorts")
    y = layers.Embedding(9, 8, name="sorts_table")(sorts + ops.convert_to_tensor([0, 4], "int32"))
    x = _Whole(name="whole")(layers.Concatenate(axis=1, name="words")([_Numbers(name="numbers_words")(numbers), y]))
    y = layers.LayerNormalization(name="norm1")(x)
    att = layers.MultiHeadAttention(2, 4, name="att")
    x = layers.Add(name="sum1")([x, att(y, y)])
    y = layers.Dense(20, name="wide")(layers.LayerNormalization(name="norm2")(x))
    y = layers.Multiply(name="bent")([y[..., :10], layers.ReLU(name="bent_relu")(y[..., 10:])])
    x = layers.Add(name="sum2")([x, layers.Dense(8, name="narrow")(y)])
    x = layers.ReLU(name="last")(layers.LayerNormalization(name="norm3")(x[:, 0]))
    model = keras.Model([numbers, sorts], layers.Dense(3, name="head")(x))
    fill(model)
    names = {"att.attention_output": "result", "sorts_table": "sorts", "numbers_words": "numbers"}
    inputs = {"numbers": fed(79, 4, 5), "sorts": counted(80, 4, 4, 2)}
    return Pair(model, inputs, ported(model, Features, rename=lambda n: names.get(n, n.removeprefix("att."))), "same")


slip("features/numbers-from-zero", "numbers_words mul mul_1 add words", "bias-missing", "block-missing")
slip(
    "features/sorts-of-one-table",
    "sorts sorts_table add sorts_table*",
    "embedding-offset",
    "shift block-missing bias-missing",
)
_ATT = "att att.* att/* query key value matmul* softmax permute* transpose* unflatten* flatten* result mul*"
slip("features/features-before-heads", _ATT, "head-layout", "reshape-order")
slip("features/divided-by-the-width", _ATT, "attention-scale", "operation-kind")
slip("features/other-half-bent", "bent bent_relu wide relu chunk* get_item* narrow mul*", "channel-order concat-order",
     "operand-order wiring weights-swapped")  # fmt: skip
slip("features/bent-by-gelu", "bent bent_relu relu gelu", "activation-kind")
slip("features/sum-of-the-normed", "sum2 add_? norm2", "residual-order wiring", "operand-order residual-missing")
slip(
    "features/whole-in-the-mean",
    "get_item* slice getitem* mean norm3",
    "pool-kind wiring rnn-last-step",
    "operation-kind",
)
slip("features/last-not-rectified", "last norm3 relu_1 head", "activation-missing", "block-missing")
defect("features/norm-eps-default", "norm?", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("features/value-unturned", "att att.* value", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("value.weight", lambda weight: weight.T)
)
way("features/whole-at-the-end")
one_layer("features", "features-before-heads+divided-by-the-width", "other-half-bent+bent-by-gelu")
neighbours("features", "sum-of-the-normed+norm-eps-default", "whole-in-the-mean+last-not-rectified")


# --- a history ----------------------------------------------------------------------------------------------


class Interest(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.items = nn.Embedding(20, 6)
        self.match1, self.match2 = nn.Linear(24, 8), nn.Linear(8, 1)
        self.hidden, self.dice = nn.Linear(18, 10), nn.BatchNorm1d(10, eps=1e-3, affine=False)
        self.slopes, self.head = nn.PReLU(10), nn.Linear(10, 1)

    def interest(self, item: torch.Tensor, past: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        item = item[:, None].expand_as(past)
        apart = past - item if "history-less-article" in self.ways else item - past
        both = [past, item] if "history-first" in self.ways else [item, past]
        weight = self.match2(torch.sigmoid(self.match1(torch.cat([*both, apart, item * past], dim=-1))))
        if "weights-shared-out" in self.ways:
            weight = F.softmax(weight.masked_fill(~there[:, :, None], -1e9), dim=1)
        elif "padding-counted" not in self.ways:
            weight = torch.where(there[:, :, None], weight, 0.0)
        if "read-by-product" in self.ways:
            return (weight.transpose(1, 2) @ past)[:, 0]
        return (weight * past).mean(1) if "history-in-the-mean" in self.ways else (weight * past).sum(1)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "bent-at-zero" in self.ways:
            return self.slopes(x)
        alpha = self.slopes.weight
        share = torch.sigmoid(self.dice(x))
        if "bent-in-one" in self.ways:
            return x * (alpha + share * (1 - alpha))
        return share * x if "slope-lost" in self.ways else share * x + (1 - share) * alpha * x

    def forward(self, past: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        there = past > 0
        known, own = self.items(past), self.items(item)
        read = self.interest(own, known, there)
        return torch.sigmoid(self.head(self.bent(self.hidden(torch.cat([read, own, read * own], dim=-1)))))


class _Dice(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.alpha = self.add_weight(name="alpha", shape=(shape[0][-1],))

    def call(self, both: list[keras.KerasTensor]) -> keras.KerasTensor:
        x, levelled = both
        share = ops.sigmoid(levelled)
        return share * x + (1 - share) * self.alpha * x


@network
def interest() -> Pair:
    """A deep interest network: each article of the past has a weight beside the one in question, not shared out."""
    keras.backend.clear_session()
    past, item = layers.Input((7,), dtype="int32", name="past"), layers.Input((), dtype="int32", name="item")
    table = layers.Embedding(20, 6, name="items")
    known, own = table(past), table(item)
    each = layers.RepeatVector(7, name="each")(own)
    x = layers.Concatenate(name="match")([each, known, each - known, each * known])
    x = layers.Dense(1, name="match2")(layers.Dense(8, activation="sigmoid", name="match1")(x))
    x = ops.where(ops.expand_dims(past > 0, -1), x, 0.0)
    read = ops.sum(x * known, axis=1)
    x = layers.Dense(10, name="hidden")(layers.Concatenate(name="joined")([read, own, read * own]))
    x = _Dice(name="slopes")([x, layers.BatchNormalization(center=False, scale=False, name="dice")(x)])
    model = keras.Model([past, item], layers.Dense(1, activation="sigmoid", name="head")(x))
    fill(model)
    model.get_layer("dice").moving_variance.assign(model.get_layer("dice").moving_variance * 0.02)
    seen = counted(81, 20, 4, 7, least=1)
    seen[:2, 4:] = 0
    inputs = {"past": seen, "item": counted(82, 20, 4, least=1)}
    return Pair(model, inputs, ported(model, Interest), "same")


_MATCH = "match match1 cat sub subtract each expand* slice getitem*"
_BENT = "slopes dice sigmoid_1 mul_2 mul_3 mul_4 mul_? rsub add prelu head"
slip("interest/history-less-article", _MATCH, "scale operand-order", "wiring")
slip("interest/history-first", _MATCH, "concat-order", "operand-order")
slip(
    "interest/weights-shared-out",
    "match2 where* softmax masked_fill",
    "activation-extra block-extra",
    "logits softmax-axis",
)
slip("interest/padding-counted", "match2 where* multiply_* mul_1 sum*", "attention-mask block-missing", "wiring")
slip("interest/history-in-the-mean", "sum mean joined cat_1", "pool-kind scale", "operation-kind")
slip("interest/bent-at-zero", _BENT, "activation-kind block-missing", "operation-kind")
slip(
    "interest/slope-lost",
    _BENT,
    "activation-param residual-missing block-missing activation-kind",
    "weights-not-loaded",
)
defect("interest/dice-eps-of-the-paper", "dice", "bn-eps")(epsilon(1e-8, nn.BatchNorm1d))
defect("interest/dice-fresh", "dice", "bn-stats", "weights-not-loaded weights-perturbed")(
    lambda port: port.dice.reset_running_stats()
)
defect("interest/articles-from-one", "items items#*", "embedding-offset", "weights-perturbed shift")(
    rewritten("items.weight", lambda table: table.roll(1, 0))
)
way("interest/read-by-product")
way("interest/bent-in-one")
one_layer("interest", "history-less-article+history-first", "dice-eps-of-the-paper+slope-lost")
neighbours("interest", "padding-counted+history-in-the-mean")
