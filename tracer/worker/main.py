"""The worker process: ``python -P -m tracer.worker.main EVENTS PARENT TMP``, a job's JSON on standard input.

EVENTS is the descriptor that takes the events, PARENT the supervisor's process id, TMP a private directory.
Whatever the framework or the model prints goes to standard error.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from tracer.errors import ExitCode, InputError, MissingFrameworkError, TracerError
from tracer.names import display
from tracer.worker import environment, failure, protocol, sandbox
from tracer.worker.protocol import Event, Job

COMMANDS: Mapping[str, str] = {
    "record": "tracer.recording:run_record",
    "inspect": "tracer.inspection:run_inspect",
    "local": "tracer.rerun.measure:run_local",
    "against": "tracer.rerun.measure:run_against",
    "shaken": "tracer.rerun.measure:run_shaken",
    "graft": "tracer.rerun.graft:run_graft",
    "verify": "tracer.rerun.verifying:run_verify",
    "probe": "tracer.rerun.probing:run_probe",
    "transfer": "tracer.weighing.filling:run_transfer",
}
"""Where each command is: ``module:function``, imported inside the sandbox, called with job and emitter."""

Emit = Callable[[Event], None]
Command = Callable[[Job, Emit], dict[str, Any]]

_PR_SET_PDEATHSIG = 1
_LONGEST_MESSAGE = 2000


class _Emitter:
    """Writes events as whole lines, from any thread; remembers what the worker is doing."""

    def __init__(self, descriptor: int) -> None:
        self.doing = protocol.STARTING
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        if event["event"] == "phase":
            self.doing = event["text"]
        data = memoryview(protocol.line(event))
        with self._lock:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BrokenPipeError:  # nobody listens any more: the parent's death is on its way to us
                    return


def _die_with(parent: int) -> None:
    """Be terminated when the process ``parent`` dies (Linux)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM), *[ctypes.c_ulong(0)] * 3)
    with contextlib.suppress(PermissionError):
        try:
            os.kill(parent, 0)  # it may be dead already; getppid would not do where a wrapper starts the worker
        except ProcessLookupError:
            os._exit(ExitCode.PARTIAL)


def _harden() -> None:
    """No core file but a stack of a crash, and the first victim when the machine runs out of memory."""
    import resource

    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _set_environment(job: Job) -> None:
    """Set what the framework must find when it is imported for these files, unless the user has set it."""
    from tracer import adapter

    for name, value in adapter.get(job.adapter).environment(protocol.request_from_json(job.request)).items():
        os.environ.setdefault(name, value)


def _import_framework(name: str) -> None:
    """Import what the adapter needs. Raises TracerError in one line when the installation is broken."""
    from tracer import adapter

    found = adapter.get(name)
    for module in found.requires:
        if module in found.late:
            continue
        try:
            importlib.import_module(module)
        except Exception as error:
            raise TracerError(f"importing {module} failed: {type(error).__name__}: {_first_line(error)}") from error


def _parts(job: Job) -> list[str]:
    """The further files that the model is made of."""
    from tracer import adapter

    return [str(path) for path in adapter.get(job.adapter).files(protocol.request_from_json(job.request))]


def run(job: Job, commands: Mapping[str, str], emit: Emit, temporary: Path) -> dict[str, Any]:
    """Import the framework, close the sandbox, run the command: what the command returned.

    Raises whatever the command raises, and TracerError when the framework or the sandbox fails.
    """
    emit(protocol.phase(protocol.IMPORTING))
    try:
        _set_environment(job)
    except MissingFrameworkError as error:
        if job.python is None:
            raise
        raise TracerError(f"{display(job.python)} has no {', '.join(error.modules)}") from error
    _import_framework(job.adapter)
    gc.freeze()
    environment.give_threads(os.environ)

    confinement, notices = sandbox.close(replace(job, read=(*job.read, *_parts(job))), temporary)
    for text in notices:
        emit(protocol.notice(text))
    module, _, function = commands[job.command].partition(":")
    command: Command = getattr(importlib.import_module(module), function)
    emit(protocol.phase(protocol.LOADING))
    return command(replace(job, confinement=confinement), emit)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return display(lines[0] if lines else "", _LONGEST_MESSAGE)


def _failure(error: BaseException, job: Job | None, doing: str) -> tuple[str, int, str]:
    """Kind, exit code and message for what ended the command."""
    during = protocol.during(doing, display(job.subject) if job else "the job")
    if isinstance(error, KeyboardInterrupt):
        return "", ExitCode.INTERRUPTED, "interrupted"
    if isinstance(error, TracerError):
        return failure.kind_of(error), error.exit_code, display(str(error), _LONGEST_MESSAGE)
    if isinstance(error, MemoryError):
        return "", ExitCode.PARTIAL, f"ran out of memory {during}"
    if isinstance(error, SystemExit):
        return "", ExitCode.PARTIAL, f"the model's code called sys.exit {during}"
    hint = "" if job and job.debug else " (run again with --debug for the traceback)"
    what = f"{type(error).__name__}: {_first_line(error)}{hint}"
    if doing == protocol.LOADING and job:  # of a damaged file a framework raises anything
        return InputError.__name__, ExitCode.USAGE, f"{display(job.subject)} cannot be loaded: {what}"
    return "", ExitCode.PARTIAL, f"internal error: {what}"


def main(commands: Mapping[str, str] = COMMANDS, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the job on standard input and end the process; its exit code repeats the last event."""
    descriptor, parent, temporary = (sys.argv[1:] if arguments is None else arguments)[:3]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
    gc.set_threshold(50_000, 20, 50)  # what a framework makes when it is imported stays
    emit = _Emitter(int(descriptor))
    job: Job | None = None
    code = 0
    try:
        os.set_inheritable(int(descriptor), False)
        _die_with(int(parent))
        _harden()
        os.dup2(2, 1)
        os.environ["TMPDIR"] = tempfile.tempdir = temporary
        job = Job.from_json(sys.stdin.read())
        emit({"event": "result", "value": run(job, commands, emit, Path(temporary))})
    except BaseException as error:
        kind, code, message = _failure(error, job, emit.doing)
        text = "".join(traceback.format_exception(error)) if job and job.debug else None
        emit({"event": "error", "kind": kind, "exit": int(code), "message": message, "traceback": text})
    # Not sys.exit: tearing a framework down takes time, can crash, and waits for the model's threads.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
