"""``tracer pack``, ``push`` and ``pull``: what is done with a trace once it is recorded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tracer.cli import settings
from tracer.errors import ExitCode, InputError
from tracer.names import display
from tracer.report import words
from tracer.store import Trace, remote
from tracer.store.packing import rewrite


def pack(path: Path, recordings: Sequence[str], *, undo: bool, as_json: bool) -> int:
    """Pack some recordings, or all that are whole."""
    trace = Trace.open(path)
    chosen = [trace.recording(name) for name in recordings]
    if not chosen:
        chosen = [found for found in trace.recordings() if found.state in ("complete", "failed")]
    told = []
    for recording in chosen:
        name = display(recording.name)
        with settings.progress(f"{'unpacking' if undo else 'packing'} {name}") as progress:
            before, after = rewrite(recording, not undo, progress)
        told.append({"name": recording.name, "before": before, "after": after})
        if not as_json:
            share = f" ({after / before:.0%})" if before != after else ", as it was"
            settings.out().print(f"{name}: {words.bytes_text(before)} → {words.bytes_text(after)}{share}")
    if as_json:
        settings.out().print(json.dumps({"schema": "tracer-pack/1", "recordings": told}))
    elif not chosen:
        settings.say(f"{display(str(path))} holds no whole recording")
    return ExitCode.OK


def push(path: Path, url: str, *, force: bool, as_json: bool) -> int:
    """Send a trace to an object store."""
    where = checked(url)
    with settings.progress("sending") as progress:
        size = remote.push(Trace.open(path), where, force=force, progress=progress)
    return _told(f"{display(str(path))} → {display(where)}", size, {"trace": str(path), "url": where}, as_json)


def pull(url: str, path: Path, *, as_json: bool) -> int:
    """Fetch a trace from an object store."""
    where = checked(url)
    with settings.progress("fetching") as progress:
        size = remote.pull(where, path, progress=progress)
    return _told(f"{display(where)} → {display(str(path))}", size, {"trace": str(path), "url": where}, as_json)


def checked(url: str) -> str:
    """Raises InputError for what is no URL of an object store."""
    found = remote.url_of(url)
    if found is None:
        raise InputError(f"{display(url)} is no URL of an object store: s3://bucket/path")
    return found


def _told(said: str, size: int, more: dict[str, str], as_json: bool) -> int:
    if as_json:
        settings.out().print(json.dumps({"schema": "tracer-copy/1", **more, "bytes": size}))
    else:
        settings.out().print(f"{said}: {words.bytes_text(size)}")
    return ExitCode.OK
