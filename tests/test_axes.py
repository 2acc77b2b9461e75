"""Axes and rearrangements: their algebra, what values prove, what follows along real models' graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tracer
from tracer.alignment import arrange, axes
from tracer.alignment.arrange import Rearrangement
from tracer.alignment.correlation import View, listen
from tracer.alignment.features import extract
from tracer.alignment.flow import Flow
from tracer.alignment.orient import Found, find
from tracer.compare import Verdict
from tracer.graph import Node, Structure


@st.composite
def rearrangements(draw: st.DrawFn) -> Rearrangement:
    lengths = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
    sides = []
    for _ in range(2):
        order = draw(st.permutations(range(len(lengths))))
        cuts = sorted(draw(st.sets(st.integers(0, len(lengths)), max_size=3)) | {0, len(lengths)})
        sides.append(tuple(tuple(order[a:b]) for a, b in pairwise(cuts)))
    return Rearrangement(lengths, sides[0], sides[1], tuple("abcde"[: len(lengths)]))


@given(rearrangements())
def test_a_rearrangement_is_undone_by_its_opposite_and_survives_json(plan: Rearrangement) -> None:
    back = Rearrangement(plan.lengths, plan.candidate, plan.reference, plan.letters)
    values = np.arange(math.prod(plan.lengths)).reshape(plan.shape(plan.candidate))
    there = plan.apply(values)
    assert there.shape == plan.shape(plan.reference)
    assert np.array_equal(back.apply(there), values)
    ours, theirs = plan.factored(there, values)
    assert np.array_equal(ours, theirs)
    said = plan.to_json()
    again = Rearrangement.parse(said["pattern"], said["lengths"])
    assert str(again) == str(plan)
    assert np.array_equal(again.apply(values), there)


def test_a_rearrangement_reads_as_people_write_it() -> None:
    plan = Rearrangement.parse("n (h w c) -> n (c h w)", {"n": 2, "h": 3, "w": 4, "c": 5})
    values = np.arange(120).reshape(2, 5, 3, 4)
    assert np.array_equal(plan.apply(values.reshape(2, 60)), values.transpose(0, 2, 3, 1).reshape(2, 60))
    assert str(plan) == "n (h w c) → n (c h w)"
    assert axes.describe(None, 0, plan) == "n (h w c) → n (c h w)"
    for pattern in ("n h -> n", "n (h", "a b", "n -> n x"):
        with pytest.raises(ValueError, match=r"rearrangement|letter|lengths"):
            Rearrangement.parse(pattern, {"n": 2, "h": 3})
    with pytest.raises(ValueError, match="does not fit"):
        plan.apply(np.zeros((2, 61)))


@given(st.lists(st.integers(2, 6), min_size=1, max_size=4), st.data())
def test_common_factors_multiply_to_both_shapes(lengths: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(lengths))
    cut = data.draw(st.integers(0, len(order)))
    other = [n for n in (math.prod(order[:cut]), math.prod(order[cut:])) if n > 1] or [1]
    found = arrange.tables(lengths, other)
    assert found
    for table in found:
        sizes, ours, theirs = arrange.from_table(lengths, other, table)
        assert [math.prod(sizes[i] for i in axis) for axis in ours] == lengths
        assert [math.prod(sizes[i] for i in axis) for axis in theirs] == other


def test_many_equal_axes_cost_nothing_and_the_natural_orders_come_first() -> None:
    found = axes.possible((3,) * 8, (3,) * 8)
    assert len(found) == axes.MOST
    assert found[0] == tuple(range(8))
    assert found[1] in ((0, *range(2, 8), 1), (0, 7, *range(1, 7)))
    assert axes.possible((1, 7, 7, 1), (1, 1, 7, 7)) == [(0, 2, 3, 1), (0, 3, 2, 1)]
    assert axes.possible((4, 9, 4), (4, 4, 9))[0] == (0, 2, 1)


def views(a: np.ndarray, b: np.ndarray) -> list[View]:
    return [partial(Both(a, axes.apply(b, option)), 0, 0) for option in axes.possible(a.shape, b.shape)]


@dataclass
class Both:
    """The tensors of a pair, whichever it is."""

    a: np.ndarray
    b: np.ndarray

    def __call__(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        return self.a, self.b


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 6), st.permutations(range(1, 4)), st.integers(0, 99))
def test_values_prove_the_order_of_equal_axes(side: int, order: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(4, side, side, side))
    seen = (3 * values + 1).transpose(np.argsort((0, *order)))
    heard = listen(views(values, seen))
    assert heard.best == axes.possible(values.shape, seen.shape).index((0, *order))


def test_the_order_is_proven_under_noise_of_four_times_the_signal_and_never_mistaken() -> None:
    proven = 0
    for seed, order in enumerate([*permutations(range(1, 4))] * 10):
        rng = np.random.default_rng(seed)
        side = 3 + seed % 8
        values = rng.normal(size=(32, side, side, side))
        seen = (values + 4 * rng.normal(size=values.shape)).transpose(np.argsort((0, *order)))
        heard = listen(views(values, seen))
        right = axes.possible(values.shape, seen.shape).index((0, *order))
        assert heard.best in (right, None)
        assert max(range(6), key=lambda i: heard.correlations[i] or 0.0) == right
        proven += heard.best == right
    assert proven >= 50


def test_constants_and_unrelated_values_prove_nothing() -> None:
    rng = np.random.default_rng(0)
    shape = (4, 6, 6, 6)

    def heard(a: np.ndarray, b: np.ndarray) -> Any:
        return listen(views(a, b))

    noise = rng.normal(size=shape)
    assert heard(noise, np.ones(shape)).best is None
    assert heard(noise, np.full(shape, np.nan)).best is None
    # Smooth in space and strong in channels, as activations are: chance correlations are large there.
    wave = np.sin(np.arange(6) / 2)
    for _ in range(20):
        a, b = (rng.normal(size=(1, 1, 1, 6)) + wave[None, :, None, None] * rng.normal() for _ in range(2))
        assert heard(a + 0.1 * rng.normal(size=shape), b + 0.1 * rng.normal(size=shape)).best is None
    half = noise + noise.transpose(0, 2, 1, 3)
    both = heard(half, half)
    assert both.best is None
    assert len(both.equal) == 2


@given(st.permutations(range(3)), st.integers(0, 9))
def test_the_order_of_a_flatten_is_read_off_the_kernels(order: list[int], seed: int) -> None:
    factors = (3, 3, 4)
    kernel = np.random.default_rng(seed).normal(size=(36, 5))
    moved = kernel.reshape(*factors, 5).transpose(*order, 3).reshape(36, 5)
    assert arrange.row_order(kernel, moved.T, factors) == tuple(order)
    assert arrange.row_order(kernel, np.random.default_rng(99).normal(size=(5, 36)), factors) is None
    with pytest.raises(ValueError, match="factors"):
        arrange.row_order(kernel, moved, factors)


def graph(*nodes: Node) -> Structure:
    return Structure(tuple(nodes), (nodes[-1].name,))


def op(name: str, kind: str, shape: tuple[int, ...], *parents: str, **more: Any) -> Node:
    return Node(name, kind, kind, parents=parents, shape=shape, **more)


def source(*shape: int) -> Node:
    return Node("x", "input", "x", role="input", shape=shape)


def test_strands_go_through_reshapes_products_and_joins() -> None:
    flow = Flow(
        graph(
            source(3, 6, 8),
            op("q", "dense", (3, 6, 8), "x"),
            op("heads", "reshape", (3, 6, 2, 4), "q"),
            op("turned", "permute", (3, 2, 6, 4), "heads", config={"permutation": [0, 2, 1, 3]}),
            op("folded", "reshape", (6, 6, 4), "turned"),
            op("scores", "matmul", (6, 6, 6), "folded", "folded", config={"transpose_b": True}),
            op("mixed", "matmul", (6, 6, 4), "scores", "folded"),
            op("apart", "reshape", (3, 2, 6, 4), "mixed"),
            op("back", "permute", (3, 6, 2, 4), "apart", config={"permutation": [0, 2, 1, 3]}),
            op("joined", "reshape", (3, 6, 8), "back"),
            op("sum", "add", (3, 6, 8), "joined", "x"),
        )
    )
    found = {name: [[flow.find(f) for f, _ in axis] for axis in tensor] for name, tensor in flow.tensors.items()}
    assert found["folded"][0] == [found["x"][0][0], found["heads"][2][0]]
    assert found["scores"][1] == found["x"][1]
    assert found["scores"][2] != found["scores"][1]
    assert found["joined"] == found["q"]  # the heads are joined again in their order
    assert found["sum"] == found["x"]


def test_what_has_no_evidence_is_called_ambiguous() -> None:
    a = extract(graph(source(2, 5, 5), op("y", "other:mystery", (2, 5, 5), "x")), {})
    found = find([(0, 0), (1, 1)], a, a, lambda i, j: None, {})
    assert all(one.axes == (0, 1, 2) and one.how == "guess" and (0, 2, 1) in one.ambiguous for one in found)
    assert axes.describe(found[0].axes, 3, ambiguous=bool(found[0].ambiguous)) == "=?"
    said = find([(0, 0), (1, 1)], a, a, lambda i, j: None, {(0, 0): (0, 2, 1)})
    assert [(one.axes, one.how) for one in said] == [((0, 2, 1), "stated"), ((0, 2, 1), "guess")]
    assert said[1].ambiguous == ((0, 1, 2),)  # a layer that nothing is known of may turn them
    b = extract(graph(source(2, 5, 5), op("y", "relu", (2, 5, 5), "x")), {})
    said = find([(0, 0), (1, 1)], b, b, lambda i, j: None, {(0, 0): (0, 2, 1)})
    assert (said[1].axes, said[1].how, said[1].ambiguous) == ((0, 2, 1), "inherited", ())


class Square(nn.Module):
    """Batch, channels, height and width are seven; channels first, or turned to channels last between the layers."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.second = nn.Conv2d(7, 7, 3, padding=1), nn.BatchNorm2d(7), nn.Conv2d(7, 7, 1)
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        if not self.last:
            return self.second(x * 2 + x).mean((2, 3))
        x = x.permute(0, 2, 3, 1)
        x = x * 2 + x
        return self.second(x.permute(0, 3, 1, 2)).mean((2, 3))


