"""What it costs to watch a training run, and how fast the daemon takes steps in.

``python -m benchmarks.live [--only ingest|budget|steps|training|delay] [--repeat 3] [--threads 1 2] [--json FILE]``

``ingest``: tensors of 1 KiB to 8 MiB sent to a daemon, MB/s and tensors/s until all of it is written; ``quiet`` the
same with the process that compares held still; ``zeromq`` a plain connection that writes nothing, ``memcpy``; the
processor's seconds a GB of the sender, the daemon and the process that compares. ``budget``: seconds a GB of what
cannot be left out (a copy to the socket and one from it, the checksum, the write). ``steps``: 1,000 steps of 50 small
layers into a trace of this machine, in units of a plain write of the same bytes. ``training``: a ResNet-50's training
step watched in several ways in units of the plain one: wall, the processor's seconds of the program, and those of the
daemon in the same units. ``delay``: from a step's end to its comparison.

The least of the repeats counts, in one run: these machines are noisy, and with others on them wall times say little.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import mmap
import socket
import statistics
import tempfile
import threading
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
from tracer.live.destination import Opening, opened
from tracer.live.remote import Remote, connect
from tracer.store import Trace, packs, zarr3


@contextmanager
def _daemon() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tracer-", ignore_cleanup_errors=True))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(daemon(Path(folder) / "t.zarr", "--keep-last", "2"))
        yield


class _Spent:
    """Wall time and processor time since it was made: of this process, the daemon, and the one that compares."""

    def __init__(self) -> None:
        pid = place.running()
        found = [psutil.Process()] if pid is None else [psutil.Process(), psutil.Process(pid)]
        self.others = found[1].children() if pid else []
        self._all = [*found, *self.others]
        self._began, self._before = time.perf_counter(), self._now()

    def _now(self) -> list[float]:
        return [sum(process.cpu_times()[:2]) for process in self._all]

    def __call__(self, unit: float = 1.0) -> dict[str, float]:
        wall = time.perf_counter() - self._began
        spent = [now - before for now, before in zip(self._now(), self._before, strict=True)]
        return {
            "wall": wall / unit, "program": spent[0] / unit, "daemon": sum(spent[1:2]) / unit,
            "comparing": sum(spent[2:]) / unit,
        }  # fmt: skip


def least(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: min(row[key] for row in rows) for key in rows[0]}


def ingest(total: int, each: int, *, quiet: bool) -> dict[str, float]:
    """Send so many bytes in tensors of ``each``, and wait until all is written: seconds a GB, and memory in MB."""
    count = max(8, total // each)
    steps = max(1, count // 256)
    structure = Structure(
        tuple(Node(f"n{i}", "input", "input", "input", (), (each // 4,), "float32") for i in range(count // steps)), ()
    )
    values = np.random.default_rng(0).standard_normal(each // 4).astype(np.float32)
    with _daemon():
        remote = Remote()
        remote.open(Opening("r", structure, {}))
        remote.begin(0)
        remote.put("value", "", "n0", values)
        remote.commit(time.time())
        time.sleep(1.5)  # the process that compares has started, and looked at that step
        spent = _Spent()
        process = psutil.Process(place.running())
        before = most = process.memory_info().rss
        for other in spent.others if quiet else ():
            other.suspend()
        for step in range(1, steps + 1):
            remote.begin(step)
            for node in structure:
                remote.put("value", "", node.name, values)
            remote.commit(time.time())
            most = max(most, process.memory_info().rss)
        remote.close()
        found = spent(steps * len(structure) * each / 1e9)
        for other in spent.others if quiet else ():
            other.resume()
    return {**found, "memory_mb": (most - before) / 1e6}


def _ingest(repeat: int) -> list[dict[str, float]]:
    rows = []
    for each in (1 << 10, 64 << 10, 1 << 20, 8 << 20):
        total = (8 if each < 64 << 10 else 256) << 20
        count = max(8, min(20_000, total // each))
        found: dict[str, list[Any]] = {"on": [], "off": [], "raw": [], "copied": []}
        for _ in range(repeat):
            found["raw"].append(seconds("ZeroMQ", each, count))
            found["on"].append(ingest(total, each, quiet=False))
            found["off"].append(ingest(total, each, quiet=True))
            found["copied"].append(copied(each, count))
        with_it, without = least(found["on"]), least(found["off"])
        raw, memory = (each * count / 1e6 / min(found[key]) for key in ("raw", "copied"))
        rows.append(
            {
                "bytes": each, "mb_per_s": 1e3 / with_it["wall"], "tensors_per_s": 1e9 / each / with_it["wall"],
                "quiet_mb_per_s": 1e3 / without["wall"], "zeromq_mb_per_s": raw, "memcpy_mb_per_s": memory,
                "of_zeromq": 1e3 / with_it["wall"] / raw, "quiet_of_zeromq": 1e3 / without["wall"] / raw,
                **{f"{who}_s_per_gb": with_it[who] for who in ("program", "daemon", "comparing")},
                "memory_mb": with_it["memory_mb"],
            }
        )  # fmt: skip
        print(json.dumps({key: round(value, 3) for key, value in rows[-1].items()}), flush=True)
    return rows


def budget(repeat: int) -> dict[str, float]:
    """Processor seconds a GB of each thing that is done with a tensor's bytes between two processes and the disk."""
    size, times = 8 << 20, 16
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    room = np.empty_like(data)

    def written() -> None:
        with tempfile.TemporaryFile() as file:
            for _ in range(times):
                zarr3.write_all(file.fileno(), data.data)

    def passed() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            sending = threading.Thread(target=lambda: [ours.sendall(data) for _ in range(times)])
            sending.start()
            for _ in range(times):
                done = 0
                while done < size:
                    done += theirs.recv_into(room[done:])
            sending.join()

    stages: dict[str, Callable[[], Any]] = {
        "memcpy": lambda: [np.copyto(room, data) for _ in range(times)],
        "new pages": lambda: [np.copyto(np.frombuffer(mmap.mmap(-1, size), np.uint8), data) for _ in range(times)],
        "checksum": lambda: [packs.crc32(data) for _ in range(times)],
        "write": written,
        "socket, both ends": passed,
    }
    found: dict[str, float] = {}
    for name, stage in stages.items():
        taken = []
        for _ in range(repeat):
            began = time.process_time()
            stage()
            taken.append(time.process_time() - began)
        found[name] = min(taken) / (times * size / 1e9)
    return found


