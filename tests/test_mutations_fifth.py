"""The fifth set of defects: its correct ports agree with their references, each defect shows and has its place."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.defect_sets import check_network, check_whole

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("torch", "keras", "tensorflow"))), reason="needs both sides")
NETWORKS = ("wave", "recommend", "paint")
"""Of the fifteen; the others are checked alike with the names of all here, which takes minutes."""
CORRECT, SHOWN = 2e-6, 1e-4
"""Shares of the largest value: what rounding makes of a correct port at most, and a defect at least."""


@pytest.mark.parametrize("name", NETWORKS)
def test_each_defect_shows_and_no_correct_port_does(name: str) -> None:
    from benchmarks.corpus.mutations.fifth import SET

    check_network(SET, name, CORRECT, SHOWN)


def test_the_set_is_whole() -> None:
    from benchmarks.corpus.mutations.fifth import SET
    from benchmarks.corpus.mutations.fifth.registry import KINDS

    assert set(SET.networks) > set(NETWORKS)
    check_whole(SET)
    assert SET.defects.keys() == KINDS.keys()
    assert not any(one.latent for one in SET.defects.values())
    assert {one.network for one in SET.controls.values()} == SET.networks.keys()
    assert max(Counter(KINDS.values()).values()) < len(KINDS) / 10


def test_each_defect_has_a_place_on_both_sides(tmp_path: Path) -> None:
    import tracer
    from benchmarks.causes.networks import within
    from benchmarks.corpus.mutations.fifth import SET
    from tracer.store import Trace

    pair = SET.networks["recommend"]()
    tracer.record(pair.reference, pair.inputs, trace=tmp_path / "trace.zarr", name="reference")
    port = SET.build(pair, "correct")
    tracer.record(port, trace=tmp_path / "trace.zarr", name="correct", layout=pair.layout)
    trace = Trace.open(tmp_path / "trace.zarr")
    for name in ("reference", "correct"):
        nodes = [node.name for node in trace.recording(name).structure]
        lost = [one.name for one in SET.defects.values() if one.network == "recommend"
                and not any(within(node, one.at) for node in nodes)]  # fmt: skip
        assert not lost, name