def recorded(path: Path, model: Any, x: np.ndarray, name: str) -> Any:
    return tracer.record(model, x, trace=path, name=name)


def oriented(a: Any, b: Any, names: list[tuple[str, str]], *, values: bool) -> dict[str, Found]:
    ours, theirs = extract(a.structure, {}), extract(b.structure, {})
    pairs = [(ours.index[x], theirs.index[y]) for x, y in names]

    def read(i: int, j: int) -> tuple[np.ndarray, np.ndarray] | None:
        return (a.read(ours.nodes[i].name), b.read(theirs.nodes[j].name)) if values else None

    return dict(zip((x for x, _ in names), find(pairs, ours, theirs, read, {}), strict=True))


@pytest.mark.parametrize("values", [True, False])
def test_a_square_network_is_oriented_with_values_and_without(values: bool, trace_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(7, 7, 7, 7)).astype("f4")
    a, b = recorded(trace_path, Square(), x, "a"), recorded(trace_path, Square(last=True), x, "b")
    names = [(n, n) for n in ("x", "conv", "norm", "relu", "mul", "add", "second", "mean")]
    found = oriented(a, b, names, values=values)
    moved = {"mul", "add"}
    assert {n for n, one in found.items() if one.axes == (0, 3, 1, 2)} == moved
    assert all(one.axes == tuple(range(len(one.axes or ()))) for n, one in found.items() if n not in moved)
    assert not any(one.ambiguous for one in found.values())
    assert found["conv"].how == ("values" if values else "parameters")
    assert found["mul"].how == ("values" if values else "inherited")


