"""Some names that do harm (``scripts/battery names`` tries them all, and as many made up)."""

from __future__ import annotations

from tests.battery import names


def test_names_are_stored_exactly_and_shown_as_text() -> None:
    tally = names.run(4, 5)
    assert not tally.broken
    assert {group for group, _ in tally.outcomes} == {"stored", "inside", "screen", "told"}
