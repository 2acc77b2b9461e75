"""Mapping files: what a person says about the alignment. It wins over the engine.

reference: tf            # names of the recordings, optional
candidate: pt
pairs:
  - reference: conv1d_3
    candidate: conv4
    axes: [0, 2, 1]      # optional; null for an axis of length one that the candidate lacks
  - reference: "block{i}_conv"
    candidate: "features.{3i-3}"
    i: 1..5              # optional: every number for which both sides have the node
  - reference: "encoder/layer_{i}/*"
    candidate: "encoder.layer.{i}.*"   # a block on a block: what lies in one is paired with what lies in the other
rejected:
  - {reference: dropout_1, candidate: drop2}   # no pair, whatever speaks for it
outputs: [1, 0]          # the candidate returns the reference's outputs in this order
ignore:
  reference: [dropout_*]
  candidate: []
tolerances:
  - match: "decoder/*"   # glob over aligned names
    atol: 1e-3
    reason: accepted in review

JSON and TOML (``[[pairs]]``) hold the same.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Table
from fnmatch import fnmatchcase
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from tracer.alignment.axes import Axes, possible
from tracer.alignment.features import pairable
from tracer.alignment.outputs import places
from tracer.alignment.patterns import scopes
from tracer.alignment.templates import VARIABLES, Names, Point, Template, ranges_text, read_ranges
from tracer.errors import InputError
from tracer.graph import Structure
from tracer.names import display
from tracer.preflight import check_kind
from tracer.store import Recording, Trace

Side = Literal["reference", "candidate"]
Block = tuple[frozenset[str], frozenset[str]]
"""Nodes of the reference and nodes of the candidate that are paired with each other only."""

_LARGEST = 16 << 20
_DEEPEST = 32
_DOTTED = re.compile(
    rf"""(?:(?:[\w-]{{1,99}}|"[^"\n]{{0,99}}"|'[^'\n]{{0,99}}')\s{{0,9}}\.\s{{0,9}}){{{_DEEPEST + 1}}}"""
)
_SIDES: tuple[Side, Side] = ("reference", "candidate")
_MOST_PAIRS = 1 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Strict):
    """One pair, or a pattern that stands for many; a name may stand for a list of one.

    ``ranges`` are the numbers that the letters in the names stand for; in a file each letter is a key of its own.
    """

    reference: tuple[str, ...] = Field(min_length=1)
    candidate: tuple[str, ...] = Field(min_length=1)
    axes: Axes | None = None
    ranges: dict[str, tuple[int, ...]] = {}

    @model_validator(mode="before")
    @classmethod
    def _letters(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if "ranges" in value:
            raise ValueError("each letter is a key of its own, such as i: 0..11")
        letters = {key: value[key] for key in VARIABLES if key in value}
        rest = {key: item for key, item in value.items() if key not in letters}
        return {**rest, "ranges": {key: _numbers(key, item) for key, item in letters.items()}}

    @field_validator("reference", "candidate", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("axes", mode="before")
    @classmethod
    def _null_axes(cls, value: Any) -> Any:
        return [None if v in ("null", "~", None) else v for v in value] if isinstance(value, list) else value

    def names(self, side: Side) -> tuple[str, ...]:
        return self.reference if side == "reference" else self.candidate


def _numbers(letter: str, value: Any) -> tuple[int, ...]:
    """``0..11``, ``3`` or ``[0, 1, 5]``. Raises ValueError."""
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str | int) and not isinstance(part, bool) for part in parts):
        raise ValueError(f"{letter}: numbers such as 0..11 or 0, 2, 4..7 wanted")
    return read_ranges(", ".join(map(str, parts)))


class Ignore(_Strict):
    reference: tuple[str, ...] = ()
    candidate: tuple[str, ...] = ()

    @field_validator("reference", "candidate", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, str) else value


class Tolerance(_Strict):
    """Another tolerance for the aligned names that match a glob; ``reason`` is shown wherever it is used."""

    match: str
    atol: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    rtol: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    reason: str = ""


