"""What happens in a trace while the terminal interface shows it."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot

from tests.tui_driving import driven, layers, opened, press, record, send, settled, shown, values
from tracer.compare import Tolerance, Verdict, diff
from tracer.compare.plain import pairs_from_record
from tracer.compare.tensors import Kept
from tracer.graph import Node, Structure
from tracer.store import RecordingWriter, Trace
from tracer_tui.app import TracerApp
from tracer_tui.screens.layer import LayerScreen
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.screens.runs import RunsScreen
from tracer_tui.session import Session
from tracer_tui.watching import Watch
from tracer_tui.widgets.diagnosis import Diagnosis

NAMES = [f"n{place}" for place in range(6)]
OURS = {name: values(2, 3, seed=place) for place, name in enumerate(NAMES)}


def writer(path: Path, name: str) -> RecordingWriter:
    """A recording of the chain that is yet to be written."""
    nodes = [
        Node(n, "input" if not i else "other:" + n, n, role="layer" if i else "input", parents=tuple(NAMES[i - 1 : i]),
             shape=(2, 3), dtype="float32")
        for i, n in enumerate(NAMES)
    ]  # fmt: skip
    attributes = {"framework": "pytorch", "input": "one", "model": {"name": "net"}, "versions": {}}
    structure = Structure(tuple(nodes), (NAMES[-1],))
    return RecordingWriter(Trace.open(path), name, structure, attributes, {n: n for n in NAMES})


async def seen(app: TracerApp, pilot: Pilot[Any]) -> None:
    """Let the application look at the trace, and take over what it saw."""
    for _ in range(3):
        app.look_again()
        await settled(pilot)
        for screen in app.screen_stack:
            if isinstance(screen, LayersScreen):
                screen._begin_if_stale()
        await settled(pilot)


def saved(sink: RecordingWriter, name: str, value: np.ndarray) -> None:
    """Hand a tensor over, and wait until it lies in the trace."""
    sink(name, value)
    while sink._small or sink._waiting:
        time.sleep(0.005)


async def test_a_recording_under_way_fills_the_table(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    record(path, "a", OURS, framework="tensorflow")
    sink = writer(path, "b").__enter__()
    saved(sink, "n0", OURS["n0"])
    async with opened(path) as (app, pilot):
        await seen(app, pilot)
        screen = layers(app)
        assert [row.pending for row in screen.everything] == [False] + [True] * 5
        assert "'b' is being recorded: 1/6" in shown(app)
        await press(pilot, "g", "j")
        assert "Yet to be recorded: n1" in screen.query_one(Diagnosis).plain
        saved(sink, "n1", OURS["n1"])
        saved(sink, "n2", OURS["n2"] + 1)
        await seen(app, pilot)
        assert [row.verdict for row in screen.everything[:3]] == [Verdict.MATCH, Verdict.MATCH, Verdict.DIVERGED]
        assert screen.grid.cursor == 1  # it stays where the user put it
        await press(pilot, "f")
        assert screen.grid.cursor == 2
        saved(sink, "n3", OURS["n3"])
        await seen(app, pilot)
        assert screen.grid.cursor == 3
        assert "following" in shown(app)
        await press(pilot, "k")
        assert "following" not in shown(app)
        await press(pilot, "space")
        saved(sink, "n4", OURS["n4"])
        app._tick()
        await settled(pilot)
        assert screen.everything[4].pending
        assert "paused" in shown(app)
        await press(pilot, "p")
        await seen(app, pilot)
        assert not screen.everything[4].pending
        sink("n5", OURS["n5"])
        sink.__exit__(None, None, None)
        await seen(app, pilot)
        assert "'b' is complete" in shown(app)
        assert not screen.growing
        assert not any(row.pending for row in screen.everything)
        assert "being recorded" not in shown(app).split("complete")[0]


async def test_a_recording_that_is_replaced_is_compared_anew(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    record(path, "a", OURS)
    record(path, "b", {**OURS, "n3": OURS["n3"] + 1})
    async with opened(path) as (app, pilot):
        assert [row.verdict for row in layers(app).everything].count(Verdict.DIVERGED) == 1
        await press(pilot, "enter")
        Trace.open(path).delete("b")
        record(path, "b", {**OURS, "n1": OURS["n1"] + 2})
        await seen(app, pilot)
        assert "'b' was recorded again" in shown(app)
        assert isinstance(app.screen, LayerScreen)
        assert app.screen.row.reference == "n3"
        assert app.screen.row.verdict is Verdict.MATCH
        assert "no difference here" in shown(app)
        await press(pilot, "q")
        assert [row.verdict for row in layers(app).everything][1] is Verdict.DIVERGED


async def test_a_recording_that_vanishes_is_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    record(path, "a", OURS)
    record(path, "b", {**OURS, "n3": OURS["n3"] + 1})
    async with opened(path) as (app, pilot):
        Trace.open(path).delete("b")
        await seen(app, pilot)
        assert "'b' is not in the trace any more" in shown(app)
        assert layers(app).everything
        shutil.rmtree(path)
        await seen(app, pilot)
        assert "does not exist" in shown(app)
        await press(pilot, "enter", "l", "q", "q")
        assert isinstance(app.screen, RunsScreen)
        assert "does not exist" in shown(app)


async def test_runs_come_and_fail_in_sight(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    record(path, "a", OURS)
    async with opened(path, (100, 30)) as (app, pilot):
        assert isinstance(app.screen, RunsScreen)
        await press(pilot, "f")
        sink = writer(path, "late").__enter__()
        saved(sink, "n0", OURS["n0"])
        await seen(app, pilot)
        assert "'late' is being recorded" in shown(app)
        assert "1/6" in shown(app)
        assert app.screen.grid.cursor == 1
        await press(pilot, "p")
        saved(sink, "n1", OURS["n1"])
        app._tick()
        await settled(pilot)
        assert "1/6" in shown(app)
        await press(pilot, "p")
        assert "2/6" in shown(app)
        error = RuntimeError("out of luck")
        sink.__exit__(RuntimeError, error, None)
        await seen(app, pilot)
        assert "failed: out of luck" in shown(app)
        assert "'late' is failed: 2/6 saved" in shown(app)


def test_looking_again_reads_nothing_while_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    record(path, "a", OURS)
    watch = Watch(path)
    first = watch.look()
    again = watch.look()
    assert again.same(first)
    assert again.recordings[0] is first.recordings[0]
    with writer(path, "b") as sink:
        begun = watch.look()
        assert begun.recordings[0] is first.recordings[0]
        assert [r.state for r in begun.recordings] == ["complete", "recording"]
        assert watch.look().same(begun)
        saved(sink, "n0", OURS["n0"])
        grown = watch.look()
        assert set(grown.recordings[1].activations) == {"n0"}
        assert not grown.same(begun)
        for name in NAMES[1:]:
            sink(name, OURS[name])
    assert watch.look().recordings[1].state == "complete"
    shutil.rmtree(path)
    assert "does not exist" in watch.look().error


async def test_rows_stand_before_they_are_compared(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording knows how it was paired when it was made: its rows need no comparison, which may take long."""
    trace, comparing = Trace.open(made), sys.modules["tracer.compare.comparing"]
    told = diff(trace.recording("a"), trace.recording("b")).alignment.to_json()
    shutil.rmtree(made / "comparisons")
    trace.update("b", {"reference": "a", "alignment": told})
    go_on, compare = threading.Event(), comparing._compare  # type: ignore[attr-defined]

    def slow(*given: Any) -> Any:
        go_on.wait(60)
        return compare(*given)

    monkeypatch.setattr(comparing, "_compare", slow)
    monkeypatch.setattr("tracer_tui.screens.layers._MANY", 1)
    app = TracerApp(Session(trace, None, Tolerance(), now=lambda: 2e9))
    async with driven(app) as pilot:
        while not any(isinstance(screen, LayersScreen) and screen.diff is not None for screen in app.screen_stack):
            await pilot.pause(0.02)
        await pilot.pause()
        text = shown(app)
        assert "3 pairs  ✓ 0  ~ 0  ✗ 0" in text
        assert "comparing 0/3" in text
        assert "Yet to be compared: x ⇄ x" in text
        for key in (
            "j",
            "enter",
            "d",
            "plus",
            "right_square_bracket",
            "q",
            "s",
            "b",
            "n",
            "q",
            "w",
            "q",
            "m",
            "q",
            "y",
            "g",
        ):
            send(pilot, key)
            await pilot.pause(0.1)
        assert app.screen is layers(app)
        go_on.set()
        await settled(pilot)
        assert "First divergence: two" in shown(app)
        assert layers(app).settled is layers(app).diff


