"""Rows of a table: clicks by products of fields, a mixture of prices, and papers that cite one another."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten


class Clicks(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.below1, self.below2 = nn.Linear(6, 8), nn.Linear(8, 4)
        self.tables = nn.ModuleList(nn.Embedding(9, 4) for _ in range(3))
        self.above1, self.above2 = nn.Linear(10, 8), nn.Linear(8, 1)

    def bag(self, table: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        if "bags-of-torch" in self.ways:
            return F.embedding_bag(ids, table.weight, mode="sum")
        found = table(ids)
        return found.mean(1) if "mean-of-the-bag" in self.ways else found.sum(1)

    def met(self, parts: torch.Tensor) -> torch.Tensor:
        if "met-one-by-one" in self.ways:
            pairs = [(parts[:, i] * parts[:, j]).sum(1) for i in range(4) for j in range(i)]
            return torch.stack(pairs, dim=1)
        product = parts @ parts.transpose(1, 2)
        product = product / 2 if "products-scaled" in self.ways else product
        if "upper-triangle" in self.ways:
            rows, columns = torch.triu_indices(4, 4, 1)
        else:
            rows, columns = torch.tril_indices(4, 4, -1)
        return product[:, rows, columns]

    def forward(self, numbers: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        x = F.relu(numbers) if "numbers-not-logged" in self.ways else torch.log1p(F.relu(numbers))
        x = self.below2(F.relu(self.below1(x)))
        x = x if "below-left-linear" in self.ways else F.relu(x)
        bags = [self.bag(table, ids[:, i]) for i, table in enumerate(self.tables)]
        met = self.met(torch.stack([*bags, x] if "numbers-last" in self.ways else [x, *bags], dim=1))
        x = torch.cat([met, x] if "products-first" in self.ways else [x, met], dim=1)
        x = self.above2(F.relu(self.above1(x)))
        return x if "score-for-chance" in self.ways else torch.sigmoid(x)


@network
def clicks() -> Pair:
    """DLRM: numbers through a small network, bags of ids, and the product of each two."""
    keras.backend.clear_session()
    numbers, ids = layers.Input((6,), name="numbers"), layers.Input((3, 2), dtype="int32", name="ids")
    x = ops.log1p(ops.relu(numbers))
    x = layers.Dense(4, activation="relu", name="below2")(layers.Dense(8, activation="relu", name="below1")(x))
    bags = [ops.sum(layers.Embedding(9, 4, name=f"tables.{i}")(ids[:, i]), axis=1) for i in range(3)]
    parts = ops.stack([x, *bags], axis=1)
    product = layers.Reshape((16,), name="products")(ops.matmul(parts, ops.transpose(parts, (0, 2, 1))))
    met = ops.take(product, np.ravel_multi_index(np.tril_indices(4, -1), (4, 4)), axis=1)
    x = layers.Dense(8, activation="relu", name="above1")(layers.Concatenate(name="both")([x, met]))
    model = keras.Model([numbers, ids], layers.Dense(1, activation="sigmoid", name="above2")(x))
    fill(model)
    grown(model, 2, "below1", "below2")
    return Pair(
        model, {"numbers": 3 * fed(881, 6, 6) + 2, "ids": counted(882, 9, 6, 3, 2)}, ported(model, Clicks), "same"
    )


_PRODUCTS = "matmul* products transpose* take* get_item* slice* index* both cat* div* stack* above1"
slip("clicks/numbers-not-logged", "log1p* relu* below1", "activation-missing block-missing", "input-normalisation")
slip("clicks/below-left-linear", "below2 relu* stack*", "activation-missing", "block-missing")
slip("clicks/mean-of-the-bag", "tables tables.* sum* mean* stack*", "pool-kind scale", "operation-kind")
slip("clicks/products-scaled", _PRODUCTS, "scale attention-scale block-extra")
slip("clicks/upper-triangle", _PRODUCTS, "channel-order axis-permutation", "concat-order reshape-order wiring")
slip("clicks/numbers-last", _PRODUCTS, "concat-order", "operand-order channel-order axis-permutation")
slip("clicks/products-first", "both cat* above1", "concat-order", "operand-order")
slip("clicks/score-for-chance", "above2 sigmoid", "logits activation-missing", "block-missing")
defect(
    "clicks/ids-counted-from-one", "tables tables.*", "embedding-offset", "shift weights-perturbed axis-permutation"
)(rewritten("tables.?.weight", lambda weight: weight.roll(1, 0)))
defect("clicks/tables-exchanged", "tables tables.*", "weights-swapped", "weights-perturbed wiring")(
    exchanged("tables.0", "tables.2")
)
ways("clicks", "bags-of-torch", "met-one-by-one")
one_layer("clicks", "ids-counted-from-one+tables-exchanged", "upper-triangle+products-scaled")
neighbours("clicks", "below-left-linear+numbers-last", "products-first+score-for-chance")


# --- a mixture ----------------------------------------------------------------------------------------------


class Mixtures(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.bn, self.enter, self.deep = nn.BatchNorm1d(5, eps=1e-3), nn.Linear(5, 8), nn.Linear(8, 8)
        self.share, self.middle, self.width = nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(8, 3)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "elu-for-selu" in self.ways:
            return F.elu(x)
        if "selu-by-hand" in self.ways:
            return 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * torch.expm1(torch.clamp(x, max=0)))
        return F.selu(x)

    def forward(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = row if "row-not-normed" in self.ways else self.bn(row)
        x = self.bent(self.enter(x))
        y = self.deep(x)
        x = self.bent(y) + x if "bent-before-the-sum" in self.ways else self.bent(x + y)
        shares = F.softmax(self.share(x), dim=0 if "shared-among-the-rows" in self.ways else 1)
        width = self.width(x)
        if "widths-by-exp" in self.ways:
            width = torch.exp(width)
        else:
            width = F.softplus(width) if "widths-by-softplus" in self.ways else F.elu(width) + 1
        width = width if "least-width-forgotten" in self.ways else width + 0.05
        middle = self.middle(x)
        mean = (shares * middle).sum(1, keepdim=True)
        spread = (shares * (width**2 + middle**2)).sum(1, keepdim=True)
        spread = spread if "square-of-the-mean-left-in" in self.ways else spread - mean**2
        return mean, spread if "variance-given" in self.ways else torch.sqrt(spread)


@network
def mixtures() -> Pair:
    """A mixture of three normal distributions for a price: its mean and its spread."""
    keras.backend.clear_session()
    row = layers.Input((5,), name="row")
    x = layers.Dense(8, activation="selu", name="enter")(layers.BatchNormalization(name="bn")(row))
    x = ops.selu(layers.Add(name="whole")([x, layers.Dense(8, name="deep")(x)]))
    share = layers.Dense(3, activation="softmax", name="share")(x)
    middle, width = layers.Dense(3, name="middle")(x), ops.elu(layers.Dense(3, name="width")(x)) + 1 + 0.05
    mean = ops.sum(share * middle, axis=1, keepdims=True)
    spread = ops.sum(share * (ops.square(width) + ops.square(middle)), axis=1, keepdims=True) - ops.square(mean)
    model = keras.Model(row, [mean, ops.sqrt(spread)])
    fill(model)
    return Pair(model, fed(883, 6, 5), ported(model, Mixtures), "same")


_WIDTH, _SPREAD = "width elu* add* softplus exp*", "mul* multiply* square* pow* sum* sub* subtract* sqrt* add*"
slip("mixtures/row-not-normed", "bn enter", "block-missing input-normalisation", "wiring bn-stats")
slip("mixtures/elu-for-selu", "selu* elu* enter", "activation-kind", "activation-param scale")
slip("mixtures/bent-before-the-sum", "whole add* selu*", "residual-order", "operand-order wiring")
slip("mixtures/shared-among-the-rows", "share softmax", "softmax-axis", "operation-kind")
slip("mixtures/widths-by-exp", _WIDTH, "activation-kind", "operation-kind block-missing")
slip("mixtures/widths-by-softplus", _WIDTH, "activation-kind", "operation-kind block-missing")
slip("mixtures/least-width-forgotten", _WIDTH, "bias-missing block-missing", "residual-missing")
slip("mixtures/square-of-the-mean-left-in", _SPREAD, "residual-missing block-missing", "wiring")
slip("mixtures/variance-given", _SPREAD, "activation-missing block-missing", "operation-kind")
defect("mixtures/widths-for-middles", "middle width", "weights-swapped", "weights-perturbed wiring")(
    exchanged("middle", "width")
)
defect("mixtures/norm-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
ways("mixtures", "selu-by-hand")
one_layer("mixtures", "widths-by-exp+least-width-forgotten", "square-of-the-mean-left-in+variance-given")
neighbours("mixtures", "row-not-normed+elu-for-selu")


# --- papers -------------------------------------------------------------------------------------------------


class Cites(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 4)
        self.orders = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(3))

    def levelled(self, links: torch.Tensor) -> torch.Tensor:
        links = links.transpose(1, 2) if "links-turned" in self.ways else links
        links = links if "papers-without-themselves" in self.ways else links + torch.eye(7)
        if "levelled-by-rows" in self.ways:
            return links / links.sum(2, keepdim=True)
        share = links.sum(1 if "counted-by-columns" in self.ways else 2).rsqrt()
        if "levelled-by-products" in self.ways:
            return torch.diag_embed(share) @ links @ torch.diag_embed(share)
        return share[:, :, None] * links * share[:, None]

    def forward(self, papers: torch.Tensor, links: torch.Tensor) -> torch.Tensor:
        near = self.levelled(links)
        x = F.relu(self.enter(papers))
        once = near @ x
        twice = near @ once if "second-order-as-a-power" in self.ways else 2 * near @ once - x
        parts = [layer(part) for layer, part in zip(self.orders, (x, once, twice), strict=True)]
        x = F.relu(sum(parts[1:]) if "own-features-forgotten" in self.ways else sum(parts))
        first = x = self.leave(x)
        for _ in range(1 if "spread-once" in self.ways else 2):
            share = 0.8 if "mostly-ones-own" in self.ways else 0.2
            x = (1 - share) * near @ x + share * (x if "spread-from-the-last" in self.ways else first)
        return F.log_softmax(x, dim=1 if "kinds-among-the-papers" in self.ways else 2)


@network
def cites() -> Pair:
    """What papers are about, from whom they cite: Chebyshev's polynomials, then answers that spread and come back."""
    keras.backend.clear_session()
    papers, links = layers.Input((7, 6), name="papers"), layers.Input((7, 7), name="links")
    near = links + ops.eye(7)
    share = ops.rsqrt(ops.sum(near, axis=2))
    near = ops.expand_dims(share, 2) * near * ops.expand_dims(share, 1)
    x = layers.Dense(8, activation="relu", name="enter")(papers)
    once = ops.matmul(near, x)
    twice = 2 * ops.matmul(near, once) - x
    parts = [layers.Dense(8, use_bias=False, name=f"orders.{i}")(part) for i, part in enumerate((x, once, twice))]
    first = x = layers.Dense(4, name="leave")(layers.ReLU(name="relu")(layers.Add(name="orders_sum")(parts)))
    for _ in range(2):
        x = 0.8 * ops.matmul(near, x) + 0.2 * first
    model = keras.Model([papers, links], ops.log_softmax(x, axis=-1))
    fill(model)
    links = (np.random.default_rng(884).random((3, 7, 7)) < 0.3).astype(np.float32)
    links[:, range(7), [1, 2, 3, 4, 5, 6, 0]] = 1  # nobody is alone
    return Pair(model, {"papers": fed(885, 3, 7, 6), "links": links}, ported(model, Cites), "same")


