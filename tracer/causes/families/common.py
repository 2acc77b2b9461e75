"""What the families share: trying a change cheaply, solving for a number, and saying who does what.

A hypothesis is only suggested where it brings the result nearer to what the other side made: most are refused by a
look at a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracer.causes.case import Case, distance
from tracer.causes.edit import Change, Edit, of_program, of_step
from tracer.causes.naming import plain, said
from tracer.causes.step import Array, Program, Step, Unknown

HELPS = 0.7
"""What is left of the error, at most, for a change to count as a help."""
_HEAVY = 4e7
"""Multiplications above which a change is tried on a part first."""
_PART = 4
_SAMPLE = 4096
_FEW = 3
_FITTED = 1 << 15
_FAR = 0.05
"""An error that no rounding makes: what is that far off in a part is so as a whole."""


def inputs(case: Case, step: Step) -> tuple[Array, ...]:
    """What a step reads of their tensors. Raises Unknown."""
    return case.ran[step.name].inputs


def value(case: Case, step: Step) -> Array:
    """What a step makes of them. Raises Unknown."""
    return case.ran[step.name].value


def is_last(case: Case, step: Step) -> bool:
    return step.name == case.program.output


def twin(case: Case, step: Step) -> str:
    """The node of theirs that stands for a step, where that is known."""
    return case.theirs.node.name if is_last(case, step) else ""


def telling(values: Array) -> bool:
    """Whether values are so many that a function of them can be known by what it gives: of a mask's two it cannot."""
    first = values.reshape(-1)[:_SAMPLE]
    return values.dtype.kind == "f" and len(np.unique(first)) > _FEW


def of_mask(values: Array) -> bool:
    """Whether values are zeros and ones alone, which several functions one behind the other make of anything."""
    return bool(np.isin(values.reshape(-1)[:_SAMPLE], (0, 1)).all())


def gives_output(case: Case) -> bool:
    """Whether the pair is what a model gives."""
    side = case.ours.recording
    return case.ours.node.name in {side.resolve(name) for name in side.structure.outputs}


def reads_input(case: Case, step: Step) -> bool:
    """Whether a step reads what the model is given."""
    known = case.ours.recording.structure.by_name
    return any(name in known and known[name].role == "input" for name in step.inputs)


def ordered(case: Case, mine: Any, its: Any) -> tuple[Any, Any]:
    """The reference's first."""
    return (its, mine) if case.turned_round else (mine, its)


def sides(case: Case, key: str, mine: Any, its: Any) -> str:
    """A setting of both sides as a sentence."""
    reference, candidate = ordered(case, mine, its)
    return f"{key} is {said(reference)} in the reference, {said(candidate)} in the candidate"


def chained(name: str, chain: Sequence[Step]) -> Change:
    """Several steps in place of one; the last takes its name."""

    def change(program: Program) -> Program:
        steps: list[Step] = []
        if all(old.name != name for old in program.steps):
            raise ValueError(f"{name} is gone")
        for old in program.steps:
            steps += chain if old.name == name else [old]
        return Program(tuple(steps))

    return of_program(change)


def behind(case: Case, step: Step, *more: Step) -> tuple[Step, ...]:
    """A step with others behind it, each of which reads the one before; the last has the step's name."""
    names = [f"{step.name}~{k}" for k in range(len(more))]
    chain = [replace(step, name=names[0])]
    for k, other in enumerate(more):
        last = k == len(more) - 1
        chain.append(
            replace(other, name=step.name if last else names[k + 1], inputs=(names[k], *other.inputs), shape=None)
        )
    return tuple(chain)


def ahead(step: Step, other: Step, place: int = 0) -> tuple[Step, ...]:
    """A step with another one ahead of one of its inputs."""
    first = replace(other, name=f"{step.name}~in{place}", inputs=(step.inputs[place],), shape=None)
    reads = tuple(first.name if k == place else name for k, name in enumerate(step.inputs))
    return first, replace(step, inputs=reads)


def made(kind: str, **settings: Any) -> Step:
    """A step without a place yet."""
    return Step("", kind, settings)


def run(case: Case, chain: Sequence[Step], tensors: Sequence[Array], names: Sequence[str]) -> Array:
    """What steps make of tensors with these names. Raises Unknown."""
    return Program(tuple(chain)).run({**case.tensors, **dict(zip(names, tensors, strict=False))})


@dataclass(frozen=True)
class View:
    """A part of what a step reads and of what is to come out, on which changes are tried first."""

    inputs: tuple[Array, ...]
    target: Array
    before: float
    narrow: Callable[[Step], Step]
    whole: bool