class Mapping(_Strict):
    """A mapping file's content.

    Attributes:
        rejected: nodes that are no pair: of several the last ones are meant, those that would be compared.
        outputs: for each of the reference's outputs, where the candidate returns it; see
            :func:`tracer.alignment.outputs.label`.
        head: the comment lines that the file begins with.
    """

    reference: str | None = None
    candidate: str | None = None
    pairs: tuple[Entry, ...] = ()
    rejected: tuple[Entry, ...] = ()
    outputs: tuple[str, ...] = ()
    ignore: Ignore = Ignore()
    tolerances: tuple[Tolerance, ...] = ()
    _blocks: tuple[Block, ...] | None = PrivateAttr(None)
    _head: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="before")
    @classmethod
    def _nothing_said(cls, value: Any) -> Any:
        """A key with nothing behind it says nothing: all its entries may be comments."""
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value

    @field_validator("outputs", mode="before")
    @classmethod
    def _places(cls, value: Any) -> Any:
        """JSON and TOML have numbers."""
        numbers = isinstance(value, list) and all(type(item) in (int, str) for item in value)
        return [str(item) for item in value] if numbers else value

    @property
    def head(self) -> tuple[str, ...]:
        """The lines of comment at the top of the file, which are written back with it."""
        return self._head

    def ignores(self, side: Side, name: str) -> bool:
        """Whether a node of a side, by name, is to be left without a twin."""
        return any(name == pattern or fnmatchcase(name, pattern) for pattern in getattr(self.ignore, side))

    def tolerance(self, aligned: str) -> Tolerance | None:
        """The last entry whose glob fits an aligned name."""
        return next((t for t in reversed(self.tolerances) if fnmatchcase(aligned, t.match)), None)

    def accepted(self, reference: Structure, candidate: Structure) -> dict[str, str]:
        """Where the candidate returns each of the reference's outputs, by the places of both; empty where nothing is
        said.

        Raises InputError for places that do not exist, or not one for each of the reference's outputs.
        """
        if not self.outputs:
            return {}
        ours, theirs = places(reference), places(candidate)
        for side, found in zip(_SIDES, (ours, theirs), strict=True):
            if not found:
                raise InputError(f"mapping: outputs: nothing says in what order the {side} returns its outputs")
        if len(self.outputs) != len(ours):
            raise InputError(
                f"mapping: outputs: the reference returns {len(ours)} ({', '.join(map(display, ours))}), "
                f"but {len(self.outputs)} are listed"
            )
        for at, place in enumerate(self.outputs):
            if place not in theirs:
                there = ", ".join(map(display, theirs))
                raise InputError(f"mapping: outputs: the candidate returns no '{display(place)}': it has {there}")
            if place in self.outputs[:at]:
                raise InputError(f"mapping: outputs: '{display(place)}' is listed twice")
        return dict(zip(ours, self.outputs, strict=True))

    def check_names(self, reference: Recording, candidate: Recording) -> None:
        """Raises InputError where it names other recordings than ``reference`` and ``candidate`` that do not exist, and
        for the two the other way round.

        A mapping may serve further recordings of its models: names of others than those that are compared are none.
        """
        sides = {"reference": reference, "candidate": candidate}
        for side in _SIDES:
            name, trace = getattr(self, side), Trace(sides[side].root)
            if name is not None and not trace.has(name):
                have = [recording.name for recording in trace.recordings()]
                near = difflib.get_close_matches(name, have, 3)
                hint = f"; did you mean {' or '.join(near)}?" if near else f" (have: {', '.join(have)})"
                raise InputError(f"mapping: {side}: no recording is named '{display(name)}'{display(hint)}")
        if (self.reference, self.candidate) == (candidate.name, reference.name) != (reference.name, candidate.name):
            raise InputError(
                f"mapping: it is for '{display(candidate.name)}' against '{display(reference.name)}', "
                "not the other way round: name the recordings in that order"
            )

    def check(self, reference: Structure, candidate: Structure) -> None:
        """Raises InputError as :meth:`resolve` of the two structures, ``reference`` and ``candidate``, does."""
        self.resolve(reference, candidate)

    def resolve(self, reference: Structure, candidate: Structure) -> Mapping:
        """The mapping with each pattern replaced by the pairs it stands for in two structures, ``reference`` and
        ``candidate``.

        Raises InputError for names and patterns that fit no node (with the nearest ones), for nodes that are in two
        pairs or in a pair that contradicts a block, and for axes that do not fit the shapes.
        """
        structures = {"reference": reference, "candidate": candidate}
        known = {side: {n.name for n in structures[side] if pairable(n)} for side in _SIDES}
        names = {side: Names(known[side]) for side in _SIDES}
        pairs, blocks = _spread(self.pairs, known, names)
        rejected, others = _spread(self.rejected, known, names)
        if others:
            raise InputError("mapping: rejected: a * stands for a block, and only single pairs are rejected")
        _check_once(pairs, blocks)
        stated = {(entry.reference[-1], entry.candidate[-1]) for entry in pairs}
        for entry in rejected:
            ours, theirs = entry.reference[-1], entry.candidate[-1]
            if (ours, theirs) in stated:
                raise InputError(f"mapping: '{display(ours)}' and '{display(theirs)}' are a pair, and rejected as one")
        for entry in pairs:
            _check_axes(entry, reference, candidate)
        for side in _SIDES:
            for name in getattr(self.ignore, side):
                if not any(char in name for char in "*?[") and name not in structures[side].by_name:
                    raise InputError(_unknown(side, name, structures[side].by_name, "ignore: "))
        for name in (entry.match for entry in self.tolerances):
            if not any(char in name for char in "*?[") and name not in reference.by_name:
                raise InputError(_unknown("reference", name, reference.by_name, "tolerances: "))
        self.accepted(reference, candidate)
        resolved = self.model_copy(update={"pairs": tuple(pairs), "rejected": tuple(rejected)})
        resolved._blocks = (*(self._blocks or ()), *blocks)
        return resolved

    def turned(self, reference: Structure, candidate: Structure) -> Mapping:
        """The same for the candidate against the reference; without the tolerances, which go by the reference's names.

        Raises InputError as :meth:`resolve` does.
        """
        found = self.resolve(reference, candidate)

        def back(entry: Entry) -> Entry:
            axes, shape = entry.axes, candidate.by_name[entry.candidate[-1]].shape
            if axes is not None:
                rank = len(axes) if shape is None else len(shape)
                axes = tuple(axes.index(axis) if axis in axes else None for axis in range(rank))
            return Entry(reference=entry.candidate, candidate=entry.reference, axes=axes)

        places_of = {there: here for here, there in self.accepted(reference, candidate).items()}
        said = bool(places_of) and places_of.keys() == set(places(candidate))
        other = Mapping(
            reference=self.candidate,
            candidate=self.reference,
            pairs=tuple(map(back, found.pairs)),
            rejected=tuple(map(back, found.rejected)),
            outputs=tuple(places_of[place] for place in places(candidate)) if said else (),
            ignore=Ignore(reference=self.ignore.candidate, candidate=self.ignore.reference),
        )
        other._blocks = tuple((theirs, ours) for ours, theirs in found._blocks or ())
        return other


