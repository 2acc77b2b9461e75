"""What it costs to watch a training run, and how fast the daemon takes steps in.

``python -m benchmarks.live`` prints, all in one run: the daemon's ingest in MB/s and messages/s beside a plain ZeroMQ
connection and memcpy; a ResNet-50's training step watched at every call, every 10th, every 100th and for statistics
alone, in units of the plain step; the delay from a step's end to its comparison; the daemon's memory while a recorder
sends faster than it writes. Ratios within a run are what counts: these machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.transports import copied, seconds
from tests.live_driving import daemon
from tracer.graph import Node, Structure
from tracer.live import place, wire
from tracer.live.destination import Opening
from tracer.live.remote import Remote, connect


@contextmanager
def _daemon() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="tracer-") as folder, daemon(Path(folder) / "t.zarr", "--keep-last", "2"):
        yield


def ingest(megabytes: int, each: int) -> dict[str, float]:
    """Send so much in tensors of ``each`` bytes, and wait until all of it is written."""
    count = max(8, (megabytes << 20) // each)
    steps = max(1, count // 256)
    structure = Structure(
        tuple(Node(f"n{i}", "input", "input", "input", (), (each // 4,), "float32") for i in range(count // steps)), ()
    )
    values = np.random.default_rng(0).standard_normal(each // 4, np.float32)
    with _daemon():
        pid = place.running()
        assert pid is not None
        remote = Remote()
        remote.open(Opening("r", structure, {}))
        process = psutil.Process(pid)
        before = most = process.memory_info().rss
        began = time.perf_counter()
        for step in range(steps):
            remote.begin(step)
            for node in structure:
                remote.put("value", "", node.name, values)
            remote.commit(time.time())
            most = max(most, process.memory_info().rss)
        remote.close()
        took = time.perf_counter() - began
    sent = steps * len(structure)
    return {
        "bytes": each, "mb_per_s": sent * each / 1e6 / took, "messages_per_s": sent / took,
        "memory_mb": (most - before) / 1e6,
    }  # fmt: skip


def training(batch: int, size: int, repeat: int) -> dict[str, float]:
    """Seconds a step of a ResNet-50, by how it is watched."""
    import torch

    import tracer
    from tests import torchvision_ops

    torchvision_ops.register()
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model = resnet50(weights=None)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    def timed(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - began) / steps

    ways: dict[str, dict[str, Any]] = {
        "every 1": {"every": 1},
        "every 10": {"every": 10},
        "every 100": {"every": 100},
        "every 1, statistics": {"every": 1, "statistics_only": True},
        "every 1, gradients": {"every": 1, "gradients": True},
    }
    found: dict[str, list[float]] = {"plain": [], **{way: [] for way in ways}}
    timed(2)
    for _ in range(repeat):
        found["plain"].append(timed(5))
        for way, options in ways.items():
            # Each as long as it takes to see its share of recorded steps; every 100th by what one adds to a hundred.
            with _daemon(), tracer.attach(model, to="daemon", **options) as attached:
                step()
                attached.flush()
                if options["every"] == 1:
                    found[way].append(timed(5))
                else:
                    apart = timed(options["every"] if options["every"] == 10 else 20)
                    if options["every"] == 100:
                        attached.capture.every = 1
                        apart += max(0.0, timed(3) - apart) / 100
                    found[way].append(apart)
    plain = statistics.median(found["plain"])
    return {way: statistics.median(taken) / (plain if way != "plain" else 1) for way, taken in found.items()}


def delay(steps: int) -> float:
    """Seconds from a step's end to its comparison, of a small network in two recordings, the median."""
    structure = Structure((Node("x", "input", "input", "input", (), (256, 256), "float32"),), ("x",))
    values = np.ones((256, 256), np.float32)
    with _daemon():
        sides = [Remote(), Remote()]
        for name, remote in zip(("a", "b"), sides, strict=True):
            remote.open(Opening(name, structure, {}))
        watcher = connect("watcher")
        found: list[float] = []
        for step in range(steps):
            for remote in sides:
                remote.begin(step)
                remote.put("value", "", "x", values)
                remote.commit(time.time())
            until = time.monotonic() + 30
            while len(found) <= step and time.monotonic() < until:
                message = watcher.receive(1.0)
                if isinstance(message, wire.Event) and message.what == "compared":
                    found.append(float(message.said["delay"]))
        watcher.close()
        for remote in sides:
            remote.close()
    return statistics.median(found[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("ingest", "training", "delay"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report: dict[str, Any] = {}
    sections: dict[str, Callable[[], Any]] = {
        "ingest": lambda: [_ingest(each, asked.repeat) for each in (1 << 10, 64 << 10, 1 << 20, 8 << 20)],
        "training": lambda: training(asked.batch, asked.size, asked.repeat),
        "delay": lambda: delay(20),
    }
    for name, section in sections.items():
        if asked.only in (None, name):
            report[name] = section()
            print(name, json.dumps(report[name], indent=1), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=1))


def _ingest(each: int, repeat: int) -> dict[str, float]:
    count = max(8, min(20_000, (512 << 20) // each))
    rows = [ingest(512 if each >= 64 << 10 else 8, each) for _ in range(repeat)]
    row = sorted(rows, key=lambda row: row["mb_per_s"])[len(rows) // 2]
    row["zeromq_mb_per_s"] = (
        each * count / 1e6 / statistics.median(seconds("ZeroMQ", each, count) for _ in range(repeat))
    )
    row["memcpy_mb_per_s"] = each * count / 1e6 / statistics.median(copied(each, count) for _ in range(repeat))
    return row


if __name__ == "__main__":
    main()
