"""What re-execution costs, in processor time of a plain forward pass of both models."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import tracer
from benchmarks.corpus import Built, ports
from tracer import adapter as adapters
from tracer.alignment import align
from tracer.rerun import loading
from tracer.rerun.cuts import cuts
from tracer.rerun.local import against, local_errors, shaken, walked
from tracer.store import Recording, Trace

T = TypeVar("T")
_REPEATS = 3
"""Of all that is timed; the least counts."""


def both(built: Built, inputs: Any, theirs: Any, place: Path) -> tuple[Recording, Recording]:
    """Record both sides of a port in a new trace."""
    tracer.record(built.reference, inputs, trace=place, name="reference", **built.record[0])
    tracer.record(built.candidate, theirs, trace=place, name="equal", **built.record[1])
    trace = Trace.open(place)
    return trace.recording("reference"), trace.recording("equal")


def forward(model: object, recording: Recording, repeats: int = _REPEATS) -> float:
    """Seconds of a plain forward pass of a live model on what a recording was fed."""
    _, inputs = loading.live(model, recording)
    if recording.framework == "pytorch":
        import torch

        given = {name: torch.from_numpy(np.array(values)) for name, values in inputs.items()}

        def run() -> None:
            with torch.no_grad():
                model(**given)  # type: ignore[operator]
    else:
        values = list(inputs.values())
        plain = inputs if len(values) > 1 else values[0]

        def run() -> None:
            model(plain, training=False)  # type: ignore[operator]

    took = []
    for _ in range(repeats):
        began = time.process_time()
        run()
        took.append(time.process_time() - began)
    return min(took)


def sized() -> dict[str, Callable[[], Built]]:
    """Networks at the size at which they are used; VGG16 at the corpus' own, of which the classifier is small."""
    from dataclasses import replace

    from benchmarks.corpus import hub, vision_tuned

    def large(make: Callable[[], Built]) -> Callable[[], Built]:
        def build() -> Built:
            before = vision_tuned.keras_application
            vision_tuned.keras_application = lambda name, size, **options: before(name, 224, **options)
            try:
                return make()
            finally:
                vision_tuned.keras_application = before

        return build

    def bert() -> Built:
        known = hub.TWINS["bert"]
        options = {**known.options, "hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12,
                   "intermediate_size": 3072, "max_position_embeddings": 512}  # fmt: skip
        return replace(known, options=options, inputs=hub._ids(2, 128, 99)).build()

    return {
        "resnet50 at 224": large(ports()["vision/resnet50"].build),
        "mobilenet_v2 at 224": large(ports()["vision/mobilenet_v2"].build),
        "vgg16 at 96": ports()["vision/vgg16"].build,
        "bert, 6 layers of 768": bert,
    }


def _one_thread() -> None:
    import tensorflow as tf
    import torch

    torch.set_num_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def run_seconds(names: Sequence[str], scratch: Path | None, keep: Callable[[dict[str, Any]], None]) -> None:
    """In processor time, which other work on the machine disturbs least; ``keep`` takes each result.

    The frameworks run in one thread each: what waits for work spins, and counts. Each pair is measured both ways round;
    loading, and reading the graph that a model has, are not counted.
    """
    _one_thread()
    for name, build in sized().items():
        if names and not any(fnmatchcase(name, pattern) for pattern in names):
            continue
        built = build()
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            place = Path(folder)
            sides = both(built, built.inputs, built.candidate_inputs, place / "t.zarr")
            models = built.reference, built.candidate
            plain = forward(models[0], sides[0]), forward(models[1], sides[1])
            for swapped in (False, True):
                step = -1 if swapped else 1
                runs = [again(models[::step], sides[::step], place) for _ in range(_REPEATS)]
                parts = min(runs, key=lambda run: sum(run.values()))
                ratio = sum(parts.values()) / sum(plain)
                shown = ", ".join(f"{what} {seconds:.2f}" for what, seconds in parts.items())
                print(f"{name:24} {sides[swapped].framework:10} as the reference: forward {plain[0]:.2f} + "
                      f"{plain[1]:.2f} s  again: {shown} s = {ratio:.1f} x", flush=True)  # fmt: skip
                keep({"port": name, "swapped": swapped, "forward": plain, "again": parts, "ratio": ratio})


def again(models: Sequence[object], sides: Sequence[Recording], folder: Path) -> dict[str, float]:
    """Seconds of what a re-execution does, of fresh wraps of the models."""
    made, _ = cuts(align(*sides).pairs, *sides)
    wrapped = [adapters.for_object(model)[1].wrap(model) for model in models]
    inputs = [loading.prepare(model, side) for model, side in zip(wrapped, sides, strict=True)]
    parts = {"candidate": 0.0, "reference": 0.0, "shaken": 0.0}

    def timed(what: str, action: Callable[[], T]) -> T:
        began = time.process_time()
        try:
            return action()
        finally:
            parts[what] += time.process_time() - began

    local_errors(
        made,
        lambda: timed("candidate", lambda: walked(wrapped[1], inputs[1], sides[0], made, folder)),
        lambda alone: timed("reference", lambda: against(wrapped[0], inputs[0], sides[0], made, alone.files, folder)),
        lambda alone, names: timed(
            "shaken", lambda: shaken(wrapped[1], inputs[1], sides[0], made, alone, names, folder)
        ),
    )
    return parts
