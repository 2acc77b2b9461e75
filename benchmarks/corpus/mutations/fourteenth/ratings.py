"""Ratings: tastes that spread along who liked what, and rows with levels of their own and what one has rated."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import Plus, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import Port, counted, exchanged, ported


class Tastes(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.people, self.films = nn.Embedding(8, 4), nn.Embedding(9, 4)

    def levelled(self, liked: torch.Tensor) -> torch.Tensor:
        rows, columns = liked.sum(2, keepdim=True).clamp(min=1), liked.sum(1, keepdim=True).clamp(min=1)
        if "by-rows-alone" in self.ways:
            return liked / rows.sqrt()
        if "roots-forgotten" in self.ways:
            return liked / (rows * columns)
        return liked / (rows * columns).sqrt() if "one-root" in self.ways else liked / (rows.sqrt() * columns.sqrt())

    def forward(self, who: torch.Tensor, what: torch.Tensor, liked: torch.Tensor) -> torch.Tensor:
        links = self.levelled(liked)
        x, y = self.people(who), self.films(what)
        people, films = [x], [y]
        for _ in range(2):
            if "both-in-one-product" in self.ways:
                zeros = links.new_zeros
                upper = torch.cat([zeros(len(links), 4, 4), links], dim=2)
                whole = torch.cat([upper, torch.cat([links.mT, zeros(len(links), 5, 5)], dim=2)], dim=1)
                x, y = (whole @ torch.cat([x, y], dim=1)).split([4, 5], dim=1)
            elif "films-hear-what-is-new" in self.ways:
                x = links @ y
                y = links.mT @ x
            else:
                x, y = links @ y, links.mT @ x
            people.append(x)
            films.append(y)
        if "last-round-alone" in self.ways:
            return people[-1] @ films[-1].mT
        if "own-rows-left-out" in self.ways:
            people, films = people[1:], films[1:]
        x, y = torch.stack(people), torch.stack(films)
        x, y = (x.sum(0), y.sum(0)) if "summed-for-mean" in self.ways else (x.mean(0), y.mean(0))
        return torch.einsum("bic,bjc->bij", x, y) if "scores-by-einsum" in self.ways else x @ y.mT


@network
def tastes() -> Pair:
    """LightGCN: two rounds along who liked what, levelled on both sides, the mean of all rounds, and products."""
    keras.backend.clear_session()
    who, what = layers.Input((4,), dtype="int32", name="who"), layers.Input((5,), dtype="int32", name="what")
    liked = layers.Input((4, 5), name="liked")
    rows = ops.sqrt(ops.maximum(ops.sum(liked, axis=2, keepdims=True), 1))
    columns = ops.sqrt(ops.maximum(ops.sum(liked, axis=1, keepdims=True), 1))
    links = liked / (rows * columns)
    back = ops.transpose(links, (0, 2, 1))
    people, films = [layers.Embedding(8, 4, name="people")(who)], [layers.Embedding(9, 4, name="films")(what)]
    for _ in range(2):
        x, y = ops.matmul(links, films[-1]), ops.matmul(back, people[-1])
        people.append(x)
        films.append(y)
    x, y = layers.Average(name="person")(people), layers.Average(name="film")(films)
    model = keras.Model([who, what, liked], ops.matmul(x, ops.transpose(y, (0, 2, 1))))
    fill(model)
    inputs = {"who": counted(1451, 8, 3, 4), "what": counted(1452, 9, 3, 5),
              "liked": counted(1453, 2, 3, 4, 5).astype("float32")}  # fmt: skip
    return Pair(model, inputs, ported(model, Tastes), "same")


_LINKS = "sum* clamp* maximum* sqrt* mul* multiply* div* truediv* true_divide* divide* matmul* liked"
_ROUNDS = "matmul* transpose* mT* person film stack* mean* sum* add*"
slip("tastes/by-rows-alone", _LINKS, "block-missing", "norm-axis scale wiring")
slip("tastes/roots-forgotten", _LINKS, "block-missing", "scale operation-kind wiring")
slip("tastes/films-hear-what-is-new", _ROUNDS, "wiring operand-order", "residual-order")
slip("tastes/last-round-alone", _ROUNDS, "residual-missing block-missing wiring", "pool-kind")
slip("tastes/own-rows-left-out", _ROUNDS, "residual-missing block-missing wiring", "scale shift")
slip("tastes/summed-for-mean", _ROUNDS, "pool-kind scale operation-kind block-missing")
ways("tastes", "one-root", "both-in-one-product", "scores-by-einsum")
one_layer("tastes", "own-rows-left-out+summed-for-mean")
neighbours("tastes", "by-rows-alone+films-hear-what-is-new", "roots-forgotten+summed-for-mean")


# --- levels -------------------------------------------------------------------------------------------------


class Levels(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.people, self.films, self.rated = nn.Embedding(8, 4), nn.Embedding(8, 4), nn.Embedding(8, 4)
        self.people_level, self.films_level = nn.Embedding(8, 1), nn.Embedding(8, 1)
        self.mean = nn.ParameterDict({"shift": torch.zeros(1)})

    def past(self, rated: torch.Tensor) -> torch.Tensor:
        there = (rated != 0).float()
        table = self.films if "past-from-the-films" in self.ways else self.rated
        if "past-as-a-bag" in self.ways:
            x = F.embedding_bag(rated, table.weight, mode="sum", per_sample_weights=there)
        else:
            x = table(rated)
            x = x.sum(1) if "padding-summed" in self.ways else (x * there[..., None]).sum(1)
        size = there.sum(1, keepdim=True)
        if "by-size-for-root" in self.ways:
            return x / size
        return x / (5**0.5 if "by-the-whole-length" in self.ways else size.sqrt())

    def forward(self, person: torch.Tensor, film: torch.Tensor, rated: torch.Tensor) -> torch.Tensor:
        taste = self.people(person)[:, 0] + self.past(rated)
        fit = taste * self.films(film)[:, 0]
        fit = torch.einsum("bc->b", fit)[:, None] if "fit-by-einsum" in self.ways else fit.sum(1, keepdim=True)
        x = fit + self.people_level(person)[:, 0] + self.films_level(film)[:, 0]
        x = x if "mean-forgotten" in self.ways else x + self.mean["shift"]
        return x if "stars-not-bounded" in self.ways else 1 + 4 * torch.sigmoid(x)


@network
def levels() -> Pair:
    """SVD++: levels of a person and of a film, what else was rated by the root of its size, one to five stars."""
    keras.backend.clear_session()
    person, film = (layers.Input((1,), dtype="int32", name=name) for name in ("person", "film"))
    rated = layers.Input((5,), dtype="int32", name="rated")

    def row(ids: keras.KerasTensor, name: str, width: int) -> keras.KerasTensor:
        return layers.Flatten(name=f"{name}_row")(layers.Embedding(8, width, name=name)(ids))

    there = ops.expand_dims(ops.cast(ops.not_equal(rated, 0), "float32"), 2)
    past = ops.sum(layers.Embedding(8, 4, name="rated_table")(rated) * there, axis=1)
    taste = layers.Add(name="taste")([row(person, "people", 4), past / ops.sqrt(ops.sum(there, axis=1))])
    fit = layers.Dot(axes=1, name="fit")([taste, row(film, "films", 4)])
    x = layers.Add(name="levelled")([fit, row(person, "people_level", 1), row(film, "films_level", 1)])
    model = keras.Model([person, film, rated], 1 + 4 * ops.sigmoid(Plus(name="mean")(x)))
    fill(model)
    past_ids = counted(1454, 8, 5, 5, least=1)
    past_ids[0, 3:] = past_ids[2, 1:] = past_ids[4, 4:] = 0
    inputs = {"person": counted(1455, 8, 5, 1), "film": counted(1456, 8, 5, 1), "rated": past_ids}
    return Pair(model, inputs, ported(model, Levels, rename=lambda name: name.removesuffix("_table")), "same")


_PAST = "rated rated_table mul* multiply* sum* sqrt* div* truediv* true_divide* divide* ne* not_equal* taste films"
_STARS = "levelled add* mean sigmoid* mul* multiply* people_level* films_level*"
slip(
    "levels/past-from-the-films", _PAST, "wiring weights-swapped", "weights-not-loaded weights-perturbed block-missing"
)
slip("levels/padding-summed", _PAST, "attention-mask block-missing", "wiring")
slip("levels/by-size-for-root", _PAST, "block-missing", "scale wiring operation-kind")
slip("levels/by-the-whole-length", _PAST, "attention-mask block-missing", "scale pool-count-include-pad wiring")
slip("levels/mean-forgotten", _STARS, "bias-missing block-missing residual-missing", "wiring")
slip("levels/stars-not-bounded", _STARS, "activation-missing block-missing logits", "scale")
defect("levels/films-for-people", _STARS, "weights-swapped", "weights-perturbed wiring")(
    exchanged("people_level", "films_level")
)
ways("levels", "past-as-a-bag", "fit-by-einsum")
one_layer("levels", "padding-summed+by-size-for-root", "mean-forgotten+films-for-people")
neighbours("levels", "by-the-whole-length+mean-forgotten")
