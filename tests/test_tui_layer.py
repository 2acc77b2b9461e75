"""The Layer screen: curves, the error along an axis, slices anywhere, saving, and the line of the source."""

from __future__ import annotations

import stat
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.tui_driving import layers, opened, press, record, shown, two, values
from tracer.report.tensors import View
from tracer_tui import curves, indices, pairs, sources
from tracer_tui.screens.layer import LayerScreen
from tracer_tui.screens.layers import LayersScreen
from tracer_tui.screens.saving import SaveScreen
from tracer_tui.widgets.byaxis import ByAxis
from tracer_tui.widgets.curves import Curves
from tracer_tui.widgets.pictures import Pictures

SIGNAL = {"x": values(2, 40, 6), "wave": values(2, 40, 6, seed=1), "head": values(2, 8, seed=2)}


def signal(path: Path) -> Path:
    """A signal that parts in channel 3 from position 20 to 24."""
    moved = SIGNAL["wave"].copy()
    moved[:, 20:25, 3] += 2
    return two(path / "trace.zarr", SIGNAL, {**SIGNAL, "wave": moved})


async def test_curves_part_where_the_tensors_do(tmp_path: Path) -> None:
    async with opened(signal(tmp_path), (100, 40)) as (app, pilot):
        await press(pilot, "enter")
        screen = app.screen
        assert isinstance(screen, LayerScreen)
        assert screen.query_one(Pictures).display
        assert not screen.query_one(Curves).display
        await press(pilot, "i", "ctrl+u", *"1,22,3", "enter")
        await press(pilot, "c", "a", "a")
        curve = screen.query_one(Curves)
        assert not screen.query_one(Pictures).display
        assert curve._curve is not None
        ours, theirs = curve._curve.sides
        assert ours is not None
        assert theirs is not None
        assert np.flatnonzero(ours != theirs).tolist() == [20, 21, 22, 23, 24]
        assert curve._curve.axis == screen.names[1]
        assert curve._curve.at == 22
        text = shown(app)
        for part in ("▲22", "|Δ|", f"along {screen.names[1]}", "39"):
            assert part in text
        await press(pilot, "z")
        assert curve._curve.places.tolist() == list(range(14, 30))
        assert f"along {screen.names[1]}: 16 of 40" in shown(app)
        await press(pilot, "Z")
        assert len(curve._curve.places) == 40
        await press(pilot, "L", "l")
        assert screen.view is not None
        assert screen.view.index == (1, 22, 4) or screen.view.index == (0, 22, 3)
        await press(pilot, "v")
        assert "reference" in shown(app)
        assert f"{float(SIGNAL['wave'][screen.view.index]):+.3e}" in shown(app)
        await press(pilot, "v", "c")
        assert screen.query_one(Pictures).display
        await press(pilot, "right_square_bracket")
        assert screen.query_one(Pictures).display  # what was chosen holds for the next layer


async def test_a_single_line_opens_as_a_curve_and_a_tall_screen_has_both(tmp_path: Path) -> None:
    ours = {"x": values(1, 9), "line": values(1, 30, seed=1), "plane": values(5, 30, seed=2)}
    path = two(tmp_path / "trace.zarr", ours, {**ours, "line": ours["line"] * 2, "plane": ours["plane"] + 1})
    async with opened(path, (200, 60)) as (app, pilot):
        await press(pilot, "enter")
        assert app.screen.query_one(Curves).display
        assert not app.screen.query_one(Pictures).display
        await press(pilot, "right_square_bracket")
        assert app.screen.query_one(Curves).display
        assert app.screen.query_one(Pictures).display