def view(case: Case, step: Step) -> View | None:
    """The part to look at; None where a step's result is not what is compared. Kept with the case. Raises Unknown."""
    kept: dict[str, View | None] = case.__dict__.setdefault("_views", {})
    if step.name not in kept:
        kept[step.name] = _view(case, step) if is_last(case, step) else None
    return kept[step.name]


def _view(case: Case, step: Step) -> View:
    read, target = inputs(case, step), case.target
    whole = View(read, target, case.before, lambda s: s, True)
    kernel = step.weights.get("kernel")
    if kernel is None or not read or target.ndim < 2 or target.shape[:1] != read[0].shape[:1]:
        return whole
    out = kernel.shape[-1]
    if target.size / max(1, out) * kernel.size < _HEAVY or not target.size:
        return whole
    axis = int(step.settings.get("channels", -1)) if "conv" in step.kind else -1
    if target.shape[axis] != out:
        return whole
    plain = int(step.settings.get("groups", 1)) == 1
    kept = slice(0, _PART if plain else None)

    def narrow(changed: Step) -> Step:
        few = {role: w[..., kept] for role, w in changed.weights.items() if role in ("kernel", "bias")}
        return changed.weigh(**few)

    sample = tuple(x[:1] for x in read)
    part = np.moveaxis(np.moveaxis(target[:1], axis, -1)[..., kept], -1, axis)
    found = value(case, step)
    now = np.moveaxis(np.moveaxis(found[:1], axis, -1)[..., kept], -1, axis) if found.ndim == target.ndim else found
    return View(sample, part, distance(now, part), narrow, False)


def error(case: Case, step: Step, chain: Sequence[Step]) -> float:
    """The error with steps in place of one; infinite where they cannot be run, or do not help at a glance."""
    try:
        at = view(case, step)
        if at is None:
            return _through(case, step, chain)
        if at.whole:
            return case.off(run(case, chain, at.inputs, step.inputs))
        narrowed = [at.narrow(one) if one.weights else one for one in chain]
        part = distance(run(case, narrowed, at.inputs, step.inputs), at.target)
        if not part < HELPS * at.before:
            return math.inf
        return _through(case, step, chain)
    except (Unknown, ValueError, KeyError, IndexError):
        return math.inf


def _through(case: Case, step: Step, chain: Sequence[Step]) -> float:
    return case.error(chained(step.name, chain)(case.start))


def try_chain(
    case: Case, step: Step, chain: Sequence[Step], cause: str, what: str, cost: float, **more: Any
) -> Iterator[Edit]:
    """The edit that puts steps in place of one, where that helps."""
    if error(case, step, chain) < HELPS * case.before:
        yield Edit(cause, what, chained(step.name, chain), step.name, twin(case, step), cost=cost, **more)


def try_step(case: Case, step: Step, changed: Step, cause: str, what: str, cost: float, **more: Any) -> Iterator[Edit]:
    """The edit that changes a step, where that helps."""
    yield from try_chain(case, step, (changed,), cause, what, cost, **more)


def try_settings(
    case: Case, step: Step, cause: str, cost: float, settings: dict[str, Any], what: str = "", **more: Any
) -> Iterator[Edit]:
    """The edit that gives a step other settings, where that helps."""
    key = next(iter(settings))
    values = ordered(case, plain(step.settings.get(key)), plain(settings[key]))
    text = what or sides(case, key, step.settings.get(key), settings[key])
    change = of_step(step.name, lambda own: own.set(**settings))  # what else was made of the step is not of this edit
    if error(case, step, (step.set(**settings),)) < HELPS * case.before:
        yield Edit(cause, text, change, step.name, twin(case, step), key, values, cost=cost, **more)


def try_weights(
    case: Case, step: Step, cause: str, cost: float, what: str, changed: dict[str, Array | None], **more: Any
) -> Iterator[Edit]:
    """The edit that gives a step other weights, where that helps."""
    change = of_step(step.name, lambda own: own.weigh(**changed))
    if error(case, step, (step.weigh(**changed),)) < HELPS * case.before:
        yield Edit(cause, what, change, step.name, twin(case, step), cost=cost, **more)


