"""How the target's weights are made of the source's: a short list of operations, from the two structures alone.

What is one to one, or several to one, is copied by the parameter map. Where one side has a BatchNorm and the other has
it folded into the layer before it, the weights are folded, or the BatchNorm is made one that does nothing. A bias that
the target's layer lacks goes into the mean of the BatchNorm behind it; one that the source's layer lacks is zero.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tracer import kinds
from tracer.alignment import Alignment
from tracer.alignment.atoms import of_node
from tracer.alignment.layouts import UNSETTLED
from tracer.alignment.owned import WHOLE, Key, described, keys
from tracer.alignment.parameters import FOLDED, INTO_WEIGHTS, SHIFTED, ParameterPair, Piece
from tracer.alignment.relayout import Steps
from tracer.configuration import settings
from tracer.graph import Node, Param, Structure
from tracer.names import display
from tracer.store import Recording

LEARNED = frozenset({"kernel", "recurrent_kernel", "bias", "gamma", "beta", "running_mean", "running_var"})
"""Roles without which a layer computes something else, whether they are trained or frozen."""
_BIASES = ("in_proj_bias", "bias_ih", "bias_hh")
"""How the names of biases begin that are no layer's only one."""
NEUTRAL = {"bias": 0.0, "beta": 0.0, "gamma": 1.0}
"""Values with which a parameter does what a layer without it does."""


@dataclass(frozen=True)
class Norm:
    """A BatchNorm: y = x · scale + shift, scale = gamma / √(variance + epsilon), shift = beta − mean · scale.

    ``gamma`` and ``beta`` are None where it has none.
    """

    owner: str
    gamma: Key | None
    beta: Key | None
    mean: Key
    variance: Key
    epsilon: float

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(key for key in (self.gamma, self.beta, self.mean, self.variance) if key is not None)


@dataclass(frozen=True)
class Copy:
    """Values of ``source`` read by ``source_steps`` are what ``target`` read by ``target_steps`` must give.

    Attributes:
        folded: the source's BatchNorm that is multiplied in along the last axis of the common layout.
        shifts: whether it is the layer's bias, to which the BatchNorm's shift is added. Where ``source`` is then
            empty the layer has no bias, and the shift is all.
        words: what is done, for a reader.
        confidence: that the two are the same, 0 to 1.
    """

    source: tuple[Key, ...]
    source_steps: Steps
    target: tuple[Key, ...]
    target_steps: Steps
    words: str
    confidence: float = 1.0
    folded: Norm | None = None
    shifts: bool = False


@dataclass(frozen=True)
class Absorb:
    """A parameter of the source that the target's layer lacks goes into the statistics of the target's BatchNorm.

    A bias of the layer before it is taken off its mean (``into``), and so is its own beta, divided by the scale of the
    source's ``norm``; its own gamma, where that is positive, widens its variance to (variance + epsilon) / gamma² −
    epsilon. In training, where the statistics are those of the batch, a bias still makes no difference, and beta and
    gamma do. ``epsilon`` is the target's.
    """

    source: Key
    into: Key
    words: str
    epsilon: float | None = None
    norm: Norm | None = None


@dataclass(frozen=True)
class Fill:
    """``target`` is ``value`` throughout."""

    target: Key
    value: float
    words: str


Operation = Copy | Absorb | Fill


@dataclass(frozen=True)
class Plan:
    """What is done, in order, and what is not.

    Attributes:
        operations: run in this order; an :class:`Absorb` comes after what makes its mean.
        kept: parameters of the target that rightly keep their values, with the reason.
        missing: parameters of the target of which nothing is known, with the reason.
        left_over: parameters of the source that nothing takes, with the reason.
        spent: those that rightly need no place, with the reason.
        neutral: of those left over the ones that may be left out if all their values are this.
        spare: of those left over the ones that may be left out if they hold the same as this other one of the source.
    """

    operations: tuple[Operation, ...]
    kept: Mapping[Key, str]
    missing: Mapping[Key, str]
    left_over: Mapping[Key, str]
    spent: Mapping[Key, str]
    neutral: Mapping[Key, float]
    spare: Mapping[Key, Key]


