"""Many statements of one mistake as one: operations of a block, a setting of every layer, what was said above."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from tracer.causes.differences import BLOCK
from tracer.causes.edit import Edit
from tracer.causes.finding import Cause, Finding, plain

_WHOLE = ("residual", "activation", "block")


def in_blocks(edits: Sequence[Edit], causes: Sequence[Cause]) -> tuple[Cause, ...]:
    """The causes of a pair, with the operations that one side has alone as one block where there are several."""
    alone: dict[str, list[Cause]] = {}
    for edit, cause in zip(edits, causes, strict=True):
        if edit.detail.get("alone"):
            side = "reference" if cause.reference else "candidate"
            alone.setdefault(side, []).append(cause)
    found = list(causes)
    for side, several in alone.items():
        names = {cause.id for cause in several}
        first = several[0]
        if names <= {"input-scale", "input-normalisation"} and len(several) > 1:
            whole = replace(first, id="input-normalisation", what="; ".join(cause.what for cause in several))
        elif len(several) >= BLOCK:
            nodes = [getattr(cause, side) for cause in several]
            scope = _scope(nodes)
            known = {name for name in names if name.startswith(_WHOLE)}
            ending = "missing" if side == "reference" else "extra"
            others = names - known
            if len(others) == 1 and not known:
                continue
            what = f"{len(several)} operations are in the {side} only: {scope}… ({nodes[0]} to {nodes[-1]})"
            whole = replace(first, id=f"block-{ending}", what=what, fix="", without=first.without)
        else:
            continue
        found = [cause for cause in found if cause not in several]
        found.insert(0, whole)
    return tuple(found)


def _scope(nodes: Sequence[str]) -> str:
    """What the names of nodes begin with, up to a whole part of a path."""
    same = "".join(
        letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*nodes, strict=False))
    )
    return same.rstrip("./_0123456789") or nodes[0]


def said_once(found: Sequence[Finding]) -> Iterator[Finding]:
    """Findings without what one before them has stated of the very same nodes."""
    stated: set[tuple[str, str, str, str]] = set()
    for one in found:
        if one.status not in ("proven", "ambiguous") or not one.causes:
            yield one
            continue
        kept = tuple(cause for cause in one.causes if _key(cause) not in stated)
        if not kept:
            continue
        stated |= {_key(cause) for cause in kept}
        yield replace(one, causes=kept)


def _key(cause: Cause) -> tuple[str, str, str, str]:
    return cause.id, cause.reference, cause.candidate, cause.key


def merged(found: Sequence[Finding]) -> Iterator[Finding]:
    """One finding for the same mistake in many layers, where the first of them stands."""
    groups: dict[object, list[Finding]] = {}
    for number, one in enumerate(said_once(found)):
        groups.setdefault(_mistake(one) or number, []).append(one)
    for group in groups.values():
        first = group[0]
        yield replace(
            first,
            pairs=tuple(one.pair for one in group),
            before=max((one.before for one in group if one.before is not None), default=None),
            after=max((one.after for one in group if one.after is not None), default=None),
            seconds=sum(one.seconds for one in group),
        )


def _mistake(one: Finding) -> object | None:
    """What is the same for all layers with the same setting that differs."""
    if not one.causes or any(not cause.key or cause.values == (None, None) for cause in one.causes):
        return None
    return one.status, tuple((c.id, c.key, str(plain(c.values))) for c in one.causes)
