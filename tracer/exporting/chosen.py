"""Which tensors of a recording are exported, what each is called in the file, and how it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Literal

from tracer import names
from tracer.alignment import align
from tracer.alignment import axes as axes_
from tracer.alignment.parameters import ParameterPair
from tracer.alignment.result import Alignment, Pair
from tracer.compare.plain import pairs_from_record
from tracer.errors import InputError, TraceError
from tracer.relations import Array
from tracer.store import Recording, Stored
from tracer.wanted import stored_of
from tracer.weighing.exporting import laid

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile

Kind = Literal["activation", "gradient", "weight", "weight gradient"]
PREFIXES: dict[Kind, str] = {
    "activation": "", "gradient": "gradients/", "weight": "weights/", "weight gradient": "gradients/weights/",
}  # fmt: skip
"""What the keys of a kind begin with."""
INDEX = "tracer.json"
_RESERVED = frozenset({INDEX, "__metadata__"})
_LONGEST = 200


@dataclass(frozen=True)
class Item:
    """One tensor of the file.

    Attributes:
        key: what it is called there.
        name: of the node, or ``(owner, parameter)`` of a weight, in the recording it comes from.
        aligned: the same in the recording whose names it bears; as ``name`` where it bears its own.
        dtype: of the values as they were recorded.
        read: gives them, with their checksum verified, and raises TraceError for damage.
        relation: how its axes were moved, in words; empty where they were not.
    """

    key: str
    kind: Kind
    name: str | tuple[str, str]
    aligned: str | tuple[str, str]
    dtype: str
    read: Callable[[], Array] = field(repr=False)
    relation: str = ""


@dataclass(frozen=True)
class Chosen:
    """What goes into a file.

    Attributes:
        items: the tensors, in running order.
        aliases: nodes whose tensor is another one's, and that one's key.
        notes: sentences about what was left out.
    """

    items: tuple[Item, ...]
    aliases: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        layers, exclude: globs, paths, ``op:…`` or ``role:…`` as ``tracer record`` takes them; none is everything.
        like: a recording whose names and axes are to be used; gradients of weights stay out then.
        mapping: what a person says about how the two are paired.
    """

    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    activations: bool = True
    gradients: bool = False
    weights: bool = False
    like: Recording | None = None
    mapping: MappingFile | None = None


def choose(recording: Recording, wanted: Wanted) -> Chosen:
    """The tensors that are wanted.

    Raises InputError for a pattern that nothing has, where nothing is left, and where the mapping does not fit.
    """
    if not (wanted.activations or wanted.gradients or wanted.weights):
        raise InputError("nothing to export: activations are switched off, and neither gradients nor weights asked for")
    picked = _picked(recording, wanted)
    found = list(_own(recording, wanted, *picked))
    notes = list(_missing(recording, wanted, picked[0], found))
    if not found:
        raise InputError("; ".join(["nothing to export", *notes[:1]]))
    if wanted.like is not None:
        found, lonely = _moved(recording, wanted.like, found, align(wanted.like, recording, wanted.mapping))
        if lonely:
            notes.append(f"{_some(lonely)} left out: no twin in '{names.display(wanted.like.name)}'")
        if not found:
            raise InputError(f"nothing to export: no tensor has a twin in '{names.display(wanted.like.name)}'")
    items, keys = tuple(_keyed(found)), {}
    for item in items:
        if item.kind == "activation" and isinstance(item.name, str):
            keys[item.name] = item.key
    aliases = {
        node.name: keys[stored]
        for node in recording.structure
        if node.alias_of is not None and (stored := recording.resolve(node.name)) in keys
    }
    return Chosen(items, aliases, tuple(notes))


def aligned_names(recording: Recording) -> dict[str, str]:
    """The name of its twin in the reference, by node, as it was paired when it was recorded."""
    try:
        return pairs_from_record(recording.attributes["alignment"]).keys()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return {}


def _own(recording: Recording, wanted: Wanted, nodes: set[str], parameters: set[tuple[str, str]]) -> Iterator[Item]:
    """The tensors under the recording's own names; their keys are still to be made."""
    if wanted.activations:
        yield from _nodes(recording, "activation", recording.activations, nodes)
    if wanted.gradients:
        yield from _nodes(recording, "gradient", recording.gradients, nodes)
    if wanted.weights:
        yield from _parameters(recording, "weight", recording.weights, parameters)
        if wanted.gradients:
            yield from _parameters(recording, "weight gradient", recording.weight_gradients, parameters)


def _picked(recording: Recording, wanted: Wanted) -> tuple[set[str], set[tuple[str, str]]]:
    """The stored nodes and the parameters that the patterns leave."""
    structure, keys = recording.structure, aligned_names(recording)
    every = {node.name for node in structure.stored()}
    known = {*recording.weights, *recording.weight_gradients} if wanted.weights else set()
    owners = {name: node.owner for name in every if (node := structure.by_name[name]).owner}

    def having(pattern: str, option: str) -> tuple[set[str], set[tuple[str, str]]]:
        direct = {(o, p) for o, p in known if any(fnmatchcase(f"{o}{dot}{p}", pattern) for dot in "/.")}
        try:
            nodes = stored_of(structure, keys, pattern, option)
        except InputError:
            if not direct:
                raise
            return set(), direct
        inside = {owners[name] for name in nodes if name in owners}
        return nodes, direct | {key for key in known if key[0] in inside}

    nodes, parameters = (set(), set()) if wanted.layers else (every, set(known))
    for pattern in wanted.layers:
        more, weights = having(pattern, "")
        nodes, parameters = nodes | more, parameters | weights
    for pattern in wanted.exclude:
        less, weights = having(pattern, "--exclude ")
        nodes, parameters = nodes - less, parameters - weights
    return nodes, parameters


