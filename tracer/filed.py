"""The Python interface to files: models that lie in files, mappings, exports, copies of a trace, and the daemon."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tracer.errors import InputError
from tracer.store import Recording, Trace
from tracer.text import texts

if TYPE_CHECKING:
    from tracer.alignment import Alignment
    from tracer.alignment.mapping import Mapping as MappingFile
    from tracer.cli.recording import Loading
    from tracer.exporting.files import Exported
    from tracer.live.serial import Steps
    from tracer.report.found import Found

Source = str | os.PathLike[str]


def record_file(
    model: Source | None,
    inputs: Any = None,
    *,
    adapter: str | None = None,
    weights: Source | None = None,
    arch: str | None = None,
    arch_args: Sequence[Any] | Mapping[str, Any] = (),
    input_shape: str | Sequence[str] = (),
    imports: str | Sequence[str] = (),
    allow: str | Sequence[str] = (),
    trust: bool = False,
    graph_inputs: str | Sequence[str] = (),
    graph_outputs: str | Sequence[str] = (),
    python: str | None = None,
    sandbox: bool = True,
    load_timeout: float = 300.0,
    memory_limit: float | None = None,
    name: str | None = None,
    trace: Source = "trace.zarr",
    layout: str = "auto",
    save_weights: bool = True,
    force: bool = False,
    reference: str | None = None,
    samples: int | None = None,
    batch: int | None = None,
    mode: Literal["eval", "train"] = "eval",
    loss: str | None = None,
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    statistics_only: bool = False,
    precision: str | None = None,
    durable: bool = False,
) -> Recording:
    """Record one run of a model that lies in a file, in a sandboxed process: the same as ``tracer record``.

    Nothing in the file runs unless ``trust`` says so; what is named by ``arch`` and ``imports`` does.

    Args:
        model: the file or folder; None where ``arch`` builds the model.
        inputs: an array, a mapping of input names to arrays, or what ``--input`` takes: a ``.npy`` or ``.npz`` file,
            ``seed:7``; batch first, in this model's or the first recording's axes. None reuses the trace's input.
        adapter: ``tf``, ``pt``, ``onnx`` …; None goes by the file.
        weights: a separate file of weights.
        arch: what builds the model, ``pkg.mod:callable`` or ``file.py:callable``.
        arch_args: its arguments: a list, or a mapping of keywords; JSON values.
        input_shape: of a generated input, batch first: ``2,500,12`` or ``NAME=2,500,12``.
        imports: modules or files whose classes the model may use.
        allow: classes that a pickle may name.
        trust: load even what runs code from the file.
        graph_inputs, graph_outputs: names of the tensors that a bare graph is fed, and run up to.
        python: another environment's Python, which loads and runs the model.
        sandbox: confine the process where the kernel can.
        load_timeout: seconds that loading may take.
        memory_limit: gigabytes that the process may take.
        name: of the recording; by default the adapter's, with a number when that is taken.
        trace: where to record; created when it does not exist.
        layout: ``auto``, ``same``, ``NHWC->NCHW`` or ``NCHW->NHWC``: how the input's axes move for this model.
        save_weights: whether parameters and buffers are recorded too.
        force: replace a recording of this name.
        reference: the recording to align to, by name; by default the trace's first.
        samples: how many samples are generated, or taken of the input.
        batch: run so many samples at a time.
        mode: ``train`` records in training mode.
        loss: record gradients of ``sum``, ``mean`` or ``square`` of the outputs, or of ``file.py:callable(outputs)``.
        layers, exclude: record only some nodes: one or several globs over names, paths, or ``op:conv*``.
        statistics_only: keep statistics of each activation instead of its values.
        precision: ``float32``, ``float16`` or ``bfloat16``: round activations before they are stored.
        durable: wait until the recording is on the disk, so that it outlasts a power cut.

    Raises:
        RefusedError: loading the file would run code.
        InputError: the file, the input or an option does not fit, or the name is taken.
        ModelError: the model raised; what ran before is kept in the recording.
        TraceError: the trace cannot be written.
    """
    from tracer.cli import recording
    from tracer.options import Options
    from tracer.recording import free

    loading = _loading(
        model, adapter, weights, arch, arch_args, imports, allow, trust, graph_inputs, graph_outputs, python, sandbox,
        load_timeout, memory_limit,
    )  # fmt: skip
    opened = Trace.at(trace)
    if name is None:
        taken = opened.has(loading.adapter) and not force
        name = free(opened, loading.adapter) if taken else loading.adapter
    with tempfile.TemporaryDirectory(prefix="tracer-") as folder:
        options = Options(
            name, input=_input_file(inputs, Path(folder)), input_shape=texts(input_shape), layout=layout,
            weights=save_weights, force=force, reference=reference, samples=samples, batch=batch, mode=mode,
            loss=recording.absolute_loss(loss), layers=texts(layers), exclude=texts(exclude),
            statistics_only=statistics_only, precision=precision, durable=durable,
        )  # fmt: skip
        recording.recorded(loading, options, Path(trace))
    return opened.recording(name)


def inspect(
    model: object,
    *,
    adapter: str | None = None,
    weights: Source | None = None,
    arch: str | None = None,
    arch_args: Sequence[Any] | Mapping[str, Any] = (),
    input_shape: str | Sequence[str] = (),
    imports: str | Sequence[str] = (),
    allow: str | Sequence[str] = (),
    trust: bool = False,
    python: str | None = None,
    sandbox: bool = True,
) -> dict[str, Any]:
    """Say what a model holds without recording it: the object that ``tracer inspect --json`` prints.

    Args:
        model: a live model, or the path of a file, which is loaded in a sandboxed process; None where ``arch`` builds
            it. The other arguments are about files, as in :func:`record_file`.
        adapter: ``tf``, ``pt``, ``onnx`` …; None goes by the file.
        weights: a separate file of weights.
        arch: what builds the model.
        arch_args: its arguments.
        input_shape: of the input that shows the shapes, batch first: ``2,500,12``.
        imports: modules or files whose classes the model may use.
        allow: classes that a pickle may name.
        trust: load even what runs code from the file.
        python: another environment's Python.
        sandbox: confine the process where the kernel can.

    Returns:
        ``signature`` (inputs), ``parameters`` (shape, type, owner), ``totals`` (numbers and bytes), ``structure``
        (nodes with shapes, batch included; None where no input could be made up), ``runs_code``, ``refused`` …

    Raises:
        InputError: the file cannot be read, or is none that an adapter knows.
    """
    from tracer import adapter as adapters
    from tracer import inspection

    if not isinstance(model, str | os.PathLike | None):
        _, known = adapters.for_object(model)
        return {"framework": known.framework, **inspection.inspect(known.wrap(model), texts(input_shape))}
    from tracer.cli import inspecting

    loading = _loading(
        model, adapter, weights, arch, arch_args, imports, allow, trust, (), (), python, sandbox, 300.0, None
    )
    found, _ = inspecting.look(loading, texts(input_shape), None)
    return {"schema": inspecting.SCHEMA, **found.model_dump(), "file": found.file.model_dump(exclude_unset=True)}


def find(recording: Recording, address: str | None = None) -> list[Found]:
    """The tensors of a recording that have a name or pattern: what ``tracer show`` prints.

    ``str(found)`` is that text; ``found.statistics`` the numbers noted when it was recorded, ``found.values()`` the
    tensor, memory-mapped, in the recording's own axes, ``found.histogram()`` the distribution of a sample.

    Args:
        recording: a recording, or one step of it (``trace.recording("pt@100")``).
        address: a node's name, its twin's name in the reference, a glob, a path or ``op:conv*``, each of them behind
            ``gradients/`` too; ``weights/LAYER/PARAMETER``. None is every activation.

    Raises:
        InputError: nothing has it; the text names what is near.
    """
    from tracer.report.found import find as find_

    return find_(recording, address)


def export(
    recording: Recording,
    path: Source,
    *,
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    activations: bool = True,
    gradients: bool = False,
    weights: bool = False,
    like: Recording | None = None,
    map: MappingFile | Source | None = None,
    force: bool = False,
) -> Exported:
    """Write recorded tensors to a file that others read, one by one: the same as ``tracer export``.

    Args:
        recording: whose.
        path: ``FILE.npz``, ``FILE.safetensors``, or a folder of ``.npy`` files.
        layers, exclude: only some nodes: one or several globs over names, paths, or ``op:conv*``.
        activations: write activations, each under its node's name.
        gradients: gradients too, under ``gradients/NAME``.
        weights: weights and buffers too, under ``weights/LAYER/PARAMETER``.
        like: a recording under whose names, and in whose axes, they are written; what has no twin in it stays out.
        map: how the two are paired, or the file that says it.
        force: replace what is there.

    Raises:
        InputError: nothing fits, or something is in the way.
        TraceError: the recording is damaged, or the disk fails; nothing is left behind.
    """
    from tracer.exporting.chosen import Wanted
    from tracer.exporting.files import export as export_

    given = load_mapping(map) if isinstance(map, str | os.PathLike) else map
    wanted = Wanted(texts(layers), texts(exclude), activations, gradients, weights, like, given)
    return export_(recording, Path(path), wanted, force=force)


def load_mapping(path: Source) -> MappingFile:
    """Read a mapping file (YAML, TOML, JSON), which :func:`tracer.align`, :func:`tracer.diff` and others take.

    Raises InputError for a ``path`` that cannot be read, or a file that says what is no mapping.
    """
    from tracer.alignment.mapping import load

    return load(Path(path))


def save_mapping(
    alignment: Alignment,
    path: Source,
    *,
    reference: str = "reference",
    candidate: str = "candidate",
    map: MappingFile | None = None,
    accept: float = 0.0,
    force: bool = False,
) -> None:
    """Write an alignment as a file to edit: the same as ``tracer map --write``.

    Args:
        alignment: what :func:`tracer.align` found.
        path: of the YAML file.
        reference, candidate: names of the recordings, which stand at its head.
        map: what the alignment was told; what it says is written as it was.
        accept: pairs of less confidence (0 to 1) become comments.
        force: replace the file.

    Raises:
        InputError: a file is in the way, or its name ends in ``.json`` or ``.toml``.
        TraceError: the disk fails.
    """
    from tracer.alignment.dumping import dump
    from tracer.weighing import writing

    file = Path(path)
    if file.suffix.lower() in (".json", ".toml"):
        raise InputError(f"a mapping is written as YAML, and {file.name} would be read as something else")
    writing.check(file, force)
    writing.publish_text(dump(alignment, reference, candidate, mapping=map, accept=accept), file, force)


def steps(reference: Recording, candidate: Recording, *, atol: float = 1e-5, rtol: float = 1e-5) -> Steps:
    """Compare two recordings of many steps (:func:`tracer.attach`): the same as ``tracer steps``.

    ``str(s)`` is what the command prints, ``s.first`` the step at which the two part, ``bool(s)`` says that they do
    not; ``tracer.diff(a.at(s.first), b.at(s.first))`` goes on from there.

    Args:
        reference, candidate: the whole recordings.
        atol, rtol: the tolerance: |reference − candidate| ≤ atol + rtol·|reference|, element by element.

    Raises:
        InputError: one of them is of one run, or no step is in both.
    """
    from tracer.compare.verdict import Tolerance
    from tracer.live.serial import compare

    return compare(reference, candidate, Tolerance(atol, rtol))


def watch(*, steps: bool = False) -> Generator[dict[str, Any]]:
    """What the daemon's rules find, as it happens: the objects that ``tracer watch --json`` prints. Close it to end.

    Args:
        steps: each step and each comparison too.

    Yields objects with ``what`` (the rule's name, ``step`` or ``compared``), ``recording``, ``step``, ``time`` (seconds
    since 1970) and ``said``. Raises InputError where no daemon runs, TracerError where it goes.
    """
    from tracer.cli.daemon import events

    with contextlib.closing(events(steps=steps)) as told:
        yield from told


def pack(trace: Trace | Source, recordings: str | Sequence[str] = (), *, unpack: bool = False) -> tuple[int, int]:
    """Compress recordings without loss, or undo that: the same as ``tracer pack``.

    Args:
        trace: an open trace, or its path.
        recordings: names; by default all that are whole.
        unpack: write them as they were recorded again.

    Returns:
        their bytes before and after.

    Raises:
        InputError: a name is none, or a recording has no end.
        TraceError: another process writes it, it is damaged, or the disk fails.
    """
    from tracer.store.packing import rewrite

    opened = _opened(trace)
    chosen = [opened.recording(name) for name in texts(recordings)]
    if not chosen:
        chosen = [one for one in opened.recordings() if one.state in ("complete", "failed")]
    sizes = [rewrite(one, not unpack) for one in chosen]
    return sum(before for before, _ in sizes), sum(after for _, after in sizes)


def push(trace: Trace | Source, url: str, *, force: bool = False) -> int:
    """Copy a trace to an object store, where :func:`tracer.open` reads it: the same as ``tracer push``.

    Args:
        trace: an open trace, or its path.
        url: ``s3://bucket/path``.
        force: replace what lies there.

    Returns:
        bytes that were sent.

    Raises:
        InputError: a recording is being written, or something is in the way.
        RemoteError: the store cannot be used.
    """
    from tracer.store import remote

    return remote.push(_opened(trace), _url(url), force=force)


def pull(url: str, trace: Source = "trace.zarr") -> Trace:
    """Copy a trace from an object store, whole or not at all: the same as ``tracer pull``.

    Args:
        url: ``s3://bucket/path``.
        trace: where to put it.

    Raises:
        InputError: something is in the way, or no trace lies there.
        RemoteError: the store cannot be used.
        TraceError: the disk fails.
    """
    from tracer.store import remote

    remote.pull(_url(url), Path(trace))
    return Trace.open(trace)


def _opened(trace: Trace | Source) -> Trace:
    return trace if isinstance(trace, Trace) else Trace.open(trace)


def _url(url: str) -> str:
    from tracer.cli.packing import checked

    return checked(url)


def _loading(
    model: Source | None, adapter: str | None, weights: Source | None, arch: str | None,
    arch_args: Sequence[Any] | Mapping[str, Any], imports: str | Sequence[str], allow: str | Sequence[str], trust: bool,
    inputs: str | Sequence[str], outputs: str | Sequence[str], python: str | None, sandbox: bool, load_timeout: float,
    memory_limit: float | None,
) -> Loading:  # fmt: skip
    """How to load a file, as the command line says it. Raises InputError."""
    import json

    from tracer.cli import inspecting, pythons
    from tracer.cli.recording import Loading

    file = None if model is None else Path(model)
    try:
        arguments = json.dumps(dict(arch_args) if isinstance(arch_args, Mapping) else list(arch_args))
    except (TypeError, ValueError) as error:
        raise InputError(f"arch_args are handed to another process as JSON: {error}") from error
    return Loading(
        adapter or inspecting.guess_adapter(file, arch), file, None if weights is None else Path(weights), arch,
        arguments, texts(imports), texts(allow), trust, sandbox, load_timeout, memory_limit, texts(inputs),
        texts(outputs), pythons.named(python),
    )  # fmt: skip


def _input_file(inputs: Any, folder: Path) -> str | None:
    """An input as a file that a worker reads; ``seed:N`` stays as it is. Raises InputError."""
    import numpy as np

    from tracer.cli.recording import absolute
    from tracer.recording import as_array

    if inputs is None or isinstance(inputs, str | os.PathLike):
        return absolute(None if inputs is None else os.fspath(inputs))
    if isinstance(inputs, list | tuple):
        raise InputError("the inputs of a model file are given by name: a mapping of arrays, or one array")
    if isinstance(inputs, Mapping):
        arrays: dict[str, Any] = {str(key): as_array(value) for key, value in inputs.items()}
        np.savez(folder / "x.npz", **arrays)
        return str(folder / "x.npz")
    np.save(folder / "x.npy", as_array(inputs))
    return str(folder / "x.npy")


__all__ = [
    "export", "find", "inspect", "load_mapping", "pack", "pull", "push", "record_file", "save_mapping", "steps",
    "watch",
]  # fmt: skip
