"""Looking at steps as they come: rules on each, and both sides of a pair compared. Runs in a process of its own, so
that neither its memory nor its time, nor a trace that breaks it, is the daemon's."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from tracer.alignment import align
from tracer.compare.comparing import diff
from tracer.compare.verdict import Tolerance
from tracer.errors import TraceError, TracerError
from tracer.live.rules import Rules, Watch
from tracer.names import display
from tracer.store import Recording, Trace
from tracer.store.zarr3 import open_regular
from tracer.text import described

EVENTS = "events.jsonl"
COMPARED = "compared.jsonl"
LOOKED_AT = "looked_at"

_watches: dict[tuple[str, str], Watch] = {}


def serve() -> None:
    """Begins the process in which all this runs: it does not take the terminal's Ctrl-C, nor the processor from whom it
    is to watch, nor outlives the daemon."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setsid()
    os.nice(10)
    with contextlib.suppress(OSError):  # Linux shares the processor among sessions first (sched(7), autogroup)
        Path("/proc/self/autogroup").write_text("10")
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(daemon: Any) -> None:
    daemon.join()
    os._exit(0)


def looked_at(root: str, name: str, step: int, rules: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The events of one step of a recording, which are kept beside it; a fault of ours or the trace's is one too.

    None where the step is not there any more.
    """
    watch = _watches.setdefault((root, name), Watch(Rules(**rules)))
    try:
        trace = Trace.open(root)
        recording = trace.recording(name)
        found = [{"rule": t.rule, "node": t.node, "what": t.what} for t in watch.of(recording.at(step))]
    except TracerError as error:
        if not Trace(Path(root)).has_step(name, step):
            return None
        return [{"rule": "unreadable", "node": "", "what": str(error)}]
    _keep(recording, EVENTS, [{"step": step, "time": time.time(), **event} for event in found])
    _note_looked_at(recording, step)
    return found


def begin_looking(recording: Recording, step: int) -> None:
    """A daemon wrote this step, and will look at it: one that is started again goes on from there."""
    if not (recording.folder / LOOKED_AT).exists():
        _note_looked_at(recording, step - 1)


def _note_looked_at(recording: Recording, step: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        descriptor = os.open(recording.folder / LOOKED_AT, flags, 0o644)
        try:
            os.write(descriptor, f"{step:20d}\n".encode())  # always as long: whole, or as it was
        finally:
            os.close(descriptor)


def to_look_at(recording: Recording) -> list[int]:
    """The steps that a daemon wrote and did not come to look at."""
    try:
        with os.fdopen(open_regular(recording.folder / LOOKED_AT)) as file:
            last = int(file.read(32))
    except (OSError, TraceError, ValueError):  # no daemon wrote it
        return []
    return [step for step in recording.steps if step > last]


@lru_cache(maxsize=8)
def _aligned(root: str, reference: str, candidate: str, created: float) -> dict[str, Any]:
    """What is known of two recordings from the steps before: their ``alignment``, whether they are ``apart``."""
    return {}


def compared(root: str, reference: str, candidate: str, step: int, atol: float, rtol: float) -> dict[str, Any]:
    """A step that two recordings have, compared; what is found is kept beside the candidate.

    ``verdict``, ``first`` (aligned name, and its relative error), ``pairs``: relative L2 error by aligned name; or
    ``error``.
    """
    began = time.perf_counter()
    try:
        trace = Trace.open(root)
        sides = trace.recording(reference), trace.recording(candidate)
        ours, theirs = (side.at(step) for side in sides)
        known = _aligned(root, reference, candidate, max(side.created for side in sides))
        if "alignment" not in known:
            known["alignment"] = align(ours, theirs)
        found = diff(ours, theirs, Tolerance(atol, rtol), alignment=known["alignment"])
    except TracerError as error:
        return {"step": step, "reference": reference, "error": str(error)}
    except Exception as error:
        return {"step": step, "reference": reference, "error": described(error)}
    first = found.first
    apart = first is not None
    parted = apart and not known.get("apart")  # once, when it begins
    known["apart"] = apart
    result = {
        "step": step,
        "reference": reference,
        "atol": atol,
        "rtol": rtol,
        "verdict": str(found.verdict),
        "first": None if first is None else first.aligned,
        "first_error": None if first is None or first.stats is None else _number(first.stats.rel_l2),
        "pairs": {p.aligned: _number(p.stats.rel_l2) for p in found.pairs if p.stats is not None},
        "seconds": time.perf_counter() - began,
    }
    _keep(sides[1], COMPARED, [result])
    if parted and first is not None:
        relative = result["first_error"]
        said = f"parts from '{display(reference)}' at {display(first.aligned)}"
        what = said if relative is None else f"{said}, relative error {relative:.2g}"
        _keep(sides[1], EVENTS, [{"step": step, "time": time.time(), "rule": "divergence", "node": first.aligned,
                                  "what": what}])  # fmt: skip
        return {**result, "parted": what}
    return result


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if value == value and abs(value) != float("inf") else None


def _keep(recording: Recording, file: str, lines: list[dict[str, Any]]) -> None:
    """Append lines to a file of the recording's; each is whole or not there, for a write that small is not divided."""
    if not lines:
        return
    text = "".join(json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n" for line in lines)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):  # a full disk, or a trace that is only read: what was found is still told
        descriptor = os.open(recording.folder / file, flags, 0o644)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def lines(recording: Recording, file: str) -> list[dict[str, Any]]:
    """What :data:`EVENTS` or :data:`COMPARED` of a recording holds; a line that is not whole is left out."""
    try:
        descriptor = open_regular(recording.folder / file)
    except (OSError, TraceError):
        return []
    found = []
    with os.fdopen(descriptor, "rb") as raw:
        for line in raw:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
    return found
