"""Some models that are hard to watch (``scripts/battery models`` tries them all)."""

from __future__ import annotations

from tests.battery import models


def test_odd_models_compute_what_they_do_unwatched() -> None:
    tally = models.run(3, 3)
    assert not tally.broken
    assert tally.cases == 3 * 4 + 3 * 2 + 1 + 1  # each in its ways, programs that fork, too little memory
