"""Models with many equal blocks, shapes that shift all along, and as many shapes as layers."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.growth import counted_anew, tower, twin
from tracer.alignment import align
from tracer.alignment.candidates import NEAR, possible, shapes
from tracer.alignment.engine import Side, Work
from tracer.alignment.features import Summary, extract
from tracer.alignment.mapping import Entry, Mapping
from tracer.alignment.repeats import Repeats
from tracer.alignment.result import Alignment
from tracer.alignment.sizes import Sizes, shifts
from tracer.graph import Node, Param, Structure

WIDTH = 20
X = Node("x", "input", "x", role="input", shape=(3, 7, WIDTH))


def op(name: str, kind: str, *parents: str, shape: tuple[int, ...] = (3, 7, WIDTH), **more: object) -> Node:
    return Node(name, kind, kind, parents=parents, shape=shape, **{"owner": name, **more})  # type: ignore[arg-type]


def stack(numbers: list[int], scope: str = "b{}.", *, dilations: bool = False) -> Structure:
    """Residual blocks of a dense layer and an activation."""
    nodes = [X]
    for number in numbers:
        last, name = nodes[-1].name, scope.format(number)
        config = {"dilation": number + 1} if dilations else {}
        params = (Param("kernel", (WIDTH, WIDTH), "float32"), Param("bias", (WIDTH,), "float32"))
        nodes.append(op(f"{name}d", "dense", last, params=params, config=config))
        nodes.append(op(f"{name}r", "relu", f"{name}d"))
        nodes.append(op(f"{name}a", "add", last, f"{name}r"))
    return Structure(tuple(nodes), (nodes[-1].name,))


def named(alignment: Alignment) -> dict[str, str]:
    return {p.aligned: p.candidate[-1] for p in alignment.pairs if "output" not in p.evidence}


@pytest.mark.parametrize("blocks", [12, 130])
def test_of_equal_blocks_none_is_paired_for_sure_when_some_are_missing(blocks: int) -> None:
    kept = [k for k in range(blocks) if k % 10 != 7]
    alignment = align(stack([*range(blocks)]), stack([*range(len(kept))], "c{}."))
    assert named(alignment) == {"x": "x"}
    few, gone = len(kept), blocks - len(kept)
    last = {entry.reference: entry for entry in alignment.ambiguous}
    assert len(last) == 3 * blocks - 1, "the models' outputs are compared"
    for number, block in enumerate(kept):
        entry = last[f"b{block}.d"]
        first, end = max(0, block - gone), min(block, few - 1)
        text = f"c{first}" if first == end else f"one of the {end - first + 1} alike from c{first} to c{end}"
        assert entry.reason == f"ambiguous: {text}, or nothing"
        if blocks == 12:
            assert f"c{number}.d" in dict(entry.candidates)
        assert sum(share for _, share in entry.candidates) <= 1 + 1e-9


def test_how_likely_each_block_is() -> None:
    """Of four blocks one is missing: the second is the first when the first is missing, and has no twin itself when it
    is the one."""
    alignment = align(stack([*range(4)]), stack([*range(3)], "c{}."))
    shares = {entry.reference: dict(entry.candidates) for entry in alignment.ambiguous}
    assert shares["b1.d"] == pytest.approx({"c1.d": 1 / 2, "c0.d": 1 / 4})
    assert shares["b0.d"] == pytest.approx({"c0.d": 3 / 4})


def test_numbers_in_the_names_tell_which_blocks_are_missing() -> None:
    """Blocks 8 to 19 can only be those of that number when twenty are counted; without a gap they may be any."""
    kept = [*range(7), *range(8, 20)]
    found = named(align(stack([*range(20)]), stack(kept, "c/{}/")))
    assert found == {"x": "x", **{f"b{k}.{what}": f"c/{k}/{what}" for k in kept for what in "dra"}}
    backwards = named(align(stack(kept), stack([*range(20)], "c/{}/")))
    assert {there: here.replace("b", "").split(".")[0] for here, there in backwards.items() if here != "x"} == {
        f"c/{k}/{what}": str(k) for k in kept for what in "dra"
    }
    assert named(align(stack([*range(20)]), stack([*range(1, 20)], "c/{}/"))) == {"x": "x"}


def test_blocks_that_settings_tell_apart_are_not_left_open() -> None:
    ours, theirs = stack([*range(8)], dilations=True), stack([0, 1, 2, 4, 5, 6, 7], "c{}.", dilations=True)
    sides = extract(ours, {}), extract(theirs, {})
    assert not Repeats(*sides, []).runs
    assert Repeats(extract(stack([*range(8)]), {}), extract(stack([*range(7)]), {}), []).runs


def test_a_block_that_a_person_names_settles_those_around_it() -> None:
    """The first four stand before it on both sides, and of those behind it one is missing."""
    stated = Mapping(pairs=[Entry(reference=("b4.d",), candidate=("c4.d",))])
    alignment = align(stack([*range(9)]), stack([*range(8)], "c{}."), stated)
    found = named(alignment)
    assert {k: v for k, v in found.items() if k.endswith(".d")} == {f"b{k}.d": f"c{k}.d" for k in range(5)}
    open_ = {entry.reference: [name for name, _ in entry.candidates] for entry in alignment.ambiguous}
    assert sorted(open_["b6.d"]) == ["c5.d", "c6.d"]


def test_the_twin_is_considered_however_many_equal_blocks_are_missing() -> None:
    ours, theirs = (extract(tower(6000, candidate=side, equal=True), {}) for side in (False, True))
    repeats = Repeats(ours, theirs, [])
    pairs = possible(ours, theirs, (np.zeros(0, np.intp), np.zeros(0, np.intp)), None, repeats.anchors)
    twins = [(i, theirs.index[name]) for i, n in enumerate(ours.nodes) if (name := twin(n.name)) in theirs.index]
    assert (pairs.find(*np.array(twins).T) < len(pairs)).all()
    assert len(pairs) < len(ours.nodes) * 8 * NEAR


def test_a_tenth_of_many_equal_blocks_missing() -> None:
    """As many layers as a large model has, and both ways of counting those that are left."""
    ours, theirs = (tower(700, candidate=side, equal=True) for side in (False, True))
    there = {node.name for node in theirs}
    assert named(align(ours, theirs)) == {n.name: twin(n.name) for n in ours if twin(n.name) in there}
    anew, _ = counted_anew(theirs)
    alignment = align(ours, anew)
    assert named(alignment) == {"x": "x"}
    assert len(alignment.ambiguous) == len(ours) - 2


def test_one_layer_called_often_here_and_once_there() -> None:
    """Which call it is cannot be known: none is paired."""
    nodes = [X]
    params = (Param("kernel", (WIDTH, WIDTH), "float32"), Param("bias", (WIDTH,), "float32"))
    for call in range(5):
        own = params if call == 0 else ()
        nodes.append(op(f"d#{call}", "dense", nodes[-1].name, params=own, owner="d", call=call))
        nodes.append(op(f"r{call}", "relu", nodes[-1].name))
    many = Structure((*nodes, op("end", "tanh", nodes[-1].name)), ("end",))
    once = Structure((X, op("c", "dense", "x", params=params), op("s", "relu", "c"), op("e", "tanh", "s")), ("e",))
    found = align(many, once)
    assert named(found) == {"x": "x", "end": "e"}
    assert {entry.reference for entry in found.ambiguous} >= {f"d#{call}" for call in range(5)}
    assert named(align(once, many)) == {"x": "x", "e": "end"}


def chain(count: int, length: int, prefix: str, step: int = 1) -> Structure:
    """Convolutions that each shorten what they read."""
    nodes = [replace(X, shape=(3, length + step, 8))]
    for k in range(count):
        params = (Param("kernel", (3, 8, 8), "float32"), Param("bias", (8,), "float32"))
        shape = (3, length - step * k, 8)
        nodes.append(op(f"{prefix}{k}", "conv1d", nodes[-1].name, shape=shape, params=params))
        nodes.append(op(f"{prefix}{k}s", "softmax", nodes[-1].name, shape=shape))
    return Structure(tuple(nodes), (nodes[-1].name,))


def test_lengths_that_shift_all_along_stay_possible() -> None:
    """A convolution without padding in front: 60, 58, … here, 40, 38, … there."""
    ours, theirs = chain(6, 60, "a", 2), chain(6, 40, "b", 2)
    theirs = replace(theirs, nodes=(replace(theirs.nodes[0], shape=ours.nodes[0].shape), *theirs.nodes[1:]))
    # A length must be seen to shift in more than one layer.
    doubled = [
        Structure((*side.nodes, *(replace(n, name=f"{n.name}t") for n in side.nodes[1:])), ())
        for side in (ours, theirs)
    ]
    moved = shifts(*(extract(side, {}) for side in doubled))
    assert moved == {60 - 2 * k: frozenset({40 - 2 * k}) for k in range(6)}
    sizes = Sizes([(3, 8, 60), (3, 8, 60)], [(3, 8, 40), (3, 8, 50)], moved)
    assert sizes.every().tolist() == [[np.float32(0.3), 0], [np.float32(0.3), 0]]
    found = named(align(*doubled))
    assert all(found[f"a{k}"] == f"b{k}" and found[f"a{k}s"] == f"b{k}s" for k in range(6))


def test_shapes_are_compared_as_one_by_one() -> None:
    rng = random.Random(0)

    def drawn() -> tuple[int, ...] | None:
        return rng.choice(
            [None, tuple(sorted(rng.choice((2, 3, 5, 60, 64, 66, 100)) for _ in range(rng.randint(0, 4))))]
        )

    ours, theirs = [drawn() for _ in range(60)], [drawn() for _ in range(70)]
    assert Sizes(ours, theirs).every().tolist() == [[np.float32(shapes(x, y)) for y in theirs] for x in ours]


def test_as_many_shapes_as_layers() -> None:
    lengths = [(3, 17, 20 + k) for k in range(2500)]
    began = time.process_time()
    near = Sizes(lengths, lengths).every() > 0
    assert time.process_time() - began < 3
    assert near[0, 2]
    assert not near[0, 3]
    ours, theirs = (extract(chain(1200, 1300, prefix), {}) for prefix in "ab")
    began = time.process_time()
    possible(ours, theirs, (np.zeros(0, np.intp), np.zeros(0, np.intp)))
    assert time.process_time() - began < 6


def test_pairs_given_up_in_long_stretches_do_not_come_back() -> None:
    """What joins two nodes that are left open is no evidence for a pair between them."""
    ours, theirs = stack([*range(40)]), stack([*range(39)], "c{}.")
    summaries: dict[str, Summary] = {}
    work = Work(
        (Side(ours, {}, None), Side(theirs, {}, None)), extract(ours, summaries), extract(theirs, summaries), None
    )
    work.repeats = Repeats(work.a, work.a, [])  # without what is known of the blocks
    low = [p for p in work.run().pairs if p.confidence <= 0.5 and "output" not in p.evidence]
    assert len(low) < 4
