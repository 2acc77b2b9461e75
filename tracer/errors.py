"""What can go wrong for a user, and the exit code that says so."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    """Everything compared agrees within the tolerance (or the command simply worked)."""
    DIVERGED = 1
    """At least one pair diverged."""
    USAGE = 2
    """Usage, bad input, or a file that was refused."""
    PARTIAL = 3
    """Partial or damaged data: the model raised, the disk filled, the trace is damaged, nothing to compare."""
    UNMATCHED = 4
    """Unmatched layers under ``--strict``."""
    INTERRUPTED = 130
    """Interrupted by Ctrl-C."""
    CLOSED = 141
    """Whatever read the output has gone (``| head``): what a shell says of a program that SIGPIPE ended."""


class TracerError(Exception):
    """A mistake or condition the user can mend; the message is one line and says how.

    Raised instead of a framework's own exception wherever the user, a file or the machine is the reason.
    """

    exit_code: ExitCode = ExitCode.USAGE


class InputError(TracerError, ValueError):
    """An argument, an input file or a model file that cannot be used."""


class RefusedError(InputError):
    """A file that would run code when loaded, or that is built to do harm."""


class OptionError(InputError):
    """An option that the model cannot serve; another input would not help."""


class MisfitError(InputError):
    """A layer in the middle of the model does not take what came to it: the input may be wrong, or the model.

    ``structure`` (:class:`tracer.graph.Structure`) holds what ran before, with its ``fault``; the model can be captured
    on that input, which ends in a ModelError.
    """

    def __init__(self, message: str, structure: object) -> None:
        super().__init__(message)
        self.structure = structure


class LossError(OptionError):
    """What ``--grad`` names is no loss of what the model returns."""


class NoModelError(InputError):
    """A file of weights that needs an architecture; what it holds can still be listed."""


class ModelError(TracerError, RuntimeError):
    """The user's model raised while it ran; what was recorded before stays readable."""

    exit_code = ExitCode.PARTIAL


class TransferError(TracerError):
    """Weights that were not written, for they would not make the target compute what the source does.

    ``transferred`` (:class:`tracer.weighing.transfer.Transferred`) says all that is known.
    """

    exit_code = ExitCode.DIVERGED

    def __init__(self, message: str, transferred: object) -> None:
        super().__init__(message)
        self.transferred = transferred


class ReplayError(TracerError):
    """A recorded model cannot be run again, or not as it was recorded."""

    exit_code = ExitCode.PARTIAL


class TraceError(TracerError, OSError):
    """The trace cannot be read or written as wanted: damaged, newer, locked, full disk."""

    exit_code = ExitCode.PARTIAL


class RemoteError(TracerError):
    """An object store that cannot be used: no such bucket, no credentials, no network. No error of one tensor."""


class MissingFrameworkError(TracerError, ImportError):
    """The framework an adapter needs is not installed; ``modules`` are those that are missing."""

    def __init__(self, message: str, modules: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.modules = modules


class AdapterError(TracerError):
    """An installed adapter that cannot be used: it does not import, is none, or its name is taken."""


def said(error: BaseException) -> str:
    """An exception as a sentence for the user."""
    if isinstance(error, TracerError):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
