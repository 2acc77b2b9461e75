"""Traces that are damaged, strange, or gone: a notice or a sentence, never the end of the interface."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.pilot import Pilot

from tests.tui_driving import layers, opened, press, record, send, settled, shown, two, values
from tracer.compare import Verdict
from tracer.store import Trace
from tracer_tui.app import TracerApp
from tracer_tui.screens.layer import LayerScreen
from tracer_tui.screens.runs import RunsScreen

EVERY = ("l", "h", "a", "L", "c", "z", "z", "l", "Z", "v", "d", "c", "a", "v", "d", "d", "j", "enter", "plus", "minus")


async def walked(app: TracerApp, pilot: Pilot[Any], keys: tuple[str, ...] = EVERY) -> None:
    """Open every layer and press what can be pressed there."""
    await press(pilot, "g", "enter")
    for _ in layers(app).everything:
        assert isinstance(app.screen, LayerScreen)
        for key in keys:
            send(pilot, key)
        await settled(pilot)
        assert app.is_running
        await press(pilot, "right_square_bracket")
    await press(pilot, "q")


async def test_tensors_of_any_kind_are_drawn_in_every_way(tmp_path: Path) -> None:
    spoilt = values(1, 40, seed=3)
    spoilt[0, 3], spoilt[0, 30] = np.nan, -np.inf
    ours: dict[str, np.ndarray] = {
        "x": values(2, 3),
        "scalar": np.array(1.5, np.float32),
        "one": np.array([[2.0]], np.float32),
        "empty": np.zeros((3, 0, 4), np.float32),
        "hollow": np.zeros((0, 1 << 40), np.float32),
        "spoilt": spoilt,
        "all_nan": np.full((1, 40), np.nan, np.float32),
        "constant": np.zeros((1, 8), np.float32),
        "huge": np.array([[1e38, -1e38, 3e38]], np.float32),
        "tiny": np.array([[1e-45, 0, -1e-45]], np.float32),
        "deep": values(*[2] * 10),
        "flags": np.array([[True, False, True]]),
    }
    theirs = {name: value.copy() for name, value in ours.items()}
    theirs["spoilt"][0, 30] = 1.0
    theirs["deep"] = ours["deep"] * 2
    theirs["huge"] = -ours["huge"]
    theirs["tiny"] = -ours["tiny"]
    theirs["scalar"] = np.array(np.nan, np.float32)
    theirs["flags"] = ~ours["flags"]
    async with opened(two(tmp_path / "t.zarr", ours, theirs), (80, 24), ascii_only=True) as (app, pilot):
        assert {row.reference for row in layers(app).everything} == set(ours)
        await walked(app, pilot, EVERY)
        await press(pilot, "b", "z", "q")
        assert shown(app).isascii()


async def test_a_long_line_is_drawn_whole_and_quickly(tmp_path: Path) -> None:
    line = values(1, 3_000_000)
    theirs = line.copy()
    theirs[0, 2_345_678] += 100
    path = two(tmp_path / "t.zarr", {"x": values(1, 4), "line": line}, {"x": values(1, 4), "line": theirs})
    async with opened(path) as (app, pilot):
        await press(pilot, "enter")
        screen = app.screen
        assert isinstance(screen, LayerScreen)
        assert screen.curves
        text = shown(app)
        assert "▲2345678" in text
        assert "thinned" in text
        assert "1.0e+02" in text  # the one wrong element is drawn, though most were not read
        await press(pilot, "i", "ctrl+u", *"0,17", "enter")
        assert "▲17" in shown(app)


async def test_a_damaged_recording_leaves_the_others_usable(made: Path) -> None:
    record(made, "c", {"x": values(1, 4), "one": values(1, 8, seed=5)})
    metadata = made / "recordings" / "c" / "zarr.json"
    good = json.loads(metadata.read_text())
    async with opened(made) as (app, pilot):
        await press(pilot, "q")
        for damage in (
            {"structure": {"nodes": 3}},
            {"activations": [["one", "../../etc", [1], "float32", {}]]},
            {"activations": 7},
            {"state": 5, "name": ["x"]},
            {"created": "yesterday", "planned": "many"},
        ):
            metadata.write_text(json.dumps({**good, "attributes": {**good["attributes"], **damage}}))
            app.look_again()
            await settled(pilot)
            assert isinstance(app.screen, RunsScreen)
            assert len(app.screen.recordings) == 3
            await press(pilot, "G", "space", "g", "space", "enter")
            assert app.is_running
            while not isinstance(app.screen, RunsScreen):
                await press(pilot, "q")
            app.screen.marked = []
        metadata.write_text("{")
        app.look_again()
        await settled(pilot)
        assert "damaged" in shown(app)
        app.screen.marked = ["a", "b"]
        await press(pilot, "enter")
        assert "First divergence: two" in shown(app)


async def test_a_tensor_that_is_not_what_the_trace_says_is_one_pair(made: Path) -> None:
    for name, node, field, wrong in (("b", "one", 2, [1 << 50]), ("a", "x", 1, "layers/gone")):
        metadata = made / "recordings" / name / "zarr.json"
        said = json.loads(metadata.read_text())
        next(entry for entry in said["attributes"]["activations"] if entry[0] == node)[field] = wrong
        metadata.write_text(json.dumps(said))
    async with opened(made) as (app, pilot):
        verdicts = [row.verdict for row in layers(app).everything]
        assert verdicts.count(Verdict.NOT_COMPARABLE) == 2
        await walked(app, pilot, ("l", "c", "v", "d", "e", "escape"))


async def test_another_trace_in_the_place_of_the_one_that_is_open(made: Path) -> None:
    async with opened(made) as (app, pilot):
        await press(pilot, "enter")
        shutil.rmtree(made)
        two(made, {"x": values(1, 4), "other": values(2, 2)}, {"x": values(1, 4), "other": values(2, 2)})
        for _ in range(3):
            app.look_again()
            await settled(pilot)
        assert "was recorded again" in shown(app)
        await press(pilot, "l", "c", "q")
        assert {row.reference for row in layers(app).everything} == {"x", "other"}
        await press(pilot, "q")
        assert isinstance(app.screen, RunsScreen)
        Trace.open(made).delete("a")
        Trace.open(made).delete("b")
        app.look_again()
        await settled(pilot)
        assert "tracer record tf MODEL" in shown(app)


async def test_an_error_in_a_thread_is_a_notice(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("tracer.report.tensors.locate", broken)
    monkeypatch.setattr("tracer.report.tensors.load", broken)
    async with opened(made) as (app, pilot):
        await press(pilot, "enter")
        assert "no room" in shown(app)
        await press(pilot, *EVERY)
        assert app.is_running
    monkeypatch.setattr("tracer.causes.kept.explained", broken)
    async with opened(made) as (app, _):
        assert "the causes could not be looked for" in shown(app)
    monkeypatch.setattr("tracer.compare.diff", broken)
    async with opened(made) as (app, pilot):
        assert "no room" in shown(app)
        await press(pilot, "enter", "b", "z", "n", "q", "e", "o", "y", "n", "s", "slash", *"a", "enter")
        assert app.is_running
