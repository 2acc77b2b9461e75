"""All that is measured of speed, in a quick form: one table, each figure beside its goal.

    python -m benchmarks.quick [WORD …] [--json FILE]        (scripts/bench: the same, with what it needs installed)

WORDs choose benches by a part of their name. Each runs in a process of its own, one after the other, and is given up
after its time; what it did not say stands as missing. Ratios, from one run of few repeats: with other work on the
machine they scatter by a tenth or two, and wall times by more (the load at the start and the end is said).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Goal:
    """A figure of a bench: where its JSON has it, and what it shall be at most (or, with ``least``, at least)."""

    name: str
    read: Callable[[Any], float]
    first: float | None = None
    moonshot: float | None = None
    least: bool = False

    def met(self, value: float, goal: float | None) -> bool | None:
        return None if goal is None else value >= goal if self.least else value <= goal


@dataclass(frozen=True)
class Bench:
    """A module of this package with its arguments for a quick run, and the seconds that it may take."""

    name: str
    arguments: tuple[str, ...]
    seconds: int
    goals: tuple[Goal, ...]


def _case(name: str, read: Callable[[Any], float]) -> Callable[[Any], float]:
    return lambda rows: read(next(row for row in rows if row["case"] == name))


def _capture(name: str, kind: str) -> Callable[[Any], float]:
    return _case(name, lambda row: float(row["ways"]["capture"][kind]))


def _under_script(name: str, kind: str) -> Callable[[Any], float]:
    return _case(name, lambda row: float(row["ways"]["capture"][kind] / row["ways"]["script"][kind]))


def _exponent(axis: str, what: str) -> Callable[[Any], float]:
    return lambda found: float(found[axis]["exponents"][what])


_WHOLE = 590
"""Seconds that all of it may take: what comes too late is missing."""
BENCHES = (
    Bench("recorder", ("resnet50 b1", "ecg b32", "--repeat", "3"), 150, (
        Goal("ResNet-50, 1 sample: capture / forward, wall", _capture("resnet50 b1", "wall"), 1.5, 1.25),
        Goal("ResNet-50, 1 sample: capture / script by hand, wall", _under_script("resnet50 b1", "wall"), 1.0),
        Goal("ResNet-50: bytes / module-output bytes", _case("resnet50 b1", lambda row: float(row["share"])), 0.8),
        Goal("ECG, 32 samples: capture / forward, CPU", _capture("ecg b32", "cpu"), 1.6, 1.35),
        Goal("ECG, 32 samples: capture / script by hand, CPU", _under_script("ecg b32", "cpu"), 1.0),
    )),
    Bench("keras recorder", ("keras resnet50 b1", "--repeat", "2", "--skip", "record", "raw"), 150, (
        Goal("Keras ResNet-50, 1 sample: capture / forward, CPU", _capture("keras resnet50 b1", "cpu"), 1.8, 1.3),
        Goal("Keras ResNet-50, 1 sample: capture / script, CPU", _under_script("keras resnet50 b1", "cpu"), 1.0),
    )),
    Bench("compare", (), 60, (
        Goal("comparison: share of read bandwidth", lambda it: float(it["share"]), 0.8, 0.95, least=True),
        Goal("comparison, axes moved: the same", lambda it: float(it["share, axes moved"]), 0.14, 0.4, least=True),
        Goal("comparison: trace / memory", lambda it: float(it["trace / memory"]), 2.0, 1.2),
        Goal("comparison: packed trace / memory", lambda it: float(it["packed trace / memory"])),
    )),
    Bench("startup", ("--repeats", "3"), 90, (
        Goal("tracer --help (CPU s)", lambda it: float(it["seconds"]["tracer --help"]["processor"]), 0.3),
        Goal("tracer diff of a small trace (CPU s)",
             lambda it: float(it["seconds"]["tracer diff"]["processor"]), 1.0),
        Goal("10,000 arrays: written (CPU s)", lambda it: float(it["arrays"]["write (s of processor)"]), 0.25, 0.08),
        Goal("10,000 arrays: opened and listed (CPU s)",
             lambda it: float(it["arrays"]["open and list (s of processor)"]), 0.05, 0.01),
    )),
    Bench("live", ("--only", "steps", "--repeat", "2"), 60, (
        Goal("1,000 steps of 50 layers / raw write, CPU", lambda it: float(it["steps"]["cpu_of_raw"]), 2.0, 1.2),
    )),
    Bench("daemon", ("--only", "ingest", "--repeat", "1"), 120, (
        Goal("daemon, tensors of 1 MB: MB/s", lambda it: float(it["ingest"][2]["mb_per_s"])),
        Goal("daemon, tensors of 1 KB: tensors/s", lambda it: float(it["ingest"][0]["tensors_per_s"])),
    )),
    Bench("ui", ("--pairs", "500", "--bytes", "0", "--keys", "30"), 100, (
        Goal("TUI: start-up to the first screen (CPU s)",
             lambda it: float(it["start-up to first screen, again (s of processor)"])),
        Goal("TUI: key to paint, median (ms)", lambda it: float(it["key to paint, median (ms)"])),
    )),
    Bench("scale", ("--most", "0.1"), 150, (
        Goal("100 → 1,000 layers: exponent of the comparison", _exponent("layers", "compare"), 1.1),
        Goal("1 → 16 samples: exponent of recording", _exponent("samples", "record"), 1.1),
        Goal("10 → 100 steps: exponent of writing", _exponent("steps", "record"), 1.1),
    )),
)  # fmt: skip
_MODULES = {"keras recorder": "recorder", "daemon": "live"}
"""Of benches that are called otherwise than what they run."""


def run(bench: Bench, folder: Path, left: float) -> Any:
    """What a bench says within the seconds that are left; None where it failed or was given up."""
    file = folder / "found.json"
    file.unlink(missing_ok=True)
    module = f"benchmarks.{_MODULES.get(bench.name, bench.name)}"
    command = [sys.executable, "-m", module, *bench.arguments, "--json", str(file)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        _, said = process.communicate(timeout=max(1.0, min(left, bench.seconds)))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        print(f"  {bench.name}: given up, it took too long", file=sys.stderr)
        return None
    if process.returncode or not file.exists():
        print(f"  {bench.name}: " + (said.strip().splitlines() or ["nothing was said"])[-1], file=sys.stderr)
        return None
    return json.loads(file.read_text())


def rows(bench: Bench, found: Any) -> list[dict[str, Any]]:
    """Each figure beside its goals."""
    out = []
    for goal in bench.goals:
        try:
            value = None if found is None else goal.read(found)
        except (KeyError, IndexError, StopIteration, TypeError):
            value = None
        met = {
            f"{key}_met": None if value is None else goal.met(value, getattr(goal, key))
            for key in ("first", "moonshot")
        }
        kept = {key: item for key, item in asdict(goal).items() if key != "read"}
        out.append({"bench": bench.name, **kept, "value": value, **met})
    return out


def line(row: dict[str, Any]) -> str:
    value = (
        "missing" if row["value"] is None else f"{row['value']:,.3g}" if row["value"] < 1000 else f"{row['value']:,.0f}"
    )
    sign = "≥" if row["least"] else "≤"
    goals = "".join(f"{'' if row[key] is None else f'{sign} {row[key]:g}':>10}" for key in ("first", "moonshot"))
    mark = {True: "✓", False: "✗", None: " "}
    return f"{row['name']:<54}{value:>10}{goals}   {mark[row['first_met']]} {mark[row['moonshot_met']]}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    chosen = [bench for bench in BENCHES if not asked.words or any(word in bench.name for word in asked.words)]
    if not chosen:
        parser.error(f"no bench {' '.join(asked.words)} (have: {', '.join(bench.name for bench in BENCHES)})")
    began, load = time.time(), os.getloadavg()[0]
    print(f"{'':<54}{'figure':>10}{'first':>10}{'moonshot':>10}   met")
    report = []
    with tempfile.TemporaryDirectory() as folder:
        for bench in chosen:
            running = f"  {bench.name}: at most {bench.seconds} s …"
            if sys.stderr.isatty():
                print(running, end="\r", file=sys.stderr, flush=True)
            found = rows(bench, run(bench, Path(folder), began + _WHOLE - time.time()))
            report += found
            print("\n".join(line(row).ljust(len(running)) for row in found), flush=True)
    seconds, after = time.time() - began, os.getloadavg()[0]
    print(f"{seconds:.0f} s; load {load:.1f} at the start, {after:.1f} at the end, {os.cpu_count()} processors")
    if asked.json:
        told = {"seconds": seconds, "load": [load, after], "processors": os.cpu_count(), "figures": report}
        asked.json.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
