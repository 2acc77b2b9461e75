"""Writing an alignment as a mapping file that a person can read and edit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Table

import yaml

from tracer.alignment.axes import Axes
from tracer.alignment.mapping import Entry, Mapping
from tracer.alignment.patterns import fold, gathered
from tracer.alignment.result import Alignment, Ambiguous, Pair
from tracer.alignment.templates import Names, Point, Template, ranges_text
from tracer.names import display

SURE = 0.9
"""A pair of less confidence is worth a look."""

_HEAD = (
    "# Pairs for `tracer diff --map` and `tracer map --map`. What stands here wins; what does not, tracer pairs itself."
)


def dump(
    alignment: Alignment, reference: str, candidate: str, *, mapping: Mapping | None = None, accept: float = 0.0
) -> str:
    """The alignment as a mapping file (YAML): pairs that repeat from block to block as one entry.

    Args:
        reference, candidate: names of the recordings.
        mapping: what the alignment was told; its entries, what it rejects and ignores, and tolerances are written
            as they were.
        accept: pairs of less confidence are written as comments, ready to be let in; all that a person did not state
            where it is greater than 1.
    """
    known = (
        {*alignment.by_reference, *alignment.unmatched_reference},
        {*alignment.by_candidate, *alignment.unmatched_candidate},
    )
    given = mapping or Mapping()
    unsettled = {found.reference for found in alignment.ambiguous}
    own, again = _once([pair for pair in alignment.pairs if "mapping" not in pair.evidence])
    taken = [pair for pair in own if pair.confidence >= accept]
    left = [pair for pair in own if pair.confidence < accept]
    head = given.head or (_HEAD,)
    lines = [*head, f"reference: {_quoted(reference)}", f"candidate: {_quoted(candidate)}", "pairs:"]
    lines += [line for entry in given.pairs for line in _entry(entry)]
    lines += _pairs(taken, known)
    if left:
        which = f"below {accept:g}" if accept <= 1 else "not decided"
        lines.append(f'  # {which}, left to tracer; take the "# " away to settle them')
        lines += [f"  # {line[2:]}" for line in _pairs(left, known)]
    lines += [line for found in alignment.ambiguous for line in _ambiguous(found)]
    if given.rejected:
        lines.append("rejected:")
        lines += [line for entry in given.rejected for line in _entry(entry)]
    if given.outputs:
        lines.append(f"outputs: [{', '.join(map(_place, given.outputs))}]")
    elif alignment.moved and all(output.at is not None for output in alignment.outputs):
        lines.append(_outputs(alignment))
    for name, side in (("reference", given.ignore.reference), ("candidate", given.ignore.candidate)):
        if name == "reference":
            lines.append("ignore:")
        lines.append(f"  {name}: [" + ", ".join(map(_quoted, side)) + "]")
    if given.tolerances:
        lines.append("tolerances:")
    for tolerance in given.tolerances:
        lines.append(f"  - match: {_quoted(tolerance.match)}")
        for key in ("atol", "rtol"):
            if (value := getattr(tolerance, key)) is not None:
                lines.append(f"    {key}: {value!r}")
        if tolerance.reason:
            lines.append(f"    reason: {_quoted(tolerance.reason)}")
    lines += [
        f"# compared too: {' + '.join(map(display, p.reference))} and {' + '.join(map(display, p.candidate))}"
        for p in again
    ]
    for name, names in (("reference", alignment.unmatched_reference), ("candidate", alignment.unmatched_candidate)):
        lines += [f"# unmatched in the {name}: {text}" for text in _unmatched(names, unsettled)]
    return "\n".join(lines) + "\n"


def _outputs(alignment: Alignment) -> str:
    """The order in which the candidate returns its outputs, as a comment: to take it for right is a person's choice."""
    places = ", ".join(_place(output.at or "") for output in alignment.outputs)
    return f'# outputs: [{places}]  # they come in another order; take the "# " away to accept it'


def _once(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """The pairs, and those that hold a node of another pair: two outputs are compared whatever else they are."""
    used: tuple[set[str], set[str]] = (set(), set())
    again = set()
    for at in sorted(range(len(pairs)), key=lambda at: "output" in pairs[at].evidence):
        sides = tuple(zip(used, (pairs[at].reference, pairs[at].candidate), strict=True))
        if any(not taken.isdisjoint(names) for taken, names in sides):
            again.add(at)
            continue
        for taken, names in sides:
            taken.update(names)
    kept = [pair for at, pair in enumerate(pairs) if at not in again]
    return kept, [pairs[at] for at in sorted(again)]


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, allow_unicode=False, width=math.inf, default_style='"').strip()


