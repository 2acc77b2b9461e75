"""How much memory there is, and how much a worker has taken."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil

_CGROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
_FAMILY_EVERY = 1.0


def default_memory() -> int:
    """90 % of the memory that is available now, to this machine or to the container we are in."""
    available = int(psutil.virtual_memory().available)
    for limit, usage in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            available = min(available, max(0, int(Path(limit).read_text()) - int(Path(usage).read_text())))
    return available * 9 // 10


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
