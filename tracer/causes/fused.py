"""Weights that hold several in one: the projections of an attention, the gates of a recurrent layer, a layer and the
normalisation behind it.

What is true of the parts is looked for before what is true of the whole: parts that have changed places or hold each
other's numbers by a factor, columns that lie in another order over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracer import kinds, relations
from tracer.causes import scores
from tracer.causes.case import Case
from tracer.causes.edit import Edit, of_step, weights
from tracer.causes.folding import mistaken
from tracer.causes.operations.attention import PARTS
from tracer.causes.operations.recurrent import GATES
from tracer.causes.step import Array, Step
from tracer.graph import Structure
from tracer.relations import alike

_COST = 1.2
_BETWEEN = 24
"""Operations at most from a projection to the attention that it is for."""


@dataclass(frozen=True)
class Parts:
    """Queries, keys and values of one layer: each as one matrix (inputs and, last, the bias; outputs).

    Attributes:
        ours, theirs: in the order of :data:`PARTS`.
        roles: of the weights that they are taken from.
        heads: how many heads each part's outputs are of, where the layer tells; else 0.
    """

    ours: tuple[Array, ...]
    theirs: tuple[Array, ...]
    roles: tuple[str, ...]
    heads: int = 0


def of_attention(ours: Step, theirs: Step) -> Parts | None:
    """The parts of an attention layer; None where it projects nothing, or parts have other shapes."""
    sides = []
    for step in (ours, theirs):
        found = []
        for part in PARTS:
            kernel, bias = step.weights.get(f"{part}_kernel"), step.weights.get(f"{part}_bias")
            if kernel is None or kernel.ndim != 3:
                return None
            flat = kernel.reshape(len(kernel), -1)
            found.append(flat if bias is None else np.vstack([flat, bias.reshape(1, -1)]))
        sides.append(tuple(found))
    if [part.shape for part in sides[0]] != [part.shape for part in sides[1]]:
        return None
    roles = tuple(
        role for part in PARTS for role in (f"{part}_kernel", f"{part}_bias") if role in ours.weights
    )  # fmt: skip
    return Parts(sides[0], sides[1], roles, ours.weights["query_kernel"].shape[1])


def of_dense(ours: Step, theirs: Step) -> Parts | None:
    """The thirds of a dense layer's outputs, for one that makes queries, keys and values at once."""
    sides = []
    for step in (ours, theirs):
        kernel, bias = step.weights.get("kernel"), step.weights.get("bias")
        if kernel is None or kernel.ndim != 2 or kernel.shape[1] % 3:
            return None
        whole = kernel if bias is None else np.vstack([kernel, bias.reshape(1, -1)])
        sides.append(tuple(np.split(whole, 3, 1)))
    if sides[0][0].shape != sides[1][0].shape:
        return None
    roles = tuple(role for role in ("kernel", "bias") if role in ours.weights)
    return Parts(sides[0], sides[1], roles)


def folded(case: Case, ours: Step, theirs: Step, node: str) -> Edit | None:
    """A normalisation of one side that the other has in its weights, not rightly; ``node`` is the candidate's."""
    whole, who, found = ours, case.doer, mistaken(ours, theirs.weights)
    if found is None:
        whole, who, found = theirs, case.other, mistaken(theirs, ours.weights)
    if found is None:
        return None
    (cause, what), (layer, norm) = found, whole.settings["folded"]
    changed = weights(ours.name, **{role: theirs.weights.get(role) for role in ("kernel", "bias")})
    fix = f"fold the whole of {norm.name} into {node}: its kernel by gamma / √(variance + epsilon), its bias with the "
    return Edit(
        cause, f"the {who} has {norm.name} folded into the weights of {layer.name}, {what}", changed, ours.name,
        theirs.name, "kernel, bias", fix=f"{fix}mean and beta", seen=True, cost=_COST,
    )  # fmt: skip


