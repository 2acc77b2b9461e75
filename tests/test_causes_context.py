"""Names that presume a context, heads or channels or a norm, are said where it is there and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("torch")

import keras
import torch
from test_causes_smallest import ROWS, Written, filled, named, said
from test_causes_uses import MAPS, dense, maps, normed
from torch import nn
from torch.nn import functional as F

import tracer
from tests.test_causes import story
from tracer.causes.axes import as_flip
from tracer.causes.folding import folded
from tracer.causes.step import Program, Step

FILMS = torch.randn(3, 4, 5, 6, 6, generator=torch.Generator().manual_seed(7))


def films() -> dict[str, nn.Module]:
    return {"one": nn.Conv3d(4, 4, 3), "two": nn.Conv3d(4, 4, 1)}


def test_a_part_of_the_channels_behind_a_softmax_is_no_head(trace_path: Path) -> None:
    def run(first: int):
        return lambda x, one, two: F.pixel_shuffle(
            F.softmax(torch.cat([one(x), two(one(x))], 1), 1)[:, first : 4 + first], 2
        )

    told = said(trace_path, run(0), run(1), MAPS, maps)
    assert named(told) <= {"channel-order", "shift"}, str(told)
    assert named(told), str(told)


@pytest.mark.parametrize(("axis", "name"), [(1, "channel-order"), (2, "axis-permutation"), (3, "axis-permutation")])
def test_an_input_backwards_is_named_by_its_axis(trace_path: Path, axis: int, name: str) -> None:
    told = said(trace_path, lambda x, one, two: two(one(x)), lambda x, one, two: two(one(x.flip(axis))), FILMS, films)
    assert named(told) == {name}, str(told)


def test_a_slice_from_the_end_on_is_a_flip() -> None:
    whole = (None, None, 1)
    turned = Step("x", "slice", {"index": ("...", (2, None, -1))}, inputs=("a",), shape=(2, 8, 3))
    assert (as_flip(turned).kind, as_flip(turned).settings) == ("flip", {"axes": (2,)})
    for index in ((whole, whole, (1, None, -1)), (whole, (0, 4, 1), (2, None, -1)), (whole, whole, whole)):
        assert as_flip(turned.set(index=index)).kind == "slice"


def test_channels_in_another_order_before_a_pixel_shuffle(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two: F.pixel_shuffle(one(x), 2),
        lambda x, one, two: F.pixel_shuffle(one(x)[:, [0, 2, 1, 3]], 2), MAPS, maps,
    )  # fmt: skip
    assert "depth-to-space-order" in {*told.parting[0].names}, str(told)


def test_a_softmax_before_what_is_cut_off_or_behind_it(trace_path: Path) -> None:
    """What a model gives: nothing reads it from which it could be said instead."""
    given = keras.Input((8, 8, 4))
    x = keras.layers.Softmax()(keras.layers.Conv2D(5, 1, name="one")(given))[..., :4]
    x = keras.ops.transpose(keras.ops.reshape(x, (-1, 8, 8, 2, 2)), (0, 1, 3, 2, 4))
    reference = keras.Model(given, keras.ops.reshape(x, (-1, 16, 16, 1)))
    one = filled(nn.Conv2d(4, 5, 1))
    reference.get_layer("one").set_weights(
        [one.weight.permute(2, 3, 1, 0).numpy(force=True), one.bias.numpy(force=True)]
    )
    candidate = Written(lambda x, one: F.pixel_shuffle(F.softmax(one(x)[:, :-1], 1), 2), one=one).eval()
    image = MAPS.permute(0, 2, 3, 1).numpy()
    first = tracer.record(reference, image, trace=trace_path, name="a")
    told = tracer.explain(first, tracer.record(candidate, image, trace=trace_path, name="b"))
    assert named(told) == {"residual-order"}, str(told)


def test_every_other_place_taken_before_a_convolution_and_not_by_it(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two: F.conv2d(two(x), one.weight, stride=2, padding=1),
        lambda x, one, two: F.conv2d(two(x)[:, :, ::2, ::2], one.weight, padding=1), MAPS, maps,
    )  # fmt: skip
    assert named(told) == {"stride-position"}, str(told)


class Directions(nn.Module):
    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.turned, self.read, self.tell = turned, nn.GRU(8, 5, batch_first=True, bidirectional=True), nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.read(x)[0]
        return self.tell(torch.cat([x[..., 5:], x[..., :5]], 2) if self.turned else x)


def test_the_other_direction_first_is_an_order_of_what_is_joined(trace_path: Path) -> None:
    told = story(trace_path, *(filled(Directions(turned)) for turned in (False, True)), ROWS)
    assert named(told) == {"concat-order"}, str(told)


class Attending(nn.Module):
    """Attention of two heads, its projections one layer each, or written as the layer for it."""

    def __init__(self, biased: bool) -> None:
        super().__init__()
        self.query, self.key, self.out = (nn.Linear(8, 8) for _ in range(3))
        self.value = nn.Linear(8, 8, bias=biased)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attend(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("biased", [False, True])
def test_a_bias_that_one_part_of_a_projection_lacks(trace_path: Path, biased: bool) -> None:
    whole, parts = filled(Whole()), Attending(biased).eval()
    own = whole.attend
    with torch.no_grad():
        for place, layer in enumerate((parts.query, parts.key, parts.value)):
            layer.weight.copy_(own.in_proj_weight.chunk(3)[place])
            if layer.bias is not None:
                layer.bias.copy_(own.in_proj_bias.chunk(3)[place])
        parts.out.load_state_dict(own.out_proj.state_dict())
    told = story(trace_path, whole, parts, ROWS)
    assert named(told) == (set() if biased else {"bias-missing"}), str(told)


def test_links_that_are_turned_round_are_no_other_norm(trace_path: Path) -> None:
    def run(turned: bool):
        def forward(x, one, two):
            links = torch.relu(x[:, :, :6])
            links = links.mT if turned else links
            return one((links / (links.sum(2, keepdim=True) + 1)) @ two(x))

        return forward

    told = said(trace_path, run(False), run(True), ROWS, dense)
    assert "norm-axis" not in named(told), str(told)
    assert "axis-permutation" in named(told), str(told)


def test_norms_before_the_sums_have_not_one_anothers_weights(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {**dense(), "a": nn.LayerNorm(8), "b": nn.LayerNorm(8)}

    def behind(x, one, two, a, b):
        x = a(x + torch.tanh(one(x)))
        return b(x + torch.tanh(two(x)))

    def before(x, one, two, a, b):
        x = x + torch.tanh(one(a(x)))
        return x + torch.tanh(two(b(x)))

    told = said(trace_path, behind, before, ROWS, layers)
    assert "residual-order" in named(told), str(told)
    assert "weights-swapped" not in named(told), str(told)


def test_a_norm_that_is_left_out_is_not_folded_wrongly() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 3, 4, 4))
    norm = {"running_mean": rng.normal(size=4), "running_var": rng.uniform(0.5, 2, 4), "gamma": rng.normal(size=4)}
    steps = (
        Step("conv", "conv2d", {}, {"kernel": kernel}, ("x",)),
        Step("bn", "batchnorm", {"epsilon": 1e-3}, norm, ("conv",)),
    )
    for other, is_folded in ((kernel[::-1, ::-1], False), (kernel * norm["gamma"], True)):
        bare = Program((Step("conv", "conv2d", {}, {"kernel": other}, ("x",)),))
        assert (folded(Program(steps), bare) is not None) == is_folded


def test_a_slope_of_one_is_no_activation(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two, norm: two(x + torch.relu(norm(two(x)))),
        lambda x, one, two, norm: two(x + norm(two(x))), MAPS, normed,
    )  # fmt: skip
    assert told.parting[0].names[0] == "activation-missing", str(told)
    assert "activation-param" not in told.parting[0].candidates, str(told)


class Judge(keras.layers.Layer):
    """How likely each relation is between each two things, the relations laid out as one axis at the end."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.by = self.add_weight(name="by", shape=(3, 8), initializer="random_normal")

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.ops.reshape(keras.ops.einsum("bnf,rf,bmf->brnm", x, self.by, x), (-1, 18, 6))


def test_what_a_model_gives_in_another_order_is_no_match(trace_path: Path) -> None:
    things = keras.Input((6, 8))
    reference = keras.Model(things, Judge(name="judge")(things))
    by = torch.tensor(reference.get_weights()[0])

    def run(rows: torch.Tensor) -> Written:
        return Written(lambda x: ((x[:, None] * rows[:, None]) @ x[:, None].mT).flatten(1, 2)).eval()

    recorded = tracer.record(reference, ROWS, trace=trace_path, name="a")
    for name, rows, code in (("b", by, 0), ("c", by.roll(1, 0), 1)):
        candidate = tracer.record(run(rows), torch.tensor(ROWS), trace=trace_path, name=name, layout="same")
        found = tracer.diff(recorded, candidate)
        assert found.exit_code() == code, str(found)
