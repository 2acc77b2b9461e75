"""The fourth set of defects: its correct ports agree with their references, each defect shows and has its place."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.defect_sets import check_network, check_whole

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("torch", "keras", "tensorflow"))), reason="needs both sides")
NETWORKS = ("vit", "listen", "table", "speak")
"""Of the fourteen; the others are checked alike with the names of all here, which takes minutes."""
CORRECT, SHOWN = 2e-6, 1e-4
"""Shares of the largest value: what rounding makes of a correct port at most, and a defect at least."""


@pytest.mark.parametrize("name", NETWORKS)
def test_each_defect_shows_and_no_correct_port_does(name: str) -> None:
    from benchmarks.corpus.mutations.fourth import SET

    check_network(SET, name, CORRECT, SHOWN)


def test_the_set_is_whole() -> None:
    from benchmarks.corpus.mutations.fourth import SET

    assert set(SET.networks) > set(NETWORKS)
    check_whole(SET)


def test_a_network_is_recorded_with_the_place_of_each_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.causes.networks import NetworkBench
    from benchmarks.corpus.mutations.fourth import SET

    monkeypatch.setenv("TRACER_CORPUS", str(tmp_path))
    bench = NetworkBench(SET, "twins")
    bench.record(bench.names)
    runs = {run.name: run for run in bench.runs(bench.names)}
    assert list(runs) == bench.names
    for name, run in runs.items():
        assert run.kinds == [part for part in name.split("+") if part in SET.defects]
        assert all(place or gone for place, gone in zip(run.planted.places, run.planted.gone, strict=True)), name
    assert bench.twins["tower.pool#1"] == "tower/pool#1"
