"""A few of what ``scripts/battery store`` tries: the trace against a model of it, and several processes at once."""

from __future__ import annotations

from pathlib import Path

from tests.test_battery_crashes import battery


def test_the_store_holds_what_was_put_into_it(tmp_path: Path) -> None:
    found = battery("store", 30, tmp_path)
    assert found["store"]["equal after each operation"] > 30
    assert {"keys", "axes", "mapping: spoiled", "two recorders", "readers", "read-only", "full disk"} <= found.keys()
