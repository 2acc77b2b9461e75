"""An alignment as text: what is paired, what is in doubt, what is left open, and what has no twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from tracer.alignment.axes import describe
from tracer.alignment.outputs import order
from tracer.alignment.patterns import Blocks, block_pairs, fold, gathered
from tracer.alignment.result import Alignment, Ambiguous, Pair
from tracer.graph import Structure
from tracer.names import display
from tracer.report.outline import columns
from tracer.report.words import count, shape_text, to_ascii, together

_GAP = 3
_INDENT = "  "
_ALTERNATIVES = 5


@dataclass(frozen=True)
class Row:
    """A line of the table: a pair, or several that are alike.

    Attributes:
        where: the shape, or for several pairs which they are.
        confidence: of the pair that is least sure, as the evidence is.
        pairs: how many pairs the row stands for.
        alike: whether they are all equally sure.
    """

    reference: str
    candidate: str
    where: str
    axes: str
    confidence: float
    evidence: str
    pairs: int = 1
    alike: bool = True

    @property
    def sure(self) -> str:
        """The confidence as text."""
        return f"{'' if self.alike else '≥'}{self.confidence:.2f}"


@dataclass(frozen=True)
class Listing:
    """An alignment to be shown.

    Attributes:
        names: of the two recordings.
        structure: of the reference.
        bar: from which confidence on a pair is called sure.
        everything: show each pair and each node for itself, all of them.
        most: lines shown of each list of what is in doubt or unmatched, unless ``everything``.
        ascii_only: write no other characters.
    """

    alignment: Alignment
    names: tuple[str, str]
    structure: Structure
    bar: float = 0.9
    everything: bool = False
    most: int = 20
    ascii_only: bool = False

    @property
    def doubtful(self) -> list[Pair]:
        return [pair for pair in self.alignment.pairs if pair.confidence < self.bar]

    def lines(self, width: int) -> Iterator[Text]:
        """The whole text for a screen ``width`` cells wide; names are never cut."""
        return (Text(self._shown(line.plain), line.style) for line in self._lines(width))

    def _shown(self, text: str) -> str:
        """``text`` with the characters that it is written in: before it is laid out, for some become two."""
        return to_ascii(text.replace("…", "..")) if self.ascii_only else text

    def _lines(self, width: int) -> Iterator[Text]:
        pairs = list(self.alignment.pairs)
        rows = [self._single(pair) for pair in pairs] if self.everything else self._folded(pairs)
        if rows:
            yield from _table(rows, self.names, width, self._shown)
        doubtful = sorted(self._alike(self.doubtful), key=lambda row: row.confidence)
        if doubtful:
            yield Text()
            yield Text(f"in doubt (confidence below {self.bar:g}), the least sure first", "bold")
            yield from self._limited([_stacked(row, width, self._shown, evidence=True) for row in doubtful])
        if self.alignment.ambiguous:
            yield Text()
            yield Text("ambiguous: the evidence does not settle these, so they are not paired", "bold")
            yield from self._limited([_open(found, width, self._shown) for found in self.alignment.ambiguous])
        unsettled = {found.reference for found in self.alignment.ambiguous}
        for side, names in zip(self.names, self._unmatched, strict=True):
            left = [name for name in names if name not in unsettled]
            if left:
                yield Text()
                yield Text(f"unmatched in {display(side)}", "bold")
                yield from self._lonely(left, names)
        if self.everything and self.alignment.parameters.pairs:
            yield Text()
            yield Text("parameters: whose weights go where", "bold")
            yield from (Text(f"{_INDENT}{line}") for line in self._weights())
        for side, lost in zip(self.names, self._unmatched_parameters, strict=True):
            if lost:
                yield Text()
                yield Text(f"parameters unmatched in {display(side)}", "bold")
                yield from self._lonely(
                    [f"{o} {p}".lstrip() for o, p in lost], {f"{o} {p}".lstrip(): why for (o, p), why in lost.items()}
                )
        yield Text()
        if self.alignment.moved:
            yield Text(display(order(self.alignment.outputs)), "bold")
        yield Text(self.summary())
        if self.alignment.parameters.pairs:
            yield Text(self._parameter_summary())

    def summary(self) -> str:
        """How many pairs there are, how sure, and how much is left."""
        doubtful = len(self.doubtful)
        parts = [f"{count(len(self.alignment.pairs), 'pair')}: {len(self.alignment.pairs) - doubtful} sure"]
        parts[0] += f", {doubtful} in doubt" if doubtful else ""
        if self.alignment.ambiguous:
            parts.append(f"{len(self.alignment.ambiguous)} ambiguous")
        unsettled = {found.reference for found in self.alignment.ambiguous}
        counts = [sum(name not in unsettled for name in names) for names in self._unmatched]
        unmatched = [f"{n} in {display(name)}" for n, name in zip(counts, self.names, strict=True) if n]
        parts.append("unmatched: " + (", ".join(unmatched) or "none"))
        return "; ".join(parts)

    def _parameter_summary(self) -> str:
        parameters = self.alignment.parameters
        sure = sum(pair.confidence >= self.bar for pair in parameters.pairs)
        lost = [
            f"{len(keys)} in {display(name)}"
            for keys, name in zip(self._unmatched_parameters, self.names, strict=True)
            if keys
        ]
        doubtful = len(parameters.pairs) - sure
        return (
            f"parameters: {count(len(parameters.pairs), 'pair')}: {sure} sure"
            + (f", {doubtful} in doubt" if doubtful else "")
            + f"; unmatched: {', '.join(lost) or 'none'}"
        )

    def _weights(self) -> list[str]:
        def named(keys: Sequence[tuple[str, str]]) -> str:
            return " + ".join(display(f"{owner} {param}".lstrip()) for owner, param in keys)

        rows = [
            (named(p.reference), "⇄", named(p.candidate), display(p.relation), f"{p.confidence:.2f}")
            for p in self.alignment.parameters.pairs
        ]
        return columns([[self._shown(cell) for cell in row] for row in rows], width=None, right=frozenset({4}))

    @property
    def _unmatched_parameters(self) -> tuple[Mapping[tuple[str, str], str], Mapping[tuple[str, str], str]]:
        return self.alignment.parameters.unmatched_reference, self.alignment.parameters.unmatched_candidate

    @property
    def _unmatched(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        return self.alignment.unmatched_reference, self.alignment.unmatched_candidate

    def _single(self, pair: Pair) -> Row:
        node = self.structure.by_name.get(pair.aligned)
        shape = node.shape if node is not None else None
        ours, theirs = together(pair.reference), together(pair.candidate)
        return Row(ours, theirs, shape_text(shape), _axes(pair), pair.confidence, _evidence(pair))

    def _folded(self, pairs: Sequence[Pair]) -> list[Row]:
        """A row for blocks that repeat, a row for pairs that are alike but for their numbers, and the sure rest."""
        rows: list[tuple[int, Row]] = []
        left = set(range(len(pairs)))
        for blocks in block_pairs([(pair.reference, pair.candidate) for pair in pairs]):
            inside = [at for block in blocks.pairs for at in block]
            left.difference_update(inside)
            rows.append((min(inside), _block(blocks, [pairs[at] for at in inside])))
        alone = sorted(at for at in left if pairs[at].confidence >= self.bar)
        for members, row in self._gathered([pairs[at] for at in alone]):
            rows.append((min(alone[at] for at in members), row))
        return [row for _, row in sorted(rows, key=lambda item: item[0])]

    def _alike(self, pairs: Sequence[Pair]) -> list[Row]:
        return [self._single(p) for p in pairs] if self.everything else [row for _, row in self._gathered(pairs)]

    def _gathered(self, pairs: Sequence[Pair]) -> list[tuple[tuple[int, ...], Row]]:
        """Rows for pairs that are alike but for their numbers, and which pairs each holds."""
        found: list[tuple[tuple[int, ...], Row]] = []
        left = set(range(len(pairs)))
        for pattern in fold([(p.reference, p.candidate) for p in pairs], [p.axes for p in pairs]):
            left.difference_update(pattern.members)
            worst = min((pairs[at] for at in pattern.members), key=lambda p: p.confidence)
            ours, theirs = (together([str(template) for template in side]) for side in pattern.sides)
            many = len(pattern.members)
            where = f"{pattern.where()}: {many} pairs"
            row = Row(
                ours,
                theirs,
                where,
                _axes(worst),
                worst.confidence,
                _evidence(worst),
                many,
                _alike([pairs[at] for at in pattern.members]),
            )
            found.append((pattern.members, row))
        return found + [((at,), self._single(pairs[at])) for at in sorted(left)]

    def _lonely(self, names: Sequence[str], reasons: Mapping[str, str]) -> Iterator[Text]:
        by_reason: dict[str, list[str]] = {}
        for name in names:
            by_reason.setdefault(reasons[name], []).append(name)
        for reason, group in by_reason.items():
            yield Text(f"{_INDENT}{display(reason)}:", "dim")
            texts = [display(name) for name in group]
            if not self.everything:
                texts = [text for text, _ in gathered(group, [0] * len(group))]
            yield from self._limited([[Text(f"{_INDENT * 2}{text}")] for text in texts])

    def _limited(self, items: Sequence[Sequence[Text]]) -> Iterator[Text]:
        most = len(items) if self.everything or len(items) <= self.most + 1 else self.most
        for item in items[:most]:
            yield from item
        if most < len(items):
            yield Text(f"{_INDENT}… and {len(items) - most} lines more: --all", "dim")


def _alike(pairs: Sequence[Pair]) -> bool:
    return len({f"{pair.confidence:.2f}" for pair in pairs}) == 1


def _axes(pair: Pair) -> str:
    return describe(pair.axes, len(pair.axes or ()), pair.arrangement, ambiguous=bool(pair.other_axes))


def _evidence(pair: Pair) -> str:
    shares = " ".join(f"{display(name)} {value:.2g}" for name, value in pair.evidence.items())
    return f"{display(pair.what)}; {shares}" if pair.what else shares


def _block(blocks: Blocks, pairs: Sequence[Pair]) -> Row:
    low, high = blocks.each
    each = str(low) if low == high else f"{low}…{high}"
    worst = min(pairs, key=lambda pair: pair.confidence)
    kinds = list(dict.fromkeys(_axes(pair) for pair in pairs))
    where = f"{blocks.where()}: {len(blocks.points)} × {each} pairs"
    return Row(
        display(str(blocks.reference)), display(str(blocks.candidate)), where,
        ", ".join(kinds) if len(kinds) < 3 else "several", worst.confidence, _evidence(worst), len(pairs),
        _alike(pairs),
    )  # fmt: skip


def _table(rows: Sequence[Row], names: tuple[str, str], width: int, shown: Callable[[str], str]) -> Iterator[Text]:
    """In columns where they fit, with the evidence if there is room; else two lines a row."""
    full = [(r.reference, "⇄", r.candidate, r.where, r.axes, r.sure, r.evidence) for r in rows]
    head = (display(names[0]), "", display(names[1]), "shape", "axes", "conf", "evidence")
    for most in (len(head), len(head) - 1):
        table = [[shown(cell) for cell in cells[:most]] for cells in (head, *full)]
        if sum(max(map(cell_len, column)) for column in zip(*table, strict=True)) + 2 * (most - 1) <= width:
            first, *others = columns(table, width=None, right=frozenset({5}))
            yield Text(first, "bold")
            yield from map(Text, others)
            return
    yield Text(f"{_INDENT} conf  {head[0]} ⇄ {head[2]}", "bold")
    for row in rows:
        yield from _stacked(row, width, shown)


def _stacked(row: Row, width: int, shown: Callable[[str], str], *, evidence: bool = False) -> list[Text]:
    """A row in as few lines as hold it, without cutting a name."""
    facts = shown("  ".join(fact for fact in (row.where, row.axes if row.axes != "=" else "") if fact))
    confidence = f"{_INDENT}{shown(row.sure):>5}{_INDENT}"
    margin = " " * len(confidence)
    ours, twin = shown(row.reference), shown(f"⇄ {row.candidate}")
    more = [Text(f"{margin}{row.evidence}", "dim")] if evidence and row.evidence else []
    one = f"{confidence}{ours} {twin}"
    if cell_len(one) + _GAP + cell_len(facts) <= width:
        return [Text(f"{one}{' ' * _GAP}{facts}"), *more]
    first, second = f"{confidence}{ours}", f"{margin}{twin}"
    if cell_len(second) + _GAP + cell_len(facts) <= width:
        return [Text(first), Text(f"{second}{' ' * _GAP}{facts}"), *more]
    return [Text(first), Text(second), Text(f"{margin}{facts}"), *more]


def _open(found: Ambiguous, width: int, shown: Callable[[str], str]) -> list[Text]:
    texts = [shown(f"{display(name)} {value:.2f}") for name, value in found.candidates[:_ALTERNATIVES]]
    rest = len(found.candidates) - len(texts)
    texts += [count(rest, "other")] if rest > 0 else ["nothing"] if len(texts) == 1 else []
    head = shown(f"{_INDENT}{display(found.reference)}: ")
    line = head + " or ".join(texts)
    lines = [Text(line)]
    if cell_len(line) > width:
        lines = [Text(f"{_INDENT}{display(found.reference)}:"), *(Text(f"{_INDENT * 2}{text}") for text in texts)]
    told = all(display(name) in display(found.reason) for name, _ in found.candidates)
    return lines if told else [*lines, Text(f"{_INDENT * 2}{display(found.reason)}", "dim")]
