"""Whether two models hold the same weights: every parameter and buffer of both, side by side.

Pairs come from the parameter map. Both sides are read into the common layout and compared there; what one side has as a
BatchNorm and the other in the weights before it is compared after folding, and what one side lacks is held against the
value that does the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import dtypes, kinds, relations
from tracer.alignment import Alignment, align, owned, relayout
from tracer.alignment.owned import Key
from tracer.alignment.parameters import ParameterPair, Piece
from tracer.alignment.twins import Weights, equal
from tracer.errors import ExitCode, InputError, TraceError
from tracer.graph import Node
from tracer.names import display
from tracer.relations import Array
from tracer.store import Recording
from tracer.text import Word
from tracer.weighing.figures import Figures, coarser
from tracer.weighing.figures import figures as measured
from tracer.weighing.likeness import Likeness, Look, attends, likeness
from tracer.weighing.parameters import Parameter, Summary, difference, named, summarised, tied
from tracer.weighing.plan import Copy, Fill, plan
from tracer.weighing.reading import Part, Reading

if TYPE_CHECKING:
    from pandas import DataFrame

    from tracer.alignment.mapping import Mapping as MappingFile

SCHEMA = "tracer-weights/1"


class Status(Word):
    """What is known of a row.

    ``equal``; ``differs``; ``missing``: the reference's, without a twin; ``extra``: the candidate's, without a twin;
    ``not-comparable``: not recorded, damaged, or of no exact twin; ``aside``: without a twin and rightly so (counters,
    index buffers, what no layer uses).
    """

    EQUAL = "equal"
    DIFFERS = "differs"
    MISSING = "missing"
    EXTRA = "extra"
    OPEN = "not-comparable"
    ASIDE = "aside"


_REST = 0.3
"""Seconds between two tables of what is known so far."""
_SUMS = "as they count: of all gates but the last only the sum of the two biases does"
FAULTS = (Status.DIFFERS, Status.MISSING, Status.EXTRA)


@dataclass(frozen=True)
class Row:
    """Parameters of both sides that hold, or should hold, the same; or one that is alone.

    Attributes:
        reference, candidate: of each side, several where one framework keeps as one what the other splits.
        role: what it is for: ``kernel``, ``bias`` … (of attention ``query kernel``).
        relation: how the one becomes the other, in words.
        reason: why it is missing, extra, aside or not comparable; of equal ones what is worth knowing.
        likeness: what a differing one would equal.
        confidence: that they belong together, 0 to 1.
        copy: of one that has no pair, how the other side's parameters make it.
    """

    reference: tuple[Parameter, ...]
    candidate: tuple[Parameter, ...]
    status: Status
    role: str = ""
    relation: str = ""
    reason: str = ""
    figures: Figures | None = None
    likeness: Likeness | None = None
    confidence: float = 1.0
    pair: ParameterPair | None = None
    copy: Copy | None = None

    @property
    def aligned(self) -> str:
        """The reference's name, the candidate's where there is none."""
        return (self.reference or self.candidate)[0].text

    @property
    def says(self) -> str:
        """What is worth knowing besides the figures."""
        return self.likeness.text if self.likeness is not None else self.reason

    def to_json(self) -> dict[str, Any]:
        return {
            "aligned": self.aligned,
            "status": str(self.status),
            "role": self.role,
            "reference": [found.to_json() for found in self.reference],
            "candidate": [found.to_json() for found in self.candidate],
            "relation": self.relation,
            "confidence": round(self.confidence, 4),
            "reason": self.reason,
            "figures": None if self.figures is None else self.figures.to_json(),
            "likeness": None if self.likeness is None else self.likeness.to_json(),
        }


@dataclass(frozen=True)
class WeightTable:
    """The weights of two recordings, row by row in the order in which the reference runs.

    ``bool(table)`` says that they are equal, ``str(table)`` is what ``tracer weights`` prints. ``tied`` are, for each
    side, parameters that hold the very same values; ``whole`` is False where only some rows were asked for, or
    are known by then.
    """

    reference: Recording
    candidate: Recording
    alignment: Alignment
    rows: tuple[Row, ...]
    reading: Reading = field(repr=False, compare=False)
    summary: tuple[Summary, Summary]
    tied: tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]
    damaged: bool = False
    whole: bool = True

    def __bool__(self) -> bool:
        return self.exit_code() == ExitCode.OK

    def __str__(self) -> str:
        from tracer.report.weights import table_text

        return table_text(self)

    def _repr_html_(self) -> str:
        from tracer.report.html import fragment

        return fragment(self)

    def parts(self, row: Row) -> list[Part]:
        """The values of a row, parameter by parameter, both sides in one layout.

        Raises TraceError for damage, ValueError where the sides cannot be read as the row says.
        """
        if row.pair is not None:
            return self.reading.parts(row.pair)
        if row.copy is not None:
            return [self.reading.copied(row.copy, int(row.copy.target[0] not in [one.key for one in row.reference]))]
        return [self.reading.alone(side, one.key) for side, found in enumerate((row.reference, row.candidate))
                for one in found]  # fmt: skip

    @cached_property
    def counts(self) -> Mapping[Status, int]:
        """How many rows have each status, 0 included."""
        return {status: sum(row.status is status for row in self.rows) for status in Status}

    def exit_code(self) -> ExitCode:
        """1 for what differs or is on one side alone, and for what cannot be compared; 3 where the trace is damaged."""
        if self.damaged:
            return ExitCode.PARTIAL
        return ExitCode.DIVERGED if any(self.counts[s] for s in (*FAULTS, Status.OPEN)) else ExitCode.OK

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer weights --json``."""
        return {
            "schema": SCHEMA,
            "reference": self.reference.name,
            "candidate": self.candidate.name,
            "equal": bool(self),
            "counts": {str(status): count for status, count in self.counts.items()},
            "rows": [row.to_json() for row in self.rows],
            "summary": {
                "reference": self.summary[0].to_json(),
                "candidate": self.summary[1].to_json(),
                "difference": difference(*self.summary),
            },
            "tied": {side: [list(names) for names in found]
                     for side, found in zip(("reference", "candidate"), self.tied, strict=True)},
        }  # fmt: skip

    def to_pandas(self) -> DataFrame:
        """One row for each of :attr:`rows`, with the columns of ``tracer weights --format csv``. Raises
        MissingFrameworkError without pandas."""
        from tracer.exporting.frames import frame

        return frame(self.to_json())


