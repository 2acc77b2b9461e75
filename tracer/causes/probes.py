"""Random tensors for what a layer reads: they tell statements apart that are one function on what was recorded."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tracer import dtypes, kinds, relations
from tracer.alignment.consistency import MASKED
from tracer.causes.case import Case, Trial, distance
from tracer.causes.edit import Edit
from tracer.causes.search import attempt, possible
from tracer.causes.step import Array, Program, Unknown
from tracer.errors import TraceError

_Make = Callable[[np.random.Generator, tuple[int, ...], float], Array]
KINDS: Mapping[str, _Make] = {
    "random values": lambda rng, shape, size: size * rng.normal(size=shape),
    "negative values": lambda rng, shape, size: -size * np.abs(rng.normal(size=shape)),
    "positive values": lambda rng, shape, size: size * np.abs(rng.normal(size=shape)),
    "values near zero": lambda rng, shape, size: 0.01 * size * rng.normal(size=shape),
    "large values": lambda rng, shape, size: max(10.0, 4 * size) * rng.normal(size=shape),
}
"""What is made, in words: of a shape, and of the size that the recorded values have."""
RECORDED = "recorded values"
"""What the layer was given when it was recorded, to see that a model can be fed there."""
LEAST, MOST = 0.1, 1e3
"""Between which the size of what is made lies, whatever was recorded."""
DOUBT = 4.0
"""Times the bar that a result may be off on an input that it was not tried on before."""
_ENOUGH = 3
"""Kinds of input on which two statements must give the same to be called one function."""


@dataclass(frozen=True)
class Probe:
    """Tensors of the side that does it, by its names and in its axes; ``kind`` is one of :data:`KINDS`."""

    kind: str
    fed: Mapping[str, Array]


def fed(case: Case) -> tuple[str, ...]:
    """The tensors of theirs that a probe takes the place of."""
    return tuple(dict.fromkeys((*case.ours.above.values(), *case.theirs.above)))


def probes(case: Case) -> Iterator[Probe]:
    """One of each kind, always the same ones. Raises Unknown where nothing that the layer reads can be another."""
    recorded = {name: _read(case, name) for name in fed(case)}
    rows = _rows(case)
    for kind in KINDS:
        tensors = {}
        for name, values in recorded.items():
            rng = np.random.default_rng(zlib.crc32(f"{kind} {name}".encode()))
            node = case.theirs.recording.structure.by_name[name]
            tensors[name] = _as(node.dtype or "float32", _like(values, kind, rng, rows.get(name)))
        if all(np.array_equal(tensors[name], values, equal_nan=True) for name, values in recorded.items()):
            raise Unknown("nothing that it reads can be another")
        yield Probe(kind, tensors)


def again(case: Case) -> Probe:
    """What was recorded."""
    return Probe(RECORDED, {name: _read(case, name) for name in fed(case)})


def on(case: Case, probe: Probe, result: Array | None = None) -> Case:
    """The case on a probe in place of what was recorded, of which ``result`` is what they made. Raises Unknown."""
    tensors = {name: case.ways[name](_double(probe.fed[twin])) for name, twin in case.ours.above.items()}
    found = case.edited(Trial(case.program, tensors))
    found.__dict__.pop("target", None)
    if result is not None:
        try:
            found.__dict__["target"] = case.way(_double(result))
        except ValueError as error:
            raise Unknown(str(error)) from error
    return found


def run(case: Case, edits: Sequence[Edit]) -> Array:
    """What our program makes of a case's tensors after some edits. Raises Unknown."""
    trial = Trial(case.program, case.tensors)
    try:
        for edit in edits:
            trial = edit.change(trial)
        return _rounded_alike(case, trial.program).run(trial.tensors)
    except (ValueError, KeyError, IndexError, TypeError, ArithmeticError) as error:
        raise Unknown(str(error)) from error


def error(case: Case, edits: Sequence[Edit]) -> float:
    """How far that is from what they made; infinite where it cannot be computed."""
    try:
        return distance(run(case, edits), case.target)
    except Unknown:
        return math.inf


