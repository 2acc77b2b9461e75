"""What the trace knows of single tensors: activations, gradients, weights, found by name or pattern.

Nothing here reads the whole of a large tensor: statistics were noted when it was recorded.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

import numpy as np

from tracer import dtypes, names
from tracer.compare.comparing import Diff, recalled
from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Verdict
from tracer.errors import InputError, TracerError
from tracer.exporting.chosen import PREFIXES, aligned_names
from tracer.graph import Node
from tracer.report import tensors
from tracer.report.tensors import Array, Histogram
from tracer.store import Recording, Step, Stored, Trace
from tracer.wanted import matches, near

Kind = Literal["activation", "gradient", "weight", "weight gradient"]
VERIFIED = 64 << 20
"""Bytes of a tensor up to which its checksum is verified before a part of it is shown."""
MOST = 10_000
"""Elements that are given."""
_WEIGHT, _GRADIENT, _WEIGHT_GRADIENT = PREFIXES["weight"], PREFIXES["gradient"], PREFIXES["weight gradient"]


@dataclass(frozen=True)
class Found:
    """One tensor of a recording.

    Attributes:
        name: of the node; of a weight ``LAYER/PARAMETER``.
        node: what it is of; None for a weight whose layer is no node.
        stored: where its values lie; None where they were not saved.
        summary: the numbers that were noted of it; empty where there are none.
    """

    recording: Recording
    kind: Kind
    name: str
    node: Node | None
    stored: Stored | None
    summary: Mapping[str, float | int]

    def __str__(self) -> str:
        from tracer.report.page import page

        return "\n".join(page(self, None, None))

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Batch included; None where it is not known."""
        if self.stored is not None:
            return self.stored.shape
        return self.node.shape if self.node is not None else None

    @property
    def dtype(self) -> str | None:
        """What it was computed in; that it may be stored in another one says :attr:`stored`."""
        if self.kind == "activation" and self.node is not None and self.node.dtype is not None:
            return self.node.dtype
        return None if self.stored is None else self.stored.dtype

    @property
    def nbytes(self) -> int | None:
        """Of the stored values."""
        if self.stored is None:
            return None
        return math.prod(self.stored.shape) * dtypes.by_name(self.stored.dtype).itemsize

    @property
    def missing(self) -> str:
        """Why there are no values, in words; empty where there are."""
        if self.stored is not None or self.node is None:
            return ""
        if self.kind == "gradient":
            return self.recording.why_no_gradient(self.node.name)
        return self.recording.why_missing(self.node.name)

    @property
    def statistics(self) -> dict[str, float | int]:
        """Minimum, maximum, mean, standard deviation and root mean square of the finite values, and the counts of
        elements, zeros, NaN and infinities."""
        known = dict(self.summary)
        out: dict[str, float | int] = {key: known[key] for key in ("min", "max", "mean") if key in known}
        if "rms" in known and "mean" in known:
            out["std"] = math.sqrt(max(0.0, known["rms"] ** 2 - known["mean"] ** 2))
        return out | {key: known[key] for key in ("rms", "size", "zeros", "nan", "inf") if key in known}

    @cached_property
    def cheap(self) -> bool:
        """Whether a part of the values costs little: they lie in the trace as they are, or are few."""
        return self.stored is not None and (self.recording.pack.in_place or (self.nbytes or 0) <= VERIFIED)

    def values(self) -> Array:
        """The tensor, memory-mapped and read-only. Raises InputError where there is none, TraceError for damage."""
        if self.stored is None:
            raise InputError(f"'{names.display(self.name)}' has no values: {self.missing}")
        return self.recording.read_stored(self.stored, verify=(self.nbytes or 0) <= VERIFIED)

    def histogram(self, bins: int = 16) -> Histogram | None:
        """How a sample of the values is distributed over ``bins`` of equal width; None where they are not at hand, or
        none is finite. Raises TraceError for damage."""
        return tensors.histogram(self.values(), None, bins) if self.cheap else None

    def part(self, text: str | None) -> Array:
        """The values that a slice picks, a ``text`` as numpy writes it; for None a corner of at most 8 × 8.

        Raises InputError for what is no slice, does not fit, or picks more than 10,000 elements; TraceError.
        """
        values = self.values()
        if text is None:
            cut: tuple[Any, ...] = (*[0] * (values.ndim - 2), *[slice(0, 8)] * min(2, values.ndim))
        else:
            cut = _cut(text)
        try:
            found = np.asarray(values[cut])
        except IndexError:
            raise InputError(f"--slice {names.display(text or '')} does not fit the shape {values.shape}") from None
        if found.size > MOST:
            raise InputError(
                f"--slice {names.display(text or '')} picks {found.size} elements, of which at most {MOST} are shown: "
                "tracer export writes them all"
            )
        return found