class Attention(nn.Module):
    """Self-attention over heads as an axis of their own, or folded into the batch."""

    def __init__(self, fold: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))
        self.fold = fold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = (layer(x).view(n, t, 2, 3).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.fold:
            q, k, v = (y.reshape(n * 2, t, 3) for y in (q, k, v))
        scores = torch.softmax(q @ k.transpose(-1, -2), -1)
        mixed = scores @ v
        if self.fold:
            mixed = mixed.reshape(n, 2, t, 3)
        return self.out(mixed.transpose(1, 2).reshape(n, t, 6))


@pytest.mark.parametrize("values", [True, False])
def test_heads_folded_into_the_batch_are_compared_factor_by_factor(values: bool, trace_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6)).astype("f4")
    a, b = recorded(trace_path, Attention(), x, "a"), recorded(trace_path, Attention(fold=True), x, "b")
    names = [("q", "q"), ("matmul", "matmul"), ("softmax", "softmax"), ("matmul_1", "matmul_1"), ("out", "out")]
    found = oriented(a, b, names, values=values)
    assert found["q"].axes == found["out"].axes == (0, 1, 2)
    for name in ("matmul", "softmax", "matmul_1"):
        plan = found[name].arrangement
        assert found[name].axes is None
        assert plan is not None
        np.testing.assert_allclose(plan.apply(b.read(name)), a.read(name), atol=1e-6)
    diff = tracer.diff(a, b)
    by_name = {pair.aligned: pair for pair in diff.pairs}
    assert by_name["softmax"].verdict is Verdict.MATCH
    assert by_name["softmax"].stats is not None
    assert diff.first is None


