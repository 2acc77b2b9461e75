"""The parts of the alignment against brute force, and what it leaves open, gives up and looks through."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tracer
from benchmarks.growth import counted_anew, tower, twin
from tracer.alignment import align
from tracer.alignment.candidates import NEAR, Candidates, possible
from tracer.alignment.engine import LEFT_OPEN, OUTDONE
from tracer.alignment.features import extract
from tracer.alignment.mapping import Entry, Mapping
from tracer.alignment.order import heaviest
from tracer.graph import Node, Param, Structure

NOTHING = (np.zeros(0, np.intp), np.zeros(0, np.intp))


@st.composite
def sparse(draw: st.DrawFn) -> tuple[Candidates, np.ndarray]:
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    chosen = sorted(draw(st.sets(st.integers(0, height * width - 1), min_size=1, max_size=9)))
    values = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5]), min_size=len(chosen), max_size=len(chosen)))
    keys = np.array(chosen, np.intp)
    return Candidates(keys // width, keys % width, (height, width)), np.array(values, np.float32)


@given(sparse())
def test_rivals_are_the_best_other_pair_of_either_node(given_: tuple[Candidates, np.ndarray]) -> None:
    pairs, values = given_
    for p, found in enumerate(pairs.rivals(values)):
        others = [
            values[q]
            for q in range(len(pairs))
            if q != p and (pairs.rows[q] == pairs.rows[p] or pairs.cols[q] == pairs.cols[p])
        ]
        assert found == max(others, default=0)


@settings(max_examples=60)
@given(sparse())
def test_the_heaviest_matching_in_order_and_what_each_pair_costs(given_: tuple[Candidates, np.ndarray]) -> None:
    pairs, values = given_
    usable = [p for p in range(len(pairs)) if values[p] > 0]

    def keeps_order(chosen: tuple[int, ...]) -> bool:
        return all(
            (pairs.rows[p] < pairs.rows[q]) == (pairs.cols[p] < pairs.cols[q])
            and pairs.rows[p] != pairs.rows[q]
            and pairs.cols[p] != pairs.cols[q]
            for p, q in combinations(chosen, 2)
        )

    matchings = [c for size in range(len(usable) + 1) for c in combinations(usable, size) if keeps_order(c)]
    best = max(sum(float(values[p]) for p in c) for c in matchings)
    found = heaviest(pairs, values, np.arange(pairs.shape[0]), np.arange(pairs.shape[1]))
    assert found.total == pytest.approx(best)
    assert sum(float(values[p]) for p in found.chosen) == pytest.approx(best)
    assert keeps_order(tuple(int(p) for p in found.chosen))
    for p in usable:
        through = max(sum(float(values[q]) for q in c) for c in matchings if p in c)
        assert found.regret[p] == pytest.approx(best - through)


def test_large_models_consider_few_pairs_for_each_node_and_small_ones_all() -> None:
    ours, theirs = (extract(tower(2500, candidate=side), {}) for side in (False, True))
    pairs = possible(ours, theirs, NOTHING)
    kinds = 3  # a dense layer may also be another dense of the same width: a few looks fit each node
    assert len(pairs) <= len(ours.nodes) * 4 * NEAR * kinds
    small = (extract(tower(60, candidate=side), {}) for side in (False, True))
    a, b = small
    fits = sum(x.kind == y.kind == "softmax" for x in a.nodes for y in b.nodes)
    found = possible(a, b, NOTHING)
    assert (
        sum(a.nodes[i].kind == "softmax" == b.nodes[j].kind for i, j in zip(found.rows, found.cols, strict=True))
        == fits
    )


def test_one_of_many_equal_blocks_missing_is_left_open() -> None:
    """Nothing in the structure tells which one: the answer is a list, not a guess."""
    ours = tower(200, candidate=False)
    theirs, names = counted_anew(tower(200, candidate=True))
    alignment = align(ours, theirs)
    there = {node.name for node in theirs}
    truth = {node.name: names.get(twin(node.name)) for node in ours}
    wrong = [p for p in alignment.pairs if truth[p.aligned] != p.candidate[-1]]
    assert len(alignment.ambiguous) > 80
    assert len(wrong) < len(alignment.ambiguous)
    listed = [a for a in alignment.ambiguous if truth[a.reference] in there]
    named = [a for a in listed if truth[a.reference] in dict(a.candidates)]
    assert len(named) >= 0.9 * len(listed)
    # What may be the twin of something that is left open is not said to be worse than another.
    reasons = {*alignment.unmatched_candidate.values()}
    assert LEFT_OPEN in reasons
    assert OUTDONE not in reasons
    for entry in alignment.ambiguous:
        assert sum(share for _, share in entry.candidates) <= 1 + 1e-6
        assert alignment.unmatched_reference[entry.reference] == entry.reason
        assert entry.reason.startswith("ambiguous: ")


def op(name: str, kind: str, parents: tuple[str, ...], shape: tuple[int, ...], **more: Any) -> Node:
    return Node(name, kind, kind, parents=parents, shape=shape, **{"owner": name, **more})


def dense(name: str, parent: str, width: int = 20) -> Node:
    params = (Param("kernel", (20, width), "float32"), Param("bias", (width,), "float32"))
    return op(name, "dense", (parent,), (3, 7, width), params=params)


def attention(*, late_query: bool, reshaped: bool) -> Structure:
    """Self-attention in the order of one library or of the other, with heads split by a reshape or not at all."""
    nodes = [Node("x", "input", "x", role="input", shape=(3, 7, 20))]
    split: dict[str, list[Node]] = {}
    for name in "qkv":
        split[name] = [
            op(f"{name}_split", "reshape", (name,), (3, 7, 4, 5)),
            op(f"{name}_turn", "permute", (f"{name}_split",), (3, 4, 7, 5)),
        ]
    order = "kvq" if late_query else "qkv"
    if late_query:
        nodes.append(dense("q", "x"))
    for name in order:
        if name != "q" or not late_query:
            nodes.append(dense(name, "x"))
        nodes += split[name] if reshaped else []
    ends = {name: f"{name}_turn" if reshaped else name for name in "qkv"}
    scores = (3, 4, 7, 7)
    nodes += [
        op("scores", "matmul", (ends["q"], ends["k"]), scores),
        op("weights", "softmax", ("scores",), scores),
        op("mixed", "matmul", ("weights", ends["v"]), (3, 4, 7, 5)),
        op("joined", "reshape", ("mixed",), (3, 7, 20)),
        dense("out", "joined"),
        op("sum", "add", ("out", "x"), (3, 7, 20)),
    ]
    return Structure(tuple(nodes), ("sum",))


@pytest.mark.parametrize("reshaped", [False, True])
def test_queries_keys_and_values_are_told_apart_by_what_reads_them(reshaped: bool) -> None:
    """All three look the same and run in another order on either side; the products say which is which."""
    ours = attention(late_query=True, reshaped=True)
    theirs = attention(late_query=False, reshaped=reshaped)
    names = {"q": "a", "k": "b", "v": "c"}  # no help from names
    unnamed = [
        replace(n, name=names.get(n.name, n.name), parents=tuple(names.get(p, p) for p in n.parents)) for n in theirs
    ]
    found = {p.aligned: p.candidate[-1] for p in align(ours, Structure(tuple(unnamed), theirs.outputs)).pairs}
    assert {name: found[name] for name in "qkv"} == names
    if reshaped:
        assert all(found[f"{n}_{what}"] == f"{n}_{what}" for n in "qkv" for what in ("split", "turn"))


def test_branches_that_run_interleaved_on_one_side_are_paired() -> None:
    """Functional graphs run by depth, a module one branch after the other."""

    def inception(interleaved: bool) -> Structure:
        def branch(name: str, steps: int) -> list[Node]:
            out, last = [], "x"
            for k in range(steps):
                param = Param("kernel", (20, 20), "float32")
                out.append(op(f"{name}{k}", "dense", (last,), (3, 7, 20), params=(param,)))
                out.append(op(f"{name}{k}_relu", "relu", (f"{name}{k}",), (3, 7, 20)))
                last = f"{name}{k}_relu"
            return out

        branches = [branch("a", 1), branch("b", 2), branch("c", 3)]
        nodes = [Node("x", "input", "x", role="input", shape=(3, 7, 20))]
        if interleaved:
            for k in range(6):
                nodes += [b[k] for b in branches if k < len(b)]
        else:
            nodes += [node for b in branches for node in b]
        nodes.append(op("cat", "concat", ("a0_relu", "b1_relu", "c2_relu"), (3, 7, 60)))
        return Structure(tuple(nodes), ("cat",))

    alignment = align(inception(True), inception(False))
    assert {p.aligned: p.candidate[-1] for p in alignment.pairs} == {n.name: n.name for n in inception(True)}


torch = pytest.importorskip("torch")


class Sums(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Three embeddings added in one order or in another."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.word, self.position, self.kind = (torch.nn.Linear(6, 6) for _ in range(3))
        self.norm, self.out = torch.nn.LayerNorm(6), torch.nn.Linear(6, 6)
        self.order = (first, second)

    def forward(self, x: Any) -> Any:
        terms = {"position": self.position(x), "kind": self.kind(x)}
        return self.out(self.norm(self.word(x) + terms[self.order[0]] + terms[self.order[1]]))


def recorded(folder: Path, first: Any, second: Any, x: Any) -> tuple[Any, Any]:
    trace = folder / "t.zarr"
    return tracer.record(first, x, name="a", trace=trace), tracer.record(
        second, x, name="b", trace=trace, layout="same"
    )


def test_a_sum_in_another_order_has_no_pair_that_differs(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    a, b = recorded(tmp_path, Sums("position", "kind").eval(), Sums("kind", "position").eval(), x)
    diff = tracer.diff(a, b)
    assert diff.verdict == "match", str(diff)
    found = {p.aligned: p.pair.candidate[-1] for p in diff.pairs}
    assert found["position"] == "position"
    assert found["kind"] == "kind"
    assert found["add_1"] == "add_1"
    assert found.get("add") != "add"


class Masked(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Attention weights with some positions masked by a number of one's choice."""

    def __init__(self, mask: float, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.q, self.k = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        self.mask, self.scale = mask, scale

    def forward(self, x: Any) -> Any:
        scores = torch.matmul(self.q(x), self.k(x).transpose(1, 2)) * self.scale
        return torch.softmax(scores + torch.full((4, 4), self.mask).triu(1), -1)


@pytest.mark.parametrize(("scale", "first"), [(1.0, None), (1.5, "mul")])
def test_what_is_masked_with_another_number_does_not_diverge(tmp_path: Path, scale: float, first: str | None) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32)
    a, b = recorded(tmp_path, Masked(-1e9).eval(), Masked(-3e38, scale).eval(), x)
    diff = tracer.diff(a, b)
    added = next(p for p in diff.pairs if p.aligned == "add")
    assert added.stats is not None
    assert added.stats.max_abs > 1e8
    assert (diff.first.aligned if diff.first else None) == first
    if first is None:
        assert "masked" in added.reason


