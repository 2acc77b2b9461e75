"""``tracer inspect``: what a model file holds, without recording it."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import adapter as adapters
from tracer import dtypes
from tracer import inputs as inputs_
from tracer.adapter import Adapter, LoadedModel, LoadRequest
from tracer.errors import InputError, NoModelError, RefusedError, TraceError
from tracer.graph import Structure
from tracer.names import display, encode
from tracer.store import Trace
from tracer.worker import arrays

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job

_MOST_HASHED = 1 << 32
"""Bytes of a file that was refused or holds no model: a hole of terabytes costs nobody but who reads it."""


def run_inspect(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``inspect`` command: :func:`inspect`, or :func:`unloaded` for what is refused or holds no model.

    Options: ``input_shape`` (list), ``save`` (what :func:`save_weights` saves in the folder the job lets it write).
    """
    from tracer.recording import describe_files
    from tracer.worker import protocol

    request = protocol.request_from_json(job.request)
    adapter = adapters.get(job.adapter)
    saving = job.options.get("save")
    common = {"adapter": job.adapter, "framework": adapter.framework}
    try:
        model = adapter.load(request)
    except (NoModelError, RefusedError) as error:
        if saving is not None:
            raise
        described = describe_files(request, _MOST_HASHED)
        return {**common, "file": described, **unloaded(adapter, request, error), "saved": []}
    emit(protocol.phase(protocol.INSPECTING))
    found = inspect(model, tuple(job.options.get("input_shape", ())))
    saved = []
    if saving is not None:
        saved = save_weights(model, str(saving), Path(job.write[0]))
    return {
        **common,
        "file": describe_files(request),
        **found,
        "tensors": [],
        "runs_code": list(_code(adapter, request)),
        "refused": None,
        "saved": saved,
    }


def _code(adapter: Adapter, request: LoadRequest) -> tuple[str, ...]:
    with contextlib.suppress(InputError):  # where it cannot be read, load says so
        return adapter.runs_code(request)
    return ()


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
        "loader": model.loader,
        "versions": model.versions(),
        "notes": [*model.notes, *(structure.notes if structure is not None else ())],
        "signature": [asdict(spec) for spec in signature],
        "parameters": parameters,
        "totals": _totals(parameters, structure),
        "structure": structure.to_json() if structure is not None else None,
        "why_no_structure": reason,
    }


def unloaded(adapter: Adapter, request: LoadRequest, why: NoModelError | RefusedError) -> dict[str, Any]:
    """The same for files that were not loaded: what in them would run code, and the tensors that lie open."""
    tensors: list[dict[str, Any]] = []
    with contextlib.suppress(InputError):  # ``why`` says what matters
        tensors = [{"name": p.name, "shape": list(p.shape), "dtype": p.dtype} for p in adapter.tensors(request)]
    return {
        "loader": None,
        "versions": {},
        "notes": [],
        "signature": [],
        "parameters": [],
        "tensors": tensors,
        "totals": _totals(tensors, None),
        "structure": None,
        "why_no_structure": str(why),
        "runs_code": list(_code(adapter, request)),
        "refused": None if tensors and isinstance(why, NoModelError) else str(why),
    }


def _totals(parameters: list[dict[str, Any]], structure: Structure | None) -> dict[str, Any]:
    """Numbers and bytes; an alias holds no bytes of its own, and what has no known shape or type counts none."""
    nodes = structure.nodes if structure is not None else ()
    sizes = [(math.prod(p["shape"]), p["dtype"], p.get("trainable", True)) for p in parameters]
    stored = [(math.prod(n.shape), n.dtype) for n in nodes if n.alias_of is None and n.shape is not None]
    return {
        "parameters": sum(count for count, _, _ in sizes),
        "trainable": sum(count for count, _, trainable in sizes if trainable),
        "parameter_bytes": sum(count * _itemsize(dtype) for count, dtype, _ in sizes),
        "activation_bytes": sum(count * _itemsize(dtype) for count, dtype in stored),
        "nodes": dict(Counter(node.role for node in nodes)),
    }


def _itemsize(dtype: str | None) -> int:
    try:
        return dtypes.by_name(dtype or "?").itemsize
    except InputError:
        return 0


def save_weights(model: LoadedModel, layer: str, folder: Path) -> list[str]:
    """Save the parameters of a layer, a container or all layers that a glob fits, as ``0.npy``, ``1.npy`` ….

    Returns their names in this order: those of the parameters, with the layer's before them where there are several.
    Raises InputError when no such layer has parameters, TraceError when they cannot be written.
    """
    owners = list(dict.fromkeys(owner for owner, _, _ in model.parameters()))
    chosen = _chosen(layer, owners)
    if not chosen:
        near = difflib.get_close_matches(layer, owners, 3) or owners[:3]
        raise InputError(f"no layer '{display(layer)}' with weights; there is {', '.join(map(display, near))}")
    names: list[str] = []
    for owner, param, value in model.parameters():
        if owner in chosen:
            try:
                np.save(folder / f"{len(names)}.npy", value, allow_pickle=False)
            except OSError as error:
                raise TraceError(f"cannot write {display(param.name)}: {error.strerror}") from error
            names.append(param.name if len(chosen) == 1 else f"{owner}.{param.name}".replace("/", "."))
    return names


_SUFFIX = re.compile(r"(#\d+|\[\d+\]|/preactivation)+$")
"""What a node's name has more than its layer's."""


def _chosen(layer: str, owners: Sequence[str]) -> set[str]:
    for name in (layer, _SUFFIX.sub("", layer)):
        if name in owners:
            return {name}
    inside = {owner for owner in owners if owner.startswith((f"{layer}/", f"{layer}."))}
    return inside or set(fnmatch.filter(owners, layer))


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
        array = arrays.opened(source)
    except ValueError as error:
        raise nonsense from error
    with array:
        try:
            with open(path, "xb") as file:
                written.append(path)
                shutil.copyfileobj(array, file, 1 << 20)
        except FileExistsError:
            raise InputError(f"{display(str(path))} exists already: choose another name") from None
        except OSError as error:
            from tracer.weighing import writing

            raise writing.failed(path, error) from error
