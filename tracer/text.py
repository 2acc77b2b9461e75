"""Other people's exceptions as one line of text, fixed words, and texts by the one or the several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from tracer.names import display

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Word(str, Enum):  # noqa: UP042
    """One of some fixed words: the standard library's StrEnum, which a worker on Python 3.10 does not have."""

    __str__ = str.__str__


def texts(given: str | Sequence[str]) -> tuple[str, ...]:
    """One or several, as users give them."""
    return (given,) if isinstance(given, str) else tuple(given)  # else each of its letters were one


def text_of(thing: object) -> str:
    """``str(thing)``, which in other people's classes may raise."""
    try:
        return str(thing)
    except Exception as error:
        return f"<text unavailable: {type(error).__name__}>"


def one_line(text: object, limit: int = 300) -> str:
    """``text`` without line breaks, escapes and colours, shortened in the middle to ``limit`` characters."""
    return display(" ".join(_ANSI.sub("", text_of(text)).split()), limit)


def described(error: BaseException, limit: int = 300) -> str:
    """``Type: text`` of an exception, in one line."""
    text = one_line(error, limit)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def first_line(error: BaseException, limit: int = 200) -> str:
    """``Type: text`` with the first line of the text alone: for exceptions that append a whole configuration."""
    line = next((line for line in text_of(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {one_line(line, limit)}" if line else type(error).__name__


def some(names: list[str], most: int = 3) -> str:
    """The first few of a list of names, and how many there are besides."""
    shown = ", ".join(display(name, 80) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
