"""What all screens share: the trace, what was asked for, and the tolerance as it stands now."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.compare import Tolerance
from tracer.errors import TracerError
from tracer.selection import choose, pair_of_series
from tracer.store import Recording, Trace
from tracer_tui.actions import Keymap
from tracer_tui.editing import Edits
from tracer_tui.remembering import Place

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping


@dataclass
class Session:
    """The state of one visit.

    Attributes:
        names: reference and candidate that the user asked for.
        tolerance: the one every verdict is judged by; changed from the screens.
        keymap: keys of the user's own choice.
        place: where the user was in this trace before, and is.
        paused: whether what happens in the trace is let pass.
        mapping, mapping_file: what a mapping file says about every comparison, and where it lies.
        now: the clock, replaced in tests.
    """

    trace: Trace
    names: tuple[str, str] | None
    tolerance: Tolerance
    mapping: Mapping | None = None
    mapping_file: Path | None = None
    ascii_only: bool = False
    paused: bool = False
    keymap: Keymap = field(default_factory=dict)
    place: Place = field(default_factory=Place)
    now: Callable[[], float] = time.time

    _edits: dict[tuple[str, str], Edits] = field(default_factory=dict, init=False)

    def edits(self, reference: str, candidate: str) -> Edits:
        """What is said about the pairs of two recordings."""
        key = reference, candidate
        if key not in self._edits:
            self._edits[key] = Edits(self.mapping, self.mapping_file)
        return self._edits[key]

    @property
    def unsaved(self) -> list[tuple[str, str]]:
        """The comparisons whose pairs were edited and not saved, by the names of the recordings."""
        return [names for names, edits in self._edits.items() if edits.unsaved]

    def chosen(self) -> tuple[Recording, Recording] | None:
        """The two recordings to compare at once, if there are two; one may still be under way."""
        with contextlib.suppress(TracerError, OSError):
            ours, theirs, _ = pair_of_series(self.trace, *(self.names or (None, None)))
            return ours, theirs
        for complete in (True, False):
            with contextlib.suppress(TracerError, OSError):
                found = choose(self.trace, *(self.names or (None, None)), complete=complete)
                for recording in found:
                    _ = recording.structure  # damaged ones are not opened unasked
                if complete or any(recording.state == "recording" for recording in found):
                    return self.trace.so_far(found[0]), self.trace.so_far(found[1])
        return None