def _rounded_alike(case: Case, program: Program) -> Program:
    """With the results of a coarse type taken for equal within its units of what was made of this input."""
    for step in program.steps if "target" in case.__dict__ else ():
        if step.kind == "rounded" and step.settings.get("like") is not None and step.name == program.output:
            slack = case.bar * float(np.abs(case.target).max(initial=0.0))
            program = program.with_step(step.set(like=case.target, slack=slack))
    return program


# --- what is made ------------------------------------------------------------------------------------------------


def _read(case: Case, name: str) -> Array:
    try:
        return np.asarray(case.theirs.read(name))
    except Exception as reason:
        raise Unknown(f"{name}: {reason}") from reason


def _rows(case: Case) -> dict[str, int]:
    """How many rows the tables have that are looked up with a tensor of theirs."""
    found = {}
    for step in case.program.steps:
        if step.kind == "embedding" and step.weights and step.inputs and step.inputs[0] in case.ours.above:
            found[case.ours.above[step.inputs[0]]] = len(next(iter(step.weights.values())))
    return found


def _like(values: Array, kind: str, rng: np.random.Generator, rows: int | None) -> Array:
    if values.dtype == np.bool_:
        return np.asarray(rng.random(values.shape) < 0.5)
    if values.dtype.kind in "iu":
        # A row beyond the table is an error in most models: the recorded ids are the safe ones.
        low, high = (int(values.min(initial=0)), int(values.max(initial=0)))
        if kind == "random values" and rows is not None:
            low, high = 0, max(high, rows - 1)
        return rng.integers(low, high + 1, values.shape).astype(values.dtype)
    if values.dtype.kind != "f" or not values.size:
        return values
    if float(np.nanmin(values)) <= MASKED:
        return rng.permuted(values, axis=-1)
    usual = values[np.isfinite(values)]
    size = math.sqrt(float(np.mean(np.square(usual)))) if usual.size else 1.0
    return KINDS[kind](rng, values.shape, min(max(size, LEAST), MOST) if size else 1.0)


def _as(dtype: str, values: Array) -> Array:
    """As the node's type holds it, in a type that numpy has."""
    if values.dtype.kind != "f":
        return values
    if dtype in ("float16", "bfloat16"):
        return relations.as_type(values, dtype).astype(np.float32)
    return values if dtype == "float64" else values.astype(np.float32)


def _double(values: Array) -> Array:
    return values if values.dtype.kind in "biu" else dtypes.as_float64(values)


