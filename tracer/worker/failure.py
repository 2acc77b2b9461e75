"""How a worker can fail its parent."""

from __future__ import annotations

from typing import Literal

from tracer.errors import ExitCode, TracerError

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
