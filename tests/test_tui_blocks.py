"""Both models as a tree of scopes."""

from __future__ import annotations

from pathlib import Path

from tests.tui_driving import HOSTILE, layers, opened, press, settled, shown, two, values
from tracer.compare import Verdict
from tracer_tui import blocks
from tracer_tui.screens.blocks import BlocksScreen
from tracer_tui.screens.layer import LayerScreen
from tracer_tui.screens.layers import LayersScreen

NAMES = ["x", *(f"enc.{stage}.{part}" for stage in range(3) for part in ("conv", "norm", "act")), "head"]
OURS = {name: values(2, 3, seed=place) for place, name in enumerate(NAMES)}
WRONG = {**OURS, "enc.1.norm": OURS["enc.1.norm"] + 1}


def lines(screen: BlocksScreen) -> list[tuple[int, str, bool]]:
    return [(line.depth, line.block.name, line.open and line.folds) for line in screen.lines]


async def test_the_tree_is_open_where_it_diverges(tmp_path: Path) -> None:
    async with opened(two(tmp_path / "trace.zarr", OURS, WRONG)) as (app, pilot):
        await press(pilot, "b")
        screen = app.screen
        assert isinstance(screen, BlocksScreen)
        assert lines(screen) == [
            (0, "x", False), (0, "enc", True), (1, "0", False), (1, "1", True), (2, "conv", False), (2, "norm", False),
            (2, "act", False), (1, "2", False), (0, "head", False),
        ]  # fmt: skip
        assert screen.current is not None
        assert screen.current.block.name == "norm"  # the layer that was under the cursor before
        assert screen.current.block.verdict is Verdict.DIVERGED
        await press(pilot, "h")
        assert screen.current.block.path == ("enc", "1")
        await press(pilot, "h")
        assert (1, "1", False) in lines(screen)
        assert "✓ 2  ✗ 1" in shown(app)
        await press(pilot, "n")
        assert screen.current.block.name == "norm"  # what hid it was opened
        await press(pilot, "N")
        assert screen.current.block.name == "norm"
        await press(pilot, "g", "j", "l", "l")
        assert (1, "0", True) in lines(screen)
        await press(pilot, "z")
        assert len(screen.lines) == len(NAMES) + 4
        await press(pilot, "z")
        assert len(screen.lines) == 9
        await press(pilot, "n", "enter")
        assert isinstance(app.screen, LayerScreen)
        assert app.screen.row.reference == "enc.1.norm"
        await press(pilot, "q", "q")
        assert isinstance(app.screen, LayersScreen)
        assert app.screen.current is not None
        assert app.screen.current.reference == "enc.1.norm"


async def test_a_layer_that_the_filter_hides_opens_from_the_tree(tmp_path: Path) -> None:
    async with opened(two(tmp_path / "trace.zarr", OURS, WRONG)) as (app, pilot):
        await press(pilot, "slash", *"head", "enter", "b", "n", "enter")
        assert isinstance(app.screen, LayerScreen)
        assert app.screen.row.reference == "enc.1.norm"
        assert layers(app).filter == ""


async def test_layers_without_scopes_are_folded_in_runs(real_trace: Path) -> None:
    async with opened(real_trace, (100, 30)) as (app, pilot):
        await press(pilot, "b")
        screen = app.screen
        assert isinstance(screen, BlocksScreen)
        assert [len(list(line.block.rows())) for line in screen.lines] == [10, 1, 4]
        assert screen.current is not None
        assert screen.current.block.name == "flatten"
        await press(pilot, "g", "enter")
        assert len(screen.lines) == 13


async def test_where_only_the_candidate_has_scopes_the_tree_is_its(tmp_path: Path) -> None:
    flat = {name.replace(".", "_"): value for name, value in OURS.items()}
    async with opened(two(tmp_path / "trace.zarr", flat, OURS)) as (app, pilot):
        await press(pilot, "b", "z")
        screen = app.screen
        assert isinstance(screen, BlocksScreen)
        scopes = [line.block for line in screen.lines if line.folds]
        assert [block.name for block in scopes][:2] == ["enc", "0"]
        assert scopes[1].ours == "enc_0_conv … enc_0_act"
        assert scopes[1].theirs == "enc.0"
        assert "enc_0_conv … enc_0_act" in shown(app)
        assert blocks.reference_leads(layers(app).everything) is False


async def test_names_in_the_tree_are_text_at_any_size(tmp_path: Path) -> None:
    ours = {f"{name}/{part}": values(1, 4 + place) for place, name in enumerate(HOSTILE) for part in "ab"}
    theirs = {name: value + 1 for name, value in ours.items()}
    for size, ascii_only in (((80, 24), True), ((200, 60), False)):
        async with opened(two(tmp_path / f"{ascii_only}.zarr", ours, theirs), size, ascii_only=ascii_only) as (
            app,
            pilot,
        ):
            await press(pilot, "b", "z")
            assert "\x1b" not in app.export_screenshot()
            assert "[@click=app.bell]z[" in shown(app)
            if ascii_only:
                assert shown(app).isascii()
            await pilot.resize_terminal(30, 8)
            await settled(pilot)
            await press(pilot, "G", "k", "h", "z")
            assert app.is_running


def test_paths_keep_what_belongs_to_a_call_together() -> None:
    assert blocks.parts_of("a/b.c#1/preactivation") == ["a", "b", "c#1/preactivation"]
    assert blocks.parts_of("a/b/preactivation") == ["a", "b/preactivation"]
    assert blocks.parts_of("...") == ["..."]
    assert blocks.parts_of("") == [""]
