"""Items: fields that look at one another, a visit with an aim, and kernels over what was taken last."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
    Scores,
    control,
    defect,
    drawn_bias,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.ninth.registry import regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, fed, ported, rewritten

_SIZES = (5, 4, 7)


class Woven(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.table = nn.Embedding(16, 6)
        self.number1, self.number2 = (nn.Linear(1, 6, bias=False) for _ in range(2))
        for name in ("query", "key", "value", "skip"):
            self.add_module(name, nn.Linear(6, 6, bias=False))
        self.click = nn.Linear(30, 1)

    def looked(self, x: torch.Tensor) -> torch.Tensor:
        if "one-projection" in self.ways:
            weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
            q, k, v = F.linear(x, weight).chunk(3, dim=2)
        else:
            q, k, v = self.query(x), self.key(x), self.value(x)
        if "heads-as-samples" in self.ways:
            q, k, v = (torch.cat(part.chunk(2, dim=2)) for part in (q, k, v))
            return torch.cat((F.softmax(q @ k.mT, dim=2) @ v).chunk(2), dim=2)
        q, k, v = (part.unflatten(2, (2, 3)).transpose(1, 2) for part in (q, k, v))
        scores = q @ k.mT / 3**0.5 if "scaled-as-usual" in self.ways else q @ k.mT
        y = F.softmax(scores, dim=2 if "shared-among-askers" in self.ways else 3) @ v
        return (y.permute(0, 2, 3, 1) if "heads-innermost" in self.ways else y.transpose(1, 2)).flatten(2)

    def forward(self, ids: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        begin = torch.from_numpy(np.cumsum((0, *_SIZES[:-1])))
        x = self.table(ids if "fields-share-their-rows" in self.ways else ids + begin)
        y = torch.stack([self.number1(numbers[:, :1]), self.number2(numbers[:, 1:])], dim=1)
        x = torch.cat([y, x] if "numbers-first" in self.ways else [x, y], dim=1)
        y = self.looked(x)
        if "skip-forgotten" in self.ways:
            x = F.relu(y)
        else:
            x = F.relu(y) + self.skip(x) if "bent-before-the-sum" in self.ways else F.relu(y + self.skip(x))
        return torch.sigmoid(self.click(x.flatten(1)))


@network
def woven() -> Pair:
    """AutoInt: one table for all fields, numbers that scale a row, two heads without a scale, a learnt skip, a ReLU."""
    keras.backend.clear_session()
    ids, numbers = layers.Input((3,), dtype="int32", name="ids"), layers.Input((2,), name="numbers")
    x = layers.Embedding(16, 6, name="table")(ids + np.cumsum((0, *_SIZES[:-1])).astype(np.int32))
    y = [layers.Dense(6, use_bias=False, name=f"number{i + 1}")(numbers[:, i : i + 1]) for i in (0, 1)]
    x = layers.Concatenate(axis=1, name="fields")([x, ops.stack(y, axis=1)])
    heads = [layers.Reshape((5, 2, 3), name=f"{name}_heads")(layers.Dense(6, use_bias=False, name=name)(x))
             for name in ("query", "key", "value")]  # fmt: skip
    q, k, v = (ops.transpose(part, (0, 2, 1, 3)) for part in heads)
    shares = layers.Softmax(name="shares")(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
    y = layers.Reshape((5, 6), name="joined")(ops.transpose(ops.matmul(shares, v), (0, 2, 1, 3)))
    x = layers.Add(name="sum")([y, layers.Dense(6, use_bias=False, name="skip")(x)])
    x = layers.Flatten(name="row")(layers.ReLU(name="bend")(x))
    model = keras.Model([ids, numbers], layers.Dense(1, activation="sigmoid", name="click")(x))
    fill(model)
    grown(model, 2, "query", "key", "click")
    drawn = np.stack([counted(1441 + i, size, 5) for i, size in enumerate(_SIZES)], axis=1)
    return Pair(model, {"ids": drawn, "numbers": fed(1444, 5, 2)}, ported(model, Woven), "same")


_FIELD = "table ids add* number? stack* fields cat*"
_WEAVE = "*_heads shares softmax* matmul* transpose* mT* unflatten* permute* flatten* joined div* query key value"
_BEND = "sum add* bend relu* skip row flatten*"
slip("woven/fields-share-their-rows", _FIELD, "embedding-offset block-missing", "shift weights-perturbed wiring")
slip("woven/numbers-first", _FIELD, "concat-order", "operand-order wiring channel-order")
slip("woven/scaled-as-usual", _WEAVE, "attention-scale", "block-extra")
slip("woven/shared-among-askers", _WEAVE, "softmax-axis", "operation-kind")
slip("woven/heads-innermost", _WEAVE, "head-layout reshape-order", "wiring channel-order axis-permutation")
slip("woven/bent-before-the-sum", _BEND, "residual-order", "wiring operand-order")
slip("woven/skip-forgotten", _BEND, "residual-missing block-missing", "wiring")
ways("woven", "one-projection", "heads-as-samples")
one_layer("woven", "scaled-as-usual+heads-innermost", "shared-among-askers+scaled-as-usual")
neighbours("woven", "numbers-first+skip-forgotten", "heads-innermost+bent-before-the-sum")


# --- a visit ------------------------------------------------------------------------------------------------


class Visit(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.items, self.gru = nn.Embedding(12, 5), nn.GRU(5, 6, batch_first=True)
        self.last, self.each = nn.Linear(6, 4, bias=False), nn.Linear(6, 4, bias=False)
        self.weight, self.twist = nn.Linear(4, 1, bias=False), nn.Linear(12, 5, bias=False)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        there = (items != 0).float()
        x = self.items(items)
        x = unrolled(self.gru, x) if "loops-by-hand" in self.ways else self.gru(x)[0]
        last = x[:, 0] if "first-step-taken" in self.ways else x[:, -1]
        both = self.last(last)[:, None] + self.each(x)
        both = torch.tanh(both) if "tanh-for-sigmoid" in self.ways else torch.sigmoid(both)
        shares = self.weight(both)[..., 0]
        shares = shares if "padding-weighed" in self.ways else shares * there
        shares = F.softmax(shares, dim=1) if "weights-shared-out" in self.ways else shares
        aim = torch.einsum("bt,btc->bc", shares, x) if "aim-by-einsum" in self.ways else (shares[..., None] * x).sum(1)
        x = self.twist(torch.cat([aim, last], dim=1))
        table = self.items.weight
        return F.linear(x, table) if "scores-as-a-layer" in self.ways else x @ table.T


@network
def visit() -> Pair:
    """NARM: a GRU over a visit, weights by sigmoids that are not shared out, its aim and its end, all items' scores."""
    keras.backend.clear_session()
    items = layers.Input((6,), dtype="int32", name="visited")
    table = layers.Embedding(12, 5, name="items")
    x = layers.GRU(6, return_sequences=True, name="gru")(table(items))
    last = x[:, -1]
    asked = layers.Reshape((1, 4), name="asked")(layers.Dense(4, use_bias=False, name="last")(last))
    both = layers.Add(name="both")([asked, layers.Dense(4, use_bias=False, name="each")(x)])
    both = layers.Activation("sigmoid", name="gate")(both)
    shares = layers.Dense(1, use_bias=False, name="weight")(both)
    there = ops.expand_dims(ops.cast(ops.not_equal(items, 0), "float32"), 2)
    aim = ops.sum(shares * there * x, axis=1)
    x = layers.Concatenate(name="joined")([aim, last])
    x = layers.Dense(5, use_bias=False, name="twist")(x)
    model = keras.Model(items, Scores(table, name="scores")(x))
    fill(model)
    grown(model, 2, "each", "last", "weight")
    given = counted(1445, 12, 4, 6, least=1)
    given[0, :3] = given[2, :1] = given[3, :4] = 0
    return Pair(model, given, ported(model, Visit), "same")


