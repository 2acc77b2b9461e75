"""The garbage collector while much is noted that stays."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_COLLECTED = 500_000
"""New objects from one run of the garbage collector to the next."""


@contextlib.contextmanager
def rarely_collected() -> Iterator[None]:
    """Fewer runs of the garbage collector: what is noted of each layer would set off dozens that find nothing, each of
    which looks at all that a framework holds."""
    before = gc.get_threshold()
    if 0 < before[0] < _COLLECTED:
        gc.set_threshold(_COLLECTED, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
