"""``tracer daemon …`` and ``tracer watch``."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.text import Text

from tracer.cli import settings
from tracer.cli.configured import table
from tracer.compare.verdict import Tolerance
from tracer.errors import ExitCode, InputError
from tracer.live import place, wire
from tracer.live.daemon import Settings
from tracer.live.remote import Away, Connection, connect
from tracer.live.retention import Retention
from tracer.live.rules import Rules
from tracer.live.telling import Telling
from tracer.names import display
from tracer.report.words import bytes_text
from tracer.store import Trace

_Table = TypeVar("_Table", bound=BaseModel)
_START = 20.0
_STOP = 30.0


def start(
    trace: Path, *, foreground: bool, port: int | None, last: int, every: int, budget: float, atol: float, rtol: float,
    durable: bool = False,
) -> int:  # fmt: skip
    """Start the daemon, and return once it listens."""
    if (found := place.running()) is not None:
        raise InputError(f"a daemon is running already (process {found}): tracer daemon status, tracer daemon stop")
    given = {"last": last, "every": every, "budget": int(budget * 1e9)}
    retention = _configured(Retention, "retention", {key: value for key, value in given.items() if value})
    how = Settings(
        trace.absolute(), port, secrets.token_urlsafe(24) if port is not None else "", Tolerance(atol, rtol),
        _configured(Rules, "rules", {}), retention, _configured(Telling, "events", {}),
        durable,
    )  # fmt: skip
    Trace.create(trace)  # said now where it cannot be written, and there for who looks before the first step
    place.folder(make=True)
    if how.token:
        _keep_token(how.token)
    if foreground:
        import logging

        from tracer.live.__main__ import FORMAT, serve

        logging.basicConfig(level=logging.INFO, format=FORMAT)
        serve(how)
        return ExitCode.OK
    process = subprocess.Popen(
        [sys.executable, "-m", "tracer.live"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, start_new_session=True, cwd="/",
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(TypeAdapter(Settings).dump_json(how))
    process.stdin.close()
    until = time.monotonic() + _START
    while time.monotonic() < until:
        if process.poll() is not None:
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise InputError(said[-1] if said else f"the daemon ended at once: {place.log()}")
        with contextlib.suppress(Away, InputError):
            connect("control", seconds=1.0).close()
            break
        time.sleep(0.05)
    else:
        raise InputError(f"the daemon does not answer after {_START:.0f} s: {display(str(place.log()))}")
    assert process.stderr is not None
    process.stderr.close()
    process.returncode = 0  # it outlives this command, which is no mistake
    settings.say(f"the daemon runs (process {process.pid}), and writes {display(str(trace))}")
    if port is not None:
        settings.say(f"on 127.0.0.1:{port} too, for who has the token in {display(str(_token_file()))}")
    settings.hint("tracer daemon status")
    return ExitCode.OK


def _configured(model: type[_Table], name: str, given: Mapping[str, Any]) -> _Table:
    """The table ``name`` of the settings' file, with what was ``given`` over it. Raises InputError."""
    found, where = table(name)
    try:
        return model.model_validate({**found, **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {display(key)}: {first['msg']}") from None


def _token_file() -> Path:
    return place.folder() / "token"


def _keep_token(token: str) -> None:
    descriptor = os.open(_token_file(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token)


def stop() -> int:
    """Have the daemon write what it has, and end."""
    pid = place.running()
    if pid is None:
        raise InputError("no daemon runs")
    with _connected("control") as daemon:
        daemon.send(wire.Stop())
        until = time.monotonic() + _STOP
        while place.running() is not None:
            if time.monotonic() > until:
                raise InputError(f"the daemon (process {pid}) does not end: kill {pid} loses no step that is written")
            time.sleep(0.05)
    settings.say("the daemon has ended")
    return ExitCode.OK


@contextlib.contextmanager
def _connected(role: wire.Role) -> Iterator[Connection]:
    connection = connect(role)
    try:
        yield connection
    finally:
        connection.close()


def status(*, as_json: bool) -> int:
    """What the daemon does: rates, queues, the last divergence."""
    with _connected("control") as daemon:
        answer = daemon.ask(wire.Status())
    state = answer.state if isinstance(answer, wire.Status) and answer.state is not None else {}
    if as_json:
        settings.out().print(json.dumps({"schema": "tracer-daemon/1", **state}))
        return ExitCode.OK
    for line in status_lines(state):
        settings.out().print(Text(line))
    return ExitCode.OK


def status_lines(state: Mapping[str, Any]) -> list[str]:
    """The state of a daemon, for a person."""
    since = time.time() - float(state["since"])
    lines = [
        f"daemon {state['version']}, process {state['pid']}, up {_lasting(since)}, writes {display(state['trace'])}"
    ]
    for one in state["recorders"]:
        name = display(one["recording"] or f"{one['asks_for'] or '?'} (process {one['pid']})")
        last = "no step yet" if one["last_step"] is None else f"{one['steps']} steps, the last {one['last_step']}"
        more = f", {one['left_out']} due and not sent" if one["left_out"] else ""
        lines.append(
            f"● {name}: {last}{more}; {bytes_text(one['bytes'])}, {one['mb_per_s']:.1f} MB/s, "
            f"{bytes_text(one['waiting'])} waiting, written {one['lag'] * 1000:.0f} ms after the step"
        )
    if not state["recorders"]:
        lines.append('no recorder is connected: tracer.attach(model, to="daemon") in your program')
    for pair in state["pairs"]:
        what = pair.get("error") or _verdict(pair)
        lines.append(
            f"{display(pair['reference'])} ⇄ {display(pair['candidate'])}: {pair['compared']} steps compared; {what}"
        )
    if state["to_look_at"] or state["not_looked_at"]:
        left = f", {state['not_looked_at']} left out" if state["not_looked_at"] else ""
        lines.append(f"waiting to be looked at: {state['to_look_at']}{left}")
    return [*lines, *map(event_line, state["last_events"][-5:])]


def _verdict(pair: Mapping[str, Any]) -> str:
    step = f"step {pair['step']}"
    if not pair.get("first"):
        return f"{step} agrees"
    error = pair.get("first_error")
    return f"{step} parts at {display(pair['first'])}" + ("" if error is None else f", relative error {error:.2g}")


def _lasting(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def event_line(event: Mapping[str, Any]) -> str:
    """An event, for a person."""
    clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    what = display(str(event["said"].get("what") or event["said"].get("verdict") or ""), 200)
    return f"{clock} {display(event['recording'])}@{event['step']} {display(event['what'])}: {what}"


def logs(lines: int, *, follow: bool) -> int:
    """The end of what the daemon wrote of itself."""
    path = place.log()
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise InputError("there is no log: no daemon was started yet") from None
    with file:
        for line in file.readlines()[-lines:]:
            settings.out().print(Text(display(line.rstrip("\n"), 2000)))
        while follow:
            line = file.readline()
            if line:
                settings.out().print(Text(display(line.rstrip("\n"), 2000)))
            else:
                time.sleep(0.3)
    return ExitCode.OK


def capture(
    on: bool | None, recording: str, *, every: int | None, layers: Sequence[str], exclude: Sequence[str],
    statistics_only: bool | None,
) -> int:  # fmt: skip
    """Have recorders record otherwise from their next step on."""
    wanted = wire.Capture(
        recording=recording, on=on, every=every, layers=list(layers) or None, exclude=list(exclude) or None,
        statistics_only=statistics_only,
    )  # fmt: skip
    with _connected("control") as daemon:
        answer = daemon.ask(wanted)
    found = answer.recordings if isinstance(answer, wire.Captured) else []
    if not found:
        raise InputError(f"no recorder is connected that records '{display(recording)}': tracer daemon status")
    settings.say(f"told {', '.join(display(name) for name in found)}")
    return ExitCode.OK


def watch(*, once: bool, as_json: bool, steps: bool, stopped: Callable[[], bool] = lambda: False) -> int:
    """Print events as they happen; with ``once`` end with exit code 1 on the first that a rule tells."""
    told = events(steps=steps, stopped=stopped, ready=lambda: settings.say("watching; Ctrl-C ends it"))
    with contextlib.closing(told):
        for event in told:
            settings.out().print(Text(json.dumps(event) if as_json else event_line(event)))
            if once and event["what"] not in ("step", "compared"):
                return ExitCode.DIVERGED
    return ExitCode.OK


def events(
    *, steps: bool, stopped: Callable[[], bool] = lambda: False, ready: Callable[[], None] = lambda: None
) -> Generator[dict[str, Any]]:
    """What the daemon tells as it happens, with ``steps`` of each step and comparison too; ``ready`` is called once it
    listens. Raises InputError where there is no daemon, Away where it goes."""
    with _connected("watcher") as daemon:
        ready()
        while not stopped():
            message = daemon.receive(wire.ALIVE)
            if message is None:
                daemon.send(wire.Ping())
                continue
            if isinstance(message, wire.Fault):
                raise Away(message.why)
            if isinstance(message, wire.Event) and (steps or message.what not in ("step", "compared")):
                yield message.model_dump(exclude={"kind"})


__all__ = ["capture", "event_line", "events", "logs", "start", "status", "stop", "watch"]
