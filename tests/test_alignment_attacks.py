"""The alignment under structures that no model of ours has: damaged, degenerate, huge, symmetric, unrelated."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import tracer
from tracer.alignment import align
from tracer.alignment.consistency import agree
from tracer.alignment.engine import Side, Work
from tracer.alignment.features import Summary, extract, pairable
from tracer.alignment.result import Alignment
from tracer.graph import Node, Param, Structure

WIDTH = 20
X = Node("x", "input", "x", role="input", shape=(3, 7, WIDTH))


def op(
    name: str,
    kind: str,
    *parents: str,
    shape: tuple[int, ...] | None = (3, 7, WIDTH),
    params: tuple[Param, ...] = (),
    alias_of: str | None = None,
) -> Node:
    role = "container" if kind == "container" else "layer"
    return Node(name, kind, kind, role=role, parents=parents, shape=shape, params=params, owner=name, alias_of=alias_of)


def dense(name: str, parent: str, inner: int = WIDTH, outer: int = WIDTH) -> Node:
    params = (Param("kernel", (inner, outer), "float32"), Param("bias", (outer,), "float32"))
    return op(name, "dense", parent, shape=(3, 7, outer), params=params)


def model(*nodes: Node) -> Structure:
    return Structure(nodes, (nodes[-1].name,) if nodes else ())


def chain(kind: str, count: int, prefix: str) -> Structure:
    names = ["x", *(f"{prefix}{k}" for k in range(count))]
    return model(X, *(op(name, kind, before) for before, name in pairwise(names)))


def sound(alignment: Alignment, ours: Structure, theirs: Structure) -> dict[str, str]:
    """Check what holds of every alignment; the pairs by name."""
    json.dumps(alignment.to_json(), allow_nan=False)
    own = [p for p in alignment.pairs if "output" not in p.evidence]
    left = alignment.unmatched_reference, alignment.unmatched_candidate
    for s, (structure, unmatched) in enumerate(zip((ours, theirs), left, strict=True)):
        paired = [name for p in own for name in (p.reference, p.candidate)[s]]
        ends = {name for p in alignment.pairs for name in (p.reference, p.candidate)[s]}
        assert len(paired) == len(set(paired))
        assert not ends & unmatched.keys()
        assert {n.name for n in structure if pairable(n)} == ends | unmatched.keys()
    for pair in alignment.pairs:
        assert 0 <= pair.confidence <= 1
        assert all(0 <= share <= 1 for share in pair.evidence.values()), pair
    keys = alignment.keys()
    assert len(set(keys.values())) == len(keys)
    assert all(alignment.by_candidate[name].aligned == aligned for name, aligned in keys.items())
    for entry in alignment.ambiguous:
        assert entry.reference in alignment.unmatched_reference
        assert all(0 <= share <= 1 for _, share in entry.candidates)
    return {p.aligned: p.candidate[-1] for p in own}


def odd(
    name: str, kind: str, *params: tuple[str, tuple[int, ...]], shape: tuple[int, ...] | None = (3, 5)
) -> Structure:
    return model(X, op(name, kind, "x", shape=shape, params=tuple(Param(n, s, "float32") for n, s in params)))


ODD: dict[str, Structure] = {
    "empty": model(),
    "input only": model(X),
    "containers only": model(op("c", "container")),
    "inputs that are outputs, twice": Structure((X, replace(X, name="y")), ("x", "y", "x")),
    "no shapes": model(replace(X, shape=None), replace(dense("d", "x"), shape=None), op("r", "relu", "d", shape=None)),
    "scalars": model(replace(X, shape=()), op("s", "sum", "x", shape=()), op("m", "mul", "s", "x", shape=())),
    "nothing in a batch": model(replace(X, shape=(0, 3)), op("s", "relu", "x", shape=(0, 3))),
    "parents that do not exist": model(op("r", "relu", "gone"), op("t", "tanh", "r", "lost")),
    "the same parent twice": model(X, op("m", "mul", "x", "x"), op("n", "add", "m", "m")),
    "its own parent": model(X, op("m", "mul", "m", "x")),
    "a parent that comes later": model(op("m", "mul", "z"), op("z", "relu", "m")),
    "its own alias": model(X, op("m", "relu", "x", alias_of="m"), op("c", "container", "m", alias_of="c")),
    "containers in a loop": Structure(
        (X, op("c", "container", "x", alias_of="d"), op("d", "container", "x", alias_of="c"), op("q", "tanh", "c")),
        ("c", "gone", "q"),
    ),
    "alias of nothing": model(X, op("c", "dropout", "x", alias_of="gone"), op("q", "tanh", "c")),
    "names": model(replace(X, name=""), dense("слой/ä", ""), op("層", "relu", "слой/ä"), op("\ud800", "", "層")),
    "many inputs": model(
        *(replace(X, name=f"x{i}") for i in range(60)),
        op("cat", "concat", *(f"x{i}" for i in range(60)), shape=(3, 7, 60 * WIDTH)),
    ),
    "many children": model(X, *(dense(f"d{i}", "x") for i in range(80)), op("s", "add", "d0", "d79")),
    "many axes": model(replace(X, shape=(2,) * 20), op("t", "permute", "x", shape=(2,) * 20)),
    "huge axes": model(replace(X, shape=(1 << 52,) * 64), op("r", "relu", "x", shape=(1 << 52,) * 64)),
    "kernel of odd rank": odd("c", "conv2d", ("kernel", (12, 2, 3, 0)), ("bias", (1,)), ("weight", (3,))),
    "scalar kernel": odd("d", "dense", ("kernel", ())),
    "dense over many axes": odd("d", "dense", ("weight", (2, 3, 4)), shape=(5,)),
    "lstm like keras": odd("l", "lstm", ("kernel", (3,)), ("recurrent_kernel", ()), ("bias", ())),
    "lstm like torch": odd("l", "lstm", ("weight_ih_l0", (3,)), ("weight_hh_l0", (7,))),
    "lstm like onnx": odd("l", "lstm", ("kernel", (1, 0, 3)), ("recurrent_kernel", (0,))),
    "attention": odd("a", "attention", ("in_proj_weight", (3,)), ("q_proj_weight", (0, 4, 0))),
    "separable": odd("s", "separable_conv2d", ("depthwise_kernel", ()), ("pointwise_kernel", (1,))),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_structures_are_aligned_with_themselves_and_with_all_others(name: str) -> None:
    ours = ODD[name]
    for theirs in ODD.values():
        found = sound(align(ours, theirs), ours, theirs)
        if theirs is ours and "many" not in name:
            assert found == {n.name: n.name for n in ours if pairable(n)}


def drawn(seed: int, count: int = 40) -> Structure:
    """A random graph with branches, joins, shared inputs and dead ends."""
    rng = random.Random(seed)
    nodes, width = [X], {"x": WIDTH}
    kinds = ["dense", "dense", "layernorm", "relu", "gelu", "tanh", "add", "mul", "concat", "reshape", "dropout"]
    for k in range(count):
        parent = rng.choice(nodes[-6:] if rng.random() < 0.8 else nodes).name
        kind, wide = rng.choice(kinds), width[parent]
        name = f"b{k // 5}/{kind}_{k}"
        if kind == "dense":
            node = dense(name, parent, wide, rng.randint(5, 400))
        elif kind == "layernorm":
            params = tuple(Param(p, (wide,), "float32") for p in ("gamma", "beta"))
            node = op(name, kind, parent, shape=(3, 7, wide), params=params)
        elif kind in ("add", "mul"):
            other = rng.choice([n.name for n in nodes if width[n.name] == wide])
            node = op(name, kind, parent, other, shape=(3, 7, wide))
        elif kind == "concat":
            other = rng.choice(nodes).name
            node = op(name, kind, parent, other, shape=(3, 7, wide + width[other]))
        else:
            node = op(name, kind, parent, shape=(3, 7, wide))
        nodes.append(node)
        assert node.shape is not None
        width[name] = node.shape[-1]
    read = {p for n in nodes for p in n.parents}
    return Structure(tuple(nodes), tuple(n.name for n in nodes if n.name not in read))


def renamed(structure: Structure) -> tuple[Structure, dict[str, str]]:
    names = {n.name: f"z{i}" for i, n in enumerate(structure)}
    nodes = (replace(n, name=names[n.name], parents=tuple(names[p] for p in n.parents)) for n in structure)
    return Structure(tuple(nodes), tuple(names[o] for o in structure.outputs)), names


def shortened(structure: Structure, seed: int) -> Structure:
    """Without one operation, whose readers read what it read."""
    found = [n for n in structure if len(n.parents) == 1 and not n.params and n.name not in structure.outputs]
    gone = random.Random(seed).choice(found)
    nodes = (
        replace(n, parents=tuple(gone.parents[0] if p == gone.name else p for p in n.parents))
        for n in structure
        if n is not gone
    )
    return Structure(tuple(nodes), structure.outputs)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs(seed: int) -> None:
    ours = drawn(seed)
    alone = align(ours, ours)
    assert sound(alone, ours, ours) == {n.name: n.name for n in ours}
    assert min(p.confidence for p in alone.pairs) > 0.9
    theirs, names = renamed(ours)
    assert sound(align(ours, theirs), ours, theirs) == names
    short, _ = renamed(shortened(ours, seed))
    there, back = align(ours, short), align(short, ours)
    assert sound(there, ours, short) == {i: j for j, i in sound(back, short, ours).items()}
    assert align(ours, short).to_json() == there.to_json()


def shuffled(structure: Structure, seed: int) -> Structure:
    """The same graph run in another order."""
    rng, left, done = random.Random(seed), list(structure), list[Node]()
    while left:
        node = rng.choice([n for n in left if {p.name for p in done} >= set(n.parents)])
        left.remove(node)
        done.append(node)
    return Structure(tuple(done), structure.outputs)


@pytest.mark.parametrize("seed", [6, 57, 63, 70])
def test_graphs_that_run_in_another_order(seed: int) -> None:
    """Branches and dead ends look alike, and what tells them apart is what they read."""
    ours = drawn(seed)
    theirs = shuffled(ours, seed)
    found = sound(align(ours, theirs), ours, theirs)
    assert found == {name: name for name in found}
    assert len(found) >= 0.9 * len(ours.nodes), "the rest is left open"


def test_neighbours_that_are_read_in_two_ways_count_once() -> None:
    """``(d - x) * d``: the product reads the dense layer through the difference too."""
    ours = model(
        X, dense("d", "x"), op("m", "mul", "d", "d"), op("n", "matmul", "d", "m"), op("o", "concat", "m", "d", "m")
    )
    side = extract(ours, {})
    same = {i: i for i in range(len(ours))}
    assert [agree(same, i, i, side, side) for i in same] == [1.0] * len(ours)


def test_a_model_without_nodes_leaves_all_of_the_other_open() -> None:
    ours = chain("relu", 3, "a")
    alignment = align(ours, model())
    assert [*alignment.unmatched_reference] == [n.name for n in ours]
    assert [*align(model(), ours).unmatched_candidate] == [n.name for n in ours]


def tower(prefix: str, width: int, count: int) -> list[Node]:
    nodes = [replace(X, name=f"{prefix}in", shape=(3, 7, width))]
    for k in range(count):
        nodes.append(dense(f"{prefix}{k}", nodes[-1].name, width, width))
        nodes.append(op(f"{prefix}{k}r", "relu", nodes[-1].name, shape=(3, 7, width)))
    return nodes


@pytest.mark.parametrize("joined", [False, True])
def test_two_towers_in_the_other_order(joined: bool) -> None:
    """Images before texts here, texts before images there; which comes first must not cost the other."""
    images, texts = tower("i", 20, 250), tower("t", 32, 250)
    ends = images[-1].name, texts[-1].name
    products = [op("p", "matmul", *ends[:: 1 - 2 * k], shape=(3, 7, 7)) for k in (0, 1)] if joined else []
    ours = Structure((*images, *texts, *products[:1]), ("p",) if joined else ends)
    theirs = Structure((*texts, *images, *products[1:]), ("p",) if joined else ends)
    began = time.process_time()
    assert sound(align(ours, theirs), ours, theirs) == {n.name: n.name for n in ours}
    assert time.process_time() - began < 10


def parallel(count: int, prefix: str) -> Structure:
    names = [f"{prefix}{i}" for i in range(count)]
    return model(X, *(dense(n, "x") for n in names), op("cat", "concat", *names, shape=(3, 7, WIDTH * count)))


@pytest.mark.parametrize("wide", [False, True])
def test_thousands_that_look_alike_and_stand_at_one_depth(wide: bool) -> None:
    """Nodes of equal depth are looked for around their own place, not all of them around the same one."""
    ours, theirs = (parallel(1500, p) if wide else chain("relu", 3000, p) for p in "ab")
    began = time.process_time()
    found = sound(align(ours, theirs), ours, theirs)
    assert time.process_time() - began < 10
    assert all(found[n.name] == m.name for n, m in zip(ours, theirs, strict=True))


def test_unrelated_models_are_given_up_soon() -> None:
    """No layer has a twin, and a dense layer with its activation might stand for each GELU."""
    ours, theirs = chain("gelu", 250, "a"), model(X, *(dense(f"b{k}", f"b{k - 1}" if k else "x") for k in range(250)))
    began = time.process_time()
    found = sound(align(ours, theirs), ours, theirs)
    assert time.process_time() - began < 8
    assert len(found) < 10


def test_many_layers_written_out_in_a_row() -> None:
    ours = chain("gelu", 120, "a")
    nodes = [X]
    for k in range(120):
        last, n = nodes[-1].name, f"b{k}"
        nodes += [op(f"{n}d", "div", last), op(f"{n}e", "erf", f"{n}d"), op(f"{n}a", "add", f"{n}e")]
        nodes += [op(f"{n}m", "mul", last, f"{n}a"), op(n, "mul", f"{n}m")]
    theirs = model(*nodes)
    began = time.process_time()
    found = sound(align(ours, theirs), ours, theirs)
    assert time.process_time() - began < 8
    assert found == {"x": "x", **{f"a{k}": f"b{k}" for k in range(120)}}


@pytest.mark.parametrize("mean", [0.3, 1.0, float("nan")], ids=["equal", "constant", "nan"])
def test_thousands_of_equal_tensors(mean: float) -> None:
    ours, theirs = chain("relu", 1500, "a"), chain("relu", 1500, "b")
    spread = float(mean != 1)
    numbers: Summary = {"size": 420, "mean": mean, "rms": 1.0, "min": 1 - spread, "max": 1 + spread, "cube": 1.0}
    summaries: list[Mapping[str, Summary]] = [{n.name: numbers for n in side} for side in (ours, theirs)]
    sides = Side(ours, summaries[0], None), Side(theirs, summaries[1], None)
    work = Work(sides, extract(ours, summaries[0]), extract(theirs, summaries[1]), None)
    assert len(work.pairs) < 400_000
    found = sound(work.run(), ours, theirs)
    assert all(found[n.name] == m.name for n, m in zip(ours, theirs, strict=True))


def test_recordings_of_every_sort(tmp_path: Path) -> None:
    """Values that say nothing, other types, parts left out, a run that failed: each against each."""
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, fill: float | None = None, fails: bool = False) -> None:
            super().__init__()
            self.a, self.b, self.n = torch.nn.Linear(8, 16), torch.nn.Linear(16, 16), torch.nn.LayerNorm(16)
            self.fails = fails
            for param in self.parameters() if fill is not None else ():
                param.data.fill_(fill)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            h = torch.relu(self.a(x))
            for _ in range(3):
                h = h + self.b(h)
            if self.fails:
                raise RuntimeError("half way")
            return self.n(h), h > 0, h.argmax(-1), h.sum()

    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    made = [
        tracer.record(Net(), x, name="plain", trace=tmp_path / "0"),
        tracer.record(Net(), x, name="numbers", trace=tmp_path / "1", statistics_only=True),
        tracer.record(Net(), x, name="chosen", trace=tmp_path / "2", layers=["a", "n"]),
        tracer.record(Net(), x, name="without", trace=tmp_path / "3", exclude=["b"], weights=False),
        tracer.record(Net(0.0), x, name="zero", trace=tmp_path / "4"),
        tracer.record(Net(float("nan")), x, name="nan", trace=tmp_path / "5"),
        tracer.record(Net(3e38), x, name="inf", trace=tmp_path / "6"),
        tracer.record(Net().bfloat16(), torch.tensor(x).bfloat16(), name="bfloat16", trace=tmp_path / "7"),
    ]
    with pytest.raises(tracer.ModelError):
        tracer.record(Net(fails=True), x, name="failed", trace=tmp_path / "8")
    failed = tracer.open(tmp_path / "8").recording("failed")
    assert "half way" in failed.structure.fault
    made.append(failed)
    for ours in made:
        for theirs in made:
            found = sound(align(ours, theirs), ours.structure, theirs.structure)
            assert found == {n: n for n in found}
            assert {"a", "b#0", "b#2"} <= found.keys()
            assert "n" in found or failed in (ours, theirs)
