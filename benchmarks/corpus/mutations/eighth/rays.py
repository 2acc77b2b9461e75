"""What does not lie on a grid of pixels: rays through a scene, and bonds between atoms."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, exchanged, fed, ported, rewritten


class Rays(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.first, self.second, self.third = nn.Linear(15, 10), nn.Linear(10, 10), nn.Linear(25, 10)
        self.density, self.colour = nn.Linear(10, 1), nn.Linear(10, 3)

    def encoded(self, points: torch.Tensor) -> torch.Tensor:
        if "waves-at-once" in self.ways:
            x = (points[..., None, :] * torch.tensor([1.0, 2.0])[:, None])[..., None, :]
            waves = torch.cat([torch.sin(x), torch.cos(x)], dim=-2)
            return torch.cat([points, waves.flatten(-3)], dim=-1)
        rate = torch.pi if "waves-by-pi" in self.ways else 1.0
        waves = [wave(points * rate * 2**i) for i in range(2) for wave in (torch.sin, torch.cos)]
        waves = [waves[i] for i in (0, 2, 1, 3)] if "sines-first" in self.ways else waves
        return torch.cat([*waves, points] if "points-behind-their-waves" in self.ways else [points, *waves], dim=-1)

    def weighed(self, density: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if "lengths-forgotten" in self.ways:
            lengths = torch.ones_like(lengths)
        thick = density * lengths
        if "light-by-sums" in self.ways:
            return -torch.expm1(-thick) * torch.exp(-(thick.cumsum(1) - thick))
        alpha = 1 - torch.exp(-thick)
        light = torch.cumprod(1 - alpha + 1e-10, dim=1)
        if "light-behind-each" not in self.ways:
            light = torch.cat([torch.ones_like(light[:, :1]), light[:, :-1]], dim=1)
        return alpha if "light-never-fades" in self.ways else alpha * light

    def forward(self, points: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        told = self.encoded(points)
        x = F.relu(self.second(F.relu(self.first(told))))
        x = F.relu(self.third(torch.cat([x, told] if "features-first" in self.ways else [told, x], dim=-1)))
        density = self.density(x)[..., 0]
        density = F.softplus(density) if "density-by-softplus" in self.ways else F.relu(density)
        colour = self.colour(x)
        colour = colour if "colours-unbounded" in self.ways else torch.sigmoid(colour)
        weights = self.weighed(density, lengths)
        seen = (weights[..., None] * colour).sum(1)
        there = weights.sum(1, keepdim=True)
        return (seen if "nothing-behind" in self.ways else seen + 1 - there), there


@network
def rays() -> Pair:
    """NeRF: places as waves, a network with a skip, and the light that comes along each ray before a white wall."""
    keras.backend.clear_session()
    points, lengths = layers.Input((6, 3), name="points"), layers.Input((6,), name="lengths")
    waves = [wave(points * 2.0**i) for i in range(2) for wave in (ops.sin, ops.cos)]
    told = layers.Concatenate(name="told")([points, *waves])
    x = layers.Dense(10, activation="relu", name="second")(layers.Dense(10, activation="relu", name="first")(told))
    x = layers.Dense(10, activation="relu", name="third")(layers.Concatenate(name="again")([told, x]))
    density = layers.Reshape((6,), name="densities")(layers.Dense(1, activation="relu", name="density")(x))
    colour = layers.Dense(3, activation="sigmoid", name="colour")(x)
    alpha = 1 - ops.exp(-density * lengths)
    light = ops.concatenate([ops.ones_like(alpha[:, :1]), ops.cumprod(1 - alpha + 1e-10, axis=1)[:, :-1]], axis=1)
    weights = alpha * light
    seen = ops.sum(ops.expand_dims(weights, 2) * colour, axis=1)
    there = ops.sum(weights, axis=1, keepdims=True)
    model = keras.Model([points, lengths], [seen + 1 - there, there])
    fill(model)
    grown(model, 2, "density", "colour")
    inputs = {"points": fed(815, 5, 6, 3), "lengths": np.abs(fed(816, 5, 6)) + 0.1}
    return Pair(model, inputs, ported(model, Rays), "same")


_WAVES = "sin* cos* mul* multiply* told cat* first"
_LIGHT = (
    "exp* negative* neg* cumprod* cat* concatenate* ones_like* sub* rsub* subtract* mul* multiply* get_item* slice*"
)
_SEEN = "sum* add* sub* subtract* mul* multiply*"
slip("rays/waves-by-pi", _WAVES, "scale input-scale", "weights-perturbed block-extra")
slip("rays/sines-first", _WAVES, "concat-order", "operand-order channel-order wiring")
slip("rays/points-behind-their-waves", _WAVES, "concat-order", "operand-order channel-order")
slip("rays/features-first", "again cat* third", "concat-order", "operand-order channel-order")
slip("rays/density-by-softplus", "density densities relu* softplus", "activation-kind")
slip("rays/colours-unbounded", "colour sigmoid " + _SEEN, "activation-missing logits", "block-missing")
slip("rays/light-behind-each", _LIGHT, "shift block-missing", "wiring operation-kind")
slip("rays/light-never-fades", _LIGHT, "block-missing", "wiring operation-kind scale")
slip("rays/lengths-forgotten", _LIGHT, "block-missing", "scale wiring")
slip("rays/nothing-behind", _SEEN, "residual-missing block-missing", "bias-missing wiring")
ways("rays", "light-by-sums", "waves-at-once")
one_layer("rays", "waves-by-pi+sines-first", "light-behind-each+lengths-forgotten")
neighbours("rays", "density-by-softplus+light-behind-each", "colours-unbounded+nothing-behind")


# --- atoms --------------------------------------------------------------------------------------------------

_CENTRES = np.linspace(0, 4, 8, dtype=np.float32)


class Atoms(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.kinds = nn.Embedding(7, 6)
        self.filter1, self.filter2 = nn.Linear(8, 6), nn.Linear(6, 6)
        self.enter, self.leave1, self.leave2 = nn.Linear(6, 6, bias=False), nn.Linear(6, 6), nn.Linear(6, 6)
        self.atom, self.energy = nn.Linear(6, 4), nn.Linear(4, 1)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "rectified-smoothly-unshifted" in self.ways:
            return F.softplus(x)
        return torch.logaddexp(x, torch.zeros(())) - np.log(2.0)

    def forward(self, kinds: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        x = self.kinds(kinds)
        apart = places[:, :, None] - places[:, None]
        square = (apart**2).sum(-1)
        distance = square if "distances-squared" in self.ways else torch.sqrt(square + 1e-9)
        width = 1.0 if "wide-bells" in self.ways else 4.0
        bells = torch.exp(-width * (distance[..., None] - torch.from_numpy(_CENTRES)) ** 2)
        filters = self.bent(self.filter2(self.bent(self.filter1(bells))))
        if "never-cut-off" not in self.ways:
            filters = filters * (0.5 * (torch.cos(distance * torch.pi / 4) + 1) * (distance < 4))[..., None]
        if "atoms-meet-themselves" not in self.ways:
            filters = filters * (1 - torch.eye(5))[:, :, None]
        y = self.enter(x)
        if "neighbours-by-name" in self.ways:
            y = torch.einsum("bijf,bjf->bif", filters, y)
        else:
            y = filters * y[:, None]
            y = y.mean(2) if "mean-of-the-neighbours" in self.ways else y.sum(2)
        y = self.leave2(self.bent(self.leave1(y)))
        x = y if "atoms-replaced" in self.ways else x + y
        x = self.energy(self.bent(self.atom(x)))
        return x.mean(1) if "mean-of-the-energies" in self.ways else x.sum(1)


@network
def atoms() -> Pair:
    """SchNet: filters by distances, cut off smoothly, and an energy that is the sum of the atoms'."""
    keras.backend.clear_session()
    kinds, places = layers.Input((5,), dtype="int32", name="kinds"), layers.Input((5, 3), name="places")

    def bent(x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.softplus(x) - np.log(2.0).astype("float32")

    x = layers.Embedding(7, 6, name="kinds_table")(kinds)
    apart = ops.expand_dims(places, 2) - ops.expand_dims(places, 1)
    distance = ops.sqrt(ops.sum(ops.square(apart), axis=-1) + 1e-9)
    filters = ops.exp(-4.0 * ops.square(ops.expand_dims(distance, 3) - _CENTRES))
    filters = bent(layers.Dense(6, name="filter2")(bent(layers.Dense(6, name="filter1")(filters))))
    near = 0.5 * (ops.cos(distance * (np.pi / 4)) + 1) * ops.cast(distance < 4, "float32")
    filters = filters * ops.expand_dims(near * (1 - np.eye(5, dtype="float32")), 3)
    y = ops.sum(filters * ops.expand_dims(layers.Dense(6, use_bias=False, name="enter")(x), 1), axis=2)
    y = layers.Dense(6, name="leave2")(bent(layers.Dense(6, name="leave1")(y)))
    x = bent(layers.Dense(4, name="atom")(layers.Add(name="whole")([x, y])))
    model = keras.Model([kinds, places], ops.sum(layers.Dense(1, name="energy")(x), axis=1))
    fill(model)
    grown(model, 2, "filter1", "filter2", "enter", "atom")
    inputs = {"kinds": counted(817, 7, 4, 5), "places": 1.2 * fed(818, 4, 5, 3)}
    return Pair(model, inputs, ported(model, Atoms, rename=lambda name: name.removesuffix("_table")), "same")


_BENT = "softplus* logaddexp* sub* subtract* filter? leave? atom"
_FILTERS = "exp* pow* square* sub* subtract* mul* multiply* sqrt* sum* cos* lt* less* filter? add* float*"
slip("atoms/rectified-smoothly-unshifted", _BENT, "bias-missing block-missing residual-missing", "activation-kind")
slip("atoms/distances-squared", _FILTERS, "block-missing activation-missing", "operation-kind")
slip("atoms/wide-bells", _FILTERS, "scale", "weights-perturbed activation-param")
slip("atoms/never-cut-off", _FILTERS, "block-missing", "attention-mask wiring")
slip("atoms/atoms-meet-themselves", _FILTERS, "attention-mask block-missing", "wiring")
slip("atoms/mean-of-the-neighbours", "sum* mean* mul* multiply* leave1", "pool-kind scale", "operation-kind")
slip("atoms/atoms-replaced", "whole add* leave2 atom", "residual-missing", "block-missing wiring")
slip("atoms/mean-of-the-energies", "sum* mean* energy", "pool-kind scale", "operation-kind")
defect("atoms/layers-behind-exchanged", "leave1 leave2", "weights-swapped", "weights-perturbed wiring")(
    exchanged("leave1", "leave2")
)
defect("atoms/enter-unturned", "enter", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("enter.weight", lambda weight: weight.T)
)
ways("atoms", "neighbours-by-name")
one_layer("atoms", "wide-bells+distances-squared", "never-cut-off+atoms-meet-themselves")
neighbours("atoms", "mean-of-the-neighbours+layers-behind-exchanged")
