"""What statistics cost: nanoseconds of one thread an element, and the ratio to reading both tensors once.

    python -m benchmarks.compare [--trace TRACE REFERENCE CANDIDATE] [--json FILE]

Then, with the compiled kernels: the share of one thread's read bandwidth, of a layer that caches hold and of one that
they do not, as they are and with axes moved, and what it costs from a trace in units of what it costs in memory. With a
trace of your own: CPU seconds of a first comparison of two recordings, of a second one that takes what was kept, and of
one with another tolerance, all without the alignment.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from tracer.alignment import align
from tracer.compare import Tolerance, compiled, diff
from tracer.compare.stats import compare
from tracer.graph import Node, Structure
from tracer.store import RecordingWriter, Trace
from tracer.store.packing import rewrite

LARGE = (8, 256, 256, 64)
"""134 MB a side: more than caches hold."""
SHAPES = [(8, 56, 56, 64), (8, 64, 56, 56), (4, 197, 768), (600_000,), (2, 5, 8)]


def best(work: Callable[[], object], size: int) -> float:
    """Nanoseconds an element, the least of five."""
    times = []
    repeat = max(1, 20_000 // size)
    for _ in range(5):
        start = time.thread_time()
        for _ in range(repeat):
            work()
        times.append(time.thread_time() - start)
    return min(times) * 1e9 / repeat / size


def cases(shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    a = rng.normal(size=shape).astype("f4")
    rounded = (a * (1 + 1e-7 * rng.normal(size=shape))).astype("f4")
    yield "equal", a, a.copy()
    yield "rounding", a, rounded
    if len(shape) > 2:
        yield "rounding, axes moved", a, np.moveaxis(np.ascontiguousarray(np.moveaxis(rounded, -1, 1)), 1, -1)
    yield "diverged", a, (a * 1.1 + 0.1 * rng.normal(size=shape)).astype("f4")


def in_memory() -> None:
    print(f"{'shape':>16}  {'case':<22}{'ns/element':>12}{'ratio to reading':>18}")
    for shape in SHAPES:
        for name, a, b in cases(shape):
            reading = best(lambda a=a, b=b: (np.add.reduce(a.reshape(-1)), np.add.reduce(b.reshape(-1))), a.size)
            rms = float(np.sqrt((a.astype("f8") ** 2).mean()))
            cost = best(lambda a=a, b=b, rms=rms: compare(a, b, channels=len(a.shape) - 1, rms=rms), a.size)
            print(f"{'×'.join(map(str, shape)):>16}  {name:<22}{cost:>12.2f}{cost / reading:>18.1f}")


def figures() -> dict[str, float]:
    """What the goals are about: shares of the speed at which both tensors are read, and the trace against memory, all
    with the compiled kernels; how much slower numpy is; and what loading them takes."""
    start = time.process_time()
    if compiled.load() is None:
        raise SystemExit("no numba here")
    found = {"kernels loaded (s)": time.process_time() - start}
    for key, shape in (("", SHAPES[0]), (", large", LARGE)):
        chosen = {name: (a, b) for name, a, b in cases(shape)}
        for name, case in (
            ("share", "rounding"),
            ("share, axes moved", "rounding, axes moved"),
            ("share, diverged", "diverged"),
        ):
            a, b = chosen[case]
            raw = np.ascontiguousarray(b)
            reading = best(lambda a=a, raw=raw: (np.add.reduce(a.reshape(-1)), np.add.reduce(raw.reshape(-1))), a.size)
            found[name + key] = reading / best(lambda a=a, b=b: compare(a, b, channels=3, rms=1.0), a.size)
        if not key:
            a, b = chosen["rounding"]
            by_numpy = best(lambda a=a, b=b: compare(a, b, channels=3, rms=1.0, compiled=False), a.size)
            found["numpy / compiled"] = by_numpy / best(lambda a=a, b=b: compare(a, b, channels=3, rms=1.0), a.size)
    a, b = chosen["rounding"]
    found |= against_trace(a, b)
    return found


def against_trace(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """What a comparison costs from a trace, checksums verified, in units of what it costs in memory."""
    found = {}
    in_memory = best(lambda: compare(a, b, channels=3, rms=1.0), a.size)
    structure = Structure((Node("x", "conv", "Conv2d", shape=a.shape, dtype="float32"),), ("x",))
    with tempfile.TemporaryDirectory() as folder:
        trace = Trace.create(Path(folder) / "t.zarr")
        for name, values in (("a", a), ("b", b)):
            with RecordingWriter(trace, name, structure, {"input": "one"}, {"x": "x"}) as writer:
                writer("x", values)
        for key, packed in (("trace / memory", False), ("packed trace / memory", True)):
            if packed:
                for recording in trace.recordings():
                    rewrite(recording, True)

            def from_disk() -> object:
                one, other = (recording.read("x") for recording in trace.recordings())
                return compare(one, other, channels=3, rms=1.0)

            found[key] = best(from_disk, a.size) / in_memory
    return found


def from_trace(path: Path, reference: str, candidate: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "trace.zarr"
        shutil.copytree(path, copy)
        shutil.rmtree(copy / "comparisons", ignore_errors=True)
        opened = Trace.open(copy)
        pair = opened.recording(reference), opened.recording(candidate)
        alignment = align(*pair)
        with mock.patch.object(sys.modules["tracer.compare.comparing"], "align", return_value=alignment):
            for name, tolerance in (("first", None), ("again", None), ("other tolerance", Tolerance(1e-7, 1e-7))):
                start = time.process_time()
                diff(*pair, tolerance)
                print(f"{name:<16}{time.process_time() - start:>8.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", nargs=3, metavar=("TRACE", "REFERENCE", "CANDIDATE"))
    parser.add_argument("--json", type=Path, help="the figures that the goals are about, alone")
    asked = parser.parse_args()
    if asked.trace:
        from_trace(Path(asked.trace[0]), *asked.trace[1:])
    else:
        if not asked.json:
            in_memory()
        told = figures()
        for name, value in told.items():
            print(f"{name:<24}{value:>8.3f}")
        if asked.json:
            asked.json.write_text(json.dumps(told, indent=1) + "\n")
