"""The causes that are known: which are tried where, and what each is called.

A family is a module that registers functions ``f(case, step) -> edits`` for kinds of steps. Others are found by the
entry point ``tracer.causes``: the name of a module whose import registers them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import entry_points

from tracer.causes.case import Case
from tracer.causes.edit import Edit
from tracer.causes.failing import Failure, failure
from tracer.causes.step import Step

Suggest = Callable[[Case, Step], Iterable[Edit]]
_FAMILIES = ("layout", "padding", "normalisation", "activation", "recurrent", "attention", "resize", "weights",
             "structure", "numerics", "inputs", "operands")  # fmt: skip
_suggestions: list[tuple[frozenset[str], Suggest]] = []
ENTRY_POINTS = "tracer.causes"


def suggests(*kinds: str) -> Callable[[Suggest], Suggest]:
    """Register a function that suggests edits of steps of these kinds; of all steps where none is named.

    It is given a case and one of its program's steps, and yields edits, likeliest and cheapest first. What it raises
    ends its suggestions: of :class:`~tracer.causes.step.Unknown` and ValueError nothing is said, anything else is
    told with the name of its module.
    """

    def register(function: Suggest) -> Suggest:
        _suggestions.append((frozenset(kinds), function))
        return function

    return register


@cache
def load() -> tuple[Failure, ...]:
    """Import the families, and what others register; those of a third party that cannot be imported are returned."""
    for name in _FAMILIES:
        importlib.import_module(f"tracer.causes.families.{name}")
    failed = []
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            failed.append(failure(point.value, error))
    return tuple(failed)


def suggestions(step: Step) -> Iterator[Suggest]:
    """The functions that have something to say about a step."""
    load()
    for kinds, function in _suggestions:
        if not kinds or step.kind in kinds:
            yield function
