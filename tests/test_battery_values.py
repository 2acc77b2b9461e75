"""Some values of each kind, recorded exactly or said not to be (``scripts/battery values`` tries them all)."""

from __future__ import annotations

from tests.battery import values


def test_values_are_recorded_exactly_or_named() -> None:
    tally = values.run(1, 16)
    assert not tally.broken
    groups = {group for group, _ in tally.outcomes}
    assert {f"{side} {what}" for side in ("torch", "tensorflow") for what in ("bits", "told", "compared")} <= groups
