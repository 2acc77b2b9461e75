"""What a step is for: an activation, a kernel, a mask; and one mistake that two findings would say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_causes_smallest import ROWS, named, said
from torch import nn
from torch.nn import functional as F

import tracer
from tracer.causes import naming
from tracer.causes.condense import in_blocks
from tracer.causes.edit import Edit, setting
from tracer.causes.finding import Cause
from tracer.causes.settings import _of_another
from tracer.causes.step import Step
from tracer.causes.straight import _of_windows
from tracer.graph import Node
from tracer.rerun.cuts import Way

MAPS = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(4))
STEPS = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(5))
IDS = torch.randint(0, 9, (3, 6), generator=torch.Generator().manual_seed(6))


def dense() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {"one": nn.Linear(8, 8), "two": nn.Linear(8, 8)}


def maps() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {"one": nn.Conv2d(4, 4, 3), "two": nn.Conv2d(4, 4, 1)}


def normed() -> dict[str, nn.Module]:
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.running_var, 0.3, 2)
    nn.init.normal_(norm.running_mean, generator=torch.Generator().manual_seed(1))
    return {**maps(), "norm": norm}


def test_sines_of_a_layer_are_an_activation(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two: two(torch.sin(3 * one(x))), lambda x, one, two: two(3 * one(x)), ROWS, dense
    )
    assert named(told) == {"activation-missing"}, str(told)


def test_a_sum_for_a_mean_is_a_factor(trace_path: Path) -> None:
    def run(by: float):
        return lambda x, one, two: torch.tanh((one(x) + two(x)) / by if by != 1 else one(x) + two(x))

    told = said(trace_path, run(2), run(1), ROWS, dense)
    assert named(told) == {"scale"}, str(told)


def test_a_number_added_and_another_multiplied_are_two_mistakes(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two: one(torch.tanh(two(x)) + 0.7),
        lambda x, one, two: one(torch.tanh(two(x)) / 2.5), ROWS, dense,
    )  # fmt: skip
    assert named(told) in ({"shift", "scale"}, {"bias-missing", "scale"}), str(told)


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [
        (((0, 1), (0, 0)), ((2, 2), (0, 0)), "pad-asymmetry"),
        (((1, 1), (1, 1)), ((2, 2), (2, 2)), "pad-mode"),
        (((1, 2), (1, 2)), ((0, 0), (0, 0)), "pad-mode"),
    ],
)
def test_what_another_padding_is_called(ours: tuple[object, ...], theirs: tuple[object, ...], name: str) -> None:
    assert naming.of_setting("conv2d", "padding", ours, theirs) == name


@pytest.mark.parametrize(
    ("ours", "theirs", "name"),
    [
        (((None, None, 1), (None, None, 4), (0, 2, 1)), ((None, None, 1), (None, 2, 1), (0, 2, 1)), "stride-position"),
        (((None, None, 1), (None, None, 2)), ((None, None, 1), (None, 4, 1)), "channel-order"),
        (((None, None, 1), (None, None, 4), None), ((None, None, 1), (1, None, 4), None), "shift"),
        (((None, None, 1), 0), ((None, None, 1), 1), "channel-order"),
    ],
)
def test_what_another_part_is_called(ours: tuple[object, ...], theirs: tuple[object, ...], name: str) -> None:
    assert naming.of_setting("slice", "index", ours, theirs) == name


def test_numbers_of_two_inputs_that_are_joined_are_prepared(trace_path: Path) -> None:
    def run(by: float, less: float):
        def forward(x, one, two):
            both = torch.cat([x[:, :2], x[:, 2:]], dim=1)
            return two(one(both / by - less if less else both / by))

        return forward

    told = said(trace_path, run(127.5, 1.0), run(255.0, 0.0), MAPS * 100, maps)
    assert named(told) <= {"input-normalisation", "input-scale"}, str(told)
    assert told.parting


@pytest.mark.parametrize("way", ["left out", "multiplied"])
def test_a_mask_of_any_scores_is_a_mask(trace_path: Path, way: str) -> None:
    def there(x):
        return (x[:, :, 0] <= 0.8).float()

    def right(x, one, two):
        scores = two(torch.tanh(one(x)))[:, :, 0]
        return (F.softmax(scores - 1e9 * (1 - there(x)), dim=1)[:, None] @ x)[:, 0]

    def wrong(x, one, two):
        shares = F.softmax(two(torch.tanh(one(x)))[:, :, 0], dim=1)
        return ((shares * there(x) if way == "multiplied" else shares)[:, None] @ x)[:, 0]

    told = said(trace_path, right, wrong, STEPS, dense)
    # Where the shares are multiplied afterwards the product is one too many.
    assert named(told) == {"attention-mask", *(["block-extra"] if way == "multiplied" else [])}, str(told)


def test_halves_beside_one_another_for_neighbours(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two: two(one(x.reshape(3, 12, 4).flatten(1).reshape(3, 6, 8))),
        lambda x, one, two: two(one(torch.cat(x.reshape(3, 12, 4).chunk(2, dim=1), dim=2))), STEPS, dense,
    )  # fmt: skip
    assert named(told) <= {"reshape-order", "flatten-order"}, str(told)
    assert told.parting


def test_a_bias_behind_the_factor_is_one_mistake(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two: two(torch.tanh(3 * one(x))),
        lambda x, one, two: two(torch.tanh(3 * F.linear(x, one.weight) + one.bias)), ROWS, dense,
    )  # fmt: skip
    assert [one.cause for one in told.parting] == ["residual-order"], str(told)


def test_a_norm_before_its_activation_is_one_mistake(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two, norm: two(norm(F.gelu(one(x)))),
        lambda x, one, two, norm: two(F.gelu(norm(one(x)))), MAPS, normed,
    )  # fmt: skip
    assert [one.cause for one in told.parting] == ["residual-order"], str(told)


def test_what_stands_elsewhere_may_be_set_otherwise() -> None:
    steps = [Step(name, "gelu", {"approximate": form}) for name, form in (("a", "none"), ("b", "tanh"))]
    edits = [Edit("activation", "", setting("a"), detail={"alone": True, "steps": (step,)}) for step in steps]
    causes = [Cause("activation-missing", "", reference="a"), Cause("activation-extra", "", candidate="b")]
    assert [one.id for one in in_blocks(edits, causes)] == ["residual-order", "gelu-approx"]
    same = [edits[0], replace(edits[1], detail=edits[0].detail)]
    assert [one.id for one in in_blocks(same, causes)] == ["residual-order"]


@pytest.mark.parametrize(
    ("padding", "name"), [(((1, 2), (2, 2)), "stride-position"), (((0, 0), (2, 2)), ""), (((2, 2), (1, 2)), "")]
)
def test_another_padding_goes_with_another_stride(padding: tuple[object, ...], name: str) -> None:
    """On the axis alone where the stride is another one, and by less than that."""
    mine = Step("a", "conv2d", {"strides": (2, 1), "padding": padding})
    its = Step("b", "conv2d", {"strides": (1, 1), "padding": ((2, 2), (2, 2))})
    assert _of_another(mine, its, "padding") == name


def test_maps_of_as_many_places_and_other_lengths_are_not_rearranged() -> None:
    ours, theirs = (Node(name, "conv2d", "Conv2D", shape=shape, layout=layout) for name, shape, layout in (
        ("a", (3, 4, 10, 6), "channels_last"), ("b", (3, 6, 8, 5), "channels_first")))  # fmt: skip
    axes = _of_windows(ours, theirs, [])
    assert axes == (0, 2, 3, 1)
    below = [replace(node, kind="relu", layout=None) for node in (ours, theirs)]
    assert _of_windows(*below, [Way(axes, fits=False)]) == axes
    assert _of_windows(*below, [Way(axes)]) is None
    assert _of_windows(ours, replace(theirs, shape=(3, 6, 4, 10)), []) is None


def test_a_table_that_is_scaled_as_one_term_is_no_embedding_scale(trace_path: Path) -> None:
    def tables() -> dict[str, nn.Module]:
        return {"table": nn.Embedding(9, 8), **dense()}

    def shared(by: float):
        def forward(ids, table, one, two):
            x = table(ids)
            return two(one(x) + (by * x if by != 1 else x))

        return forward

    told = said(trace_path, shared(1.4), shared(1.0), IDS, tables)
    assert named(told) == {"scale"}, str(told)


def by_shifts(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Each sample with a kernel of two by two of its own."""
    return sum(x[:, :, i : i + 5, j : j + 5] * kernel[:, :, i, j, None, None] for i in (0, 1) for j in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize(("first", "name"), [(True, "wiring"), (False, "kernel-flip")])
def test_kernels_that_are_computed(trace_path: Path, first: bool, name: str) -> None:
    """The first sample's for all samples, and each turned round."""

    def right(x, one, two):
        return two(by_shifts(one(x), torch.tanh(two(x[:, :, :2, :2]))))

    def wrong(x, one, two):
        x, kernel = one(x), torch.tanh(two(x[:, :, :2, :2]))
        if first:
            return two(F.conv2d(x, kernel[:1].transpose(0, 1), groups=4))
        both = x.flatten(0, 1)[None]
        found = F.conv2d(both, kernel.flip(2, 3).flatten(0, 1)[:, None], groups=both.shape[1])[0]
        return two(found.unflatten(0, (-1, 4)))

    told = said(trace_path, right, wrong, MAPS, maps)
    assert named(told) == {name}, str(told)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.offset, self.size = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tanh(self.body(x))
        return self.offset(x), self.size(x)


def test_heads_of_one_shape_that_have_one_anothers_weights(trace_path: Path) -> None:
    sides = [Heads().eval() for _ in range(3)]
    for side in sides[1:]:
        side.load_state_dict(sides[0].state_dict())
    sides[2].offset, sides[2].size = sides[2].size, sides[2].offset
    one, same, other = (
        tracer.record(side, ROWS, trace=trace_path, name=name, layout="same")
        for side, name in zip(sides, "abc", strict=True)
    )
    told = tracer.explain(one, other)
    assert named(told) == {"weights-swapped"}, str(told)
    assert told.parting[0].before > 1e-2 > told.parting[0].after
    assert not tracer.explain(one, same).parting


def test_angles_in_circles(trace_path: Path) -> None:
    def run(circle: bool):
        def forward(x, one, two):
            y = x * (2 * np.pi) if circle else x * 1.0
            return two(torch.cat([torch.sin(one(y)[:, :4]), torch.cos(y[:, 4:])], dim=1))

        return forward

    told = said(trace_path, run(True), run(False), ROWS, dense)
    assert named(told) <= {"scale", "input-scale"}, str(told)
