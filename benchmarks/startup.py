"""What it costs to start: the commands that only read, against Python alone and against importing numpy; large traces.

    python -m benchmarks.startup [--repeats 7] [--arrays 10000] [--json FILE] [--folder FOLDER]

Each command runs in a process of its own, in turn with the others, with bytecode that is compiled already (in a folder
of its own: the environment may forbid it elsewhere). The least of the repeats counts, of wall time and of processor
time; the last column is processor time in units of ``import numpy``, which other work on the machine disturbs least.
Then a trace of many small arrays: seconds to write it, to open it and list what it holds, and to know its structure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.ui import chain, many, record
from tracer.store import Trace

ROOT = Path(__file__).parent.parent
LAYERS = 12
"""Pairs of the small trace."""
OPENINGS = 5


def commands(trace: Path) -> dict[str, list[str]]:
    tracer = ["-c", "from tracer.cli.main import main; main()"]
    reading = {
        f"tracer {name}": [*tracer, *name.split(), "--trace", str(trace)]
        for name in ("runs", "diff", "diff --no-explain", "map")
    }
    return {"pass": ["-c", "pass"], "import numpy": ["-c", "import numpy"], "import tracer": ["-c", "import tracer"],
            "tracer --help": [*tracer, "--help"], **reading}  # fmt: skip


def once(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of wall time and of processor time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
    wall = time.perf_counter() - began
    if done.returncode not in (0, 1):  # tracer diff says with 1 that something differs
        raise RuntimeError(done.stderr.decode())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def started(folder: Path, repeats: int) -> dict[str, tuple[float, float]]:
    many(folder / "small.zarr", LAYERS)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "adapters", "tui")),
    }
    best: dict[str, tuple[float, float]] = {}
    asked = commands(folder / "small.zarr")
    for repeat in range(repeats + 1):
        for name, arguments in asked.items():
            taken = once(arguments, environment)
            if repeat:  # the first one compiles, and fills the caches
                wall, processor = best.get(name, taken)
                best[name] = min(wall, taken[0]), min(processor, taken[1])
    return best


def least(action: Callable[[], object], times: int) -> float:
    """The least processor time of several runs, in seconds."""
    taken = []
    for _ in range(times):
        began = time.process_time()
        action()
        taken.append(time.process_time() - began)
    return min(taken)


def opened(folder: Path, arrays: int) -> dict[str, float]:
    path = folder / "large.zarr"
    structure, tensors = chain(arrays, lambda place: np.full((2, 4), place, np.float32))
    began, worked = time.perf_counter(), time.process_time()
    record(path, "a", structure, tensors)
    found = {"write (s)": time.perf_counter() - began, "write (s of processor)": time.process_time() - worked}

    def listed() -> int:
        return len(Trace.open(path).recording("a").activations)

    def known() -> int:
        return len(Trace.open(path).recording("a").structure)

    found["open and list (s of processor)"] = least(listed, OPENINGS)
    found["open and know the structure (s of processor)"] = least(known, OPENINGS)
    found["decode its index as JSON alone (s of processor)"] = least(
        lambda: json.loads((path / "recordings" / "a" / "zarr.json").read_bytes()), OPENINGS
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--arrays", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="for the traces; a temporary one is removed in the end")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        times = started(Path(name), asked.repeats)
        unit = times["import numpy"][1]
        print(f"{'':<24}{'wall s':>9}{'CPU s':>9}{'x numpy':>9}")
        for label, (wall, processor) in times.items():
            print(f"{label:<24}{wall:>9.3f}{processor:>9.3f}{processor / unit:>9.2f}")
        large = opened(Path(name), asked.arrays) if asked.arrays else {}
        for label, value in large.items():
            print(f"{asked.arrays} arrays: {label:<48}{value:>9.3f}")
    if asked.json:
        found = {"seconds": {k: {"wall": w, "processor": p} for k, (w, p) in times.items()}, "arrays": large}
        asked.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
