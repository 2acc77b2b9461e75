"""Weights of two steps: whether they differ, and what the one is of the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracer import kinds, relations
from tracer.causes import fused
from tracer.causes.case import Case, layer_of
from tracer.causes.edit import Edit, weights
from tracer.causes.operations.recurrent import GATES
from tracer.causes.orders import Orders, brought, orders
from tracer.causes.step import Array, Step
from tracer.errors import TraceError
from tracer.relations import alike

_STATISTICS = ("running_mean", "running_var")
_WEAK = ("weights-not-loaded", "weights-perturbed")
_PADDING = 2
"""Ids for padding, at most."""
_PARTS = ("queries", "keys", "values")
_NEUTRAL = {"gamma": 1.0, "running_var": 1.0}


@dataclass(frozen=True)
class Told:
    """What a weight is of the other side's: the cause, a sentence, what to do, and other names of the same."""

    cause: str
    what: str
    fix: str = ""
    same: tuple[str, ...] = ()


def differences(case: Case, ours: Step, theirs: Step) -> Iterator[Edit]:
    """The weights that differ, as edits that give our step theirs, each under the name of what it looks like."""
    order = orders(case, ours, theirs)
    theirs = replace(theirs, weights={role: brought(ours, role, its, order) for role, its in theirs.weights.items()})
    node = _named(case, ours, theirs)
    together = _together(case, ours, theirs) or _directions(case, ours, theirs)
    together = together or fused.folded(case, ours, theirs, node)
    if together is not None:
        yield together
        return
    skipped: set[str] = set()
    if (parts := _parted(case, ours, theirs)) is not None:
        edits = fused.projections(case, ours, theirs, parts, node)
        skipped = set(parts.roles) if edits else set()
        yield from edits
    if ours.kind in kinds.RECURRENT:
        turned, ours = fused.gates(case, ours, theirs, node)
        if turned is not None:
            yield turned
        skipped = {role for role in (*ours.weights, *theirs.weights) if "bias" in role}
    found: dict[str, list[tuple[str, Told]]] = {}
    for both, of_both in _biases(case, ours, theirs) if ours.kind in kinds.RECURRENT else ():
        found.setdefault(of_both.cause, []).extend((role, of_both) for role in both)
    for role in dict.fromkeys((*ours.weights, *theirs.weights)):
        mine, its = ours.weights.get(role), theirs.weights.get(role)
        if role in skipped:
            continue
        if mine is None or its is None:
            if (told := _alone(case, ours, theirs, role, mine, its)) is not None:
                found.setdefault(told.cause, []).append((role, told))
        elif not alike(mine, its):
            told = _Weighed(case, ours, theirs, role, *_joined(ours, role, mine, its), order).told()
            found.setdefault(told.cause, []).append((role, told))
    # What is true of the kernel is true of the bias: of a few numbers it cannot be seen.
    beside = [(cause, _WEAK) for cause in ("weights-swapped", "rnn-direction", "qkv-order")]
    one = [("weights-not-loaded", ("weights-perturbed",)), ("depthwise-order", ("channel-order",))]
    for strong, weak in (*beside, *one):
        if strong in found:
            for cause in weak:
                found[strong] += found.pop(cause, [])
    if "bn-stats" in found and _moved_up(ours, theirs):  # the others are what that left
        for cause in _WEAK:
            found["bn-stats"] += found.pop(cause, [])
    if "weights-not-loaded" in found:  # of a bias of few numbers even one that was never loaded may look alike
        found["weights-not-loaded"] += found.pop("weights-perturbed", [])
    for cause, which in found.items():
        roles = [role for role, _ in which]
        first = which[0][1]
        what = "; ".join(dict.fromkeys(told.what for _, told in which))
        values = {role: theirs.weights.get(role) for role in roles}
        yield Edit(
            cause, what, weights(ours.name, **values), ours.name, theirs.name, ", ".join(roles), fix=first.fix,
            seen=True, cost=1.2, same=first.same,
        )  # fmt: skip