def steps(repeat: int, count: int = 1000, layers: int = 50, elements: int = 1024) -> dict[str, float]:
    """So many steps of so many small layers, written and closed, beside one file that the same bytes are written to."""
    nodes = [Node(f"layer{i}", "input", "input", "input", (), (elements,), "float32") for i in range(layers)]
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(elements).astype(np.float32) for _ in nodes]
    ours, plain = [], []
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            spent = _Spent()
            with opened(Trace.at(Path(folder) / "t.zarr"), Opening("r", Structure(tuple(nodes), ()), {})) as writer:
                for step in range(count):
                    writer.begin(step)
                    for node, one in zip(nodes, values, strict=True):
                        writer.put("value", node.name, one)
                    writer.commit(ended=0.0)
            ours.append(spent())
            spent = _Spent()
            with open(Path(folder) / "raw", "wb", buffering=0) as file:
                for _ in range(count):
                    for one in values:
                        file.write(one.data)
            plain.append(spent())
    mine, raw = least(ours), least(plain)
    each = 1e6 / count / layers
    return {
        "us_a_tensor": mine["program"] * each, "raw_us_a_tensor": raw["program"] * each,
        "cpu_of_raw": mine["program"] / raw["program"], "wall_of_raw": mine["wall"] / raw["wall"],
    }  # fmt: skip


_WAYS: dict[str, dict[str, Any]] = {
    "watched": {"every": 1 << 40},
    "every 1": {},
    "statistics": {"statistics_only": True},
    "gradients": {"gradients": True},
}


def training(batch: int, size: int, repeat: int, threads: int, count: int = 4) -> dict[str, dict[str, float]]:
    """A ResNet-50's training step by how it is watched: ratios to the plain step. Every way ends with all that was
    recorded being written; of a way that records every n-th step an n-th of that is added to a step that is not."""
    import torch

    import tracer
    from tests import torchvision_ops

    torchvision_ops.register()
    from torchvision.models import resnet50

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = resnet50(weights=None)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x, y = torch.randn(batch, 3, size, size), torch.randint(0, 1000, (batch,))

    def train(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    taken: dict[str, list[dict[str, float]]] = {"plain": [], **{way: [] for way in _WAYS}}
    train(2)
    for _ in range(repeat):
        spent = _Spent()
        train(count)
        taken["plain"].append(spent(count))
        for way, options in _WAYS.items():
            with _daemon(), tracer.attach(model, to="daemon", **options) as attached:
                train(1)
                attached.flush()
                time.sleep(1.5)  # the process that compares has started
                spent = _Spent()
                train(count)
                attached.flush()
                taken[way].append(spent(count))
    plain = least(taken["plain"])
    found: dict[str, dict[str, float]] = {"plain": {"seconds": plain["wall"], "cpu_seconds": plain["program"]}}
    for way in _WAYS:
        row = least(taken[way])
        found[way] = {"wall": row["wall"] / plain["wall"]}
        found[way] |= {who: row[who] / plain["program"] for who in ("program", "daemon", "comparing")}
    for every in (10, 100):
        found[f"every {every}"] = {
            key: value + (found["every 1"][key] - value) / every for key, value in found["watched"].items()
        }
    return found


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
    parser.add_argument("--only", choices=("ingest", "budget", "steps", "training", "delay"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    report: dict[str, Any] = {}
    sections: dict[str, Callable[[], Any]] = {
        "budget": lambda: budget(asked.repeat),
        "steps": lambda: steps(asked.repeat),
        "ingest": lambda: _ingest(asked.repeat),
        "training": lambda: {n: training(asked.batch, asked.size, asked.repeat, n) for n in asked.threads},
        "delay": lambda: delay(20),
    }
    for name, section in sections.items():
        if asked.only in (None, name):
            report[name] = section()
            print(name, json.dumps(report[name], indent=1), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
