"""``tracer inspect``: what a model file holds, without recording it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import adapter as adapters
from tracer import inputs as inputs_
from tracer.adapter import LoadedModel
from tracer.errors import InputError, TraceError
from tracer.names import display
from tracer.store import Trace

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job


def run_inspect(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``inspect`` command. Options: ``input_shape`` (list), ``save`` ([layer, folder-or-file])."""
    from tracer.recording import describe_files
    from tracer.worker import protocol

    request = protocol.request_from_json(job.request)
    model = adapters.get(job.adapter).load(request)
    for note in model.notes:
        emit(protocol.notice(note))
    emit(protocol.phase("inspecting"))
    found = inspect(model, tuple(job.options.get("input_shape", ())))
    saved = []
    if job.options.get("save"):
        layer, target = job.options["save"]
        saved = save_weights(model, str(layer), Path(str(target)))
    return {**found, "file": describe_files(request), "saved": saved}


def inspect(model: LoadedModel, input_shape: tuple[str, ...] = ()) -> dict[str, Any]:
    """Signature, parameters and, where an input can be made up, the graph with shapes, as JSON values."""
    parameters: list[dict[str, Any]] = [
        {"owner": owner, "name": p.name, "shape": list(p.shape), "dtype": p.dtype, "trainable": p.trainable}
        for owner, p, _ in model.parameters()
    ]
    signature = model.signature()
    reason, structure = None, None
    try:
        prepared = inputs_.prepare(model, Trace(Path("/nonexistent")), source=None, shapes=input_shape)
        structure = prepared.structure
    except InputError as error:
        reason = str(error)
    return {
        "framework": model.framework,
        "loader": model.loader,
        "versions": model.versions(),
        "notes": [*model.notes, *(structure.notes if structure is not None else ())],
        "signature": [asdict(spec) for spec in signature],
        "parameters": parameters,
        "totals": {
            "parameters": sum(math.prod(p["shape"]) for p in parameters),
            "trainable": sum(math.prod(p["shape"]) for p in parameters if p["trainable"]),
        },
        "structure": structure.to_json() if structure is not None else None,
        "why_no_structure": reason,
    }


def save_weights(model: LoadedModel, layer: str, target: Path) -> list[str]:
    """Save a layer's parameters as ``.npy``: to ``target`` itself for one, beside it as ``STEM.NAME.npy`` for several.

    Raises InputError when the layer has no parameters or a file exists already, TraceError when it cannot be written.
    """
    values = [(p, value) for owner, p, value in model.parameters() if owner == layer]
    if not values:
        import difflib

        owners = sorted({owner for owner, _, _ in model.parameters()})
        near = difflib.get_close_matches(layer, owners, 3) or owners[:3]
        raise InputError(f"no layer '{display(layer)}' with weights; there is {', '.join(map(display, near))}")
    stem = target.with_suffix("") if target.suffix == ".npy" else target
    written = []
    for param, value in values:
        path = stem.with_suffix(".npy") if len(values) == 1 else stem.parent / f"{stem.name}.{param.name}.npy"
        try:
            with open(path, "xb") as file:
                np.save(file, value, allow_pickle=False)
        except FileExistsError:
            raise InputError(f"{display(str(path))} exists already: choose another name") from None
        except OSError as error:
            raise TraceError(f"cannot write {display(str(path))}: {error.strerror}") from error
        written.append(str(path))
    return written
