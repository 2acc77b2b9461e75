"""Items: fields in pairs that are weighed, films in the order they were seen, and a visit as a graph."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import Scores, zeroed_row
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixteenth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten, set_to

_SIZES = (6, 5, 4, 7)
_BEGIN = np.cumsum((0, *_SIZES[:-1])).astype(np.int32)
_FIRST, _SECOND = np.triu_indices(4, 1)


class Paired(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.factors, self.levels = nn.Embedding(22, 4), nn.Embedding(22, 1)
        self.attend, self.energy, self.project = nn.Linear(4, 3), nn.Linear(3, 1, bias=False), nn.Linear(4, 1)

    def pairs(self, x: torch.Tensor) -> torch.Tensor:
        if "pairs-by-einsum" in self.ways:
            every = torch.einsum("bic,bjc->bijc", x, x)
            return every[:, _FIRST, _SECOND]
        one, two = x[:, _FIRST], x[:, _SECOND]
        return one + two if "sums-for-products" in self.ways else one * two

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        ids = ids if "fields-share-their-rows" in self.ways else ids + torch.from_numpy(_BEGIN)
        x = self.pairs(self.factors(ids))
        y = self.attend(x)
        y = self.energy(torch.tanh(y) if "tanh-for-relu" in self.ways else F.relu(y))
        if "weights-by-division" in self.ways:
            y = torch.exp(y - y.amax(1, keepdim=True))
            shares = y / y.sum(1, keepdim=True)
        elif "weights-as-they-are" in self.ways:
            shares = y
        else:
            shares = F.softmax(y, dim=0 if "shared-among-rows" in self.ways else 1)
        x = shares * x
        x = self.project(x.mean(1) if "mean-of-pairs" in self.ways else x.sum(1))
        x = x if "levels-forgotten" in self.ways else x + self.levels(ids).sum(1)
        return x if "logit-alone" in self.ways else torch.sigmoid(x)


@network
def paired() -> Pair:
    """AFM: one table for all fields, the product of each two, weights by a small network, levels of the fields."""
    keras.backend.clear_session()
    ids = layers.Input((4,), dtype="int32", name="ids")
    rows = ids + _BEGIN
    x = layers.Embedding(22, 4, name="factors")(rows)
    x = layers.Multiply(name="pairs")([ops.take(x, _FIRST, axis=1), ops.take(x, _SECOND, axis=1)])
    y = layers.Dense(3, activation="relu", name="attend")(x)
    shares = layers.Softmax(axis=1, name="shares")(layers.Dense(1, use_bias=False, name="energy")(y))
    x = layers.Dense(1, name="project")(ops.sum(layers.Multiply(name="weighed")([shares, x]), axis=1))
    level = ops.sum(layers.Embedding(22, 1, name="levels")(rows), axis=1)
    x = layers.Activation("sigmoid", name="click")(layers.Add(name="logit")([x, level]))
    model = keras.Model(ids, x)
    fill(model)
    table = model.get_layer("factors").embeddings
    table.assign(table * 2)
    grown(model, 2, "attend", "energy", "project")
    drawn = np.stack([counted(1631 + i, size, 6) for i, size in enumerate(_SIZES)], axis=1)
    return Pair(model, drawn, ported(model, Paired), "same")


_WEIGH = "attend relu* tanh* energy shares softmax* weighed mul* sum* mean* project"
_LOGIT = "logit add* levels sum* click sigmoid* project"
slip("paired/fields-share-their-rows", "ids input* add* factors levels", "embedding-offset block-missing",
     "shift weights-perturbed wiring")  # fmt: skip
slip("paired/sums-for-products", "pairs mul* add* attend", "operation-kind")
slip("paired/tanh-for-relu", _WEIGH, "activation-kind")
slip("paired/weights-as-they-are", _WEIGH, "activation-missing logits block-missing", "wiring")
slip("paired/shared-among-rows", _WEIGH, "softmax-axis", "operation-kind")
slip("paired/mean-of-pairs", _WEIGH, "pool-kind scale", "operation-kind")
slip("paired/levels-forgotten", _LOGIT, "residual-missing block-missing bias-missing", "wiring")
slip("paired/logit-alone", _LOGIT, "logits activation-missing", "block-missing")
ways("paired", "pairs-by-einsum", "weights-by-division")
one_layer("paired", "tanh-for-relu+shared-among-rows")
neighbours("paired", "mean-of-pairs+levels-forgotten", "sums-for-products+tanh-for-relu")


# --- films --------------------------------------------------------------------------------------------------


class Rated(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.films, self.kinds, self.place = nn.Embedding(14, 4), nn.Linear(3, 2), nn.Embedding(5, 4)
        self.fit, self.users = nn.Linear(6, 4), nn.Embedding(6, 3)
        self.attention = nn.ModuleDict({name: nn.Linear(4, 8) for name in ("query", "key", "value")})
        self.attention["attention_output"] = nn.Linear(8, 4)
        self.norm1, self.norm2, self.feed = nn.LayerNorm(4, eps=1e-3), nn.LayerNorm(4, eps=1e-3), nn.Linear(4, 4)
        self.dense, self.bn, self.rating = nn.Linear(23, 8), nn.BatchNorm1d(8, eps=1e-3), nn.Linear(8, 1)

    def coded(self, film: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        parts = [self.films(film), self.kinds(kinds)]
        return F.relu(self.fit(torch.cat(parts[::-1] if "kinds-first" in self.ways else parts, dim=2)))

    def looked(self, x: torch.Tensor) -> torch.Tensor:
        own = [self.attention[name] for name in ("query", "key", "value")]
        q, k, v = (one(x).unflatten(2, (2, 4)).transpose(1, 2) for one in own)
        if "looked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = F.softmax(q @ k.mT / 2, dim=2 if "shared-among-askers" in self.ways else 3) @ v
        return self.attention["attention_output"](y.transpose(1, 2).flatten(2))

    def leaky(self, x: torch.Tensor) -> torch.Tensor:
        if "slope-by-maximum" in self.ways:
            return torch.maximum(x, 0.3 * x)
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.3)

    def forward(self, seen: torch.Tensor, seen_kinds: torch.Tensor, stars: torch.Tensor, user: torch.Tensor,
                offered: torch.Tensor, offered_kinds: torch.Tensor) -> torch.Tensor:  # fmt: skip
        x = self.coded(seen, seen_kinds)
        if "stars-before-places" in self.ways:
            x = x * stars[:, :, None] + self.place.weight[:4]
        else:
            x = x + self.place.weight[1:5] if "places-from-one" in self.ways else x + self.place.weight[:4]
            x = x if "stars-forgotten" in self.ways else x * stars[:, :, None]
        x = torch.cat([x, self.coded(offered, offered_kinds)], dim=1)
        x = self.norm1(x + self.looked(x))
        y = self.leaky(x)
        x = self.norm2((x if "bent-in-the-branch-alone" in self.ways else y) + self.feed(y))
        x = torch.cat([x.flatten(1), self.users(user)[:, 0]], dim=1)
        return self.rating(self.leaky(self.bn(self.dense(x))))


@network
def rated() -> Pair:
    """A behaviour transformer as Keras' example has it: films times their stars, the offered one last, a rating."""
    keras.backend.clear_session()
    shapes = (("seen", (4,)), ("seen_kinds", (4, 3)), ("stars", (4,)), ("user", (1,)), ("offered", (1,)),
              ("offered_kinds", (1, 3)))  # fmt: skip
    whole = ("seen", "user", "offered")
    given = {name: layers.Input(shape, dtype="int32" if name in whole else "float32", name=name)
             for name, shape in shapes}  # fmt: skip
    films, kinds = layers.Embedding(14, 4, name="films"), layers.Dense(2, name="kinds")
    fit = layers.Dense(4, activation="relu", name="fit")

    def coded(name: str) -> keras.KerasTensor:
        both = layers.Concatenate(name=f"{name}_both")([films(given[name]), kinds(given[f"{name}_kinds"])])
        return fit(both)

    order = ops.cumsum(ops.ones_like(given["seen"]), axis=1) - 1
    x = layers.Add(name="placed")([coded("seen"), layers.Embedding(5, 4, name="place")(order)])
    x = layers.Multiply(name="starred")([x, ops.expand_dims(given["stars"], 2)])
    x = layers.Concatenate(axis=1, name="all")([x, coded("offered")])
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm1")(layers.Add(name="sum1")([x, y]))
    x = layers.LeakyReLU(name="bend")(x)
    y = layers.Dense(4, name="feed")(x)
    x = layers.LayerNormalization(name="norm2")(layers.Add(name="sum2")([x, y]))
    user = layers.Flatten(name="user_row")(layers.Embedding(6, 3, name="users")(given["user"]))
    x = layers.Concatenate(name="known")([layers.Flatten(name="row")(x), user])
    x = layers.BatchNormalization(name="bn")(layers.Dense(8, name="dense")(x))
    x = layers.Dense(1, name="rating")(layers.LeakyReLU(name="last_bend")(x))
    model = keras.Model(list(given.values()), x)
    fill(model)
    for part in (model.get_layer("attention").query_dense, model.get_layer("attention").key_dense):
        part.kernel.assign(part.kernel * 2)
    inputs = {"seen": counted(1635, 14, 5, 4), "seen_kinds": np.abs(fed(1636, 5, 4, 3)),
              "stars": counted(1637, 6, 5, 4, least=1).astype(np.float32) / 5, "user": counted(1638, 6, 5, 1),
              "offered": counted(1639, 14, 5, 1), "offered_kinds": np.abs(fed(1640, 5, 1, 3))}  # fmt: skip
    return Pair(model, inputs, ported(model, Rated), "same")