def _alone(case: Case, ours: Step, theirs: Step, role: str, mine: Array | None, its: Array | None) -> Told | None:
    held = mine if mine is not None else its
    assert held is not None
    if np.all(held == _NEUTRAL.get(role, 0.0)):
        return None
    have, lack = (case.other, case.doer) if mine is not None else (case.doer, case.other)
    node = _named(case, ours, theirs)
    cause = "bias-missing" if "bias" in role or role == "beta" else "weights-not-loaded"
    if role == "operand":  # a layer scale, a bias of one's own: what a number stands for on the other side
        cause = {"mul": "scale", "div": "scale", "add": "bias-missing", "sub": "bias-missing"}.get(ours.kind, cause)
    what = f"{_label(ours, role)} is in the {have} only"
    fix = f"give {node} the reference's {role}" if lack == "candidate" else f"leave out the {role} of {node}"
    return Told(cause, what, fix)


def _together(case: Case, ours: Step, theirs: Step) -> Edit | None:
    """What is true of two weights at once."""
    gamma, beta = (ours.weights.get(role) for role in ("gamma", "beta"))
    other, shift = (theirs.weights.get(role) for role in ("gamma", "beta"))
    if gamma is None or beta is None or other is None or shift is None or gamma.shape != beta.shape:
        return None
    if alike(gamma, shift) and alike(beta, other) and not alike(gamma, other):
        node = _named(case, ours, theirs)
        return Edit(
            "bn-stats", f"gamma and beta of {ours.name} have changed places",
            weights(ours.name, gamma=other, beta=shift), ours.name, theirs.name, "gamma, beta",
            fix=f"load gamma as the weight of {node} and beta as its bias", seen=True, cost=1.2,
        )  # fmt: skip
    return None


def _moved_up(ours: Step, theirs: Step) -> bool:
    """Whether a weight of theirs is another one of ours."""
    return any(
        role != other and not alike(ours.weights.get(role, np.zeros(0)), its) and its.size > 1 and alike(mine, its)
        for role, its in theirs.weights.items()
        for other, mine in ours.weights.items()
    )


def _directions(case: Case, ours: Step, theirs: Step) -> Edit | None:
    """The two directions of a recurrent layer that stand for one another."""
    ends = [role for role in ours.weights if f"{role}_reverse" in ours.weights]
    turned = [(role, f"{role}_reverse") for role in ends] + [(f"{role}_reverse", role) for role in ends]
    pairs = [(ours.weights[a], theirs.weights[b]) for a, b in turned if a in ours.weights and b in theirs.weights]
    kernels = [pair for pair in pairs if pair[0].ndim > 2]
    if ours.kind not in kinds.RECURRENT or len(kernels) < 2 or not all(alike(mine, its) for mine, its in kernels):
        return None
    if all(alike(ours.weights[role], theirs.weights[role]) for role in ends if role in theirs.weights):
        return None
    roles = [role for pair in turned[: len(ends)] for role in pair]
    return Edit(
        "rnn-direction", f"the forward and backward weights of {ours.name} have changed places in the {case.doer}",
        weights(ours.name, **{role: theirs.weights.get(role) for role in roles}), ours.name, theirs.name,
        ", ".join(roles), fix=f"exchange the forward and backward weights of {_named(case, ours, theirs)}", seen=True,
        cost=1.2,
    )  # fmt: skip


def _parted(case: Case, ours: Step, theirs: Step) -> fused.Parts | None:
    """Queries, keys and values that a step makes at once; None where it makes none."""
    if ours.kind == "attention":
        return fused.of_attention(ours, theirs)
    if ours.kind != "dense" or theirs.kind != "dense" or not fused.attends(case.ours.recording.structure, ours.name):
        return None
    return fused.of_dense(ours, theirs)


def _joined(step: Step, role: str, mine: Array, its: Array) -> tuple[Array, Array]:
    """Weights of attention with one axis for heads and features together."""
    if step.kind != "attention" or mine.shape != its.shape or mine.ndim < 2:
        return mine, its
    if role == "output_kernel":
        return mine.reshape(-1, mine.shape[-1]), its.reshape(-1, mine.shape[-1])
    lead = mine.shape[:-2] or ()
    return mine.reshape(*lead, -1), its.reshape(*lead, -1)


