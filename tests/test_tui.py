"""The terminal interface, driven by keys on real and on hostile traces."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import unicodedata
from contextlib import suppress
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.widgets import Input

from tests.tui_driving import HOSTILE, SIZES, layers, opened, press, record, send, settled, shown, two, values
from tracer.alignment import Alignment
from tracer.compare import Diff, Tolerance, Verdict, diff
from tracer.compare.stats import compare
from tracer.report import tensors
from tracer.store import Trace
from tracer.store.recordings import VALUES
from tracer_tui import actions, query
from tracer_tui.look import Look
from tracer_tui.screens.blocks import BlocksScreen
from tracer_tui.screens.layer import LayerScreen
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.screens.runs import RunsScreen
from tracer_tui.widgets.diagnosis import Diagnosis
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.heatmap import Heatmap
from tracer_tui.widgets.lines import Lines
from tracer_tui.widgets.profile import Profile


async def test_the_first_divergence_is_in_sight_however_far_down(tmp_path: Path) -> None:
    chain = {f"n{i}": values(2, 3, seed=i) for i in range(60)}
    path = two(tmp_path / "t.zarr", chain, {**chain, **{f"n{i}": values(2, 3, seed=100 + i) for i in range(50, 60)}})
    async with opened(path, size=(80, 24)) as (app, _):
        grid = layers(app).query_one(Grid)
        assert grid.cursor == 50
        assert grid.scroll_offset.y <= 50 < grid.scroll_offset.y + grid.page


@pytest.mark.parametrize(("size", "theme"), zip(SIZES, cycle(["textual-dark", "textual-light"]), strict=False))
async def test_opens_on_the_first_divergence(real_trace: Path, size: tuple[int, int], theme: str) -> None:
    async with opened(real_trace, size, theme=theme) as (app, pilot):
        assert isinstance(app.screen, LayersScreen)
        row = app.screen.current
        assert row is not None
        assert row.verdict is Verdict.DIVERGED
        assert row.pair is app.screen.diff.first  # type: ignore[union-attr]
        text = shown(app)
        for part in ("First divergence: flatten ⇄ flatten", "15 pairs", "✗ 1", "atol 1e-05", "flatten-order: "):
            assert part in text
        assert app.screen.query_one(Profile).display is (size[1] >= 30)
        assert size != (80, 24) or "J K scroll" in text  # where the panel is too small for what is known
        await press(pilot, "enter")
        assert isinstance(app.screen, LayerScreen)
        text = shown(app)
        for part in ("Layer 10", "needs", "statistics", "worst elements"):
            assert part in text


WAYS = {"runs": "q", "blocks": "b", "layer": ["enter"], "weights": "w", "weight": ["w", "enter"], "mapping": "m"}
"""The keys that lead from the Layers screen to the others."""


ONE_RUN = [area for area in actions.AREAS if area != "steps"]  # test_tui_steps.py has that one


@pytest.mark.parametrize(("area", "size"), zip(ONE_RUN, cycle([(80, 24), (120, 40)]), strict=False))
async def test_every_key_of_every_screen_is_harmless(real_trace: Path, area: str, size: tuple[int, int]) -> None:
    way = WAYS.get(area, [])
    async with opened(real_trace, size) as (app, pilot):
        await press(pilot, *way)
        home, depth = app.screen, len(app.screen_stack)
        assert area == home.AREA  # type: ignore[attr-defined]
        for action in actions.of(area):
            if action.name == "back":
                continue
            for key in action.keys:
                await press(pilot, key)
                assert app.is_running
                if isinstance(app.focused, Input) and app.screen is home:
                    await press(pilot, "escape")
                while len(app.screen_stack) > depth:
                    await press(pilot, "escape")
                if app.screen is not home:
                    await press(pilot, *way)
                    home, depth = app.screen, len(app.screen_stack)
        await press(pilot, "escape")
        assert app.screen is not home or not app.is_running


def test_registry_is_whole() -> None:
    from tracer_tui.screens.base import TracerScreen
    from tracer_tui.screens.mapping import MappingScreen
    from tracer_tui.screens.steps import StepsScreen
    from tracer_tui.screens.weight import WeightScreen
    from tracer_tui.screens.weights import WeightsScreen

    kinds: list[type[TracerScreen]] = [RunsScreen, StepsScreen, LayersScreen, BlocksScreen, LayerScreen]
    kinds += [WeightsScreen, WeightScreen, MappingScreen]
    assert [screen.AREA for screen in kinds] == list(actions.AREAS)
    for area, screen in zip(actions.AREAS, kinds, strict=True):
        keys = [key for action in actions.of(area) for key in action.keys]
        assert len(keys) == len(set(keys))
        assert not {"ctrl+h", "ctrl+i", "ctrl+j", "ctrl+m"} & set(keys)
        assert len(actions.footer(area)) <= 8
        for action in actions.of(area):
            assert callable(getattr(screen, f"action_{action.name}"))


async def test_filter_sort_and_divergences(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        screen = layers(app)
        assert len(screen.listed) == 15
        await press(pilot, "slash", *"is:div")
        assert [row.reference for row in screen.listed] == ["flatten"]
        await press(pilot, "enter")
        assert app.focused is screen.grid
        await press(pilot, "escape")
        assert len(screen.listed) == 15
        await press(pilot, "slash", *"op:conv")
        assert all("Conv" in row.op for row in screen.listed)
        assert screen.listed
        await press(pilot, "escape", "slash", *"err", "space", ">", "space", *"1e-4")
        assert {row.verdict for row in screen.listed} == {Verdict.DIVERGED, Verdict.INHERITED}
        await press(pilot, "escape", "slash", *"is:nonsense")
        assert "is: takes" in shown(app)
        await press(pilot, "escape", "s")
        errors = [row.error or 0.0 for row in screen.listed]
        assert errors == sorted(errors, reverse=True)
        await press(pilot, "s")
        assert [row.reference for row in screen.listed] == sorted(row.reference for row in screen.listed)
        await press(pilot, "S", "S", "g")
        assert screen.grid.cursor == 0
        await press(pilot, "n")
        assert screen.current is not None
        assert screen.current.reference == "flatten"


async def test_tolerance_is_judged_from_statistics(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        screen = layers(app)
        await press(pilot, *["plus"] * 7)
        assert screen.session.tolerance == Tolerance(100.0, 100.0)
        assert layers(app).diff.first is None  # type: ignore[union-attr]
        assert "✗ 0" in shown(app)
        assert "elements (" not in screen.query_one(Diagnosis).plain
        await press(pilot, *["minus"] * 7)
        assert screen.session.tolerance == Tolerance(1e-5, 1e-5)
        await press(pilot, "t")
        field = app.screen.query_one(Input)
        field.value = "wrong"
        await press(pilot, "enter")
        assert "one or two numbers" in shown(app)
        field.value = "50"
        await press(pilot, "enter")
        assert screen.session.tolerance == Tolerance(50.0, 1e-5)
        await press(pilot, "n")
        assert "Nothing diverged" in shown(app)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_cause_proof_and_fix_stand_below(tmp_path: Path, size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    import tracer

    def net(eps: float, slope: float) -> Any:
        torch.manual_seed(0)
        layers = [torch.nn.Linear(6, 8), torch.nn.LayerNorm(8, eps=eps), torch.nn.LeakyReLU(slope)]
        return torch.nn.Sequential(*layers).eval()

    path, models = tmp_path / "trace.zarr", (net(1e-5, 0.3), net(1e-2, 0.1))
    sides = [tracer.record(m, values(3, 6), trace=path, name=n) for m, n in zip(models, "ab", strict=True)]
    async with opened(path, size) as (app, pilot):
        panel = app.screen.query_one(Diagnosis)
        for part in ("ln-eps: epsilon is 1e-05 in the reference, 0.01", "proof  error ", "fix    model[1].eps = 1e-05"):
            assert part in shown(app)
        assert "Set differently further on: " in panel.plain
        assert "negative_slope 0.3 against 0.1" in panel.plain
        await press(pilot, "y")
        assert "fix    model[1].eps = 1e-05" in app.clipboard
        await press(pilot, "j")
        assert "LeakyReLU" in panel.plain
        assert "activation-param" not in panel.plain  # what is not off by itself is explained on request alone
    tracer.explain(*sides)
    async with opened(path, size) as (app, pilot):
        await press(pilot, "j")
        assert "fix    model[2].negative_slope = 0.3" in app.screen.query_one(Diagnosis).plain


@pytest.mark.parametrize(("size", "titles"), [((40, 24), ["own"]), ((80, 24), ["own", "floor"])])
async def test_own_error_and_floor_stand_beside_the_error_where_measured(
    tmp_path: Path, size: tuple[int, int], titles: list[str]
) -> None:
    torch = pytest.importorskip("torch")
    import tracer

    def net(eps: float) -> Any:
        torch.manual_seed(0)
        layers = [torch.nn.Linear(6, 8), torch.nn.LayerNorm(8, eps=eps), torch.nn.Tanh(), torch.nn.Linear(8, 4)]
        return torch.nn.Sequential(*layers).eval()

    path, models = tmp_path / "trace.zarr", (net(1e-5), net(1e-3))
    sides = [tracer.record(m, values(3, 6), trace=path, name=n) for m, n in zip(models, "ab", strict=True)]
    async with opened(path, size) as (app, _):
        assert "own" not in shown(app)
    found = tracer.diff(sides[0], sides[1], models=models)
    assert found.first is not None
    assert found.first.local is not None
    own = found.first.local.relative(found.first.local.error)
    async with opened(path, size) as (app, pilot):
        header = next(line for line in shown(app).splitlines() if "max|Δ|" in line and "by pair" not in line)
        assert header.split("max|Δ|")[1].split() == titles
        assert f"{own:.1e}" in shown(app)
        await press(pilot, "plus", "plus")
        assert f"{own:.1e}" in shown(app)


async def test_copies_facts(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        await press(pilot, "y")
        assert app.clipboard.startswith("First divergence: flatten ⇄ flatten")
        assert "Greatest absolute difference" in app.clipboard


async def test_layer_screen_walks_layers_and_slices(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        await press(pilot, "g", "j", "enter")
        screen = app.screen
        assert isinstance(screen, LayerScreen)
        assert screen.view is not None
        assert (screen.names[screen.view.down or 0], screen.names[screen.view.across or 0]) == ("channel", "position")
        before = screen.view.index
        await press(pilot, "l")
        assert screen.view.index != before
        await press(pilot, "h", "a", "L", "l", "v")
        assert app.screen.query(Heatmap).first().numbers
        await press(pilot, "right_square_bracket", "right_square_bracket")
        assert screen.row.number == 3
        assert "max_pooling1d ⇄ pool1" in shown(app)
        await press(pilot, "left_square_bracket")
        assert screen.row.number == 2
        await press(pilot, "q")
        assert layers(app).current.number == 2  # type: ignore[union-attr]


async def test_worst_element_is_the_statistics_own(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        await press(pilot, "enter")
        screen = app.screen
        assert isinstance(screen, LayerScreen)
        assert screen.where is not None
        stats = screen.row.pair.stats  # type: ignore[union-attr]
        assert stats is not None
        index, ours, theirs = screen.where.worst[0]
        assert index == stats.argmax
        assert (ours, theirs) == stats.worst
        assert screen.where.outside == stats.outside
        await press(pilot, "j", "j", "enter")
        assert screen.view is not None
        assert screen.view.index == screen.where.worst[2][0]


@pytest.mark.parametrize(("size", "ascii_only"), [((80, 24), True), ((120, 40), False), ((200, 60), False)])
async def test_hostile_names_are_text(tmp_path: Path, size: tuple[int, int], ascii_only: bool) -> None:
    path = tmp_path / "trace.zarr"
    ours = {name: values(1, 4 + place, seed=place) for place, name in enumerate(HOSTILE)}
    trace = record(path, "[red]a[/]\x1b[1m", ours)
    record(path, "[@click=app.quit]b[/]", {n + "'": v + np.float32(1) for n, v in ours.items()})
    del trace
    async with opened(path, size, ascii_only=ascii_only) as (app, pilot):
        for key in ("g", *["j"] * len(HOSTILE), "enter", *["right_square_bracket"] * 3, "y", "q", "question_mark"):
            await press(pilot, key)
        await press(pilot, "escape", "q", "space", "j", "space")
        text = shown(app)
        assert "\x1b" not in app.export_screenshot()
        assert "[red]a[/]\\x1b[1m" in text
        assert "\x1b" not in app.clipboard
        if ascii_only:
            assert text.isascii()


async def test_ascii_is_ascii(real_trace: Path) -> None:
    async with opened(real_trace, (100, 40), ascii_only=True) as (app, pilot):
        for keys in (
            [],
            ["slash"],
            ["escape", "question_mark"],
            ["escape", "enter"],
            ["v"],
            ["colon"],
            ["escape", "q", "q"],
        ):
            await press(pilot, *keys)
            assert shown(app).isascii(), keys


async def test_without_colour_the_glyphs_say_it(real_trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(real_trace) as (app, pilot):
        assert app.no_color
        assert app.look.mark(Verdict.DIVERGED).style.reverse  # type: ignore[union-attr]
        assert "✗" in shown(app)
        await press(pilot, "enter")
        assert "+" in shown(app)
        colours = set(re.findall(r"fill: #([0-9a-f]{6})", app.export_screenshot()))
        grey = {c for c in colours if c[:2] == c[2:4] == c[4:]}
        assert len(grey) >= len(colours) - 3  # the window's own buttons
        await press(pilot, "c")
        for part in (" (o) and ", " (x)", "!!", "outside the tolerance"):
            assert part in shown(app)


async def test_empty_trace_says_what_to_do(tmp_path: Path) -> None:
    Trace.create(tmp_path / "trace.zarr")
    async with opened(tmp_path / "trace.zarr", (80, 24)) as (app, pilot):
        assert isinstance(app.screen, RunsScreen)
        assert "tracer record tf MODEL" in shown(app)
        assert "tracer record pt MODEL" in shown(app)
        await press(pilot, "enter", "space", "j", "G", "r")
        assert app.is_running


async def test_one_recording_and_a_failed_one(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    record(path, "only", {"x": values(1, 4), "y": values(1, 4)})
    async with opened(path) as (app, _):
        assert isinstance(app.screen, RunsScreen)
        assert "tracer record tf MODEL" in shown(app)
    record(path, "broken", {"x": values(1, 4), "y": values(1, 4)}, fails=True)
    async with opened(path) as (app, pilot):
        assert isinstance(app.screen, LayersScreen)  # what was saved can be compared
        await press(pilot, "q")
        assert "failed: the model raised" in shown(app)
        assert "1/2" in shown(app)


async def test_recordings_are_marked_and_compared(made: Path) -> None:
    record(made, "c", {"x": values(1, 4), "one": values(1, 8, seed=5)}, input_id="other")
    async with opened(made) as (app, pilot):
        await press(pilot, "q")
        assert isinstance(app.screen, RunsScreen)
        text = shown(app)
        assert "same" in text
        assert "tensorflow" in text
        await press(pilot, "g", "j", "space", "k", "space")
        assert app.screen.marked == ["b", "a"]
        await press(pilot, "enter")
        screen = app.screen
        assert isinstance(screen, LayersScreen)
        assert (screen.reference.name, screen.candidate.name) == ("b", "a")
        await press(pilot, "q", "space", "j", "j", "space", "enter")
        assert "made on different inputs" in shown(app)
        await press(pilot, "n", "enter", "slash", *"a", "enter", "plus", "y", "q", "q")
        assert isinstance(app.screen, RunsScreen)


async def test_damaged_chunk_is_one_pair(made: Path) -> None:
    recording = Trace.open(made).recording("b")
    pack = recording.folder / VALUES
    raw = bytearray(pack.read_bytes())
    raw[raw.index(recording.read("one").tobytes()) + 5] ^= 1
    pack.write_bytes(raw)
    async with opened(made) as (app, pilot):
        screen = layers(app)
        assert [row.verdict for row in screen.everything].count(Verdict.NOT_COMPARABLE) == 1
        await press(pilot, "g", "j")
        assert "checksum" in shown(app)
        await press(pilot, "enter")
        assert app.is_running
        pack.unlink()
        await press(pilot, "right_square_bracket", "left_square_bracket")
        assert app.is_running


async def test_trace_deleted_while_open(made: Path) -> None:
    async with opened(made) as (app, pilot):
        shutil.rmtree(made)
        await press(pilot, "enter")
        assert "diverged" in shown(app)  # the file that is open can still be read
        await press(pilot, "l", "a", "v", "right_square_bracket", "q", "q", "r")
        assert isinstance(app.screen, RunsScreen)
        assert "does not exist" in shown(app)
        await press(pilot, "enter", "space")
        assert app.is_running


async def test_strange_tensors(tmp_path: Path) -> None:
    """The stranger ones, with more keys, are in test_tui_bad_input.py."""
    spoilt = values(1, 6, 4, seed=3)
    spoilt[0, 2, 1] = np.nan
    spoilt[0, 3, 1] = np.inf
    ours: dict[str, np.ndarray] = {
        "x": values(2, 3),
        "empty": np.zeros((3, 0, 4), np.float32),
        "line": values(17),
        "spoilt": spoilt,
        "counts": np.arange(12, dtype=np.int64).reshape(3, 4),
        "complex": (values(1, 5) + 1j * values(1, 5, seed=9)).astype(np.complex64),
        "five": values(1, 2, 3, 4, 5),
        "image": values(2, 9, 7, 3),
    }
    theirs = {name: v * np.float32(1.01).astype(v.dtype) for name, v in ours.items()}
    theirs["spoilt"] = np.nan_to_num(spoilt, posinf=2.0)
    async with opened(two(tmp_path / "trace.zarr", ours, theirs), (120, 40)) as (app, pilot):
        assert len([row for row in layers(app).everything if row.pair is not None]) == len(ours)
        await press(pilot, "g", "enter")
        for name in ours:
            screen = app.screen
            assert isinstance(screen, LayerScreen)
            assert screen.row.reference == name
            for key in ("l", "a", "v", "j", "enter", "v", "plus"):
                await press(pilot, key)
            if name == "empty":
                assert "no elements" in shown(app)
            if name == "spoilt":
                assert "on one side only" in shown(app)
            await press(pilot, "right_square_bracket")


async def test_resize_and_theme_while_open(real_trace: Path) -> None:
    async with opened(real_trace, ascii_only=True) as (app, pilot):
        for keys in ([], ["enter"], ["c"], ["q", "q"]):
            await press(pilot, *keys)
            app.theme = "textual-light" if app.theme == "textual-dark" else "textual-dark"
            for size in [(40, 10), (200, 60), (20, 5), (35, 30)]:
                await pilot.resize_terminal(*size)
                await settled(pilot)
                assert app.is_running
                assert shown(app).isascii()


async def test_a_narrow_screen_cuts_names_rather_than_figures(real_trace: Path) -> None:
    async with opened(real_trace, (40, 12)) as (app, _):
        lines = [line for line in shown(app).splitlines() if line.strip()]
        assert any("✗ 1" in line for line in lines)
        assert any("flatten" in line and "1.21e+01" in line for line in lines)


async def test_mouse_moves_and_opens(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        screen = layers(app)
        await pilot.click(Grid, offset=(10, 3))
        await settled(pilot)
        assert screen.grid.cursor == 2
        await pilot.click(Profile, offset=(10, 3))
        await settled(pilot)
        assert screen.grid.cursor == 0
        await pilot.click(Grid, offset=(10, 1))
        await settled(pilot)
        assert isinstance(app.screen, LayerScreen)
        await pilot.click("KeyBar", offset=(3, 0))
        await settled(pilot)
        assert app.is_running


async def test_many_pairs_stay_quick_and_visible(tmp_path: Path) -> None:
    ours = {f"n{place:04d}": values(1, 3, seed=place) for place in range(250)}
    theirs = {name: v + np.float32(name == "n0187") for name, v in ours.items()}
    async with opened(two(tmp_path / "trace.zarr", ours, theirs)) as (app, pilot):
        screen = layers(app)
        assert screen.current is not None
        assert screen.current.reference == "n0187"
        assert "✗" in shown(app)
        await press(pilot, "G", "k", "ctrl+u", "slash", *"n01", "escape")
        assert "n0248" in shown(app) or screen.grid.cursor


async def test_unmatched_nodes_stand_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The alignment is made by hand: what the engine pairs is not the matter here."""
    ours = {"x": values(1, 4), "lonely": values(3, 11, seed=4), "y": values(1, 7, seed=2)}
    theirs = {"x": values(1, 4), "extra": values(5, 13, seed=8), "y": values(1, 7, seed=2)}

    def by_hand(*args: Any, **kwargs: Any) -> Diff:
        found = diff(*args, **kwargs)
        kept = tuple(pair for pair in found.pairs if pair.aligned in "xy" and pair.candidate_node.name in "xy")
        alignment = Alignment(tuple(pair.pair for pair in kept), {"lonely": "no fit"}, {"extra": "no fit"})
        return replace(found, pairs=kept, alignment=alignment)

    monkeypatch.setattr("tracer.compare.diff", by_hand)
    async with opened(two(tmp_path / "trace.zarr", ours, theirs)) as (app, pilot):
        rows = [(row.reference, row.candidate) for row in layers(app).everything]
        assert rows == [("x", "x"), ("", "extra"), ("lonely", ""), ("y", "y")]
        assert "? 2" in shown(app)
        await press(pilot, "g", "j", "j")
        assert "No twin in the candidate: lonely" in shown(app)
        await press(pilot, "enter")
        assert "no twin here" in shown(app)
        assert "Layer" in app.screen.query_one("#title", Lines).plain