def compare(
    reference: Recording,
    candidate: Recording,
    *,
    mapping: MappingFile | None = None,
    alignment: Alignment | None = None,
    progress: Callable[[int, int], None] | None = None,
    so_far: Callable[[WeightTable], None] | None = None,
) -> WeightTable:
    """Compare the recorded weights of two recordings.

    Args:
        alignment: of the two under ``mapping``, where it is known already.
        so_far: takes what is known by then, now and then.

    Raises InputError when the mapping does not fit, TraceError where one of them holds no weights or cannot be read.
    """
    for recording in (reference, candidate):
        if not recording.weights:
            raise TraceError(f"recording '{display(recording.name)}' holds no weights: record it without "
                             "--no-save-weights")  # fmt: skip
    alignment = alignment or align(reference, candidate, mapping)
    return _Comparing(reference, candidate, alignment).table(progress or (lambda done, total: None), so_far)


class _Comparing:
    def __init__(self, reference: Recording, candidate: Recording, alignment: Alignment) -> None:
        self.sides = reference, candidate
        self.alignment = alignment
        self.parameters = tuple(summarised(recording) for recording in self.sides)
        self.damaged = False
        there = plan(alignment, reference, candidate)
        back = plan(alignment, candidate, reference, turned=True)
        self.plans = there, back
        self.reading = Reading(self.sides, self.plans)
        self.nodes = tuple(_listing(recording) for recording in self.sides)
        weights = Weights.of(reference), Weights.of(candidate)
        self.known = weights[0].sketches, weights[1].sketches
        self.elsewhere = _elsewhere(*weights)

    def table(self, progress: Callable[[int, int], None], so_far: Callable[[WeightTable], None] | None) -> WeightTable:
        pairs = self.alignment.parameters.pairs
        rows, told = [], time.monotonic()
        for number, pair in enumerate(pairs):
            rows.append(self._pair(pair))
            progress(number + 1, len(pairs))
            if so_far is not None and time.monotonic() - told > _REST:
                so_far(self._of(rows, whole=False))
                told = time.monotonic()
        return self._of([*rows, *self._alone()], whole=True)

    def _of(self, rows: Sequence[Row], *, whole: bool) -> WeightTable:
        rows = [row for _, row in sorted(zip(self._places(rows), rows, strict=True), key=lambda item: item[0])]
        return WeightTable(
            self.sides[0], self.sides[1], self.alignment, tuple(rows), self.reading, self._totals, self._ties,
            self.damaged, whole,
        )  # fmt: skip

    @cached_property
    def _totals(self) -> tuple[Summary, Summary]:
        ours, theirs = (Summary.of(found.values()) for found in self.parameters)
        return ours, theirs

    @cached_property
    def _ties(self) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
        return tied(self.sides[0]), tied(self.sides[1])

    def _parameters(self, side: int, keys: Iterable[Key]) -> tuple[Parameter, ...]:
        known = self.parameters[side]
        return tuple(known.get(key) or Parameter.unknown(key, self.sides[side].framework) for key in keys)

    # --- pairs ------------------------------------------------------------------------------------------------------

    def _pair(self, pair: ParameterPair) -> Row:
        row = Row(
            self._parameters(0, pair.reference), self._parameters(1, pair.candidate), Status.OPEN, pair.role,
            pair.relation, confidence=pair.confidence, pair=pair,
        )  # fmt: skip
        absent = [key for side, keys in enumerate((pair.reference, pair.candidate)) for key in keys
                  if key not in self.sides[side].weights]  # fmt: skip
        if absent:
            return replace(row, reason="not recorded")
        if not pair.comparable and not any(any(self.reading.norms_of(piece)) for piece in pair.pieces):
            return replace(row, relation="", reason=pair.relation)
        words = [row.relation]
        for side, statistics in enumerate((pair.candidate, pair.reference)):
            words += [held.words for key in statistics for held in self.reading.absorbed.get((side, key), ())]
        try:
            both = []
            for piece in pair.pieces:
                mine, its = self.reading.both(pair, piece)
                both += [(piece, x, y) for x, y in zip(mine, its, strict=True)]
        except (TraceError, ValueError) as error:
            self.damaged = self.damaged or isinstance(error, TraceError)
            return replace(row, reason=str(error))
        relation = ", ".join(words)
        if any(x.shape != y.shape for _, x, y in both):
            odd = next(one for one in both if one[1].shape != one[2].shape)
            return replace(row, status=Status.DIFFERS, relation=relation, likeness=self._looked(row, *odd))
        names = [{found.dtype for found in side} for side in (row.reference, row.candidate)]
        coarse = coarser(*(max(map(dtypes.epsilon, side), default=0.0) for side in names))
        figures = measured([(x, y) for _, x, y in both], coarse)
        if figures.equal:
            narrow = max(names[0] | names[1], key=dtypes.epsilon) if coarse and figures.max_abs else ""
            return replace(row, status=Status.EQUAL, relation=relation, figures=figures,
                           reason=f"as near as {narrow} can hold it" if narrow else "")  # fmt: skip
        if (alike := self._summed(pair, both)) is not None:
            return replace(row, status=Status.EQUAL, relation=relation, figures=measured([alike], coarse), reason=_SUMS)
        looks = [self._looked(row, *one) for one in both if not measured([one[1:]], coarse).equal]
        return replace(row, status=Status.DIFFERS, relation=relation, figures=figures,
                       likeness=_together(row, looks, len(both)))  # fmt: skip

    def _summed(self, pair: ParameterPair, both: Sequence[tuple[Any, Array, Array]]) -> tuple[Array, Array] | None:
        """A GRU's two biases as they count, where that is equal: of all gates but the last only their sum."""
        node = self.nodes[0].get(pair.reference[0])
        if node is None or node.kind != "gru" or pair.role.rpartition(" ")[2] != "bias":
            return None
        if len(both) != 2 and not all(one.ndim == 2 and len(one) == 2 for one in both[0][1:]):
            return None  # one bias: all of it counts by itself
        found = []
        for side in (1, 2):
            two = np.concatenate([dtypes.as_float64(one[side]).reshape(-1) for one in both]).reshape(2, -1)
            new = two.shape[1] * 2 // 3
            found.append(np.concatenate([two[:, :new].sum(axis=0), two[:, new:].reshape(-1)]))
        return (found[0], found[1]) if relations.alike(found[0], found[1]) else None

    # --- what it would equal ----------------------------------------------------------------------------------------

    def _looked(self, row: Row, piece: Piece, mine: Array, its: Array) -> Likeness:
        node = self.nodes[0].get(piece.reference[0])
        kind = node.kind if node is not None else ""
        kernel = self._kernel(row, piece, mine)
        fan = (math.prod(kernel[:-1]), math.prod((*kernel[:-2], kernel[-1]))) if len(kernel) > 1 else (0, 0)
        others = [key for theirs in piece.candidate for key in self.elsewhere.get(theirs, ())]
        names = [named(key, self.sides[0].framework) for key in dict.fromkeys(others) if key not in piece.reference]
        lengths = {math.prod(mine.shape[-2:-1]), mine.shape[-1] if mine.ndim else 1}
        own = self.sides[0].structure
        shapes = dict.fromkeys(
            tuple(n.shape[1:]) for n in own if n.shape is not None and len(n.shape) > 2
            and math.prod(n.shape[1:]) in lengths
        )  # fmt: skip
        text = f"{row.reference[0].owner} {row.role} {' '.join(name for _, name in piece.reference)}"
        return likeness(
            Look(
                mine,
                its,
                row.role,
                kind,
                fan,
                tuple(shapes),
                attends(kind, text) or len(row.candidate) > 2,
                names,
                self._same(piece),
            )
        )

    def _same(self, piece: Piece) -> bool | None:
        """Whether one parameter and another hold the same numbers, as their stored summaries say."""
        arranging = {"move", "shape", "blocks", "runs"}
        if any(len(keys) != 1 or any(step[0] not in arranging for step in steps) for keys, steps in (
            (piece.reference, piece.reference_steps), (piece.candidate, piece.candidate_steps),
        )):  # fmt: skip
            return None
        mine, its = piece.reference[0], piece.candidate[0]
        if self.reading.norms_of(piece) != (None, None) or mine not in self.known[0] or its not in self.known[1]:
            return None
        return mine in self.elsewhere.get(its, ())

    def _kernel(self, row: Row, piece: Piece, mine: Array) -> tuple[int, ...]:
        """The shape of the layer's kernel in the common layout; empty where it has none."""
        if mine.ndim > 1:
            return mine.shape
        owner = piece.reference[0][0]
        for pair in self.alignment.parameters.pairs:
            if pair.role.endswith("kernel") and pair.reference[0][0] == owner:
                try:
                    values = [self.reading.reader(0)(key) for key in pair.pieces[0].reference]
                    return relayout.read(pair.pieces[0].reference_steps, values)[0].shape
                except (TraceError, ValueError, KeyError):
                    return ()
        return ()

    # --- what has no twin -------------------------------------------------------------------------------------------

    def _alone(self) -> list[Row]:
        parameters = self.alignment.parameters
        rows = []
        for side, unmatched in enumerate((parameters.unmatched_reference, parameters.unmatched_candidate)):
            # What is said of weights that are given away, and of those that are taken, is said of both directions.
            given, taken = self.plans[side], self.plans[1 - side]
            inside = {key for norm in self.reading.norms[side].values() for key in norm.keys}
            inside |= {
                made.source for (where, _), some in self.reading.absorbed.items() if where == side for made in some
            }
            filled = {made.target: made for made in taken.operations if isinstance(made, Fill)}
            copied = {key: made for made in taken.operations if isinstance(made, Copy) for key in made.target}
            for key, why in unmatched.items():
                if key not in self.sides[side].weights or key in inside:
                    continue
                found = self._parameters(side, (key,))
                role = self._role(side, key)
                row = (
                    Row(found, (), Status.MISSING, role, reason=why)
                    if side == 0
                    else Row((), found, Status.EXTRA, role, reason=why)
                )
                fill = filled.get(key)
                neutral = given.neutral.get(key, fill.value if fill is not None else None)
                rows.append(
                    self._judged(
                        row,
                        side,
                        key,
                        given.spare.get(key) or self._tied(side, key),
                        neutral,
                        copied.get(key),
                        taken.kept.get(key),
                    )
                )
        return rows

    def _tied(self, side: int, key: Key) -> Key | None:
        """A parameter of the same values, where the layer's twin has none of its own: it is tied to that one there."""
        node = self.nodes[side].get(key)
        pairs = (self.alignment.by_reference, self.alignment.by_candidate)[side]
        pair = None if node is None else pairs.get(node.name)
        sketch = self.known[side].get(key)
        if node is None or pair is None or sketch is None:
            return None
        other = self.sides[1 - side].structure.by_name
        names = (pair.candidate, pair.reference)[side]
        if not any(other[name].kind == node.kind and not other[name].params for name in names if name in other):
            return None
        return next((k for k, its in self.known[side].items() if its == sketch and k != key), None)

    def _judged(
        self,
        row: Row,
        side: int,
        key: Key,
        spare: Key | None,
        neutral: float | None,
        copy: Copy | None,
        kept: str | None,
    ) -> Row:
        """A parameter without a twin: whether it matters."""
        if kept is not None or row.reason in ("no layer uses it", "a counter") or row.reason.startswith("whole"):
            return replace(row, status=Status.ASIDE, reason=kept or row.reason)
        try:
            values = self.reading.reader(side)(key)
            other = self.reading.reader(side)(spare) if spare is not None else None
            made = None if copy is None else self.reading.made(copy, side)
        except (TraceError, ValueError) as error:
            self.damaged = self.damaged or isinstance(error, TraceError)
            return replace(row, status=Status.OPEN, reason=str(error))
        if neutral is not None and bool(np.all(values == neutral)):
            return replace(
                row, status=Status.EQUAL, relation="", reason=f"all {neutral:g}: a layer without it does the same"
            )
        if other is not None and spare is not None and relations.alike(values, other):
            words = f"the same values as {named(spare, self.sides[side].framework)}, which stands for both"
            return replace(row, status=Status.EQUAL, reason=words)
        if made is not None and copy is not None:
            twin = self._parameters(1 - side, copy.source)
            row = replace(row, candidate=twin) if side == 0 else replace(row, reference=twin)
            row = replace(row, relation=copy.words, reason="", copy=copy)
            x, y = (values, made) if side == 0 else (made, values)
            figures = measured([(x, y)], 0.0)
            return replace(row, status=Status.EQUAL if figures.equal else Status.DIFFERS, figures=figures)
        return row

    def _role(self, side: int, key: Key) -> str:
        node = self.nodes[side].get(key)
        return kinds.parameter_role(node.kind if node is not None else "", key[1].replace("/", ".").rpartition(".")[2])

    # --- order ------------------------------------------------------------------------------------------------------

    def _places(self, rows: Sequence[Row]) -> list[tuple[float, int]]:
        """Where each row stands: at its layer of the reference; what the candidate has alone, after its neighbours."""
        order = {node.name: float(at) for at, node in enumerate(self.sides[0].structure)}
        last = len(order)
        place: dict[str, float] = {}
        now = -0.5
        for node in self.sides[1].structure:
            pair = self.alignment.by_candidate.get(node.name)
            if pair is not None:
                now = max(now, order[pair.aligned] + 0.5)
            place[node.name] = now
        out: list[tuple[float, int]] = []
        for number, row in enumerate(rows):
            side = 0 if row.reference else 1
            user = self.nodes[side].get((row.reference or row.candidate)[0].key)
            known = (order, place)[side]
            out.append((last + side if user is None else known[user.name], number))
        return out


