"""What recording costs, in units of the model's plain forward pass, beside the script that people write by hand.

``python -m benchmarks.recorder [WORD …] [--repeat 5] [--json FILE] [--folder FOLDER]``

WORDs choose cases by a part of their name. Each case runs in a process of its own, its ways one after the other in each
repeat. Columns: the plain forward in seconds; then ratios to it, of the least wall time and in brackets of the least
CPU time of all threads: ``capture`` (a recording's activations, written and closed, the structure known), ``script``
(forward hooks that put every module's output into a dict, np.savez; in Keras one model with all layers' outputs),
``record`` (``tracer.record`` from nothing: structure, activations, weights, index), ``raw`` (the same bytes written
with O_DIRECT, which no cache helps). ``MB`` is what the capture wrote, ``share`` that of all that modules returned;
``memory`` what the process grew by at its most during a capture over what a forward pass needs, and the script, in MB.
"""

from __future__ import annotations

import argparse
import json
import mmap
import multiprocessing
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

BLOCK = 4 << 20
WAYS = ("capture", "script", "record", "raw")


# -- the models ----------------------------------------------------------------------------------------------------


def resnet50() -> Any:
    from tests import torchvision_ops

    torchvision_ops.register()
    from torchvision.models import resnet50 as build

    return build(weights=None)


def ecg() -> Any:
    """Convolutions over a signal of twelve leads, some fifty modules."""
    from torch import nn

    layers: list[nn.Module] = []
    channels = 12
    for place in range(12):
        width = 16 * (1 + place // 3)
        layers += [nn.Conv1d(channels, width, 7, padding=3), nn.BatchNorm1d(width), nn.ReLU()]
        layers += [nn.MaxPool1d(2)] if place % 3 == 2 else []
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, 5))


def chain() -> Any:
    """Ten thousand small layers."""
    from torch import nn

    return nn.Sequential(*[nn.Linear(4, 4) if place % 2 else nn.Tanh() for place in range(10_000)])


def keras_resnet50() -> Any:
    import keras

    return keras.applications.ResNet50(weights=None)


CASES: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "resnet50 b1": (resnet50, (1, 3, 224, 224)),
    "resnet50 b8": (resnet50, (8, 3, 224, 224)),
    "ecg b32": (ecg, (32, 12, 2000)),
    "10,000 layers": (chain, (1, 4)),
    "keras resnet50 b1": (keras_resnet50, (1, 224, 224, 3)),
    "keras resnet50 b8": (keras_resnet50, (8, 224, 224, 3)),
}


# -- the ways ------------------------------------------------------------------------------------------------------


def torch_ways(model: Any, values: np.ndarray) -> tuple[Callable[[], Any], Callable[[Path], int]]:
    """A forward pass, and what people write to save all of its modules' outputs; that gives the bytes of all that the
    modules returned."""
    import torch

    model.eval()
    tensor = torch.from_numpy(values)

    def forward() -> Any:
        with torch.no_grad():
            return model(tensor)

    def script(file: Path) -> int:
        kept: dict[str, Any] = {}
        returned = 0

        def keep(name: str) -> Callable[..., None]:
            def hook(module: Any, args: Any, output: Any) -> None:
                nonlocal returned
                returned += output.nbytes
                kept[name] = output.detach().clone().numpy()

            return hook

        handles = [module.register_forward_hook(keep(name or "model")) for name, module in model.named_modules()]
        forward()
        for handle in handles:
            handle.remove()
        np.savez(file, **kept)  # of a module that is called several times the last output alone
        return returned

    return forward, script


def keras_ways(model: Any, values: np.ndarray) -> tuple[Callable[[], Any], Callable[[Path], int]]:
    """The same in Keras; the plain forward is a compiled function."""
    import keras
    import tensorflow as tf

    compiled = tf.function(lambda x: model(x, training=False))
    tensor = tf.constant(values)
    every = keras.Model(model.inputs, [layer.output for layer in model.layers])

    def forward() -> Any:
        return compiled(tensor).numpy()

    def script(file: Path) -> int:
        outputs = every.predict_on_batch(values)
        kept = {layer.name: output for layer, output in zip(model.layers, outputs, strict=True)}
        np.savez(file, **kept)
        return sum(array.nbytes for array in kept.values())

    return forward, script


