"""How a worker can fail its parent."""

from __future__ import annotations

from typing import Literal

from tracer.errors import (
    ExitCode,
    InputError,
    MissingFrameworkError,
    ModelError,
    RefusedError,
    ReplayError,
    TraceError,
    TracerError,
)

Reason = Literal["reported", "signal", "exit", "timeout", "memory", "protocol"]


class WorkerError(TracerError):
    """The worker ended without a result; the message is one line, fit for a screen.

    Attributes:
        exit_code: 2 when it died while loading (the file is to blame), 3 otherwise; its own word if it reported.
        reason: ``reported`` by the worker itself, killed by a ``signal``, ``exit`` without a word, stopped for
            ``timeout``, ``memory`` or a breach of ``protocol``.
        last_words: the last lines of its standard error, raw: for ``--debug``, through ``display``.
        remote_traceback: its traceback when the job asked for one, raw too.
    """

    def __init__(
        self,
        message: str,
        exit_code: ExitCode,
        reason: Reason,
        last_words: tuple[str, ...] = (),
        remote_traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.reason = reason
        self.last_words = last_words
        self.remote_traceback = remote_traceback


KINDS: dict[str, type[WorkerError]] = {
    one.__name__: type(one.__name__, (WorkerError, one), {"__doc__": one.__doc__})
    for one in (InputError, MissingFrameworkError, ModelError, RefusedError, ReplayError, TraceError)
}
"""What a worker may report, by name: each is a :class:`WorkerError` and what was raised there."""


def kind_of(error: BaseException) -> str:
    """Which of :data:`KINDS` an exception is, the nearest; empty for none."""
    return next((base.__name__ for base in type(error).__mro__ if base.__name__ in KINDS), "")
