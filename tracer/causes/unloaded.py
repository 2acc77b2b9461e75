"""A model whose weights were never carried over: one finding in place of one for every layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from tracer.causes.condense import as_one
from tracer.causes.finding import Finding
from tracer.compare import Diff
from tracer.names import display

_MANY = 4
"""Layers from which on it is one mistake."""
_SAID = {
    "weights-not-loaded": "nothing of the reference's weights is in these layers (tracer weights says what is)",
    "bn-stats": "the statistics of their normalisations are not the reference's either",
    "bias-missing": "nor are the biases",
}
_FILES = {"pytorch": "weights.pt", "keras": "filled.weights.h5"}


def gathered(found: Sequence[Finding], diff: Diff) -> list[Finding]:
    """Findings of single pairs, with what they say of weights that were never loaded as one, where the first stands.

    What else differs in such a layer stays a finding of its own.
    """
    blank = [one for one in found if one.status == "proven" and "weights-not-loaded" in one.names]
    if len(blank) < _MANY:
        return list(found)
    notes = Counter(note for one in blank if _SAID.keys() >= set(one.names) for note in one.notes)
    causes = {cause.id: cause for one in reversed(blank) for cause in one.causes if cause.id in _SAID}
    file = _FILES.get(diff.candidate.framework)
    fix = f"tracer transfer --from {display(diff.reference.name)} --to {display(diff.candidate.name)} -o {file}"
    fixes = {"weights-not-loaded": fix if file else "load the reference's weights"}
    whole = replace(
        as_one(blank),
        causes=tuple(
            replace(causes[name], what=what, fix=fixes.get(name, ""), key="", changes=(), without=None, source=None)
            for name, what in _SAID.items()
            if name in causes
        ),
        floor=max((one.floor for one in blank if one.floor is not None), default=None),
        how="each layer with the other side's weights, on what it was given, in float64",
        notes=tuple(f"{note} (in {count} layers)" if count > 1 else note for note, count in notes.items()),
    )
    out = []
    for one in found:
        if one is blank[0]:
            out.append(whole)
        rest = tuple(cause for cause in one.causes if cause.id not in _SAID)
        if not any(one is other for other in blank):
            out.append(one)
        elif rest:
            out.append(replace(one, causes=rest))
    return out