def plan(alignment: Alignment, source: Recording, target: Recording, *, turned: bool = False) -> Plan:
    """How the weights of ``target`` are made of those of ``source``.

    ``alignment`` has the source as its reference, or with ``turned`` as its candidate.
    """
    pairs = [_turned(pair) for pair in alignment.parameters.pairs] if turned else alignment.parameters.pairs
    ours, theirs = alignment.parameters.unmatched_reference, alignment.parameters.unmatched_candidate
    nodes = [
        (pair.candidate, pair.reference) if turned else (pair.reference, pair.candidate) for pair in alignment.pairs
    ]
    return _Planner(
        _Side(source.structure, theirs if turned else ours, source),
        _Side(target.structure, ours if turned else theirs, target),
        pairs, nodes,
    ).plan()  # fmt: skip


def _turned(pair: ParameterPair) -> ParameterPair:
    pieces = tuple(
        Piece(piece.candidate, piece.candidate_steps, piece.reference, piece.reference_steps) for piece in pair.pieces
    )
    return replace(pair, reference=pair.candidate, candidate=pair.reference, pieces=pieces)


class _Side:
    """One model: its nodes, its parameters, and what the map says of those without a twin."""

    def __init__(self, structure: Structure, unmatched: Mapping[Key, str], recording: Recording) -> None:
        self.structure = structure
        self.unmatched = {key: why for key, why in unmatched.items() if key in recording.weights}
        self.params: Mapping[Key, Param] = described(structure)
        self._stored = recording.weights
        self.by_node = dict(zip((node.name for node in structure), keys(structure.nodes), strict=True))
        self.nodes_of: dict[Key, list[str]] = {}
        for name, found in self.by_node.items():
            for key in found:
                self.nodes_of.setdefault(key, []).append(name)

    def whole(self, key: Key) -> bool:
        """Whether it holds whole numbers or truth values."""
        return self._stored[key].dtype in WHOLE

    def read(self, key: Key) -> bool:
        """Whether a node that is no mere container lists it."""
        return any(self.structure.by_name[name].role != "container" for name in self.nodes_of.get(key, ()))

    def shape(self, key: Key) -> tuple[int, ...]:
        return tuple(self._stored[key].shape)

    def looks(self, key: Key) -> tuple[str, tuple[int, ...]]:
        """What a parameter without a layer is recognised by: its own name and its shape."""
        return re.split(r"[./]", key[1])[-1], self.shape(key)

    def role(self, key: Key) -> str:
        kind = self.structure.by_name[self.nodes_of[key][0]].kind if key in self.nodes_of else ""
        role = kinds.parameter_role(kind, key[1].replace("/", ".").rpartition(".")[2])
        return "bias" if role.startswith(_BIASES) else role

    def one(self, keys: tuple[Key, ...]) -> Steps:
        """The step that makes one of a cell's two biases, be they two parameters or two rows of one."""
        if len(keys) > 1:
            return (("sum",),)
        return (("fold",),) if len(self.shape(keys[0])) > 1 else ()

    def tied(self, name: str) -> Key | None:
        """The embedding's table that a dense layer without a kernel of its own uses, where only one has its shape."""
        node = self.structure.by_name[name]
        above = self.structure.by_name.get(node.parents[0]) if node.parents else None
        if node.kind != "dense" or self.by_node[name] or above is None or not above.shape or not node.shape:
            return None
        tables = {
            key
            for found in self.structure
            for key in self.by_node[found.name]
            if found.kind == "embedding" and self.shape(key) == (node.shape[-1], above.shape[-1])
        }
        return tables.pop() if len(tables) == 1 else None

    def norm(self, node: Node) -> Norm | None:
        """A BatchNorm's parameters; None where it is none, or keeps no statistics."""
        if node.kind != "batchnorm":
            return None
        roles = {self.role(key): key for key in self.by_node[node.name]}
        epsilon = settings(node, self.structure).get("epsilon")
        if "running_mean" not in roles or "running_var" not in roles or not isinstance(epsilon, int | float):
            return None
        owner = roles["running_mean"][0]
        return Norm(
            owner, roles.get("gamma"), roles.get("beta"), roles["running_mean"], roles["running_var"], float(epsilon)
        )

    def norm_of(self, key: Key) -> Norm | None:
        """The BatchNorm that a parameter is of."""
        found = (self.norm(self.structure.by_name[name]) for name in self.nodes_of.get(key, ()))
        return next((norm for norm in found if norm is not None), None)

    def behind(self, key: Key) -> Norm | None:
        """The BatchNorm that alone reads the layer of a parameter."""
        names = self.nodes_of.get(key, ())
        if len(names) != 1:
            return None
        name = names[0]
        for _ in range(4):  # what only hands a tensor on
            behind = self.structure.children[name]
            if len(behind) != 1:
                return None
            node = self.structure.by_name[behind[0]]
            if node.kind == "batchnorm":
                return self.norm(node)
            if node.alias_of is None and node.kind not in ("dropout", "identity"):
                return None
            name = node.name
        return None


