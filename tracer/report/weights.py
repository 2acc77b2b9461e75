"""The weights of two models as text: what differs and what it would equal, and how much there is of either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.text import Text

from tracer.alignment.owned import WHOLE
from tracer.alignment.patterns import block_pairs, fold
from tracer.names import display
from tracer.report.outline import columns
from tracer.report.words import bytes_text, number, shape_text, to_ascii
from tracer.weighing.parameters import Parameter, Summary, percent
from tracer.weighing.table import FAULTS, Row, Status, WeightTable

Sort = Literal["order", "name", "diff"]

GLYPHS = {
    Status.EQUAL: "✓", Status.DIFFERS: "✗", Status.MISSING: "−", Status.EXTRA: "+", Status.OPEN: "!", Status.ASIDE: "·",
}  # fmt: skip
ASCII_GLYPHS = {**GLYPHS, Status.EQUAL: "=", Status.DIFFERS: "X", Status.MISSING: "-", Status.ASIDE: "."}
STYLES = {
    Status.EQUAL: "green", Status.DIFFERS: "bold red", Status.MISSING: "bold red", Status.EXTRA: "bold red",
    Status.OPEN: "bold yellow", Status.ASIDE: "dim",
}  # fmt: skip
WORDS = {
    Status.EQUAL: "equal", Status.DIFFERS: "differ", Status.MISSING: "missing", Status.EXTRA: "extra",
    Status.OPEN: "not comparable", Status.ASIDE: "aside",
}  # fmt: skip
_LOOKS = {
    "shape": "of another shape", "not-finite": "NaN or infinite", "constant": "all zeros or ones",
    "gates": "gates in another order", "transposed": "transposed", "flipped": "flipped",
    "reordered": "in another order",
    "elsewhere": "another layer's", "negated": "of the other sign", "scaled": "scaled", "rounded": "rounded",
    "quantised": "quantised", "statistics": "another statistic", "near": "a little off",
    "initialised": "as initialised",
    "unrelated": "with nothing in common",
}  # fmt: skip
_FEW = 20
"""Rows up to which each is shown for itself."""
_SHOWN = 8
"""Of more that differ so many are shown."""
_INDENT = "    "


@dataclass(frozen=True)
class _Line:
    """A row of the table as text, or several that are equal."""

    status: Status
    reference: str
    candidate: str
    shapes: str
    relation: str
    figures: tuple[str, str, str]
    says: str

    @property
    def facts(self) -> str:
        """What there is to say besides names and shapes."""
        largest, mean, relative = self.figures
        parts = [self.relation]
        if largest:
            parts.append(f"max|Δ| {largest}  mean {mean}  relative {relative}")
        return "; ".join(filter(None, parts))


@dataclass(frozen=True)
class Listing:
    """A table to be shown.

    Attributes:
        everything: each row for itself, all of them.
        sort: ``order`` in which the reference runs, ``name``, or ``diff``: the largest relative difference first.
        ascii_only: write no other characters.
    """

    table: WeightTable
    everything: bool = False
    sort: Sort = "order"
    ascii_only: bool = False

    def lines(self, width: int) -> Iterator[Text]:
        """The whole text for a screen ``width`` cells wide; names are never cut."""
        for line in self._lines(width):
            yield Text(self._shown(line.plain), line.style) if self.ascii_only else line

    def _shown(self, text: str) -> str:
        return to_ascii(text.replace("…", "..").replace("Δ", "d").replace("√", "sqrt ")) if self.ascii_only else text

    def _lines(self, width: int) -> Iterator[Text]:
        table = self.table
        yield Text(
            " ⇄ ".join(f"{display(r.name)} ({display(r.model, 40)})" for r in (table.reference, table.candidate))
        )
        yield from self._head()
        found = list(self._rows())
        if found:
            yield Text()
            yield from _table(found, self._glyphs, width, self._shown)
        yield Text()
        yield from _sums(table, self._shown)
        for recording, groups in zip((table.reference, table.candidate), table.tied, strict=True):
            shown = groups if self.everything else groups[:5]
            for names in shown:
                yield Text(f"the same values in {display(recording.name)}: {' = '.join(names)}", "dim")
            if len(groups) > len(shown):
                yield Text(f"… and {len(groups) - len(shown)} more in {display(recording.name)}: --all", "dim")

    @property
    def _glyphs(self) -> dict[Status, str]:
        return ASCII_GLYPHS if self.ascii_only else GLYPHS

    def _head(self) -> Iterator[Text]:
        counts, glyphs = self.table.counts, self._glyphs
        line = Text()
        faults = [row for row in self.table.rows if row.status in FAULTS]
        worst = Status.DIFFERS if faults else Status.OPEN if counts[Status.OPEN] else Status.EQUAL
        words = {
            Status.DIFFERS: "the weights differ",
            Status.OPEN: "not all weights can be compared",
            Status.EQUAL: "the weights are equal",
        }
        if worst is Status.EQUAL and not counts[Status.EQUAL]:
            words[worst] = "nothing to compare"
        line.append(f"{glyphs[worst]} {words[worst]}", STYLES[worst])
        shown = [f"{glyphs[s]} {counts[s]} {WORDS[s]}" for s in Status if counts[s]]
        line.append(f"   {'  '.join(shown)}")
        yield line
        looks = Counter(_LOOKS[row.likeness.what] for row in faults if row.likeness is not None)
        if looks and (len(looks) > 1 or looks.total() > 3):
            parts = ", ".join(f"{n} {what}" for what, n in looks.most_common())
            yield Text(f"  of those that differ: {parts}")

    def _rows(self) -> Iterator[_Line]:
        rows = list(self.table.rows)
        if not self.everything:
            rows = [row for row in rows if row.status is not Status.ASIDE]
        if self.sort == "name":
            rows.sort(key=lambda row: row.aligned)
        elif self.sort == "diff":
            rows.sort(key=_apart, reverse=True)
        if self.everything or len(rows) <= _FEW:
            yield from map(_single, rows)
            return
        equal = [at for at, row in enumerate(rows) if row.status is Status.EQUAL]
        paired = [at for at in equal if rows[at].reference and rows[at].candidate]
        lines = [(at, line) for at, line in _folded(paired, rows)]
        # The lone ones that are no fault are alike: one line for each reason.
        reasons: dict[str, list[int]] = {}
        for at in equal:
            if not (rows[at].reference and rows[at].candidate):
                reasons.setdefault(rows[at].says, []).append(at)
        lines += [(found[0], _alone([rows[at] for at in found])) for found in reasons.values()]
        rest = [at for at in range(len(rows)) if at not in set(equal)]
        lines += [(at, _single(rows[at])) for at in rest[: _SHOWN if len(rest) > _FEW else None]]
        if self.sort == "diff":
            lines.sort(key=lambda item: (item[1].status is Status.EQUAL, item[0]))
        else:
            lines.sort(key=lambda item: item[0])
        yield from (line for _, line in lines)
        if len(rest) > _FEW:
            yield _Line(Status.ASIDE, f"… and {len(rest) - _SHOWN} more that differ or are alone: --all", "", "", "",
                        ("", "", ""), "")  # fmt: skip


def _apart(row: Row) -> float:
    if row.figures is None:
        return float("inf") if row.status in FAULTS else -1.0
    return row.figures.rel_l2


def _single(row: Row) -> _Line:
    figures = ("", "", "")
    if row.figures is not None and (row.status is Status.DIFFERS or row.figures.max_abs):
        f = row.figures
        figures = number(f.max_abs, 1), number(f.mean_abs, 1), number(f.rel_l2, 1)
    return _Line(
        row.status, names(row.reference), names(row.candidate), shapes(row), display(row.relation), figures,
        display("; ".join(filter(None, (row.says, types(row))))),
    )  # fmt: skip


def names(found: Sequence[Parameter]) -> str:
    """``a/b/(kernel + bias)``: what several begin with is written once."""
    if not found:
        return "—"
    texts = [one.text for one in found]
    if len(texts) == 1:
        return texts[0]
    common = 0
    while all(text[:common] == texts[0][:common] and len(text) > common for text in texts):
        common += 1
    head = texts[0][: max(texts[0][:common].rfind("."), texts[0][:common].rfind("/")) + 1]
    rest = [text[len(head) :] for text in texts]
    shown = " + ".join(rest) if len(rest) < 5 else f"{rest[0]} … {rest[-1]}, {len(rest)} of them"
    return f"{head}({shown})" if head else shown


def shapes(row: Row) -> str:
    return " ⇄ ".join(dict.fromkeys(filter(None, map(shapes_of, (row.reference, row.candidate)))))


def shapes_of(found: Sequence[Parameter]) -> str:
    """The shapes of one side, each once."""
    return " + ".join(dict.fromkeys(shape_text(one.shape) for one in found))


def types(row: Row) -> str:
    """The element types, where they differ."""
    sides = [" + ".join(dict.fromkeys(one.dtype for one in side)) for side in (row.reference, row.candidate)]
    return f"{sides[0]} ⇄ {sides[1]}" if all(sides) and sides[0] != sides[1] else ""


def _folded(at: Sequence[int], rows: Sequence[Row]) -> Iterator[tuple[int, _Line]]:
    """A line for blocks that repeat, for rows that are alike but for their numbers, and for what is left in a run."""
    items = [tuple(tuple(one.text for one in side) for side in (rows[n].reference, rows[n].candidate)) for n in at]
    left = set(range(len(at)))
    for blocks in block_pairs(items):
        inside = [n for block in blocks.pairs for n in block]
        left.difference_update(inside)
        low, high = blocks.each
        each = str(low) if low == high else f"{low}…{high}"
        where = f"{blocks.where()}: {len(blocks.points)} × {each}"
        yield at[min(inside)], _many([rows[at[n]] for n in inside], str(blocks.reference), str(blocks.candidate), where)
    alone = sorted(left)
    for pattern in fold([items[n] for n in alone], [rows[at[n]].relation for n in alone]):
        inside = [alone[n] for n in pattern.members]
        left.difference_update(inside)
        ours, theirs = (" + ".join(str(template) for template in side) for side in pattern.sides)
        where = f"{pattern.where()}: {len(inside)}"
        yield at[min(inside)], _many([rows[at[n]] for n in inside], ours, theirs, where)
    run: list[int] = []
    for n in sorted(left):
        if run and at[n] != at[run[-1]] + 1:
            yield at[run[0]], _run([rows[at[k]] for k in run])
            run = []
        run.append(n)
    if run:
        yield at[run[0]], _run([rows[at[k]] for k in run])


def _run(found: Sequence[Row]) -> _Line:
    if len(found) == 1:
        return _single(found[0])
    first, last = found[0], found[-1]
    return _many(found, f"{names(first.reference)} … {names(last.reference)}",
                 f"{names(first.candidate)} … {names(last.candidate)}", str(len(found)))  # fmt: skip


def _many(found: Sequence[Row], ours: str, theirs: str, where: str) -> _Line:
    words = list(dict.fromkeys(row.relation for row in found))
    relation = ", ".join(words) if len(words) < 3 else f"{words[0]}, {words[1]} and {len(words) - 2} more"
    largest = max((row.figures.max_abs for row in found if row.figures is not None), default=0.0)
    says = f"max|Δ| ≤ {number(largest, 1)}" if largest else ""
    return _Line(Status.EQUAL, display(ours), display(theirs), f"{where} equal", display(relation), ("", "", ""), says)


def _alone(found: Sequence[Row]) -> _Line:
    if len(found) == 1:
        return _single(found[0])
    ours = [row for row in found if row.reference]
    text = [f"{names(side)}" for row in found for side in (row.reference or row.candidate,)]
    shown = ", ".join(text[:2]) + (f" and {len(text) - 2} more" if len(text) > 2 else "")
    return _Line(Status.EQUAL, shown if ours else "—", "—" if ours else shown, "", "", ("", "", ""),
                 display(found[0].says))  # fmt: skip


def _table(
    found: Sequence[_Line], glyphs: dict[Status, str], width: int, shown: Callable[[str], str]
) -> Iterator[Text]:
    """In columns where they fit, else two or three lines a row."""
    head = ("", "reference", "candidate", "shape", "relation", "max|Δ|", "mean|Δ|", "relative", "what it is")
    cells = [(glyphs[r.status], r.reference, r.candidate, r.shapes, r.relation, *r.figures, r.says) for r in found]
    used = [at for at in range(len(head)) if at < 3 or any(row[at] for row in cells)]
    table = [[shown(row[at]) for at in used] for row in (head, *cells)]
    if sum(max(map(cell_len, column)) for column in zip(*table, strict=True)) + 2 * (len(used) - 1) <= width:
        right = frozenset(place for place, at in enumerate(used) if 5 <= at < 8)
        first, *others = columns(table, width=None, right=right)
        yield Text(first, "bold")
        for line, row in zip(others, found, strict=True):
            yield Text(line, STYLES[row.status] if row.status not in (Status.EQUAL,) else "")
        return
    for row in found:
        yield from _stacked(row, glyphs, width, shown)


def _stacked(row: _Line, glyphs: dict[Status, str], width: int, shown: Callable[[str], str]) -> Iterator[Text]:
    """A row in as few lines as hold it, without cutting a name."""
    style = "" if row.status is Status.EQUAL else STYLES[row.status]
    ours, twin = shown(row.reference), shown(f"⇄ {row.candidate}") if row.candidate else ""
    first = f"{glyphs[row.status]} {ours} {twin}".rstrip()
    more = [shown(part) for part in (row.shapes, row.facts, row.says) if part]
    if cell_len(first) > width and twin:
        yield Text(f"{glyphs[row.status]} {ours}", style)
        first = f"{_INDENT[:2]}{twin}"
    if more and cell_len(first) + 3 + cell_len(more[0]) <= width:
        first = f"{first}   {more.pop(0)}"
    yield Text(first, style)
    line = ""
    for part in more:
        if line and cell_len(line) + 2 + cell_len(part) > width:
            yield Text(line)
            line = ""
        line = f"{line}; {part}" if line else f"{_INDENT}{part}"
    if line:
        yield Text(line)


def _sums(table: WeightTable, shown: Callable[[str], str]) -> Iterator[Text]:
    ours, theirs = table.summary
    head = ["", display(table.reference.name, 30), display(table.candidate.name, 30), "difference"]
    what: list[tuple[str, Callable[[Summary], int]]] = [
        ("parameters", lambda s: s.parameters),
        ("  trainable", lambda s: s.trainable),
        ("  not trainable", lambda s: s.fixed),
    ]
    rows = [head]
    for name, of in what:
        a, b = of(ours), of(theirs)
        if name.startswith(" ") and not (ours.trainable and theirs.trainable and (ours.fixed or theirs.fixed)):
            continue  # all of one kind, or a format that does not say which are trained
        share = percent(a, b)
        apart = f"{b - a:+,}" + (f" ({share:+.3g} %)" if share is not None else "") if a != b else "none"
        rows.append([name, f"{a:,}", f"{b:,}", apart])
    rows.append(["memory", bytes_text(ours.bytes), bytes_text(theirs.bytes), ""])
    lines = columns([[shown(cell) for cell in row] for row in rows], width=None, right=frozenset({1, 2}))
    yield Text(lines[0], "bold")
    yield from map(Text, lines[1:])
    if why := _why(table):
        yield Text(shown(f"of the difference: {', '.join(f'{n:+,} {what}' for what, n in why.items())}"))


def _why(table: WeightTable) -> dict[str, int]:
    """What the numbers of parameters differ by, by the reason; nothing where not all rows are there."""
    found: Counter[str] = Counter()
    for row in table.rows:
        ours, theirs = (
            sum(one.size for one in side if one.dtype not in WHOLE) for side in (row.reference, row.candidate)
        )
        if row.reference and row.candidate:
            what = "biases in another number" if row.role.endswith("bias") else "laid out otherwise"
        else:
            what = "on one side alone"
        found[what] += theirs - ours
    ours, theirs = (summary.parameters for summary in table.summary)
    found["normalisations folded into weights"] = theirs - ours - found.total()
    return {what: n for what, n in found.items() if n} if theirs != ours and table.whole else {}


def table_text(table: WeightTable) -> str:
    """What the command prints for a wide screen, without colour."""
    return "\n".join(line.plain.rstrip() for line in Listing(table).lines(400))