def _cut(text: str) -> tuple[Any, ...]:
    """``0,:,3`` or ``..., 1:9:2``. Raises InputError."""
    parts: list[Any] = []
    for word in text.strip().strip("[]").split(","):
        word = word.strip()
        if word == "...":
            parts.append(Ellipsis)
            continue
        try:
            numbers = [int(number) if number.strip() else None for number in word.split(":")]
        except ValueError:
            numbers = []
        if not numbers or len(numbers) > 3 or numbers == [None] or (len(numbers) == 3 and numbers[2] == 0):
            raise InputError(f'--slice wants numbers and ranges, such as "0,:,3" or "...,1:9": {names.display(text)}')
        parts.append(numbers[0] if len(numbers) == 1 else slice(*numbers))
    if parts.count(Ellipsis) > 1:
        raise InputError(f'--slice may hold "..." once: {names.display(text)}')
    return tuple(parts)


def find(recording: Recording, address: str | None) -> list[Found]:
    """The tensors that an address names, in running order; all activations where there is none.

    An address is a node's name, its twin's name in the reference, a pattern as ``tracer record --layers`` takes it, or
    one of these behind ``gradients/``; ``weights/LAYER/PARAMETER`` and ``gradients/weights/…``, or a parameter's whole
    name (``encoder.0.weight``). Raises InputError, with names that are near, for one that names nothing.
    """
    by_name = recording.structure.by_name
    if address is None:
        return [_activation(recording, node) for node in recording.structure]
    if address in by_name:
        return [_activation(recording, by_name[address])]
    if address.startswith(_WEIGHT_GRADIENT):
        return _weights(recording, "weight gradient", address.removeprefix(_WEIGHT_GRADIENT))
    if address.startswith(_WEIGHT):
        return _weights(recording, "weight", address.removeprefix(_WEIGHT))
    if address.startswith(_GRADIENT):
        nodes = _nodes(recording, address.removeprefix(_GRADIENT), set(recording.gradients))
        return [_gradient(recording, node) for node in nodes]
    parameter = _named(recording.weights, address)
    if parameter:
        return [_weight(recording, "weight", key) for key in parameter]
    return [_activation(recording, node) for node in _nodes(recording, address, None)]


def _nodes(recording: Recording, pattern: str, known: set[str] | None) -> list[Node]:
    """The nodes of a name or pattern; where ``known`` is given, those whose tensor is among them before others."""
    structure, keys = recording.structure, aligned_names(recording)
    if pattern in structure.by_name:
        return [structure.by_name[pattern]]
    exact = [node for node in structure if keys.get(node.name) == pattern]
    found = exact or [node for node in structure if matches(node, pattern, keys)]
    found = [node for node in found if known is None or recording.resolve(node.name) in known] or found
    if not found:
        shown = names.display(recording.name)
        raise InputError(f"'{names.display(pattern)}' is no layer of '{shown}'{near(structure, pattern)}")
    return found


def _activation(recording: Recording, node: Node) -> Found:
    summary = recording.summary(node.name) or {}
    return Found(recording, "activation", node.name, node, recording.stored(node.name), summary)


def _gradient(recording: Recording, node: Node) -> Found:
    stored = recording.gradients.get(recording.resolve(node.name))
    return Found(recording, "gradient", node.name, node, stored, {} if stored is None else stored.summary)


def _weight(recording: Recording, kind: Kind, key: tuple[str, str]) -> Found:
    stored = (recording.weights if kind == "weight" else recording.weight_gradients)[key]
    owner = next((node for node in recording.structure if node.owner == key[0]), None)
    return Found(recording, kind, "/".join(key), owner, stored, stored.summary)


def _named(index: Mapping[tuple[str, str], Stored], name: str) -> list[tuple[str, str]]:
    return [(owner, param) for owner, param in index if name in (f"{owner}/{param}", f"{owner}.{param}")]


def _weights(recording: Recording, kind: Kind, pattern: str) -> list[Found]:
    index = recording.weights if kind == "weight" else recording.weight_gradients
    found = _named(index, pattern) or [key for key in index if key[0] == pattern]
    found = found or [
        key for key in index if any(fnmatchcase(f"{key[0]}{dot}{key[1]}", pattern) for dot in "/.")
    ]  # fmt: skip
    if not found:
        what = "weight" if kind == "weight" else "gradient of a weight"
        every = ["/".join(key) for key in index]
        close = difflib.get_close_matches(pattern, every, 3, 0.4) or every[:3]
        there = f"; there is {', '.join(names.display(name, 60) for name in close)}" if close else ", it has none"
        raise InputError(f"'{names.display(pattern)}' is no {what} of '{names.display(recording.name)}'{there}")
    return [_weight(recording, kind, key) for key in found]


