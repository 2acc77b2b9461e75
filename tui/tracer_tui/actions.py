"""Every key and what it does: the one list that feeds the bindings, the footer, the help and the palette."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from textual.binding import Binding, BindingType

AREAS = ("runs", "layers", "layer")
_SHOWN = {
    "slash": "/",
    "question_mark": "?",
    "colon": ":",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "plus": "+",
    "minus": "-",
    "equals_sign": "=",
    "escape": "esc",
    "pagedown": "pgdn",
    "pageup": "pgup",
}


@dataclass(frozen=True, slots=True)
class Action:
    """Something the user can do.

    Attributes:
        name: of the method ``action_<name>`` on the screen (or the application).
        keys: as Textual names them, the first being the one that is shown.
        label: one or two words, for footer and palette.
        help: a sentence for help and palette.
        areas: the screens that have it.
        footer: its place in the footer, 0 for none; at most eight fit.
    """

    name: str
    keys: tuple[str, ...]
    label: str
    help: str
    areas: tuple[str, ...]
    footer: int = 0

    @property
    def key(self) -> str:
        return shown(self.keys[0])


def shown(key: str) -> str:
    """A key as people write it."""
    return _SHOWN.get(key, key.replace("ctrl+", "^"))


_MOVES = (
    Action("cursor_down", ("j", "down"), "Down", "Move the cursor down", AREAS),
    Action("cursor_up", ("k", "up"), "Up", "Move the cursor up", AREAS),
    Action("first_row", ("g", "home"), "First row", "Jump to the first row", AREAS),
    Action("last_row", ("G", "end"), "Last row", "Jump to the last row", AREAS),
    Action("half_down", ("ctrl+d",), "Half page down", "Move the cursor half a page down", AREAS),
    Action("half_up", ("ctrl+u",), "Half page up", "Move the cursor half a page up", AREAS),
    Action("page_down", ("pagedown", "ctrl+f"), "Page down", "Move the cursor a page down", AREAS),
    Action("page_up", ("pageup", "ctrl+b"), "Page up", "Move the cursor a page up", AREAS),
)

ACTIONS: tuple[Action, ...] = (
    Action("mark", ("space",), "Mark", "Mark the reference, then the candidate", ("runs",), 1),
    Action("open", ("enter",), "Compare", "Compare the marked recordings", ("runs",), 2),
    Action("refresh_runs", ("r",), "Refresh", "Read the trace again", ("runs",), 3),
    Action("open", ("enter",), "Open", "Open the layer: heatmaps, statistics, worst elements", ("layers",), 1),
    Action("next_divergence", ("n",), "Next ✗", "Go to the next divergence", ("layers",), 2),
    Action("previous_divergence", ("N",), "Previous ✗", "Go to the previous divergence", ("layers",)),
    Action("filter", ("slash",), "Filter", "Filter as you type: text, is:diverged, op:conv*, err>1e-4", ("layers",), 3),
    Action("sort", ("s",), "Sort", "Sort by the next of order, error, name", ("layers",), 4),
    Action("sort_back", ("S",), "Sort back", "Sort by the previous of order, error, name", ("layers",)),
    Action("tolerance", ("t",), "Tolerance", "Set the tolerance: atol, then rtol if it changes too", ("layers",), 5),
    Action("looser", ("plus", "equals_sign"), "Looser", "Ten times the tolerance", ("layers", "layer")),
    Action("tighter", ("minus",), "Tighter", "A tenth of the tolerance", ("layers", "layer")),
    Action("copy", ("y",), "Copy", "Copy what is known about the pair", ("layers", "layer"), 6),
    Action("previous_layer", ("left_square_bracket",), "Previous", "Go to the previous layer", ("layer",), 1),
    Action("next_layer", ("right_square_bracket",), "Next", "Go to the next layer", ("layer",), 2),
    Action("step_back", ("h", "left"), "Slice −", "Step back along the chosen axis", ("layer",), 3),
    Action("step", ("l", "right"), "Slice +", "Step forward along the chosen axis", ("layer",), 4),
    Action("axis_back", ("H",), "Axis −", "Choose the previous axis to step along", ("layer",)),
    Action("axis", ("L",), "Axis +", "Choose the next axis to step along", ("layer",)),
    Action("turn", ("a",), "Axes", "Show another two axes", ("layer",), 5),
    Action("numbers", ("v",), "Values", "Show numbers in place of colours", ("layer",), 7),
    Action("open", ("enter",), "Show element", "Show the slice that holds the chosen element", ("layer",)),
    *_MOVES,
    Action("palette", ("colon", "ctrl+p"), "Palette", "Find any action by its name", AREAS),
    Action("help", ("question_mark", "f1"), "Help", "Show all keys", AREAS, 8),
    Action("back", ("q", "escape"), "Back", "Go back; from the recordings, leave", AREAS, 9),
)


def of(area: str) -> Iterator[Action]:
    """The actions of a screen, in the order of the list."""
    return (action for action in ACTIONS if area in action.areas)


def footer(area: str) -> list[Action]:
    return sorted((action for action in of(area) if action.footer), key=lambda action: action.footer)


def bindings(area: str) -> list[BindingType]:
    """Textual's bindings of a screen; the identifiers let a keymap rebind them."""
    return [
        Binding(",".join(action.keys), action.name, action.label, show=False, id=f"{area}.{action.name}")
        for action in of(area)
    ]
