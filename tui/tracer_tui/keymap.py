"""Keys of the user's own choice: a table of the settings becomes a keymap, or a sentence that says what is wrong."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from textual.keys import KEY_NAME_REPLACEMENTS, Keys

from tracer.errors import InputError
from tracer.names import display
from tracer_tui import actions
from tracer_tui.actions import Keymap

_TAKEN = {
    **{f"ctrl+{letter}": "terminals send another key for it" for letter in "hijm"},
    "ctrl+q": "it leaves the program",
    "ctrl+c": "it belongs to the terminal",
    "ctrl+z": "it belongs to the terminal",
}
_ALIASES = {"esc": "escape", "return": "enter", "pgup": "pageup", "pgdn": "pagedown", "del": "delete", "ins": "insert"}
_KNOWN = {str(key.value) for key in Keys if not key.value.startswith("<")} | {"space", "backspace", "tab", "enter"}


def parse(table: Mapping[str, Any], where: str) -> Keymap:
    """The keymap that a table of settings stands for.

    An entry is ``action = "key"`` or ``action = ["key", "key"]``, for every screen that has the action, or for one
    alone where the action's name is ``screen.action``, or stands in a table that is called like the screen.

    Raises InputError, naming ``where``, for an action or a key that does not exist, and for a key that then means two
    things on one screen.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name, value in _flat(table):
        keys = tuple(_key(text, name, where) for text in _texts(value, name, where))
        for area in _areas(name, where):
            found[f"{area}.{name.rpartition('.')[2]}"] = keys
    for area in actions.AREAS:
        _check(area, found, where)
    return found


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Entries, those that hold for all screens first."""
    for name, value in sorted(table.items(), key=lambda item: ("." in item[0] or isinstance(item[1], dict), item[0])):
        if isinstance(value, dict) and not prefix:
            yield from _flat(value, f"{name}.")
        else:
            yield prefix + name, value


def _texts(value: Any, name: str, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f'{where}: {display(name)} takes a key such as "x", or a list of keys')
    return texts


def _areas(name: str, where: str) -> list[str]:
    """The screens that an entry is about."""
    area, _, action = name.rpartition(".")
    there = {one: {known.name for known in actions.of(one)} for one in actions.AREAS}
    if area and area not in there:
        raise InputError(f"{where}: there is no screen '{display(area)}' ({', '.join(actions.AREAS)})")
    areas = [one for one in ([area] if area else actions.AREAS) if action in there[one]]
    if not areas:
        names = sorted(there[area] if area else set().union(*there.values()))
        near = difflib.get_close_matches(action, names, 1)
        hint = f": did you mean {near[0]}?" if near else " (docs/ui.md lists them)"
        raise InputError(f"{where}: no action '{display(name)}'{hint}")
    return areas


def _key(text: str, name: str, where: str) -> str:
    """A key by the name that Textual has for it."""
    word = text.strip() or text
    if len(word) > 1:
        word = word.lower().replace("^", "ctrl+", 1) if word.startswith("^") else word
        head, plus, tail = word.rpartition("+")
        word = f"{head.lower()}{plus}{_ALIASES.get(tail.lower(), tail.lower() if len(tail) > 1 else tail)}"
        if plus and len(tail) == 1 and tail.isalpha():
            word = word.lower()
    if word == " ":
        word = "space"
    if len(word) == 1 and not word.isalnum():
        named = unicodedata.name(word, "").lower().replace("-", "_").replace(" ", "_")
        word = KEY_NAME_REPLACEMENTS.get(named, named)
        known = bool(word)
    else:
        plain = {one for action in actions.ACTIONS for one in action.keys}
        known = (len(word) == 1 and word.isprintable()) or word in _KNOWN or word in plain
    if not known:
        raise InputError(f"{where}: {display(name)}: there is no key '{display(text)}'")
    if word in _TAKEN:
        raise InputError(f"{where}: {display(name)}: {display(text)} cannot be used, {_TAKEN[word]}")
    return word


def _check(area: str, found: Keymap, where: str) -> None:
    owners: dict[str, actions.Action] = {}
    for action in actions.of(area, found):
        for key in action.keys:
            other = owners.setdefault(key, action)
            if other is not action:
                raise InputError(
                    f"{where}: key {actions.shown(key)} would mean {other.name} and {action.name} in {area}: give one "
                    "of them another key"
                )
