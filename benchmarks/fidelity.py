"""How much of what is recorded can be computed again from the trace alone, and whether it gives the same.

python -m benchmarks.fidelity [--held-out] [--verbose] [--defects] [--kinds KIND …] [NAME …]

Every node of the corpus' recordings is read as a step and run in float64 on the recorded tensors of its parents. It is
reproduced when the result is within the rounding of the recorded one; read and not reproduced is wrong. ``--verbose``
says why nodes could not be read and which are wrong, ``--defects`` takes the recordings of `benchmarks.defects` too
(what a defect changes out of sight of the recording is wrong there by intent).
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from benchmarks.corpus import ports
from benchmarks.corpus.record import home, kept
from tracer.causes import operations, reading
from tracer.causes.step import Array, Step, Unknown, as_double
from tracer.dtypes import by_name, epsilon
from tracer.errors import TraceError
from tracer.graph import Node
from tracer.store import Recording, Trace

ROUNDINGS = 16


@dataclass
class Tally:
    """What became of some nodes."""

    nodes: int = 0
    read: int = 0
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest: tuple[float, str] = (0.0, "")

    def __iadd__(self, other: Tally) -> Tally:
        self.nodes += other.nodes
        self.read += other.read
        self.right += other.right
        self.wrong += other.wrong
        self.unknown += other.unknown
        self.seconds += other.seconds
        self.slowest = max(self.slowest, other.slowest)
        return self

    def line(self) -> str:
        share, same = (100 * part / self.nodes if self.nodes else 100 for part in (self.read, self.right))
        wrong = f"{len(self.wrong)} wrong"
        spent = f"{self.seconds:6.1f} s, slowest {self.slowest[0]:.2f} s ({self.slowest[1]})"
        return f"{self.nodes:6} nodes  {share:6.2f} % readable  {same:6.2f} % reproduced  {wrong:>9}  {spent}"


def judge(recording: Recording, kinds: Sequence[str] = ()) -> Tally:
    """Every node of a recording that computes something."""
    tally = Tally()
    for node in recording.structure.nodes:
        if node.role in ("input", "container", "item") or node.alias_of or (kinds and node.kind not in kinds):
            continue
        began = time.perf_counter()
        _one(recording, node, tally)
        took = time.perf_counter() - began
        tally.seconds += took
        tally.slowest = max(tally.slowest, (took, node.kind))
    return tally


def _one(recording: Recording, node: Node, tally: Tally) -> None:
    try:
        wanted = recording.read(recording.resolve(node.name))
        inputs = [recording.read(recording.resolve(name)) for name in node.parents]
    except TraceError:
        return  # not kept
    tally.nodes += 1
    try:
        step = reading.read(recording, node.name)
        made = operations.run(step, inputs)
    except Unknown as error:
        tally.unknown[f"{node.kind:18} {node.label:30} {error}"] += 1
        return
    tally.read += 1
    off, bound = distance(step, inputs, made, wanted)
    if off <= bound:
        tally.right += 1
    else:
        where = f"{recording.root.parent.name}/{recording.name} {node.name}"
        tally.wrong.append(f"{node.kind:18} {node.label:30} {off:.2e} > {bound:.2e}  {where}")


def distance(step: Step, inputs: Sequence[Array], made: Array, wanted: Array) -> tuple[float, float]:
    """The largest difference and how large it may be, both of the largest value."""
    if made.shape != wanted.shape:
        return math.inf, 0.0
    if not wanted.size:
        return 0.0, 0.0
    eps = max(epsilon(values.dtype.name) for values in (wanted, *inputs))
    a, b = np.asarray(made, np.float64), np.asarray(as_double(wanted), np.float64)
    # What is beyond the type's largest number was recorded as infinite.
    over = np.isinf(b) & (np.abs(a) > 0.99 * _largest(wanted.dtype.name))
    a = np.where(over & (np.sign(a) == np.sign(b)), b, a)
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(a[finite]).all():
        return math.inf, 0.0
    if not finite.any():
        return 0.0, 0.0
    largest = float(np.abs(b[finite]).max()) or 1.0
    off = float(np.abs(a[finite] - b[finite]).max()) / largest
    bound = ROUNDINGS * eps * math.sqrt(_summed(step, inputs, wanted))
    if off > bound:  # what the rounding of the inputs alone makes of it
        bound += ROUNDINGS * _shaken(step, inputs, made, finite, eps) / largest
    return off, bound


def _largest(name: str) -> float:
    dtype = by_name(name)
    return float(np.finfo(dtype).max) if dtype.kind == "f" else math.inf


def _summed(step: Step, inputs: Sequence[Array], wanted: Array) -> int:
    """How many products are added up."""
    kernel = step.weights.get("kernel")
    longest = max((values.size for values in inputs), default=1)
    return max(1, kernel.size // kernel.shape[-1] if kernel is not None and kernel.size else 1, longest // wanted.size)


def _shaken(step: Step, inputs: Sequence[Array], made: Array, finite: Array, eps: float) -> float:
    draw = np.random.default_rng(0)
    shaken = [
        as_double(x) * (1 + eps * draw.choice([-1.0, 1.0], x.shape)) if x.dtype.kind in "fV" else x for x in inputs
    ]
    try:
        other = operations.run(step, shaken)
    except Unknown:
        return 0.0
    return float(np.abs(np.asarray(other, np.float64)[finite] - np.asarray(made, np.float64)[finite]).max())


def _traces(options: argparse.Namespace) -> Iterator[tuple[str, Trace, tuple[str, ...]]]:
    for name, port in ports().items():
        chosen = not options.names or any(fnmatchcase(name, pattern) for pattern in options.names)
        if not chosen or (port.held_out and not options.held_out):
            continue
        pair = kept(port)
        if pair is not None:
            yield name, pair.trace, ("reference", "equal")
        for path in sorted(_zoo(name)) if options.defects and not port.held_out else ():
            trace = Trace.open(path)
            yield f"{name} {path.stem}", trace, ("defect",)


def _zoo(name: str) -> Iterator[Path]:
    yield from (home() / "defects-v2" / name.replace("/", "-")).glob("*/*.zarr")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--defects", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--kinds", nargs="+", default=())
    options = parser.parse_args()
    total, aside = Tally(), Tally()
    held = {name for name, port in ports().items() if port.held_out}
    for name, trace, recordings in _traces(options):
        tally = Tally()
        for recording in recordings:
            if trace.has(recording):
                tally += judge(trace.recording(recording), options.kinds)
        print(f"{name:40} {tally.line()}", flush=True)
        # Single errors of what is kept aside are not for looking at.
        mine = aside if name in held else total
        mine += tally
    if options.verbose:
        for reason, count in total.unknown.most_common():
            print(f"  unknown {count:5}  {reason}")
        for wrong in sorted(total.wrong):
            print(f"  wrong   {wrong}")
    print(f"{'TUNING':40} {total.line()}")
    if aside.nodes:
        print(f"{'HELD OUT':40} {aside.line()}")


if __name__ == "__main__":
    main()
