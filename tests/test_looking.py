"""What the daemon's rules and comparisons see of the steps: all of them, in turn, also after it was killed."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
from pathlib import Path

import numpy as np

import tracer
from tests.live_driving import daemon, status, until
from tracer.cli.main import run
from tracer.graph import Node, Structure
from tracer.live import looking, place
from tracer.live.destination import Opening
from tracer.live.looking import Looker, Task
from tracer.live.remote import Remote
from tracer.live.retention import Retention

STRUCTURE = Structure((Node("x", "input", "input", "input", (), (2, 3), "float32"),), ("x",))


def sent(remote: Remote, name: str, values: dict[int, float]) -> None:
    """Send steps with these values, and end."""
    remote.open(Opening(name, STRUCTURE, {"framework": "pytorch", "mode": "train"}, None))
    for step, value in values.items():
        remote.begin(step)
        remote.put("value", "", "x", np.full((2, 3), value, np.float32))
        remote.commit(0.0)
    remote.close()


def events(trace: Path, name: str) -> list[tuple[int, str]]:
    file = tracer.open(trace).recording(name).folder / "events.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [(line["step"], line["rule"]) for line in lines]


def test_steps_and_pairs_are_looked_at_by_turns_and_the_oldest_left_out() -> None:
    woken = threading.Semaphore(0)
    looker = Looker(woken.release)
    done: list[float] = []

    def task(value: float) -> Task:
        return Task(Path("t"), (f"r{value:.0f}", "other"), int(value), math.sqrt, (value,), done.append)

    for number in range(3):
        looker.step(task(float(number)))
    for number in range(100, 100 + looking._PAIRS + 2):
        looker.pair(task(float(number)))
    assert looker.left_out == 2
    assert looker.wanted(Path("t"), "r1") == {1}
    assert len(looker.wanted(Path("t"), "other")) == len(looker) == 3 + looking._PAIRS
    assert looker.wanted(Path("elsewhere"), "other") == set()
    looker.turn()
    while len(looker):
        assert woken.acquire(timeout=60)
        looker.turn()
    looker.close()
    assert done[:7] == [math.sqrt(value) for value in (0, 102, 1, 103, 2, 104, 105)]
    assert len(done) == 3 + looking._PAIRS


def test_what_fails_is_left_and_the_next_is_looked_at() -> None:
    woken = threading.Semaphore(0)
    looker = Looker(woken.release)
    done: list[float] = []
    for function, argument in ((math.sqrt, -1.0), (os._exit, 1), (math.sqrt, 4.0)):
        looker.step(Task(Path("t"), ("r",), 0, function, (argument,), done.append))
    looker.turn()
    while len(looker):
        assert woken.acquire(timeout=60)
        looker.turn()
    looker.close()
    assert done == [2.0]


def test_a_step_goes_only_when_it_was_looked_at_but_for_the_budget() -> None:
    sizes = dict.fromkeys(range(10), 100)
    assert Retention(last=2).dropped(sizes, {3}, {0, 7}) == [1, 2, 4, 5, 6]
    large = dict.fromkeys(range(10), 300_000_000)
    assert Retention(last=2).dropped(large, (), range(10)) == [0, 1, 2, 3, 4]
    assert Retention(last=2, every=4).dropped(sizes, ()) == [1, 2, 3, 5, 6, 7]
    assert Retention(last=2, budget=300).dropped(sizes, {3}, {0, 7}) == [0, 1, 2, 4, 5, 6, 7]


def test_every_step_is_looked_at_before_it_goes(tmp_path: Path) -> None:
    trace = tmp_path / "t.zarr"
    with daemon(trace, "--keep-last", "2"):
        sent(Remote(), "pt", {step: math.nan if step in (5, 30) else 1.0 for step in range(60)})
        until(lambda: not status()["to_look_at"])
        assert status()["not_looked_at"] == 0
        assert events(trace, "pt") == [(5, "nonfinite"), (30, "nonfinite")]
        assert tracer.open(trace).recording("pt").steps == (5, 30, 58, 59)  # after its program ended, too


def test_a_daemon_that_is_started_again_looks_at_what_was_left(tmp_path: Path) -> None:
    trace = tmp_path / "t.zarr"
    with daemon(trace):
        sent(Remote(), "pt", {step: math.nan if step == 150 else 1.0 for step in range(151)})
        os.kill(int(place.running() or 0), signal.SIGKILL)
        until(lambda: place.running() is None)
        assert run(["daemon", "start", "--trace", str(trace)]) == 0
        until(lambda: not status()["to_look_at"])
        assert events(trace, "pt") == [(150, "nonfinite")]
        sent(Remote(), "second", {200: 1.0, 201: math.nan})
        assert run(["daemon", "stop"]) == 0  # which looks at what waits first
        assert events(trace, "second") == [(201, "nonfinite")]
