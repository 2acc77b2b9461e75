"""Recording one model run: input, structure, alignment to the reference, values, weights."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer import adapter as adapters
from tracer import inputs as inputs_
from tracer.adapter import Adapter, Array, LoadedModel, LoadRequest, NotRecorded, Run
from tracer.alignment import Alignment, align
from tracer.alignment.parameters import Places
from tracer.batches import Batches, Plan, as_attributes, plan
from tracer.collecting import rarely_collected
from tracer.errors import InputError, TracerError
from tracer.graph import Structure
from tracer.names import display
from tracer.options import Options
from tracer.rerun import loading
from tracer.store import Recording, RecordingWriter, Trace
from tracer.store.entries import listed
from tracer.store.storage import Storage
from tracer.wanted import wanted
from tracer.worker.protocol import PREPARING, RECORDING

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job

_PROGRESS_EVERY = 0.1
_AHEAD = 1 << 20
"""Bytes of activations of a small model, which is then run once and not twice."""
_NO_GRADIENT = 1e-5
"""Gradients below this, relative to those of the outputs themselves, are rounding."""
_RUNNING = threading.RLock()
"""Held while a model runs: hooks of two recordings in one process would see each other's tensors."""


@dataclass(frozen=True)
class Summary:
    """What was recorded, for the one line a user reads; the first ``model_notes`` of ``notes`` are about loading."""

    name: str
    framework: str
    loader: str
    nodes: int
    saved: int
    planned: int
    skipped: dict[str, str]
    gradients: int
    weight_gradients: int
    weights: int
    nbytes: int
    seconds: float
    input_id: str
    input_shapes: dict[str, list[int]]
    reference: str | None = None
    pairs: int | None = None
    notes: tuple[str, ...] = ()
    model_notes: int = 0


