"""What a person can read off the screen: where the next cause is, the whole fix, names of any script, without sight."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from textual.geometry import Offset

from tests.tui_driving import layers, opened, press, settled, two, values
from tracer.causes.finding import Cause, Finding
from tracer_tui.look import Look
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.widgets.diagnosis import Diagnosis
from tracer_tui.widgets.lines import Lines


async def test_next_goes_to_every_cause_that_is_known(tmp_path: Path) -> None:
    """Of a pair that inherits its error too: its own cause is the next thing to mend."""
    ours = {name: values(2, 6, seed=place) for place, name in enumerate("xabcd")}
    theirs = {name: tensor + 0.5 * (name != "x") for name, tensor in ours.items()}
    async with opened(two(tmp_path / "trace.zarr", ours, theirs), (80, 24)) as (app, pilot):
        screen, found = layers(app), layers(app).diff
        assert found is not None
        own = Finding(
            "c", "proven", (Cause("bn-eps", "epsilon differs", "m.eps = 1e-3"),), pairs=("c", "d"), notes=("n",)
        )
        pairs = [replace(p, finding=own if p.aligned in own.pairs else p.finding) for p in found.pairs]
        screen.post_message(LayersScreen.Told(replace(found, pairs=tuple(pairs))))
        await settled(pilot)
        cursor = app.cursor_position
        for place in (1, 3, 1):
            assert screen.current is not None
            assert screen.current.number == place
            assert app.cursor_position == cursor + Offset(0, place - 1)  # the terminal's own
            await press(pilot, "n")
        assert "1 cause" in screen.query_one("#title", Lines).plain
        said = screen.query_one(Diagnosis).plain
        assert said.index("m.eps") < said.index("note ")


async def test_the_diagnosis_takes_the_lines_that_the_table_leaves(made: Path) -> None:
    async with opened(made) as (app, pilot):
        diagnosis = app.screen.query_one(Diagnosis)
        assert diagnosis.outer_size.height == 16
        await pilot.resize_terminal(80, 24)
        await settled(pilot)
        assert layers(app).grid.outer_size.height >= 4
        assert diagnosis.outer_size.height + layers(app).grid.outer_size.height == 24 - 3


def test_a_number_behind_a_name_from_right_to_left_stays_as_it_is() -> None:
    look = Look({})
    for name in ("שכבה", "encoder/طبقة"):
        assert look.text(name).plain == name + "\N{LEFT-TO-RIGHT MARK}"
        assert look.join(name, " 2×6").plain == name + "\N{LEFT-TO-RIGHT MARK} 2×6"
        assert Look({}, ascii_only=True).text(name).plain.isascii()
    assert look.text("層/слой").plain == "層/слой"
