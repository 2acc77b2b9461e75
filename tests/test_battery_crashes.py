"""A few of what ``scripts/battery crashes`` tries: killed, failed and cut off commands lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.battery._disk import PowerCut

ROOT = Path(__file__).parent.parent


def battery(name: str, cases: int, tmp_path: Path) -> dict[str, Any]:
    """The outcomes of a battery by group; in a process of its own, which forks and so has no other threads."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.battery", name, "--cases", str(cases), "--json", str(tmp_path / "found")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((tmp_path / "found").read_text())[name]["outcomes"]
    return found


def test_whatever_stops_a_command_nothing_is_lost(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    found = battery("crashes", 3, tmp_path)
    assert len({group.partition(": ")[0] for group in found}) == 15
    assert sum(sum(outcomes.values()) for outcomes in found.values()) == 45


def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path) -> None:
    """Of what the batteries stand on: the disk that is simulated loses just what it may."""
    import random

    root, before = tmp_path / "root", tmp_path / "before"
    (before / "old").mkdir(parents=True)
    (before / "old/kept").write_bytes(b"kept")
    log: list[tuple[Any, ...]] = [
        ("create", f"{root}/a"), ("write", f"{root}/a", 0, b"12345678"), ("sync", f"{root}/a", b"12345678"),
        ("sync folder", str(root)), ("write", f"{root}/a", 4, b"wxyz"), ("create", f"{root}/b"),
        ("write", f"{root}/b", 0, b"b"), ("rename", f"{root}/b", f"{root}/c"), ("mark", "there"),
    ]  # fmt: skip
    seen = set()
    for seed in range(60):
        path = tmp_path / f"after {seed}"
        assert PowerCut(before, root, log).after(len(log), path, random.Random(seed)) == ["there"]
        assert (path / "old/kept").read_bytes() == b"kept"
        seen.add(tuple(sorted((file.name, file.read_bytes()) for file in path.iterdir() if file.is_file())))
    contents = {dict(files)["a"] for files in seen}
    assert contents == {b"12345678", b"1234wxyz"}
    assert {name for files in seen for name, _ in files} == {"a", "b", "c"}
    assert any(("c", b"") in files for files in seen)
    assert all(len(files) in (1, 2) for files in seen)