def _listing(recording: Recording) -> dict[Key, Node]:
    """The first node that uses each parameter."""
    nodes = recording.structure.nodes
    found: dict[Key, Node] = {}
    for node, used in zip(nodes, owned.keys(nodes), strict=True):
        for key in used:
            found.setdefault(key, node)
    return found


def _elsewhere(reference: Weights, candidate: Weights) -> dict[Key, list[Key]]:
    """For each of the candidate's parameters those of the reference that hold the same values, in whatever order."""
    ours, theirs = list(reference.sketches), list(candidate.sketches)
    rows = [np.array([side.sketches[key] for key in keys], np.float64).reshape(-1, 6)
            for side, keys in ((reference, ours), (candidate, theirs))]  # fmt: skip
    found: dict[Key, list[Key]] = {}
    for i, j in equal(rows[0], rows[1]):
        found.setdefault(theirs[j], []).append(ours[i])
    return found


def _together(row: Row, looks: Sequence[Likeness], count: int) -> Likeness:
    """What is said of several parts of one parameter: once where it is true of all, else of each that differs."""
    first = looks[0]
    if count == 1 or len({look.text for look in looks}) == 1:
        part = f" (in {len(looks)} of {count} parts)" if len(looks) < count else ""
        return replace(first, text=f"{first.text}{part}")
    return replace(first, text="; ".join(dict.fromkeys(look.text for look in looks)))


def chosen(table: WeightTable, patterns: Sequence[str]) -> WeightTable:
    """The table with the rows of which some name, of either side, fits one of the globs; all without globs.

    Raises InputError where a glob fits none.
    """
    from fnmatch import fnmatchcase

    if not patterns:
        return table
    kept: dict[int, Row] = {}
    for pattern in patterns:
        hits = {
            at: row for at, row in enumerate(table.rows)
            if any(fnmatchcase(name, pattern) for found in (*row.reference, *row.candidate) for name in found.names)
        }  # fmt: skip
        if not hits:
            some = ", ".join(row.aligned for row in table.rows[:3])
            raise InputError(f"no parameter fits '{pattern}': there is {some} …")
        kept.update(hits)
    return replace(table, rows=tuple(row for _, row in sorted(kept.items())), whole=False)
