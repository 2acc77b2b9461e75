"""A process that has imported what ``tracer`` imports, and starts commands and their workers by forking itself.

Importing the frameworks takes seconds, and hundreds of commands would each pay for it. Each command is still a process
of its own, its worker another one, supervised and confined as always. What only a new interpreter shows (which module
is imported when, variables that a framework reads as it is imported) needs one: see ``run`` in ``tests.cli``.
"""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any, NoReturn

_STDIN, _STDOUT, _STDERR = range(3)
_LEFT = frozenset(["__main__", "kernels", "loops", "lightning", "live", "testing", "pytest_plugin"])
"""Parts of names of modules that bring numba, Lightning, sockets or pytest with them."""


@dataclass(frozen=True)
class Request:
    """A command: its arguments, the directory that it runs in, and the files that take what it prints.

    Attributes:
        environment: variables besides ours; what a framework reads as it is imported comes too late.
        script: a Python file that runs in place of ``tracer``.
    """

    arguments: tuple[str, ...]
    cwd: str
    stdout: str
    stderr: str
    environment: Mapping[str, str] = field(default_factory=dict)
    script: str = ""


def serve() -> None:
    """Answer each :class:`Request` on the connection ``sys.argv[1]``, until that is closed.

    An answer is the exit code, and the bytes of memory that the command or its worker had at most.
    """
    wire = Connection(int(sys.argv[1]))
    _import()
    _start_workers_by_forking()
    gc.freeze()  # a collection would write to every page, and so copy it
    with suppress(EOFError):
        while True:
            request: Request = wire.recv()
            if (child := os.fork()) == 0:
                wire.close()
                _run(request)
            _, status, used = os.wait4(child, 0)
            wire.send((os.waitstatus_to_exitcode(status), used.ru_maxrss << 10))


def _import() -> None:
    """Import commands and frameworks; no thread is started, for a fork would lose it."""
    import tracer.cli
    from tracer import adapter

    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    for module in pkgutil.iter_modules(tracer.cli.__path__):
        importlib.import_module(f"tracer.cli.{module.name}")
    for name in ("tf", "pt"):
        found = adapter.get(name)
        for framework in found.requires:
            with suppress(ImportError):
                importlib.import_module(framework)
    for package in ("tracer", "tracer_keras", "tracer_torch"):  # else each command would import what it needs of them
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not set(module.name.split(".")) & _LEFT:
                importlib.import_module(module.name)
    del os.environ["OPENBLAS_NUM_THREADS"]


def _run(request: Request) -> NoReturn:
    from tracer.cli.main import main

    os.chdir(request.cwd)
    for descriptor, path in ((_STDIN, os.devnull), (_STDOUT, request.stdout), (_STDERR, request.stderr)):
        opened = os.open(path, os.O_RDWR)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.update(request.environment)
    sys.argv = [request.script or "-c", *request.arguments]
    code = 70
    try:
        if request.script:
            sys.path[0] = request.cwd
            runpy.run_path(request.script, run_name="__main__")
            code = 0
        else:
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:  # taking the frameworks down takes as long as their import
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Worker:
    """What the supervisor needs of a ``Popen``, for a worker that is a fork of this process."""

    def __init__(
        self, arguments: Sequence[str], *, stdin: int, stdout: int, stderr: int, pass_fds: Sequence[int],
        start_new_session: bool, env: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        try:
            if start_new_session:
                os.setsid()
            for ours, theirs in ((stdin, _STDIN), (stdout, _STDOUT), (stderr, _STDERR)):
                os.dup2(ours, theirs)
            for descriptor in map(int, os.listdir("/proc/self/fd")):
                if descriptor > _STDERR and descriptor not in pass_fds:
                    with suppress(OSError):  # the one that listed them
                        os.close(descriptor)
            os.environ.clear()
            os.environ.update(env)
            sys.path.remove("")  # as by -P
            from tracer.worker.main import main

            main(arguments=arguments)
        finally:
            os._exit(70)

    def poll(self) -> int | None:
        return self._waited(os.WNOHANG)

    def wait(self) -> int | None:
        return self._waited(0)

    def _waited(self, options: int) -> int | None:
        if self.returncode is None:
            child, status = os.waitpid(self.pid, options)
            if child:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def _start_workers_by_forking() -> None:
    """Where all that the worker imports is here and was imported as the worker would, and no thread would be lost."""
    from tracer import adapter
    from tracer.worker import protocol, supervise
    from tracer.worker.protocol import Job

    started = supervise.run

    def popen(command: Sequence[str], **how: Any) -> _Worker:
        return _Worker(command[1 + len(supervise.ENTRY) :], **how)

    def run(job: Job, **how: Any) -> dict[str, Any]:
        found = adapter.get(job.adapter)
        here = how.get("python", sys.executable) == sys.executable
        here = here and all(name in sys.modules for name in found.requires if name not in found.late)
        alike = not found.environment(protocol.request_from_json(job.request))
        alone = len(os.listdir("/proc/self/task")) == 1
        forks = here and alike and alone
        vars(supervise)["subprocess"] = SimpleNamespace(Popen=popen) if forks else subprocess
        return started(job, **how)

    supervise.run = run