async def test_typing_ahead_reaches_what_it_is_meant_for(real_trace: Path) -> None:
    """As where a slow line delivers many keys at once: none goes to what stood there before."""
    async with opened(real_trace) as (app, pilot):
        for key in ("slash", *"op:conv", "enter", "G"):
            send(pilot, key)
        await settled(pilot)
        assert layers(app).filter == "op:conv"
        assert layers(app).grid.cursor == len(layers(app).listed) - 1
        for key in ("escape", "g", "j", "enter", "right_square_bracket", "w", "q", "q", "m", "a", "q", "j"):
            send(pilot, key)
        await settled(pilot)
        assert app.screen is layers(app)
        assert layers(app).grid.cursor == 3
        assert layers(app).mapping is not None


def test_pooling_keeps_the_one_bad_element() -> None:
    plane = np.zeros((1000, 3000))
    plane[777, 1234] = -5.0
    plane[10, 10] = np.nan
    pooled = tensors.pool(plane, 20, 60)
    assert pooled.shape == (20, 60)
    assert np.nanmin(pooled) == -5.0
    assert int(np.isnan(pooled).sum()) == 1
    assert tensors.pool(np.arange(6.0).reshape(2, 3), 4, 6).tolist()[3] == [3, 3, 4, 4, 5, 5]


