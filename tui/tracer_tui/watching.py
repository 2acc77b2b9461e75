"""What goes on in a trace that is open: recordings begin, grow, end, are replaced, and vanish."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import TracerError, said
from tracer.store import Recording, Trace
from tracer.store.trace import is_locked
from tracer.store.zarr3 import METADATA

PERIOD = 0.5
"""Seconds between two looks."""

_Stamp = tuple[str, int, int, int]


@dataclass(frozen=True)
class Snapshot:
    """The recordings at one moment, oldest first; those under way with what they hold by then.

    ``error`` says why the trace cannot be read, and is empty otherwise.
    """

    recordings: tuple[Recording, ...] = ()
    error: str = ""

    def of(self, name: str) -> Recording | None:
        return next((recording for recording in self.recordings if recording.name == name), None)

    def same(self, other: Snapshot) -> bool:
        """Whether nothing has happened between the two."""
        ours, theirs = self.recordings, other.recordings
        alike = len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))
        return alike and self.error == other.error


class Watch:
    """Looks at a trace again and again; while nothing changes, only times of files are asked for.

    To be used by one thread at a time.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._stamps: frozenset[_Stamp] | None = None
        self._last = Snapshot()

    def look(self) -> Snapshot:
        """The trace as it is now; the recordings that have not changed are the same objects as before. Never raises."""
        try:
            self._last = self._look()
        except Exception as error:
            self._stamps = None
            self._last = Snapshot((), said(error))
        return self._last

    def _look(self) -> Snapshot:
        trace = Trace(self._root)
        stamps = _stamps(self._root / "recordings")
        ended = any(r.state == "recording" and not is_locked(r.folder) for r in self._last.recordings)
        if stamps == self._stamps and stamps and not ended:
            found = self._last.recordings
        else:
            found = tuple(self._known(recording) for recording in Trace.open(self._root).recordings())
        self._stamps = stamps
        found = tuple(trace.so_far(recording) for recording in found)
        if len(found) == len(self._last.recordings) and all(map(_is, found, self._last.recordings)):
            return Snapshot(self._last.recordings)
        for recording in found:  # read here, off the screen's thread
            with contextlib.suppress(TracerError):
                _ = recording.structure, recording.summaries
        return Snapshot(found)

    def _known(self, recording: Recording) -> Recording:
        """The object that stands for this very recording already, where there is one."""
        was = self._last.of(recording.name)
        if was is None or was.state != recording.state or was.created != recording.created:
            return recording
        return was if was.state == "recording" or was.attributes == recording.attributes else recording


def _is(one: Recording, other: Recording) -> bool:
    return one is other


def _stamps(folder: Path) -> frozenset[_Stamp]:
    """What changes whenever the metadata of a recording is written."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                stat = os.stat(os.path.join(entry.path, METADATA))
                found.append((entry.name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return frozenset(found)


def saved(recording: Recording) -> frozenset[str]:
    """The nodes whose tensors are saved; none of a damaged recording."""
    with contextlib.suppress(TracerError):
        return frozenset(recording.activations)
    return frozenset()
