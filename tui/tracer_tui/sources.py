"""Opening a line of source in the user's editor."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_USUAL = ("sensible-editor", "nano", "vim", "vi")
_GOTO = {"code", "code-insiders", "codium", "vscodium", "cursor", "windsurf"}
_WITH_COLON = {"subl", "sublime_text", "zed", "zeditor", "atom", "lapce"}
_WITH_OPTION = {"idea", "pycharm", "charm", "clion", "webstorm", "kate", "mate"}
_WITH_PLUS_BESIDE = {"gedit", "xed", "pluma", "gvim", "mvim", "geany", "mousepad", "leafpad", "notepadqq"}
_OPENS_WINDOW = _GOTO | _WITH_COLON | _WITH_OPTION | _WITH_PLUS_BESIDE


@dataclass(frozen=True)
class Call:
    """A command that opens a file at a line; ``beside`` says that it has a window of its own."""

    arguments: tuple[str, ...]
    beside: bool


def find(source: str, folders: Sequence[Path]) -> tuple[Path, int]:
    """The file and line that a recording names ``file:line``; a relative one is looked for in ``folders``.

    Raises ValueError with what is wrong.
    """
    name, _, number = source.rpartition(":")
    if not name or not number.isdecimal():
        raise ValueError(f"{source} is no line of a file")
    for folder in folders:
        path = folder / name
        if path.is_file():
            return path.resolve(), int(number)
    raise ValueError(f"{name} is not on this machine: the model was recorded from {source}")


def call(file: Path, line: int, environment: Mapping[str, str]) -> Call:
    """How to open a line with ``$VISUAL``, ``$EDITOR``, or what is there. Raises ValueError where nothing is."""
    chosen = environment.get("VISUAL") or environment.get("EDITOR") or ""
    try:
        words = shlex.split(chosen)
    except ValueError:
        raise ValueError(f"$EDITOR cannot be read: {chosen}") from None
    if not words:
        words = [next((name for name in _USUAL if shutil.which(name)), "")]
    if not words[0]:
        raise ValueError("there is no editor: set $EDITOR")
    if shutil.which(words[0]) is None:
        raise ValueError(f"there is no editor '{words[0]}': set $EDITOR")
    program = os.path.basename(words[0])
    path = str(file)  # absolute, so that it is never taken for an option
    if program in _GOTO:
        place = ["--goto", f"{path}:{line}"]
    elif program in _WITH_COLON or program in {"hx", "helix"}:
        place = [f"{path}:{line}"]
    elif program in _WITH_OPTION:
        place = ["--line", str(line), path]
    else:
        place = [f"+{line}", path]
    window = program in _OPENS_WINDOW or bool({"-g", "--gui"} & set(words[1:]) and program in {"vim", "nvim"})
    return Call((*words, *place), window)


def start(beside: Call) -> None:
    """Open an editor with a window of its own; it stays when the interface ends. Raises OSError."""
    _windows[:] = [window for window in _windows if window.poll() is None]
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    _windows.append(subprocess.Popen(beside.arguments, start_new_session=True, **quiet))


_windows: list[subprocess.Popen[bytes]] = []
"""Kept to be waited for: they would stay as zombies otherwise."""