def constraints(mapping: Mapping, reference: Structure, candidate: Structure) -> list[Block]:
    """The blocks that the mapping lays on blocks: nodes of either side that may be paired with each other only.

    Takes a mapping as it was read or resolved; a node may be in several blocks, and what is in none is free.
    Raises InputError as :meth:`Mapping.resolve` does.
    """
    resolved = mapping if mapping._blocks is not None else mapping.resolve(reference, candidate)
    return list(resolved._blocks or ())


def _spread(
    entries: Sequence[Entry], known: Table[Side, set[str]], names: Table[Side, Names]
) -> tuple[list[Entry], list[Block]]:
    """The single pairs that entries stand for, and the blocks that they lay on blocks."""
    pairs: list[Entry] = []
    blocks: list[Block] = []
    for entry in entries:
        parsed = {side: [_template(side, name, known[side]) for name in entry.names(side)] for side in _SIDES}
        if not any(template.is_pattern for side in _SIDES for template in parsed[side]):
            pairs.append(_single(entry, known))
            continue
        found = _expanded(entry, parsed, names)
        if any(template.rest for template in parsed["reference"]):
            blocks += [(frozenset(one), frozenset(two)) for one, two in found]
        else:
            pairs += [Entry(reference=one, candidate=two, axes=entry.axes) for one, two in found]
        if len(pairs) > _MOST_PAIRS:
            raise InputError(f"mapping: more than {_MOST_PAIRS} pairs")
    return pairs, blocks


