"""What recorders, watchers and the daemon say to one another: a frame of JSON, and the bytes of a tensor behind it.

Nothing is ever unpickled; a message that is not exactly one of these is an error, and costs its sender the connection.
A tensor larger than :data:`PIECE` comes in several messages, so that what a connection holds in memory does not depend
on what is sent. A recorder has at most :data:`WINDOW` bytes and :data:`MESSAGES` messages on their way: the daemon says
with :class:`Ack` what it has written, and drops a recorder that sends more.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tracer.adapter import Mode
from tracer.errors import TracerError
from tracer.names import display
from tracer.store.series import Part

PROTOCOL = 2
"""Raised whenever a message changes: both sides are then of one version."""
PIECE = 8 << 20
WINDOW = 64 << 20
MESSAGES = 4096
SMALL = 256 << 10
"""Bytes: tensors of at most so many are gathered, up to :data:`GATHERED` of them and ``4 * SMALL`` bytes a message."""
GATHERED = 512
LARGEST_HEADER = 64 << 20
"""Bytes: a structure of ten thousand layers is some megabytes."""
ALIVE = 2.0
"""Seconds after which a recorder that has nothing to send says that it lives."""
GONE = 15.0
"""Seconds of silence after which the other side is taken for dead."""

Role = Literal["recorder", "control", "watcher"]
Name = Annotated[str, Field(max_length=1 << 16)]
Count = Annotated[int, Field(ge=0, lt=1 << 62)]


class WireError(TracerError):
    """What came is no message of this protocol."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Hello(_Message):
    """First from every client. ``trace`` is where a recorder wants its steps, None for the daemon's own; ``name`` what
    it will ask its recording to be called, once it opens one."""

    kind: Literal["hello"] = "hello"
    protocol: int
    role: Role
    pid: Count = 0
    host: Name = ""
    trace: Name | None = None
    name: Name = ""


class Welcome(_Message):
    kind: Literal["welcome"] = "welcome"
    version: Name
    pid: Count
    trace: Name


class Open(_Message):
    """A recording of steps begins. Of a name that is taken the ``numbered`` one is given another, and with
    ``resume`` it is this very recording that goes on; else it is refused."""

    kind: Literal["open"] = "open"
    name: Name
    numbered: bool = False
    resume: bool = False
    structure: dict[str, Any]
    attributes: dict[str, Any]
    reference: Name | None = None
    parameters: list[tuple[Name, Name]] = []


class Opened(_Message):
    kind: Literal["opened"] = "opened"
    name: Name


class Begin(_Message):
    kind: Literal["begin"] = "begin"
    step: Count


class Put(_Message):
    """A tensor: its bytes, or the first :data:`PIECE` of them, are the frame behind; :class:`More` has the others."""

    kind: Literal["put"] = "put"
    part: Part
    owner: Name = ""
    name: Name
    dtype: Name
    shape: list[Count]


class More(_Message):
    kind: Literal["more"] = "more"


class Puts(_Message):
    """Small tensors, all of each: their bytes are the frame behind, one after the other."""

    kind: Literal["puts"] = "puts"
    puts: Annotated[list[Put], Field(max_length=GATHERED)]


class Statistics(_Message):
    kind: Literal["statistics"] = "statistics"
    name: Name
    dtype: Name
    shape: list[Count]
    summary: dict[Name, float | int]


class Skip(_Message):
    kind: Literal["skip"] = "skip"
    part: Part
    name: Name
    why: Name


class Commit(_Message):
    """The step is whole. ``ended`` is when the program ended it (seconds since 1970), for the delay to its result."""

    kind: Literal["commit"] = "commit"
    step: Count
    ended: float


class Close(_Message):
    kind: Literal["close"] = "close"
    fault: Name | None = None


class Ping(_Message):
    """Sent where there is nothing else to say, and answered with itself. ``left_out``: steps due and not sent."""

    kind: Literal["ping"] = "ping"
    left_out: Count = 0


class Ack(_Message):
    """So many messages, with so many bytes behind them, are written."""

    kind: Literal["ack"] = "ack"
    messages: Count
    nbytes: Count


class Fault(_Message):
    """Something failed. ``last`` where nothing that the client may send changes that."""

    kind: Literal["fault"] = "fault"
    why: Name
    last: bool = False


class Capture(_Message):
    """What a recorder is to record from now on; None leaves it as it is. ``recording`` is a glob over names."""

    kind: Literal["capture"] = "capture"
    recording: Name = "*"
    on: bool | None = None
    every: Annotated[int, Field(ge=1)] | None = None
    layers: list[Name] | None = None
    exclude: list[Name] | None = None
    mode: Mode | None = None
    statistics_only: bool | None = None


class Captured(_Message):
    """The names of the recordings that a :class:`Capture` was handed to."""

    kind: Literal["captured"] = "captured"
    recordings: list[Name]


class Status(_Message):
    """Asked with nothing in ``state``, answered with it."""

    kind: Literal["status"] = "status"
    state: dict[str, Any] | None = None


class Stop(_Message):
    kind: Literal["stop"] = "stop"


class Event(_Message):
    """Told to watchers: ``what`` is ``step`` (committed), ``compared``, or the name of a rule."""

    kind: Literal["event"] = "event"
    what: Name
    recording: Name
    step: Count
    time: float
    said: dict[str, Any] = {}


Message = (
    Hello | Welcome | Open | Opened | Begin | Put | Puts | More | Statistics | Skip | Commit | Close | Ping | Ack
    | Fault | Capture | Captured | Status | Stop | Event
)  # fmt: skip
_ANY: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encoded(message: Message) -> bytes:
    """A message as its frame."""
    return message.model_dump_json(exclude_defaults=False).encode()


def decoded(frame: bytes) -> Message:
    """The message of a frame. Raises WireError."""
    if len(frame) > LARGEST_HEADER:
        raise WireError(f"a message of {len(frame)} bytes without a tensor")
    try:
        return _ANY.validate_json(frame)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = display(f"{where}: {first['msg']}" if where else first["msg"], 200)  # with keys of theirs, however long
        raise WireError(f"not a message of this protocol ({said})") from None


def fault(why: str, *, last: bool = True) -> Fault:
    """A :class:`Fault` that can be sent whatever is quoted in it."""
    return Fault(why=display(why, 4000), last=last)
