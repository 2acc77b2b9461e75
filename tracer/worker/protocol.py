"""What parent and worker say to each other: one job in, JSON lines of events out.

The worker may be under a hostile model's control, so :func:`parse` believes nothing about a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

if TYPE_CHECKING:
    from tracer.adapter import LoadRequest

LONGEST = 64 << 20
"""Bytes in one event line: a result may hold the structure of a large model."""

STARTING = "starting"
"""What the worker does before its first phase."""
IMPORTING = "importing the framework"
"""The text of the worker's first phase."""
LOADING = "loading"
"""The text of the phase that begins when the sandbox is closed."""
PREPARING = "preparing the input"
"""The text of the phase that ends loading for a recording: the model may run from here on."""
INSPECTING = "inspecting"
"""The same for an inspection."""
RECORDING = "recording"
"""The text of the phase in which the activations are written."""
PHASES = frozenset({IMPORTING, LOADING, PREPARING, INSPECTING, RECORDING})
"""Those that tell where a failure happened; others are for the screen."""
UNLOADED = frozenset({STARTING, IMPORTING, LOADING})
"""Those before the model is loaded, which a time limit holds for."""


def during(phase: str, subject: str) -> str:
    """Where in the work on ``subject`` something happened, as the end of a sentence."""
    if phase in (LOADING, RECORDING):
        return f"while {phase} {subject}"
    return f"while {phase}" if phase in UNLOADED else f"while it ran {subject}"


class Phase(TypedDict):
    """The worker turned to something else."""

    event: Literal["phase"]
    text: str


class Progress(TypedDict):
    """``done`` of ``total`` layers; a total of 0 is unknown."""

    event: Literal["progress"]
    done: int
    total: int


class Notice(TypedDict):
    """A sentence for the user."""

    event: Literal["notice"]
    text: str


class Result(TypedDict):
    """What the command returned; the last event."""

    event: Literal["result"]
    value: dict[str, Any]


class Error(TypedDict):
    """Why there is no result; the last event. ``kind`` is of :data:`tracer.worker.failure.KINDS`, or empty."""

    event: Literal["error"]
    kind: str
    exit: int
    message: str
    traceback: str | None


Event = Phase | Progress | Notice | Result | Error


@dataclass(frozen=True)
class Job:
    """What the worker is to do.

    Attributes:
        command: which of the worker's commands.
        adapter: the adapter's entry-point name.
        request: the LoadRequest as :func:`request_to_json` gives it.
        options: the command's own options, free JSON.
        trace: the trace directory to write; None writes none.
        read: further paths the sandbox lets through for reading (the input file).
        write: further existing paths it lets through for writing (an export).
        sandbox: whether to close the sandbox where the kernel has one.
        debug: whether errors carry a traceback.
        confinement: set by the worker: what holds it (``landlock 7, no sockets``), or ``none``.
        python: set by the supervisor: the interpreter, where it is that of another environment.
    """

    command: Literal["record", "inspect", "exact", "local", "graft"]
    adapter: str
    request: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    trace: str | None = None
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    sandbox: bool = True
    debug: bool = False
    confinement: str = "none"
    python: str | None = None

    @property
    def subject(self) -> str:
        """The name of the file the job is about, for messages; not yet fit for a screen."""
        for key in ("path", "weights", "arch"):
            value = self.request.get(key)
            if value:
                return str(value) if key == "arch" else Path(str(value)).name
        return "the model"

    def to_json(self) -> str:
        """The job as JSON. Raises TypeError when ``request`` or ``options`` holds what JSON does not."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that :meth:`to_json` wrote. Raises ValueError or TypeError for anything else."""
        values = json.loads(text)
        for key in ("read", "write"):
            values[key] = tuple(values[key])
        return cls(**values)


def request_to_json(request: LoadRequest) -> dict[str, Any]:
    """``request`` as plain JSON; paths become absolute, so that the worker's directory does not matter."""
    arguments = request.arch_args
    return {
        "path": None if request.path is None else str(request.path.absolute()),
        "weights": None if request.weights is None else str(request.weights.absolute()),
        "arch": request.arch,
        "arch_args": dict(arguments) if isinstance(arguments, Mapping) else list(arguments),
        "imports": list(request.imports),
        "allow": list(request.allow),
        "trust": request.trust,
        "inputs": list(request.inputs),
        "outputs": list(request.outputs),
    }


def request_from_json(values: Mapping[str, Any]) -> LoadRequest:
    """What :func:`request_to_json` was given. Raises KeyError or TypeError for anything else."""
    from tracer.adapter import LoadRequest

    return LoadRequest(
        path=None if values["path"] is None else Path(values["path"]),
        weights=None if values["weights"] is None else Path(values["weights"]),
        arch=values["arch"],
        arch_args=values["arch_args"],
        imports=tuple(values["imports"]),
        allow=tuple(values["allow"]),
        trust=values["trust"],
        inputs=tuple(values["inputs"]),
        outputs=tuple(values["outputs"]),
    )


def phase(text: str) -> Phase:
    """A phase event."""
    return {"event": "phase", "text": text}


def progress(done: int, total: int) -> Progress:
    """A progress event."""
    return {"event": "progress", "done": done, "total": total}


def notice(text: str) -> Notice:
    """A notice event."""
    return {"event": "notice", "text": text}


_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "phase": {"text": str},
    "progress": {"done": int, "total": int},
    "notice": {"text": str},
    "result": {"value": dict},
    "error": {"kind": str, "exit": int, "message": str, "traceback": (str, type(None))},
}


def line(event: Event) -> bytes:
    """``event`` as one line. Raises TypeError or ValueError for what JSON does not hold."""
    return json.dumps(event).encode() + b"\n"


def parse(text: bytes) -> Event:
    """The event of one line. Raises ValueError for anything that is not exactly one of ours."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("not an object")
    name = values.get("event")
    fields = _FIELDS.get(name) if isinstance(name, str) else None
    if fields is None or values.keys() != fields.keys() | {"event"}:
        raise ValueError("not an event")
    for key, wanted in fields.items():
        if not isinstance(values[key], wanted) or isinstance(values[key], bool):
            raise ValueError(f"{key} of the wrong type")
        if wanted is int and not 0 <= values[key] < 1 << 63:
            raise ValueError(f"{key} out of range")
    return cast(Event, values)
