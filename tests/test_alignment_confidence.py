"""What must not look sure: pairs that nothing but the order speaks for, and pairs that something speaks against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from benchmarks.corpus.perturb import heads
from tracer.alignment import align
from tracer.alignment.calibration import GRAPH, LOCAL, TRUST
from tracer.alignment.engine import OUTDONE
from tracer.alignment.features import extract
from tracer.alignment.symmetry import siblings
from tracer.graph import Node, Param, Structure

SURE = 0.9


def op(name: str, kind: str, *parents: str, shape: tuple[int, ...] = (3, 7, 20)) -> Node:
    return Node(name, kind, kind, "layer", parents, shape, owner=name)


def dense(name: str, parent: str, width: int = 20) -> Node:
    params = (Param("kernel", (20, width), "float32"), Param("bias", (width,), "float32"))
    return replace(op(name, "dense", parent, shape=(3, 7, width)), params=params)


def confidences(ours: Structure, theirs: Structure) -> dict[str, tuple[str, float]]:
    return {p.aligned: (p.candidate[-1], p.confidence) for p in align(ours, theirs).pairs if "output" not in p.evidence}


def renamed(structure: Structure, names: dict[str, str]) -> Structure:
    nodes = (
        replace(n, name=names.get(n.name, n.name), parents=tuple(names.get(p, p) for p in n.parents)) for n in structure
    )
    return Structure(tuple(nodes), tuple(names.get(o, o) for o in structure.outputs))


@pytest.mark.parametrize("deep", [False, True])
def test_equal_heads_are_not_told_apart_by_their_order(deep: bool) -> None:
    ours = heads(range(3), deep, "a")
    found = confidences(ours, heads((1, 2, 0), deep, "b"))
    for node in ours:
        if node.name not in ("ax", "atrunk"):
            assert found.get(node.name, ("", 0.0))[1] < SURE, node.name
    assert found["atrunk"] == ("btrunk", pytest.approx(1, abs=0.05))


def test_names_tell_equal_heads_apart() -> None:
    words = ("boxes", "scores", "masks")
    ours, theirs = (
        renamed(heads(range(3), True, side), {f"{side}out{k}": f"{side}/{word}" for k, word in enumerate(words)})
        for side in "ab"
    )
    found = confidences(ours, theirs)
    for k, word in enumerate(words):
        assert found[f"a/{word}"][0] == f"b/{word}"
        assert found[f"a/{word}"][1] >= SURE
        assert found[f"aact{k}"][1] >= SURE, "what leads to a head is told apart with it"
    swapped = renamed(theirs, {"b/boxes": "b/scores", "b/scores": "b/boxes"})
    against = confidences(ours, swapped)
    assert against.get("a/boxes", ("", 0.0))[1] < SURE or against["a/boxes"][0] == "b/boxes"


@pytest.mark.parametrize("kind", ["concat", "add"])
def test_branches_are_told_apart_by_the_argument_as_which_they_are_read(kind: str) -> None:
    """A concat's parts have places, a sum's terms have none."""
    nodes = [op("x", "input"), *(dense(n, "x") for n in "pqr")]
    nodes[0] = replace(nodes[0], role="input")
    nodes.append(op("join", kind, "p", "q", "r", shape=(3, 7, 60) if kind == "concat" else (3, 7, 20)))
    side = extract(Structure(tuple(nodes), ("join",)), {})
    found = siblings(side, range(len(side.nodes)))
    assert [*map(len, found.values())] == ([0] * 5 if kind == "concat" else [0, 2, 2, 2, 0])


def test_what_holds_the_same_whatever_is_exchanged_is_no_sibling() -> None:
    nodes = [op("x", "input"), op("a", "relu", "x"), op("b", "relu", "x"), op("s", "add", "a", "b")]
    nodes[0] = replace(nodes[0], role="input")
    assert not any(siblings(extract(Structure(tuple(nodes), ("s",)), {}), range(len(nodes))).values())


def scores(*, before: bool) -> Structure:
    """Attention scores of which the query is scaled, or the scores are."""
    nodes = [replace(op("x", "input"), role="input"), dense("q", "x"), dense("k", "x"), dense("v", "x")]
    wide = (3, 7, 7)
    if before:
        nodes += [op("scale", "mul", "q"), op("product", "matmul", "scale", "k", shape=wide)]
    else:
        nodes += [op("product", "matmul", "q", "k", shape=wide), op("scale", "mul", "product", shape=wide)]
    last = "product" if before else "scale"
    nodes += [op("weights", "softmax", last, shape=wide), op("mixed", "matmul", "weights", "v"), dense("out", "mixed")]
    return Structure(tuple(nodes), ("out",))


def test_products_between_two_places_of_a_scale_are_not_sure() -> None:
    found = confidences(scores(before=True), scores(before=False))
    assert found.get("product", ("", 0.0)) != "product"
    assert found["product"][1] < SURE if found.get("product", ("",))[0] == "product" else True
    for name in ("q", "k", "v", "weights", "mixed", "out"):
        assert found[name] == (name, pytest.approx(1, abs=1 - SURE))
    same = confidences(scores(before=True), scores(before=True))
    assert same["product"][1] >= SURE


def test_a_sum_that_stands_where_a_product_does_is_not_sure() -> None:
    def model(kind: str) -> Structure:
        nodes = [replace(op("x", "input"), role="input"), dense("d", "x"), dense("e", "x")]
        return Structure((*nodes, op("m", kind, "d", "e"), dense("h", "m")), ("h",))

    found = confidences(model("add"), model("mul"))
    assert found.get("m", ("m", 0.0))[1] < SURE
    assert found["h"][1] >= SURE


def test_two_models_that_share_a_head_only_are_not_sure_of_it() -> None:
    def model(kind: str, width: int, prefix: str) -> Structure:
        nodes = [replace(op(f"{prefix}x", "input", shape=(3, 9)), role="input")]
        for k in range(12):
            params = (Param("w", (width + k, width + k + 1), "float32"),)
            shape = (3, width + k + 1)
            nodes.append(replace(op(f"{prefix}{k}", kind, nodes[-1].name, shape=shape), params=params))
        params = (Param("kernel", (50, 10), "float32"), Param("bias", (10,), "float32"))
        nodes.append(replace(op(f"{prefix}head", "dense", nodes[-1].name, shape=(3, 10)), params=params))
        return Structure(tuple(nodes), (nodes[-1].name,))

    alignment = align(model("lstm", 100, "a"), model("conv1d", 300, "b"))
    assert all(p.confidence < SURE for p in alignment.pairs)


def test_a_layer_called_five_times_against_once_is_left_open() -> None:
    def model(calls: int) -> Structure:
        nodes = [replace(op("x", "input"), role="input")]
        for k in range(calls):
            node = dense(f"d#{k}", nodes[-1].name)
            nodes.append(replace(node, params=node.params if k == 0 else (), owner="d", call=k))
        return Structure((*nodes, op("t", "tanh", nodes[-1].name), dense("h", "t", 2)), ("h",))

    alignment = align(model(5), model(1))
    assert all(p.confidence < SURE for p in alignment.pairs if p.aligned.startswith("d#"))
    assert {p.aligned for p in alignment.pairs} >= {"x", "t", "h"}


def test_calls_of_a_shared_layer_that_values_settle_are_sure(trace_path: Path) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Loop(nn.Module):
        def __init__(self, calls: int) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.shared, self.head, self.calls = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), calls

        def forward(self, x: Any) -> Any:
            x = self.stem(x)
            for _ in range(self.calls):
                x = torch.tanh(self.shared(x))
            return self.head(x)

    x = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
    four = tracer.record(Loop(4).eval(), x, name="four", trace=trace_path)
    three = tracer.record(Loop(3).eval(), name="three", trace=trace_path)
    found = align(four, three)
    sure = {p.aligned: p.candidate[-1] for p in found.pairs if p.confidence >= SURE}
    assert {name: twin for name, twin in sure.items() if "#" in name} == {
        f"shared#{k}": f"shared#{k}" for k in range(3)
    }
    assert found.unmatched_reference == dict.fromkeys(("shared#3", "tanh_3"), OUTDONE)


def test_all_weights_are_numbers_of_the_right_sign() -> None:
    for numbers in (LOCAL, GRAPH, TRUST):
        for name, value in numbers.items():
            assert np.isfinite(value)
            if name not in ("bias", "impossible"):
                assert (value <= 0) if name.startswith(("other_", "one_")) else (value >= 0), name
