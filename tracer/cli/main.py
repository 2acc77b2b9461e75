"""The ``tracer`` command: the one place where errors become a line and an exit code."""

from __future__ import annotations

import errno
import gc
import os
import re
import sys
import traceback
from typing import NoReturn, cast

from tracer.errors import ExitCode, TracerError
from tracer.names import display

_SHOWN = 200
"""Characters that are shown of the name of a file that cannot be used."""


def main() -> NoReturn:
    """Run the command line and exit."""
    _open_streams()
    gc.set_threshold(50_000, 20, 50)  # what starting makes stays: going over it again and again was a tenth of it
    arguments = sys.argv[1:]
    # Accepted anywhere on the line: people add it to the end of the command that failed.
    debug = "--debug" in arguments
    code = run(_with_loss([a for a in arguments if a != "--debug"]), debug=debug)
    _give_up_output()
    sys.exit(code)


def _open_streams() -> None:
    """Give this process what its caller has closed (``tracer … >&-``): a file opened later would take the number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8"))  # noqa: SIM115


def _give_up_output() -> None:
    """What standard output did not take is dropped: the interpreter would try once more at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_loss(arguments: list[str]) -> list[str]:
    """``--grad`` without a loss stands for ``--grad sum``, whatever follows it."""
    if "--grad" not in arguments:
        return arguments
    from tracer import adapter

    out = list(arguments)
    for index, argument in enumerate(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else "-"
        # A word that is no file is a loss mistyped: it gets its own message.
        word = following.isidentifier() and following not in adapter.names() and not os.path.exists(following)
        if argument == "--grad" and not word and not re.fullmatch(r"[^-].*:\w+", following):
            out[index] = "--grad=sum"
    return out


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command and return its exit code; a user's mistake prints one line on stderr."""
    import typer

    from tracer.cli import settings

    # typer brings a click of its own, or uses the package: its public exception knows which.
    usage_error, command_error = cast("tuple[type[Exception], type[Exception]]", typer.BadParameter.__mro__[1:3])
    settings.debug = debug
    try:
        code = _ended(arguments)
        sys.stdout.flush()
        return _fail("interrupted", code) if code == ExitCode.INTERRUPTED else code
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # which rich, and the help with it, answers by leaving
            return ExitCode.CLOSED
        raise
    except (typer.Abort, KeyboardInterrupt):
        return _fail("interrupted", ExitCode.INTERRUPTED)
    except command_error as error:
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
            print(context.get_help(), file=sys.stderr)
            return ExitCode.USAGE
        see = f" (see: {context.command_path} --help)" if isinstance(error, usage_error) and context else ""
        return _fail(_text(error) + see, ExitCode.USAGE)
    except BrokenPipeError:
        return ExitCode.CLOSED
    except TracerError as error:
        if debug:
            traceback.print_exception(error)
            for line in (
                *getattr(error, "last_words", ()),
                *(getattr(error, "remote_traceback", None) or "").splitlines(),
            ):
                print(display(line), file=sys.stderr)
        return _fail(str(error) or type(error).__name__, error.exit_code)
    except OSError as error:
        if debug:
            traceback.print_exception(error)
        what = f"use {display(str(error.filename), _SHOWN)}" if error.filename else "go on"
        code = ExitCode.USAGE if error.errno == errno.ENAMETOOLONG else ExitCode.PARTIAL
        return _fail(f"cannot {what}: {error.strerror or error}", code)
    except MemoryError:
        return _fail("out of memory", ExitCode.PARTIAL)
    except Exception as error:
        traceback.print_exception(error)
        return _fail(f"a bug of tracer ({type(error).__name__}); please report the lines above", ExitCode.PARTIAL)


def _ended(arguments: list[str]) -> int:
    """The exit code that a command returns; 130 is what typer makes of a KeyboardInterrupt."""
    import typer

    from tracer.cli.exportapp import app

    try:
        result = app(args=arguments, prog_name="tracer", standalone_mode=False)
    except typer.Exit as error:
        return error.exit_code
    return int(result) if isinstance(result, int) else ExitCode.OK


def _text(error: BaseException) -> str:
    text = getattr(error, "format_message", error.__str__)()
    return str(text).replace(": Value error, ", ": ", 1)  # pydantic's words, which typer passes on


def _fail(message: str, code: int) -> int:
    print(f"tracer: {display(' '.join(message.split()))}", file=sys.stderr)
    return int(code)
