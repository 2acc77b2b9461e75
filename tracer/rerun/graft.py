"""One model run again with tensors of the other in it, or with its layers' own errors taken out: what comes of it.

All this happens where the model is, in this process or in a worker, so what goes in and comes out is JSON; arrays that
one run leaves for another lie in a folder.

How a defect is repaired without touching the model. Let c be what a layer of the candidate gives and r what the
reference's gives, each on two inputs: those of the candidate's own run and those of the reference's. On the candidate's
inputs r − c is what a repair changes while every other defect stays; on the reference's it is that while every other is
repaired too. Both are known from one walk of each model along the other's activations. When the layer runs on anything
else, because some defects above are repaired and others are not, the correction is taken between the two, as far from
each as the layer's own result is.

Putting the reference's activation in would remove what came from above as well. Against models that really were
repaired (71 defects planted in 37 variants of a convolutional network and of a transformer, one to four at once), in
points of the outputs' difference, mean and largest error:

    share of a defect     repaired alone    repaired after all others
    activation put in        17, 100            14, 100
    r − c, reference's     0.9,  19           1.4,  19
    r − c, candidate's       0,   0           2.6,  19
    between the two          0,   0           0.7,  12
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import dtypes
from tracer.adapter import Array, LoadedModel
from tracer.errors import ModelError, ReplayError
from tracer.rerun import loading
from tracer.rerun.cuts import Way
from tracer.rerun.measuring import apart
from tracer.store import Recording, Trace

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job

Progress = Callable[[int, int], None]
Change = Callable[[Array], Array | None]
EXACT = 4
"""Up to so many defects the smallest set that suffices is searched among all; of more by adding the weightiest."""
DIRECTIONS = 4
"""Random perturbations of each tensor: with few outputs one alone may cancel out."""
DOUBTS = 8
"""How many tensors are put in in either order to see which is right; of more the first."""
STEP = 1e-3
"""Size of a perturbation relative to each element: far above float32's rounding, small enough for most kinks."""


@dataclass(frozen=True)
class Joint:
    """Where the model that runs meets the other.

    Attributes:
        own, other: the nodes, as they are stored.
        ways: how the candidate's tensor may become the reference's, likeliest first, two at most.
        backwards: whether it is the reference that runs.
    """

    own: str
    other: str
    ways: tuple[Way, ...]
    backwards: bool = False

    def turned(self, other: Array, rank: int, choice: int = 0) -> Array:
        """The other model's tensor in the axes of the one that runs, of which there are ``rank``. Raises ValueError."""
        way = self.ways[choice]
        return way.to_reference(other) if self.backwards else way.to_candidate(other, rank)

    def to_json(self) -> dict[str, Any]:
        ways = [way.to_json() for way in self.ways]
        return {"own": self.own, "other": self.other, "ways": ways, "backwards": self.backwards}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Joint:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        ways = tuple(map(Way.from_json, values["ways"]))
        return cls(str(values["own"]), str(values["other"]), ways, bool(values["backwards"]))


