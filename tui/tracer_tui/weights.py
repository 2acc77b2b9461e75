"""The lines of the Weights screen: every parameter of both sides, with what differs in how its layer is set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tracer.compare import Diff
from tracer.report import weights as words
from tracer.report.words import number
from tracer.weighing.table import FAULTS, Status, WeightTable
from tracer.weighing.table import Row as Weighed

SORTS = ("order", "error", "name")
STYLES = {
    Status.EQUAL: "match",
    Status.DIFFERS: "diverged",
    Status.MISSING: "diverged",
    Status.EXTRA: "diverged",
    Status.OPEN: "not-comparable",
    Status.ASIDE: "dim",
}


MEANING = {
    Status.EQUAL: "the same but for what a conversion rounds",
    Status.DIFFERS: "not the same",
    Status.MISSING: "the reference has it, the candidate nothing for it",
    Status.EXTRA: "the candidate has it, the reference nothing for it",
    Status.OPEN: "not recorded, damaged, or of no exact twin",
    Status.ASIDE: "without a twin and rightly so: counters, indices",
}


@dataclass(frozen=True, eq=False)
class WeightRow:
    """Parameters of both sides that hold, or should hold, the same; or one that is alone.

    Attributes:
        place: in the order in which the reference runs.
        settings: what the layer is set to differently.
        tied: for each side the names that hold the same values as this one.
    """

    place: int
    row: Weighed
    settings: tuple[str, ...] = ()
    tied: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def key(self) -> tuple[str, str]:
        return self.reference, self.candidate

    @property
    def reference(self) -> str:
        return words.names(self.row.reference) if self.row.reference else ""

    @property
    def candidate(self) -> str:
        return words.names(self.row.candidate) if self.row.candidate else ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.text for one in (*self.row.reference, *self.row.candidate))

    @property
    def ops(self) -> tuple[str, ...]:
        return (self.row.role,)

    @property
    def status(self) -> Status:
        return self.row.status

    @property
    def state(self) -> str:
        return self.row.status

    @property
    def wrong(self) -> bool:
        return self.row.status in (*FAULTS, Status.OPEN)

    @property
    def error(self) -> float | None:
        """max|Δ|; infinite where numbers are finite on one side only, and where the shapes do not fit."""
        figures = self.row.figures
        if figures is None:
            return math.inf if self.row.status is Status.DIFFERS else None
        return math.inf if figures.nonfinite else figures.max_abs

    @property
    def relative(self) -> float | None:
        return None if self.row.figures is None else self.row.figures.rel_l2

    @property
    def sides(self) -> str:
        return " ⇄ ".join(side for side in (self.reference, self.candidate) if side)

    @property
    def notes(self) -> list[str]:
        """What is worth knowing besides the figures, the weightiest first."""
        found = [self.row.says, words.types(self.row), *self.settings]
        for names in self.tied:
            found += [f"the same values as {', '.join(names)}"] if names else []
        return [note for note in found if note]


def rows_of(table: WeightTable, diff: Diff | None) -> list[WeightRow]:
    """The table's rows; ``diff`` knows how the layers are set."""
    settings = _settings(table, diff)
    groups = [{name: group for group in side for name in group} for side in table.tied]
    found = []
    for place, row in enumerate(table.rows):
        tied = []
        for known, side in zip(groups, (row.reference, row.candidate), strict=True):
            own = [one.text for one in side]
            tied.append(tuple(dict.fromkeys(n for name in own for n in known.get(name, ()) if n not in own)))
        found.append(WeightRow(place, row, settings.get(place, ()), (tied[0], tied[1])))
    return found


def _settings(table: WeightTable, diff: Diff | None) -> Mapping[int, tuple[str, ...]]:
    """For each layer that is set differently the row where that is said: an epsilon beside the variance that it is
    added to, anything else at the layer's first parameter."""
    if diff is None:
        return {}
    found: dict[int, tuple[str, ...]] = {}
    structure = diff.reference.structure
    rows: dict[str, list[int]] = {}
    for place, row in enumerate(table.rows):
        for one in row.reference[:1]:
            rows.setdefault(one.owner, []).append(place)
    said: set[tuple[str, str]] = set()
    for pair in diff.pairs:
        for setting in pair.settings:
            for name in setting.nodes:
                owner = structure.by_name[name].owner if name in structure.by_name else ""
                places = rows.get(owner)
                if places is None or (owner, setting.word) in said:
                    continue
                said.add((owner, setting.word))
                variance = (at for at in places if "var" in table.rows[at].role or "var" in table.rows[at].aligned)
                at = next(variance, places[0]) if "epsilon" in setting.word else places[0]
                found[at] = (*found.get(at, ()), setting.values)
    return found


def ordered(rows: Iterable[WeightRow], sort: str) -> list[WeightRow]:
    """The rows in running order, by error (the greatest first), or by name."""
    if sort == "error":
        return sorted(rows, key=lambda row: -1.0 if row.error is None else row.error, reverse=True)
    if sort == "name":
        return sorted(rows, key=lambda row: row.names[0].casefold())
    return sorted(rows, key=lambda row: row.place)


def copied(row: WeightRow) -> str:
    """What is known of a row as plain text, for the clipboard."""
    lines = [f"{str(row.status).replace('-', ' ')}: {row.sides}   {words.shapes(row.row)}"]
    lines += [row.row.relation] if row.row.relation else []
    lines += figures(row)
    return "\n  ".join([*lines, *row.notes])


def figures(row: WeightRow) -> list[str]:
    """How far the two are apart, a sentence each."""
    found = row.row.figures
    if found is None:
        return []
    lines = [
        f"Greatest absolute difference {number(found.max_abs)}, {number(found.rel_max)} of the greatest value",
        f"Mean absolute difference {number(found.mean_abs)}; relative L2 difference {number(found.rel_l2)}",
    ]
    if found.nonfinite:
        lines.append(f"{found.nonfinite} numbers are NaN or infinite on one side only")
    return lines if found.max_abs or found.nonfinite else ["No number differs"]
