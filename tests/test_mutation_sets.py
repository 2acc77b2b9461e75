"""The sets of defects in networks of their own: correct ports agree, each defect shows and has its place."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.defect_sets import check_network, check_whole

pytestmark = [
    pytest.mark.skipif(not all(map(find_spec, ("torch", "keras", "tensorflow"))), reason="needs both sides"),
    pytest.mark.usefixtures("one_thread"),
]
NETWORKS = {
    "third": ("photo", "heart", "tagger", "encoder"),
    "fourth": ("vit", "listen", "table", "speak"),
    "fifth": ("wave", "recommend", "paint"),
    "sixth": ("points", "rain", "anchors", "transfer", "document", "apart"),
    "seventh": ("plain", "sharper", "light", "states", "columns"),
    "eighth": ("rays", "moves", "masked", "tune"),
    "ninth": ("shallow", "neck", "along", "traffic"),
    "tenth": ("vocoder", "judge", "library", "spans"),
    "eleventh": ("roar", "pixels", "box", "bands"),
    "twelfth": ("anomaly", "landmarks", "decisions", "lending"),
    "thirteenth": ("upscale", "kin", "lips", "rhythm"),
    "fourteenth": ("filtered", "crystal", "levels", "failure"),
    "fifteenth": ("spectrum", "paws", "filterbank", "plates"),
    "sixteenth": ("gist", "roads", "payments", "solvent"),
    "seventeenth": ("vessels", "windowed", "products", "groups"),
}
"""Of 349; the others are checked alike with the names of all here, which takes minutes."""
IN_KERAS = {"speak": 4, "paint": 4}
"""Ports to Keras, which is slow to build: one in so many of their defects is looked at."""
CORRECT = 2e-6
SHOWN = {"third": 2e-5, "fourth": 1e-4, "fifth": 1e-4, "sixth": 2e-5, "seventh": 2e-5, "eighth": 2e-5, "ninth": 2e-5,
         "tenth": 2e-5, "eleventh": 2e-5, "twelfth": 2e-5, "thirteenth": 2e-5,
         "fourteenth": 2e-5, "fifteenth": 2e-5, "sixteenth": 2e-5, "seventeenth": 2e-5}  # fmt: skip
"""Shares of the largest value: what rounding makes of a correct port at most, and a defect at least."""


def _set(name: str) -> Any:
    return import_module(f"benchmarks.corpus.mutations.{name}").SET


@pytest.mark.parametrize(("name", "network"), [(name, one) for name, some in NETWORKS.items() for one in some])
def test_each_defect_shows_and_no_correct_port_does(name: str, network: str) -> None:
    check_network(_set(name), network, CORRECT, SHOWN[name], IN_KERAS.get(network, 1))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_set_is_whole(name: str) -> None:
    chosen = _set(name)
    assert set(chosen.networks) > set(NETWORKS[name])
    check_whole(chosen)


@pytest.mark.parametrize("name", [*NETWORKS][2:])
def test_the_defects_are_of_many_kinds(name: str) -> None:
    chosen = _set(name)
    assert chosen.defects.keys() == chosen.kinds.keys()
    assert not any(one.latent for one in chosen.defects.values())
    assert {one.network for one in chosen.controls.values()} == chosen.networks.keys()
    assert max(Counter(chosen.kinds.values()).values()) < len(chosen.kinds) / 10


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("fifth", "recommend"),
        ("sixth", "quake"),
        ("seventh", "shuffled"),
        ("eighth", "tour"),
        ("ninth", "glow"),
        ("tenth", "scene"),
        ("eleventh", "clips"),
        ("twelfth", "joints"),
        ("thirteenth", "limbs"),
        ("fourteenth", "chatter"),
        ("fifteenth", "uttered"),
        ("sixteenth", "tide"),
        ("seventeenth", "paths"),
    ],
)
def test_each_defect_has_a_place_on_both_sides(name: str, network: str, tmp_path: Path) -> None:
    import tracer
    from benchmarks.causes.networks import within
    from tracer.store import Trace

    chosen = _set(name)
    pair = chosen.networks[network]()
    tracer.record(pair.reference, pair.inputs, trace=tmp_path / "trace.zarr", name="reference")
    tracer.record(chosen.build(pair, "correct"), trace=tmp_path / "trace.zarr", name="correct", layout=pair.layout)
    trace = Trace.open(tmp_path / "trace.zarr")
    for side in ("reference", "correct"):
        nodes = [node.name for node in trace.recording(side).structure]
        lost = [one.name for one in chosen.defects.values() if one.network == network
                and not any(within(node, one.at) for node in nodes)]  # fmt: skip
        assert not lost, side


def test_a_network_is_recorded_with_the_place_of_each_defect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.causes.networks import NetworkBench

    chosen = _set("fourth")
    monkeypatch.setenv("TRACER_CORPUS", str(tmp_path))
    bench = NetworkBench(chosen, "twins")
    bench.record(bench.names)
    runs = {run.name: run for run in bench.runs(bench.names)}
    assert list(runs) == bench.names
    for name, run in runs.items():
        assert run.kinds == [part for part in name.split("+") if part in chosen.defects]
        assert all(place or gone for place, gone in zip(run.planted.places, run.planted.gone, strict=True)), name
    assert bench.twins["tower.pool#1"] == "tower/pool#1"
