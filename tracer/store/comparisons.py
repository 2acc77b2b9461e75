"""What was found when two recordings were compared, kept beside them.

``comparisons/<reference>/<candidate>`` is a group without arrays; its attributes hold entries that whoever compares
writes and reads, as the text that their checksum is of. They are a convenience: a missing, damaged or outdated group
only means that tensors are read again.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from tracer import names
from tracer.errors import TraceError
from tracer.store import crc32c, zarr3
from tracer.store.recordings import Recording, Step, inside
from tracer.store.trace import COMPARISONS


def load(reference: Recording, candidate: Recording, version: int) -> list[Any]:
    """The entries that were kept for two recordings; none where there are none that can be used."""
    with contextlib.suppress(TraceError, OSError, ValueError, RecursionError):
        attributes = zarr3.read_metadata(_folder(reference, candidate))["attributes"]
        text = attributes.get("entries")
        if attributes.get("version") == version and isinstance(text, str):
            entries = json.loads(text) if attributes.get("checksum") == _checksum(text) else []
            return entries if isinstance(entries, list) else []
    return []


def save(reference: Recording, candidate: Recording, version: int, entries: list[Any]) -> bool:
    """Keep entries (JSON values) in place of those there are; False where the trace is not to be written to.

    No lock is held: the metadata is replaced in one step, and of two writers the last one counts.
    """
    root = reference.root
    if isinstance(reference, Step) or isinstance(candidate, Step):  # they come and go by the thousand
        return False
    if candidate.root != root or not os.access(root, os.W_OK) or "recording" in (reference.state, candidate.state):
        return False
    try:
        folder = _folder(reference, candidate)
        for part in (folder.parent.parent, folder.parent, folder):
            if part.is_symlink():
                return False
            zarr3.make_group(part)
        text = json.dumps(entries, separators=(",", ":"), allow_nan=False)
        attributes = {"version": version, "checksum": _checksum(text), "entries": text}
        zarr3.make_group(folder, attributes)
    except (TraceError, OSError, ValueError):
        return False
    return True


def _folder(reference: Recording, candidate: Recording) -> Path:
    key = f"{COMPARISONS}/{names.encode(reference.name)}/{names.encode(candidate.name)}"
    return inside(reference.root, key)


def _checksum(text: str) -> int:
    return crc32c.checksum(text.encode())