class Loop(torch.nn.Module):  # type: ignore[misc, name-defined]
    """New values and two gates of one projection, and a loop over steps written out."""

    def __init__(self, exchanged: bool = False, late: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.gates, self.exchanged, self.late = torch.nn.Linear(6, 18), exchanged, late

    def forward(self, x: Any) -> Any:
        x = torch.nn.functional.pad(x, (0, 0, 0, 1) if self.late else (0, 0, 1, 0))[:, int(self.late) :][:, :4]
        z, f, o = (3 * self.gates(x)).chunk(3, dim=2)
        f, o = (torch.sigmoid(gate) for gate in ((o, f) if self.exchanged else (f, o)))
        c, found = torch.zeros_like(z[:, 0]), []
        for t in range(4):
            c = f[:, t] * c + (1 - f[:, t]) * z[:, t]
            found.append(o[:, t] * c)
        return torch.stack(found, 1)


@pytest.mark.parametrize("changed", ["exchanged", "late"])
def test_the_graph_says_which_step_and_gate_of_a_loop_is_which_where_equal_values_are_those_of_others(
    tmp_path: Path, changed: str
) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    a, b = recorded(tmp_path, Loop().eval(), Loop(**{changed: True}).eval(), x)
    found = {pair.aligned: pair.candidate[-1] for pair in align(a, b).pairs}
    inside = {name for name in found if name.startswith(("mul_", "add", "sub", "sigmoid"))}
    assert len(inside) >= 4 * 4
    assert {name: found[name] for name in inside} == {name: name for name in inside}
    if changed == "exchanged":  # what was exchanged is known by its values
        assert found["chunk[1]"] == "chunk[1]"


class Attention(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Queries, keys and values of one projection; exchanged, the values stand before the keys."""

    def __init__(self, exchanged: bool) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.qkv, self.order = torch.nn.Linear(6, 18), [0, 2, 1] if exchanged else [0, 1, 2]

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).unflatten(2, (3, 6))[:, :, self.order].unbind(2)
        return torch.softmax(q @ k.transpose(1, 2) / 6**0.5, 2) @ v


def test_parts_whose_values_are_equal_crosswise_are_exchanged(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    a, b = recorded(tmp_path, Attention(False).eval(), Attention(True).eval(), x)
    found = {pair.aligned: pair.candidate[-1] for pair in align(a, b).pairs}
    assert (found["unbind[1]"], found["unbind[2]"]) == ("unbind[2]", "unbind[1]")


class Views(torch.nn.Module):  # type: ignore[misc, name-defined]
    """How alike two pictures are at some distances; exchanged, the right one is taken for the left."""

    def __init__(self, exchanged: bool) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.tower, self.below, self.exchanged = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6), exchanged

    def forward(self, left: Any, right: Any) -> Any:
        one, other = (self.below(torch.tanh(self.tower(x))) for x in (left, right))
        one, other = (other, one) if self.exchanged else (one, other)
        moved = [torch.nn.functional.pad(other, (0, 0, k, 0))[:, : one.shape[1]] for k in range(5)]
        return torch.softmax(torch.stack([(one * x).mean(2) for x in moved], 2), 2).sum(1)


def test_inputs_that_were_given_the_same_stay_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(5, 7, 6)).astype(np.float32) for name in ("left", "right")}
    a, b = recorded(tmp_path, Views(False).eval(), Views(True).eval(), x)
    found = {pair.aligned: pair.candidate[-1] for pair in align(a, b).pairs}
    assert {name: found[name] for name in x} == {name: name for name in x}


class Rows(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A dense layer on pairs, its normalisation over all of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.mix, self.norm = torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.3, 2)

    def forward(self, x: Any) -> Any:
        y = self.mix(x)
        return torch.tanh(self.norm(y.flatten(0, 1)).unflatten(0, y.shape[:2]))


def test_a_norm_that_was_folded_away_between_reshapes_is_the_layer_before_it(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5, 7, 6)).astype(np.float32)
    plain, whole = Rows().eval(), Rows().eval()
    whole.mix = torch.nn.utils.fuse_linear_bn_eval(whole.mix, whole.norm)
    whole.norm = torch.nn.Identity()
    a, b = recorded(tmp_path, plain, whole, x)
    found = {pair.aligned: pair.candidate[-1] for pair in align(a, b).pairs}
    assert found["norm"] == "mix"
    assert "mix" not in found
    assert tracer.diff(a, b)
    assert tracer.diff(b, a)


def test_equal_weights_decide_which_of_equal_blocks_is_missing(tmp_path: Path) -> None:
    """The input is other, so no activation agrees: the weights say which block is gone."""

    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    torch.manual_seed(3)
    blocks = [torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh()) for _ in range(6)]
    whole = torch.nn.Sequential(*blocks, torch.nn.Linear(6, 2)).eval()
    short = torch.nn.Sequential(*(whole[k] for k in (0, 1, 3, 4, 5)), whole[6]).eval()
    a = tracer.record(whole, x, name="a", trace=tmp_path / "t.zarr")
    b = tracer.record(short, -2 * x, name="b", trace=tmp_path / "u.zarr")
    alignment = align(a, b)
    found = {p.aligned: p.candidate[-1] for p in alignment.pairs}
    expected = {f"{old}.{k}": f"{new}.{k}" for new, old in enumerate((0, 1, 3, 4, 5)) for k in (0, 1)}
    del expected["1.1"]  # the Tanh before the missing layer or the one behind it: both are right
    assert {name: found.get(name) for name in expected} == expected
    assert "2.0" in alignment.unmatched_reference
    guesses = {p.aligned: p.confidence for p in align(a.structure, b.structure).pairs}
    inside = [guesses[f"{k}.0"] for k in (1, 2, 3, 4) if f"{k}.0" in guesses]
    assert max(inside, default=0.0) < 0.9, "without values it cannot be known"


def heads(order: str) -> Structure:
    """Three equal heads, built in some order."""
    nodes = [Node("x", "input", "x", role="input", shape=(3, 7, 20))]
    for name in order:
        nodes += [dense(f"{name}_in", "x"), op(f"{name}_relu", "relu", (f"{name}_in",), (3, 7, 20))]
        nodes.append(dense(f"{name}_out", f"{name}_relu", 5))
    return Structure(tuple(nodes), tuple(f"{name}_out" for name in order))


@pytest.mark.parametrize("pinned", ["in", "relu", "out"])
def test_what_hangs_on_a_stated_pair_alone_follows_it(pinned: str) -> None:
    ours, theirs = heads("abc"), heads("cab")
    stated = Mapping(pairs=tuple(Entry(reference=(f"{n}_{pinned}",), candidate=(f"{n}_{pinned}",)) for n in "abc"))
    found = {p.aligned: p.candidate[-1] for p in align(ours, theirs, stated).pairs}
    assert found == {node.name: node.name for node in ours}


class Stacked(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two recurrent layers, in one module or in two; the last state is what is read."""

    def __init__(self, together: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        both = torch.nn.GRU(6, 6, num_layers=2, batch_first=True)
        self.together, self.out = together, torch.nn.Linear(6, 2)
        if together:
            self.both = both
            return
        self.first, self.second = (torch.nn.GRU(6, 6, batch_first=True) for _ in range(2))
        for k, layer in enumerate((self.first, self.second)):
            state = {n.replace(f"_l{k}", "_l0"): v for n, v in both.state_dict().items() if n.endswith(f"_l{k}")}
            layer.load_state_dict(state)

    def forward(self, x: Any) -> Any:
        if self.together:
            return self.out(self.both(x)[1][-1])
        return self.out(self.second(self.first(x)[0])[0][:, -1])


def test_two_recurrent_layers_and_one_module_read_by_its_last_state_agree(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
    a, b = recorded(tmp_path, Stacked(False).eval(), Stacked(True).eval(), x)
    assert tracer.diff(a, b).first is None, str(tracer.diff(a, b))
