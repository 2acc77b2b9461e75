"""Findings that are kept with the trace, beside the statistics that they explain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from tracer.causes.explain import SECONDS, Explained, Looked, explain
from tracer.causes.finding import Finding
from tracer.causes.registry import ENTRY_POINTS
from tracer.compare import Diff, PairDiff
from tracer.compare.local import depends_on
from tracer.compare.tensors import VERSION as ENTRIES
from tracer.compare.verdict import Verdict
from tracer.errors import InputError, TracerError
from tracer.names import display
from tracer.plugins import points
from tracer.store import comparisons

if TYPE_CHECKING:
    from tracer.rerun.probing import Run

WITHIN = 4.0
"""Seconds in all, where causes are only a part of what is shown."""
VERSION = 6
"""Of what is found: raised whenever the search may come to something else."""
_CAUSES = "causes"
"""What the entry begins with, where those of statistics say what is compared."""


def explained(
    diff: Diff,
    *,
    seconds: float = SECONDS,
    within: float | None = None,
    every: bool = True,
    only: Callable[[PairDiff], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Explained:
    """As :func:`tracer.causes.explain.explain`; what was found before is not looked for again, what is found is kept.

    Of gradients nothing is found. Raises TraceError where a recording cannot be read.
    """
    if diff.of != "values":
        return Explained(diff, (), 0, {})
    depends = _depends(diff)
    known = _load(diff, depends)
    before = dict(known)
    found = explain(
        diff, seconds=seconds, within=within, every=every, only=only, known=known, progress=progress
    )  # fmt: skip
    if known != before:
        _save(diff, depends, known)
    return found


def probed(found: Explained, run: Run, seconds: float = SECONDS) -> Explained:
    """As :func:`tracer.rerun.probing.probe`; what is decided is kept. Raises TraceError."""
    from tracer.rerun.probing import probe

    after = probe(found, run, seconds=seconds)
    decided = {
        (old.pair, old.status, old.names): new
        for old, new in zip(found.each, after.each, strict=True)
        if new is not old and new.probed is not None and new.probed.said
    }
    if decided:
        depends = _depends(found.diff)
        known = _load(found.diff, depends)
        for pair, looked in known.items():
            one = looked.finding
            if one is not None and (one.pair, one.status, one.names) in decided:
                known[pair] = replace(looked, finding=decided[one.pair, one.status, one.names])
        _save(found.diff, depends, known)
    return after


def told(
    diff: Diff,
    *,
    seconds: float = SECONDS,
    within: float = WITHIN,
    more: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Diff:
    """The comparison with the causes of its diverged pairs, as far as they are found in time or were before.

    With ``more`` also what was found before of other pairs. What goes wrong becomes a note, for the comparison is good
    without.
    """
    try:
        known = _load(diff, _depends(diff)) if more else {}
        wanted = (lambda pair: pair.verdict is Verdict.DIVERGED or pair.aligned in known) if more else None
        found = explained(diff, seconds=seconds, within=within, every=more, only=wanted, progress=progress)
    except Exception as error:
        why = str(error) if isinstance(error, TracerError) else f"{type(error).__name__}: {error}"
        return replace(diff, notes=(*diff.notes, f"the causes could not be looked for ({why})"))
    return attached(diff, found)


def attached(diff: Diff, found: Explained) -> Diff:
    """The comparison with what was found of its pairs."""
    own = {one.pair: one for one in reversed(found.each)}
    whose: dict[str, list[Finding]] = {}
    for one in found.findings:
        for name in one.pairs:
            whose.setdefault(name, []).append(one)

    def finding(name: str) -> Finding | None:
        return replace(own[name], pairs=tuple(alike(name))) if name in whose else None

    def alike(name: str) -> Iterator[str]:
        """Pairs of which all is true that was found of this one, in running order; it is among them."""
        first, *rest = whose[name]
        for other in first.pairs:
            same = set(own[name].names) <= set(own[other].names) if other in own else False
            if same and all(other in one.pairs for one in rest):
                yield other

    notes = (*diff.notes, *(f"the causes of {failure}" for failure in found.failed))
    pairs = tuple(replace(pair, finding=finding(pair.aligned)) for pair in diff.pairs)
    return replace(diff, pairs=pairs, notes=notes)


def chosen(globs: Sequence[str], pairs: Sequence[PairDiff]) -> Callable[[PairDiff], bool] | None:
    """Which pairs the globs name. Raises InputError where one names none."""
    if not globs:
        return None
    taken: set[str] = set()
    for glob in globs:
        named = [pair.aligned for pair in pairs if any(fnmatchcase(name, glob) for name in _names(pair))]
        if not named:
            raise InputError(f"no pair is called '{display(glob)}'; tracer map --all lists them")
        taken.update(named)
    return lambda pair: pair.aligned in taken


def _names(pair: PairDiff) -> tuple[str, ...]:
    return (pair.aligned, *pair.pair.reference, *pair.pair.candidate)


def _depends(diff: Diff) -> str:
    """What identifies findings: the recordings, how they are paired, and who looked for causes."""
    facts = [VERSION, depends_on(diff.alignment, diff.reference, diff.candidate)]
    facts += sorted(f"{point.name} {point.value}" for point in points(ENTRY_POINTS))
    for recording in (diff.reference, diff.candidate):
        for stored in recording.activations.values():
            facts.append(recording.fingerprint(stored))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _load(diff: Diff, depends: str) -> dict[str, Looked]:
    for entry in comparisons.load(diff.reference, diff.candidate, ENTRIES):
        if isinstance(entry, list) and entry[:4] == [_CAUSES, "", "", depends] and len(entry) == 5:
            try:
                return {str(pair): _looked(raw) for pair, raw in entry[4].items()}
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                return {}
    return {}


def _save(diff: Diff, depends: str, known: dict[str, Looked]) -> None:
    entries = comparisons.load(diff.reference, diff.candidate, ENTRIES)
    others = [entry for entry in entries if not (isinstance(entry, list) and entry[:1] == [_CAUSES])]
    raw = {pair: _plain(one) for pair, one in known.items() if not one.failed}
    comparisons.save(diff.reference, diff.candidate, ENTRIES, [*others, [_CAUSES, "", "", depends, raw]])


def _plain(one: Looked) -> dict[str, Any]:
    finding = None if one.finding is None else one.finding.to_json()
    return {"finding": finding, "unread": one.unread, "sort": one.sort, "seconds": one.seconds,
            "undone": one.undone}  # fmt: skip


def _looked(raw: Any) -> Looked:
    finding = None if raw["finding"] is None else Finding.from_json(raw["finding"])
    seconds = None if raw["seconds"] is None else float(raw["seconds"])
    return Looked(finding, str(raw["unread"]), str(raw["sort"]), seconds, undone=bool(raw["undone"]))