@dataclass(frozen=True)
class Twin:
    """What a node is paired with, and how that compares.

    Attributes:
        other: the recording that holds the twin.
        diff: the comparison as it was kept; None where the two were not compared yet.
        pair: of that; None where the node has no twin.
        unmatched: why it has none; empty where it has.
    """

    other: Recording
    diff: Diff | None
    pair: PairDiff | None
    unmatched: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values: the recording, and of the pair what ``tracer diff --json`` says."""
        found: dict[str, Any] = {"recording": self.other.name, "compared": self.diff is not None}
        if self.unmatched:
            return {**found, "verdict": str(Verdict.UNMATCHED), "reason": self.unmatched}
        return {**found, "pair": None if self.pair is None else self.pair.to_json()}


def twin(trace: Trace, found: Found) -> Twin | None:
    """The twin of an activation or gradient in the recording that this one was aligned to, or that was aligned to it.

    None where there is no such recording, or none that was made on the same input.
    """
    recording, node = found.recording, found.node
    if node is None or found.kind not in ("activation", "gradient"):
        return None
    with contextlib.suppress(TracerError):
        sides = _sides(trace, recording)
        if sides is None:
            return None
        side = int(sides[1] is recording)
        diff = recalled(*sides, "values" if found.kind == "activation" else "gradients")
        if diff is None:
            return Twin(sides[1 - side], None, None)
        own = [pair.pair.candidate if side else pair.pair.reference for pair in diff.pairs]
        for pair, nodes in zip(diff.pairs, own, strict=True):
            if node.name in nodes:
                return Twin(sides[1 - side], diff, pair)
        alone = (diff.alignment.unmatched_reference, diff.alignment.unmatched_candidate)[side]
        return Twin(sides[1 - side], diff, None, alone.get(node.name, "it is not compared by itself"))
    return None


def _sides(trace: Trace, recording: Recording) -> tuple[Recording, Recording] | None:
    """Reference and candidate, one of which is the recording. Raises TracerError."""
    above = recording.attributes.get("reference")
    if isinstance(above, str) and trace.has(above):
        reference = trace.recording(above)
        return (reference.at(recording.number) if isinstance(recording, Step) else reference), recording
    if isinstance(recording, Step):
        return None
    below = [
        other
        for other in trace.recordings()
        if other.attributes.get("reference") == recording.name and other.input_id == recording.input_id
    ]
    return (recording, below[-1]) if below else None


def described(found: Found) -> dict[str, Any]:
    """What is known of a tensor, as JSON values."""
    node, stored = found.node, found.stored
    return {
        "name": found.name,
        "kind": found.kind,
        "operation": None if node is None else node.label,
        "role": None if node is None else node.role,
        "shape": None if found.shape is None else list(found.shape),
        "dtype": found.dtype,
        "stored": None if stored is None else stored.dtype,
        "bytes": found.nbytes,
        "missing": found.missing or None,
        "statistics": found.statistics,
    }


def detailed(found: Found, beside: Twin | None, shown: Array | None) -> dict[str, Any]:
    """:func:`described`, and what is known of its node, its weights and its twin; ``shown`` are values to give."""
    node = found.node
    histogram = found.histogram()
    return {
        **described(found),
        "axes": list(axes(found)),
        "aligned": None if node is None else aligned_names(found.recording).get(node.name),
        "alias_of": None if node is None else node.alias_of,
        "settings": {} if node is None else node.to_json().get("config", {}),
        "layout": None if node is None else node.layout,
        "source": None if node is None else node.source,
        "parents": [] if node is None else list(node.parents),
        "readers": [] if node is None else list(found.recording.structure.children.get(node.name, ())),
        "weights": [described(one) for one in weights_of(found)],
        "twin": None if beside is None else beside.to_json(),
        "histogram": None if histogram is None or histogram.shares[0] is None else {
            "edges": histogram.edges.tolist(), "shares": histogram.shares[0].tolist(), "sampled": histogram.sampled,
        },
        "values": None if shown is None else plain(shown),
    }  # fmt: skip


def weights_of(found: Found) -> list[Found]:
    """The recorded parameters and buffers of an activation's layer."""
    node = found.node
    if node is None or found.kind != "activation" or not node.params:
        return []
    own = {(node.owner, param.name) for param in node.params}
    return [_weight(found.recording, "weight", key) for key in found.recording.weights if key in own]


def axes(found: Found) -> Sequence[str]:
    """Words for the axes of an activation or gradient."""
    if found.node is None or found.shape is None or "weight" in found.kind:
        return ()
    return tensors.axis_names(found.node, None, len(found.shape))


def plain(values: Array) -> Any:
    """Values as JSON ones: what is not finite, and complex numbers, as text."""
    if values.dtype.kind in "biu":
        return values.tolist()
    if values.dtype.kind == "c":
        return np.vectorize(str, otypes=[object])(values).tolist()
    wide = dtypes.as_float64(values)
    if np.isfinite(wide).all():
        return wide.tolist()
    return np.vectorize(lambda x: x if math.isfinite(x) else str(x), otypes=[object])(wide).tolist()