def _template(side: Side, name: str, known: set[str]) -> Template:
    """A node's own name is never a pattern, whatever it is made of. Raises InputError for a ``*`` within a pattern."""
    if name in known:
        return Template((name,))
    if "*" in name[:-1]:
        raise InputError(
            f"mapping: the {side} has no node '{display(name)}', and a * stands at the end only: "
            "for numbers write {i}, {j} …"
        )
    return Template.parse(name)


def _single(entry: Entry, known: Table[Side, set[str]]) -> Entry:
    for side in _SIDES:
        for name in entry.names(side):
            if name not in known[side]:
                other = _SIDES[side == "reference"]
                text = _unknown(side, name, known[side])
                if name in known[other]:
                    text += f"; the {other} has it: are the two recordings named in the other order?"
                raise InputError(text)
    if entry.ranges:
        letter = next(iter(entry.ranges))
        raise InputError(f"mapping: '{display(entry.reference[-1])}' has a range of {letter} but no {{{letter}}}")
    return entry


def _unknown(side: Side, name: str, known: Iterable[str], where: str = "") -> str:
    near = difflib.get_close_matches(name, list(known), 3)
    hint = f"; did you mean {' or '.join(map(display, near))}?" if near else ""
    if not near and "{" in name:
        hint = "; numbers are written {i}, {i+1}, {2i+1}, with the letters i to n"
    return f"mapping: {where}the {side} has no node '{display(name)}'{hint}"