# --- what tells statements apart ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What random input says of statements that are one function on what was recorded.

    Attributes:
        same: whether each of the others is the first's function on all of it as well.
        words: what input would tell the others from the first, as a sentence; empty where that is not known.
    """

    same: tuple[bool, ...]
    words: str = ""


def told_apart(case: Case, best: Sequence[Edit], others: Sequence[Sequence[Edit]], seconds: float) -> Told:
    """Compare what programs make of random input; no model runs. ``seconds`` are what there is time for."""
    if not others:
        return Told(())
    began, off = time.monotonic(), dict[str, list[float]]()
    try:
        for probe in probes(case):
            at = on(case, probe)
            wanted = run(at, best)
            if not np.all(np.isfinite(wanted)):
                continue
            off[probe.kind] = [_apart(at, edits, wanted) for edits in others]
            if time.monotonic() - began > seconds:
                break
    except Unknown:
        pass
    same = [len(off) >= _ENOUGH and all(row[k] <= case.bar for row in off.values()) for k in range(len(others))]
    open_ = [k for k, equal in enumerate(same) if not equal]
    telling = [kind for kind, row in off.items() if all(row[k] > DOUBT * case.bar for k in open_)] if open_ else []
    return Told(tuple(same), _sentence(case, telling, len(telling) == len(off)))


def matters(case: Case, edits: Sequence[Edit], more: Sequence[Edit], seconds: float) -> bool:
    """Whether random input shows what is ``more`` than some edits, where what was recorded does not."""
    whole = possible(case, (*edits, *more))
    if len(whole) <= len(edits) or not attempt(case, whole) <= case.bar:
        return False
    return bool(told_apart(case, edits, [whole], seconds).words)


def depends(case: Case) -> bool:
    """Whether what they make depends on what they read: a softmax over one place gives one, whatever comes in. True
    where that cannot be computed."""
    program = case.theirs.program
    try:
        for probe in probes(case):
            if program is not None:
                made = program.run({name: _double(values) for name, values in probe.fed.items()})
                return distance(made, case.theirs.read(case.theirs.node.name)) > case.bar
    except (Unknown, TraceError):
        pass
    return True


def one_function(case: Case) -> bool:
    """Whether the two sides' programs do the same to random input, as far as what they read can be such; False where
    that cannot be computed."""
    if case.theirs.program is None:
        return False
    try:
        found = [told for probe in probes(case) if (told := _agrees_on(case, probe)) is not None]
    except (Unknown, ValueError):
        return False
    return len(found) >= _ENOUGH and all(found)


def alike_when_small(case: Case, size: float) -> bool:
    """Whether the two sides' programs do the same to random values as small as ``size``, of which an epsilon of that
    size is no small part; False where that cannot be computed."""
    if case.theirs.program is None:
        return False
    try:
        first = next(probes(case))
        return _agrees_on(case, Probe(first.kind, {name: _sized(own, size) for name, own in first.fed.items()})) is True
    except (Unknown, ValueError):
        return False


def _sized(values: Array, size: float) -> Array:
    if values.dtype.kind != "f":
        return values
    values = np.asarray(values, np.float64)
    return values * (size / (float(np.abs(values).max(initial=0.0)) or 1.0))


def _agrees_on(case: Case, probe: Probe) -> bool | None:
    """Whether the two programs make the same of a probe; None where what is made is not finite. Raises Unknown and
    ValueError."""
    assert case.theirs.program is not None
    held = {name: _held(case, name, values) for name, values in probe.fed.items()}
    made = case.theirs.program.run({name: _double(values) for name, values in held.items()})
    if not np.all(np.isfinite(made)):
        return None
    at = on(case, Probe(probe.kind, held), made)
    return distance(run(at, ()), at.target) <= DOUBT * case.bar


def _held(case: Case, name: str, values: Array) -> Array:
    """Values as what makes a tensor of theirs can give them: nothing negative behind a ReLU."""
    known = case.theirs.recording.structure.by_name
    node = known[name]
    while node.kind in _PASSING and len(node.parents) == 1 and node.parents[0] in known:
        node = known[node.parents[0]]
    return np.abs(values) if node.kind in _POSITIVE and values.dtype.kind == "f" else values


_PASSING = kinds.LAYOUT_ONLY | kinds.POOLS
_POSITIVE = frozenset({
    "relu", "relu6", "sigmoid", "hard_sigmoid", "softmax", "softplus", "exponential", "abs", "square", "sqrt",
})  # fmt: skip


def _apart(case: Case, edits: Sequence[Edit], wanted: Array) -> float:
    try:
        return distance(run(case, edits), wanted)
    except Unknown:
        return math.inf


def _sentence(case: Case, telling: Sequence[str], every: bool) -> str:
    if not telling:
        return ""
    read = [name for name in case.program.inputs if name in case.ours.above]
    names = [case.ours.above[name] if case.turned_round else name for name in read]
    place = names[0] if len(names) == 1 else f"what {case.ours.node.name} reads"
    if not every:
        # The plainest that does: random values hold negative ones.
        kind = next(kind for kind in (*list(KINDS)[1:], *KINDS) if kind in telling)
        return f"{kind} at {place} would tell them apart"
    own = [text for text in (_peculiar(case.tensors[name]) for name in read) if text]
    why = f": what was recorded there {own[0]}" if own else ""
    return f"other values at {place} would tell them apart{why}"


def _peculiar(values: Array) -> str:
    """What is special about recorded values; empty where nothing is."""
    if values.size < 2 or values.dtype.kind not in "fiu":
        return ""
    low, high = float(np.min(values)), float(np.max(values))
    if low == high:
        return "is the same number everywhere"
    if values.ndim > 1 and all(np.array_equal(values[:1], row[None]) for row in values[1:]) and len(values) > 1:
        return "is the same in every sample"
    for axis in range(1, values.ndim):
        if values.shape[axis] > 1 and np.ptp(values, axis=axis).max() == 0:
            return f"does not vary along axis {axis}"
    if low >= 0 or high <= 0:
        return "is never negative" if low >= 0 else "is never positive"
    return ""
