"""The Weights screen and what opens from it, driven by keys on real recordings."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from textual.widgets import Input

import tracer
from tests.tui_driving import SIZES, layers, opened, press, settled, shown, values
from tracer.store import Trace
from tracer.weighing.reading import undone
from tracer.weighing.table import WeightTable
from tracer_tui.app import TracerApp
from tracer_tui.screens.saving import SaveScreen
from tracer_tui.screens.weight import WeightScreen
from tracer_tui.screens.weights import WeightsScreen
from tracer_tui.widgets.panel import Panel

torch = pytest.importorskip("torch")


def net(hidden: int = 9) -> Any:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, hidden), torch.nn.Linear(hidden, 24)]
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network and its copy with faults: a kernel of the other sign, another epsilon, one number off."""
    path = tmp_path_factory.mktemp("weighed") / "trace.zarr"
    ours, theirs = net(), net()
    theirs[1].eps = 1e-3
    with torch.no_grad():
        theirs[2].weight.mul_(-1)
        theirs[3].bias[2] += 0.5
    tracer.record(ours, values(3, 6), trace=path, name="a")
    tracer.record(theirs, None, trace=path, name="b")
    return path


def weights(app: TracerApp) -> WeightsScreen:
    found = next(screen for screen in app.screen_stack if isinstance(screen, WeightsScreen))
    assert found.table is not None
    return found


@pytest.mark.parametrize(("size", "theme"), zip(SIZES, cycle(["textual-dark", "textual-light"]), strict=False))
async def test_what_differs_is_named_and_why(weighed: Path, size: tuple[int, int], theme: str) -> None:
    async with opened(weighed, size, theme=theme) as (app, pilot):
        await press(pilot, "w")
        screen = weights(app)
        text = shown(app)
        for part in ("Weights", "✗ 2 differ", "2.weight", "its sign is"):
            assert part in text
        note = next(row.notes for row in screen.everything if row.reference == "1.running_var")
        assert note == ["epsilon 1e-05 against 0.001"]
        await press(pilot, "g", "n")
        assert screen.current is not None
        assert screen.current.reference == "2.weight"
        assert "its sign is turned" in screen.query_one(Panel).plain
        assert screen.query_one("#pictures").display is (size[1] >= 30)
        await press(pilot, "n")
        assert screen.current.reference == "3.bias"
        assert "1 of 24 numbers" in screen.query_one(Panel).plain


async def test_the_cursor_begins_at_the_layer_it_came_from(weighed: Path) -> None:
    async with opened(weighed) as (app, pilot):
        await press(pilot, "G", "w")
        assert weights(app).current.reference == "3.bias"  # type: ignore[union-attr]
        await press(pilot, "q", "g", "j", "w")
        assert weights(app).current.reference == "0.weight"  # type: ignore[union-attr]
        await press(pilot, "q", "enter", "w", "q")
        assert app.screen.AREA == "layer"  # type: ignore[attr-defined]


async def test_filter_sort_and_copy(weighed: Path) -> None:
    async with opened(weighed) as (app, pilot):
        await press(pilot, "w", "slash", *"is:dif")
        screen = weights(app)
        assert [row.reference for row in screen.listed] == ["2.weight", "3.bias"]
        await press(pilot, "escape", "slash", *"op:kernel", "enter")
        assert len(screen.listed) == 3
        await press(pilot, "escape", "slash", *"is:match")
        assert "is: takes equal, differs" in shown(app)
        await press(pilot, "escape", "s")
        assert screen.listed[0].error == max(row.error or 0.0 for row in screen.listed)
        await press(pilot, "g", "y")
        assert app.clipboard.startswith("differs: ")
        assert "Greatest absolute difference" in app.clipboard
        await press(pilot, "question_mark")
        assert "equal: the same but for what a conversion rounds" in shown(app)


