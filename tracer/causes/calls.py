"""One mistake that shows many times: at the calls of a layer that is shared, in the rounds of a loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer.causes.condense import as_one
from tracer.causes.finding import Cause, Finding, plain
from tracer.compare import Diff

_AFFINE = frozenset({"input-normalisation", "input-scale", "scale", "shift", "weights-perturbed"})
"""Causes of which one may be said for another of a few numbers."""


def at_calls(found: Iterable[Finding], diff: Diff) -> Iterator[Finding]:
    """One finding for what is the same at many calls of a layer or of a line of code, where the first of them stands;
    of a layer that is called many times what is said of most calls is said of all."""
    groups: dict[object, list[Finding]] = {}
    layers: dict[str, list[object]] = {}
    for number, one in enumerate(found):
        places = [_place(cause, diff) for cause in one.causes]
        known = bool(places) and all(places) and not any(cause.changes for cause in one.causes)
        key: object = (one.status, tuple(zip(one.names, places, strict=True))) if known else number
        groups.setdefault(key, []).append(one)
        if known and one.status == "proven" and {*one.names} <= _AFFINE and places[0][0] == "layer":
            layers.setdefault(str(places[0]), []).append(key)
    for keys in layers.values():
        largest = max(keys, key=lambda key: len(groups.get(key, ())))
        for key in dict.fromkeys(keys):
            if key != largest and len(groups[key]) < len(groups[largest]):
                groups[largest] += groups.pop(key)
    yield from map(as_one, groups.values())


def _place(cause: Cause, diff: Diff) -> tuple[str, ...]:
    """Where in the candidate's code a cause is, and what kinds of operations it is about; empty where unknown."""
    ours = diff.reference.structure.by_name.get(cause.reference)
    theirs = diff.candidate.structure.by_name.get(cause.candidate)
    sorts = [node.kind if node is not None else "" for node in (ours, theirs)]
    said = (cause.key, str(plain(cause.values)), *sorts)
    if theirs is not None and theirs.role == "layer":
        return ("layer", theirs.owner, *said)
    return ("line", cause.source, *said) if cause.source and any(sorts) else ()
