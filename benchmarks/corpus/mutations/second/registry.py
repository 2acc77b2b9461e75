"""What a defect of the second set may be called, and where it is built in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.corpus.mutations.subject import KINDS as SEEN
from benchmarks.corpus.mutations.subject import Call, Kind, Subject, Work, differ, kind, observe
from benchmarks.corpus.mutations.unseen import KINDS as UNSEEN

KINDS: dict[str, Kind] = {}
RIGHT: dict[str, frozenset[str]] = {}
VAGUE: dict[str, frozenset[str]] = {}
PLANS: dict[str, tuple[str, ...]] = {}
"""The ports that each kind is built into."""
TOGETHER: dict[str, tuple[str, str]] = {}
"""Kinds that are two defects in one layer."""


def new(name: str, right: str, sites: Any, ports: str, vague: str = "") -> Any:
    """Registers a defect of this kind."""
    RIGHT[name], VAGUE[name] = frozenset(right.split()), frozenset(vague.split())
    PLANS[name] = tuple(ports.split())
    return kind(name, sites, into=KINDS)


def together(first: str, second: str, ports: str) -> None:
    """Registers two kinds of defects as one in the same layer; both must change what the model gives."""

    def sites(subject: Subject) -> Iterator[Any]:
        every = SEEN | UNSEEN | KINDS
        for one, where in every[first].sites(subject):
            for other, there in every[second].sites(subject):
                if _place(where) == _place(there):
                    yield one, where, other, there
                    break

    def apply(work: Work, site: Any) -> bool:
        one, where, other, there = site
        if one(work, where) is False:
            return False
        between = observe(work.model, work.subject.inputs)[1]
        if other(work, there) is False:
            return False
        after = observe(work.model, work.subject.inputs)[1]
        return differ(work.subject.outputs, between) and differ(between, after)

    name = f"{first}+{second}"
    TOGETHER[name], PLANS[name] = (first, second), tuple(ports.split())
    kind(name, sites, into=KINDS)(apply)


def _place(site: Any) -> Any:
    """What tells two kinds' sites to be one: a layer's path, or a call's."""
    if isinstance(site, Call):
        return site.scope, site.op, site.ordinal
    return site[0] if isinstance(site, tuple) else site
