"""How quick the terminal interface is: start-up, opening and sorting 2,000 pairs, a key until it is seen, memory.

    python -m benchmarks.ui [--pairs 2000] [--bytes 1073741824] [--keys 300] [--json FILE] [--folder FOLDER]

The command runs in a terminal of its own (a pty of 120×40), as a user would run it; the clock starts before the process
and stops when the text is on the screen.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import select
import signal
import statistics
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tracer.alignment import align
from tracer.graph import Node, Param, Structure
from tracer.store import RecordingWriter, Trace

COMMAND = [sys.executable, "-c", "from tracer.cli.main import main; main()", "ui", "--atol", "1e-5"]
SIZE = (40, 120)
KINDS = (("conv", "Conv2d"), ("batchnorm", "BatchNorm2d"), ("relu", "ReLU"), ("add", "add"))


def chain(count: int, values: Callable[[int], np.ndarray]) -> tuple[Structure, dict[str, np.ndarray]]:
    """A network of blocks of four layers."""
    nodes: list[Node] = []
    tensors = {}
    for place in range(count):
        kind, label = KINDS[place % 4] if place else ("input", "input")
        name = f"stages.{place // 64}.blocks.{place % 64 // 4}.{kind}" if place else "x"
        tensors[name] = values(place)
        params = (Param("weight", (8, 8, 3, 3), "float32"),) if kind == "conv" else ()
        scope = name.rpartition(".")[0]
        parents = (nodes[-1].name,) if nodes else ()
        role: Any = "layer" if place else "input"
        nodes.append(
            Node(
                name,
                kind,
                label,
                role,
                parents,
                tensors[name].shape,
                tensors[name].dtype.name,
                params,
                {},
                name,
                0,
                scope,
            )
        )
    return Structure(tuple(nodes), (nodes[-1].name,)), tensors


def record(path: Path, name: str, structure: Structure, tensors: Mapping[str, np.ndarray]) -> None:
    attributes = {"framework": "pytorch", "input": "one", "model": {"name": "net"}, "versions": {}}
    trace = Trace.create(path)
    before = trace.recordings()
    with RecordingWriter(trace, name, structure, attributes, {n: n for n in tensors}) as sink:
        for node, values in tensors.items():
            sink(node, values)
    for reference in before:  # as tracer record does
        found = align(reference, trace.recording(name))
        trace.update(name, {"reference": reference.name, "alignment": found.to_json()})


def many(path: Path, pairs: int) -> None:
    """Two recordings of so many layers, the last tenth of which diverges."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((pairs, 2, 8, 4, 4)).astype(np.float32)
    structure, tensors = chain(pairs, lambda place: drawn[place])
    record(path, "a", structure, tensors)
    moved = {n: v + np.float32(place > 0.9 * pairs) for place, (n, v) in enumerate(tensors.items())}
    record(path, "b", structure, moved)