def _biases(case: Case, ours: Step, theirs: Step) -> Iterator[tuple[tuple[str, str], Told]]:
    """The two biases of a recurrent layer, of which mostly the sum counts, and what they are of the other side's."""
    for role in dict.fromkeys(role.removeprefix("recurrent_") for role in (*ours.weights, *theirs.weights)):
        if not role.startswith("bias"):
            continue
        back = f"recurrent_{role}"
        pairs = [(step.weights.get(role), step.weights.get(back)) for step in (ours, theirs)]
        held = [value for pair in pairs for value in pair if value is not None]
        if any(value.shape != held[0].shape for value in held):
            continue
        none = np.zeros_like(held[0])
        (plain, again), (its_plain, its_again) = [tuple(none if v is None else v for v in pair) for pair in pairs]
        if fused.sums_alike(ours, (plain, again), (its_plain, its_again)):
            continue
        mine, its = plain + again, its_plain + its_again
        what = fused.doubled(case, ours, (plain, again), (its_plain, its_again))
        told = Told("rnn-bias", what, f"give {_named(case, ours, theirs)} each bias once")
        yield (role, back), told if what else _Weighed(case, ours, theirs, role, mine, its, Orders()).told()


def _named(case: Case, ours: Step, theirs: Step) -> str:
    """The candidate's node."""
    side, name = (case.ours, ours.name) if case.turned_round else (case.theirs, theirs.name)
    structure = side.recording.structure
    return layer_of(structure, name).name if name in structure.by_name else name


def _label(step: Step, role: str) -> str:
    return f"the {role} of {step.name}"


def _within(order: Array) -> str:
    """The thirds of a fused projection that are reordered in themselves by head and feature."""
    width, rest = divmod(len(order), 3)
    thirds = [] if rest else [order[k * width : (k + 1) * width] - k * width for k in range(3)]
    moved = [k for k, third in enumerate(thirds) if not np.array_equal(third, np.arange(width))]
    if not moved or any(np.any((thirds[k] < 0) | (thirds[k] >= width)) for k in moved):
        return ""
    if any(relations.factored(thirds[k]) is None for k in moved):
        return ""
    return " and ".join(_PARTS[k] for k in moved)