def projections(case: Case, ours: Step, theirs: Step, parts: Parts, node: str) -> tuple[Edit, ...]:
    """What the parts of theirs are of ours; nothing where they are the same, or something else.

    ``node`` is the candidate's.
    """
    if all(map(alike, parts.ours, parts.theirs)):
        return ()
    return _exchanged(case, ours, theirs, parts, node) or _reordered(case, ours, theirs, parts, node)


def _exchanged(case: Case, ours: Step, theirs: Step, parts: Parts, node: str) -> tuple[Edit, ...]:
    """Each part one of ours, perhaps another one, perhaps times a number."""
    sources, factors = [], []
    for place, its in enumerate(parts.theirs):
        ranked = sorted(range(len(PARTS)), key=lambda k, place=place: k != place)  # type: ignore[misc]
        found = ((k, _factor(parts.ours[k], its)) for k in ranked)
        source, factor = next(((k, factor) for k, factor in found if factor is not None), (place, None))
        if factor is None:
            return ()
        sources.append(source)
        factors.append(factor)
    edits = []
    key = ", ".join(parts.roles)
    moved = [(PARTS[k], PARTS[source]) for k, source in enumerate(sources) if k != source]
    if moved:
        words = ", ".join(f"{part} is the {source}" for part, source in moved)
        edits.append(Edit(
            "qkv-order", f"the projections of {ours.name} stand for one another in the {case.doer}: {words}",
            of_step(ours.name, lambda step: _taken(step, sources)), ours.name, theirs.name, key,
            fix=f"reorder the projections of {node}", seen=True, cost=_COST,
        ))  # fmt: skip
    scaled = [k for k, factor in enumerate(factors) if factor != 1]
    if scaled:
        numbers = {round(factors[k], 6) for k in scaled}
        # A projection that stands for another was scaled as what it is, not as what it stands for.
        words = " and ".join(PARTS[sources[k]] for k in scaled)
        cause = "attention-scale" if all(sources[k] < 2 for k in scaled) else "scale"
        number = factors[scaled[0]]
        told = f"{number:.6g}{_root(number)}" if len(numbers) == 1 else ", ".join(f"{factors[k]:.6g}" for k in scaled)
        edits.append(Edit(
            cause, f"the {words} of {ours.name} {'is' if len(scaled) == 1 else 'are'} multiplied by {told} in the "
            f"{case.doer}",
            of_step(ours.name, lambda step: _times(step, factors)), ours.name, theirs.name, key,
            fix=f"divide the {words} of {node} by the factor", seen=True, cost=_COST,
            same=("scale",) if moved and cause != "scale" else (),
        ))  # fmt: skip
    return tuple(edits)


def _factor(mine: Array, its: Array) -> float | None:
    """The number that ours is multiplied by to give theirs; 1 where they are the same."""
    if mine.shape != its.shape:
        return None
    return 1.0 if alike(mine, its) else relations.multiple(mine, its)


def _root(factor: float) -> str:
    square = max(factor, 1 / factor) ** 2 if factor > 0 else 0.5
    if abs(square - round(square)) > 1e-3 * square or math.sqrt(round(square)) % 1 == 0:
        return ""
    return f" = √{round(square)}" if factor > 1 else f" = 1/√{round(square)}"


def _taken(step: Step, sources: Sequence[int]) -> Step:
    if step.kind == "attention":
        changed: dict[str, Array | None] = {}
        for part, k in zip(PARTS, sources, strict=True):
            changed |= {f"{part}_{role}": step.weights.get(f"{PARTS[k]}_{role}") for role in ("kernel", "bias")}
        return step.weigh(**changed)
    thirds = {role: np.split(step.weights[role], 3, -1) for role in ("kernel", "bias") if role in step.weights}
    return step.weigh(**{role: np.concatenate([found[k] for k in sources], -1) for role, found in thirds.items()})


