"""Names that are right at one place of a network and mislead at another, and what is written out on one side."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from test_causes_smallest import ROWS, named, said
from torch import nn
from torch.nn import functional as F

import tracer
from tracer.causes.edges import as_padding
from tracer.causes.reading.pointwise import _round_between
from tracer.causes.step import Program, Step

SERIES = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(2))
POINTS = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(3))
MAPS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
NODES = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))
KEPT = 1 - torch.eye(8)
LINKS = (torch.rand(8, 8, generator=torch.Generator().manual_seed(6)) < 0.4).float()


def layers() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {"one": nn.Linear(8, 8), "two": nn.Linear(8, 8)}


def one(width: int, out: int = 4) -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {"one": nn.Linear(width, out)}


def test_a_factor_on_what_is_made_of_points_is_no_matter_of_the_input(trace_path: Path) -> None:
    def bells(by: float):
        def run(x, one):
            apart = ((x[:, :, None] - x[:, None]) ** 2).sum(-1)
            return one(torch.exp(-by * (apart[..., None] - torch.linspace(0, 3, 6)) ** 2))

        return run

    told = said(trace_path, bells(4.0), bells(1.0), POINTS, lambda: one(6))
    assert named(told) == {"scale"}, str(told)


def test_a_factor_before_a_product_that_is_no_attention(trace_path: Path) -> None:
    def spread(share: float):
        def run(x, one, two):
            x = one(x)
            first = x
            for _ in range(2):
                x = (1 - share) * (LINKS @ x) + share * first
            return two(x)

        return run

    told = said(trace_path, spread(0.2), spread(0.8), NODES, layers)
    assert named(told) == {"scale"}, str(told)


def test_logarithms_of_another_base(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one: one(torch.log(x.exp() + 1)), lambda x, one: one(torch.log10(x.exp() + 1)),
        SERIES, lambda: one(9),
    )  # fmt: skip
    assert "scale" in named(told), str(told)
    assert "input-normalisation" not in named(told), str(told)


def test_a_map_that_is_made_smaller_and_not_cut(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one: one(F.relu(x)[:, :, 1:7, 1:7]),
        lambda x, one: one(F.interpolate(F.relu(x), (6, 6), mode="bilinear")), MAPS, lambda: one(6),
    )  # fmt: skip
    assert named(told) == {"resize-mode"}, str(told)


def test_places_that_begin_elsewhere_for_some_ids(trace_path: Path) -> None:
    ids = torch.tensor([[3, 4, 0, 0], [5, 2, 6, 0], [1, 7, 3, 2]])

    def placed(less: int):
        def run(x, table, places):
            there = (x != 0).long()
            found = there.cumsum(1) * there + 2
            return table(x) + places(found - less * there if less else found)

        return run

    def tables() -> dict[str, nn.Module]:
        torch.manual_seed(1)
        return {"table": nn.Embedding(9, 4), "places": nn.Embedding(9, 4)}

    told = said(trace_path, placed(0), placed(1), ids, tables)
    assert named(told) == {"embedding-offset"}, str(told)


def test_ends_that_are_joined_are_a_padding(trace_path: Path) -> None:
    def joined(x, one):
        return one(torch.cat([x[..., :1].repeat(1, 1, 2), x, x[..., -1:].repeat(1, 1, 2)], dim=2))

    def padded(*pair: int):
        return lambda x, one: one(F.pad(x, pair, mode="replicate"))

    assert named(said(trace_path, joined, padded(2, 2), SERIES, lambda: one(13))) == set()
    told = said(trace_path.with_name("b.zarr"), joined, padded(4, 0), SERIES, lambda: one(13))
    assert named(told) == {"pad-asymmetry"}, str(told)


@pytest.mark.parametrize(("index", "mode"), [((2, None, -1), "reflect"), ((1, None, -1), "symmetric")])
def test_which_padding_joined_ends_are(index: tuple[int, None, int], mode: str) -> None:
    start = 0 if mode == "symmetric" else 1
    first = Step("first", "slice", {"index": ((None, None, 1), (start, start + 2, 1))}, {}, ("x",), (3, 2))
    turned = Step("turned", "flip", {"axes": (1,)}, {}, ("first",), (3, 2))
    join = Step("join", "concat", {"axis": 1}, {}, ("turned", "x"), (3, 7))
    other = Program((Step("pad", "pad", {"padding": ((0, 0), (2, 0)), "padding_mode": mode}, {}, ("x",), (3, 7)),))
    found = as_padding(Program((first, turned, join)), other)
    assert found is not None
    assert [(step.kind, step.settings["padding_mode"], step.inputs) for step in found.steps] == [("pad", mode, ("x",))]
    zeros = Step("zeros", "slice", {"index": ((None, None, 1), (1, 3, 1))}, {}, ("x",), (3, 2))
    assert as_padding(Program((zeros, Step("join", "concat", {"axis": 1}, {}, ("zeros", "x"), (3, 7)))), other) is None


def test_a_term_that_is_left_out_of_pythons_sum(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two: F.relu(one(x) + two(x) + one(two(x))),
        lambda x, one, two: F.relu(sum([two(x), one(two(x))])), ROWS, layers,
    )  # fmt: skip
    assert named(told) == {"residual-missing"}, str(told)


def test_a_block_of_which_the_other_side_has_nothing(trace_path: Path) -> None:
    """One of its operations alone would reproduce what came out: nothing of the rest shows on this input."""

    def stepped(x, one, two):
        y = F.relu(one(x))
        return F.relu(y + two(F.relu(two(y))))

    told = said(trace_path, stepped, lambda x, one, two: F.relu(one(x)), ROWS, layers)
    assert named(told) == {"block-missing"}, str(told)


def test_a_product_that_is_made_further_on_is_no_cause(trace_path: Path) -> None:
    def early(x, one, two):
        return two(one(x)[:, None] * (torch.cos(x)[:, None] * KEPT))

    def late(x, one, two):
        return two(one(x * 1.5)[:, None] * torch.cos(x)[:, None] * KEPT)

    told = said(trace_path, early, late, NODES, layers)
    assert named(told) == {"input-scale"}, str(told)


def test_numbers_that_are_compared_with_are_round() -> None:
    assert _round_between([(0.3, 0.9), (-1.0, 0.02)]) == [0.2]
    assert _round_between([(0.0, 0.0995), (0.1004, 2.0)]) == [0.1]
    assert _round_between([(0.0, 0.5), (0.4, 2.0)]) == []
    assert _round_between([(np.nan, np.nan), (0.4, 2.0)]) == []


def test_a_tensor_that_was_left_out_is_not_known(trace_path: Path) -> None:
    torch.manual_seed(3)
    parts = [("a", nn.Linear(5, 6)), ("b", nn.ReLU()), ("c", nn.Linear(6, 6)), ("d", nn.Tanh()), ("e", nn.Linear(6, 3))]
    net, x = nn.Sequential(OrderedDict(parts)), np.random.default_rng(1).normal(size=(4, 5)).astype("f4")
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.c.weight *= 1.3
    ours = tracer.record(net, x, name="a", trace=trace_path)
    theirs = tracer.record(other, x, name="b", trace=trace_path, exclude=["b", "c"])
    found = tracer.explain(ours, theirs)
    assert not found.failed
    assert found.diff.report(trace_path.parent / "report.html").exists()