def run_record(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``record`` command: load the model under the trust rules and record it into ``job.trace``."""
    from dataclasses import asdict

    from tracer.worker import protocol

    request = protocol.request_from_json(job.request)
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in job.options.items()}
    options = Options(**given)
    assert job.trace is not None
    trace = Trace.at(job.trace, durable=options.durable)
    check_name(trace, options)
    adapter = adapters.get(job.adapter)
    check_run(adapter, job.adapter, options)
    model = adapter.load(request)
    for note in model.notes:
        emit(protocol.notice(note))
    described = {
        **describe_files(request), "trust": request.trust, "sandbox": job.confinement,
        "load": loading.described(job.adapter, request, job.python),
    }  # fmt: skip
    return asdict(record_emitting(emit, model, trace, options, described))


def record_emitting(
    emit: Callable[[Event], None], model: LoadedModel, trace: Trace, options: Options, attributes: Mapping[str, Any],
    *, refined: bool = True,
) -> Summary:  # fmt: skip
    """In a worker: :func:`record`, with its phases and its progress told to the parent."""
    from tracer.worker import protocol

    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_EVERY or done == total:
            last = time.monotonic()
            emit(protocol.progress(done, total))

    return record(
        model, trace, options, model_attributes=attributes,
        phase=lambda text: emit(protocol.phase(text)), progress=progress, refined=refined,
    )  # fmt: skip


def check_name(trace: Trace, options: Options) -> None:
    """Raises InputError when the name is taken and may not be replaced."""
    if not options.name:
        raise InputError("a recording needs a name")
    if trace.has(options.name) and not options.force:
        raise InputError(
            f"recording '{display(options.name)}' exists already in {display(str(trace.root))}: "
            "--force replaces it, --name NAME keeps both"
        )


def check_run(adapter: Adapter, name: str, options: Options) -> None:
    """Raises InputError when an adapter's models cannot be run as the options want."""
    if options.mode not in adapter.modes:
        raise InputError(f"'{name}' records in {' or '.join(adapter.modes)} mode only")
    if options.loss is not None and not adapter.gradients:
        raise InputError(f"'{name}' cannot give gradients: leave --grad out")


def describe_files(request: LoadRequest, most: int | None = None) -> dict[str, Any]:
    """Name, size and SHA-256 of the files a model was loaded from; None instead of that of more than ``most`` bytes."""
    named = request.path or request.weights
    out: dict[str, Any] = {"name": named.name if named is not None else request.arch or "?", "arch": request.arch}
    for key, path in (("file", request.path), ("weights", request.weights)):
        if path is not None and path.is_file():
            size = path.stat().st_size
            known = loading.digest(path) if most is None or size <= most else None
            out[key] = {"path": str(path), "bytes": size, "sha256": known}
    return out


def describe_object(model: object) -> dict[str, Any]:
    """Name of a live model: its class, wherever that was written."""
    return {"name": type(model).__qualname__.rpartition("<locals>.")[2]}


def describe_model(model: LoadedModel, structure: Structure) -> dict[str, Any]:
    """Framework, versions, machine, loader and notes of a model that runs as ``structure``."""
    return {
        "framework": model.framework,
        "versions": {**model.versions(), "python": platform.python_version(), "tracer": version("tracer-nn")},
        "platform": platform.platform(),
        "loader": model.loader,
        "notes": [*model.notes, *structure.notes],
    }


@rarely_collected()
def record(
    model: LoadedModel,
    trace: Trace,
    options: Options,
    *,
    arrays: Mapping[str, Array] | None = None,
    model_attributes: Mapping[str, Any] | None = None,
    phase: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    refined: bool = True,
    done: Callable[[Recording], None] = lambda recording: None,
) -> Summary:
    """Record one run of ``model`` under ``options.name``.

    The structure is aligned to the reference before the model runs, so that activations stream straight to their
    aligned names; afterwards the alignment is refined with the values, unless :func:`refine` is to do that. Nothing is
    written to the trace before the model has taken the input. ``done`` is given the recording as it was read back.

    Raises InputError (the input does not fit, the name is taken), ModelError (the model raised; what ran is kept),
    TraceError (the trace cannot be written).
    """
    check_name(trace, options)
    reference = _reference(trace, options)
    phase(PREPARING)
    model.run = Run(options.mode, options.loss)
    model.ahead = _AHEAD
    with _RUNNING:
        prepared = inputs_.prepare(
            model,
            trace,
            source=options.input,
            shapes=options.input_shape,
            layout=options.layout,
            arrays=arrays,
            input_id=_input_of(reference, trace, options),
            samples=options.samples,
            batch=options.batch,
        )
        planned = _planned(model, prepared, options)
    structure = planned.structure.checked()
    alignment = align(reference, structure) if reference is not None else None
    keys = {node.name: node.name for node in structure.stored()}
    if reference is not None and alignment is not None:
        keys = aligned_names(trace, reference, alignment)
    storage = Storage(
        wanted(structure, keys, options.layers, options.exclude), options.statistics_only, options.precision,
        len(prepared.batches), planned.joined,
    )  # fmt: skip
    keys = stored_keys(structure, keys)
    total = sum(1 for node in structure.stored() if storage.only is None or node.name in storage.only)
    attributes = {
        **describe_model(model, structure),
        "model": {"name": "?", **(model_attributes or {})},
        "input": prepared.input_id,
        "input_axes": {name: list(axes) for name, axes in prepared.axes.items()},
        "mode": options.mode,
        **_how(options, prepared.batches, planned),
        "reference": None if reference is None else reference.name,
        "alignment": None if alignment is None else alignment.to_json(),
    }
    trace.make()
    name = options.name
    if trace.has(name):  # what is replaced stays until the new recording is whole
        name = _aside(trace, name)
    phase(RECORDING)
    writer = RecordingWriter(
        trace, name, structure, attributes, keys, storage=storage,
        memory=options.memory, progress=lambda done: progress(min(done, total), total),
    )  # fmt: skip
    try:
        with _RUNNING, writer:
            try:
                trace.save_inputs(prepared.input_id, prepared.saved, prepared.attributes)
            except OSError as error:
                raise writer.failure(error) from error
            for node, why in planned.unfit.items():
                writer(node, NotRecorded(why))
            if options.weights or options.loss:
                phase("saving the weights")
                _save_weights(
                    model, writer, structure, weight_places(reference, alignment), storage, save=options.weights
                )
                phase(RECORDING)
            for batch in prepared.batches:
                model.capture(batch, writer)
                writer.next_batch()
            model.ahead = 0
    except TracerError as error:
        if name != options.name:
            what = f"the earlier '{display(options.name)}' is as it was, what ran is in '{display(name)}'"
            error.args = (f"{error}; {what}", *error.args[1:])
        raise
    if name != options.name:
        trace.rename(name, options.name)
    recording = trace.recording(options.name)
    notes = [*structure.notes, *_said(recording, options)]
    if reference is not None and reference.input_id != recording.input_id:
        notes.append(f"made on another input than '{reference.name}': the two cannot be compared")
    if reference is not None and refined:
        phase("aligning")
        alignment = align(reference, recording)
        recording = refine(trace, reference, recording, alignment)
    done(recording)
    return Summary(
        name=options.name,
        framework=model.framework,
        loader=model.loader,
        nodes=len(structure),
        saved=len(recording.summaries),
        planned=recording.planned,
        skipped=dict(recording.skipped),
        gradients=len(recording.gradients) or len(recording.attributes.get("gradient_statistics", ())),
        weight_gradients=len(recording.weight_gradients),
        weights=len(recording.weights),
        nbytes=recording.nbytes,
        seconds=float(recording.attributes.get("seconds", 0.0)),
        input_id=prepared.input_id,
        input_shapes={name: list(values.shape) for name, values in prepared.fitted.items()},
        reference=None if reference is None else reference.name,
        pairs=None if alignment is None else len(alignment.pairs),
        notes=(*model.notes, *notes),
        model_notes=len(model.notes),
    )


def _planned(model: LoadedModel, prepared: inputs_.Prepared, options: Options) -> Plan:
    """The structure of the whole recording. Raises InputError when the model cannot be run in these batches."""
    if len(prepared.batches) == 1:
        return Plan(prepared.structure, {}, {})
    if options.loss is not None:
        raise InputError(f"--grad needs one run, and the model takes {prepared.batches.size} samples at a time")
    return plan(model, prepared.batches, prepared.structure)


def _how(options: Options, batches: Batches, planned: Plan) -> dict[str, Any]:
    """Attributes that say how the recording was made, where that was not the usual way."""
    found: dict[str, Any] = {
        "loss": options.loss,
        "batches": len(batches) if len(batches) > 1 else None,
        "samples": as_attributes(batches.size, batches.samples, planned.joined) if len(batches) > 1 else None,
        "layers": list(options.layers),
        "exclude": list(options.exclude),
        "statistics_only": options.statistics_only,
        "precision": options.precision,
    }
    return {key: value for key, value in found.items() if value}


def _said(recording: Recording, options: Options) -> list[str]:
    """Sentences about how the recording was made that its reader must know."""
    said = []
    if options.mode == "train":
        said.append("recorded in training mode: normalisation used the batch's statistics, dropout was drawn")
    if _vanishing(recording):
        said.append(
            f"the gradients of {options.loss} are all but zero before the outputs (the sum of a softmax is constant): "
            "--grad square says more"
        )
    wide = recording.attributes.get("kept_wide", ())
    if wide:
        said.append(f"{len(wide)} tensors overflow {options.precision} and were kept as they are, first {wide[0]}")
    return said


def _vanishing(recording: Recording) -> bool:
    """Whether no gradient but the outputs' own is worth comparing."""
    if not recording.gradients:  # to read the structure again takes time
        return False
    outputs = {recording.resolve(name) for name in recording.structure.outputs}
    sizes = {
        name: max(abs(g.summary.get("min", 0.0)), abs(g.summary.get("max", 0.0)))
        for name, g in recording.gradients.items()
    }
    before = [size for name, size in sizes.items() if name not in outputs]
    return bool(before) and max(before) < _NO_GRADIENT * max(sizes.values())


def _reference(trace: Trace, options: Options) -> Recording | None:
    others = [r for r in trace.recordings() if r.name != options.name]
    if options.reference == options.name and trace.has(options.name):
        raise InputError(f"--reference '{display(options.name)}' is the recording that is replaced: name another one")
    if options.reference is not None:
        return trace.recording(options.reference)
    return next((r for r in others if r.state == "complete" and not r.attributes.get("reference")), None)


def _input_of(reference: Recording | None, trace: Trace, options: Options) -> str | None:
    """The saved input to use when none is named: the reference's, or that of the recording which is replaced."""
    if reference is None and trace.has(options.name):
        reference = trace.recording(options.name)
    return reference.input_id if reference is not None and trace.has_inputs(reference.input_id) else None


def stored_keys(structure: Structure, keys: Mapping[str, str]) -> dict[str, str]:
    """Aligned names for the nodes that are stored; an alias passes its own on when the stored node has none."""
    out = {node.name: keys[node.name] for node in structure.stored() if node.name in keys}
    used = set(out.values())
    for node in structure:
        if node.alias_of is not None and node.name in keys and node.alias_of not in out and keys[node.name] not in used:
            out[node.alias_of] = keys[node.name]
            used.add(keys[node.name])
    return out


def aligned_names(trace: Trace, reference: Recording, alignment: Alignment) -> dict[str, str]:
    """The name each node is stored under: its twin's own, or what that one is stored under where it is a twin itself.

    So all recordings of a trace share one set of names, whichever of them they were aligned to.
    """
    keys = alignment.keys()
    seen = set()
    while (above := reference.attributes.get("reference")) and reference.name not in seen:
        seen.add(reference.name)
        found = reference.attributes.get("alignment")
        pairs = found.get("pairs", []) if isinstance(found, dict) else []
        names_above = {pair["candidate"][-1]: pair["aligned"] for pair in reversed(pairs)}
        once: dict[str, str] = {}
        for node, twin in keys.items():
            if twin in names_above:
                once.setdefault(names_above[twin], node)
        keys = {node: name for name, node in once.items()}
        if not trace.has(str(above)):
            break
        reference = trace.recording(str(above))
    return keys


def weight_places(reference: Recording | None, alignment: Alignment | None) -> Places:
    """Where the parameter map says that weights belong: beside the reference's, wherever these lie."""
    if reference is None or alignment is None:
        return Places(())
    held, pairs = reference.weight_keys, alignment.parameters.pairs
    return Places(replace(pair, reference=tuple(held.get(key, key) for key in pair.reference)) for pair in pairs)


def refine(trace: Trace, reference: Recording, recording: Recording, alignment: Alignment) -> Recording:
    """Keep an alignment that knows the values with a recording. Raises TraceError."""
    where = weight_places(reference, alignment)
    keys = {param: where[param] for param in (*recording.weights, *recording.weight_gradients)}
    known = {"alignment": alignment.to_json(), "weight_keys": listed(keys)}
    if all(recording.attributes.get(key, []) == value for key, value in known.items()):
        return recording
    return trace.update(recording.name, known)


def _save_weights(
    model: LoadedModel,
    writer: RecordingWriter,
    structure: Structure,
    where: Places,
    storage: Storage,
    *,
    save: bool,
) -> None:
    """Weights under the layer and the name that ``where`` says.

    Where only some layers are recorded, those of the others are left out. Without ``save`` the writer only learns
    where their gradients belong.
    """
    only = None
    if storage.only is not None:
        only = {node.owner for node in structure if (node.alias_of or node.name) in storage.only}
    used = {}
    for owner, param, value in model.parameters():
        if only is not None and owner not in only:
            continue
        used[owner, param.name] = where[owner, param.name]
        if save:
            writer.put_weights(owner, param, value, used[owner, param.name])
    writer.weight_keys(used)


def record_object(
    model: object, inputs: Any, *, name: str | None = None, trace: str | Path = "trace.zarr", **options: Any
) -> Recording:
    """Record a live model; see :func:`tracer.record`. ``options`` are fields of :class:`Options`."""
    if name is not None and not isinstance(name, str):
        raise InputError(f"a recording's name is text, not {type(name).__name__}")
    entry, adapter = adapters.for_object(model)
    chosen = Options(name or entry, **options)
    opened = Trace.at(trace, durable=chosen.durable)
    if name is None and opened.has(chosen.name) and not chosen.force:
        chosen = replace(chosen, name=free(opened, entry))
    check_run(adapter, entry, chosen)
    loaded = adapter.wrap(model)
    arrays: dict[str, Array] | None
    if inputs is None:
        arrays = None
    elif isinstance(inputs, Mapping):
        arrays = {str(key): as_array(value) for key, value in inputs.items()}
    elif isinstance(inputs, Sequence):
        specs = loaded.signature()
        labels = [s.name for s in specs] if len(specs) == len(inputs) else [f"input_{i}" for i in range(len(inputs))]
        arrays = {label: as_array(value) for label, value in zip(labels, inputs, strict=True)}
    else:
        arrays = {"": as_array(inputs)}
    found: list[Recording] = []
    record(
        loaded,
        opened,
        chosen,
        arrays=arrays,
        model_attributes=describe_object(model),
        done=found.append,
    )
    return found[0]


def as_array(value: Any) -> Array:
    """A framework's tensor, or whatever numpy takes, as an array. Raises InputError."""
    import numpy as np

    if hasattr(value, "detach"):  # a torch tensor, perhaps with a gradient or on a device
        value = value.detach().cpu()
    if str(getattr(value, "dtype", "")) == "torch.bfloat16" and hasattr(value, "float"):  # numpy has none of its own
        import ml_dtypes

        return np.asarray(value.float()).astype(ml_dtypes.bfloat16)
    try:
        return np.asarray(value)
    except Exception as error:
        raise InputError(f"an input of type {type(value).__name__} cannot be read as an array") from error


def _aside(trace: Trace, name: str) -> str:
    """Where to record what will replace ``name``; takes the place of a failed try, never of a whole recording."""
    aside = f"{name}.new"
    if trace.has(aside):
        if trace.recording(aside).state == "complete":
            return free(trace, aside)
        trace.delete(aside)
    return aside


def free(trace: Trace, stem: str) -> str:
    """``stem`` with the first number that no recording has."""
    number = 2
    while trace.has(f"{stem}-{number}"):
        number += 1
    return f"{stem}-{number}"
