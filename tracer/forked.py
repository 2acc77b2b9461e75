"""What a forked process must not go on with: threads that write are its parent's, and so are the files."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Watching(Protocol):
    """Something that records, or hands on what is recorded."""

    def forked(self) -> None:
        """We are in a child of the process that made this: take nothing any more, and wait for no lock."""


_ALL: weakref.WeakSet[Watching] = weakref.WeakSet()


def ends_with_process(one: Watching) -> None:
    """Have ``one`` told in every child that is forked while it lives."""
    _ALL.add(one)


def _tell() -> None:
    for one in list(_ALL):
        one.forked()


os.register_at_fork(after_in_child=_tell)