def _nodes(recording: Recording, kind: Kind, index: dict[str, Stored], wanted: set[str]) -> Iterator[Item]:
    for node in recording.structure:
        stored = index.get(node.name)
        if stored is not None and node.name in wanted:
            yield Item("", kind, node.name, node.name, stored.dtype, _reader(recording, stored))


def _parameters(
    recording: Recording, kind: Kind, index: dict[tuple[str, str], Stored], wanted: set[tuple[str, str]]
) -> Iterator[Item]:
    for key, stored in index.items():
        if key in wanted:
            yield Item("", kind, key, key, stored.dtype, _reader(recording, stored))


def _reader(recording: Recording, stored: Stored) -> Callable[[], Array]:
    return lambda: recording.read_stored(stored)


def _missing(recording: Recording, wanted: Wanted, nodes: set[str], found: Sequence[Item]) -> Iterator[str]:
    """Sentences about what was asked for and is not there."""
    name = names.display(recording.name)
    kinds = {item.kind for item in found}
    if wanted.activations:
        lacking = [name for name in recording.structure.by_name if name in nodes - set(recording.activations)]
        if lacking:
            yield f"{_some(lacking)} not exported: {recording.why_missing(lacking[0])}"
    if wanted.gradients and "gradient" not in kinds and "weight gradient" not in kinds:
        yield f"'{name}' has no gradients of what is wanted: record it with --grad"
    if wanted.weights and "weight" not in kinds:
        yield f"'{name}' has no weights of what is wanted"


def _moved(
    recording: Recording, like: Recording, items: Sequence[Item], alignment: Alignment
) -> tuple[list[Item], list[str]]:
    """The items under the names and in the axes of another recording, and the names of those that have no twin."""
    pairs = {pair.candidate[-1]: pair for pair in reversed(alignment.pairs)}
    out: list[Item] = []
    lonely: list[str] = []
    for item in items:
        if not isinstance(item.name, str):
            continue
        pair = pairs.get(item.name)
        if pair is None or (pair.axes is None and pair.arrangement is None):
            lonely.append(item.name)
        else:
            out.append(_as_reference(item, pair))
    weights = {item.name: item for item in items if not isinstance(item.name, str) and item.kind == "weight"}
    made, left = _weights_moved(recording, like, weights, alignment)
    return [*out, *made], [*lonely, *left]


def _as_reference(item: Item, pair: Pair) -> Item:
    """An activation or gradient in the axes of the reference's."""

    def read() -> Array:
        values = item.read()
        try:
            if pair.arrangement is not None and pair.axes is None:
                return pair.arrangement.apply(values)
            assert pair.axes is not None
            return axes_.apply(values, pair.axes)
        except ValueError as error:
            raise TraceError(f"{names.display(str(item.name))} cannot be moved: {error}") from error

    rank = len(pair.axes or ())
    relation = axes_.describe(pair.axes, rank, pair.arrangement if pair.axes is None else None)
    return Item("", item.kind, item.name, pair.aligned, item.dtype, read, "" if relation == "=" else relation)


def _weights_moved(
    recording: Recording, like: Recording, items: Mapping[tuple[str, str], Item], alignment: Alignment
) -> tuple[list[Item], list[str]]:
    """The weights whose twins are known in the layout of these, and the names of the others."""
    out, used = [], set()
    for pair in alignment.parameters.pairs:
        if not pair.comparable or not set(pair.candidate) <= set(items):
            continue
        if any(key not in side.weights for side, keys in ((like, pair.reference), (recording, pair.candidate))
               for key in keys):  # fmt: skip
            continue
        first = items[pair.candidate[0]]
        for key in pair.reference:
            read = partial(_laid, like, recording, pair, key)
            out.append(Item("", "weight", first.name, key, first.dtype, read, pair.relation))
        used |= set(pair.candidate)
    return out, [".".join(key) for key in items if key not in used]


def _laid(like: Recording, recording: Recording, pair: ParameterPair, key: tuple[str, str]) -> Array:
    return laid((like, recording), pair, 1, 0)[key]


def _keyed(items: Sequence[Item]) -> Iterator[Item]:
    """The items with keys that differ from each other and are fit for a file."""
    taken = set(_RESERVED)
    for item in items:
        plain = item.aligned if isinstance(item.aligned, str) else "/".join(item.aligned)
        key = PREFIXES[item.kind] + (plain if _fit(plain) else names.encode(plain))
        if key in taken or key.endswith(".npy"):  # numpy takes that for the end of a file's name
            key = f"{key}~{hashlib.sha256(repr((item.kind, item.aligned)).encode()).hexdigest()[:12]}"
        taken.add(key)
        yield Item(key, item.kind, item.name, item.aligned, item.dtype, item.read, item.relation)


def _fit(name: str) -> bool:
    """Whether a name can stand in an archive as it is: nothing in it is a path elsewhere, or unprintable."""
    parts = name.split("/")
    return name.isprintable() and len(name) <= _LONGEST and "\\" not in name and not {"", ".", ".."} & set(parts)


def _some(lacking: Sequence[str]) -> str:
    shown = ", ".join(names.display(name, 60) for name in lacking[:3])
    return shown if len(lacking) <= 3 else f"{shown} and {len(lacking) - 3} more"


__all__ = ["INDEX", "Chosen", "Item", "Wanted", "aligned_names", "choose"]