@pytest.mark.parametrize(("size", "ascii_only"), [((80, 24), True), ((120, 40), False)])
async def test_the_error_is_shown_along_every_axis(tmp_path: Path, size: tuple[int, int], ascii_only: bool) -> None:
    async with opened(signal(tmp_path), size, ascii_only=ascii_only) as (app, pilot):
        await press(pilot, "enter")
        screen = app.screen
        assert isinstance(screen, LayerScreen)
        panel = screen.query_one(ByAxis)
        assert not panel.display
        titles = []
        for _ in range(3):
            await press(pilot, "d")
            assert panel.display
            titles.append(str(panel.border_title))
            if screen.names[2] in titles[-1]:
                assert np.flatnonzero(panel._hit).tolist() == [3]
                assert "outside: 3 (1 of 6)" in shown(app)
        assert [name for title, name in zip(titles, screen.names, strict=True) if name in title] == list(screen.names)
        await press(pilot, "d")
        assert not panel.display
        if ascii_only:
            assert shown(app).isascii()


@pytest.mark.parametrize(
    ("text", "index"),
    [("1,2,3", (1, 2, 3)), ("1 2 3", (1, 2, 3)), ("channel 4", (0, 0, 4)), ("Row -1", (0, 5, 0)), ("3", (0, 3, 0))],
)
def test_an_index_is_typed_in_many_ways(text: str, index: tuple[int, ...]) -> None:
    view = View((2, 6, 8), 1, 2, (0, 0, 0))
    assert indices.index_of(text, view, ("batch", "row", "channel"), 1) == index


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "0,0,0"), ("x", "0,0,0"), ("9,0,0", "batch ends at 1"), ("channel 8", "ends at 7"), ("depth 1", "channel 0"),
     ("1.5", "0,0,0"), ("²", "0,0,0")],
)  # fmt: skip
def test_a_wrong_index_says_what_would_be_right(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        indices.index_of(text, View((2, 6, 8), 1, 2, (0, 0, 0)), ("batch", "row", "channel"), 1)


async def test_a_wrong_index_stays_in_the_prompt(tmp_path: Path) -> None:
    async with opened(signal(tmp_path)) as (app, pilot):
        await press(pilot, "enter", "i", "ctrl+u", *"9,9", "enter")
        assert "or channel 0" in shown(app) or "or axis 2 0" in shown(app)
        await press(pilot, "escape")
        assert isinstance(app.screen, LayerScreen)
        await press(pilot, "escape")
        assert isinstance(app.screen, LayersScreen)


@example([0.0, 2.2250738585072014e-308], 1, 5)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 60), st.integers(1, 20))
def test_a_curve_reaches_its_extremes(line: list[float], columns: int, rows: int) -> None:
    numbers = np.array(line)
    found = curves.envelope(numbers, columns)
    if len(line) >= columns:
        assert found.low.min() == numbers.min()
        assert found.high.max() == numbers.max()
    points = curves.dots(found, rows, (numbers.min(), numbers.max()))
    assert points.shape == (rows, columns)
    assert points.any(axis=0).all()
    # Neighbouring columns touch: no steep line is torn apart.
    reach = [np.flatnonzero(column) for column in points.T]
    assert all(b[0] <= a[-1] + 1 and a[0] <= b[-1] + 1 for a, b in pairwise(reach))


def test_what_is_not_finite_is_marked_and_left_out_of_the_curve() -> None:
    line = np.array([0.0, 1.0, np.nan, np.inf, 2.0, 1.0])
    for columns in (3, 12):
        found = curves.envelope(line, columns)
        assert found.spoilt.any()
        assert np.nanmax(found.high) <= 2.0
    assert np.isinf(curves.peaks(line, 3)).any()
    assert curves.braille(np.ones((4, 2), bool)).tolist() == [[0xFF]]


