"""A daemon among hostile clients (``scripts/battery daemon`` sends it ten thousand messages)."""

from __future__ import annotations

from tests.battery import daemon


def test_the_daemon_stays_up_and_honest_recorders_lose_nothing() -> None:
    tally = daemon.run(5, 500)
    assert not tally.broken
    assert tally.outcomes["honest", "steps that read back bit for bit"] > 10
    assert tally.outcomes["messages", "refused, with a reason"] > 100
