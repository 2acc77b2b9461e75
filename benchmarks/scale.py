"""How time and memory grow: with layers, with samples, with steps, and with the size of one activation.

    python -m benchmarks.scale [layers|samples|steps|size …] [--most SHARE] [--json FILE] [--svg FILE] [--folder FOLDER]

Each point runs in a process of its own, on one core's worth of threads: seconds are processor time, memory is the
largest resident size over what the process held before the work (pages of files count while they are held).

``layers``: 10 to 10,000 small tensors recorded, opened and compared, the alignment included. ``samples``: 1 to 256
samples through a small convolutional network of PyTorch, recorded and compared. ``steps``: 1 to 1,000 steps of 50
layers, written, and up to 100 of them compared one by one. ``size``: one activation of 16 MB to 1 GB on either side,
axes permuted, compared. ``--most 0.1`` leaves out what is beyond a tenth of the largest. The exponent is the slope
between the last point and the one nearest to a tenth of it: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

POINTS: dict[str, tuple[int, ...]] = {
    "layers": (10, 100, 1_000, 10_000),
    "samples": (1, 4, 16, 64, 256),
    "steps": (1, 10, 100, 1_000),
    "size": (16, 64, 256, 1_024),
}
UNITS = {"layers": "layers", "samples": "samples", "steps": "steps of 50 layers", "size": "MB a side"}
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
STEP_LAYERS, STEPS_COMPARED = 50, 100
Found = dict[str, float]


def peak() -> float:
    """The largest resident size of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def spent(found: Found, what: str) -> Iterator[None]:
    """Add the processor's seconds of the work within."""
    began = time.process_time()
    yield
    found[what] = time.process_time() - began


def compared(trace: Path, found: Found, **how: Any) -> None:
    from tracer.compare import diff
    from tracer.store import Trace

    before = peak()
    with spent(found, "open"):
        ours, theirs = Trace.open(trace).recordings()
        assert ours.activations
        assert theirs.activations
    with spent(found, "compare"):
        result = diff(ours, theirs, **how)
    assert all(pair.compared for pair in result.pairs)
    found["compare_MB"] = peak() - before


def layers(count: int, folder: Path) -> Found:
    from benchmarks.ui import chain
    from tracer.store import RecordingWriter, Trace

    found: Found = {}
    structure, tensors = chain(count, lambda place: np.full((2, 4), place + 0.5, np.float32))
    attributes = {"framework": "pytorch", "input": "one", "model": {"name": "net"}, "versions": {}}
    trace = Trace.create(folder / "t.zarr")
    for name, factor in (("a", 1.0), ("b", 1.0 + 1e-6)):
        before = peak()
        with (
            spent(found, "record"),
            RecordingWriter(trace, name, structure, attributes, {node: node for node in tensors}) as writer,
        ):
            for node, values in tensors.items():
                writer(node, values * np.float32(factor))
        found["record_MB"] = peak() - before
    compared(folder / "t.zarr", found)
    return found


def samples(count: int, folder: Path) -> Found:
    import torch

    import tracer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *[
            layer
            for place in range(6)
            for layer in (torch.nn.Conv1d(16 if place else 4, 16, 5, padding=2), torch.nn.ReLU())
        ]
    ).eval()
    values = np.random.default_rng(0).standard_normal((count, 4, 1000)).astype(np.float32)
    found: Found = {}
    tracer.record(net, values[:1], name="warm", trace=folder / "warm.zarr")
    for name in ("a", "b"):
        before = peak()
        with spent(found, "record"):
            tracer.record(net, values, name=name, trace=folder / "t.zarr")
        found["record_MB"] = peak() - before
        with torch.no_grad():
            for parameter in net.parameters():
                parameter *= 1 + 1e-6
    compared(folder / "t.zarr", found)
    return found