async def test_a_pair_is_saved_in_either_order_of_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ours = {"x": values(2, 5), "net/image": values(2, 7, 6, 3, seed=1)}
    theirs = {"x": ours["x"], "net/image": ours["net/image"].transpose(0, 3, 1, 2).copy()}
    async with opened(two(tmp_path / "trace.zarr", ours, theirs)) as (app, pilot):
        row = layers(app).everything[1]
        labels = [choice.label for choice in pairs.choices(row, (layers(app).reference, layers(app).candidate))]
        assert [label.split(",")[0] for label in labels] == ["a and b", "a", "b", "b"]
        await press(pilot, "g", "j", "e")
        assert isinstance(app.screen, SaveScreen)
        await press(pilot, "enter")
        assert "Saved net.image.a.npy, net.image.b.npy" in shown(app)
        assert np.array_equal(np.load("net.image.a.npy"), ours["net/image"])
        assert np.array_equal(np.load("net.image.b.npy"), ours["net/image"])
        Path("net.image.a.npy").write_bytes(b"mine")
        await press(pilot, "enter", "e", "enter")
        assert "exists already" in shown(app)
        assert Path("net.image.a.npy").read_bytes() == b"mine"
        await press(pilot, "down", "down", "down", "enter")
        assert "exists already" in shown(app)
        await press(pilot, "enter")
        assert np.load("net.image.b.npy").shape == (2, 3, 7, 6)


def test_a_line_is_found_where_the_model_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("pass\n")
    assert sources.find("net.py:3", [Path("/nowhere"), tmp_path]) == (tmp_path / "net.py", 3)
    assert sources.find(f"{tmp_path}/net.py:3", [Path("/nowhere")]) == (tmp_path / "net.py", 3)
    for source in ("net.py", "net.py:x", ":3", "gone.py:3", ""):
        with pytest.raises(ValueError, match=r"no line of a file|not on this machine"):
            sources.find(source, [tmp_path])


@pytest.mark.parametrize(
    ("program", "options", "arguments", "beside"),
    [
        ("vim", "", ["+7", "FILE"], False),
        ("nano", "-l", ["-l", "+7", "FILE"], False),
        ("hx", "", ["FILE:7"], False),
        ("code", "--wait", ["--wait", "--goto", "FILE:7"], True),
        ("subl", "", ["FILE:7"], True),
        ("pycharm", "", ["--line", "7", "FILE"], True),
    ],
)
def test_every_editor_is_told_the_line_in_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, options: str, arguments: list[str], beside: bool
) -> None:
    editor = tmp_path / program
    editor.write_text("#!/bin/sh\n")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    file = tmp_path / "-net.py"
    call = sources.call(file, 7, {"EDITOR": f"{editor} {options}"})
    assert call.arguments == (str(editor), *[a.replace("FILE", str(file)) for a in arguments])
    assert call.beside is beside
    assert sources.call(file, 7, {"EDITOR": "nonsense", "VISUAL": str(editor)}).arguments[0] == str(editor)
    for environment in ({"EDITOR": "no-such-editor-here"}, {"EDITOR": "'"}):
        with pytest.raises(ValueError, match=r"EDITOR"):
            sources.call(file, 7, environment)


async def test_an_editor_with_a_window_opens_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import tracer

    class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, x: object) -> object:
            return torch.relu(x) * 2

    said = tmp_path / "said"
    editor = tmp_path / "code"
    editor.write_text(f'#!/bin/sh\necho "$@" > {said}.tmp && mv {said}.tmp {said}\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    path = tmp_path / "trace.zarr"
    for name in "ab":
        tracer.record(Net(), values(2, 3), trace=path, name=name)
    async with opened(path) as (app, pilot):
        await press(pilot, "G", "o")
        for _ in range(200):
            if said.exists():
                break
            await pilot.pause(0.05)
        words = said.read_text().split()
        assert sources._windows[-1].wait(10) == 0
        assert words[0] == "--goto"
        assert words[1].rpartition(":")[0] == str(Path(__file__).resolve())
        monkeypatch.setenv("VISUAL", "vim-that-is-not-there")
        await press(pilot, "o")
        assert "there is no editor 'vim-that-is-not-there'" in shown(app)
        await press(pilot, "g", "o")
        assert "does not know where this was called" in shown(app)


async def test_only_one_side_has_curves_too(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    ours = {"x": values(1, 9), "line": values(1, 30, seed=1)}
    record(path, "a", ours)
    record(path, "b", ours, fails=True)
    async with opened(path) as (app, pilot):
        await press(pilot, "g", "j", "enter", "d", "i", "escape", "v", "v")
        text = shown(app)
        assert "along feature" in text
        assert app.is_running
