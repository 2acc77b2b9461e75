"""The parent's side: start the worker, pass its events on, and turn any end of it into a result or one line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tracer import adapter
from tracer.errors import ExitCode, InputError, TracerError
from tracer.names import display
from tracer.worker import elsewhere, environment, janitor, limits, protocol, sandbox
from tracer.worker.failure import KINDS, Reason, WorkerError
from tracer.worker.pipes import Pipes
from tracer.worker.protocol import Error, Event, Job, Result

__all__ = ["ENTRY", "OnEvent", "WorkerError", "run"]

ENTRY: tuple[str, ...] = ("-P", "-m", "tracer.worker.main")
"""The child's arguments: -P keeps a ``torch.py`` beside the model from being imported."""

OnEvent = Callable[[Event], None]
"""Takes phases, progress and notices."""

_TICK = 0.1
_GRACE_INTERRUPTED = 10.0
_GRACE_FINISHED = 5.0
_GREETING = 60.0
"""Seconds within which another environment's interpreter must have begun: it may be none."""
_LONGEST_TEXT = 4000


def _shown(text: str) -> str:
    return display(text[: 2 * _LONGEST_TEXT], _LONGEST_TEXT)


class _Supervision:
    """One worker from start to end."""

    def __init__(self, job: Job, on_event: OnEvent, load_timeout: float, memory_limit: int, loading_limit: int) -> None:
        self._name = display(job.subject)
        self._python = job.python
        self._on_event = on_event
        self._load_timeout = load_timeout
        self._memory_limit = memory_limit
        self._loading_limit = min(memory_limit, loading_limit)
        self._doing = protocol.STARTING
        self._outcome: Result | Error | None = None
        self._killed = False
        self._pipes = Pipes(job.to_json().encode())
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: Sequence[str], temporary: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """Start the worker and see it through. Raises WorkerError, InputError and KeyboardInterrupt."""
        pipes = self._pipes
        try:
            self._process = subprocess.Popen(
                [*command, str(pipes.events_for_child), str(os.getpid()), temporary],
                stdin=pipes.job_for_child,
                stdout=pipes.errors_for_child,
                stderr=pipes.errors_for_child,
                pass_fds=(pipes.events_for_child,),
                start_new_session=True,
                env={**environment.scrubbed(os.environ, temporary), **variables},
            )
            pipes.started()
            with janitor.watching(self._process.pid, temporary):
                try:
                    self._watch(self._process)
                except KeyboardInterrupt:
                    self._interrupt(self._process)
                    raise
                finally:
                    self._kill()
            return self._conclude(self._process.returncode)
        except OSError as error:
            if self._process is not None:
                raise
            raise InputError(f"cannot run {display(command[0])}: {error.strerror}") from error
        finally:
            self._kill()
            pipes.close()

    def _interrupt(self, process: subprocess.Popen[bytes]) -> None:
        """Ask the worker to finish its trace and wait for that. Raises KeyboardInterrupt on a second Ctrl-C."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: a wrapper may stand before the worker
        deadline = time.monotonic() + _GRACE_INTERRUPTED
        while process.poll() is None and time.monotonic() < deadline:
            # The interrupt may have torn a line; what counts is that the worker never blocks on a full pipe.
            with contextlib.suppress(ValueError, WorkerError):
                for line in self._pipes.read(_TICK):
                    self._take(line)

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Pass events on until the worker has ended. Raises WorkerError when a limit ends it."""
        memory = limits.Memory(process.pid)
        started = time.monotonic()
        finished: float | None = None
        while True:
            ended = process.poll() is not None
            if ended:
                self._kill()  # what it started may hold the pipes
            for line in self._lines(0 if ended else _TICK):
                self._take(line)
            now = time.monotonic()
            if self._outcome is not None:
                finished = finished or now
                if now - finished > _GRACE_FINISHED:
                    return
            if ended:
                return
            if self._python is not None and self._doing == protocol.STARTING and now - started > _GREETING:
                raise self._no_python(f"it did not begin within {_GREETING:g} s")
            loading = self._doing in protocol.UNLOADED
            if self._outcome is None and loading and now - started > self._load_timeout:
                what = f"it was still {self._activity()} after {self._load_timeout:g} s"
                hint = " (a damaged file can do this)" if self._doing == protocol.LOADING else ""
                raise self._error("timeout", f"the worker was stopped: {what}{hint}")
            used, limit = memory.used(), self._loading_limit if loading else self._memory_limit
            if used > limit:
                what = f"it took {used / 2**30:.1f} GiB of memory {self._while()}"
                more = ": --memory-limit allows more" if limit < self._memory_limit else ""
                said = f"the limit is {limit / 2**30:.1f} GiB{more}"
                raise self._error("memory", f"the worker was stopped: {what} ({said})")

    def _lines(self, wait: float) -> Iterator[bytes]:
        try:
            yield from self._pipes.read(wait)
        except ValueError as error:
            raise self._error("protocol", f"the worker was stopped: {error} {self._while()}") from error

    def _take(self, line: bytes) -> None:
        if self._outcome is not None:
            return
        try:
            event = protocol.parse(line)
        except ValueError as error:
            what = f"it sent something that is no event ({error})"
            raise self._error("protocol", f"the worker was stopped: {what} {self._while()}") from error
        if event["event"] == "result" or event["event"] == "error":
            self._outcome = event
        elif event["event"] == "progress":
            self._on_event(event)
        else:
            event["text"] = _shown(event["text"])
            if event["event"] == "phase" and event["text"] in protocol.PHASES:
                self._doing = event["text"]
            self._on_event(event)

    def _activity(self) -> str:
        return f"loading {self._name}" if self._doing == protocol.LOADING else self._doing

    def _while(self) -> str:
        return protocol.during(self._doing, self._name)

    def _error(
        self, reason: Reason, message: str, remote: str | None = None, kind: type[WorkerError] = WorkerError
    ) -> WorkerError:
        # While loading, the file is to blame; before that another environment, if it is one; afterwards neither.
        blamed = protocol.UNLOADED if self._python is not None else {protocol.LOADING}
        code = ExitCode.USAGE if self._doing in blamed else ExitCode.PARTIAL
        return kind(message, code, reason, tuple(self._pipes.last_words), remote)

    def _no_python(self, what: str) -> WorkerError:
        return self._error("exit", f"{display(self._python or '')} is no Python that can be used: {what}")

    def _kill(self) -> None:
        """End the worker and everything it started, and reap it."""
        if self._process is None or self._killed:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._killed = True

    def _conclude(self, status: int) -> dict[str, Any]:
        outcome = self._outcome
        if outcome is None:
            raise self._death(status)
        if outcome["event"] == "result":
            return outcome["value"]
        if outcome["exit"] == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        kind = KINDS.get(outcome["kind"], WorkerError)
        error = self._error("reported", _shown(outcome["message"]), outcome["traceback"], kind)
        if outcome["exit"] in (ExitCode.USAGE, ExitCode.PARTIAL):
            error.exit_code = ExitCode(outcome["exit"])
        raise error

    def _death(self, status: int) -> WorkerError:
        if status < 0:
            try:
                name = signal.Signals(-status).name
            except ValueError:
                name = f"signal {-status}"
            if self._python is not None and self._doing == protocol.STARTING:
                return self._no_python(f"it was killed by {name}")
            hint = " (out of memory?)" if -status == signal.SIGKILL else ""
            return self._error("signal", f"the worker was killed by {name} {self._while()}{hint}")
        early = self._doing in (protocol.STARTING, protocol.IMPORTING)
        words = [word for word in self._pipes.last_words if word.strip()] if early else []
        last = f": {display(words[-1].strip(), 200)}" if words else ""
        if self._python is not None and self._doing == protocol.STARTING:
            return self._no_python(f"it ended with status {status}{last}")
        return self._error("exit", f"the worker ended without a result (status {status}) {self._while()}{last}")


