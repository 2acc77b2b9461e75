"""Interpreters of other environments: which one a command means, and which were named on this machine before.

A recording says which interpreter loaded its model, and running it again starts that program, outside any sandbox. A
trace may come from anybody; so only what this user has typed once is started again without being typed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_state_path

from tracer.errors import InputError
from tracer.names import display
from tracer.worker import elsewhere


def _list() -> Path:
    return user_state_path("tracer", appauthor=False) / "pythons"


def named(given: str | None) -> str | None:
    """What ``--python`` names, remembered; None for none, or for this environment's own. Raises InputError."""
    if given is None:
        return None
    found = elsewhere.interpreter(given)
    if not elsewhere.is_other(found):
        return None
    if not _known(found) and "\n" not in found:
        with contextlib.suppress(OSError):  # it will have to be typed again
            _list().parent.mkdir(parents=True, exist_ok=True)
            with open(_list(), "a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"{found}\n")
    return found


def _known(python: str) -> bool:
    with contextlib.suppress(OSError):
        return python in _list().read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return False


def again(name: str, recorded: str | None, given: Sequence[str]) -> str | None:
    """The interpreter that is to run the model of recording ``name`` again; None for this environment's own.

    Args:
        recorded: that of the recording.
        given: each ``PATH``, or ``NAME=PATH`` for one recording alone.

    Raises InputError where there is none at that path, or a recorded one was never named by this user.
    """
    for text in reversed(given):
        recording, equals, path = text.partition("=")
        if not equals or os.path.exists(text):
            return named(text)
        if recording == name:
            return named(path)
    if recorded is None or not elsewhere.is_other(recorded):
        return None
    option = f"--python {display(name)}={display(recorded)}"
    if not _known(recorded):
        raise InputError(f"'{display(name)}' was recorded by a Python that you have not named here yet: {option}")
    return named(recorded)
