"""What a person may like: factorised fields beside a deep network."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.fifth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair

_FIELDS = {"user": 12, "item": 12, "genre": 7}


class Pairs(nn.Module):
    """Half of what the square of the sum has over the sum of the squares: each field with each other."""

    def total(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1)

    def square(self, x: torch.Tensor) -> torch.Tensor:
        return x.square()

    def halved(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.halved((self.square(self.total(x)) - self.total(x.square())).sum(1, keepdim=True))


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden1, self.bn, self.slope = nn.Linear(15, 15), nn.BatchNorm1d(15, eps=1e-3), nn.PReLU(15)
        self.hidden2, self.out = nn.Linear(15, 6), nn.Linear(6, 1, bias=False)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope(self.bn(self.hidden1(x)))

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.2, self.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden2(self.drop(self.first(x)))))


class Recommend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ModuleDict({name: nn.Embedding(size, 1) for name, size in _FIELDS.items()})
        self.tables = nn.ModuleDict({name: nn.Embedding(size, 4) for name, size in _FIELDS.items()})
        self.numbers, self.pairs, self.deep = nn.Linear(3, 1), Pairs(), Deep()

    def prepare(self, numbers: torch.Tensor) -> torch.Tensor:
        return torch.log1p(numbers)

    def ids(self, kinds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return kinds.unbind(1)

    def joined(self, x: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.flatten(1), numbers], dim=1)

    def linear(self, ids: dict[str, torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
        return sum((self.weights[name](kind) for name, kind in ids.items()), self.numbers(numbers))

    def result(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)

    def forward(self, kinds: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        ids, numbers = dict(zip(_FIELDS, self.ids(kinds), strict=True)), self.prepare(numbers)
        x = torch.stack([self.tables[name](kind) for name, kind in ids.items()], dim=1)
        return self.result(self.linear(ids, numbers) + self.pairs(x) + self.deep(self.joined(x, numbers)))


class _Pairs(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        square_of_sum = ops.square(ops.sum(x, axis=1))
        sum_of_squares = ops.sum(ops.square(x), axis=1)
        return 0.5 * ops.sum(square_of_sum - sum_of_squares, axis=1, keepdims=True)


@network
def recommend() -> Pair:
    """A factorisation machine of three fields, with a deep network on the same tables."""
    keras.backend.clear_session()
    kinds, raw = layers.Input((3,), dtype="int32", name="kinds"), layers.Input((3,), name="numbers")
    numbers = layers.Lambda(ops.log1p, name="log")(raw)
    rows, linear = [], [layers.Dense(1, name="numbers_weight")(numbers)]
    for i, (name, size) in enumerate(_FIELDS.items()):
        linear.append(layers.Embedding(size, 1, name=f"weights_{name}")(kinds[:, i]))
        rows.append(layers.Embedding(size, 4, name=f"tables_{name}")(kinds[:, i]))
    fields = ops.stack(rows, axis=1)
    x = layers.Concatenate(name="joined")([layers.Flatten(name="flat")(fields), numbers])
    x = layers.BatchNormalization(name="deep_bn")(layers.Dense(15, name="deep_hidden1")(x))
    x = layers.Dropout(0.2, name="drop")(layers.PReLU(name="deep_slope")(x))
    x = layers.Dense(6, activation="relu", name="deep_hidden2")(x)
    x = layers.Dense(1, use_bias=False, name="deep_out")(x)
    x = layers.Add(name="sum")([layers.Add(name="linear")(linear), _Pairs(name="pairs")(fields), x])
    model = keras.Model([kinds, raw], layers.Activation("sigmoid", name="chance")(x))
    fill(model)
    for name in ("deep_hidden2", "deep_out"):
        model.get_layer(name).kernel.assign(model.get_layer(name).kernel * 2)
    norm = model.get_layer("deep_bn")
    norm.moving_variance.assign(norm.moving_variance * 0.1)
    rng = np.random.default_rng(46)
    inputs = {"kinds": rng.integers(0, 7, (6, 3)).astype(np.int32),
              "numbers": rng.uniform(0, 9, (6, 3)).astype(np.float32)}  # fmt: skip

    def rename(name: str) -> str:
        return "numbers" if name == "numbers_weight" else name.replace("_", ".")

    return Pair(model, inputs, lambda: carry(model, Recommend(), rename), "same")


@defect("recommend/half-forgotten", "pairs", "scale", "block-missing")
def _(port: Any) -> None:
    port.pairs.halved = lambda x: x


@defect("recommend/summed-over-features", "pairs", "norm-axis pool-kind", "operation-kind axis-permutation wiring")
def _(port: Any) -> None:
    """reduce_sum(xv, 2) where the fields are axis 1 (product-nets#6)."""
    port.pairs.total = lambda x: x.sum(2)


@defect(
    "recommend/square-forgotten", "pairs", "block-missing activation-missing operation-kind", "wiring activation-kind"
)
def _(port: Any) -> None:
    """The sum's square was left out (DeepCTR#2)."""
    port.pairs.square = lambda x: x


@defect(
    "recommend/numbers-first", "joined cat deep_hidden1 deep.hidden1", "concat-order dense-row-order", "operand-order"
)
def _(port: Any) -> None:
    port.joined = lambda x, numbers: torch.cat([numbers, x.flatten(1)], dim=1)


@defect("recommend/features-before-fields", "joined flat flatten cat deep_hidden1 deep.hidden1",
        "flatten-order dense-row-order", "channel-order")  # fmt: skip
def _(port: Any) -> None:
    """Stacked behind, then flattened: features outside, fields inside."""
    joined = port.joined
    port.joined = lambda x, numbers: joined(x.transpose(1, 2), numbers)


@defect("recommend/weights-exchanged", "weights_user weights_item weights.user weights.item", "weights-swapped",
        "weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    """As many users as items."""
    one, two = port.weights["user"], port.weights["item"]
    one.weight, two.weight = two.weight, one.weight


@defect("recommend/ids-from-one", "tables_genre weights_genre tables.genre weights.genre", "embedding-offset",
        "weights-perturbed shift")  # fmt: skip
def _(port: Any) -> None:
    """The lookup of the other side has a row for what is unknown."""
    ids = port.ids

    def shifted(kinds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        user, item, genre = ids(kinds)
        return user, item, (genre + 1) % _FIELDS["genre"]

    port.ids = shifted


@defect("recommend/numbers-as-they-are", "log log1p numbers_weight numbers joined cat",
        "input-normalisation block-missing", "activation-missing input-scale operation-kind scale")  # fmt: skip
def _(port: Any) -> None:
    port.prepare = lambda numbers: numbers


@defect("recommend/kernel-square", "deep_hidden1 deep.hidden1", "dense-transpose", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    port.deep.hidden1.weight.data = port.deep.hidden1.weight.data.T.contiguous()


@defect("recommend/slopes-of-the-start", "deep_slope deep.slope", "activation-param", "weights-not-loaded")
def _(port: Any) -> None:
    """PReLU begins with 0.25 in PyTorch."""
    port.deep.slope.weight.data.fill_(0.25)


@defect("recommend/norm-behind-slope", "deep_bn deep_slope deep.bn deep.slope",
        "residual-order wiring activation-missing activation-extra",
        "block-missing block-extra operation-kind")  # fmt: skip
def _(port: Any) -> None:
    port.deep.first = lambda x: port.deep.bn(port.deep.slope(port.deep.hidden1(x)))


@defect("recommend/gain-for-shift", "deep_bn deep.bn", "bn-swapped", "weights-swapped weights-perturbed")
def _(port: Any) -> None:
    """Gamma and beta in the other order."""
    port.deep.bn.weight, port.deep.bn.bias = port.deep.bn.bias, port.deep.bn.weight


@defect("recommend/bias-without-place", "numbers_weight numbers", "bias-missing", "weights-perturbed")
def _(port: Any) -> None:
    """The only bias of the linear part."""
    port.numbers.bias = None


@defect(
    "recommend/drops-while-it-serves", "drop deep.dropout deep.mul* deep_hidden2", "dropout-mode", "scale block-extra"
)
def _(port: Any) -> None:
    port.deep.drop = lambda x: F.dropout(x, 0.2)


@defect("recommend/chance-of-chance", "chance sigmoid sigmoid_1 sum", "activation-extra", "block-extra")
def _(port: Any) -> None:
    """What serves the model applies another sigmoid."""
    result = port.result
    port.result = lambda x: torch.sigmoid(result(x))


@control("recommend/pairs-one-by-one")
def _(port: Any) -> None:
    """Each pair's product by itself, as a paper writes it."""
    port.pairs.forward = lambda x: (
        (x[:, 0] * x[:, 1]).sum(1, keepdim=True)
        + (x[:, 0] * x[:, 2]).sum(1, keepdim=True)
        + (x[:, 1] * x[:, 2]).sum(1, keepdim=True)
    )


@control("recommend/one-table")
def _(port: Any) -> None:
    """All fields in one table, with where each begins added to its ids."""
    port.table = nn.Embedding(sum(_FIELDS.values()), 5)
    port.table.weight.data = torch.cat(
        [torch.cat([port.tables[name].weight.data, port.weights[name].weight.data], dim=1) for name in _FIELDS]
    )

    def forward(kinds: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        numbers = port.prepare(numbers)
        rows = port.table(kinds + torch.tensor([0, 12, 24]))
        x, weights = rows[..., :4], rows[..., 4]
        linear = port.numbers(numbers) + weights.sum(1, keepdim=True)
        return torch.sigmoid(linear + port.pairs(x) + port.deep(port.joined(x, numbers)))

    port.forward = forward


one_layer("recommend", "half-forgotten+summed-over-features", "gain-for-shift+norm-behind-slope")
neighbours("recommend", "kernel-square+slopes-of-the-start", "numbers-first+kernel-square")