def _times(step: Step, factors: Sequence[float]) -> Step:
    if step.kind == "attention":
        return step.weigh(**{
            f"{part}_{role}": step.weights[f"{part}_{role}"] * factors[k]
            for k, part in enumerate(PARTS) for role in ("kernel", "bias") if f"{part}_{role}" in step.weights
        })  # fmt: skip
    thirds = {role: np.split(step.weights[role], 3, -1) for role in ("kernel", "bias") if role in step.weights}
    return step.weigh(**{
        role: np.concatenate([one * factors[k] for k, one in enumerate(found)], -1) for role, found in thirds.items()
    })  # fmt: skip


def _reordered(case: Case, ours: Step, theirs: Step, parts: Parts, node: str) -> tuple[Edit, ...]:
    """The outputs of all parts together in another order: interleaved by head, or by number in a head."""
    if len({part.shape for part in (*parts.ours, *parts.theirs)}) != 1:
        return ()
    order = relations.permutation(np.hstack(parts.ours), np.hstack(parts.theirs), 1)
    if order is None:
        return ()
    said = layout(order, parts.heads)
    if said is None:
        return ()
    cause, words, same = said
    changed = {role: theirs.weights.get(role) for role in parts.roles}
    return (
        Edit(
            cause, f"the projections of {ours.name} have their outputs in another order in the {case.doer}: {words}",
            weights(ours.name, **changed), ours.name, theirs.name, ", ".join(parts.roles),
            fix=f"reorder the outputs of the projections of {node}", seen=True, cost=_COST, same=same,
        ),
    )  # fmt: skip