@dataclass(frozen=True)
class Output:
    """An output that both models have, and what passes there.

    Attributes:
        joint: where it is; of its ways the first alone counts.
        name: the reference's.
        floor: relative error that rounding explains at its depth.
    """

    joint: Joint
    name: str
    atol: float
    rtol: float
    floor: float

    def to_json(self) -> dict[str, Any]:
        numbers = {"name": self.name, "atol": self.atol, "rtol": self.rtol, "floor": self.floor}
        return {"joint": self.joint.to_json(), **numbers}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Output:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(**{**values, "joint": Joint.from_json(values["joint"])})

    def off(self, value: Array, recorded: Array, other: Array) -> Off:
        """How far ``value`` is from the ``other`` model's output; ``recorded`` is what the model gave by itself.

        ``value`` and ``recorded`` are in the axes of the model that runs.
        """
        way = self.joint.ways[0]
        try:
            if self.joint.backwards:
                y, before, wanted = value, recorded, way.to_reference(other)
            else:
                y, before, wanted = way.to_reference(value), way.to_reference(recorded), other
        except ValueError:
            return Off(shape=tuple(value.shape))
        if y.shape != wanted.shape:
            return Off(shape=tuple(y.shape))
        error, place, scale = apart(wanted, y)
        with np.errstate(all="ignore"):
            a, b = dtypes.as_float64(y), dtypes.as_float64(wanted)
            size = _norm(b)
            outside = int(np.count_nonzero(~(np.abs(a - b) <= self.atol + self.rtol * np.abs(b)) & ~_alike(a, b)))
            found = Off(error, _norm(a - b) / size if size else math.inf * bool(error), outside, y.size, place, scale)
            if before.shape != wanted.shape:
                return found
            c = dtypes.as_float64(before)
            inner, whole = (_inner(c - d, c - b) for d in (a, b))
            changed = _norm(a - c) / _norm(c) if _norm(c) else math.inf * bool(_norm(a - c))
        unit = size * size or 1.0
        return replace(found, changed=changed, inner=inner / unit, whole=whole / unit)

    def passes(self, off: Off) -> bool:
        """Whether it is within the tolerance."""
        return off.shape is None and math.isfinite(off.max_abs) and not off.outside

    def agrees(self, off: Off) -> bool:
        """Whether it is within the tolerance, or off by no more than rounding at its depth."""
        if off.shape is not None or not math.isfinite(off.max_abs):
            return False
        return self.passes(off) or (off.rel_l2 <= self.floor and off.max_abs <= 4 * self.floor * off.scale)


@dataclass(frozen=True)
class Off:
    """How far an output is from the other model's.

    Attributes:
        max_abs, rel_l2, outside, size, argmax, scale: of the difference to the other model's recorded output, in the
            reference's axes; ``scale`` is the largest |recorded| of the other.
        changed: relative L2 distance from what the model gave by itself.
        inner, whole: of the difference that there was, how much went (the part along that difference), and all of it,
            as squares relative to the other's output; NaN where the shapes differed.
        shape: the shape, where it is not the other's: nothing else is known then.
    """

    max_abs: float = math.inf
    rel_l2: float = math.inf
    outside: int = 0
    size: int = 0
    argmax: tuple[int, ...] | None = None
    scale: float = 0.0
    changed: float = math.nan
    inner: float = math.nan
    whole: float = math.nan
    shape: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Off:
        """The inverse of :meth:`to_json`. Raises TypeError for anything else."""
        own = {key: None if values[key] is None else tuple(values[key]) for key in ("argmax", "shape")}
        return cls(**{**values, **own})


def explained(offs: Iterable[Off]) -> float | None:
    """The share of the outputs' difference that went, over all outputs; 1 is all of it, None where there was none.

    The part along the difference counts, each output relative to its size: so shares of small errors add up to one.
    """
    known = [off for off in offs if math.isfinite(off.whole) and math.isfinite(off.inner)]
    whole = sum(off.whole for off in known)
    return sum(off.inner for off in known) / whole if whole > 0 else None


def _norm(values: Array) -> float:
    flat = np.abs(values[np.isfinite(values)])
    largest = float(flat.max(initial=0.0))
    return largest * float(np.linalg.norm(flat / largest)) if largest else 0.0


def _inner(a: Array, b: Array) -> float:
    return float(np.where(np.isfinite(a) & np.isfinite(b), a * np.conj(b), 0.0).sum().real)


def _alike(a: Array, b: Array) -> Array:
    same: Array = (a == b) | (np.isnan(a) & np.isnan(b))
    return same


# --- where the model is -----------------------------------------------------------------------------------------


class Runner:
    """A loaded model that is run again and again; each run gives its outputs."""

    def __init__(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        recording: Recording,
        other: Recording,
        outputs: Sequence[Output],
        progress: Progress = lambda done, total: None,
    ) -> None:
        self._model, self._inputs = model, inputs
        self.recording, self.other, self.outputs = recording, other, outputs
        self._recorded = {o.joint.own: recording.read(o.joint.own) for o in outputs}
        self._progress = progress
        self.done, self.total = 0, 0

    def run(self, changes: Mapping[str, Change]) -> dict[str, Array]:
        """The outputs, by node, with ``changes`` made to nodes on the way. Raises ReplayError, ModelError."""
        watch = _Watch(changes, self._recorded.keys())
        self._model.replay(self._inputs, watch)
        self.done += 1
        self._progress(self.done, max(self.done, self.total))
        return watch.found

    def off(self, found: Mapping[str, Array]) -> list[Off]:
        """How far each output is from the other model's; one that did not come out is infinitely far."""
        return [
            o.off(found[o.joint.own], self._recorded[o.joint.own], self.other.read(o.joint.other))
            if o.joint.own in found
            else Off(shape=())
            for o in self.outputs
        ]

    def agree(self, offs: Sequence[Off]) -> bool:
        return all(o.agrees(off) for o, off in zip(self.outputs, offs, strict=True))


