"""The Python interface: the same functions that the command line calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tracer.compare import Diff, Tolerance
from tracer.compare.comparing import diff as _diff
from tracer.errors import InputError, TransferError
from tracer.names import display
from tracer.recording import record_object
from tracer.store import Recording, Trace
from tracer.store.writer import DEFAULT_MEMORY
from tracer.text import texts

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile
    from tracer.causes.explain import Explained
    from tracer.compare.local import Measure
    from tracer.live.attach import Attached
    from tracer.rerun.grafted import Explanation, Graft
    from tracer.weighing.table import WeightTable
    from tracer.weighing.transfer import Transferred


def open(path: str | os.PathLike[str] = "trace.zarr") -> Trace:
    """Open the trace at ``path``, a folder or ``s3://bucket/path``.

    Raises :class:`~tracer.InputError` when there is none, :class:`~tracer.RemoteError` where the store cannot be used.
    """
    return Trace.open(path)


def record(
    model: object,
    inputs: Any = None,
    *,
    name: str | None = None,
    trace: str | Path = "trace.zarr",
    layout: str = "auto",
    weights: bool = True,
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
    """Record one run of a live model (a ``torch.nn.Module``, a Keras model …), or of a file (:func:`record_file`).

    The forward pass runs at least twice: once to see the graph, once to record it. Mode, buffers and hooks are put
    back; what a forward pass of the user's changes elsewhere (its own parameters, files) is not.

    Args:
        model: the framework is found from the object, without importing the other one. The model is left as it was.
        inputs: an array, a list of arrays or a mapping of input names to arrays, batch first, in this model's or the
            first recording's axes; None reuses the trace's input, or generates one from the signature.
        name: of the recording; by default ``tf`` or ``pt``, with a number when that is taken.
        trace: where to record; created when it does not exist.
        layout: ``auto``, ``same``, ``NHWC->NCHW`` or ``NCHW->NHWC``: how the input's axes move for this model.
        weights: whether parameters and buffers are recorded too.
        force: replace a recording of this name.
        reference: the recording to align to, by name; by default the trace's first.
        samples: how many samples are generated, or taken of the input.
        batch: run so many samples at a time; the tensors are joined along the axis that follows the batch size.
        mode: ``train`` records in training mode.
        loss: record gradients of ``sum``, ``mean`` or ``square`` of the outputs, or of ``pkg.mod:callable(outputs)``.
        layers, exclude: record only some nodes: one or several globs over names, paths, or ``op:conv*``.
        statistics_only: keep statistics of each activation instead of its values.
        precision: ``float32``, ``float16`` or ``bfloat16``: round activations before they are stored.
        durable: wait until the recording is on the disk, so that it outlasts a power cut.

    Raises:
        InputError: the input or an option does not fit, or the name is taken.
        ModelError: the model raised; what ran before is kept in the recording.
        TraceError: the trace cannot be written.
    """
    if isinstance(model, str | os.PathLike):
        from tracer.filed import record_file

        return record_file(
            model, inputs, name=name, trace=trace, layout=layout, save_weights=weights, force=force,
            reference=reference, samples=samples, batch=batch, mode=mode, loss=loss, layers=layers, exclude=exclude,
            statistics_only=statistics_only, precision=precision, durable=durable,
        )  # fmt: skip
    return record_object(
        model, inputs, name=name, trace=trace, layout=layout, weights=weights, force=force, reference=reference,
        samples=samples, batch=batch, mode=mode, loss=loss, layers=texts(layers), exclude=texts(exclude),
        statistics_only=statistics_only, precision=precision, durable=durable,
    )  # fmt: skip


def attach(
    model: object,
    *,
    to: str | os.PathLike[str] | None = None,
    name: str | None = None,
    on: bool = True,
    every: int = 1,
    mode: Literal["train", "eval"] | None = None,
    layers: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    gradients: bool = False,
    weights: bool = False,
    statistics_only: bool = False,
    when_full: Literal["wait", "skip"] = "wait",
    memory: int = DEFAULT_MEMORY,
    reference: str | None = None,
    durable: bool = False,
) -> Attached:
    """Record a live model whenever its own program calls it: each call is a step, ``trace.recording("pt@100")``.

    What the model computes stays as it is. Calls that are not recorded cost next to nothing. Where what is recorded
    cannot be written or sent any more, a warning says so once and the program goes on; ``attached.fault`` and
    ``attached.left_out`` tell.

    Args:
        model: as in :func:`record`; hooks stay on it until ``attached.detach()``, or the end of ``with attach(…):``.
        to: a trace's path, or ``"daemon"``; None for the daemon if one runs, else ``trace.zarr``.
        name: of the recording; by default ``tf`` or ``pt``, with a number when that is taken.
        on: whether to record from the first call on; ``tracer daemon capture on`` switches it on later, and off.
        every: of how many calls one is recorded, the first among them.
        mode: which calls count, in training or in evaluation mode; None for the mode of the first one.
        layers, exclude: record only some nodes: one or several globs over names, paths, or ``op:conv*``.
        gradients: the program's own gradients too, of activations and weights: a step then ends when its optimiser
            steps, or when the model is called again.
        weights: parameters and buffers too, as they were in the call.
        statistics_only: keep statistics of each activation instead of its values.
        when_full: ``wait`` lets the program wait while what was recorded waits to be written; ``skip`` leaves the step
            out, and counts it.
        memory: bytes that may wait.
        reference: the recording to align to; by default the trace's first.
        durable: each step outlasts a power cut once it is written (of a daemon: ``tracer daemon start --durable``).

    Raises InputError where an argument does not fit, the name is taken, or no daemon runs; ReplayError where models of
    this kind cannot be watched.
    """
    from tracer.live import attach as live

    return live.attach(
        model, to=to, name=name, on=on, every=every, mode=mode, layers=texts(layers), exclude=texts(exclude),
        gradients=gradients, weights=weights, statistics_only=statistics_only, when_full=when_full, memory=memory,
        reference=reference, durable=durable,
    )  # fmt: skip


def _mapping(given: MappingFile | str | os.PathLike[str] | None) -> MappingFile | None:
    """A mapping, or what its file says. Raises InputError."""
    from tracer.alignment.mapping import Mapping as MappingFile
    from tracer.alignment.mapping import load

    return given if isinstance(given, MappingFile) or given is None else load(Path(given))


def _check(*recordings: object) -> None:
    """Raises InputError where what should be recordings are names, models, None …"""
    for one in recordings:
        if not isinstance(one, Recording):
            raise InputError(
                f"a recording is wanted, not {display(type(one).__name__)}: what tracer.record returned, "
                "or tracer.open('trace.zarr').recording('tf')"
            )


def diff(
    reference: Recording,
    candidate: Recording,
    *,
    atol: float = 1e-5,
    rtol: float = 1e-5,
    map: MappingFile | str | os.PathLike[str] | None = None,
    of: Literal["values", "gradients"] = "values",
    local: bool = False,
    models: tuple[object, object] | None = None,
    baseline: str | os.PathLike[str] | None = None,
    causes: bool = True,
) -> Diff:
    """Compare two recordings: ``str(d)`` is what the command prints, ``bool(d)`` says that nothing diverged.

    ``d.first`` is the first divergence, ``d.first.cause`` and ``d.first.fix`` say why and what to change: the causes
    of what diverged are looked for, for a few seconds at most, unless ``causes`` is false.

    Args:
        reference, candidate: recordings, or steps of them, made on one input.
        atol, rtol: the tolerance: |reference − candidate| ≤ atol + rtol·|reference|, element by element.
        map: what a person says about how they are paired, or the file that says it.
        of: ``gradients`` compares the recorded gradients of the loss with respect to the activations instead.
        local: run both models again, from the files that were recorded, in sandboxed processes: each pair is judged by
            what its layer adds itself on the reference's own activations.
        models: the same with two live models, the reference's and the candidate's.
        baseline: a file of differences that are accepted: only what grew is a divergence.
        causes: whether causes are looked for.

    Raises InputError when they were made on different inputs, the mapping file does not fit, or there are no
    gradients; ReplayError where ``models`` are not those that were recorded.
    """
    measure: Measure | None = None
    _check(reference, candidate)
    if of not in ("values", "gradients"):
        raise InputError(f"of= takes 'values' or 'gradients', not {display(repr(of))}")
    if (local or models is not None) and of == "gradients":
        raise InputError("local=True and models= are about values: leave of='gradients' out")
    if models is not None:
        from tracer.rerun.measure import in_process

        if len(models) != 2:
            raise InputError("models= wants the reference's model and the candidate's")
        measure = in_process(models)
    elif local:
        from tracer.cli.rerunning import Again

        measure = Again()
    from tracer.compare.baseline import load as load_baseline

    mapping = _mapping(map)
    found = _diff(
        reference, candidate, Tolerance(atol, rtol), mapping=mapping, of=of, measure=measure,
        baseline=None if baseline is None else load_baseline(Path(baseline)),
    )  # fmt: skip
    if not causes or found.first is None:
        return found
    from tracer.causes.kept import told

    return told(found)


def explain(
    reference: Recording,
    candidate: Recording,
    *,
    atol: float = 1e-5,
    rtol: float = 1e-5,
    map: MappingFile | str | os.PathLike[str] | None = None,
    seconds: float = 2.0,
    only: str | Sequence[str] = (),
    models: tuple[object | None, object | None] = (None, None),
    probe: bool = False,
    verify: bool = False,
) -> Explained:
    """Find out why layers part, from the two recordings alone: the same as ``tracer explain``.

    ``str(e)`` is what the command prints, ``e.findings`` are the causes with proof and fix, ``bool(e)`` says that
    nothing parts.

    Args:
        reference, candidate: recordings made on one input.
        atol, rtol: the tolerance: |reference − candidate| ≤ atol + rtol·|reference|, element by element.
        map: what a person says about how they are paired, or the file that says it.
        seconds: for each pair at most.
        only: globs over the names of either side's nodes: only these are explained.
        models: the reference and the candidate that were recorded, which ``probe`` and ``verify`` run; in place of one
            that is None the file that was recorded is loaded, in a sandboxed process. They are left as they were.
        probe: run layers on random input where this one leaves open what the cause is: ``finding.probed``.
        verify: make the fixes in a copy of the candidate and run it: ``e.verified`` says what difference is left.

    Raises InputError when they were made on different inputs, the mapping file does not fit, or ``only`` names no pair;
    TraceError where a recording cannot be read. With ``verify`` ReplayError where the candidate cannot be run again,
    ModelError; with ``probe`` the findings say why models cannot be run.
    """
    from tracer.causes import kept
    from tracer.rerun import probing, verifying

    _check(reference, candidate)
    mapping = _mapping(map)
    compared = _diff(reference, candidate, Tolerance(atol, rtol), mapping=mapping)
    found = kept.explained(compared, seconds=seconds, only=kept.chosen(texts(only), compared.pairs))
    if not (probe or verify):
        return found
    from tracer.cli import explaining
    from tracer.cli.rerunning import Again

    if probe:
        ask, live = explaining.asking(Again()), probing.in_process(models, reference)
        known = {one.name for one, model in zip((reference, candidate), models, strict=True) if model is not None}
        found = kept.probed(found, lambda one, requests: (live if one.name in known else ask)(one, requests), seconds)
    if verify:
        model = models[1]
        change = explaining.changing(Again(), candidate) if model is None else verifying.in_process(model, candidate)
        found = replace(found, verified=verifying.verify(found, change))
    return found


def graft(
    reference: Recording,
    candidate: Recording,
    *,
    models: tuple[object | None, object | None] = (None, None),
    at: str | Sequence[str] = (),
    into: Literal["reference", "candidate"] = "candidate",
    atol: float = 1e-5,
    rtol: float = 1e-5,
    map: MappingFile | str | os.PathLike[str] | None = None,
) -> Graft | Explanation:
    """Run one model on from the other's recorded activations ``at`` some layers, and compare the outputs.

    ``str(g)`` is what ``tracer graft`` prints, ``bool(g)`` says that the outputs agree then. Without ``at`` both models
    are run again, and what comes back says how much of the outputs' difference each layer explains that diverges on its
    own.

    Args:
        reference, candidate: recordings made on one input.
        models: the reference and the candidate that were recorded; where one is None the file that was recorded is
            loaded, in a sandboxed process. They are left as they were.
        at: names of either recording's layers, or globs; the activation is that of the model that does not run.
        into: which model runs.
        atol, rtol: the tolerance: |reference − candidate| ≤ atol + rtol·|reference|, element by element.
        map: what a person says about how they are paired, or the file that says it.

    Raises InputError for names that are no pairs and where one live model is given and both are needed, ReplayError
    where a model is not the one recorded or cannot be run again, ModelError, TraceError where no output can be
    compared.
    """
    from tracer.cli import grafting
    from tracer.cli.rerunning import Again
    from tracer.rerun import defects
    from tracer.rerun.measure import in_process

    _check(reference, candidate)
    mapping, tolerance = _mapping(map), Tolerance(atol, rtol)
    live, filed = defects.in_process(models, reference), grafting.running(Again())

    def run(recording: Recording, options: dict[str, Any]) -> dict[str, Any]:
        return (filed if models[recording.name != reference.name] is None else live)(recording, options)

    if at:
        return defects.at(reference, candidate, texts(at), run, into=into, tolerance=tolerance, mapping=mapping)
    if (models[0] is None) != (models[1] is None):
        raise InputError("which layers are wrong is found by running both models: give both, or name a layer (at=…)")
    measure: Measure = Again() if models[0] is None or models[1] is None else in_process((models[0], models[1]))
    return defects.explain(_diff(reference, candidate, tolerance, mapping=mapping, measure=measure), run)


def transfer(
    source: Recording,
    target: Recording,
    out: str | os.PathLike[str] | None = None,
    *,
    model: object | None = None,
    name: str | None = None,
    partial: bool = False,
    anyway: bool = False,
    force: bool = False,
    trust: bool = False,
    atol: float = 1e-5,
    rtol: float = 1e-5,
    map: MappingFile | str | os.PathLike[str] | None = None,
) -> Transferred:
    """Carry the weights of ``source`` over to the model of ``target``, and run it to prove that both compute the same.

    ``str(t)`` is what ``tracer transfer`` prints; ``t.carried``, ``t.missing``, ``t.left_over`` account for every
    parameter, ``t.diff`` compares the source's recording with that of the filled model, ``t.recording``.

    Args:
        source, target: recordings of one trace; the weights are taken from the source's.
        out: the file to write, its kind known by its name: ``.pt``, ``.safetensors``, ``.weights.h5``, ``.keras`` …
        model: the live model of ``target``, which is filled in place. Without it the file that was recorded is loaded,
            in a sandboxed process.
        name: of the filled model's recording, by default the target's with ``-transferred`` behind.
        partial: let weights be missing or left over.
        anyway: keep what was done although the outputs stay different.
        force: replace the file, and a recording of this name.
        trust: load the model's file even if that runs code.
        atol, rtol: the tolerance: |reference − candidate| ≤ atol + rtol·|reference|, element by element.
        map: what a person says about how they are paired, or the file that says it.

    Raises:
        TransferError: a tensor is missing or left over, or the outputs stay different: nothing is written, ``model``
            has its own weights.
        InputError: an argument does not fit, or something is in the way.
        ReplayError: the model is not the one that was recorded, or its weights cannot be changed.
        TraceError: the trace or the disk fails.
    """
    from tracer.weighing.transfer import Asked, into

    _check(source, target)
    mapping = _mapping(map)
    asked = Asked.of(
        target, name, partial=partial, anyway=anyway, force=force, tolerance=Tolerance(atol, rtol), mapping=mapping
    )  # fmt: skip
    file = None if out is None else Path(out)
    if model is not None:
        done = into(source, target, model, file, asked)
    elif file is not None:
        from tracer.cli.rerunning import Again
        from tracer.cli.transferring import to_file

        done = to_file(source, target, file, asked, Again(trust))
    else:
        raise InputError("nothing to fill: give the file to write (out=), the live model (model=), or both")
    if done.refused:
        raise TransferError(f"nothing was transferred: {done.refused}", done)
    return done


def weights(
    reference: Recording,
    candidate: Recording,
    *,
    map: MappingFile | str | os.PathLike[str] | None = None,
    only: str | Sequence[str] = (),
) -> WeightTable:
    """Compare the recorded weights of two recordings, whatever their layout: the same as ``tracer weights``.

    ``str(w)`` is what the command prints, ``bool(w)`` says that they are equal. ``w.rows`` has a row for each pair of
    parameters and for each that is alone, in the reference's running order: ``row.status``, ``row.figures``, and
    ``row.likeness`` says what one that differs would equal.

    Args:
        reference, candidate: recordings; the input they were made on is of no matter.
        map: what a person says about how they are paired, or the file that says it.
        only: globs over the names of either side's parameters or layers.

    Raises InputError when the mapping file does not fit, or a glob fits nothing; TraceError where a recording holds no
    weights.
    """
    from tracer.weighing.table import chosen, compare

    _check(reference, candidate)
    mapping = _mapping(map)
    return chosen(compare(reference, candidate, mapping=mapping), texts(only))


__all__ = ["attach", "diff", "explain", "graft", "open", "record", "transfer", "weights"]