_NEAR = "add* sum* rsqrt* mul* multiply* get_item* slice* expand_dims* transpose* div* eye* matmul*"
_ORDERS = "orders orders.* matmul* sub* subtract* mul* multiply* orders_sum add* relu*"
_SPREAD_ON = "matmul* mul* multiply* add* leave"
slip("cites/papers-without-themselves", _NEAR, "residual-missing block-missing", "attention-mask wiring")
slip("cites/links-turned", _NEAR, "axis-permutation", "wiring block-extra dense-transpose")
slip("cites/levelled-by-rows", _NEAR, "norm-axis operation-kind", "block-missing")
slip("cites/counted-by-columns", _NEAR, "norm-axis", "axis-permutation operation-kind")
slip("cites/second-order-as-a-power", _ORDERS, "block-missing residual-missing", "scale wiring")
slip("cites/own-features-forgotten", _ORDERS, "residual-missing block-missing", "wiring")
slip("cites/spread-once", _SPREAD_ON + " *softmax*", "block-missing", "wiring")
slip("cites/mostly-ones-own", _SPREAD_ON, "scale operand-order", "weights-perturbed")
slip("cites/spread-from-the-last", _SPREAD_ON, "wiring", "operand-order residual-missing")
slip("cites/kinds-among-the-papers", "*softmax*", "softmax-axis", "operation-kind")
defect("cites/orders-exchanged", "orders orders.*", "weights-swapped", "weights-perturbed wiring")(
    exchanged("orders.1", "orders.2")
)
ways("cites", "levelled-by-products")
one_layer("cites", "papers-without-themselves+counted-by-columns", "second-order-as-a-power+orders-exchanged")
neighbours("cites", "mostly-ones-own+kinds-among-the-papers")
