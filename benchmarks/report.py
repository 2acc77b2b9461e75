"""The report of a 200-layer pair, ten of whose layers diverge: how long it takes to make, its size, how fast it opens.

    python -m benchmarks.report [--pairs 200] [--bytes 1000000000] [--trace TRACE REF CAND] [--json FILE]

The page is made by ``tracer report`` in a process of its own; the comparison is kept with the trace by then, as it is
after ``tracer diff``. Opening is what Chromium's own clock says (navigation timing: from the start of the navigation to
the end of the ``load`` event), the least of five; it needs a Chromium on the path. Then a pair of one activation of
``--bytes`` each: how much memory the process takes at most that makes the page of it, beyond one of a small pair.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.ui import chain, large, many, record

OPENINGS = 5
_TIMING = """<script>addEventListener("load", () => setTimeout(() => {
const t = performance.getEntriesByType("navigation")[0];
document.documentElement.dataset.timing = JSON.stringify([t.domContentLoadedEventEnd, t.loadEventEnd,
document.getElementsByTagName("*").length]);}))</script>"""


def wide(path: Path, pairs: int) -> None:
    """Two recordings of ``pairs`` layers; every twentieth is off by noise, and the next agrees again."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((8, 2, 32, 28, 28)).astype(np.float32)
    structure, tensors = chain(pairs, lambda place: drawn[place % 8])
    record(path, "a", structure, tensors)
    off = {name: place % 20 == 19 for place, name in enumerate(tensors)}
    noise = rng.standard_normal(drawn[0].shape).astype(np.float32) / 100
    record(path, "b", structure, {name: side + noise * np.float32(off[name]) for name, side in tensors.items()})


def made(folder: Path, *arguments: str) -> tuple[float, float, float]:
    """Seconds and processor seconds of one command, and the bytes of memory it took at most."""
    code = (
        "import sys; from tracer.cli.main import run; run(sys.argv[1:]); "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    command = [sys.executable, "-c", code, *arguments]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, busy, 1024.0 * int(done.stdout.split()[-1])


def opened(page: Path) -> tuple[float, float, int] | None:
    """Milliseconds until the page can be used and until it is loaded, and its elements; None without Chromium."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if browser is None:
        return None
    probe = page.with_name("timed.html")  # the policy lets no other script than the page's own act
    content = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    probe.write_text(content.replace("</body>", _TIMING + "</body>"))
    found = []
    for _ in range(OPENINGS):
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}",
             "--timeout=4000", "--dump-dom", probe.as_uri()],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        if timing := re.search(r'data-timing="\[([^\]]*)\]"', done.stdout):
            ready, loaded, elements = map(float, timing[1].split(","))
            found.append((ready, loaded, int(elements)))
    return min(found, key=lambda one: one[1]) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--bytes", type=int, default=1_000_000_000)
    parser.add_argument("--trace", nargs=3, metavar=("TRACE", "REF", "CAND"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    figures: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="tracer-bench-") as name:
        folder = Path(name)
        if asked.trace:
            trace, ours, theirs = str(Path(asked.trace[0]).absolute()), *asked.trace[1:]
        else:
            wide(folder / "trace.zarr", asked.pairs)
            trace, ours, theirs = "trace.zarr", "a", "b"
        made(folder, "diff", ours, theirs, "--trace", trace)
        seconds, busy, _ = made(folder, "report", ours, theirs, "--trace", trace, "-o", "page.html")
        timing = opened(folder / "page.html")
        size = (folder / "page.html").stat().st_size
        figures |= {"seconds": seconds, "processor seconds": busy, "bytes": size}
        print(f"made in {seconds:.1f} s ({busy:.1f} s of processor time), {size / 1000:.0f} kB")
        if timing is not None:
            ready, loaded, elements = timing
            figures |= {"ready ms": ready, "loaded ms": loaded, "elements": elements}
            print(f"{elements} elements; usable after {ready:.0f} ms, loaded after {loaded:.0f} ms")
        else:
            print("not opened: no Chromium here")
        if asked.bytes and not asked.trace:
            many(folder / "small.zarr", 4)
            large(folder / "large.zarr", asked.bytes)
            least = made(folder, "report", "--trace", "small.zarr", "-o", "small.html")[2]
            seconds, busy, most = made(folder, "report", "--trace", "large.zarr", "-o", "large.html")
            figures |= {"large seconds": seconds, "large processor seconds": busy, "memory": most - least}
            print(f"two tensors of {asked.bytes / 1e9:g} GB: {seconds:.1f} s ({busy:.1f} s of processor time)")
            print(f"{(most - least) / 1e6:.0f} MB of memory beyond a small pair, mapped pages of the files included")
    if asked.json is not None:
        asked.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