_WEIGH = (
    "weight gate sigmoid* tanh* both add* mul* multiply* sum* softmax* get_item* select* slice* ne* not_equal* joined"
)
slip(
    "visit/first-step-taken",
    "gru get_item* select* slice* last joined cat*",
    "rnn-last-step",
    "wiring shift rnn-direction",
)
slip("visit/tanh-for-sigmoid", _WEIGH, "activation-kind")
slip("visit/padding-weighed", _WEIGH, "attention-mask block-missing", "wiring")
slip("visit/weights-shared-out", _WEIGH, "activation-extra block-extra logits", "operation-kind")
defect("visit/gates-of-keras", "gru", "gru-gate-order", "weights-perturbed weights-swapped")(regated("gru", 1, 0, 2))
defect("visit/second-bias-as-drawn", "gru", "rnn-bias weights-not-loaded weights-perturbed")(drawn_bias("gru"))
ways("visit", "loops-by-hand", "aim-by-einsum", "scores-as-a-layer")
one_layer("visit", "gates-of-keras+second-bias-as-drawn", "tanh-for-sigmoid+padding-weighed")
neighbours("visit", "first-step-taken+weights-shared-out")


# --- taken last ---------------------------------------------------------------------------------------------


class Taken(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.items, self.users = nn.Embedding(12, 4), nn.Embedding(6, 4)
        self.down, self.two, self.four = nn.Conv2d(1, 3, (5, 1)), nn.Conv2d(1, 2, (2, 4)), nn.Conv2d(1, 3, (4, 4))
        self.dense, self.out, self.level = nn.Linear(17, 6), nn.Embedding(12, 10), nn.Embedding(12, 1)

    def across(self, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if "across-by-sequences" in self.ways:
            x = F.conv1d(x[:, 0].mT, conv.weight[:, 0].mT, conv.bias)
        else:
            x = conv(x)[..., 0]
        x = x if "across-not-bent" in self.ways else F.relu(x)
        return x.mean(2) if "mean-for-largest" in self.ways else x.amax(2)

    def forward(self, taken: torch.Tensor, user: torch.Tensor, offered: torch.Tensor) -> torch.Tensor:
        x = self.items(taken)[:, None]
        if "down-by-a-product" in self.ways:
            down = torch.einsum("btc,ot->bco", x[:, 0], self.down.weight[:, 0, :, 0]) + self.down.bias
        else:
            down = self.down(x)[:, :, 0].mT
        down = down.mT.flatten(1) if "down-as-it-lies" in self.ways else down.flatten(1)
        across = [self.across(self.two, x), self.across(self.four, x)]
        parts = [*across, down] if "across-before-down" in self.ways else [down, *across]
        x = F.relu(self.dense(torch.cat(parts, dim=1)))
        x = torch.cat([x, self.users(user)[:, 0]], dim=1)
        scores = (self.out(offered) @ x[:, :, None])[..., 0]
        return scores if "items-without-a-level" in self.ways else scores + self.level(offered)[..., 0]


@network
def taken() -> Pair:
    """Caser: what was taken last as a picture, kernels down and across, who takes it, and what of the offer fits."""
    keras.backend.clear_session()
    items = layers.Input((5,), dtype="int32", name="taken")
    user = layers.Input((1,), dtype="int32", name="user")
    offered = layers.Input((3,), dtype="int32", name="offered")
    x = layers.Reshape((5, 4, 1), name="picture")(layers.Embedding(12, 4, name="items")(items))
    found = [layers.Flatten(name="down_row")(layers.Conv2D(3, (5, 1), name="down")(x))]
    for size, name, n in ((2, "two", 2), (4, "four", 3)):
        y = layers.Conv2D(n, (size, 4), activation="relu", name=name)(x)
        found.append(layers.GlobalMaxPooling2D(name=f"{name}_most")(y))
    x = layers.Dense(6, activation="relu", name="dense")(layers.Concatenate(name="seen")(found))
    user_row = layers.Flatten(name="user_row")(layers.Embedding(6, 4, name="users")(user))
    x = ops.expand_dims(layers.Concatenate(name="who")([x, user_row]), 2)
    scores = layers.Reshape((3,), name="scores")(ops.matmul(layers.Embedding(12, 10, name="out")(offered), x))
    level = layers.Reshape((3,), name="levels")(layers.Embedding(12, 1, name="level")(offered))
    model = keras.Model([items, user, offered], layers.Add(name="levelled")([scores, level]))
    fill(model)
    grown(model, 2, "down", "two", "four")
    inputs = {"taken": counted(1446, 12, 4, 5), "user": counted(1447, 6, 4, 1), "offered": counted(1448, 12, 4, 3)}
    return Pair(model, inputs, ported(model, Taken), "same")


_ACROSS = "two four *_most relu* amax* mean* conv2d* get_item* select* slice* seen"
slip("taken/across-not-bent", _ACROSS, "activation-missing", "block-missing")
slip("taken/mean-for-largest", _ACROSS, "pool-kind", "operation-kind")
slip(
    "taken/down-as-it-lies",
    "down down_row mT* flatten* seen cat* dense",
    "flatten-order dense-row-order",
    "wiring block-missing",
)
slip("taken/across-before-down", "seen cat* dense", "concat-order", "operand-order wiring")
slip(
    "taken/items-without-a-level",
    "levelled level levels add* scores matmul* slice*",
    "bias-missing block-missing residual-missing",
    "wiring",
)
defect("taken/kernel-on-its-side", "four", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("four.weight", lambda weight: weight.transpose(2, 3))
)
ways("taken", "down-by-a-product", "across-by-sequences")


@control("taken/rows-in-the-weights")
def _reordered(port: Taken) -> Taken:
    weight = port.dense.weight.detach().clone()
    weight[:, :12] = weight[:, :12].unflatten(1, (4, 3)).mT.flatten(1).clone()
    port.dense.weight = nn.Parameter(weight)
    port.ways = port.ways | {"down-as-it-lies"}
    return port


one_layer("taken", "across-not-bent+kernel-on-its-side", "across-not-bent+mean-for-largest")
neighbours("taken", "down-as-it-lies+kernel-on-its-side", "across-before-down+items-without-a-level")
