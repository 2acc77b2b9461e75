"""``tracer inspect``: what a model file holds, without recording it."""

from __future__ import annotations

import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tracer import adapter as adapters
from tracer import inputs as inputs_
from tracer.adapter import LoadedModel
from tracer.errors import InputError, TraceError
from tracer.names import display, encode
from tracer.store import Trace

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job


def run_inspect(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``inspect`` command. Options: ``input_shape`` (list), ``save`` (a layer, for :func:`save_weights`).

    The arrays go to the folder that the job lets it write.
    """
    from tracer.recording import describe_files
    from tracer.worker import protocol

    request = protocol.request_from_json(job.request)
    model = adapters.get(job.adapter).load(request)
    for note in model.notes:
        emit(protocol.notice(note))
    emit(protocol.phase(protocol.INSPECTING))
    found = inspect(model, tuple(job.options.get("input_shape", ())))
    saved = []
    if job.options.get("save") is not None:
        saved = save_weights(model, str(job.options["save"]), Path(job.write[0]))
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


def save_weights(model: LoadedModel, layer: str, folder: Path) -> list[str]:
    """Save a layer's parameters in ``folder`` as ``0.npy``, ``1.npy`` …: their names in this order.

    Raises InputError when the layer has no parameters, TraceError when they cannot be written.
    """
    values = [(p, value) for owner, p, value in model.parameters() if owner == layer]
    if not values:
        import difflib

        owners = sorted({owner for owner, _, _ in model.parameters()})
        near = difflib.get_close_matches(layer, owners, 3) or owners[:3]
        raise InputError(f"no layer '{display(layer)}' with weights; there is {', '.join(map(display, near))}")
    for index, (param, value) in enumerate(values):
        try:
            np.save(folder / f"{index}.npy", value, allow_pickle=False)
        except OSError as error:
            raise TraceError(f"cannot write {display(param.name)}: {error.strerror}") from error
    return [param.name for param, _ in values]


def keep_weights(folder: Path, names: Sequence[str], target: Path) -> list[str]:
    """Copy what :func:`save_weights` left in ``folder`` to ``target`` for one, to ``STEM.NAME.npy`` for several.

    Nothing in ``folder`` is believed: only regular files that hold a plain array are copied, and only to new files
    beside ``target``. Returns their paths. Raises InputError when one exists already, TraceError when one cannot be
    written or is no array; what was written of them by then is removed.
    """
    stem = target.with_suffix("") if target.suffix == ".npy" else target
    paths = [stem.parent / f"{stem.name}.{_file_name(name)}.npy" for name in names]
    if len(names) == 1:
        paths = [stem.parent / f"{stem.name}.npy"]
    written: list[Path] = []
    try:
        for index, path in enumerate(paths):
            _copy_array(folder / f"{index}.npy", path, written)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return [str(path) for path in paths]


def _file_name(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9._-]{1,100}", name) else encode(name)


def _copy_array(source: Path, path: Path, written: list[Path]) -> None:
    nonsense = TraceError(f"cannot write {display(str(path))}: the worker left no array for it")
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise nonsense from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise nonsense
    with open(descriptor, "rb") as array:
        if not _is_array(array):
            raise nonsense
        try:
            with open(path, "xb") as file:
                written.append(path)
                shutil.copyfileobj(array, file, 1 << 20)
        except FileExistsError:
            raise InputError(f"{display(str(path))} exists already: choose another name") from None
        except OSError as error:
            raise TraceError(f"cannot write {display(str(path))}: {error.strerror}") from error


def _is_array(file: BinaryIO) -> bool:
    """Whether a plain array, no objects, fills the file; leaves it at its start."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except (ValueError, OSError):
        return False
    size = file.tell() + math.prod(shape) * dtype.itemsize
    file.seek(0)
    return not dtype.hasobject and size == os.fstat(file.fileno()).st_size