def steps(count: int, folder: Path) -> Found:
    from tracer.compare import diff
    from tracer.graph import Node, Structure
    from tracer.store import Trace
    from tracer.store.series import SeriesWriter

    nodes = tuple(
        Node(f"layer{i}", "input", "input", "input", (), (256,), "float32") for i in range(STEP_LAYERS)
    )  # fmt: skip
    values = np.random.default_rng(0).standard_normal((STEP_LAYERS, 256)).astype(np.float32)
    keys = {node.name: node.name for node in nodes}
    trace = Trace.create(folder / "t.zarr")
    found: Found = {}
    before = peak()
    for name, factor in (("a", 1.0), ("b", 1.0 + 1e-6)):
        attributes = {"framework": "pytorch", "input": "one"}
        with spent(found, "record"), SeriesWriter(trace, name, Structure(nodes, ()), attributes, keys, {}) as writer:
            for step in range(count):
                writer.begin(step)
                for node, one in zip(nodes, values * np.float32(factor), strict=True):
                    writer.put("value", node.name, one)
                writer.commit()
    found["record_MB"] = peak() - before
    before = peak()
    with spent(found, "open"):
        both = trace.recording("a"), trace.recording("b")
        assert all(len(side.steps) == count for side in both)
    if count <= STEPS_COMPARED:
        with spent(found, "compare"):
            for step in range(count):
                assert diff(both[0].at(step), both[1].at(step)).pairs
        found["compare_MB"] = peak() - before
    return found