async def test_both_sides_in_the_references_layout(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        await press(pilot, "w", "g", "enter")
        screen = app.screen
        assert isinstance(screen, WeightScreen)
        trace = Trace.open(real_trace)
        kernel = trace.recording("tf")
        stored = kernel.read_stored(kernel.weights["conv1d", "kernel"])
        part = screen.part
        assert part is not None
        assert (part.layout, part.axes) == ("reference", ("time", "in", "out"))
        np.testing.assert_array_equal(part.reference, stored)
        np.testing.assert_array_equal(part.candidate, stored)
        assert screen.view is not None
        await press(pilot, "l", "v", "a", "right_square_bracket", "left_square_bracket")
        for key in ("c", "c", "d", "v"):
            await press(pilot, key)
        assert "no element differs" in shown(app)
        await press(pilot, "q", "n", "enter")
        text = shown(app)
        assert "dense/kernel" in text
        assert "worst elements" in text
        assert screen.home.current.status == "differs"  # type: ignore[union-attr]
        assert app.screen.part.axes == ("in", "out")  # type: ignore[attr-defined]  # read through a reshape


async def test_saving_asks_and_never_replaces_silently(
    real_trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with opened(real_trace) as (app, pilot):
        await press(pilot, "w", "g", "e")
        assert isinstance(app.screen, SaveScreen)
        text = shown(app)
        for part in ("tf, as it is", "tf, in pt's layout", "pt, in tf's layout", "conv1d.kernel.npy"):
            assert part in text
        await press(pilot, "enter")
        assert isinstance(app.screen, WeightsScreen)
        ours = np.load("conv1d.kernel.npy")
        await press(pilot, "e", "down")
        assert app.screen.query_one(Input).value == "conv1d.kernel.as-pt.npy"
        app.screen.query_one(Input).value = "conv1d.kernel.npy"
        await press(pilot, "enter")
        assert "exists already: enter again replaces it" in shown(app)
        np.testing.assert_array_equal(np.load("conv1d.kernel.npy"), ours)
        await press(pilot, "enter")
        np.testing.assert_array_equal(np.load("conv1d.kernel.npy"), ours.transpose(2, 1, 0))
        await press(pilot, "enter", "e")  # from the parameter's own screen
        app.screen.query_one(Input).value = "no/such/folder.npy"
        await press(pilot, "enter")
        assert "there is no folder" in shown(app)
        await press(pilot, "escape")
        assert isinstance(app.screen, WeightScreen)


async def test_parts_of_one_row_are_shown_one_by_one(tmp_path: Path) -> None:
    """The two biases of one LSTM are one in the other framework; the parts of an attention are three."""
    keras = pytest.importorskip("keras")
    path = tmp_path / "trace.zarr"
    inputs = keras.Input((5, 6))
    own = keras.layers.MultiHeadAttention(2, 3, name="attention")
    model = keras.Model(inputs, own(inputs, inputs))

    class Twin(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x: Any) -> Any:
            return self.attention(x, x, x)[0]

    tracer.record(model, values(2, 5, 6), trace=path, name="tf")
    tracer.record(Twin().eval(), None, trace=path, name="pt")
    async with opened(path) as (app, pilot):
        await press(pilot, "w")
        screen = weights(app)
        at = next(i for i, row in enumerate(screen.listed) if row.row.pair is not None and len(row.row.pair.pieces) > 1)
        screen.grid.cursor = at
        await settled(pilot)
        await press(pilot, "p", "enter")
        shown_part = app.screen
        assert isinstance(shown_part, WeightScreen)
        first = shown_part.part
        await press(pilot, "p")
        assert shown_part.part is not first
        assert "3 of 3 parts" in shown(app)


async def test_weights_of_one_side_alone(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    more = torch.nn.Sequential(*net(), torch.nn.Linear(24, 4, bias=False)).eval()
    with torch.no_grad():
        more[4].weight.copy_(torch.eye(4, 24) * 2)
    for name, model in (("a", net()), ("b", more)):
        tracer.record(model, values(3, 6), trace=path, name=name)
    async with opened(path) as (app, pilot):
        await press(pilot, "w")
        screen = weights(app)
        alone = [row for row in screen.everything if not row.row.reference]
        assert [(row.candidate, row.state) for row in alone] == [("4.weight", "extra")]
        screen.grid.cursor = screen.listed.index(alone[0])
        await settled(pilot)
        await press(pilot, "p", "v", "enter", "l", "e", "escape")
        text = shown(app)
        assert "extra" in text
        await press(pilot, "q")
        assert "(+96" in shown(app)


async def test_the_same_values_under_several_names_are_told(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    twins = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6)).eval()
    twins[2].load_state_dict(twins[0].state_dict())
    for name in "ab":
        tracer.record(twins, values(3, 6), trace=path, name=name)
    async with opened(path) as (app, pilot):
        await press(pilot, "w", "g")
        assert "the same values as 2.weight" in weights(app).query_one(Panel).plain
        assert "tied in a: 2" in shown(app)


async def test_recordings_without_weights_say_what_to_do(made: Path) -> None:
    async with opened(made, (80, 24)) as (app, pilot):
        await press(pilot, "w")
        assert "holds no weights" in shown(app)
        for key in ("n", "e", "enter", "s", "p", "y", "slash", "escape", "v"):
            await press(pilot, key)
        await press(pilot, "q")
        assert layers(app) is app.screen


def test_steps_are_taken_back() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 8))
    from tracer.alignment.relayout import read

    steps = (
        ("runs", 0, 2, 2, 4, 1, 0),
        ("shape", 2, 3, 8),
        ("move", 2, 0, 1),
        ("blocks", 0, 3, 0, 1, 2),
        ("shape", 4, 2, 6),
    )
    before, back = undone(steps, values.shape)
    assert before == ()
    np.testing.assert_array_equal(read(back, read(steps, [values]))[0], values)
    before, back = undone((("part", 1, 1, 2), ("move", 1, 0)), values.shape)
    assert before == (("part", 1, 1, 2),)
    np.testing.assert_array_equal(read(back, [values[:, 4:].T])[0], values[:, 4:])


async def test_rows_are_shown_as_they_are_known(weighed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer.weighing.table._REST", -1.0)
    shown_then: list[tuple[int, bool]] = []
    take = WeightsScreen._take

    def noted(self: WeightsScreen, table: WeightTable) -> None:
        take(self, table)
        shown_then.append((len(self.listed), self.has_result))
        if len(self.listed) == 3:
            self.grid.cursor = 2

    monkeypatch.setattr(WeightsScreen, "_take", noted)
    async with opened(weighed) as (app, pilot):
        await press(pilot, "w")
        assert shown_then == [*((count + 1, False) for count in range(10)), (10, True)]
        assert weights(app).grid.cursor == 2  # where it was put meanwhile
        assert "comparing" not in shown(app)