class _Watch:
    """Makes changes on the way, and keeps what the outputs are after them."""

    def __init__(self, changes: Mapping[str, Change], outputs: Iterable[str]) -> None:
        self._changes, self._outputs = changes, frozenset(outputs)
        self.found: dict[str, Array] = {}

    def wants(self, name: str) -> bool:
        return name in self._changes or name in self._outputs

    def __call__(self, name: str, value: Array) -> Array | None:
        new = self._changes[name](value) if name in self._changes else None
        if name in self._outputs:
            self.found[name] = np.array(value if new is None else new)
        return new


def put(runner: Runner, joints: Sequence[Joint]) -> dict[str, Any]:
    """Run with the other model's recorded tensors put in at ``joints``.

    Where values may be in one order or another, both are tried, and that is kept which leaves the outputs nearer.
    Returns the outputs, which of its ways each joint took, and by how much each tensor changed (relative L2).
    """
    choice = [0] * len(joints)

    def attempt(choice: Sequence[int]) -> tuple[list[Off], list[float]]:
        changed = [math.nan] * len(joints)

        def change(at: int) -> Change:
            def new(value: Array) -> Array:
                joint = joints[at]
                try:
                    fresh = joint.turned(runner.other.read(joint.other), value.ndim, choice[at])
                except ValueError as error:
                    raise ReplayError(f"the tensor of {joint.other} does not fit {joint.own}: {error}") from error
                changed[at] = _changed(value, fresh)
                return fresh

            return new

        found = runner.run({joint.own: change(at) for at, joint in enumerate(joints)})
        return runner.off(found), changed

    offs, changed = attempt(choice)
    for at in [at for at, joint in enumerate(joints) if len(joint.ways) > 1][:DOUBTS]:
        trial = [*choice[:at], 1, *choice[at + 1 :]]
        found, moved = attempt(trial)
        if _distance(found) < _distance(offs):
            choice, offs, changed = trial, found, moved
    return {"outputs": [off.to_json() for off in offs], "choice": choice, "changed": changed, "runs": runner.done}


def _distance(offs: Sequence[Off]) -> float:
    return math.hypot(*(off.rel_l2 for off in offs))


def _changed(value: Array, fresh: Array) -> float:
    if value.shape != fresh.shape:
        return math.inf
    with np.errstate(all="ignore"):
        size = _norm(dtypes.as_float64(value))
        away = _norm(dtypes.as_float64(fresh) - dtypes.as_float64(value))
    return away / size if size else math.inf * bool(away)


def walk(
    runner: Runner, joints: Sequence[Joint], sites: Iterable[str], folder: Path, *, fitting: bool = False
) -> dict[str, str]:
    """Feed the model the other's activations wherever the two meet; keep what it makes of them at ``sites``.

    Returns the files in ``folder``, by node. With ``fitting`` only tensors of the shape are fed that the model gave.
    """
    wanted, files = frozenset(sites), dict[str, str]()
    which = "reference" if any(joint.backwards for joint in joints) else "candidate"

    def change(joint: Joint) -> Change:
        def new(value: Array) -> Array | None:
            if joint.own in wanted:
                files[joint.own] = f"{which}-{len(files)}.npy"
                np.save(folder / files[joint.own], value.astype(np.float32) if value.dtype.kind == "V" else value)
            try:
                fresh = joint.turned(runner.other.read(joint.other), value.ndim)
            except ValueError:
                return None
            return None if fitting and fresh.shape != value.shape else fresh

        return new

    runner.run({joint.own: change(joint) for joint in joints})
    return files


