"""The Live screen: two recordings of many steps while they come in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tui_driving import HOSTILE, press, shown
from tracer.compare import Tolerance
from tracer.graph import Node, Structure
from tracer.live import judging
from tracer.store import Trace
from tracer.store.series import SeriesWriter
from tracer_tui import actions
from tracer_tui.app import TracerApp
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.screens.steps import StepsScreen
from tracer_tui.session import Session


def begun(trace: Trace, name: str, layers: tuple[str, ...] = ("first", "second")) -> SeriesWriter:
    nodes = [Node("x", "input", "input", "input", (), (2, 3), "float32")]
    nodes += [Node(layer, "dense", "Dense", "layer", ("x",), (2, 3), "float32") for layer in layers]
    structure = Structure(tuple(nodes), (layers[-1],))
    keys = {node.name: node.name for node in nodes}
    more = {"framework": "pytorch", "mode": "train", "reference": None if name == "right" else "right"}
    return SeriesWriter(trace, name, structure, more, keys, {}).__enter__()


def write(writer: SeriesWriter, step: int, error: float) -> None:
    writer.begin(step)
    writer.put("value", "x", np.ones((2, 3), np.float32))
    for place, node in enumerate(writer.attributes["structure"]["nodes"][1:]):
        name = node["name"] if isinstance(node, dict) else node[0]
        writer.put("value", name, np.ones((2, 3), np.float32) * np.float32(1 + error * (place + 1)))
    writer.commit(ended=1.0)


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (40, 12)])
async def test_steps_are_shown_as_they_come(tmp_path: Path, size: tuple[int, int]) -> None:
    trace = Trace.create(tmp_path / "t.zarr")
    sides = begun(trace, "right"), begun(trace, "wrong")

    def come(step: int, error: float) -> None:
        write(sides[0], step, 0.0)
        write(sides[1], step, error)
        judging.compared(str(trace.root), "right", "wrong", step, 1e-5, 1e-5)

    for step in range(3):
        come(10 * step, 0.0)
    app = TracerApp(Session(trace, None, Tolerance()))
    async with app.run_test(size=size) as pilot:
        screen = app.screen
        assert isinstance(screen, StepsScreen)

        async def until(step: int) -> None:
            while not screen.found.steps or screen.found.steps[-1] < step:
                await pilot.pause(0.05)
            await pilot.pause()

        await until(20)
        assert "every step agrees" in shown(app) or size[0] < 80
        come(30, 1e-3)
        come(40, 1e-2)
        await until(40)
        text = shown(app)
        assert screen.found.parted == 3
        assert "1.0e-02" in text
        if size[0] >= 80:
            assert "from step 30, at first" in text
        if size == (120, 40):
            assert "wrong@30 divergence: parts from 'right' at first" in text
        await press(pilot, "h")
        assert not screen.following
        assert "1.0e-03" in shown(app)
        come(50, 1e-1)
        await until(50)
        assert "1.0e-03" in shown(app)  # not followed any more
        await press(pilot, "f")
        assert "9.1e-02" in shown(app) or "1.0e-01" in shown(app)
        await press(pilot, "n")
        assert screen.found.layers[screen.grid.cursor].name == "first"
        await press(pilot, "enter")
        assert isinstance(app.screen, LayersScreen)
        assert (app.screen.reference.name, app.screen.candidate.name) == ("right@30", "wrong@30")
        await press(pilot, "escape", "escape", "escape")
    for side in sides:
        side.finish()


async def test_steps_that_no_daemon_compared_are_compared_here(tmp_path: Path) -> None:
    trace = Trace.create(tmp_path / "t.zarr")
    sides = begun(trace, "right"), begun(trace, "wrong")
    for step in range(4):
        write(sides[0], step, 0.0)
        write(sides[1], step, 1e-2 * (step > 1))
    for side in sides:
        side.finish()
    app = TracerApp(Session(trace, None, Tolerance()))
    async with app.run_test(size=(100, 30)) as pilot:
        screen = app.screen
        assert isinstance(screen, StepsScreen)
        while len(screen.found.steps) < 4:
            await pilot.pause(0.05)
        await pilot.pause()
        assert "4 compared   ✗ from step 2, at first" in shown(app)


async def test_every_key_is_harmless_whatever_lies_there(tmp_path: Path) -> None:
    trace = Trace.create(tmp_path / "t.zarr")
    names = tuple(HOSTILE)
    sides = begun(trace, "right", names), begun(trace, "wrong", names)
    for side in sides:
        write(side, 0, 0.0)
    folder = trace.recording("wrong").folder
    torn = {"step": 0, "reference": "right", "verdict": "diverged", "first": HOSTILE[0], "first_error": None,
            "pairs": dict.fromkeys(names)}  # fmt: skip
    lines = [
        json.dumps(torn),
        "[]",
        '{"step": "x"}',
        '{"step": 1, "reference": "right", "pairs": 3}',
        '{"step": 2, "re',
    ]
    (folder / "compared.jsonl").write_text("\n".join(lines))
    (folder / "events.jsonl").write_text('{"time": "x", "what": 3}\n{"rule": "\\u001b[31m", "what": "[b]x"}\n')
    app = TracerApp(Session(trace, None, Tolerance()))
    async with app.run_test(size=(80, 24)) as pilot:
        screen = app.screen
        assert isinstance(screen, StepsScreen)
        while not screen.found.steps:
            await pilot.pause(0.05)
        assert screen.found.error == ""
        for action in actions.of("steps"):
            if action.name == "back":
                continue
            for key in action.keys:
                await press(pilot, key)
                assert app.is_running
                while app.screen is not screen:
                    await press(pilot, "escape")
        assert "\x1b" not in shown(app)
    for side in sides:
        side.finish()