_SEEN = "placed place add* starred mul* multiply* slice* get_item* all cat*"
slip("rated/kinds-first", "*_both cat* fit", "concat-order", "operand-order wiring")
slip("rated/places-from-one", _SEEN, "embedding-offset", "shift weights-perturbed")
slip("rated/stars-before-places", _SEEN, "residual-order wiring operand-order", "operation-kind")
slip("rated/stars-forgotten", _SEEN, "block-missing", "wiring scale")
slip("rated/shared-among-askers", "attention matmul* softmax*", "softmax-axis", "operation-kind")
slip("rated/slope-of-torch", "bend last_bend leaky_relu* feed rating", "activation-param", "activation-kind")
slip("rated/bent-in-the-branch-alone", "bend leaky_relu* sum2 add* norm2 feed",
     "wiring residual-order activation-missing", "operand-order block-missing")  # fmt: skip
defect("rated/bn-eps-of-torch", "bn", "bn-eps")(set_to("bn", eps=1e-5))
defect("rated/norm-eps-of-torch", "norm1 norm2", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("rated/feed-as-it-lies", "feed", "dense-transpose", "kernel-layout weights-perturbed axis-permutation")(
    rewritten("feed.weight", lambda weight: weight.T)
)
ways("rated", "looked-by-torch", "slope-by-maximum")
one_layer("rated", "places-from-one+stars-forgotten")
neighbours("rated", "kinds-first+places-from-one", "bn-eps-of-torch+slope-of-torch",
           "feed-as-it-lies+norm-eps-of-torch")  # fmt: skip


# --- a visit ------------------------------------------------------------------------------------------------


class Session(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.items = nn.Embedding(12, 4)
        self.into, self.outof = nn.Linear(4, 4), nn.Linear(4, 4)
        self.gates, self.state = nn.Linear(8, 12), nn.Linear(4, 12)
        self.ask, self.each, self.share = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1, bias=False)
        self.twist = nn.Linear(8, 4)

    def moved(self, x: torch.Tensor, into: torch.Tensor, outof: torch.Tensor) -> torch.Tensor:
        parts = [into @ self.into(x), outof @ self.outof(x)]
        heard = torch.cat(parts[::-1] if "outgoing-first" in self.ways else parts, dim=2)
        if "gru-cell-of-torch" in self.ways:
            swapped = torch.tensor([1, 0, 2])[:, None] * 4 + torch.arange(4)
            order = swapped.flatten()
            own = (self.gates.weight, self.state.weight, self.gates.bias, self.state.bias)
            return torch.gru_cell(heard.flatten(0, 1), x.flatten(0, 1), *(one[order] for one in own)).view_as(x)
        given, kept = self.gates(heard).chunk(3, dim=2), self.state(x).chunk(3, dim=2)
        if "gates-of-torch" in self.ways:
            r, z = torch.sigmoid(given[0] + kept[0]), torch.sigmoid(given[1] + kept[1])
        else:
            z, r = torch.sigmoid(given[0] + kept[0]), torch.sigmoid(given[1] + kept[1])
        new = given[2] + (kept[2] if "reset-forgotten" in self.ways else r * kept[2])
        new = new if "state-not-bent" in self.ways else torch.tanh(new)
        return (1 - z) * x + z * new if "kept-by-the-rest" in self.ways else (1 - z) * new + z * x

    def forward(self, nodes: torch.Tensor, into: torch.Tensor, outof: torch.Tensor, order: torch.Tensor,
                there: torch.Tensor) -> torch.Tensor:  # fmt: skip
        if "links-turned" in self.ways:
            into, outof = into.mT, outof.mT
        x = self.moved(self.items(nodes), into, outof)
        if "steps-by-one-hot" in self.ways:
            x = F.one_hot(order.long(), 5).float() @ x
        else:
            x = torch.gather(x, 1, order[:, :, None].expand(-1, -1, 4))
        at = torch.full((len(x),), 5) if "padding-for-last" in self.ways else there.sum(1).long() - 1
        last = x[torch.arange(len(x)), at]
        shares = self.share(torch.sigmoid(self.ask(last)[:, None] + self.each(x)))
        aim = (shares * x * (1 if "padding-weighed" in self.ways else there[:, :, None])).sum(1)
        parts = [last, aim] if "last-first" in self.ways else [aim, last]
        return self.twist(torch.cat(parts, dim=1)) @ self.items.weight.T


@network
def session() -> Pair:
    """SR-GNN: who follows whom in a visit, one step of a gated cell, the last item asks all, every item's score."""
    keras.backend.clear_session()
    nodes = layers.Input((5,), dtype="int32", name="nodes")
    into, outof = layers.Input((5, 5), name="into"), layers.Input((5, 5), name="outof")
    order, there = layers.Input((6,), dtype="int32", name="order"), layers.Input((6,), name="there")
    table = layers.Embedding(12, 4, name="items")
    x = table(nodes)
    said = [ops.matmul(into, layers.Dense(4, name="into_dense")(x)),
            ops.matmul(outof, layers.Dense(4, name="outof_dense")(x))]  # fmt: skip
    heard = layers.Concatenate(name="heard")(said)
    z, r, new = ops.split(layers.Dense(12, name="gates")(heard), 3, axis=2)
    z0, r0, new0 = ops.split(layers.Dense(12, name="state")(x), 3, axis=2)
    z, r = ops.sigmoid(z + z0), ops.sigmoid(r + r0)
    x = layers.Add(name="moved")([(1 - z) * ops.tanh(new + r * new0), z * x])
    x = ops.matmul(ops.one_hot(order, 5), x)
    at = ops.one_hot(ops.cast(ops.sum(there, axis=1), "int32") - 1, 6)
    last = ops.sum(x * ops.expand_dims(at, 2), axis=1)
    asked = layers.Reshape((1, 4), name="asked")(layers.Dense(4, name="ask")(last))
    both = layers.Activation("sigmoid", name="gate")(layers.Add(name="both")([asked, layers.Dense(4, name="each")(x)]))
    shares = layers.Dense(1, use_bias=False, name="share")(both)
    aim = ops.sum(layers.Multiply(name="weighed")([shares, x]) * ops.expand_dims(there, 2), axis=1)
    x = layers.Dense(4, name="twist")(layers.Concatenate(name="known")([aim, last]))
    model = keras.Model([nodes, into, outof, order, there], Scores(table, name="scores")(x))
    fill(model)
    grown(model, 2, "gates", "state", "each", "share")
    table.embeddings.assign(table.embeddings * 2)
    visits = counted(1641, 5, 4, 6)
    ends = np.array([6, 4, 5, 3])
    links = np.zeros((4, 5, 5), np.float32)
    for i, (visit, end) in enumerate(zip(visits, ends, strict=True)):
        links[i, visit[: end - 1], visit[1:end]] = 1
    there_ = (np.arange(6) < ends[:, None]).astype(np.float32)
    after = links / np.maximum(links.sum(2, keepdims=True), 1)
    before = links.transpose(0, 2, 1) / np.maximum(links.transpose(0, 2, 1).sum(2, keepdims=True), 1)
    inputs = {"nodes": counted(1642, 12, 4, 5, least=1), "into": before, "outof": after,
              "order": visits * there_.astype(np.int32), "there": there_}  # fmt: skip
    inputs["nodes"][1, 4] = inputs["nodes"][3, 2] = 0
    return Pair(model, inputs, ported(model, Session, rename=lambda name: name.removesuffix("_dense")), "same")


_HEARD = "heard cat* matmul* mT* into* outof* gates"
_CELL = "gates state moved split* chunk* sigmoid* tanh* mul* multiply* add* sub* subtract*"
_AIM = "last gather* get_item* slice* sum* cast* share gate sigmoid* weighed mul* multiply* known cat* ask twist"
slip("session/outgoing-first", _HEARD, "concat-order", "operand-order wiring")
slip("session/links-turned", _HEARD, "axis-permutation wiring", "operand-order block-extra attention-mask")
slip("session/gates-of-torch", _CELL, "gru-gate-order",
     "wiring operand-order concat-order weights-perturbed weights-swapped")  # fmt: skip
slip("session/reset-forgotten", _CELL, "gru-reset-after block-missing", "wiring")
slip("session/state-not-bent", _CELL, "activation-missing rnn-activation", "block-missing")
slip("session/kept-by-the-rest", _CELL, "operand-order wiring gru-gate-order", "operation-kind")
slip("session/padding-for-last", _AIM, "rnn-last-step attention-mask", "wiring shift")
slip("session/padding-weighed", _AIM, "attention-mask block-missing", "wiring")
slip("session/last-first", _AIM, "concat-order", "operand-order wiring")
defect("session/padding-row-of-zeros", "items heard into outof matmul* scores",
       "weights-perturbed weights-not-loaded embedding-offset", "attention-mask")(zeroed_row("items"))  # fmt: skip
defect("session/ask-for-each", "ask each both add*", "weights-swapped", "weights-perturbed wiring")(
    exchanged("ask", "each")
)
ways("session", "gru-cell-of-torch", "steps-by-one-hot")
one_layer("session", "gates-of-torch+state-not-bent", "padding-for-last+padding-weighed")
neighbours("session", "outgoing-first+kept-by-the-rest", "ask-for-each+last-first")