def _expanded(
    entry: Entry, parsed: Table[Side, Sequence[Template]], names: Table[Side, Names]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The nodes that a pattern stands for, an entry a point; with ``*`` all nodes of a block."""
    flat = [template for side in _SIDES for template in parsed[side]]
    shown = [display(str(template)) for template in flat]
    for template, text in zip(flat, shown, strict=True):
        if template.rest is not flat[0].rest:
            raise InputError(f"mapping: '{shown[0]}' and '{text}': a * on one side needs one on the other")
        for one, other, name in ((template, flat[0], shown[0]), (flat[0], template, text)):
            lonely = next((v for v in one.variables if v not in other.variables), None)
            if lonely is not None:
                mine = text if one is template else shown[0]
                raise InputError(f"mapping: {{{lonely}}} of '{mine}' has no counterpart in '{name}'")
    stray = next((letter for letter in entry.ranges if letter not in flat[0].variables), None)
    if stray is not None:
        raise InputError(f"mapping: '{shown[0]}' has a range of {stray} but no {{{stray}}}")
    if flat[0].rest and entry.axes is not None:
        raise InputError(f"mapping: '{shown[0]}': axes belong to single nodes, not to a block")
    found: dict[Side, list[dict[Point, tuple[str, ...]]]] = {}
    for side in _SIDES:
        found[side] = [template.instances(names[side]) for template in parsed[side]]
        for template, instances in zip(parsed[side], found[side], strict=True):
            if not instances:
                raise InputError(_nothing(side, template, names[side]))
    wanted = [entry.ranges.get(letter) for letter in flat[0].variables]
    everywhere = [set(instances) for side in _SIDES for instances in found[side]]
    common = sorted(p for p in set.intersection(*everywhere) if _within(p, wanted))
    _check_ranges(flat, wanted, found, common)
    return [
        (_joined([instances[point] for instances in found["reference"]]),
         _joined([instances[point] for instances in found["candidate"]]))
        for point in common
    ]  # fmt: skip


def _within(point: Point, wanted: Sequence[tuple[int, ...] | None]) -> bool:
    return all(values is None or value in values for value, values in zip(point, wanted, strict=True))


def _joined(parts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(name for names in parts for name in names)


def _check_ranges(
    flat: Sequence[Template],
    wanted: Sequence[tuple[int, ...] | None],
    found: Table[Side, Sequence[Table[Point, tuple[str, ...]]]],
    common: Sequence[Point],
) -> None:
    """Raises InputError for a number in a range that has no node, and for patterns that never meet."""
    letters = flat[0].variables
    for at, values in enumerate(wanted):
        present = {point[at] for point in common}
        for value in values or ():
            if value in present:
                continue
            for side in _SIDES:
                for template, instances in zip(_of(flat, found, side), found[side], strict=True):
                    if not any(point[at] == value for point in instances):
                        raise InputError(
                            f"mapping: the {side} has nothing that fits '{display(str(template))}' with "
                            f"{letters[at]} = {value} (it has {_span(instances, letters)})"
                        )
            raise InputError(f"mapping: '{display(str(flat[0]))}' pairs nothing with {letters[at]} = {value}")
    if None not in wanted and prod(len(values or ()) for values in wanted) != len(common):
        present_points = set(common)
        missing = next(p for p in product(*(values or () for values in wanted)) if p not in present_points)
        where = ", ".join(f"{letter} = {value}" for letter, value in zip(letters, missing, strict=True))
        raise InputError(f"mapping: '{display(str(flat[0]))}' pairs nothing with {where}")
    if not common:
        raise InputError(
            f"mapping: '{display(str(flat[0]))}' and '{display(str(flat[-1]))}' have no number in common: "
            f"{_span(found['reference'][0], letters)} in the reference, {_span(found['candidate'][-1], letters)} "
            "in the candidate"
        )


def _of(flat: Sequence[Template], found: Table[Side, Sequence[Any]], side: Side) -> Sequence[Template]:
    first = len(found["reference"])
    return flat[:first] if side == "reference" else flat[first:]


def _span(instances: Iterable[Point], letters: Sequence[str]) -> str:
    columns = zip(*instances, strict=True)
    return ", ".join(
        f"{letter} = {ranges_text(sorted(set(c)), '..')}" for letter, c in zip(letters, columns, strict=True)
    )


def _nothing(side: Side, template: Template, names: Names) -> str:
    """What to say of a pattern that fits no node: the nearest patterns that fit some."""

    def blurred(text: str) -> str:
        letters = iter(VARIABLES)
        return re.sub(r"[0-9]+(?=[/._-]|$)", lambda found: f"{{{next(letters, found[0])}}}", text)

    texts = {text for name in names.under("") for text in (scopes(name) if template.rest else (name,))}
    plain = "".join(part if isinstance(part, str) else "0" for part in template.parts)
    near = difflib.get_close_matches(blurred(plain), {blurred(text) for text in texts}, 2)
    hint = f"; did you mean {' or '.join(display(text) + '*' * template.rest for text in near)}?" if near else ""
    return f"mapping: nothing in the {side} fits '{display(str(template))}'{hint}"


def _check_once(pairs: Sequence[Entry], blocks: Sequence[Block]) -> None:
    """Raises InputError for a node in two pairs, a block in two, and a pair that a block forbids."""
    for side in _SIDES:
        seen: set[str] = set()
        for name in (name for entry in pairs for name in entry.names(side)):
            if name in seen:
                raise InputError(f"mapping: '{display(name)}' of the {side} is in two pairs")
            seen.add(name)
    homes: list[dict[str, set[int]]] = []
    for at, side in enumerate(_SIDES):
        home: dict[str, set[int]] = {}
        whole: set[frozenset[str]] = set()
        for number, block in enumerate(blocks):
            if block[at] in whole:
                raise InputError(f"mapping: the block of '{display(min(block[at]))}' of the {side} is in two patterns")
            whole.add(block[at])
            for name in block[at]:
                home.setdefault(name, set()).add(number)
        homes.append(home)
    for entry in pairs if blocks else ():
        for one in entry.reference:
            for two in entry.candidate:
                if homes[0].get(one, set()) != homes[1].get(two, set()):
                    raise InputError(
                        f"mapping: '{display(one)}' and '{display(two)}' are a pair, but in blocks that are not"
                    )


def _check_axes(entry: Entry, reference: Structure, candidate: Structure) -> None:
    ours = reference.by_name[entry.reference[-1]].shape
    theirs = candidate.by_name[entry.candidate[-1]].shape
    if entry.axes is not None and ours is not None and theirs is not None and entry.axes not in possible(ours, theirs):
        raise InputError(
            f"mapping: axes {list(entry.axes)} do not turn '{display(entry.candidate[-1])}' "
            f"{list(theirs)} into '{display(entry.reference[-1])}' {list(ours)}"
        )


def load(path: Path) -> Mapping:
    """Read a mapping file: YAML (without anchors, aliases or tags), or by its ending JSON or TOML.

    Raises InputError in one line.
    """
    shown = display(str(path))
    try:
        if check_kind(path) > _LARGEST:
            raise InputError(f"{shown} is too large for a mapping file")
        text = path.read_text("utf-8")
        raw = {".json": _read_json, ".toml": _read_toml}.get(path.suffix.lower(), _read_yaml)(text, shown)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"no such mapping file: {shown}") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot read the mapping file {shown}: {display(reason, 160)}") from error
    try:
        mapping = Mapping.model_validate({} if raw is None else raw)
    except ValidationError as error:
        raise InputError(f"{shown}: {_told(error)}") from error
    lines = text.splitlines()
    count = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    mapping._head = tuple(lines[:count])
    return mapping


_WANTED = {"tuple_type": "a list wanted", "model_type": "a dictionary wanted, of {keys}", "too_short": "empty"}
_KEYS: dict[str, type[BaseModel]] = {"pairs": Entry, "rejected": Entry, "ignore": Ignore, "tolerances": Tolerance}


def _told(error: ValidationError) -> str:
    """What is wrong with a file's content and where, in one line; a mistyped key before the one that it leaves out."""
    found = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    *above, last = found["loc"] or ("",)
    unknown, missing = found["type"] == "extra_forbidden", found["type"] == "missing"
    path = above if unknown or missing else found["loc"]
    where = " of ".join(f"entry {part + 1}" if isinstance(part, int) else part for part in reversed(path))
    model = _KEYS.get(str(path[0]), Mapping) if path else Mapping
    keys = [key for key in model.model_fields if key != "ranges"]
    if unknown:
        near = difflib.get_close_matches(str(last), keys, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(keys)}"
        text = f"no key '{last}' is known; {hint}"
    elif missing:
        text = f"'{last}' is missing"
    else:
        plain = found["msg"].removeprefix("Value error, ").replace("Input should", "must")
        text = _WANTED[found["type"]].format(keys=", ".join(keys)) if found["type"] in _WANTED else plain
    return display(f"{where}: {text}" if where else text, 400)


def _read_yaml(text: str, shown: str) -> Any:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise InputError(f"{shown}: aliases and tags are not allowed in a mapping file")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:  # the scanner looks at every level for each token
            raise InputError(f"{shown}: lists in lists, more than {_DEEPEST} deep: no mapping file")
    return _plain(yaml.compose(text, Loader=yaml.SafeLoader), shown)


def _read_json(text: str, shown: str) -> Any:
    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) != len(items):
            raise InputError(f"{shown}: a key is repeated")
        return dict(items)

    return json.loads(text, object_pairs_hook=once)


def _read_toml(text: str, shown: str) -> Any:
    if _DOTTED.search(text):  # tomllib takes a time that grows with the square of a key's parts
        raise InputError(f"{shown}: a key or name of more than {_DEEPEST} parts: no mapping file")
    return tomllib.loads(text)


def _plain(node: yaml.Node | None, shown: str) -> Any:
    """Strings, lists and mappings only: YAML's guesses (``on`` is True, ``1_0`` is 10) never apply to names."""
    if node is None:
        return None
    if isinstance(node, yaml.ScalarNode):
        return None if node.style is None and node.value in ("", "null", "~") else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, shown) for child in node.value]
    assert isinstance(node, yaml.MappingNode)
    out: dict[str, Any] = {}
    for key, value in node.value:
        name = _plain(key, shown)
        if not isinstance(name, str) or name in out:
            raise InputError(f"{shown}: line {key.start_mark.line + 1}: a key that is repeated or no text")
        out[name] = _plain(value, shown)
    return out
