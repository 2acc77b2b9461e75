"""Where operators register: a random change of a port, and what it may rightly be called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.corpus.mutations import Subject
from benchmarks.corpus.mutations.subject import Work

Random = np.random.Generator
Apply = Callable[[Work, Any, Random], str | None]
Sites = Callable[[Subject], Iterable[Any]]


@dataclass(frozen=True)
class Operator:
    """One way to change a port.

    Attributes:
        name: its own.
        sites: where it could be.
        apply: changes the port at one of them, drawing what is left open. Gives the names that are right for that,
            after a bar those that are true and too general; None where the change is not possible there.
    """

    name: str
    sites: Sites
    apply: Apply


OPERATORS: list[Operator] = []


def operator(*sites: Sites) -> Callable[[Apply], Apply]:
    """Registers a function that changes a port at one of ``sites``, under its own name."""

    def register(apply: Apply) -> Apply:
        name = apply.__name__.strip("_").replace("_", "-")
        OPERATORS.append(Operator(name, lambda subject: [one for find in sites for one in find(subject)], apply))
        return apply

    return register


def told(names: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names that are right, and those that are too general."""
    right, _, vague = names.partition("|")
    return frozenset(right.split()), frozenset(vague.split())