def sample(case: Case, step: Step, x: Array) -> tuple[Array, Array] | None:
    """Some places of what stands behind a step and of what is to come out there; None where shapes differ."""
    if not is_last(case, step) or x.shape != case.target.shape or not x.size:
        return None
    a, b = x.reshape(-1), case.target.reshape(-1)
    if a.size <= 2 * _SAMPLE:
        return a, b
    rng = np.random.default_rng(0)
    chosen = [rng.integers(0, a.size, _SAMPLE), np.argsort(a)[:: max(1, a.size // 512)][:1024]]
    chosen += [np.asarray([a.argmin(), a.argmax(), np.abs(a).argmin()])]
    places = np.unique(np.concatenate(chosen))
    return a[places], b[places]


def of_each(x: Array, y: Array) -> bool:
    """Whether y is a smooth enough function of x alone: where x is close, y is."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))) or len(x) < 8:
        return len(x) >= 8 and bool(np.array_equal(np.isfinite(x), np.isfinite(y)))
    width = float(x[-1] - x[0]) or 1.0
    height = float(y.max() - y.min()) or 1.0
    steps, jumps = np.diff(x) / width, np.abs(np.diff(y)) / height
    # A function of any other thing jumps about as far as it ranges; a function of x by about as much as x does.
    near = np.median(jumps) <= 12 * max(np.median(steps), 1e-9) + 1e-6
    return bool(near and jumps.sum() <= max(4, 0.05 * len(jumps)))


def solved(
    result: Callable[[float], Array], target: Array, starts: Iterable[float], turns: int = 10
) -> tuple[float, float] | None:
    """The number at which ``result`` is nearest to ``target``, from the best of several starts, and the error there."""

    def off(number: float) -> float:
        try:
            return distance(result(number), target)
        except Unknown:
            return math.inf

    begun = [(off(number), number) for number in starts]
    least, number = min(begun, default=(math.inf, 0.0))
    if not math.isfinite(least):
        return None
    for _ in range(turns):
        try:
            here = result(number)
            change = max(abs(number) * 1e-5, 1e-9)
            slope = (result(number + change) - here) / change
        except Unknown:
            break
        usable = np.isfinite(slope) & np.isfinite(here) & np.isfinite(target)
        slope, gap = np.where(usable, slope, 0), np.where(usable, target - here, 0)
        length = float(np.vdot(slope, slope))
        if not length:
            break
        moved = number + float(np.vdot(slope, gap)) / length
        left = off(moved)
        for _ in range(4):
            if left < least:
                break
            moved = (moved + number) / 2
            left = off(moved)
        if not left < least:
            break
        settled = abs(moved - number) < 1e-9 * max(1e-6, abs(moved)) or least - left < 1e-3 * left
        number, least = moved, left
        if settled:
            break
    return number, least


def snapped(number: float, good: Callable[[float], bool], usual: Iterable[float] = ()) -> float:
    """The number as a person would have written it, where that does as well."""
    near = sorted((u for u in usual if abs(u - number) <= 0.05 * abs(number) + 1e-12), key=lambda u: abs(u - number))
    written = [float(f"{number:.{digits}g}") for digits in range(1, 6)]
    roots = [math.copysign(math.sqrt(round(number**2)), number), round(number)] if abs(number) > 0.5 else []
    roots += [1 / other for other in (round(1 / number), math.copysign(math.sqrt(round(1 / number**2)), number))
              if other] if 1e-4 < abs(number) < 1 else []  # fmt: skip
    for candidate in (*near, *written, *roots):
        if abs(candidate - number) <= 0.05 * abs(number) + 1e-12 and good(float(candidate)):
            return float(candidate)
    return number


def close(result: Callable[[float], Array], target: Array, bar: float) -> Callable[[float], bool]:
    """Whether the result of a number is near enough to ``target``."""
    return lambda number: distance(result(number), target) <= bar


def fitted(columns: Sequence[Array], target: Array) -> tuple[Array, float]:
    """The factors of a sum of arrays that is nearest to ``target``, and the error that is left."""
    parts = [np.broadcast_to(c, target.shape).reshape(-1) for c in columns]
    goal = target.reshape(-1)
    if goal.size > _FITTED:  # a part tells whether it is worth it
        places = np.linspace(0, goal.size - 1, _FITTED).astype(np.int64)
        factors, left = _least([part[places] for part in parts], goal[places])
        if left > _FAR:
            return factors, left
    return _least(parts, goal)


def _least(parts: Sequence[Array], goal: Array) -> tuple[Array, float]:
    usable = np.isfinite(goal)
    for part in parts:
        usable &= np.isfinite(part)
    if usable.sum() < len(parts):
        return np.zeros(len(parts)), math.inf
    matrix = np.stack([part[usable] for part in parts], 1)
    # Few columns and many rows: the normal equations, brought to one scale, are exact enough to start from.
    sizes = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    scaled = matrix / sizes
    solution = np.linalg.lstsq(scaled.T @ scaled, scaled.T @ goal[usable], rcond=None)[0]
    solution = (
        solution + np.linalg.lstsq(scaled.T @ scaled, scaled.T @ (goal[usable] - scaled @ solution), rcond=None)[0]
    )
    factors: Array = solution / sizes
    made_of = np.zeros_like(goal, dtype=np.float64)
    for factor, part in zip(factors, parts, strict=True):
        made_of += factor * part
    return factors, distance(made_of, goal)
