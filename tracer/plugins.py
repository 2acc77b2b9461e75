"""What installed distributions offer under an entry-point group."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points


def points(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group.

    They are read again only when the search path or a folder on it has changed: for that, the files of every
    distribution are read, which takes longer than recording a small model.
    """
    return _points(group, tuple((entry, _changed(entry)) for entry in sys.path))


@lru_cache(maxsize=8)
def _points(group: str, path: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _changed(entry: str) -> int:
    try:
        return os.stat(entry or ".").st_mtime_ns
    except OSError:
        return 0
