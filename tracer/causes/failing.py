"""Families that raise what they should not: they are named, and what the others say is said all the same."""

from __future__ import annotations

import traceback
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """What went wrong in a family.

    Attributes:
        family: its module, or its entry point where that could not be imported.
        error: in a line.
        trace: the traceback, of several lines.
    """

    family: str
    error: str
    trace: str

    def __str__(self) -> str:
        return f"{self.family} failed, and may have had more to say: {self.error}"


def failure(family: str, error: Exception) -> Failure:
    """What is kept of an exception that is being handled."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Failure(family, said, "".join(traceback.format_exception(error)))
