"""What is recorded of the model families of tests/families, what is missed, how long it takes and how much memory.

python -m benchmarks.capture [WORD …] [--json] [--gradients]
    from the repository's root; WORDs choose families by a part of their name; prints a table and writes
    benchmarks/capture.json. Each model runs in a process of its own.

Columns: calls, tensors and operations that an independent count sees in the model (tests/completeness_*.py); nodes of
the recording, and those that share another's tensor; what of the count is no node; seconds of a plain forward pass, of
making the structure (once), of a recording into memory; their ratio; megabytes recorded; the process's peak memory
before and after recording. With ``--gradients`` also how many activations and weights got a gradient in training mode.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from tests.families import FAMILIES, Family, missing
from tracer.adapter import LoadedModel, MemorySink, NotRecorded, Run, get
from tracer.graph import Structure

ROOT = Path(__file__).parent.parent


def best(action: Callable[[], Any], times: int = 3) -> float:
    """The shortest of some runs, in seconds; a slow one is run once."""
    out: list[float] = []
    while len(out) < times and sum(out) < 2:
        began = time.perf_counter()
        action()
        out.append(time.perf_counter() - began)
    return min(out)


def peak() -> float:
    """The most memory this process has held so far, in megabytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(family: Family, gradients: bool) -> dict[str, Any]:
    """Record a family once built, and count what it does without tracer."""
    torch = family.framework == "torch"
    seed(torch)
    model = family.build()
    adapter = get("pt" if torch else "tf")
    wrapped = adapter.wrap(model)
    inputs = family.inputs()
    if list(inputs) == [""]:
        inputs = {wrapped.signature()[0].name: inputs[""]}
    forward = torch_forward(model, inputs) if torch else keras_forward(model, inputs)
    forward()
    plain, before = best(forward), peak()
    began = time.perf_counter()
    structure = wrapped.structure(inputs)
    looked = time.perf_counter() - began
    sink = MemorySink()
    wrapped.capture(inputs, sink)
    after = peak()
    recorded = best(lambda: wrapped.capture(inputs, MemorySink()))
    arrays = [value for value in sink.values.values() if not isinstance(value, NotRecorded)]
    kinds = Counter(n.kind for n in structure if n.kind.startswith("other:") and n.role != "container")
    counted, lacking = (torch_count if torch else keras_count)(model, structure, sink, inputs)
    result = {
        "model": family.name,
        "counted": counted,
        "nodes": len(structure),
        "aliases": sum(node.alias_of is not None for node in structure),
        "missed": lacking,
        "not recorded": {n: v.reason for n, v in sink.values.items() if isinstance(v, NotRecorded)},
        "unknown kinds": dict(kinds),
        "notes": list(structure.notes),
        "plain_s": plain,
        "structure_s": looked,
        "recorded_s": recorded,
        "MB": sum(array.nbytes for array in arrays) / 1e6,
        "peak_before_MB": before,
        "peak_MB": after,
    }
    if gradients:
        result["gradients"] = with_gradients(adapter.wrap(model), inputs)
    return result


def seed(torch: bool) -> None:
    if torch:
        import torch as library

        library.manual_seed(0)
    else:
        import keras

        keras.utils.set_random_seed(0)


def torch_forward(model: Any, inputs: dict[str, Any]) -> Callable[[], Any]:
    import torch

    tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    model.eval()

    def forward() -> Any:
        with torch.no_grad():
            return model(**tensors)

    return forward


def keras_forward(model: Any, inputs: dict[str, Any]) -> Callable[[], Any]:
    import tensorflow as tf

    tensors = {name: tf.constant(array) for name, array in inputs.items()}
    given = next(iter(tensors.values())) if len(tensors) == 1 else tensors
    model(given, training=False)
    run = tf.function(lambda: model(given, training=False), autograph=False)
    return lambda: [part.numpy() for part in tf.nest.flatten(run()) if hasattr(part, "numpy")]


def torch_count(model: Any, structure: Structure, sink: MemorySink, inputs: dict[str, Any]) -> tuple[int, list[str]]:
    from tests import completeness_torch as completeness

    recording = completeness.Recording.made(structure, sink)
    found = completeness.count(model, inputs)
    lacking = completeness.lacking(found, recording)
    graph = completeness.traced(model, inputs)
    return len(found), lacking + (completeness.lacking_of_graph(graph, recording) if graph is not None else [])


