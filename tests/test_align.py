"""Axes, order, branches and mapping files, on structures made by hand; real models are in test_main_job."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.alignment import align, axes, dumping, mapping
from tracer.errors import InputError
from tracer.graph import Node, Param, Structure


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_every_permutation_is_among_the_possible_axes(shape: list[int], random: object) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    for order in permutations(range(1, len(shape))):
        moved = values.transpose(0, *order)
        found = [axes.apply(moved, option) for option in axes.possible(values.shape, moved.shape)]
        assert any(np.array_equal(values, other) for other in found)


def test_axes_of_length_one_may_be_missing_on_either_side() -> None:
    values = np.arange(6).reshape(2, 3)
    (option,) = axes.possible((2, 3), (2, 3, 1, 1))
    assert np.array_equal(axes.apply(values.reshape(2, 3, 1, 1), option), values)
    (option,) = axes.possible((2, 1, 3), (2, 3))
    assert option == (0, None, 1)
    assert axes.apply(values, option).shape == (2, 1, 3)
    with pytest.raises(ValueError, match="do not fit"):
        axes.apply(values, (0,))


def test_equal_dimensions_follow_what_is_inherited_else_the_layouts() -> None:
    options = axes.possible((2, 6, 6, 6), (2, 6, 6, 6))
    assert len(options) == 6
    assert axes.preferred(options, None, ("channels_last", "channels_first")) == (0, 2, 3, 1)
    assert axes.preferred(options, (0, 3, 2, 1), ("channels_last", "channels_first")) == (0, 3, 2, 1)
    assert axes.preferred(options, None, (None, None)) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("found", "rank", "text"),
    [
        ((0, 2, 1), 3, "NWC→NCW"), ((0, 2, 3, 1), 4, "NHWC→NCHW"), ((0, 3, 1, 2), 4, "NCHW→NHWC"),
        ((0, 1), 2, "="), ((0, None, 1), 3, "(0,·,1)"), (None, 0, "?"),
    ],
)  # fmt: skip
def test_axes_are_shown_as_people_write_them(found: axes.Axes | None, rank: int, text: str) -> None:
    assert axes.describe(found, rank) == text


def conv(name: str, parent: str, channels: int, *, torch: bool, length: int = 10) -> Node:
    shape = (2, channels, length) if torch else (2, length, channels)
    kernel = (channels, channels, 3) if torch else (3, channels, channels)
    weights = (Param("k", kernel, "float32"),)
    return Node(name, "conv1d", "Conv1D", parents=(parent,), shape=shape, params=weights, owner=name)


def op(name: str, kind: str, parents: tuple[str, ...], shape: tuple[int, ...]) -> Node:
    return Node(name, kind, kind, parents=parents, shape=shape)


def tower(depth: int, *, torch: bool, skip: int | None = None) -> Structure:
    nodes = [Node("x", "input", "x", role="input", shape=(2, 4, 10) if torch else (2, 10, 4))]
    last = "x"
    for i in range(depth):
        if i == skip:
            continue
        nodes.append(conv(f"conv{i}", last, 4, torch=torch))
        nodes.append(op(f"relu{i}", "relu", (f"conv{i}",), nodes[-1].shape or ()))
        last = f"relu{i}"
    return Structure(tuple(nodes), (last,))


def paired(a: Structure, b: Structure) -> dict[str, str]:
    return {pair.aligned: pair.candidate[0] for pair in align(a, b).pairs}


def test_a_tower_of_equal_blocks_pairs_in_order() -> None:
    found = paired(tower(30, torch=False), tower(30, torch=True))
    assert found == {name: name for name in found}
    assert len(found) == 61


def test_a_missing_block_leaves_the_rest_in_order() -> None:
    """Which of ten equal blocks is missing cannot be known: nothing but the ends is sure."""
    alignment = align(tower(10, torch=False), tower(10, torch=True, skip=9))
    own = [p for p in alignment.pairs if "output" not in p.evidence]
    assert len(own) <= 19
    assert all(p.aligned == p.candidate[0] for p in own if p.aligned != "relu9")
    assert all(p.confidence < 0.9 for p in own if p.aligned not in ("x", "relu9"))


def test_an_extra_permute_and_dropout_are_left_over() -> None:
    a = tower(3, torch=False)
    nodes = list(tower(3, torch=True).nodes)
    nodes.insert(3, op("drop", "dropout", ("relu0",), (2, 4, 10)))
    nodes.append(op("turn", "permute", ("relu2",), (2, 10, 4)))
    alignment = align(a, Structure(tuple(nodes), ("turn",)))
    assert set(alignment.unmatched_candidate) == {"drop", "turn"}
    assert {p.aligned: p.candidate[0] for p in alignment.pairs} == {n.name: n.name for n in a}


def test_branches_that_run_in_another_order_are_paired_through_the_graph() -> None:
    def two_heads(torch: bool, first: str, second: str) -> Structure:
        nodes = list(tower(2, torch=torch).nodes)
        for name, width in ((first, 2), (second, 7)) if not torch else ((second, 7), (first, 2)):
            kernel = Param("k", (width, 4) if torch else (4, width), "float32")
            nodes.append(
                Node(name, "dense", "Dense", parents=("relu1",), shape=(2, width), params=(kernel,), owner=name)
            )
            nodes.append(op(f"{name}_softmax", "softmax", (name,), (2, width)))
        return Structure(tuple(nodes))

    found = paired(two_heads(False, "a", "b"), two_heads(True, "b_", "a_"))
    assert found["a"] == "b_"
    assert found["b"] == "a_"
    assert found["b_softmax"] == "a__softmax"
    assert len(found) == 9


def test_other_widths_are_never_paired() -> None:
    a = Structure((conv("a", "x", 4, torch=False),))
    b = Structure((conv("b", "x", 9, torch=True),))
    assert not align(a, b).pairs
    assert "nothing alike" in align(a, b).unmatched_reference["a"]


def test_a_mapping_file_wins_and_comes_back(tmp_path: Path) -> None:
    a, b = tower(4, torch=False), tower(4, torch=True)
    text = dumping.dump(align(a, b), "tf", "pt")
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    again = mapping.load(path).resolve(a, b)
    assert len(again.pairs) == 9
    assert again.pairs[1].axes == (0, 2, 1)
    path.write_text(
        "pairs:\n  - {reference: conv0, candidate: conv1}\nignore:\n  candidate: ['relu*']\n"
        "tolerances:\n  - {match: 'conv*', atol: 1e-3, reason: seen}\n"
    )
    chosen = mapping.load(path)
    alignment = align(a, b, chosen)
    assert alignment.by_reference["conv0"].candidate == ("conv1",)
    assert alignment.by_reference["conv0"].confidence == 1
    assert not any(name.startswith("relu") for name in alignment.by_candidate)
    assert chosen.tolerance("conv3").atol == 1e-3  # type: ignore[union-attr]


def test_a_pair_that_a_person_wrote_holds_against_any_order(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("pairs: [{reference: conv0, candidate: conv7}, {reference: conv7, candidate: conv0}]")
    alignment = align(tower(8, torch=False), tower(8, torch=True), mapping.load(path))
    assert alignment.by_reference["conv0"].candidate == ("conv7",)
    assert alignment.by_reference["conv7"].candidate == ("conv0",)
    assert alignment.by_reference["conv3"].candidate == ("conv3",)
    assert len(alignment.pairs) == 17


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pairs: [{reference: conv9, candidate: conv1}]", "did you mean conv"),
        ("pairs: [{reference: conv1, candidate: conv1}, {reference: conv1, candidate: conv2}]", "in two pairs"),
        ("pears: []", "pears"),
        ("pairs: [{reference: conv1}]", "candidate"),
        ("pairs: &a [*a]", "aliases"),
        ("pairs: !!python/object:os.system {}", "tags"),
        ("pairs: []\npairs: []", "repeated"),
        ("pairs: [", "cannot read"),
        ("tolerances: [{match: '*', atol: -1}]", "atol"),
    ],
)
def test_a_bad_mapping_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        align(tower(4, torch=False), tower(4, torch=True), mapping.load(path))
    assert "\n" not in str(caught.value)


def test_names_in_mapping_files_are_text(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("pairs: [{reference: on, candidate: 1_000}]")
    assert mapping.load(path).pairs[0].reference == ("on",)
    assert mapping.load(path).pairs[0].candidate == ("1_000",)