def test_a_time_major_layer_is_oriented_though_batch_and_time_are_as_long(trace_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, late: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.late, self.lstm, self.head = late, nn.LSTM(5, 5, batch_first=not late), nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y, _ = self.lstm(x.transpose(0, 1) if self.late else x)
            y = torch.tanh(y)
            return self.head(y.transpose(0, 1) if self.late else y)

    x = np.random.default_rng(0).normal(size=(5, 5, 5)).astype("f4")
    a, b = recorded(trace_path, Net(False), x, "a"), recorded(trace_path, Net(True), x, "b")
    for values in (True, False):
        found = oriented(a, b, [(n, n) for n in ("x", "lstm", "tanh", "head")], values=values)
        assert [one.axes for one in found.values()] == [(0, 1, 2), (1, 0, 2), (1, 0, 2), (0, 1, 2)]
        assert not any(one.ambiguous for one in found.values())


def test_a_softmax_over_another_axis_is_not_turned_to_hide_it(trace_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, axis: int) -> None:
            super().__init__()
            self.axis = axis

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(2 * x, self.axis)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 6, 6))
    x = (x + x.transpose(0, 2, 1) + 0.2 * rng.normal(size=x.shape)).astype("f4")  # turned, the softmaxes are alike
    a, b = recorded(trace_path, Net(-1), x, "a"), recorded(trace_path, Net(1), x, "b")
    found = oriented(a, b, [(n, n) for n in ("x", "mul", "softmax")], values=True)
    assert [(one.axes, one.ambiguous) for one in found.values()] == [((0, 1, 2), ())] * 3


def test_the_keys_of_a_product_over_last_axes_are_not_its_queries() -> None:
    shape = (6, 6, 6)
    nodes = (
        Node("x", "input", "Input", shape=shape, role="input"),
        Node("q", "dense", "Dense", parents=("x",), shape=shape),
        Node("k", "dense", "Dense", parents=("x",), shape=shape),
        Node("dot", "dot", "Dot", parents=("q", "k"), shape=shape, config={"axes": [2, 2]}),
    )
    flow = Flow(nodes)
    _, rows, columns = ([flow.find(strand) for strand, _ in axis] for axis in flow.tensors["dot"])
    places, channels = ([flow.find(strand) for strand, _ in axis] for axis in flow.tensors["k"][1:])
    assert rows == places
    assert columns not in (rows, channels)


