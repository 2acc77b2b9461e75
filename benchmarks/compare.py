"""What statistics cost: nanoseconds of one thread an element, and the ratio to reading both tensors once.

    python -m benchmarks.compare [--trace TRACE REFERENCE CANDIDATE]

With a trace: CPU seconds of a first comparison of two recordings, of a second one that takes what was kept, and of one
with another tolerance, all without the alignment.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from tracer.alignment import align
from tracer.compare import Tolerance, diff
from tracer.compare.stats import compare
from tracer.store import Trace

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
    chosen = parser.parse_args().trace
    from_trace(Path(chosen[0]), *chosen[1:]) if chosen else in_memory()