def layout(order: Array, heads: int = 0) -> tuple[str, str, tuple[str, ...]] | None:
    """What an order of the outputs of queries, keys and values together is called: the cause, words, other names."""
    size = len(order)
    third, rest = divmod(size, 3)
    if rest:
        return None
    place = np.arange(size)
    for count in [heads] if heads else [n for n in range(2, third) if third % n == 0]:
        if third % count or count in (1, third):
            continue
        apart = place.reshape(3, count, -1)
        for shape, axes, words in (
            (apart, (1, 0, 2), "each head's queries, keys and values beside one another"),
            (apart, (2, 0, 1), "queries, keys and values of each number beside one another"),
            (apart, (1, 2, 0), "queries, keys and values of each number beside one another"),
            (place.reshape(count, 3, -1), (1, 0, 2), "all queries first, where each head's three stand together"),
            (place.reshape(-1, count, 3), (2, 1, 0), "all queries first, where those of each number stand together"),
            (place.reshape(count, -1, 3), (2, 0, 1), "all queries first, where those of each number stand together"),
        ):
            if np.array_equal(shape.transpose(axes).reshape(-1), order):
                return "qkv-order", words, ("head-layout",)
    inside = [order[k * third : (k + 1) * third] for k in range(3)]
    owns = [one[0] // third for one in inside]
    if any(np.any(one // third != own) for one, own in zip(inside, owns, strict=True)):
        return None
    within = [one - own * third for one, own in zip(inside, owns, strict=True)]
    moved = [k for k, one in enumerate(within) if not np.array_equal(one, np.arange(third))]
    told = [of_heads(within[k], heads) for k in moved]
    if not moved or any(words is None for words in told) or owns != sorted(owns):
        return None
    return "head-layout", f"{told[0]} ({' and '.join(PARTS[k] for k in moved)})", ()


def of_heads(order: Array, heads: int = 0) -> str | None:
    """What an order of one part's outputs is, in words: heads and their numbers, or pairs and halves of a head."""
    size = len(order)
    place = np.arange(size)
    for count in [heads] if heads else [n for n in range(1, size) if size % n == 0]:
        width = size // count
        if count > 1 and width > 1 and np.array_equal(place.reshape(count, width).T.reshape(-1), order):
            return "heads and features of a head the other way round"
        if count > 1 and width > 1 and np.array_equal(place.reshape(width, count).T.reshape(-1), order):
            return "heads and features of a head the other way round"
        # Of a head some features are rotated: the others stay.
        for turned in range(4, width + 1, 2):
            for shape, words in (((2, -1), "the two halves of each head's features interleaved (rotary embedding)"),
                                 ((-1, 2), "each head's features in two halves, where pairs stand side by side "
                                           "(rotary embedding)")):  # fmt: skip
                each = place.reshape(count, width).copy()
                part = each[:, :turned].reshape(count, *shape)
                each[:, :turned] = part.swapaxes(1, 2).reshape(count, turned)
                if np.array_equal(each.reshape(-1), order):
                    return words
    return None


# --- gates -----------------------------------------------------------------------------------------------------------


def gates(case: Case, ours: Step, theirs: Step, node: str) -> tuple[Edit | None, Step]:
    """The gates of a recurrent layer in another order, and our step as that leaves it; None and the step as it is
    where they are not.

    Biases are taken in the order of the kernels that they stand beside, unless they say otherwise themselves.
    """
    stem = ours.kind.removesuffix("_cell")
    found: dict[str, tuple[int, ...]] = {}
    for role, mine in ours.weights.items():
        its = theirs.weights.get(role)
        if "kernel" not in role or its is None or its.shape != mine.shape or mine.ndim < 3:
            continue
        if mine.shape[-2] != len(GATES[stem]) or alike(mine, its):
            continue
        taken = relations.permutation(mine, its, mine.ndim - 2)
        if taken is not None:
            found[role] = tuple(map(int, taken))
    if not found or len(set(found.values())) != 1:
        return None, ours
    (order,) = set(found.values())
    moved = set(found)
    for role, mine in ours.weights.items():
        if "bias" in role and mine.ndim > 1 and _beside(role) & moved and not _as_it_stands(ours, theirs, role, order):
            moved.add(role)
    change = of_step(ours.name, lambda step: _ordered(step, moved, order))
    left = _ordered(ours, moved, order)
    text = ", ".join(GATES[stem][k] for k in order)
    said = ", ".join(sorted(found))
    what = f"the {said} of {ours.name} {'has its' if len(found) == 1 else 'have their'} gates in the order {text} in "
    what += f"the {case.doer}, not {', '.join(GATES[stem])}"
    edit = Edit(
        f"{stem}-gate-order", what, change, ours.name, theirs.name,
        ", ".join(role for role in ours.weights if role in moved and _done(left, theirs, role)),
        fix=f"reorder the gates of the weights of {node}",
        seen=True, cost=_COST,
    )  # fmt: skip
    return edit, left


def _done(left: Step, theirs: Step, role: str) -> bool:
    its = theirs.weights.get(role)
    return its is not None and alike(left.weights[role], its)


def _beside(role: str) -> set[str]:
    """The kernels of the layer and direction that a bias is of."""
    plain = role.removeprefix("recurrent_").replace("bias", "kernel", 1)
    return {plain, f"recurrent_{plain}"}


def _as_it_stands(ours: Step, theirs: Step, role: str, order: Sequence[int]) -> bool:
    """Whether a bias keeps its order: alone, or as one of two that are added."""
    plain = role.removeprefix("recurrent_")
    now, then = (
        [step.weights[name] for name in (plain, f"recurrent_{plain}") if name in step.weights]
        for step in (ours, theirs)
    )
    if not now or not then:
        return False
    stands = alike(_sum(now), _sum(then)) or any(map(alike, now, then))
    return stands and not alike(_sum([np.take(one, order, -2) for one in now]), _sum(then))


def _sum(values: Sequence[Array]) -> Array:
    return np.asarray(np.sum(np.stack(values), axis=0))


def _ordered(step: Step, roles: set[str], order: Sequence[int]) -> Step:
    return step.weigh(**{role: np.take(step.weights[role], order, -2) for role in roles})


def sums_alike(step: Step, mine: tuple[Array, Array], its: tuple[Array, Array]) -> bool:
    """Whether the two biases of a recurrent layer come to the same: their sum, but for a GRU's candidate gate, where
    the reset gate stands between them."""
    if not alike(mine[0] + mine[1], its[0] + its[1]):
        return False
    if not step.kind.startswith("gru") or not step.settings.get("reset_after", True):
        return True
    apart = str(step.settings.get("gates", GATES["gru"])).index("n")
    return alike(mine[1][..., apart, :], its[1][..., apart, :])


def doubled(case: Case, ours: Step, mine: tuple[Array, Array], its: tuple[Array, Array]) -> str:
    """How the two biases of a recurrent layer, the input's and the state's, became theirs; empty where that is not
    seen."""
    (plain, again), (its_plain, its_again) = mine, its
    here, there, none = plain + again, its_plain + its_again, np.zeros_like(plain)
    forget = none.copy()
    if ours.kind.startswith("lstm"):
        forget[..., GATES["lstm"].index("f"), :] = 1
    if alike(here, there):  # where the two stand apart, as in a GRU's candidate
        return f"the two biases are added up otherwise in {ours.name} of the {case.doer}, and in one gate both count"
    one = "the bias of the forget gate is one"
    for wanted, words in (
        (here + again, "the recurrent bias counts twice in"), (here + plain, "the bias of the input counts twice in"),
        (2 * here, "both biases count twice in"), (here + its_again, "the recurrent bias counts twice in"),
        (plain, "the recurrent bias is dropped in"), (again, "the bias of the input is dropped in"),
        (none, "the biases are dropped in"), (here - its_again, "one of the biases is dropped in"),
        (here + forget, f"{one} more (unit_forget_bias) in"), (here - forget, f"{one} less (unit_forget_bias) in"),
        (forget, "the biases are what a new layer begins with (unit_forget_bias) in"),
    ):  # fmt: skip
        if alike(wanted, there) and not alike(wanted, here):
            return f"{words} {ours.name} of the {case.doer}"
    for wanted, words in ((here + again, "the recurrent bias"), (here + plain, "the bias of the input")):
        if alike(there + wanted - here, here) and not alike(wanted, here):
            return f"{words} counts twice in {ours.name} of the {case.other}"
    more = (there + its_again, there + its_plain, 2 * there, its_plain, its_again)
    if any(alike(wanted, here) for wanted in more):
        return f"a bias counts twice, or not at all, in {ours.name} of the {case.other}"
    return ""


# --- what attention is about -----------------------------------------------------------------------------------------


def attends(structure: Structure, name: str) -> bool:
    """Whether attention is about: an attention layer, or one that leads to it."""
    if name in structure.by_name and structure.by_name[name].kind == "attention":
        return True
    front = {name}
    for _ in range(8):
        front = {child for one in front for child in structure.children.get(one, ())}
        if any(scores.attends(structure, one) for one in front):
            return True
        if any(_averages(structure, one) for one in front):
            return True
    words = ("query", "key", "value", "qkv", "attn", "attention")
    return any(word in name.lower() for word in words)


def _averages(structure: Structure, name: str) -> bool:
    """Whether a node multiplies values by the weights of an attention."""
    node = structure.by_name[name]
    above = [structure.by_name[parent] for parent in node.parents if parent in structure.by_name]
    above += [structure.by_name[one.parents[0]] for one in above if one.kind == "dropout" and one.parents]
    return node.kind == "matmul" and len(node.parents) > 1 and any(one.kind == "softmax" for one in above)


def projects(structure: Structure, step: Step) -> bool:
    """Whether a step makes what attention takes, with no other layer between."""
    if step.kind == "attention":
        return True
    if step.kind == "embedding" or step.name not in structure.by_name:
        return False
    front, seen = {step.name}, {step.name}
    for _ in range(_BETWEEN):
        front = {child for name in front for child in structure.children.get(name, ())} - seen
        if any(scores.attends(structure, name) or _averages(structure, name) for name in front):
            return True
        seen |= front
        front = {name for name in front if structure.by_name[name].kind not in kinds.WEIGHTED | kinds.NORMALISATIONS}
    return False
