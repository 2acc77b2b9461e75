"""Where the user was: kept for each trace in the user's own state directory, never in the trace."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import platformdirs

from tracer.compare import Tolerance
from tracer.store import Recording

_KEPT = 200
"""Traces that are remembered; the ones not opened for the longest time go."""
_LARGEST = 1 << 16


@dataclass
class Place:
    """What is remembered of a trace.

    Attributes:
        recordings: name and time of the two recordings that were compared last; what follows is of them.
        layer: the names of both sides of the row under the cursor.
    """

    theme: str = ""
    atol: float | None = None
    rtol: float | None = None
    sort: str = ""
    recordings: tuple[tuple[str, float], ...] = ()
    filter: str = ""
    layer: tuple[str, str] | None = None

    @property
    def tolerance(self) -> Tolerance | None:
        return None if self.atol is None or self.rtol is None else Tolerance(self.atol, self.rtol)

    @tolerance.setter
    def tolerance(self, value: Tolerance) -> None:
        self.atol, self.rtol = value.atol, value.rtol

    def is_of(self, reference: Recording, candidate: Recording) -> bool:
        """Whether these very recordings were compared last."""
        return self.recordings == _identity(reference, candidate)

    def note(
        self, reference: Recording, candidate: Recording, sort: str, filter: str, layer: tuple[str, str] | None
    ) -> None:
        """Remember how a comparison is looked at."""
        self.recordings = _identity(reference, candidate)
        self.sort, self.filter = sort, filter
        self.layer = layer if layer is not None else self.layer

    @classmethod
    def of_json(cls, raw: Any) -> Self:
        """What is usable of what a file says: it may be damaged, or of another version."""
        found = cls()
        for name in ("theme", "sort", "filter"):
            if isinstance(text := raw.get(name), str):
                setattr(found, name, text)
        for name in ("atol", "rtol"):
            number = raw.get(name)
            if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < math.inf:
                setattr(found, name, float(number))
        with contextlib.suppress(TypeError, ValueError):
            found.recordings = tuple((str(name), float(created)) for name, created in raw.get("recordings", ()))
            ours, theirs = raw.get("layer", ("", ""))
            found.layer = (str(ours), str(theirs)) if ours or theirs else None
        return found


def _identity(reference: Recording, candidate: Recording) -> tuple[tuple[str, float], ...]:
    return (reference.name, reference.created), (candidate.name, candidate.created)


def folder() -> Path:
    """Where places are kept."""
    return platformdirs.user_state_path("tracer-nn") / "ui"


def load(trace: Path, kept: Path) -> Place:
    """The place in a trace, from the folder ``kept``; a fresh one where none was kept that can be read."""
    try:
        with open(_file(trace, kept), encoding="utf-8") as file:
            return Place.of_json(json.loads(file.read(_LARGEST)))
    except (OSError, ValueError, AttributeError):
        return Place()


def save(trace: Path, place: Place, kept: Path) -> None:
    """Keep a place; where that cannot be done, nothing happens."""
    target = _file(trace, kept)
    raw = {name: value for name, value in asdict(place).items() if value not in (None, "", ())}
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError, ValueError):
        kept.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            temporary.write_text(json.dumps({"trace": str(trace.resolve()), **raw}), "utf-8")
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        others = sorted(kept.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in others[_KEPT:]:
            old.unlink(missing_ok=True)


def _file(trace: Path, kept: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(trace.resolve())).hexdigest()
    return kept / f"{digest[:32]}.json"