class _Planner:
    def __init__(
        self,
        source: _Side,
        target: _Side,
        pairs: Iterable[ParameterPair],
        nodes: Sequence[tuple[tuple[str, ...], tuple[str, ...]]],
    ) -> None:
        self.source, self.target, self.pairs, self.nodes = source, target, list(pairs), nodes
        self.operations: list[Operation] = []
        self.made: dict[Key, Copy] = {}
        self.used: set[Key] = set()
        self.owners: dict[str, set[str]] = {}
        for pair in self.pairs:
            for key in pair.candidate:
                self.owners.setdefault(key[0], set()).update(own for own, _ in pair.reference)

    def plan(self) -> Plan:
        norms = {side: self._norms(side) for side in (self.source, self.target)}
        for pair in self.pairs:
            self._copy(pair, norms)
        self._by_name()
        kept, missing = self._without_source(norms[self.target])
        left_over, spent, neutral, spare = self._without_target(norms[self.source])
        return Plan(tuple(self.operations), kept, missing, left_over, spent, neutral, spare)

    @staticmethod
    def _norms(side: _Side) -> dict[str, Norm]:
        """By owner, those of which the map says that the other side has them in the weights of a layer."""
        folded = {key[0] for key, why in side.unmatched.items() if why.startswith(INTO_WEIGHTS)}
        found = (side.norm(node) for node in side.structure)
        return {norm.owner: norm for norm in found if norm is not None and norm.owner in folded}

    # -- what has a twin ---------------------------------------------------------------------------------------------

    def _copy(self, pair: ParameterPair, norms: Mapping[_Side, Mapping[str, Norm]]) -> None:
        word, _, owner = pair.relation.partition(": ")
        norm = norms[self.source].get(owner) if word in (FOLDED, SHIFTED) else None
        into = norms[self.target].get(owner) if word in (FOLDED, SHIFTED) else None
        for piece in pair.pieces:
            words = pair.relation
            made = Copy(
                piece.reference, piece.reference_steps, piece.candidate, piece.candidate_steps, words, pair.confidence,
            )  # fmt: skip
            if norm is not None and word == FOLDED:
                made = replace(made, folded=norm, shifts=pair.role == "bias", words=f"scaled by {display(norm.owner)}")
            elif norm is not None:
                made = replace(
                    made, source=(), source_steps=(), folded=norm, shifts=True, words=f"shift of {display(norm.owner)}"
                )
            elif into is not None:
                made = replace(made, words=f"as it is: {display(into.owner)} is made to do nothing")
            elif pair.relation.startswith(UNSETTLED):
                made = replace(
                    made,
                    source_steps=(*made.source_steps, *self.source.one(made.source)),
                    target_steps=(*made.target_steps, *self.target.one(made.target)),
                    words="the sum of both biases, of which one side keeps one",
                )
            self._add(made)

    def _add(self, made: Copy) -> None:
        self.operations.append(made)
        self.used.update(made.source, made.folded.keys if made.folded is not None else ())
        for key in made.target:
            self.made.setdefault(key, made)

    def _by_name(self) -> None:
        """Parameters that no layer of either side used in the recorded run, such as those of training alone."""
        idle = [
            [key for key in side.unmatched if not side.read(key) and not side.whole(key)]
            for side in (self.source, self.target)
        ]
        looks = [Counter(map(side.looks, keys)) for side, keys in zip((self.source, self.target), idle, strict=True)]
        theirs = {self.target.looks(key): key for key in idle[1]}
        for key in idle[0]:
            look = self.source.looks(key)
            if looks[0][look] == looks[1][look] == 1:
                self._add(Copy((key,), (), (theirs[look],), (), "as it is: of the same name and shape", 0.8))

    # -- what the target has and the source has not ------------------------------------------------------------------

    def _without_source(self, idle: Mapping[str, Norm]) -> tuple[dict[Key, str], dict[Key, str]]:
        kept: dict[Key, str] = {}
        missing: dict[Key, str] = {}
        for norm in idle.values():
            words = "does nothing: it is in the weights before it"
            values = ((norm.gamma, 1.0), (norm.beta, 0.0), (norm.mean, 0.0), (norm.variance, 1.0 - norm.epsilon))
            self.operations += [
                Fill(key, value, words) for key, value in values if key is not None and key not in self.made
            ]
        filled = {made.target for made in self.operations if isinstance(made, Fill)}
        for key, why in self.target.unmatched.items():
            if key in filled or key in self.made:
                continue
            role = self.target.role(key)
            again = self._again(key)
            if again is not None:
                self._add(again)
            elif role in NEUTRAL and (twins := self.owners.get(key[0]) or self._bare(key)):
                owner = display(min(twins))
                self.operations.append(Fill(key, NEUTRAL[role], f"{owner} has no {role}: {NEUTRAL[role]:g} is none"))
            elif why.startswith(("a counter", "whole numbers")):
                kept[key] = why
            elif key not in self.target.nodes_of:
                kept[key] = "no layer used it in the recorded run"
            elif role not in LEARNED and not self.target.params[key].trainable:
                kept[key] = "not learned: the model's own"
            else:
                missing[key] = why
        return kept, missing

    def _bare(self, key: Key) -> set[str]:
        """The source's layers of the same kind, without any parameters, whose outputs are its layer's."""
        names = set(self.target.nodes_of.get(key, ()))
        wanted = {self.target.structure.by_name[name].kind for name in names}
        found = set()
        for ours, theirs in self.nodes:
            for name in ours if names & set(theirs) else ():
                if self.source.structure.by_name[name].kind in wanted and not self.source.by_node[name]:
                    found.add(name)
        return found

    def _again(self, key: Key) -> Copy | None:
        """The source uses one parameter where the target has several of it: what another copy of it is made of."""
        names = set(self.target.nodes_of.get(key, ()))
        twins = {name for ours, theirs in self.nodes if names & set(theirs) for name in ours}
        rivals = {key for name in twins for key in self.source.by_node.get(name, ())}
        for made in dict.fromkeys(self.made.values()):
            (other,) = made.target if len(made.target) == 1 else (None,)
            if (
                other is not None and rivals & set(made.source) and made.folded is None
                and self.target.role(other) == self.target.role(key)
                and self.target.shape(other) == self.target.shape(key)
            ):  # fmt: skip
                return replace(made, target=(key,), words=f"{made.words}, as {display('.'.join(other))}")
        return self._untied(key, twins)

    def _untied(self, key: Key, twins: Iterable[str]) -> Copy | None:
        """What the kernel of a layer is made of whose twin uses the table of an embedding."""
        node = self.target.structure.by_name[self.target.nodes_of[key][0]] if key in self.target.nodes_of else None
        tables = {found for name in twins if (found := self.source.tied(name)) is not None}
        if node is None or len(tables) != 1 or self.target.role(key) != "kernel":
            return None
        (table,) = tables
        shape = self.source.shape(table)[::-1]
        slots = [slot for atom in of_node(node, 0) for slot in atom.slots if (slot.keys, slot.shape) == ((key,), shape)]
        moved = "as it is" if self.source.shape(table) == self.target.shape(key) else "transpose"
        words = f"{moved}: {display('.'.join(table))}, to which its twin is tied"
        turned: Steps = (("move", 1, 0),)  # a table is (in, out) the other way round
        return Copy((table,), turned, (key,), slots[0].steps, words, 0.95) if slots else None

    # -- what the source has and the target has not ------------------------------------------------------------------

    def _without_target(
        self, folded: Mapping[str, Norm]
    ) -> tuple[dict[Key, str], dict[Key, str], dict[Key, float], dict[Key, Key]]:
        left_over: dict[Key, str] = {}
        neutral: dict[Key, float] = {}
        spare: dict[Key, Key] = {}
        spent: dict[Key, str] = {}
        inside = {key for norm in folded.values() for key in norm.keys}
        for key, why in self.source.unmatched.items():
            if key in self.used or key in inside or why.startswith(("a counter", "whole numbers")):
                continue
            if key not in self.source.nodes_of:
                spent[key] = "no layer used it in the recorded run"
                continue
            role = self.source.role(key)
            if role not in LEARNED and not self.source.params[key].trainable:
                spent[key] = "not learned: the model's own"
                continue
            absorbed = self._absorbed(key, role)
            if absorbed is not None:
                self.operations.append(absorbed)
                continue
            left_over[key] = why
            if role in NEUTRAL:
                neutral[key] = NEUTRAL[role]
            twin = self._used_in_its_place(key)
            if twin is not None:
                spare[key] = twin
        return left_over, spent, neutral, spare

    def _absorbed(self, key: Key, role: str) -> Absorb | None:
        """How the target's BatchNorm takes up what its layers have no place for."""
        owner = display(key[0])
        if role == "bias":  # both have a BatchNorm behind it
            norm = self.source.behind(key)
            made = None if norm is None else self._made_of(norm.mean)
            return None if made is None else Absorb(key, made.target[0], f"less {owner}'s bias, which its twin lacks")
        if role == "gamma":
            norm = self.source.norm_of(key)
            made = None if norm is None else self._made_of(norm.variance)
            twin = None if made is None else self.target.norm_of(made.target[0])
            if made is not None and twin is not None:
                return Absorb(key, made.target[0], f"widened by {owner}'s gamma, which it lacks", twin.epsilon)
        if role == "beta":
            norm = self.source.norm_of(key)
            made = None if norm is None else self._made_of(norm.mean)
            twin = None if made is None else self.target.norm_of(made.target[0])
            if made is not None and twin is not None:
                words = f"less {owner}'s beta over its scale, which it lacks"
                return Absorb(key, made.target[0], words, twin.epsilon, norm)
        return None

    def _made_of(self, key: Key) -> Copy | None:
        """What one parameter of the target was made of this one, as it is."""
        return next(
            (
                made for made in self.made.values()
                if made.source == (key,) and len(made.target) == 1 and not made.source_steps and not made.target_steps
            ),
            None,
        )  # fmt: skip

    def _used_in_its_place(self, key: Key) -> Key | None:
        """The parameter of the source that the target's layer of the same place was made of."""
        names = set(self.source.nodes_of.get(key, ()))
        twins = {name for ours, theirs in self.nodes if names & set(ours) for name in theirs}
        for name in sorted(twins):
            tied = self.target.tied(name)
            for other in self.target.by_node.get(name, ()) or filter(None, (tied,)):
                made = self.made.get(other)
                alike = made is not None and len(made.source) == 1
                if made is not None and alike and (tied or self.source.role(made.source[0]) == self.source.role(key)):
                    return made.source[0]
        return None