@dataclass(frozen=True)
class _Weighed:
    """A weight of ours and its twin, brought into our order."""

    case: Case
    ours: Step
    theirs: Step
    role: str
    mine: Array
    its: Array
    order: Orders

    @property
    def node(self) -> str:
        return _named(self.case, self.ours, self.theirs)

    @property
    def label(self) -> str:
        return _label(self.ours, self.role)

    def say(self, cause: str, what: str, fix: str = "", same: Sequence[str] = ()) -> Told:
        return Told(cause, f"{self.label} {what}", fix, tuple(same))

    def told(self) -> Told:
        """The first of the tests that knows it, those that can hardly be wrong first."""
        tests: list[Callable[[], Told | None]] = [self._shape, self._constant, self._statistics]
        if self.mine.shape == self.its.shape and relations.same_values(self.mine, self.its):
            tests += [self._recurrent, self._axes, self._places]
        tests += [self._blank, self._rounded, self._multiple, self._added, self._shifted, self._beside]
        tests += [self._elsewhere, self._parts]
        for test in tests:
            if (found := test()) is not None:
                return found
        return self._unlike()

    # --- one test each ---------------------------------------------------------------------------------------------

    def _shape(self) -> Told | None:
        if self.mine.shape == self.its.shape:
            return None
        shapes = f"{self.mine.shape} in the {self.case.other}, {self.its.shape} in the {self.case.doer}"
        if self.mine.size == self.its.size and relations.same_values(self.mine, self.its):
            return self.say("kernel-layout", f"has other axes: {shapes}", f"reshape the {self.role} of {self.node}")
        cause = "activation-param" if self.ours.kind == "prelu" else "weights-not-loaded"
        return self.say(cause, f"has another shape: {shapes}")

    def _constant(self) -> Told | None:
        """One side still has what a new layer begins with."""
        if self.role in _STATISTICS:
            return None
        for values, side in ((self.its, self.case.doer), (self.mine, self.case.other)):
            if values.size > 1 and np.all(values == values.flat[0]) and values.flat[0] in (0.0, 1.0):
                word = "zeros" if values.flat[0] == 0 else "ones"
                what = f"is all {word} in the {side}, as a new layer begins"
                cause = "bias-missing" if "bias" in self.role and word == "zeros" else "weights-not-loaded"
                return self.say(cause, what, f"load the {self.role} of {self.node}")
        return None

    def _statistics(self) -> Told | None:
        if self.ours.kind not in kinds.NORMALISATIONS:
            return None
        mine, its, fix = self.mine, self.its, f"load the {self.role} of {self.node}"
        if self.role in _STATISTICS:
            begins = float(self.role == "running_var")
            for values, side in ((its, self.case.doer), (mine, self.case.other)):
                if np.all(values == begins):
                    return self.say("bn-stats", f"is still {begins:g} everywhere in the {side}: never loaded", fix)
        if self.role == "running_var":
            if alike(np.sqrt(np.abs(mine)), its):
                return self.say("bn-stats", f"is a standard deviation in the {self.case.doer}", "square it")
            if alike(np.square(mine), its):
                return self.say("bn-stats", f"is squared in the {self.case.doer}", "take its root")
        for role, other in self.ours.weights.items():
            if role != self.role and other.shape == its.shape and alike(other, its) and other.size > 1:
                return self.say("bn-stats", f"is the {role} in the {self.case.doer}", fix)
        if self.role in _STATISTICS and not relations.same_values(mine, its):
            if (told := self._elsewhere()) is not None:
                return told
            near = relations.correlation(mine, its)
            return self.say("bn-stats", f"differs (correlation {near:.2f}): other statistics", fix)
        return None

    def _recurrent(self) -> Told | None:
        """The gates, of which each weight of a recurrent layer has an axis."""
        stem = self.ours.kind.removesuffix("_cell")
        if self.ours.kind not in kinds.RECURRENT or self.mine.ndim < 2 or self.mine.shape[-2] != len(GATES[stem]):
            return None
        order = relations.permutation(self.mine, self.its, self.mine.ndim - 2)
        if order is None:
            return None
        text = ", ".join(GATES[stem][i] for i in order)
        what = f"has its gates in the order {text} in the {self.case.doer}, not {', '.join(GATES[stem])}"
        return self.say(f"{stem}-gate-order", what, f"reorder the gates of the weights of {self.node}")

    def _axes(self) -> Told | None:
        mine, its, kind = self.mine, self.its, self.ours.kind
        if self.role not in ("kernel", "recurrent_kernel", "depthwise_kernel", "operand") or mine.ndim < 2:
            return None
        rank = mine.ndim - 2
        order = relations.transposed(mine, its)
        if mine.ndim == 2:
            if order is not None:
                return self.say("dense-transpose", "is transposed", f"transpose the kernel of {self.node}")
        elif order is not None:
            words = [*("spatial axes" for _ in range(rank)), "inputs", "outputs"]
            if self.ours.kind in kinds.RECURRENT:
                words = ["inputs", "gates", "outputs"]
            moved = dict.fromkeys(words[a] for a, b in enumerate(order) if a != b)
            what = f"has its axes in another order ({' and '.join(moved)} exchanged)"
            return self.say("kernel-layout", what, f"permute the kernel of {self.node} by {order}")
        axes = None if self.ours.kind in kinds.RECURRENT else relations.flipped(mine, its, range(rank))
        if axes is not None:
            what = "is flipped: a true convolution against a cross-correlation"
            return self.say("kernel-flip", what, f"flip the kernel of {self.node} along its spatial axes")
        if kind.startswith("depthwise") or (mine.ndim > 2 and mine.shape[-2] == 1 < mine.shape[-1]):
            order_of = relations.permutation(mine, its, mine.ndim - 1)
            if order_of is not None:
                what = "has its channels in another order: channel and multiplier"
                if relations.factored(order_of) is None:
                    what = "has its channels in another order"
                return self.say("depthwise-order", what, f"reorder the channels of the kernel of {self.node}")
        memory = relations.laid(mine, its)
        if memory is not None and relations.permutation(mine, its, mine.ndim - 2) is None:
            cause = "dense-transpose" if mine.ndim == 2 else "kernel-layout"
            return self.say(
                cause, "was reshaped where its axes had to be permuted", f"permute the kernel of {self.node}"
            )
        return None

    def _places(self) -> Told | None:
        """Slices of one axis in another order; both inputs and outputs where neither alone will do."""
        mine, its = self.mine, self.its
        if mine.ndim == 1:
            order = relations.permutation(mine, its, 0)
            return None if order is None else self._outputs(order)
        # Between the inputs and the outputs of a recurrent layer stand the gates, which the outputs may move with.
        inner = (
            (mine.ndim - 3, mine.ndim - 2) if self.ours.kind in kinds.RECURRENT and mine.ndim > 2 else (mine.ndim - 2,)
        )
        rows, columns = inner[0], mine.ndim - 1
        places = self.role == "operand" and self.ours.kind in ("add", "sub")
        if self.ours.kind == "embedding" or places:  # what is added of more than one axis is a table of places
            found = relations.permutation(mine, its, rows)
            if found is not None:
                return self._table(found)
        if (order := relations.permutation(mine, its, rows)) is not None:
            return self._inputs(order)
        if (order := relations.permutation(mine, its, columns)) is not None:
            return self._outputs(order)
        for axis in inner:
            order = relations.permutation(mine, its, axis, loose=True)
            if order is None:
                continue
            if (rest := relations.permutation(np.take(mine, order, axis), its, columns)) is not None:
                found_in, found_out = self._inputs(order), self._outputs(rest)
                what = f"has both its {'inputs' if axis == rows else 'gates'} and its outputs in another order"
                return self.say(found_in.cause, what, f"{found_in.fix}; {found_out.fix}", (found_out.cause,))
        return self.say(
            "kernel-layout", "holds the same numbers in another order", f"reorder the {self.role} of {self.node}"
        )

    def _table(self, order: Array) -> Told:
        shift = int(order[0])
        if np.array_equal(np.roll(np.arange(len(order)), -shift), order):
            by = shift if shift <= len(order) // 2 else shift - len(order)
            return self._rolled(-by)
        return self.say("embedding-offset", "has its rows in another order", f"reorder the rows of {self.node}")

    def _rolled(self, by: int) -> Told:
        what = f"has its rows shifted by {by:+d} in the {self.case.doer}"
        return self.say("embedding-offset", what, f"shift the rows of {self.node} back, or the ids")

    def _inputs(self, order: Array) -> Told:
        """The order of the inputs: of a flatten above, of branches that are joined, or of channels."""
        words = f"the rows of the kernel of {self.node}"
        shapes = self.order.shapes
        found = relations.factored(order, shapes)
        if self.order.raw is not None and alike(self.mine, self.order.raw.get(self.role, self.its)):
            what = "was taken over as it is, though the two sides flatten in another order"
            fix = f"reorder {words} to the order of its flatten"
            if self.order.turned:
                return self.say("flatten-order", what, fix, ("dense-row-order",))
            return self.say("dense-row-order", what, fix, ("flatten-order",))
        if found is not None and any(math.prod(shape) == len(order) for shape in shapes):
            what = f"has its rows in the order of another flatten: {found[0]} read in the order {found[1]}"
            names = ["dense-row-order", "flatten-order"]
            fix = f"reorder {words}, or flatten in the reference's order before {self.node}"
            if self.order.turned:
                names.reverse()
                what += "; the flatten does not read its axes as they stand"
            return self.say(names[0], what, fix, names[1:])
        return self._channels(order, "inputs", found)

    def _outputs(self, order: Array) -> Told:
        found = relations.factored(order)
        parts = relations.blocks(order)
        if parts is not None and len(parts) == 3 and self._projects():
            text = ", ".join("qkv"[i] for i in parts)
            what = f"has queries, keys and values in another order in the {self.case.doer}: {text}"
            return self.say("qkv-order", what, f"reorder the three parts of {self.node}")
        if self._projects() and (words := fused.of_heads(order)) is not None:
            fix = f"permute the outputs of {self.node} from (features, heads)"
            if "rotary" in words:
                fix = f"reorder the features of each head of {self.node} as its rotary embedding takes them"
            return self.say("head-layout", f"has {words}", fix)
        if self._projects() and found is None and parts is None and (which := _within(order)):
            what = f"has heads and features of a head the other way round in its {which}"
            return self.say("head-layout", what, f"permute the outputs of {self.node} from (features, heads)")
        if self._projects() and (found is not None or (parts is not None and len(parts) < len(order))):
            shape = found[0] if found is not None else (len(parts or ()),)
            what = f"has heads and features of a head the other way round ({' × '.join(map(str, shape))})"
            return self.say("head-layout", what, f"permute the outputs of {self.node} from (features, heads)")
        return self._channels(order, "outputs", found)

    def _channels(self, order: Array, which: str, found: Any) -> Told:
        stretches = relations.runs(order)
        fix = f"reorder the {which} of the {self.role} of {self.node}"
        if found is not None and (self._projects() if which == "outputs" else self._attends()):
            return self.say("head-layout", f"has its {which} by feature and head the other way round", fix)
        if np.array_equal(order, np.arange(len(order))[::-1]):
            what = "backwards: RGB against BGR" if len(order) == 3 else "backwards"
            return self.say("channel-order", f"has its {which} {what}", fix)
        if 1 < len(stretches) <= 16 and len(stretches) < len(order):
            lengths = " + ".join(str(length) for _, length in sorted(stretches))
            cause = "concat-order" if which == "inputs" and self.order.joined else "channel-order"
            same = ("channel-order",) if cause == "concat-order" else ()
            return self.say(cause, f"has its {which} in another order, in runs of {lengths}", fix, same)
        return self.say("channel-order", f"has its {which} in another order", fix)

    def _attends(self) -> bool:
        return fused.attends(self.case.ours.recording.structure, self.ours.name)

    def _projects(self) -> bool:
        return fused.projects(self.case.ours.recording.structure, self.ours)

    def _rounded(self) -> Told | None:
        for a, b, side in ((self.mine, self.its, self.case.doer), (self.its, self.mine, self.case.other)):
            if (name := relations.rounded(a, b)) is not None:
                return self.say("dtype", f"is rounded to {name} in the {side}", f"keep {self.node} in float32")
        return None

    def _multiple(self) -> Told | None:
        factor = relations.multiple(self.mine, self.its)
        if factor is not None:
            cause = "embedding-scale" if self.ours.kind == "embedding" else "scale"
            if self.role.startswith(("query", "key")):
                cause = "attention-scale"
            what = f"is {factor:.6g} times the {self.case.other}'s in the {self.case.doer}"
            return self.say(cause, what, f"divide the {self.role} of {self.node} by the factor")
        factors = relations.multiples(self.mine, self.its) if self.mine.ndim > 1 else None
        if factors is None:
            return None
        changed = factors[~np.isclose(factors, 1, rtol=1e-5)]
        if changed.size and not np.any(changed):
            what = f"has zeros for {changed.size} of {factors.size} outputs in the {self.case.doer}"
            return self.say("weights-not-loaded", what, f"load the {self.role} of {self.node} again")
        if changed.size and np.allclose(changed, changed[0], rtol=1e-4):
            what = f"has {changed.size} of {factors.size} outputs multiplied by {changed[0]:.6g}"
            root = max(changed[0], 1 / changed[0]) ** 2
            if self._attends() and abs(root - round(root)) < 1e-3 * root:
                what += f" = √{round(root)}" if changed[0] > 1 else f" = 1/√{round(root)}"
                return self.say("attention-scale", what, f"scale the queries of {self.node} once")
            return self.say("scale", what, f"undo the factor in {self.node}")
        what = "has every output multiplied by another number: a normalisation folded in?"
        return self.say("weights-perturbed", what, same=("scale",))

    def _added(self) -> Told | None:
        """One number more everywhere: gains that one side keeps around zero, and adds one to as it runs."""
        gap = self.its - self.mine
        if gap.size < 3 or not np.any(self.mine != self.mine.flat[0]):
            return None
        number = float(gap.mean())
        if not alike(self.mine + number, self.its):
            return None
        number = float(f"{number:.5g}")
        what = f"is {abs(number):g} {'more' if number > 0 else 'less'} everywhere in the {self.case.doer}"
        if self.role == "gamma" and abs(number) == 1:
            what += ": gains are kept around zero on one side, which adds one as it runs"
        return self.say("weights-perturbed", what, f"load the {self.role} of {self.node} as the reference has it")

    def _blank(self) -> Told | None:
        """Rows of a table that are zeros on one side alone: those of an id for padding."""
        if self.ours.kind != "embedding":
            return None
        rows = np.flatnonzero(np.any(self.mine != self.its, axis=1))
        for values, side in ((self.its, self.case.doer), (self.mine, self.case.other)):
            if 0 < len(rows) <= _PADDING and not np.any(values[rows]):
                text = ", ".join(map(str, rows))
                return self.say("embedding-offset", f"has zeros in row {text} in the {side}: an id for padding")
        return None

    def _shifted(self) -> Told | None:
        by = relations.shifted(self.mine, self.its) if self.ours.kind == "embedding" else None
        return None if by is None else self._rolled(by)

    def _parts(self) -> Told | None:
        """A fused weight of which only some blocks differ, or in which blocks are one another's transpose."""
        mine, its = self.mine, self.its
        if mine.ndim < 1 or self.ours.kind in kinds.RECURRENT:
            return None
        for count in (3, 2):
            if mine.shape[-1] % count or mine.shape[-1] == count or not self._attends():
                continue
            ours, theirs = np.split(mine, count, -1), np.split(its, count, -1)
            changed = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if not alike(a, b)]
            if len(changed) != 1:
                continue
            part = changed[0]
            inside = _Weighed(
                self.case, self.ours, self.theirs, self.role, ours[part], theirs[part], replace(self.order, raw=None)
            )
            found = inside.told()
            if found.cause not in ("weights-not-loaded",):
                word = _PARTS[part] if count == 3 else f"part {part + 1} of {count}"
                return replace(found, what=f"{found.what} (in the {word})")
        return None

    def _beside(self) -> Told | None:
        """Another weight of the same layer: the keys' for the queries, those of one direction for both."""
        for role, other in self.ours.weights.items():
            if role != self.role and other.ndim > 1 and np.any(other) and alike(other, self.its):
                names = {"attention": "qkv-order"} | dict.fromkeys(kinds.RECURRENT, "rnn-direction")
                cause = names.get(self.ours.kind, "weights-swapped")
                same = ("weights-swapped",) if cause != "weights-swapped" else ()
                what = f"is the {role} in the {self.case.doer}"
                return self.say(cause, what, f"load the {self.role} of {self.node}", same)
        return None

    def _elsewhere(self) -> Told | None:
        """The weight of another layer of our side."""
        if self.mine.size < 2 or relations.same_values(self.mine, self.its):
            return None
        wanted = np.sort(self.its, axis=None)
        recording = self.case.ours.recording
        own = recording.structure.by_name[self.ours.name].owner if self.ours.name in recording.structure.by_name else ""
        for (owner, name), stored in recording.weights.items():
            if math.prod(stored.shape) != wanted.size or owner == own:
                continue
            try:
                values = np.asarray(recording.read_stored(stored), np.float64)
            except TraceError:
                continue
            if values.size > 1 and alike(np.sort(values, axis=None), wanted):
                if self._siblings(own, owner):
                    what = f"is that of {owner} in the {self.case.doer}, which projects the same"
                    fix = f"load the {self.role} of {self.node} from {self.ours.name}"
                    return self.say("qkv-order", what, fix, ("weights-swapped",))
                what = f"is that of {owner} ({name}) in the {self.case.doer}"
                return self.say("weights-swapped", what, f"load the {self.role} of {self.node} from {self.ours.name}")
        return None

    def _siblings(self, own: str, other: str) -> bool:
        """Whether two layers read the same, for attention."""
        structure = self.case.ours.recording.structure
        read = [{name for node in structure if node.owner == owner for name in node.parents} for owner in (own, other)]
        return bool(read[0] & read[1]) and self._attends()

    def _unlike(self) -> Told:
        mine, its, who = self.mine, self.its, self.case.doer
        if self.ours.kind == "prelu":
            what = f"has other slopes in the {who}: {its.flat[0]:.4g} in place of {mine.flat[0]:.4g}, …"
            return self.say("activation-param", what, f"load the {self.role} of {self.node}")
        near = relations.correlation(mine, its)
        size = float(np.linalg.norm(mine - its)) / (float(np.linalg.norm(mine)) or 1.0)
        fix = f"load the {self.role} of {self.node} again"
        if size < 0.7 or (near > 0.5 and mine.size >= 16) or (near > 0.95 and mine.size >= 6):
            moved = int(np.count_nonzero(np.abs(mine - its) > relations.SAME * np.abs(mine).max(initial=0.0)))
            few = f", {moved} of {mine.size} numbers" if moved <= mine.size // 2 else ""
            what = f"differs a little: by {size:.2g} of its size{few} (correlation {near:.4f})"
            return self.say("weights-perturbed", what, fix)
        if not relations.same_values(mine, its):
            fan_in, fan_out = (math.prod(mine.shape[:-1]), mine.shape[-1]) if mine.ndim > 1 else (0, 0)
            values = mine if self.case.turned_round else its
            if (begins := relations.initialiser(values, fan_in, fan_out)) is not None:
                what = f"has nothing of the reference's in the candidate: it looks as initialised ({begins})"
                return self.say("weights-not-loaded", what, fix)
        told = f" (correlation {near:.2f})" if mine.size >= 16 else ""  # of a few numbers it says nothing
        return self.say("weights-not-loaded", f"has nothing of the other side's{told}", fix)


__all__ = ["Told", "alike", "differences"]