def keras_count(model: Any, structure: Structure, sink: MemorySink, inputs: dict[str, Any]) -> tuple[int, list[str]]:
    from tests import completeness_keras as completeness

    recording = completeness.Recording.made(structure, sink)

    def call(tensors: dict[str, Any]) -> Any:
        return model(next(iter(tensors.values())) if len(tensors) == 1 else tensors, training=False)

    found = completeness.count(model, call, inputs)
    lacking = completeness.lacking(found, recording)
    if hasattr(getattr(model, "_functional", None) or model, "_nodes_by_depth"):
        lacking += completeness.lacking_of_stated(model, recording)
    return len(found), lacking


def with_gradients(wrapped: LoadedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """How many activations and weights got a gradient in training mode, and why the others did not."""
    wrapped.run = Run(mode="train", loss="square")
    began = time.perf_counter()
    try:
        wrapped.structure(inputs)
        sink = MemorySink()
        wrapped.capture(inputs, sink)
    except Exception as error:  # whatever it is belongs into the table
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
    given = [*sink.gradients.values(), *sink.weight_gradients.values()]
    without = Counter(value.reason for value in given if isinstance(value, NotRecorded))
    return {
        "activations": sum(not isinstance(v, NotRecorded) for v in sink.gradients.values()),
        "weights": sum(not isinstance(v, NotRecorded) for v in sink.weight_gradients.values()),
        "without": dict(without),
        "seconds": time.perf_counter() - began,
    }


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    if "failed" in result:
        return f"{result['model']:44} FAILED {result['failed']}"
    ratio = result["recorded_s"] / result["plain_s"]
    line = (
        f"{result['model']:44}{result['counted']:8}{result['nodes']:7}{result['aliases']:6}{len(result['missed']):6}"
        f"{sum(result['unknown kinds'].values()):6}{result['plain_s']:9.3f}{result['structure_s']:9.3f}"
        f"{result['recorded_s']:9.3f}{ratio:7.1f}{result['MB']:9.1f}{result['peak_before_MB']:8.0f}"
        f"{result['peak_MB']:8.0f}"
    )
    got = result.get("gradients")
    if got:
        line += f"  {got['failed']}" if "failed" in got else f"{got['activations']:7}{got['weights']:6}"
    return line


def heading(gradients: bool) -> str:
    return (
        f"{'model':44}{'counted':>8}{'nodes':>7}{'alias':>6}{'miss':>6}{'other':>6}{'plain s':>9}{'struct s':>9}"
        f"{'record s':>9}{'ratio':>7}{'MB':>9}{'before':>8}{'peak MB':>8}"
        + (f"{'grads':>7}{'w':>6}" if gradients else "")
    )


def alone(context: Any, family: Family, gradients: bool) -> dict[str, Any]:
    """Measure one family in a process of its own."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(theirs, family.name, gradients))
    process.start()
    theirs.close()
    try:
        result: dict[str, Any] = ours.recv() if ours.poll(600) else {"failed": "over 600 s"}
    except EOFError:
        result = {"failed": "the process died"}
    process.kill()
    process.join()
    return {"model": family.name, **result}


def _measured(pipe: Any, name: str, gradients: bool) -> None:
    warnings.simplefilter("ignore")
    try:
        pipe.send(measure(FAMILIES[name], gradients))
    except Exception as error:
        pipe.send({"failed": f"{type(error).__name__}: {error}"[:200]})


def main(arguments: list[str]) -> None:
    flags = {argument for argument in arguments if argument.startswith("--")}
    words = [argument for argument in arguments if not argument.startswith("--")]
    gradients = "--gradients" in flags
    # Each process begins as a copy of one in which the frameworks were imported, and nothing else was done.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "tensorflow", "keras", "tf_keras", "benchmarks.capture"])
    results: list[dict[str, Any]] = []
    last = ROOT / "benchmarks" / "capture.json"
    # Families that are not measured now keep their last figures.
    known = {old["model"]: old for old in json.loads(last.read_text())} if last.exists() else {}
    if "--json" not in flags:
        print(heading(gradients), flush=True)
    for name, family in FAMILIES.items():
        if words and not any(word in name for word in words):
            continue
        package = missing(family)
        result = {"model": name, "failed": f"needs {package}"} if package else alone(context, family, gradients)
        results.append(result)
        if "--json" not in flags:
            print(row(result), flush=True)
            known[name] = result
            last.write_text(json.dumps(list(known.values()), indent=1) + "\n")
    if "--json" in flags:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