def _place(text: str) -> str:
    return text if text.isdecimal() else _quoted(text)


def _names(names: Sequence[str]) -> str:
    return _quoted(names[0]) if len(names) == 1 else "[" + ", ".join(map(_quoted, names)) + "]"


def _entry(entry: Entry, note: str = "") -> Iterator[str]:
    yield f"  - reference: {_names(entry.reference)}"
    yield f"    candidate: {_names(entry.candidate)}" + (f"  # {note}" if note else "")
    for letter, values in sorted(entry.ranges.items()):
        text = ranges_text(values, "..")
        yield f"    {letter}: " + (f"[{text}]" if "," in text else text)
    if entry.axes is not None:
        yield f"    axes: {_axes(entry.axes)}"


def _pairs(pairs: Sequence[Pair], known: tuple[set[str], set[str]]) -> list[str]:
    """Entries for pairs in their order, a pattern in the place of its first."""
    names = Names(known[0]), Names(known[1])
    found: list[tuple[int, Entry, list[Pair]]] = []
    single = set(range(len(pairs)))
    keys = [(pair.axes, pair.other_axes, pair.arrangement) for pair in pairs]
    for pattern in fold([(pair.reference, pair.candidate) for pair in pairs], keys):
        templates = [(at, template) for at, side in enumerate(pattern.sides) for template in side]
        if not all(_faithful(template, known[at]) for at, template in templates):
            continue
        there = set.intersection(*(set(template.instances(names[at])) for at, template in templates))
        member = dict(zip(pattern.points, pattern.members, strict=True))
        for ranges in pattern.ranges(there):
            meant = [at for point, at in member.items() if _within(point, pattern.variables, ranges)]
            fixed = {letter: values[0] for letter, values in ranges.items() if len(values) == 1}
            if len(meant) < 2:
                continue
            ours, theirs = (tuple(str(template.fixed(fixed)) for template in side) for side in pattern.sides)
            left = {letter: list(values) for letter, values in ranges.items() if letter not in fixed}
            axes = _settled(pairs[meant[0]])
            entry = Entry.model_validate({"reference": ours, "candidate": theirs, "axes": axes, **left})
            found.append((min(meant), entry, [pairs[at] for at in meant]))
            single -= set(meant)
    for at in single:
        pair = pairs[at]
        found.append((at, Entry(reference=pair.reference, candidate=pair.candidate, axes=_settled(pair)), [pair]))
    out: list[str] = []
    for _, entry, members in sorted(found, key=lambda item: item[0]):
        least = min(pair.confidence for pair in members)
        notes = [] if least >= SURE else [f"confidence {least:.2f}" + " and more" * (len(members) > 1)]
        if members[0].arrangement is not None:
            notes.append(f"values move {members[0].arrangement}")
        if members[0].other_axes:
            either = (members[0].axes, *members[0].other_axes)
            notes.append("axes " + " or ".join(_axes(one) for one in either if one is not None))
        out += _entry(entry, "; ".join(notes))
    return out


def _settled(pair: Pair) -> Axes | None:
    """The axes, where no others are as likely and they say all: what a file states is not asked again."""
    return None if pair.other_axes or pair.arrangement is not None else pair.axes


def _axes(axes: Axes) -> str:
    return "[" + ", ".join("null" if axis is None else str(axis) for axis in axes) + "]"


def _faithful(template: Template, known: set[str]) -> bool:
    """Whether the template reads back as it was meant: its text may hold braces of its own, or be a node's name."""
    text = str(template)
    return Template.parse(text) == template and text not in known


def _within(point: Point, letters: Sequence[str], ranges: Table[str, tuple[int, ...]]) -> bool:
    return all(value in ranges.get(letter, (value,)) for letter, value in zip(letters, point, strict=True))


def _ambiguous(found: Ambiguous) -> Iterator[str]:
    yield f'  # ambiguous ({display(found.reason)}): keep one candidate and take the "# " away'
    yield f"  # - reference: {_quoted(found.reference)}"
    for name, probability in found.candidates:
        yield f"  #   candidate: {_quoted(name)}  # {probability:.2f}"


def _unmatched(names: Table[str, str], ambiguous: set[str]) -> Iterator[str]:
    left = [name for name in names if name not in ambiguous]
    for text, members in gathered(left, [names[name] for name in left], ".."):
        yield f"{text} ({display(names[left[members[0]]])})"
