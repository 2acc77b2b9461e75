"""What all screens share: the trace, what was asked for, and the tolerance as it stands now."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tracer.alignment.mapping import Mapping
from tracer.compare import Tolerance
from tracer.errors import TracerError
from tracer.selection import choose
from tracer.store import Recording, Trace


@dataclass
class Session:
    """The state of one visit.

    Attributes:
        names: reference and candidate that the user asked for.
        tolerance: the one every verdict is judged by; changed from the screens.
        now: the clock, replaced in tests.
    """

    trace: Trace
    names: tuple[str, str] | None
    tolerance: Tolerance
    mapping: Mapping | None = None
    ascii_only: bool = False
    now: Callable[[], float] = time.time

    def chosen(self) -> tuple[Recording, Recording] | None:
        """The two recordings to compare at once, if there are two."""
        try:
            return choose(self.trace, *(self.names or (None, None)))
        except (TracerError, OSError):
            return None


def explain(error: BaseException) -> str:
    """An exception as a sentence for the user."""
    if isinstance(error, TracerError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
