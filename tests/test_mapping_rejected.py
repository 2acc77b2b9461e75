"""Pairs that a person says are none, and why a pair was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_mapping import read
from tracer.alignment import align
from tracer.alignment.dumping import dump
from tracer.alignment.why import DOUBTS, KINDS
from tracer.errors import InputError
from tracer.graph import Node, Param, Structure


def chain(*names: str) -> Structure:
    """Layers one behind the other, each of another width."""
    nodes = [Node("x", "input", "x", role="input", shape=(2, 4))]
    for width, name in enumerate(names, 5):
        param = Param("k", (nodes[-1].shape[-1], width), "float32")  # type: ignore[index]
        nodes.append(
            Node(name, "dense", "Dense", parents=(nodes[-1].name,), shape=(2, width), params=(param,), owner=name)
        )
    return Structure(tuple(nodes), (nodes[-1].name,))


OURS = chain("stem", *(f"block_{i}/dense" for i in range(3)), "head")
THEIRS = chain("stem", *(f"h.{i}.dense" for i in range(3)), "out")


def test_what_is_rejected_is_never_paired(tmp_path: Path) -> None:
    before = align(OURS, THEIRS)
    assert before.by_reference["stem"].candidate == ("stem",)
    found = align(OURS, THEIRS, read(tmp_path, "rejected: [{reference: stem, candidate: stem}]"))
    assert "stem" not in found.by_reference
    rest = {name: pair.candidate for name, pair in before.by_reference.items() if name != "stem"}
    assert {name: pair.candidate for name, pair in found.by_reference.items()} == rest


def test_a_rejected_pattern_stands_for_its_pairs(tmp_path: Path) -> None:
    mapping = read(tmp_path, 'rejected: [{reference: "block_{i}/dense", candidate: "h.{i}.dense", i: 0..1}]')
    found = align(OURS, THEIRS, mapping)
    assert [name for name in found.by_reference if name.startswith("block")] == ["block_2/dense"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rejected: [{reference: stm, candidate: stem}]", "no node 'stm'; did you mean stem"),
        ("pairs: [{reference: stem, candidate: stem}]\nrejected: [{reference: stem, candidate: stem}]",
         "'stem' and 'stem' are a pair, and rejected as one"),
        ('rejected: [{reference: "block_{i}/*", candidate: "h.{i}.*"}]', "only single pairs are rejected"),
        ("rejected: [{referense: stem, candidate: stem}]", "did you mean reference"),
    ],
)  # fmt: skip
def test_a_rejection_that_cannot_be_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        align(OURS, THEIRS, read(tmp_path, text))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_rejections_are_written_and_read_again(tmp_path: Path) -> None:
    mapping = read(tmp_path, "rejected: [{reference: stem, candidate: stem}]")
    text = dump(align(OURS, THEIRS, mapping), "tf", "pt", mapping=mapping, accept=2.0)
    again = read(tmp_path, text)
    assert again.rejected == mapping.rejected
    assert again.pairs == ()
    assert "# not decided, left to tracer" in text


def test_every_pair_says_why_it_was_made() -> None:
    found = align(OURS, THEIRS)
    why = found.reasons.pairs["stem", "stem"]
    assert {*why.shares} == {*KINDS, "blocks", "graph"}
    assert why.shares["kind"] == pytest.approx(2.0)
    assert why.shares["shape"] == pytest.approx(2.0)
    assert why.shares["names"] > 0
    assert all(doubt in DOUBTS.values() for one in found.reasons.pairs.values() for doubt in one.doubts)
    for pair in found.pairs:
        assert pair.candidate[-1] in dict(found.reasons.rivals[0][pair.aligned])
        assert pair.aligned in dict(found.reasons.rivals[1][pair.candidate[-1]])


def test_the_search_for_pairs_can_be_ended() -> None:
    steps = 0

    def check() -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        align(OURS, THEIRS, check=check)
    assert steps == 5
