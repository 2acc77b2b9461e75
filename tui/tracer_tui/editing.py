"""What a person says about the pairs, step by step."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import InputError
from tracer.names import display

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping

_OTHER = (".json", ".toml")


@dataclass
class Edits:
    """A mapping as it stands, and what it was before.

    Attributes:
        mapping: None where nothing was said yet.
        file: where it is saved; None where it has no name yet.
    """

    mapping: Mapping | None
    file: Path | None = None
    _saved: Mapping | None = field(init=False)
    _stamp: tuple[int, int] | None = field(init=False)
    _before: list[Mapping | None] = field(default_factory=list, init=False)
    _after: list[Mapping | None] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._saved, self._stamp = self.mapping, _stamp(self.file)

    @property
    def is_ours(self) -> bool:
        """Whether the file is as it was read or saved last, so that nobody's work is lost when it is replaced."""
        return self._stamp is not None and _stamp(self.file) == self._stamp

    @property
    def writable(self) -> bool:
        """Whether the file is of the format that is written."""
        return self.file is not None and self.file.suffix.lower() not in _OTHER

    @property
    def unsaved(self) -> bool:
        return self.mapping is not self._saved

    def change(self, mapping: Mapping) -> None:
        self._before.append(self.mapping)
        self._after.clear()
        self.mapping = mapping

    def undo(self) -> bool:
        """Take the last change back; False where there is none."""
        return self._step(self._before, self._after)

    def redo(self) -> bool:
        """Make the change that was taken back; False where there is none."""
        return self._step(self._after, self._before)

    def _step(self, there: list[Mapping | None], back: list[Mapping | None]) -> bool:
        if not there:
            return False
        back.append(self.mapping)
        self.mapping = there.pop()
        return True

    def saved(self, file: Path, mapping: Mapping | None) -> None:
        """``mapping`` was written to ``file``; there may be later changes."""
        self.file, self._saved, self._stamp = file, mapping, _stamp(file)


def _stamp(file: Path | None) -> tuple[int, int] | None:
    if file is not None:
        with contextlib.suppress(OSError):
            found = file.stat()
            return found.st_mtime_ns, found.st_size
    return None


def write(file: Path, text: str, force: bool) -> None:
    """Write a mapping file, whole or not at all.

    Raises InputError for a name that would be read as another format, and for a file in the way; TraceError where the
    disk fails.
    """
    from tracer.weighing import writing

    if file.suffix.lower() in _OTHER:
        raise InputError(f"a mapping is written as YAML, and {display(str(file))} would be read as something else")
    writing.check(file, force)
    writing.publish_text(text, file, force)
