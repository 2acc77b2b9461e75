"""The Mapping screen: decisions change the pairs, the comparison follows, the file says what was decided."""

from __future__ import annotations

import asyncio
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from tests.test_mapping_rejected import OURS, THEIRS
from tests.tui_driving import CLOCK, HOSTILE, SIZES, driven, layers, opened, press, record, settled, shown, two, values
from tracer.alignment.mapping import Mapping, load
from tracer.compare import Tolerance
from tracer.errors import InputError
from tracer.store import Trace
from tracer_tui import pairing
from tracer_tui.app import TracerApp
from tracer_tui.editing import Edits, write
from tracer_tui.pairing import Said, State
from tracer_tui.screens.mapping import MappingScreen
from tracer_tui.screens.runs import RunsScreen
from tracer_tui.screens.saving import SaveScreen
from tracer_tui.session import Session
from tracer_tui.widgets.grid import Grid
from tracer_tui.widgets.panel import Panel


def mapping(app: TracerApp) -> MappingScreen:
    return next(screen for screen in app.screen_stack if isinstance(screen, MappingScreen))


async def paired(pilot: Pilot[Any]) -> None:
    """Wait until the comparison is by the mapping as it stands."""
    home = layers(pilot.app)  # type: ignore[arg-type]
    for _ in range(400):
        await settled(pilot)
        if not home.pairing_anew:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the pairs were not sought anew")


async def decide(pilot: Pilot[Any], *keys: str) -> None:
    await press(pilot, *keys)
    await paired(pilot)


def found(app: TracerApp, state: State) -> list[tuple[str, str]]:
    return [row.ends for row in mapping(app).everything if row.state is state]


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """Two layers that look the same but for their order, which only a person can know."""
    x, a, b = values(1, 4), values(1, 6, seed=1), values(1, 6, seed=2)
    return two(tmp_path / "trace.zarr", {"x": x, "one": a, "two": b}, {"x": x, "eins": a + 1, "zwei": b})


@pytest.mark.parametrize(("size", "theme"), zip(SIZES, cycle(["textual-dark", "textual-light"]), strict=False))
async def test_shows_what_is_paired_and_why(real_trace: Path, size: tuple[int, int], theme: str) -> None:
    async with opened(real_trace, size, theme=theme) as (app, pilot):
        await press(pilot, "m", "j")
        screen = mapping(app)
        text = shown(app)
        for part in ("Mapping", "15 sure", "0 to review", "first divergence: flatten", "suggestions"):
            assert part in text
        why = screen.query_one(Panel).plain
        for part in ("conv1d/preactivation ⇄ conv1", "axes NWC→NCW", "graph", "shape", "node 2 of 15 ⇄ 2 of 15"):
            assert part in why
        beside = screen.query_one("#ours", Grid).display, screen.query_one("#theirs", Grid).display
        assert beside == ((size[0] > 80,) * 2)
        await press(pilot, "tab")
        assert screen.pane == "theirs"
        assert screen.query_one("#theirs", Grid).display
        assert screen.query_one("#theirs", Grid).cursor == 1
        await press(pilot, "h", "h")
        assert screen.pane == "ours"