def raw(file: Path, nbytes: int) -> None:
    """Write so many bytes past the cache."""
    buffer = mmap.mmap(-1, BLOCK)  # aligned to a page, as O_DIRECT wants
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DIRECT)
    try:
        for _ in range(max(1, nbytes // BLOCK)):
            os.write(descriptor, buffer)
    finally:
        os.close(descriptor)


class Peak:
    """How much the process grows while the context lasts, sampled every few milliseconds."""

    def __enter__(self) -> Peak:
        self._process = psutil.Process()
        self.before = self.most = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.004):
            self.most = max(self.most, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def grown(self) -> float:
        return (self.most - self.before) / 1e6


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    work()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime


def measured(name: str, repeat: int, folder: str, skip: tuple[str, ...], kernels: bool) -> dict[str, Any]:
    """One case, in this process."""
    import tracer
    from tracer import compiled
    from tracer.adapter import Run, get
    from tracer.store import RecordingWriter, Trace

    if kernels:
        compiled.load("tracer.store.kernels")
    build, shape = CASES[name]
    keras = name.startswith("keras")
    model = build()
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    forward, script = (keras_ways if keras else torch_ways)(model, values)
    loaded = get("tf" if keras else "pt").wrap(model)
    loaded.run = Run()
    inputs = {loaded.signature()[0].name: values}
    structure = loaded.structure(inputs)
    keys = {node.name: node.name for node in structure.stored()}
    home = Path(folder)
    written: dict[str, int] = {}

    def capture() -> None:
        trace = Trace.at(home / "captured.zarr")
        trace.make()
        with RecordingWriter(trace, "r", structure, {"framework": loaded.framework, "input": ""}, keys) as writer:
            loaded.capture(inputs, writer)

    def by_hand() -> None:
        written["script"] = script(home / "script.npz")

    ways: Mapping[str, Callable[[], Any]] = {
        "capture": capture,
        "script": by_hand,
        "record": lambda: tracer.record(model, values, name="r", trace=home / "recorded.zarr"),
        "raw": lambda: raw(home / "raw", written["capture"]),
    }
    found: dict[str, list[tuple[float, float]]] = {"forward": [], **{way: [] for way in WAYS if way not in skip}}
    grown: dict[str, float] = {}
    forward()
    for turn in range(repeat + 1):
        for way in found:
            with Peak() as peak:
                taken = timed(forward if way == "forward" else ways[way])
            if way == "capture":
                written[way] = Trace.at(home / "captured.zarr").recording("r").nbytes
            for left in home.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if turn:  # the first of each warms up
                found[way].append(taken)
            grown[way] = max(grown.get(way, 0.0), peak.grown)
    plain = [min(side) for side in zip(*found["forward"], strict=True)]
    ratios = {}
    for way, times in found.items():
        walls, used = zip(*times, strict=True)
        ratios[way] = {
            "wall": min(walls) / plain[0], "cpu": min(used) / plain[1], "spread": max(walls) / min(walls),
        }  # fmt: skip
    return {
        "case": name, "forward_s": plain[0], "forward_cpu_s": plain[1], "arrays": len(keys),
        "MB": written["capture"] / 1e6, "share": written["capture"] / written.get("script", 1),
        "memory_MB": grown["capture"] - grown["forward"], "script_memory_MB": grown.get("script", 0) - grown["forward"],
        "ways": ratios,
    }  # fmt: skip


def line(row: Mapping[str, Any]) -> str:
    ways = "".join(f"{way['wall']:>8.2f} [{way['cpu']:.2f}]" for key, way in row["ways"].items() if key != "forward")
    return (
        f"{row['case']:<20}{row['forward_s']:>9.3f}{ways}{row['MB']:>9.0f}{row['share']:>7.2f}"
        f"{row['memory_MB']:>8.0f}{row['script_memory_MB']:>8.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--skip", nargs="*", default=[], choices=WAYS)
    parser.add_argument("--kernels", action="store_true", help="loaded beforehand, not only where they pay at once")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help="where to write: on the disk that is meant")
    asked = parser.parse_args()
    print(
        f"{'':<20}{'forward':>9}" + "".join(f"{way:>15}" for way in WAYS if way not in asked.skip)
        + f"{'MB':>9}{'share':>7}{'memory':>8}{'script':>8}"
    )  # fmt: skip
    rows = []
    context = multiprocessing.get_context("spawn")
    for name in CASES:
        if asked.words and not any(word in name for word in asked.words):
            continue
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder, context.Pool(1) as pool:
            rows.append(pool.apply(measured, (name, asked.repeat, folder, tuple(asked.skip), asked.kernels)))
        print(line(rows[-1]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
