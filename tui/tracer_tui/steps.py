"""What two recordings of many steps have come to, and what the daemon says of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tracer.errors import TracerError
from tracer.live import place, wire
from tracer.live.remote import connect
from tracer.report import steps
from tracer.report.steps import Overview
from tracer.store import Recording

_DAEMON = 0.3
"""Seconds that the daemon has to answer; a slow one is asked again."""


def overview(reference: Recording, candidate: Recording, more: Iterable[Mapping[str, Any]] = ()) -> Overview:
    """As :func:`tracer.report.steps.overview`, with what the daemon says; to be called off the screen's thread."""
    return replace(steps.overview(reference, candidate, more), recorders=_recorders(reference))


def _recorders(recording: Recording) -> dict[str, Mapping[str, Any]]:
    """By recording, of the daemon that writes this trace; nothing where none runs."""
    with contextlib.suppress(TracerError, OSError):
        if place.running() is None:
            return {}
        connection = connect("control", seconds=_DAEMON)
        try:
            answer = connection.ask(wire.Status(), _DAEMON)
        finally:
            connection.close()
        state = answer.state if isinstance(answer, wire.Status) else None
        root = str(recording.root.absolute())
        return {str(one["recording"]): one for one in (state or {}).get("recorders", ()) if one["trace"] == root}
    return {}