@given(
    st.lists(st.integers(1, 7), min_size=0, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_location_agrees_with_the_statistics(shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    ours = rng.standard_normal(shape).astype(np.float32)
    theirs = (ours + rng.standard_normal(shape) * (rng.random(shape) < 0.3)).astype(np.float32)
    stats, where = compare(ours, theirs, 1e-3, 1e-3), tensors.locate(ours, theirs, 1e-3, 1e-3)
    assert where.outside == stats.outside
    assert all(int(hit.sum()) == where.outside for hit in where.hit)
    if stats.max_abs > 0:
        assert where.worst[0][0] == stats.argmax
    for axis, greatest in enumerate(where.greatest):
        assert greatest.shape == (shape[axis],)
        assert greatest.max(initial=0.0) == pytest.approx(stats.max_abs)


@given(st.text(max_size=20))
def test_any_filter_is_a_test_or_a_sentence(text: str) -> None:
    with suppress(query.QueryError):
        assert callable(query.parse(text))


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("residual_units.0.batchnorm1", 20, "residu….0.batchnorm1"),
        ("stages.27.blocks.13.relu", 20, "s….27.blocks.13.relu"),
        ("bert/encoder/layer_0/attention/query", 26, "b…/e…/layer_0/atten…/query"),
        ("batch_normalization_1", 12, "batch…tion_1"),
    ],
)
def test_a_shortened_name_keeps_its_numbers_and_its_end(name: str, width: int, short: str) -> None:
    look = Look({"foreground": "#ffffff", "background": "#000000"})
    assert look.shorten(name, width, "name") == short


@given(st.text(max_size=80), st.integers(0, 30), st.booleans())
def test_shortened_text_fits(text: str, width: int, ascii_only: bool) -> None:
    look = Look({"foreground": "#ffffff", "background": "#000000"}, ascii_only)
    shown_text = look.text(text, width=width)
    assert shown_text.cell_len <= width
    assert cell_len(look.shorten(look.plain(text), width, "name")) <= width
    assert not any(unicodedata.category(char) == "Cc" for char in shown_text.plain)
    assert not ascii_only or shown_text.plain.isascii()


def test_opening_loads_no_framework(made: Path) -> None:
    code = (
        "import sys, tracer_tui; assert 'textual' not in sys.modules; import tracer_tui.app; "
        "bad = {'torch', 'tensorflow', 'keras', 'zarr', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
