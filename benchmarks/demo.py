"""Time and peak memory of each step of scripts/demo (run that first: it prepares .venv and demo/).

python -m benchmarks.demo     from the repository's root
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from scripts.demo_models import packaged_h5

ROOT = Path(__file__).parent.parent


def measure(arguments: list[str], cwd: Path) -> tuple[float, float, int]:
    """Seconds, peak resident memory of the process and its children together in MB, exit code."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "from tracer.cli.main import main; main()", *arguments],
        cwd=cwd, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    peak = 0

    def watch() -> None:
        nonlocal peak
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [parent, *parent.children(recursive=True)]
                peak = max(peak, sum(p.memory_info().rss for p in family))
            except psutil.Error:
                pass
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    watcher.join()
    return time.perf_counter() - began, peak / 1e6, code


def main() -> None:
    folder = ROOT / "demo" / "benchmark"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    h5, dna, state = str(packaged_h5(1)), str(ROOT / "demo/dna.npy"), str(ROOT / "demo/published.pt")
    steps = [
        ["record", "tf", h5, "--input", dna],
        ["record", "pt", state, "--arch", "demo_models:published"],
        ["diff"],
        ["record", "pt", state, "--arch", "demo_models:corrected", "--name", "fixed"],
        ["diff", "tf", "fixed"],
        ["map"],
        ["runs"],
        ["--help"],
    ]
    for step in steps:
        seconds, peak, code = measure(step, folder)
        shown = " ".join(Path(word).name if "/" in word else word for word in step)
        print(f"tracer {shown:70} {seconds:6.2f} s {peak:7.0f} MB  exit {code}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
