"""The registry of keys: what feeds footer, help, palette and documentation, and what a user puts in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli import refused
from tests.tui_driving import driven, layers, press, settled, shown
from tracer.cli import configured
from tracer.compare import Tolerance
from tracer.errors import InputError
from tracer.store import Trace
from tracer_tui import actions, keymap, keytable
from tracer_tui.app import TracerApp
from tracer_tui.session import Session

WHERE = "tracer.toml, [ui.keys]"


def test_the_documented_keys_are_those_there_are() -> None:
    document = Path(__file__).parent.parent / "docs" / "ui.md"
    text = document.read_text("utf-8")
    assert keytable.updated(text) == text, "run: PYTHONPATH=tui python -m tracer_tui.keytable docs/ui.md"


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({}, {}),
        ({"layers.sort": "f2"}, {"layers.sort": ("f2",)}),
        ({"layers": {"sort": ["ö", "F3"]}}, {"layers.sort": ("ö", "f3")}),
        ({"runs.mark": "*", "runs.follow": "^e"}, {"runs.mark": ("asterisk",), "runs.follow": ("ctrl+e",)}),
        ({"runs.mark": "Ctrl+E"}, {"runs.mark": ("ctrl+e",)}),
        ({"runs.mark": "/"}, {"runs.mark": ("slash",)}),
        (
            {"layers.sort": "n", "layers.next_divergence": "s"},
            {"layers.sort": ("n",), "layers.next_divergence": ("s",)},
        ),
        ({"runs.mark": "esc", "runs.back": "F9"}, {"runs.mark": ("escape",), "runs.back": ("f9",)}),
    ],
)
def test_a_table_of_keys_is_a_keymap(table: dict[str, Any], found: dict[str, tuple[str, ...]]) -> None:
    assert keymap.parse(table, WHERE) == found


def test_an_entry_for_all_screens_gives_way_to_one_for_a_single_screen() -> None:
    found = keymap.parse({"layers.help": "f3", "help": "f2"}, WHERE)
    assert found["layers.help"] == ("f3",)
    assert {found[f"{area}.help"] for area in actions.AREAS if area != "layers"} == {("f2",)}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"sorts": "x"}, "no action 'sorts': did you mean sort?"),
        ({"nowhere.sort": "x"}, "there is no screen 'nowhere'"),
        ({"runs.sort": "x"}, "no action 'runs.sort'"),
        ({"layers.sort": "blub"}, "there is no key 'blub'"),
        ({"layers.sort": 3}, "takes a key"),
        ({"layers.sort": []}, "takes a key"),
        ({"layers.sort": "n"}, "key n would mean next_divergence and sort in layers"),
        ({"layers.sort": "ctrl+j"}, "terminals send another key"),
        ({"layers.sort": "ctrl+q"}, "it leaves the program"),
        ({"layers": {"x": {"y": "z"}}}, "layers.x"),
        ({"\x1b[31m": "x"}, "\\x1b[31m"),
    ],
)
def test_a_wrong_table_of_keys_is_one_sentence(table: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        keymap.parse(table, WHERE)
    assert says in str(caught.value)
    assert WHERE in str(caught.value)
    assert "\x1b" not in str(caught.value)


async def test_other_keys_work_and_are_shown(made: Path) -> None:
    keys = keymap.parse({"layers.sort": ["f2", "n"], "layers.next_divergence": "s", "runs.mark": "u"}, WHERE)
    app = TracerApp(Session(Trace.open(made), None, Tolerance(), keymap=keys))
    async with driven(app, (200, 40)) as pilot:
        await settled(pilot)
        screen = layers(app)
        assert "s Next ✗" in shown(app)
        await press(pilot, "g", "s")
        assert screen.current is not None
        assert screen.current.reference == "two"
        assert screen.sort == "order"
        await press(pilot, "f2")
        assert screen.sort == "error"
        await press(pilot, "n")
        assert screen.sort == "name"
        await press(pilot, "question_mark")
        assert "f2 n  Sort by the next" in shown(app)
        await press(pilot, "escape", "colon", *"next")
        assert "Next ✗ (s)" in shown(app)
        await press(pilot, "escape", "q")
        assert "u on b makes that the reference" in shown(app)
        await press(pilot, "u")
        assert app.screen.marked  # type: ignore[attr-defined]


def test_settings_are_those_of_the_nearest_file(tmp_path: Path) -> None:
    inner = tmp_path / "project" / "models"
    inner.mkdir(parents=True)
    (tmp_path / "tracer.toml").write_text('[ui.keys]\nsort = "f9"\n')
    assert configured.table("ui", "keys", start=inner)[0] == {"sort": "f9"}
    (inner.parent / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert configured.table("ui", "keys", start=inner)[0] == {"sort": "f9"}  # it has no settings of ours
    (inner.parent / "pyproject.toml").write_text('[tool.tracer.ui.keys]\nsort = "f8"\n')
    found, where = configured.table("ui", "keys", start=inner)
    assert found == {"sort": "f8"}
    assert where.endswith("pyproject.toml, [tool.tracer.ui.keys]")
    (inner / ".git").mkdir()
    assert configured.table("ui", "keys", start=inner) == ({}, "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[ui.keys]\nnext_divergance = "x"\n', "no action 'next_divergance': did you mean next_divergence?"),
        ("[ui]\nkeys = 3\n", "[ui.keys] is to be a table"),
        ("[ui\n", "is no TOML"),
    ],
)
def test_wrong_settings_are_refused_before_the_screen_is_taken(made: Path, text: str, says: str) -> None:
    (made.parent / "tracer.toml").write_text(text)
    refused("ui", "--trace", str(made), cwd=made.parent, says=says)