class Flat(nn.Module):
    """A convolution, a flatten in one of two orders, an activation, and a dense layer that fits one of them."""

    def __init__(self, last: bool = False, refit: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(100, 6), last
        if last and refit:
            weight = self.fc.weight.detach().reshape(6, 4, 5, 5)
            self.fc.weight = nn.Parameter(weight.permute(0, 2, 3, 1).reshape(6, 100))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = torch.flatten(x.permute(0, 2, 3, 1) if self.last else x, 1)
        return self.fc(torch.tanh(x))


def test_a_flatten_in_another_order_is_carried_on_to_the_layer_that_reads_it(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 3, 5, 5)).astype("f4")
    a = recorded(tmp_path / "t.zarr", Flat(), x, "a")
    fine = tracer.diff(a, recorded(tmp_path / "t.zarr", Flat(last=True), x, "fine"))
    by_name = {pair.aligned: pair for pair in fine.pairs}
    for name in ("flatten", "tanh"):  # the activation hands the order on
        pair = by_name[name]
        assert pair.pair.axes == (0, 1)
        assert str(pair.pair.arrangement) == "n (c h w) → n (h w c)"
        assert pair.verdict is Verdict.MATCH
        assert "another order" in pair.reason
    assert fine.first is None
    assert by_name["fc"].inherited is not None
    assert by_name["fc"].inherited < 1e-6
    wrong = tracer.diff(a, recorded(tmp_path / "t.zarr", Flat(last=True, refit=False), x, "wrong"))
    assert wrong.first is not None
    assert wrong.first.aligned == "flatten"
    assert "another order: n (c h w) → n (h w c), which fc does not expect" in wrong.first.reason
    assert {p.aligned: p.verdict for p in wrong.pairs}["fc"] is Verdict.INHERITED


def test_the_order_of_a_flatten_is_known_from_the_graph_alone(trace_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 3, 5, 5)).astype("f4")
    a, b = recorded(trace_path, Flat(), x, "a"), recorded(trace_path, Flat(last=True), x, "b")
    found = oriented(a, b, [("conv", "conv"), ("flatten", "flatten"), ("tanh", "tanh"), ("fc", "fc")], values=False)
    assert str(found["flatten"].arrangement) == str(found["tanh"].arrangement) == "n (c h w) → n (h w c)"
    assert found["fc"].arrangement is None


def test_time_steps_folded_into_the_batch_are_the_same_tensor(trace_path: Path) -> None:
    class Steps(nn.Module):
        def __init__(self, fold: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fold, self.first, self.second = fold, nn.Linear(6, 7), nn.Linear(7, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.first(x.reshape(-1, 6) if self.fold else x))
            y = self.second(y)
            return y.reshape(len(x), -1, 4) if self.fold else y

    x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype("f4")
    a, b = recorded(trace_path, Steps(False), x, "a"), recorded(trace_path, Steps(True), x, "b")
    diff = tracer.diff(a, b)
    first = next(pair for pair in diff.pairs if pair.aligned == "first")
    assert first.pair.axes is None
    assert first.stats is not None
    assert first.stats.max_abs < 1e-6
    assert "→" in str(first.pair.arrangement)
    assert diff.first is None
    said = first.to_json()
    assert said["axes"] is None
    assert Rearrangement.parse(**said["arrangement"]) == first.pair.arrangement


@pytest.mark.parametrize("refit", [True, False])
def test_a_dense_layer_in_front_of_a_reshape_may_hold_another_order(refit: bool, trace_path: Path) -> None:
    class Decoder(nn.Module):
        def __init__(self, last: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.conv, self.last = nn.Linear(6, 20), nn.Conv1d(4, 3, 3), last
            if last and refit:
                for parameter in (self.fc.weight, self.fc.bias):
                    rows = parameter.detach().reshape(4, 5, -1).transpose(0, 1).reshape(parameter.shape)
                    parameter.data = rows.contiguous()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.fc(x)
            return self.conv(y.view(-1, 5, 4).transpose(1, 2) if self.last else y.view(-1, 4, 5))

    x = np.random.default_rng(0).normal(size=(3, 6)).astype("f4")
    a, b = recorded(trace_path, Decoder(False), x, "a"), recorded(trace_path, Decoder(True), x, "b")
    diff = tracer.diff(a, b)
    by_name = {pair.aligned: pair for pair in diff.pairs}
    plan = by_name["fc"].pair.arrangement
    assert by_name["fc"].verdict is Verdict.MATCH
    assert (str(plan) == "n (c s) → n (s c)") is refit
    assert (diff.first is None) is refit


def test_every_order_of_a_shape_is_found_by_its_values() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 4, 4, 4))
    for order in permutations(range(4)):
        a = extract(graph(source(4, 4, 4, 4)), {})
        moved = values.transpose(order)
        (found,) = find([(0, 0)], a, a, Both(values, moved), {})
        assert found.how == "values"
        assert found.axes is not None
        assert np.array_equal(axes.apply(moved, found.axes), values)
