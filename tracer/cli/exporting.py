"""``tracer export``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.cli import settings
from tracer.errors import ExitCode, InputError
from tracer.exporting.chosen import Wanted
from tracer.exporting.files import Exported, export
from tracer.names import display
from tracer.selection import choose, of_steps
from tracer.store import Recording, Trace


@dataclass(frozen=True)
class Selected:
    """Which tensors are wanted, as typed."""

    layers: Sequence[str]
    exclude: Sequence[str]
    activations: bool
    gradients: bool
    weights: bool
    like: str | None
    mapping: Path | None


def tensors(path: Path, name: str, out: Path, selected: Selected, *, force: bool, as_json: bool) -> int:
    """Write tensors of a recording; PARTIAL where the recording is not whole."""
    trace = Trace.open(path)
    recording = at_a_step(trace.recording(name))
    given = None
    if selected.mapping is not None:
        from tracer.alignment.mapping import load

        if selected.like is None:
            raise InputError("--map says how --like REF pairs the two: name REF")
        given = load(selected.mapping)
    like = None if selected.like is None else at_a_step(trace.recording(selected.like))
    wanted = Wanted(
        tuple(selected.layers), tuple(selected.exclude), selected.activations, selected.gradients, selected.weights,
        like, given,
    )  # fmt: skip
    with settings.progress("exporting") as progress:
        done = export(recording, out, wanted, force=force, progress=progress)
    _say(done, recording, as_json)
    return ExitCode.OK if recording.state == "complete" else ExitCode.PARTIAL


def _say(done: Exported, recording: Recording, as_json: bool) -> None:
    for note in done.notes:
        settings.say(f"note: {note}")
    if recording.state != "complete":
        saved = f"{len(recording.summaries)} of {recording.planned} activations saved"
        settings.say(f"note: recording '{display(recording.name)}' is {recording.state} ({saved})")
    if as_json:
        settings.out().print(json.dumps({**done.index, "path": str(done.path), "bytes": done.nbytes}))
        return
    settings.out().print(str(done))


def graphs(
    path: Path, reference: str | None, candidate: str | None, out: Path, *, mapping: Path | None, force: bool,
    as_json: bool,
) -> int:  # fmt: skip
    """Write both graphs, how they are paired and how far each pair is apart for Model Explorer."""
    from tracer.alignment.mapping import load
    from tracer.causes.kept import told
    from tracer.compare import diff
    from tracer.exporting import explorer

    ours, theirs = choose(Trace.open(path), reference, candidate)
    explorer.check(out, force)
    with settings.progress("comparing") as progress:
        found = diff(ours, theirs, mapping=None if mapping is None else load(mapping), progress=progress)
    if found.first is not None:
        found = told(found)
    written = explorer.export(found, out, force=force)
    if as_json:
        settings.out().print(json.dumps({"schema": "tracer-graphs/1", "files": [str(one) for one in written]}))
        return ExitCode.OK
    for one in written:
        settings.out().print(display(str(one)))
    settings.hint(f"model-explorer {display(str(out))} --node_data_paths={display(str(written[1]))}")
    return ExitCode.OK


def at_a_step(recording: Recording) -> Recording:
    """The recording, or the last step of one of many, which is said."""
    if not of_steps(recording):
        return recording
    steps = recording.steps
    if not steps:
        raise InputError(f"recording '{display(recording.name)}' has no step yet")
    last = recording.at(steps[-1])
    settings.say(f"note: {display(last.name)} is the last of {len(steps)} steps")
    return last