@dataclass
class Correction:
    """Takes a layer's own error out of its result.

    All arrays are in the axes of the candidate, which runs: what it gives on its ``own`` inputs and on the reference's
    (``healed``), and what the reference gives on the candidate's (``repaired``) and on its own (``wanted``).
    """

    own: Array
    wanted: Array
    healed: Array | None = None
    repaired: Array | None = None
    changed: float = 0.0

    def __call__(self, value: Array) -> Array:
        """What the layer would give were it right. Keeps in ``changed`` how far that is from ``value``."""
        share = self.share(value)
        with np.errstate(all="ignore"):
            right, base = _between(self.repaired, self.wanted, share), _between(self.own, self.healed, share)
            assert right is not None
            fresh: Array
            if right.shape != value.shape and self.healed is not None and self.healed.shape == self.wanted.shape:
                fresh = value  # its shape is a defect above, and what is right for that shape is not known
            elif base is None or not value.shape == right.shape == base.shape:
                fresh = right
            elif value.dtype.kind in "biu":
                fresh = self.wanted if self.repaired is None or share >= 0.5 else self.repaired
            else:
                moved = dtypes.as_float64(value) + (right - base)
                fresh = np.where(np.isfinite(moved), moved, right)
        self.changed = _changed(value, fresh)
        return fresh

    def share(self, value: Array) -> float:
        """Where between its two known results the layer is: 0 as in the candidate's run, 1 as in the reference's."""
        if self.healed is None or self.repaired is None:
            return 0.0 if self.healed is None and self.repaired is not None else 1.0
        if not value.shape == self.own.shape == self.healed.shape:
            return float(value.shape == self.healed.shape)
        with np.errstate(all="ignore"):
            own = dtypes.as_float64(self.own)
            way = dtypes.as_float64(self.healed) - own
            length = _inner(way, way)
            return min(1.0, max(0.0, _inner(dtypes.as_float64(value) - own, way) / length)) if length > 0 else 1.0


def _between(first: Array | None, second: Array | None, share: float) -> Array | None:
    if first is None or second is None or first.shape != second.shape:
        one = first if second is None or (first is not None and share < 0.5) else second
        return None if one is None else dtypes.as_float64(one)
    if share in (0.0, 1.0):  # what is not finite on the other side must not come in
        return dtypes.as_float64(second if share else first)
    return np.asarray((1 - share) * dtypes.as_float64(first) + share * dtypes.as_float64(second))


def corrections(
    runner: Runner, sites: Sequence[Joint], healed: Mapping[str, str], repaired: Mapping[str, str], folder: Path
) -> dict[str, Correction]:
    """The correction of each site, by the candidate's node; ``repaired`` are the reference's files, by its nodes."""
    found = {}
    for site in sites:
        own = runner.recording.read(site.own)
        given = np.load(folder / healed[site.own], mmap_mode="r") if site.own in healed else None
        rank = own.ndim if given is None else given.ndim
        theirs = None
        with contextlib.suppress(ValueError):  # what does not fit in any way is left as it is
            if site.other in repaired:
                theirs = site.turned(np.load(folder / repaired[site.other], mmap_mode="r"), own.ndim)
            found[site.own] = Correction(own, site.turned(runner.other.read(site.other), rank), given, theirs)
    return found