@pytest.mark.parametrize(
    "told",
    [
        7,
        {"pairs": 3},
        {"pairs": [{"reference": ["x"], "candidate": ["gone"], "axes": [0, 1], "confidence": 1.0, "evidence": {},
                    "other_axes": [], "arrangement": None}], "unmatched": {"reference": {}, "candidate": {}}},
        {"pairs": [{"reference": ["x"], "candidate": ["x"], "axes": [0, 99], "confidence": 1.0, "evidence": {},
                    "other_axes": [], "arrangement": {"pattern": "a (b -> c", "lengths": {"a": 1}}}],
         "unmatched": {"reference": {}, "candidate": {}}},
        {"pairs": [{"reference": ["x"], "candidate": ["x"], "axes": [0, 99], "confidence": 1.0, "evidence": {},
                    "other_axes": [], "arrangement": None}], "unmatched": {"reference": {"no": "x"}, "candidate": {}}},
    ],
)  # fmt: skip
async def test_what_a_recording_says_of_its_pairs_need_not_be_true(
    made: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    monkeypatch.setattr("tracer_tui.screens.layers._MANY", 1)
    Trace.open(made).update("b", {"reference": "a", "alignment": told})
    async with opened(made) as (app, _):
        assert "First divergence: two" in shown(app)


async def test_a_second_visit_shows_the_pairs_of_the_first_at_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(made):
        pass
    go_on = threading.Event()
    module = sys.modules["tracer.compare.comparing"]
    align = module.align  # type: ignore[attr-defined]

    def slow(*given: Any, **more: Any) -> Any:
        go_on.wait(60)
        return align(*given, **more)

    monkeypatch.setattr(module, "align", slow)
    app = TracerApp(Session(Trace.open(made), None, Tolerance(), now=lambda: 2e9))
    async with driven(app) as pilot:
        for _ in range(500):
            await pilot.pause(0.02)
            if any(isinstance(screen, LayersScreen) and screen.diff is not None for screen in app.screen_stack):
                break
        await pilot.pause()
        text = shown(app)
        assert "paired as last time" in text
        assert "First divergence: two" in text
        assert layers(app).settled is None
        send(pilot, "g")
        go_on.set()
        await settled(pilot)
        assert "paired as last time" not in shown(app)
        assert layers(app).settled is layers(app).diff
        assert layers(app).grid.cursor == 0  # the user had moved there meanwhile


def test_the_pairs_of_the_last_time_are_the_same_or_none(made: Path) -> None:
    sides = tuple(Trace.open(made).recordings())
    found = diff(sides[0], sides[1]).alignment
    kept = Kept(sides[0], sides[1], "values")
    again = kept.last_alignment(None)
    assert again is not None
    assert again.pairs == found.pairs
    assert (again.unmatched_reference, again.outputs) == (found.unmatched_reference, found.outputs)
    assert kept.last_alignment("another mapping") is None
    assert pairs_from_record(json.loads(json.dumps(found.to_json()))).keys() == found.keys()
    key = next(key for key in kept._raw if key[0] == "paired")
    for damage in (3, {}, {"pairs": 3}, {**kept._raw[key][4], "pairs": [{"reference": 3}]}):
        kept._raw[key][4] = damage
        assert kept.last_alignment(None) is None
