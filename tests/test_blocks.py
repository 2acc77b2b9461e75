"""Repeated blocks: found in one model, and read off the pairs of two."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.alignment import blocks
from tracer.alignment.patterns import block_pairs, fold, gathered
from tracer.alignment.templates import Names, Place, Template, ranges_text, read_ranges
from tracer.graph import Node, Param, Structure

Spec = tuple[str, str, int]
"""Name, kind and width."""


def chain(*specs: Spec, skip: dict[str, str] | None = None) -> Structure:
    """Nodes that read from the one before, and some from another one too; those that are no ``relu`` have weights."""
    nodes = [Node("x", "input", "x", role="input", shape=(2, 4))]
    for name, kind, width in specs:
        parents = [nodes[-1].name, *([skip[name]] if skip and name in skip else [])]
        params = () if kind in ("relu", "add") else (Param("k", (width, width), "float32"),)
        nodes.append(Node(name, kind, kind, parents=tuple(parents), shape=(2, width), params=params, owner=name))
    return Structure(tuple(nodes), (nodes[-1].name,))


def test_numbered_scopes_are_blocks() -> None:
    specs = [(f"enc.{i}.{part}", kind, 8) for i in range(4) for part, kind in (("fc", "dense"), ("act", "relu"))]
    (run,) = blocks.find(chain(("stem", "conv1d", 8), *specs, ("head", "dense", 3)))
    assert run.scopes == tuple(f"enc.{i}." for i in range(4))
    assert run.blocks[2] == ("enc.2.fc", "enc.2.act")


def test_a_block_of_another_width_ends_the_run() -> None:
    widths = [8, 8, 8, 16, 16]
    specs = [(f"b{i}/{part}", "dense", width) for i, width in enumerate(widths) for part in ("one", "two")]
    found = {run.scopes: run.period for run in blocks.find(chain(*specs)) if run.scopes}
    assert found == {("b0/", "b1/", "b2/"): 2, ("b3/", "b4/"): 2}


def test_scopes_that_are_counted_from_the_second_on_are_blocks() -> None:
    specs = [(f"{scope}/{part}", part, 8) for scope in ("res", "res_1", "res_2") for part in ("dense", "layernorm")]
    (run,) = blocks.find(chain(*specs))
    assert run.scopes == ("res/", "res_1/", "res_2/")


def test_where_names_are_flat_the_sequence_tells_the_blocks() -> None:
    """The block is cut where the fewest tensors cross: in front of what the addition skips."""
    kinds = ("layernorm", "dense", "relu", "add")
    specs = [(f"n{i}{kind}", kind, 8) for i in range(3) for kind in kinds]
    skip = {f"n{i}add": f"n{i - 1}add" for i in (1, 2)} | {"n0add": "stem"}
    structure = chain(("stem", "add", 8), *((name.replace("n", "q", 1), k, w) for name, k, w in specs), skip={
        name.replace("n", "q", 1): parent.replace("n", "q", 1) for name, parent in skip.items()
    })  # fmt: skip
    (run,) = blocks.find(structure)
    assert run.scopes == ()
    assert run.blocks == tuple(tuple(f"q{i}{kind}" for kind in kinds) for i in range(3))


def test_branches_side_by_side_are_no_run() -> None:
    weight = (Param("k", (8, 8), "float32"),)
    nodes = [Node("x", "input", "x", role="input", shape=(2, 8))]
    nodes += [
        Node(n, "dense", "d", parents=("x",), shape=(2, 8), params=weight, owner=n) for n in ("query", "key", "value")
    ]
    assert blocks.find(Structure(tuple(nodes))) == []
    assert blocks.find(Structure(())) == []


def test_blocks_of_ten_thousand_nodes_are_found_at_once() -> None:
    specs = [(f"{kind}_{i}", kind, 8) for i in range(2500) for kind in ("conv1d", "batchnorm", "relu", "dense")]
    structure = chain(*specs)
    began = time.perf_counter()
    (run,) = blocks.find(structure)
    assert time.perf_counter() - began < 5  # a fraction of a second where nothing else runs
    assert (run.period, len(run.blocks)) == (4, 2500)


names = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.sampled_from(["/", ".", "_"]), st.integers(0, 12)),
    min_size=1, max_size=3,
).map(lambda parts: "".join(f"{letter}{one}{mark}{two}" for letter, one, mark, two in parts))  # fmt: skip


@given(st.lists(st.tuples(names, names), unique_by=(lambda n: n[0], lambda n: n[1]), max_size=40))
def test_patterns_stand_for_exactly_their_pairs(pairs: list[tuple[str, str]]) -> None:
    items = [((one,), (two,)) for one, two in pairs]
    found = fold(items)
    members = [member for pattern in found for member in pattern.members]
    assert len(members) == len(set(members))
    for pattern in found:
        ((ours,), (theirs,)) = pattern.sides
        assert Template.parse(str(ours)) == ours
        assert [(ours.at(p), theirs.at(p)) for p in pattern.points] == [pairs[m] for m in pattern.members]
        instances = [t.instances(Names(side)) for t, side in zip((ours, theirs), zip(*pairs, strict=True), strict=True)]
        there = set(instances[0]) & set(instances[1])
        meant = []
        for ranges in pattern.ranges(there):
            inside = [
                p for p in there
                if all(v in ranges.get(letter, (v,)) for letter, v in zip(pattern.variables, p, strict=True))
            ]  # fmt: skip
            assert len(inside) == len(set(inside))
            meant += inside
        assert sorted(meant) == sorted(pattern.points)


@pytest.mark.parametrize(
    ("pairs", "ours", "theirs", "where"),
    [
        ([(f"block{i}/conv", f"features.{i + 1}.0") for i in range(3)], "block{i}/conv", "features.{i+1}.0", "i = 0…2"),
        ([(f"drop_{3 * i + 2}", f"h.{i}.drop") for i in range(4)], "drop_{3i+2}", "h.{i}.drop", "i = 0…3"),
        (
            [("net/add" + f"_{i}" * (i > 0), f"blocks.{i}.add") for i in range(3)],
            "net/add{_i}", "blocks.{i}.add", "i = 0…2",
        ),
        (
            [(f"conv{i}_block{j}_out", f"layer{i - 1}.{j - 1}.relu#2") for i in (2, 3) for j in range(1, 2 + i)],
            "conv{i}_block{j}_out", "layer{i-1}.{j-1}.relu#2", "i = 2…3, j = 1…4",
        ),
        ([(f"block_{i}_add", f"f.{i}.add") for i in (2, 4, 5, 9)], "block_{i}_add", "f.{i}.add", "i = 2, 4…5, 9"),
    ],
)  # fmt: skip
def test_patterns_count_as_the_frameworks_do(pairs: list[tuple[str, str]], ours: str, theirs: str, where: str) -> None:
    (pattern,) = fold([((one,), (two,)) for one, two in pairs])
    assert ([str(t) for (t,) in pattern.sides], pattern.where()) == ([ours, theirs], where)
    assert len(pattern.members) == len(pairs)


def test_flat_numbers_against_nested_ones_are_patterns_between_the_gaps() -> None:
    """Every fifth unit holds something else, and one side numbers all its layers in a row."""
    units = [u for u in range(15) if u % 5 < 4]
    pairs = [(f"bn_{2 * at + k}", f"units.{u}.norm{k}") for at, u in enumerate(units) for k in (1, 2)]
    found = {tuple(str(t) for (t,) in p.sides): p.where() for p in fold([((one,), (two,)) for one, two in pairs])}
    assert found[("bn_{2i+1}", "units.{i}.norm1")] == "i = 0…3"
    assert found[("bn_{2i-2}", "units.{i}.norm2")] == "i = 10…13"
    assert len(found) == 6


def test_what_is_not_alike_shares_no_pattern() -> None:
    pairs = [((f"a{i}",), (f"b{i}",)) for i in range(4)]
    assert {len(p.members) for p in fold(pairs, ["=", "=", "=", "moved"])} == {3}
    assert fold(pairs[:2]) == []  # two lines say it better
    assert fold([(("a1",), ("b",)), (("a2",), ("c",)), (("a3",), ("d",))]) == []
    assert fold([((f"a{i}",), (f"b{9 - i}",)) for i in range(4)]) == []  # counting down is no pattern


def test_groups_have_patterns_too() -> None:
    items = [((f"l{i}/scale", f"l{i}/shift"), (f"m.{i}.norm",)) for i in range(3)]
    (pattern,) = fold(items)
    assert [[str(t) for t in side] for side in pattern.sides] == [["l{i}/scale", "l{i}/shift"], ["m.{i}.norm"]]


def test_pairs_tell_which_block_lies_on_which() -> None:
    parts = ("query", "key", "dense/preactivation", "dense")
    pairs = [
        (f"enc/layer_._{i}/{part}", f"encoder.layer.{i}.{part.replace('/', '.')}") for i in range(6) for part in parts
    ]
    pairs += [("enc/norm", "encoder.norm"), ("head/dense", "encoder.layer.0.stray")]
    (found,) = block_pairs([((one,), (two,)) for one, two in pairs])
    assert (str(found.reference), str(found.candidate)) == ("enc/layer_._{i}/*", "encoder.layer.{i}.*")
    assert (found.each, found.where(), len(found.points)) == ((4, 4), "i = 0…5", 6)
    assert sorted(at for block in found.pairs for at in block) == list(range(24))


def test_layers_of_a_stage_go_before_stages() -> None:
    depths = (2, 4, 2)
    pairs = [
        (f"s{i}/l{j}/{part}", f"stages.{i}.{j}.{part}")
        for i, depth in enumerate(depths) for j in range(depth) for part in ("a", "b", "c")
    ]  # fmt: skip
    (found,) = block_pairs([((one,), (two,)) for one, two in pairs])
    assert str(found.reference) == "s{i}/l{j}/*"
    assert len(found.points) == sum(depths)


def test_names_without_a_twin_are_listed_together() -> None:
    names = ["stem", *(f"enc/{i}/drop" for i in range(5)), "head"]
    assert [text for text, _ in gathered(names, [0] * 7)] == ["stem", "enc/{i}/drop, i = 0…4", "head"]
    assert len(gathered(names, list("aabbaaa"))) == 5


@given(st.sets(st.integers(0, 99), min_size=1))
def test_ranges_come_back(values: set[int]) -> None:
    assert read_ranges(ranges_text(sorted(values))) == tuple(sorted(values))


def test_templates_are_names_with_places() -> None:
    template = Template.parse("a{i}/b{_2j-1}[{i+1}]")
    assert template.parts == ("a", Place("i"), "/b", Place("j", 2, -1, suffix=True), "[", Place("i", 1, 1), "]")
    assert template.point("a3/b_5[4]") == (3, 3)
    assert template.point("a3/b_5[5]") is None
    assert template.point("a3/b_4[4]") is None
    assert template.at((3, 0)) is None
    assert Template.parse("a{x}{i*2}").variables == ()
    assert Template.parse("conv{i}").point("conv07") is None
    assert Template.parse("conv{i}*").point("conv1") is None
    assert Template.parse("conv1*").rest