def explain(runner: Runner, found: Mapping[str, Correction], groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Run with no defect repaired, with all, with each alone, with all but each, and with sets between.

    ``groups`` hold the nodes that each defect is made of. Returns the runs: which defects were repaired (by index), the
    outputs, and by how much the tensors of each changed (root sum of squares of the relative L2 ones).
    """
    everything = frozenset(range(len(groups)))
    runs: dict[frozenset[int], list[Off]] = {}
    rows: list[dict[str, Any]] = []
    runner.total = runner.done + 2 * len(groups) + 2

    def attempt(members: frozenset[int]) -> list[Off]:
        if members not in runs:
            parts = {at: [found[node] for node in groups[at] if node in found] for at in sorted(members)}
            for part in itertools.chain(*parts.values()):
                part.changed = 0.0
            nodes = [node for at in parts for node in groups[at] if node in found]
            offs = runner.off(runner.run({node: found[node] for node in nodes}))
            changed = [math.hypot(*(part.changed for part in parts[at])) for at in parts]
            runs[members] = offs
            outputs = [off.to_json() for off in offs]
            rows.append({"repaired": sorted(members), "outputs": outputs, "changed": changed})
        return runs[members]

    nothing = attempt(frozenset())
    last = attempt(everything)
    alone = {at: explained(attempt(frozenset({at}))) or 0.0 for at in everything}
    for at in everything:
        attempt(everything - {at})
    if runner.agree(last) and not runner.agree(nothing):
        order = sorted(everything, key=lambda at: -alone[at])
        if len(groups) <= EXACT:
            sets: Iterable[frozenset[int]] = (
                frozenset(members) for size in range(1, len(groups)) for members in itertools.combinations(order, size)
            )
            next((members for members in sets if runner.agree(attempt(members))), None)
        else:
            low, high = 1, len(groups)
            while low < high:
                middle = (low + high) // 2
                enough = runner.agree(attempt(frozenset(order[:middle])))
                low, high = (low, middle) if enough else (middle + 1, high)
    return {"rows": rows, "runs": runner.done}


def amplify(runner: Runner, nodes: Sequence[str], seed: int = 0) -> list[float]:
    """How much a small perturbation of each node's tensor grows to the outputs: relative change per relative change.

    Root mean square over :data:`DIRECTIONS` runs for each node; of several outputs the one that changes most counts.
    Every element is moved by :data:`STEP` of itself, with random signs, as rounding does (what a ReLU made zero stays
    zero). NaN where the tensor is none of numbers, or zero.
    """
    runner.total = runner.done + DIRECTIONS * len(nodes) + 1
    base = runner.run({})
    rng = np.random.default_rng(seed)

    def change(value: Array) -> Array | None:
        wide = dtypes.as_float64(value)
        moved = wide * (1 + STEP * rng.choice((-1.0, 1.0), value.shape))
        fits.append(value.dtype.kind not in "biu" and _norm(wide) > 0)
        return moved if fits[-1] else None

    grows = []
    for node in nodes:
        fits: list[bool] = []
        found = []
        for _ in range(DIRECTIONS):
            after = runner.run({node: change})
            if not (any(fits) and base and all(after[name].shape == base[name].shape for name in base)):
                break
            found.append(max(_changed(base[name], after[name]) for name in base) / STEP)
        grows.append(math.hypot(*found) / math.sqrt(DIRECTIONS) if len(found) == DIRECTIONS else math.nan)
    return grows


# --- in the worker ----------------------------------------------------------------------------------------------


def perform(
    model: LoadedModel, inputs: Mapping[str, Array], recording: Recording, options: Mapping[str, Any],
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Do one task: ``put``, ``walk``, ``explain`` or ``amplify``, as ``options`` say.

    Raises ReplayError, ModelError, TraceError.
    """
    other = Trace.open(recording.root).recording(options["other"])
    outputs = [Output.from_json(item) for item in options["outputs"]]
    runner = Runner(model, inputs, recording, other, outputs, progress)
    joints = [Joint.from_json(item) for item in options["joints"]]
    folder, task = Path(options["folder"]), options["task"]
    if task == "put":
        return put(runner, joints)
    if task == "amplify":
        return {"grows": amplify(runner, [joint.own for joint in joints]), "runs": runner.done}
    sites = [Joint.from_json(item) for item in options["sites"]]
    nodes = [site.own for site in sites]
    try:
        files = walk(runner, joints, nodes, folder)
    except ModelError:  # a defect of the shape: the next dense layer does not take it
        files = walk(runner, joints, nodes, folder, fitting=True)
    if task == "walk":
        return {"files": files, "runs": runner.done}
    made = corrections(runner, sites, files, options["repaired"], folder)
    return explain(runner, made, options["groups"])


def run_graft(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``graft`` command: :func:`perform` with the model that was recorded."""
    from tracer.worker import protocol

    model, inputs, recording = loading.of_job(job, emit)
    return perform(model, inputs, recording, job.options, lambda done, total: emit(protocol.progress(done, total)))
