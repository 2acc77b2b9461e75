"""The fixes made in memory: the candidate is changed as a patch says and run once more, to see what difference is left.

A fix that is no change of a live model, such as another argument in its forward, is stood in for by the reference's own
layer, computed from its recording on what the candidate's layer is given.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import adapter as adapters
from tracer.adapter import Array, LoadedModel
from tracer.alignment import Pair
from tracer.causes.case import Case, cases
from tracer.causes.explain import Explained
from tracer.causes.finding import Finding
from tracer.causes.patching import patch
from tracer.causes.step import Unknown
from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Tolerance, Verdict
from tracer.dtypes import as_float64
from tracer.errors import ReplayError
from tracer.rerun import defects, loading
from tracer.rerun.cuts import Cut, cuts
from tracer.rerun.graft import Off, Output
from tracer.store import Recording, Trace
from tracer.text import described

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job

_PATCH = "the patch"


@dataclass(frozen=True)
class Verified:
    """What is left of the outputs' difference.

    Attributes:
        outputs: those that both models have.
        before, after: how far each is from the reference's, as recorded and with the fixes.
        made: pairs whose fix was made in the model; ``stood_in`` those whose layer was computed as the reference's.
        left: pairs of which nothing could be done, with the reason.
    """

    outputs: tuple[Output, ...]
    before: tuple[Off, ...]
    after: tuple[Off, ...]
    made: tuple[str, ...]
    stood_in: tuple[str, ...]
    left: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether every output is within the tolerance, or off by no more than rounding."""
        return all(output.agrees(off) for output, off in zip(self.outputs, self.after, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The ``verified`` of ``tracer explain --verify --json``."""
        rows = zip(self.outputs, self.before, self.after, strict=True)
        return {
            "agrees": self.agrees,
            "outputs": [{"name": o.name, "before": _figures(b), "after": _figures(a)} for o, b, a in rows],
            "made": list(self.made), "stood_in": list(self.stood_in), "left": dict(self.left),
            "notes": list(self.notes),
        }  # fmt: skip


def _figures(off: Off) -> dict[str, float | None]:
    return {key: value if np.isfinite(value) else None for key, value in
            (("max_abs", off.max_abs), ("rel_l2", off.rel_l2))}  # fmt: skip


Run = Callable[[dict[str, Any]], dict[str, Any]]
"""Does :func:`perform` with the candidate's model. Raises TracerError."""


def verify(found: Explained, run: Run) -> Verified:
    """Make the fixes and run the candidate again. Raises TraceError where no output is comparable; and as ``run``."""
    diff = found.diff
    made, _ = cuts(diff.alignment.pairs, diff.reference, diff.candidate)
    outputs, notes = defects.common_outputs(
        diff.alignment, made, diff.reference, diff.candidate, diff.tolerance, diff.mapping, "candidate"
    )
    known = [one for one in found.each if one.status != "latent"]
    done = [one for one in known if one.causes and all(cause.changes for cause in one.causes)]
    left = {one.pair: "its cause is unknown" for one in known if not one.causes}
    open_ = {one.pair for one in known if one.causes and one not in done}
    places = [(at, pair) for at, pair in enumerate(diff.pairs) if pair.aligned in open_]
    try:
        text = patched(found)
    except ValueError:
        text = ""
    answer = run({
        "other": diff.reference.name, "patch": text,
        "stand_in": [[at, list(pair.pair.reference), list(pair.pair.candidate), dict(pair.pair.evidence)]
                     for at, pair in places],
        "cuts": [cut.to_json() for cut in made.values()], "outputs": [output.to_json() for output in outputs],
    })  # fmt: skip
    left |= {pair: str(why) for pair, why in answer["failed"].items()}
    return Verified(
        outputs, defects.as_recorded(outputs, diff.candidate, diff.reference),
        tuple(map(Off.from_json, answer["outputs"])), tuple(one.pair for one in done),
        tuple(dict.fromkeys(pair.aligned for _, pair in places if pair.aligned not in left)), left, notes,
    )  # fmt: skip


def patched(found: Explained, name: str = "patch") -> str:
    """The patch of a whole comparison. Raises ValueError where no fix can be made in memory."""
    diff = found.diff
    return patch(
        in_order(found), trace=str(diff.reference.root.absolute()), reference=diff.reference.name,
        candidate=diff.candidate.name, name=name,
    )  # fmt: skip


def in_order(found: Explained) -> list[Finding]:
    """Each pair's finding for itself, those that this input shows first."""
    return sorted(found.each, key=lambda one: one.status == "latent")


def in_process(model: object, candidate: Recording) -> Run:
    """Do it with a copy of the live candidate, where fixes are made in it; the model itself is left as it was.

    What is returned raises InputError where no adapter knows the model, ReplayError where it cannot be copied.
    """

    def run(options: dict[str, Any]) -> dict[str, Any]:
        try:
            own = copy.deepcopy(model) if options["patch"] else model
        except Exception as error:
            why = described(error, 120)
            raise ReplayError(f"the candidate cannot be copied, and the fixes are made in a copy: {why}") from error
        return perform(*loading.live(own, candidate), candidate, options)

    return run


# --- where the model is ----------------------------------------------------------------------------------------------


def perform(
    model: LoadedModel, inputs: Mapping[str, Array], recording: Recording, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Change the model as the patch says, run it with the reference's layers standing in, and compare its outputs.

    Raises ReplayError where the patch does not fit the model or the model cannot be run again, ModelError, TraceError.
    """
    other = Trace.open(recording.root).recording(str(options["other"]))
    outputs = [Output.from_json(item) for item in options["outputs"]]
    if options["patch"]:
        model = _changed(model, inputs, str(options["patch"]))
    made = {cut.candidate: cut for cut in map(Cut.from_json, options["cuts"])}
    make = cases(made, other, recording)
    stand_ins: dict[str, list[_StandIn]] = {}
    failed: dict[str, str] = {}
    for index, ours, theirs, evidence in options["stand_in"]:
        pair = _pair(other, recording, ours, theirs, evidence)
        try:
            one = _StandIn(pair.aligned, *make(int(index), pair, frozenset()))
            one.case.program  # noqa: B018  (raises Unknown)
        except Unknown as error:
            failed[pair.aligned] = str(error)
        else:
            stand_ins.setdefault(one.case.theirs.node.name, []).append(one)
    watch = _Watch(stand_ins, [output.joint.own for output in outputs], failed)
    model.replay(inputs, watch)
    offs = []
    for output in outputs:
        own = output.joint.own
        known = own in watch.found
        recorded, theirs = recording.read(own), other.read(output.joint.other)
        offs.append(output.off(watch.found[own], recorded, theirs) if known else Off(shape=()))
    return {"outputs": [off.to_json() for off in offs], "failed": failed}


def _pair(
    reference: Recording, candidate: Recording, ours: list[str], theirs: list[str], evidence: dict[str, float]
) -> PairDiff:
    """A pair of which nothing but the nodes is known."""
    node, other = reference.structure.by_name[ours[-1]], candidate.structure.by_name[theirs[-1]]
    pair = Pair(tuple(ours), tuple(theirs), None, 1.0, evidence)
    return PairDiff(pair, node, other, node.shape, None, Verdict.NOT_COMPARABLE, "", None, 0.0, Tolerance())


def _changed(model: LoadedModel, inputs: Mapping[str, Array], text: str) -> LoadedModel:
    """The same model with a patch applied to its object, ready to run."""
    live = model.live()
    space: dict[str, Any] = {"__name__": "tracer_patch"}
    try:
        exec(compile(text, _PATCH, "exec"), space)
        space["apply"](live)
    except Exception as error:
        raise ReplayError(f"the patch does not fit the model: {type(error).__name__}: {error}") from error
    fresh = adapters.for_object(live)[1].wrap(live)
    fresh.run = model.run
    fresh.structure(inputs)
    return fresh


@dataclass(frozen=True)
class _StandIn:
    """A pair whose layer is computed as the reference's; ``case`` edits the reference's, ``turned`` the candidate's."""

    pair: str
    case: Case
    turned: Case

    def __call__(self, tensors: Mapping[str, Array]) -> Array:
        """What the layer gives on the candidate's tensors, in the candidate's axes. Raises Unknown, ValueError."""
        given = {}
        for name, twin in self.case.ours.above.items():
            if name not in self.case.program.inputs:
                continue
            if twin not in tensors:
                raise Unknown(f"{twin} did not run before it")
            given[name] = self.case.ways[name](tensors[twin])
        return self.turned.way(self.case.program.run(given))


class _Watch:
    """Keeps what the stand-ins read, puts in what they give, and keeps the outputs."""

    def __init__(
        self, stand_ins: Mapping[str, Sequence[_StandIn]], outputs: Sequence[str], failed: dict[str, str]
    ) -> None:
        self._stand_ins, self._outputs, self._failed = stand_ins, frozenset(outputs), failed
        self._read = {twin for some in stand_ins.values() for one in some for twin in one.case.ours.above.values()}
        self._known: dict[str, Array] = {}
        self.found: dict[str, Array] = {}

    def wants(self, name: str) -> bool:
        return name in self._stand_ins or name in self._outputs or name in self._read

    def __call__(self, name: str, value: Array) -> Array | None:
        new = None
        self._keep(name, value)
        for one in self._stand_ins.get(name, ()):
            try:
                new = one(self._known).astype(value.dtype)
            except (Unknown, ValueError) as error:
                self._failed[one.pair] = str(error)
            else:
                self._keep(name, new)
        if name in self._outputs:
            self.found[name] = np.array(value if new is None else new)
        return new

    def _keep(self, name: str, value: Array) -> None:
        if name in self._read:
            self._known[name] = np.array(value) if value.dtype.kind in "biu" else np.array(as_float64(value))


def run_verify(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``verify`` command: :func:`perform` with the model that was recorded."""
    model, inputs, recording = loading.of_job(job, emit)
    return perform(model, inputs, recording, job.options)
