"""How much memory there is, and how much a worker has taken."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

_CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_FAMILY_EVERY = 1.0
_LOADING, _LOADING_RATIO = 4 << 30, 20
"""Bytes that loading may take however small the files are, and how many times theirs: for copies and wider types."""


def default_memory() -> int:
    """90 % of the memory that is available now, to this machine or to the container we are in."""
    available = int(psutil.virtual_memory().available)
    for limit, usage in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            available = min(available, max(0, int(Path(limit).read_text()) - int(Path(usage).read_text())))
    return available * 9 // 10


def loading(files: Iterable[Path]) -> int:
    """Bytes that a worker may take while it loads these files: an architecture of one kilobyte can claim terabytes."""
    size = 0
    for path in files:
        with contextlib.suppress(OSError):
            inside = path.rglob("*") if path.is_dir() else [path]
            size += sum(file.stat().st_size for file in inside if file.is_file())
    return max(_LOADING, _LOADING_RATIO * size)


class Memory:
    """The resident memory of a process and its descendants."""

    def __init__(self, process: int) -> None:
        self._main: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._main = psutil.Process(process)
        self._family: list[psutil.Process] = []
        self._looked = 0.0

    def used(self) -> int:
        """Bytes; 0 when it has ended. New descendants are noticed within a second."""
        if self._main is None:
            return 0
        now = time.monotonic()
        if now - self._looked > _FAMILY_EVERY:
            self._looked = now
            with contextlib.suppress(psutil.Error):
                self._family = self._main.children(recursive=True)
        total = 0
        for process in (self._main, *self._family):
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        return total