@contextlib.contextmanager
def _trace_directory(trace: str | None) -> Iterator[None]:
    """Have the trace's directory there for the sandbox to open; take it away again when it stayed empty.

    Raises InputError when it cannot be made.
    """
    made = False
    if trace is not None:
        try:
            os.mkdir(trace)
            made = True
        except FileExistsError:
            if not os.path.isdir(trace):
                raise InputError(f"the trace {display(trace)} is not a directory") from None
        except OSError as error:
            raise InputError(f"cannot make the trace {display(trace)}: {error.strerror}") from error
    try:
        yield
    finally:
        if made and trace is not None:
            with contextlib.suppress(OSError):
                os.rmdir(trace)


def _files(job: Job) -> Iterator[Path]:
    """What the model is loaded from, with the files that belong to it."""
    yield from map(Path, sandbox.model_files(job))
    with contextlib.suppress(TracerError):  # no such adapter here: the worker says so
        yield from adapter.get(job.adapter, check=False).files(protocol.request_from_json(job.request))


def run(
    job: Job,
    *,
    on_event: OnEvent,
    python: str | Path = sys.executable,
    load_timeout: float = 300.0,
    memory_limit: int | None = None,
    entry: Sequence[str] = ENTRY,
) -> dict[str, Any]:
    """Do ``job`` in a worker process of the interpreter ``python``: what its command returned.

    Where ``python`` is another environment's, that needs the framework and numpy alone (see :mod:`.elsewhere`).

    ``on_event`` gets phases, progress and notices, their texts fit for a screen; the result is the worker's word and
    as little to be trusted as the model: see :mod:`.results`. The worker gets no secrets from our environment. It
    may take ``load_timeout`` seconds until the model is loaded, and ``memory_limit`` bytes (default: 90 % of what is
    available now; while it loads files and none of the user's code, no more than :func:`.limits.loading`). On Ctrl-C it
    is asked to finish its trace and has 10 s for it; a second Ctrl-C ends it at once.

    Raises WorkerError for any failure of the worker, InputError when the trace's directory or the interpreter
    cannot be used, AdapterError where the adapter cannot be had there, KeyboardInterrupt after Ctrl-C. The worker and
    its children are killed in each case.
    """
    limit = limits.default_memory() if memory_limit is None else memory_limit
    free = memory_limit is not None or sandbox.own_code(job)
    loading_limit = limit if free else limits.loading(_files(job))
    janitor.sweep()
    with janitor.folder() as temporary, _trace_directory(job.trace):
        command, variables = (str(python), *entry), dict[str, str]()
        if entry is ENTRY and elsewhere.is_other(str(python)):
            prepared = elsewhere.prepare(str(python), job.adapter, temporary)
            command, variables = prepared.command, prepared.variables
            job = replace(job, python=str(python), read=(*job.read, *prepared.read))
        supervision = _Supervision(job, on_event, load_timeout, limit, loading_limit)
        return supervision.run(command, temporary, variables)