async def test_a_decision_changes_the_comparison_below(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        before = len(layers(app).diff.pairs)  # type: ignore[union-attr]
        await press(pilot, "m", "j", "j")
        assert mapping(app).current.ends == ("conv1d", "relu1")  # type: ignore[union-attr]
        await press(pilot, "r")
        assert found(app, State.REJECTED) == [("conv1d", "relu1")]  # at once
        await paired(pilot)
        assert "conv1d" in layers(app).diff.alignment.unmatched_reference  # type: ignore[union-attr]
        assert len(layers(app).diff.pairs) < before  # type: ignore[union-attr]
        assert "1 rejected" in shown(app)
        assert "unsaved" in shown(app)
        await decide(pilot, "u")
        assert found(app, State.REJECTED) == []
        assert len(layers(app).diff.pairs) == before  # type: ignore[union-attr]
        assert "unsaved" not in shown(app)
        await decide(pilot, "ctrl+r")
        assert found(app, State.REJECTED) == [("conv1d", "relu1")]
        await decide(pilot, "G", "r")  # a rejected one: taken back
        assert found(app, State.REJECTED) == []
        await press(pilot, "u", "u", "u", "u")
        assert "1 rejected" not in shown(app)
        await press(pilot, "q")
        assert layers(app) is app.screen
        assert len(layers(app).everything) == before


async def test_accepting_is_stated_and_goes_on_to_the_next(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        await decide(pilot, "m", "a", "a")
        assert found(app, State.ACCEPTED) == [("ecg_input", "x"), ("conv1d/preactivation", "conv1")]
        assert mapping(app).current.ends == ("conv1d", "relu1")  # type: ignore[union-attr]
        stated = layers(app).diff.alignment.by_reference["ecg_input"]  # type: ignore[union-attr]
        assert stated.evidence == {"mapping": 1.0}
        await press(pilot, "A")
        field = app.screen.query_one(Input)
        assert field.value == "0.9"
        field.value = "2"
        await press(pilot, "enter")
        assert "a number from 0 to 1" in shown(app)
        field.value = "0.5"
        await decide(pilot, "enter")
        assert len(found(app, State.ACCEPTED)) == 15
        await decide(pilot, "a", "u", "u", "u")
        assert found(app, State.ACCEPTED) == []


async def test_pairs_made_by_hand_one_to_one_and_in_groups(twins: Path) -> None:
    async with opened(twins) as (app, pilot):
        await press(pilot, "m", "h", "G", "space")
        screen = mapping(app)
        assert screen.picks == (("two",), ())
        await press(pilot, "enter")
        assert "Pick one on the other side too" in shown(app)
        await press(pilot, "tab", "tab", "g", "j", "space")
        assert "picked two ⇄ eins" in screen.query_one(Panel).plain
        await decide(pilot, "enter")
        assert screen.picks == ((), ())
        assert found(app, State.ACCEPTED) == [("two", "eins")]
        diff = layers(app).diff
        assert diff is not None
        assert diff.alignment.by_reference["two"].candidate == ("eins",)
        await decide(pilot, "u")
        # Several on a side, in whatever order they are picked: the last to run is compared.
        await press(pilot, "h", "h", "G", "space", "k", "space", "l", "l", "G", "space")
        assert screen.picks == (("two", "one"), ("zwei",))
        await decide(pilot, "a")
        stated = layers(app).diff.alignment.by_reference["one"]  # type: ignore[union-attr]
        assert (stated.reference, stated.candidate) == (("one", "two"), ("zwei",))
        await press(pilot, "space", "escape")
        assert screen.picks == ((), ())
        assert app.screen is screen


async def test_ignored_nodes_are_let_in_again(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        await decide(pilot, "m", "j", "j", "x")
        assert "conv1d" in layers(app).diff.alignment.unmatched_reference  # type: ignore[union-attr]
        assert "relu1" in layers(app).diff.alignment.unmatched_candidate  # type: ignore[union-attr]
        screen = mapping(app)
        await press(pilot, "slash", *"is:ignored", "enter")
        assert [node.key for side in screen.nodes for node in side] == ["conv1d", "relu1"]
        await decide(pilot, "tab", "x", "tab", "x")
        assert layers(app).diff.alignment.by_reference["conv1d"].candidate == ("relu1",)  # type: ignore[union-attr]


async def test_an_edit_cancels_what_is_computed(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        await press(pilot, "m")
        home, screen = layers(app), mapping(app)
        for _ in range(3):
            screen.action_accept()
        assert home.pairing_anew
        assert len(found(app, State.ACCEPTED)) == 3  # before anything is computed
        assert not home._under_way
        while not home._under_way and home.pairing_anew:
            await pilot.pause(0.01)
        under_way = set(home._under_way)
        screen.action_accept()
        assert all(worker.is_cancelled for worker in under_way)
        await paired(pilot)
        assert len(found(app, State.ACCEPTED)) == 4
        assert home.diff is not None
        assert home.diff.mapping is home.mapping
        screen.action_undo()
        screen.action_back()  # the comparison goes on when the screen is left
        await paired(pilot)
        assert len(home.mapping.pairs) == 3  # type: ignore[union-attr]
        assert home.diff.mapping is home.mapping


async def test_saving_writes_what_the_command_line_reads(
    real_trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with opened(real_trace) as (app, pilot):
        await decide(pilot, "m", "a", "j", "r", "j", "x")
        await press(pilot, "ctrl+s")
        assert isinstance(app.screen, SaveScreen)
        assert app.screen.query_one(Input).value == "mapping.yaml"
        app.screen.query_one(Input).value = "mapping.toml"
        await press(pilot, "enter")
        assert "a mapping is written as YAML" in shown(app)
        app.screen.query_one(Input).value = "mapping.yaml"
        await press(pilot, "enter")
        assert "unsaved" not in shown(app)
        read = load(tmp_path / "mapping.yaml")
        own = layers(app).mapping
        assert own is not None
        assert (read.reference, read.candidate) == ("tf", "pt")
        assert (read.pairs, read.rejected, read.ignore) == (own.pairs, own.rejected, own.ignore)
        assert "# not decided, left to tracer" in (tmp_path / "mapping.yaml").read_text()
        await decide(pilot, "a")
        await press(pilot, "ctrl+s")  # the file is known now
        assert not isinstance(app.screen, SaveScreen)
        assert len(load(tmp_path / "mapping.yaml").pairs) == len(own.pairs) + 1
        await decide(pilot, "a")
        (tmp_path / "mapping.yaml").write_text("pairs: []\n# somebody else's work\n")
        await press(pilot, "ctrl+s")
        assert isinstance(app.screen, SaveScreen)
        await press(pilot, "enter")
        assert "exists already: enter again replaces it" in shown(app)
        assert "somebody" in (tmp_path / "mapping.yaml").read_text()
        await press(pilot, "enter")
        assert "somebody" not in (tmp_path / "mapping.yaml").read_text()


async def test_leaving_with_unsaved_decisions_asks_once(real_trace: Path) -> None:
    async with opened(real_trace) as (app, pilot):
        await decide(pilot, "m", "a")
        await press(pilot, "q", "q")
        assert isinstance(app.screen, RunsScreen)
        await press(pilot, "q")
        assert app.is_running
        assert "not saved" in shown(app)
        await press(pilot, "q")
        assert app.return_code == 0


async def test_a_mapping_file_is_edited_in_place(real_trace: Path, tmp_path: Path) -> None:
    """Its head, its patterns and tolerances stay; a pattern is taken apart only where an edit contradicts it."""
    file = tmp_path / "m.yaml"
    file.write_text(
        "# ours\npairs:\n  - {reference: 'conv1d{_i}', candidate: 'relu{i+1}'}\n"
        "ignore: {reference: [max_pooling1d*]}\ntolerances: [{match: 'dense*', atol: 1e-3, reason: r}]\n"
    )
    session = Session(Trace.open(real_trace), None, Tolerance(), load(file), file, now=lambda: CLOCK)
    app = TracerApp(session)
    async with driven(app) as pilot:
        await settled(pilot)
        await press(pilot, "m")
        screen = mapping(app)
        assert len(found(app, State.ACCEPTED)) == 3
        screen.listing.cursor = next(i for i, row in enumerate(screen.listed) if row.ends == ("conv1d_1", "relu2"))
        await decide(pilot, "r")
        assert layers(app).mapping.pairs[0].reference == ("conv1d",)  # type: ignore[union-attr]
        await press(pilot, "h", "slash", *"pool", "enter", "x")
        said = [notice.message for notice in app._notifications]
        assert any("is ignored by the pattern 'max_pooling1d*' of the mapping file" in text for text in said)
        await press(pilot, "ctrl+s")
        text = file.read_text()
        assert text.startswith("# ours\n")
        read = load(file)
        assert [entry.reference for entry in read.pairs] == [("conv1d",), ("conv1d_2",)]
        assert read.rejected[0].reference == ("conv1d_1",)
        assert read.tolerances[0].reason == "r"


async def test_what_is_left_open_can_be_settled(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import tracer

    def net(depth: int) -> Any:
        return torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(depth)]).eval()

    path = tmp_path / "trace.zarr"
    for name, depth in (("a", 5), ("b", 6)):
        torch.manual_seed(depth)
        tracer.record(net(depth), values(2, 4), trace=path, name=name)
    async with opened(path) as (app, pilot):
        await press(pilot, "m", "g")
        screen = mapping(app)
        row = screen.current
        assert row is not None
        assert row.state is State.OPEN
        assert len(row.choices) > 1
        assert "other candidates" in screen.query_one(Panel).plain
        await press(pilot, "c")
        other = screen.current
        assert other is not None
        assert other.candidate != row.candidate
        await decide(pilot, "a")
        assert other.ends in found(app, State.ACCEPTED)
        assert layers(app).diff.alignment.by_reference[other.reference[0]].candidate == other.candidate  # type: ignore[union-attr]


@pytest.mark.parametrize(("size", "ascii_only"), [((80, 24), True), ((120, 40), False)])
async def test_hostile_names_are_text(tmp_path: Path, size: tuple[int, int], ascii_only: bool) -> None:
    path = tmp_path / "trace.zarr"
    ours = {name: values(1, 4 + place, seed=place) for place, name in enumerate(HOSTILE)}
    record(path, "[red]a[/]", ours)
    record(path, "[@click=app.quit]b[/]", {n + "'": v + 1 for n, v in ours.items()})
    async with opened(path, size, ascii_only=ascii_only) as (app, pilot):
        await press(pilot, "m", *["j"] * 4, "a", "r", "tab", "space", "x", "tab", "G", "space", "enter", "enter")
        await paired(pilot)
        assert "\x1b" not in app.export_screenshot()
        if ascii_only:
            assert shown(app).isascii()
        await press(pilot, "question_mark")
        assert "rejected one may be one again" in shown(app)
        screen = mapping(app)
        assert screen._said is not None
        diff = layers(app).diff
        assert diff is not None
        text = pairing.text_of(diff.alignment, screen._said, (screen.reference, screen.candidate))
        write(tmp_path / "m.yaml", text, force=False)
        assert load(tmp_path / "m.yaml").pairs == screen._said.mapping.pairs


async def test_survives_any_size_and_a_comparison_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "trace.zarr"
    record(path, "a", {"x": values(1, 4), "y": values(1, 4)})
    record(path, "b", {"x": values(1, 4), "y": values(1, 4)}, input_id="other")
    async with opened(path) as (app, pilot):
        await press(pilot, "m")
        for key in ("a", "r", "x", "space", "enter", "u", "c", "n", "A", "enter", "ctrl+s", "tab", "j"):
            await press(pilot, key)
        for size in [(40, 10), (200, 60), (20, 5), (80, 24)]:
            await pilot.resize_terminal(*size)
            await settled(pilot)
        assert "different inputs" in shown(app)


async def test_weights_and_mapping_at_any_size_in_any_theme(real_trace: Path) -> None:
    async with opened(real_trace, ascii_only=True) as (app, pilot):
        other = cycle([(200, 60), (40, 10), (35, 30)])
        for keys in (["w"], ["e"], ["escape", "enter"], ["q", "q", "m"], ["tab", "space"], ["ctrl+s"]):
            await press(pilot, *keys)
            app.theme = "textual-light" if app.theme == "textual-dark" else "textual-dark"
            for size in [next(other), (20, 5)]:
                await pilot.resize_terminal(*size)
                await settled(pilot)
                assert shown(app).isascii(), keys


def test_edits_are_steps() -> None:
    first, second = Mapping(), Mapping(reference="a")
    edits = Edits(None)
    assert not edits.unsaved
    assert not edits.undo()
    edits.change(first)
    edits.change(second)
    assert edits.undo()
    assert edits.mapping is first
    assert edits.redo()
    assert not edits.redo()
    edits.saved(Path("m.yaml"), second)
    assert not edits.unsaved
    assert not edits.is_ours  # no such file: nothing that may be replaced unasked


def test_what_contradicts_a_block_is_refused() -> None:
    found = Mapping.model_validate({"pairs": [{"reference": "block_{i}/*", "candidate": "h.{i}.*"}]})
    said = Said(found, (OURS, THEIRS))
    with pytest.raises(InputError, match="in blocks that are not"):
        pairing.pair_up(said, ("block_0/dense",), ("h.1.dense",))
    assert pairing.pair_up(said, ("block_0/dense",), ("h.0.dense",)).pairs[0] == found.pairs[0]