def size(megabytes: int, folder: Path) -> Found:
    """In a process of its own each, so that the comparison's memory is not hidden by what making the tensors took."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        return {**pool.apply(made, (megabytes, str(folder))), **pool.apply(permuted, (str(folder),))}


def made(megabytes: int, folder: str) -> Found:
    """Record two activations of so many MB into ``folder``, the second with its axes permuted."""
    from tracer.graph import Node, Structure
    from tracer.store import RecordingWriter, Trace

    trace, found, rows = Trace.create(Path(folder) / "t.zarr"), Found(), megabytes * 4
    block = np.random.default_rng(0).random((1, 128, 128, 4), np.float32)
    for name, move in (("a", None), ("b", (0, 3, 1, 2))):
        values = np.repeat(block, rows, axis=0)
        values *= np.linspace(1, 2, rows, dtype=np.float32).reshape(-1, 1, 1, 1)
        if move is not None:
            values = np.ascontiguousarray(values.transpose(move)) * np.float32(1 + 1e-6)
        structure = Structure((Node("x", "conv", "Conv2d", shape=values.shape, dtype="float32"),), ("x",))
        attributes = {"framework": "pytorch", "input": "one"}
        with spent(found, "record"), RecordingWriter(trace, name, structure, attributes, {"x": "x"}) as writer:
            writer("x", values, owned=True)
    return found


def permuted(folder: str) -> Found:
    """Compare them."""
    from tracer.alignment.mapping import load

    found: Found = {}
    mapping = Path(folder) / "map.yaml"
    mapping.write_text("pairs: [{reference: x, candidate: x, axes: [0, 2, 3, 1]}]\n")
    compared(Path(folder) / "t.zarr", found, mapping=load(mapping))
    return found


MEASURES: dict[str, Callable[[int, Path], Found]] = {
    "layers": layers, "samples": samples, "steps": steps, "size": size,
}  # fmt: skip


def point(axis: str, count: int, folder: str) -> Found:
    """One point, in this process."""
    return MEASURES[axis](count, Path(folder))


def exponent(counts: list[int], seconds: list[float]) -> float | None:
    """The slope of log seconds over log counts between the last point and the one nearest to a tenth of it."""
    last = len(counts) - 1
    other = min(range(last), key=lambda at: abs(math.log(counts[at] * 10 / counts[last])), default=None)
    if other is None or min(seconds[other], seconds[last]) <= 0:
        return None
    return math.log(seconds[last] / seconds[other]) / math.log(counts[last] / counts[other])


def measured(axes: list[str], most: float, folder: Path | None) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = {}
    os.environ.update(_THREADS)
    for axis in axes:
        counts = [count for count in POINTS[axis] if count <= most * POINTS[axis][-1]]
        rows = []
        for count in counts:
            # Not daemonic, for a point may need processes of its own.
            with tempfile.TemporaryDirectory(dir=folder) as home:
                if axis == "size":
                    rows.append(point(axis, count, home))
                else:
                    with multiprocessing.get_context("spawn").Pool(1) as pool:
                        rows.append(pool.apply(point, (axis, count, home)))
            print(f"{count:>7} {UNITS[axis]:<22}", _line(rows[-1]), flush=True)
        fits = {}
        for key in _COLOURS:
            known = [(count, row[key]) for count, row in zip(counts, rows, strict=True) if key in row]
            fits[key] = exponent([count for count, _ in known], [value for _, value in known])
        print(f"{'':8}{axis} exponent: " + ", ".join(f"{k} {v:.2f}" for k, v in fits.items() if v is not None))
        report[axis] = {"counts": counts, "rows": rows, "exponents": fits, "load": os.getloadavg()[0]}
    return report


def _line(row: Mapping[str, float]) -> str:
    return "  ".join(
        f"{key} {value:.0f}" if key.endswith("_MB") else f"{key} {value:.3f} s" for key, value in row.items()
    )


# -- the curves ----------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _EDGE = 340, 240, 46
_COLOURS = {"record": "#c2410c", "compare": "#1d4ed8"}


def svg(report: Mapping[str, Mapping[str, Any]]) -> str:
    """The seconds of each axis over its counts, both on scales of powers of ten, beside a line of slope 1."""
    panels = [_panel(axis, found, _WIDTH * at) for at, (axis, found) in enumerate(report.items())]
    size = f'width="{_WIDTH * len(panels)}" height="{_HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n<rect {size} fill="white"/>\n'
        + "\n".join(panels) + "\n</svg>\n"
    )  # fmt: skip


def _panel(axis: str, found: Mapping[str, Any], left: int) -> str:
    counts = found["counts"]
    both = [*zip(counts, found["rows"], strict=True)]
    curves = {key: [(count, row[key]) for count, row in both if key in row] for key in _COLOURS}
    every = [max(value, 1e-4) for curve in curves.values() for _, value in curve]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    first, last = math.log10(counts[0]), math.log10(counts[-1])

    def at(count: float, seconds: float) -> tuple[float, float]:
        x = left + _EDGE + (_WIDTH - _EDGE - 16) * (math.log10(count) - first) / (last - first or 1)
        y = _HEIGHT - _EDGE - (_HEIGHT - _EDGE - 28) * (math.log10(max(seconds, 1e-4)) - low) / (high - low or 1)
        return round(x, 1), round(y, 1)

    out = [f'<text x="{left + _EDGE}" y="16" font-weight="bold">{axis}: seconds of processor</text>']
    for power in range(low, high + 1):
        x, y = at(counts[0], 10.0**power)
        out.append(f'<line x1="{x}" y1="{y}" x2="{left + _WIDTH - 16}" y2="{y}" stroke="#ddd"/>')
        out.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{10.0**power:g}</text>')
    for count in counts:
        x, _ = at(count, 1.0)
        out.append(f'<text x="{x}" y="{_HEIGHT - _EDGE + 16}" text-anchor="middle">{count:,}</text>')
    out.append(f'<text x="{left + _WIDTH / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{UNITS[axis]}</text>')
    for place, (key, curve) in enumerate(curves.items()):
        most, longest = curve[-1]
        slope = [(count, longest * count / most) for count, _ in curve]
        for line, dash in ((slope, ' stroke-dasharray="2 4"'), (curve, "")):
            shown = [at(*one) for one in line if one[1] >= 10.0**low]
            points = " ".join(f"{x},{y}" for x, y in shown)
            out.append(f'<polyline points="{points}" fill="none" stroke="{_COLOURS[key]}"{dash}/>')
        fit = found["exponents"].get(key)
        said = f"{key}, exponent {fit:.2f}" if fit is not None else key
        out.append(f'<text x="{left + _EDGE + 8}" y="{40 + 14 * place}" fill="{_COLOURS[key]}">{said}</text>')
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", help=", ".join(POINTS))
    parser.add_argument("--most", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--folder", type=Path, help="for the traces; a temporary one is removed in the end")
    asked = parser.parse_args()
    if unknown := set(asked.axes) - POINTS.keys():
        parser.error(f"no axis {', '.join(sorted(unknown))} (have: {', '.join(POINTS)})")
    report = measured(asked.axes or [*POINTS], asked.most, asked.folder)
    if asked.json:
        asked.json.write_text(json.dumps(report, indent=1) + "\n")
    if asked.svg:
        asked.svg.write_text(svg(report))


if __name__ == "__main__":
    main()