def large(path: Path, size: int) -> None:
    """Two recordings of one activation of ``size`` bytes."""
    positions = size // (4 * 64)
    values = np.resize(np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32), (1, positions, 64))
    structure = Structure(
        (
            Node("x", "input", "input", "input", (), (1, 8), "float32"),
            Node("wide", "conv", "Conv1d", "layer", ("x",), values.shape, "float32", owner="wide"),
        ),
        ("wide",),
    )
    for name in "ab":
        if name == "b":
            values[0, positions // 2, 7] += 1
        record(path, name, structure, {"x": np.zeros((1, 8), np.float32), "wide": values})


class Terminal:
    """The interface in a terminal of its own."""

    def __init__(self, trace: Path, folder: Path) -> None:
        environment = {**os.environ, "TERM": "xterm-256color", "XDG_STATE_HOME": str(folder)}
        environment.pop("TMUX", None)
        self.began = time.perf_counter()
        self.pid, self.file = pty.fork()
        if not self.pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
            os.execve(COMMAND[0], [*COMMAND, "--trace", str(trace)], environment)
        self.seen = b""

    def read(self, timeout: float) -> bytes:
        """What comes within so many seconds; empty when nothing does."""
        if not select.select([self.file], [], [], timeout)[0]:
            return b""
        return os.read(self.file, 1 << 16)

    def until(self, text: str, timeout: float = 120) -> float:
        """Seconds since the start when a text was on the screen."""
        end = time.perf_counter() + timeout
        while text.encode() not in self.seen:
            if time.perf_counter() > end:
                os.kill(self.pid, signal.SIGTERM)
                raise TimeoutError(f"'{text}' was not seen")
            self.seen += self.read(1.0)
        return time.perf_counter() - self.began

    def processor(self) -> float:
        """Seconds of processor time since the start: what counts on a busy machine."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def settle(self, quiet: float = 0.3) -> None:
        """Wait until nothing is drawn any more."""
        while self.read(quiet):
            pass
        self.seen = b""

    def press(self, key: str, quiet: float = 0.05) -> tuple[float, float]:
        """Seconds from a key to the first and to the last of what it changes on the screen."""
        began = time.perf_counter()
        os.write(self.file, key.encode())
        first = last = 0.0
        wait = 2.0
        while found := self.read(wait):
            last = time.perf_counter() - began
            first = first or last
            self.seen += found
            wait = quiet
        return first, last

    def close(self) -> None:
        os.write(self.file, b"\x11")
        while True:
            try:
                if not self.read(5.0):
                    break
            except OSError:
                break
        os.waitpid(self.pid, 0)
        os.close(self.file)


def measure(trace: Path, pairs: int, keys: int, folder: Path) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in ("first time", "again"):  # the first one reads the tensors, the next finds the statistics
        terminal = Terminal(trace, folder)
        shown, worked = terminal.until("pairing the layers"), terminal.processor()
        found[f"start-up to first screen, {name} (s)"] = shown
        found[f"start-up to first screen, {name} (s of processor)"] = worked
        for what, text in (("list", f"{pairs} pairs"), ("compare", "First divergence")):
            done = terminal.until(text)
            found[f"{what} {pairs} pairs, {name} (s)"] = done - shown
            found[f"{what} {pairs} pairs, {name} (s of processor)"] = terminal.processor() - worked
        if name == "again":
            terminal.settle(2.0)
            found[f"sort {pairs} pairs (ms)"] = 1e3 * statistics.median(terminal.press("s")[1] for _ in range(6))
            found[f"filter {pairs} pairs (ms)"] = 1e3 * _typed(terminal)
            terminal.press("g")
            taken = [1e3 * terminal.press("j")[0] for _ in range(keys)]
            found["key to paint, median (ms)"] = statistics.median(taken)
            found["key to paint, 99th percentile (ms)"] = float(np.percentile(taken, 99))
            pages = [1e3 * terminal.press("\x06")[1] for _ in range(40)]
            found["page to paint, median (ms)"] = statistics.median(pages)
        terminal.close()
    return found


def _typed(terminal: Terminal) -> float:
    terminal.press("/")
    taken = terminal.press("c")[1]
    terminal.press("\x1b")
    terminal.settle()
    return taken


def memory(trace: Path, folder: Path) -> dict[str, float]:
    """What the process holds itself, pages of the mapped files left out."""
    terminal = Terminal(trace, folder)
    terminal.until("2 pairs")
    terminal.settle(3.0)
    process = psutil.Process(terminal.pid)
    found = {"large tensor: memory after comparing (MB)": _own(process)}
    terminal.seen = b""
    began = time.perf_counter()
    terminal.press("\r")
    terminal.until("outside")
    found["large tensor: layer opened and located (s)"] = time.perf_counter() - began
    terminal.settle(1.0)
    for key in "llcllv":
        terminal.press(key, 0.3)
    found["large tensor: slice to paint (ms)"] = 1e3 * statistics.median(terminal.press("l", 0.2)[1] for _ in range(9))
    found["large tensor: memory with the layer open (MB)"] = _own(process)
    terminal.close()
    return found


def _own(process: psutil.Process) -> float:
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--keys", type=int, default=300)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="for the traces; a temporary one is removed in the end")
    asked = parser.parse_args()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        if asked.pairs:
            many(folder / "many.zarr", asked.pairs)
            found |= measure(folder / "many.zarr", asked.pairs, asked.keys, folder)
        if asked.bytes:
            large(folder / "large.zarr", asked.bytes)
            found |= memory(folder / "large.zarr", folder)
    for label, value in found.items():
        print(f"{label:<62}{value:>10.3g}" if value < 100 else f"{label:<62}{value:>10.0f}")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
