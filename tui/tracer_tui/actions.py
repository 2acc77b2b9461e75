"""Every key and what it does: the one list that feeds the bindings, the footer, the help and the palette."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from textual.binding import Binding, BindingType

AREAS = ("runs", "steps", "layers", "blocks", "layer", "weights", "weight", "mapping")
TENSORS = ("layer", "weight")
"""The screens that show two tensors."""
PANELS = tuple(area for area in AREAS if area != "blocks")
"""The screens that have a panel of text."""
Keymap = Mapping[str, tuple[str, ...]]
"""Keys instead of those in the list, by ``area.action``."""
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
    "shift+tab": "S-tab",
    "shift+down": "S-down",
    "shift+up": "S-up",
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
    Action("refresh_runs", ("r",), "Refresh", "Read the trace again", ("runs",)),
    Action("follow", ("f",), "Follow", "Keep the cursor on what was recorded last", ("runs",), 3),
    Action("pause", ("p",), "Pause", "Stop showing what happens in the trace, or go on", ("runs",), 4),
    Action("open", ("enter",), "Compare", "Compare the chosen step: layers, causes, weights", ("steps",), 1),
    Action("next_divergence", ("n",), "First ✗", "Go to the first step that parts, and its layer", ("steps",), 2),
    Action("step_back", ("h", "left"), "Step −", "Show the step before", ("steps",), 3),
    Action("step", ("l", "right"), "Step +", "Show the step behind", ("steps",), 4),
    Action("follow", ("f",), "Follow", "Show the newest step", ("steps",), 5),
    Action("pause", ("space", "p"), "Pause", "Stop showing what comes, or go on", ("steps",), 6),
    Action("open", ("enter",), "Open", "Open the layer: heatmaps, statistics, worst elements", ("layers",), 1),
    Action("next_divergence", ("n",), "Next ✗", "Go to the next divergence, or cause of its own", ("layers",), 2),
    Action("previous_divergence", ("N",), "Previous ✗", "Go to the previous divergence, or such a cause", ("layers",)),
    Action("filter", ("slash",), "Filter", "Filter as you type: text, is:diverged, op:conv*, err>1e-4", ("layers",), 3),
    Action("sort", ("s",), "Sort", "Sort by the next of order, error, name", ("layers",)),
    Action("sort_back", ("S",), "Sort back", "Sort by the previous of order, error, name", ("layers",)),
    Action("tolerance", ("t",), "Tolerance", "Set the tolerance: atol, then rtol if it changes too", ("layers",)),
    Action("looser", ("plus", "equals_sign"), "Looser", "Ten times the tolerance", ("layers", "layer")),
    Action("tighter", ("minus",), "Tighter", "A tenth of the tolerance", ("layers", "layer")),
    Action("copy", ("y",), "Copy", "Copy what is known about the pair", ("layers",), 6),
    Action("copy", ("y",), "Copy", "Copy what is known about the pair", ("layer",)),
    Action("blocks", ("b",), "Blocks", "Both models as a tree, folded where all matches", ("layers",)),
    Action("follow", ("f",), "Follow", "Keep the cursor on what was recorded last", ("layers",)),
    Action("pause", ("space", "p"), "Pause", "Stop showing what happens in the trace, or go on", ("layers",)),
    Action("open", ("enter",), "Open", "Fold or unfold the scope, open the layer", ("blocks",), 1),
    Action("fold", ("h", "left"), "Fold", "Fold the scope, or go to the one around it", ("blocks",), 2),
    Action("unfold", ("l", "right"), "Unfold", "Unfold the scope", ("blocks",), 3),
    Action("fold_all", ("z",), "All", "Unfold everything, or fold again what matches", ("blocks",), 4),
    Action("next_divergence", ("n",), "Next ✗", "Go to the next divergence", ("blocks",), 5),
    Action("previous_divergence", ("N",), "Previous ✗", "Go to the previous divergence", ("blocks",)),
    Action("source", ("o",), "Source", "Open the line of the source in $EDITOR", ("layers", "layer")),
    Action("save", ("e",), "Save .npy", "Save the tensors of the pair", ("layers", "layer")),
    Action("weights", ("w",), "Weights", "Compare the weights, from those of this layer on", ("layers",), 7),
    Action("weights", ("w",), "Weights", "Compare the weights, from those of this layer on", ("layer",)),
    Action("open", ("enter",), "Open", "Open the parameter: pictures, distributions, numbers", ("weights",), 1),
    Action("next_divergence", ("n",), "Next ✗", "Go to the next that is not equal", ("weights",), 2),
    Action("previous_divergence", ("N",), "Previous ✗", "Go to the previous that is not equal", ("weights",)),
    Action("filter", ("slash",), "Filter", "Filter as you type: text, is:differs, op:bias, err>1e-4", ("weights",), 3),
    Action("sort", ("s",), "Sort", "Sort by the next of order, error, name", ("weights",)),
    Action("sort_back", ("S",), "Sort back", "Sort by the previous of order, error, name", ("weights",)),
    Action("save", ("e",), "Save .npy", "Save the values of either side, in either's layout", ("weights",), 5),
    Action("save", ("e",), "Save .npy", "Save the values of either side, in either's layout", ("weight",)),
    Action("part", ("p",), "Part", "Show the next parameter of a row of several", ("weights", "weight")),
    Action("numbers", ("v",), "Values", "Show numbers in place of colours", ("weights",), 7),
    Action("copy", ("y",), "Copy", "Copy what is known about the weights", ("weights",), 6),
    Action("copy", ("y",), "Copy", "Copy what is known about the weights", ("weight",)),
    Action("previous_weight", ("left_square_bracket",), "Previous", "Go to the previous parameter", ("weight",), 1),
    Action("next_weight", ("right_square_bracket",), "Next", "Go to the next parameter", ("weight",), 2),
    Action("mapping", ("m",), "Mapping", "Decide which layers are pairs", ("layers",), 7),
    Action("mapping", ("m",), "Mapping", "Decide which layers are pairs", ("layer",)),
    Action("accept", ("a",), "Accept", "Accept the pair, or pair what was picked", ("mapping",), 1),
    Action("reject", ("r",), "Reject", "These are no pair; a rejected one may be one again", ("mapping",), 2),
    Action("accept_all", ("A",), "All", "Accept all from a confidence on", ("mapping",), 3),
    Action("pick", ("space",), "Pick", "Pick a node; several of a side are paired as a group", ("mapping",), 4),
    Action("open", ("enter",), "Pair", "Pair what was picked on both sides", ("mapping",)),
    Action("ignore", ("x",), "Ignore", "Leave the node out of the pairs, or let it in again", ("mapping",)),
    Action("undo", ("u",), "Undo", "Take the last decision back", ("mapping",), 6),
    Action("redo", ("ctrl+r",), "Redo", "Make the decision that was taken back", ("mapping",)),
    Action("save", ("ctrl+s",), "Save", "Save the mapping file", ("mapping",), 7),
    Action("other", ("c",), "Candidate", "Propose the next candidate of a node that is left open", ("mapping",)),
    Action("pane", ("tab", "l", "right"), "Next list", "Go to the list on the right", ("mapping",)),
    Action("pane_back", ("shift+tab", "h", "left"), "Last list", "Go to the list on the left", ("mapping",)),
    Action("next_divergence", ("n",), "Next ?", "Go to the next pair to review", ("mapping",)),
    Action("previous_divergence", ("N",), "Previous ?", "Go to the previous pair to review", ("mapping",)),
    Action("filter", ("slash",), "Filter", "Filter as you type: text, is:doubtful, is:unpaired", ("mapping",)),
    Action("sort", ("s",), "Sort", "Sort by the next of doubt, order, name", ("mapping",)),
    Action("sort_back", ("S",), "Sort back", "Sort by the previous of doubt, order, name", ("mapping",)),
    Action("previous_layer", ("left_square_bracket",), "Previous", "Go to the previous layer", ("layer",), 1),
    Action("next_layer", ("right_square_bracket",), "Next", "Go to the next layer", ("layer",), 2),
    Action("step_back", ("h", "left"), "Slice −", "Step back along the chosen axis", TENSORS, 3),
    Action("step", ("l", "right"), "Slice +", "Step forward along the chosen axis", TENSORS, 4),
    Action("axis_back", ("H",), "Axis −", "Choose the previous axis to step along", TENSORS),
    Action("axis", ("L",), "Axis +", "Choose the next axis to step along", TENSORS),
    Action("go_to", ("i",), "Index", "Go to an index: 0,3,12 or channel 3", TENSORS),
    Action("turn", ("a",), "Axes", "Show other axes", TENSORS),
    Action("curves", ("c",), "Curves", "Curves of both sides over each other along an axis, or pictures", TENSORS, 5),
    Action("closer", ("z",), "Closer", "Look closer at a curve, around the chosen element", TENSORS),
    Action("farther", ("Z",), "Farther", "See more of the curve again", TENSORS),
    Action("details", ("d",), "Details", "The distribution, or the error at every index of an axis", TENSORS, 6),
    Action("numbers", ("v",), "Values", "Show numbers in place of colours and curves", TENSORS),
    Action("open", ("enter",), "Show element", "Show the slice that holds the chosen element", TENSORS),
    *_MOVES,
    Action("read_on", ("J", "shift+down"), "Read on", "Scroll the panel that says what is known", PANELS),
    Action("read_back", ("K", "shift+up"), "Read back", "Scroll that panel back", PANELS),
    Action("palette", ("colon", "ctrl+p"), "Palette", "Find any action by its name", AREAS),
    Action("suspend", ("ctrl+z",), "Suspend", "Stop until the shell's fg", AREAS),
    Action("help", ("question_mark", "f1"), "Help", "Show all keys", AREAS, 8),
    Action("back", ("q", "escape"), "Back", "Go back; from the recordings, leave", AREAS, 9),
)


def of(area: str, keymap: Keymap | None = None) -> Iterator[Action]:
    """The actions of a screen, in the order of the list, with the keys that ``keymap`` gives them."""
    for action in ACTIONS:
        if area in action.areas:
            own = (keymap or {}).get(f"{area}.{action.name}")
            yield replace(action, keys=own) if own else action


def footer(area: str, keymap: Keymap | None = None) -> list[Action]:
    return sorted((action for action in of(area, keymap) if action.footer), key=lambda action: action.footer)


def key(area: str, name: str, keymap: Keymap | None = None) -> str:
    """The key of an action as people write it."""
    return next(action.key for action in of(area, keymap) if action.name == name)


def bindings(area: str) -> list[BindingType]:
    """Textual's bindings of a screen; the identifiers let a keymap rebind them."""
    return [
        Binding(",".join(action.keys), action.name, action.label, show=False, id=f"{area}.{action.name}")
        for action in of(area)
    ]
