"""Differences that were looked at and accepted once: a file for CI, by which only what is new or grows fails."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Verdict
from tracer.errors import InputError
from tracer.names import display
from tracer.preflight import check_kind
from tracer.text import some

SCHEMA = "tracer-baseline/1"
GROWTH = 2.0
"""How many times an accepted difference may grow before it fails: rounding alone moves it from machine to machine,
with the number of threads and the version of a BLAS."""
_LARGEST = 64 << 20
_Size = Annotated[FiniteFloat, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Accepted(_Strict):
    """A pair that did not match.

    Attributes:
        max_abs, rel_l2: as in :class:`tracer.compare.Stats`; None where there was nothing to compare.
        local: the pair's own error relative to its largest value; None where it was not measured.
        reason: a person's words, shown with the pair ever after.
    """

    reference: str
    candidate: str
    verdict: str
    max_abs: _Size | None
    rel_l2: _Size | None
    local: _Size | None = None
    reason: str = ""


class Baseline(_Strict):
    """What is accepted of a comparison."""

    schema_: Annotated[Literal["tracer-baseline/1"], Field(alias="schema")]
    accepted: list[Accepted]

    @cached_property
    def _by_pair(self) -> Mapping[tuple[str, str], Accepted]:
        return {(entry.reference, entry.candidate): entry for entry in self.accepted}

    def judged(self, pairs: Sequence[PairDiff]) -> tuple[PairDiff, ...]:
        """Pairs, in the order in which errors travel, with the verdicts that they have beside what was accepted.

        What inherits a difference that was accepted, and is new, fails where it is more than :data:`GROWTH` times as
        large; what grew because something above it did inherits that.
        """
        found: list[PairDiff] = []
        parted = False
        for pair in pairs:
            now = self._judged(pair) if _acceptable(pair) else pair
            if pair.verdict is Verdict.INHERITED and now.verdict is Verdict.DIVERGED and parted:
                now = replace(now, verdict=Verdict.INHERITED)
            elif now.verdict is Verdict.INHERITED and not parted and (why := _new(now)):
                now = replace(now, verdict=Verdict.DIVERGED, reason=f"{why}; {now.reason}")
            parted = parted or now.verdict is Verdict.DIVERGED
            found.append(now)
        return tuple(found)

    def notes(self, pairs: Sequence[PairDiff]) -> Iterator[str]:
        """What is in the file to no purpose any more, once ``pairs`` are judged."""
        there = {_names(pair): pair for pair in pairs}
        lost = [names for names in self._by_pair if names not in there]
        if lost:
            shown = some([" ⇄ ".join(names) for names in lost])
            yield f"the baseline accepts what is not there any more (renamed?): {shown}"
        less = [one for names, one in self._by_pair.items() if _less(one, there.get(names))]
        if less:
            were = "is gone, or less than half of what it was" if len(less) == 1 else "are gone, or less than half"
            yield (
                f"of the baseline's accepted differences ({len(self.accepted)}) {len(less)} {were}: "
                "--write-baseline FILE --force keeps them from coming back"
            )

    def _judged(self, pair: PairDiff) -> PairDiff:
        """A pair beside what was accepted of it itself."""
        known = self._by_pair.get(_names(pair))
        if known is None or pair.stats is None:
            return pair
        now = (pair.stats.max_abs, pair.stats.rel_l2, _local(pair))
        then = (known.max_abs, known.rel_l2, known.local)
        why = f" ({display(known.reason)})" if known.reason else ""
        for word, error, before in zip(("greatest difference", "relative error", "own error"), now, then, strict=True):
            if error is None or (word == "own error" and pair.local is not None and pair.local.ratio <= 1):
                continue  # under its floor it may be measured otherwise than it was
            if before is None and word != "greatest difference":
                continue  # it was not measured then, or infinite: of a reference that is zero
            before = before or 0.0
            if error > GROWTH * before:
                grew = f"accepted in the baseline{why}, but its {word} grew from {before:.1e} to {error:.1e}"
                return replace(pair, verdict=Verdict.DIVERGED, reason=f"{grew}; {pair.reason}")
        said = f"accepted in the baseline{why}: {now[0]:.1e} now, {then[0] or 0.0:.1e} then"
        return replace(pair, verdict=Verdict.NOISE, reason=said, accepted=said)


def _acceptable(pair: PairDiff) -> bool:
    """Whether there is a difference that can be accepted: one of finite numbers in tensors of one shape."""
    if pair.verdict in (Verdict.MATCH, Verdict.NOT_COMPARABLE):
        return False
    return pair.stats is not None and not pair.stats.nonfinite


def _new(pair: PairDiff) -> str:
    """Why a pair that only inherits what was accepted is more than that; empty where it is not, or nobody knows."""
    if pair.stats is None or not pair.inherited:
        return ""
    if pair.stats.nonfinite:
        return "not in the baseline"
    if pair.stats.rel_l2 <= GROWTH * pair.inherited or pair.local is not None:
        return ""
    own, above = pair.stats.rel_l2, pair.inherited
    return f"not in the baseline, and its relative error is {own:.1e} where that of its inputs is {above:.1e}"


def _less(known: Accepted, pair: PairDiff | None) -> bool:
    """Whether an accepted difference is much smaller now."""
    if pair is None or pair.stats is None or known.max_abs is None:
        return False
    return GROWTH * pair.stats.max_abs < known.max_abs


def _names(pair: PairDiff) -> tuple[str, str]:
    return pair.pair.reference[-1], pair.pair.candidate[-1]


def _local(pair: PairDiff) -> float | None:
    if pair.local is None or not pair.local.known:
        return None
    error = pair.local.relative(pair.local.error)
    return error if math.isfinite(error) else None


def load(path: Path) -> Baseline:
    """Read a baseline. Raises InputError, in one line, for what is none."""
    shown = display(str(path))
    try:
        if check_kind(path) > _LARGEST:
            raise InputError(f"{shown} is too large for a baseline")
        return Baseline.model_validate(json.loads(path.read_bytes()))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"no such baseline: {shown} (tracer diff --write-baseline {shown} makes one)") from None
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its top level"
        raise InputError(f"{shown} is no baseline: {display(where)}: {display(first['msg'], 120)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown} is no baseline: it is not JSON") from error


def left_open(pairs: Sequence[PairDiff]) -> list[str]:
    """Pairs that diverge and that no baseline can accept: of another shape, or NaN (infinite) on one side only."""
    return [pair.aligned for pair in pairs if pair.verdict is Verdict.DIVERGED and not _acceptable(pair)]


def of(pairs: Sequence[PairDiff], before: Baseline | None = None, beside: Baseline | None = None) -> Baseline:
    """Everything of a comparison that does not match, to be accepted; the reasons of ``before`` stay.

    ``pairs`` are judged without a baseline. What ``beside`` accepts, of other comparisons that share the file, stays
    accepted: of a pair that several have the greater errors.
    """
    words = {} if before is None else {(a.reference, a.candidate): a.reason for a in before.accepted}
    found = []
    for pair in pairs:
        if not _acceptable(pair) or pair.stats is None:
            continue
        names, stats = _names(pair), pair.stats
        relative = stats.rel_l2 if math.isfinite(stats.rel_l2) else None
        found.append(
            Accepted(
                reference=names[0],
                candidate=names[1],
                verdict=str(pair.verdict),
                max_abs=stats.max_abs,
                rel_l2=relative,
                local=_local(pair),
                reason=words.get(names, ""),
            )
        )
    if beside is not None:
        now = {(entry.reference, entry.candidate): entry for entry in found}
        kept = {(entry.reference, entry.candidate): entry for entry in beside.accepted}
        both = {names: _greater(kept[names], now[names]) for names in kept.keys() & now.keys()}
        found = list({**kept, **now, **both}.values())
    return Baseline.model_validate({"schema": SCHEMA, "accepted": found})


def _greater(one: Accepted, other: Accepted) -> Accepted:
    """Both differences of a pair as one; a relative error that is not finite is the greatest."""
    large, small = (one, other) if (one.max_abs or 0.0) >= (other.max_abs or 0.0) else (other, one)
    relative = None if large.rel_l2 is None or small.rel_l2 is None else max(large.rel_l2, small.rel_l2)
    measured = [entry.local for entry in (large, small) if entry.local is not None]
    return large.model_copy(update={"rel_l2": relative, "local": max(measured, default=None)})


def dumped(baseline: Baseline) -> str:
    """A baseline as the text of its file, a pair on each line."""
    lines = ",\n".join("    " + json.dumps(entry.model_dump()) for entry in baseline.accepted)
    return f'{{\n  "schema": "{SCHEMA}",\n  "accepted": [\n{lines}\n  ]\n}}\n'
