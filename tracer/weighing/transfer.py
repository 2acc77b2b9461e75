"""Weights of one model carried over to another, and proven by running it: written only where both compute the same."""

from __future__ import annotations

import contextlib
import glob
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer import adapter as adapters
from tracer import dtypes
from tracer.alignment import align
from tracer.alignment.outputs import chain
from tracer.alignment.owned import Key
from tracer.causes.explain import Explained
from tracer.causes.finding import Finding
from tracer.causes.kept import explained, told
from tracer.compare import Diff, PairDiff, Tolerance, Verdict
from tracer.compare import diff as compare
from tracer.compare.verdict import AGREEING
from tracer.errors import InputError, TraceError
from tracer.names import display
from tracer.recording import refine
from tracer.store import Recording, Trace
from tracer.weighing import filling, writing
from tracer.weighing.carrying import Carried, carry
from tracer.weighing.plan import Plan, plan
from tracer.weighing.script import script
from tracer.worker import janitor

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile

SCHEMA = "tracer-transfer/1"
_PROVES = 0.1
"""Relative L2 error of an output up to which rounding may be what is left: other weights make it about one."""
_SECONDS = 10.0
"""For the causes of what stays different."""


@dataclass(frozen=True)
class Asked:
    """What is wanted of a transfer.

    Attributes:
        name: of the recording of the filled model.
        partial: whether weights may be left over or missing.
        anyway: whether it is written although the outputs stay different.
        force: whether a recording of that name is replaced.
    """

    name: str
    partial: bool = False
    anyway: bool = False
    force: bool = False
    tolerance: Tolerance = field(default_factory=Tolerance)
    mapping: MappingFile | None = None

    @classmethod
    def of(cls, target: Recording, name: str | None, **more: Any) -> Asked:
        """With the usual name where none is given."""
        return cls(f"{target.name}-transferred" if name is None else name, **more)


@dataclass(frozen=True)
class Transferred:
    """What became of a transfer; true where the weights were written.

    Attributes:
        plan: how the target's weights are made of the source's.
        carried: every parameter of both sides, and what became of it.
        diff: the source's recording against that of the filled target; None where it was not run.
        why: the causes of what stays different; None where the outputs agree.
        path: the file; None where none was wanted or written.
        refused: why nothing was written; empty where it was.
    """

    source: Recording
    target: Recording
    plan: Plan
    carried: Carried
    diff: Diff | None = None
    why: Explained | None = None
    path: Path | None = None
    refused: str = ""
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return not self.refused

    def __str__(self) -> str:
        from tracer.report.transfer import plain

        return plain(self)

    @property
    def recording(self) -> Recording | None:
        """That of the filled target; None where it was not kept."""
        return self.diff.candidate if self.diff is not None and not self.refused else None

    @property
    def script(self) -> str:
        """The same transfer as a Python script that does not need tracer: what ``--emit-python`` writes.

        Raises InputError where a side's framework is not one that scripts know.
        """
        return script(self.plan, self.carried, self.source, self.target)

    @property
    def kept(self) -> Mapping[Key, str]:
        """Of the target, left as they are and rightly so, with the reason."""
        return self.carried.kept

    @property
    def missing(self) -> Mapping[Key, str]:
        """Of the target, nothing of the source fits, with the reason."""
        return self.carried.missing

    @property
    def left_over(self) -> Mapping[Key, str]:
        """Of the source, nothing took them, with the reason."""
        return self.carried.left_over

    @cached_property
    def _ends(self) -> Mapping[tuple[int, str], PairDiff | None]:
        return {} if self.diff is None else _ends(self.diff)

    @property
    def outputs(self) -> tuple[PairDiff, ...]:
        """The pairs of either model's outputs, each once: that they agree proves the weights before them."""
        return tuple({pair.aligned: pair for pair in self._ends.values() if pair is not None}.values())

    @property
    def unproven(self) -> tuple[str, ...]:
        """Sentences about outputs that have no twin: what a model returns is more than its weights."""
        if self.diff is None:
            return ()
        sides = self.diff.reference, self.diff.candidate
        return tuple(
            f"'{sides[side].name}' returns {name}, which '{sides[1 - side].name}' has not"
            for (side, name), pair in self._ends.items()
            if pair is None
        )

    @property
    def staying(self) -> tuple[Finding, ...]:
        """Why layers stay different, in the order of the pairs; empty where the outputs agree."""
        return () if self.why is None else tuple(self.why.parting)

    @property
    def agrees(self) -> bool:
        """Whether the outputs are equal to within the tolerance or rounding."""
        return bool(self.outputs) and all(map(agrees, self.outputs))

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer transfer --json``."""
        carried, recording = self.carried, self.recording
        return {
            "schema": SCHEMA,
            "source": self.source.name,
            "target": self.target.name,
            "written": None if self.path is None else str(self.path),
            "recording": None if recording is None else recording.name,
            "refused": self.refused or None,
            "carried": [
                {"parameter": list(key), "how": how, "confidence": carried.doubtful.get(key, 1.0)}
                for key, how in carried.made.items()
            ],
            **{name: _listed(found) for name, found in (
                ("kept", carried.kept), ("missing", carried.missing), ("left_over", carried.left_over),
                ("spent", carried.spent),
            )},
            "rounded": [list(key) for key in carried.rounded],
            "outputs_agree": None if self.diff is None else self.agrees,
            "outputs": [pair.aligned for pair in self.outputs],
            "unproven": list(self.unproven),
            "causes": [finding.to_json() for finding in self.staying],
            "diff": None if self.diff is None else self.diff.to_json(),
            "seconds": round(self.seconds, 3),
        }  # fmt: skip


def _listed(found: Mapping[Key, str]) -> list[dict[str, Any]]:
    return [{"parameter": list(key), "reason": why} for key, why in found.items()]


def carried(source: Recording, target: Recording, mapping: MappingFile | None = None) -> tuple[Plan, Carried]:
    """The target's weights made of the source's, as their recordings hold them, and how.

    Raises InputError where one of them holds none, or ``mapping`` does not fit; TraceError where one is damaged.
    """
    for recording in (source, target):
        if not recording.weights:
            raise InputError(
                f"'{display(recording.name)}' was recorded without weights, or has none: record it with --save-weights"
            )
    alignment = align(source, target, directed(mapping, source, target))
    made = plan(alignment, source, target)
    return made, carry(made, source, target)


def directed(mapping: MappingFile | None, source: Recording, target: Recording) -> MappingFile | None:
    """A mapping file in the direction of the transfer, whichever of the two is its reference.

    Where its names do not say that, it is the one of the two that the other was aligned to when it was recorded.
    Raises InputError where it does not fit.
    """
    if mapping is None:
        return None
    named = mapping.reference, mapping.candidate
    back = source.attributes.get("reference") == target.name
    if named in ((source.name, target.name), (target.name, source.name)):
        back = named == (target.name, source.name)
    if not back:
        return mapping
    turned = mapping.turned(target.structure, source.structure)
    if not mapping.tolerances:
        return turned
    found = []
    for pair in align(source, target, turned).pairs:
        given = mapping.tolerance(pair.candidate[-1])
        if given is not None:
            found.append(given.model_copy(update={"match": glob.escape(pair.aligned)}))
    return turned.model_copy(update={"tolerances": tuple(found)})


def account(source: Recording, target: Recording, asked: Asked) -> Transferred:
    """What a transfer would make, without running anything; ``refused`` where tensors have no account.

    Raises as :func:`carried`.
    """
    made, found = carried(source, target, asked.mapping)
    return Transferred(source, target, made, found, refused="" if asked.partial else _incomplete(found))


Fill = Callable[[Carried, str], None]
"""Fills the target's model, and records it under a name in the trace on the source's input. Raises TracerError."""


def transfer(
    source: Recording, target: Recording, asked: Asked, fill: Fill, publish: Callable[[], Path | None]
) -> Transferred:
    """Carry the weights over, run the filled model on the source's input, compare, and ``publish`` if it agrees.

    What comes back with ``refused`` has changed nothing: its recording is gone again. Raises as :func:`carried`, as
    ``fill`` and ``publish``, with the same cleanliness, and InputError where the name of the recording is taken.
    """
    began = time.monotonic()
    check(source, target, asked)
    trace = Trace.open(target.root)
    done = account(source, target, asked)
    if done.refused:
        return replace(done, seconds=time.monotonic() - began)
    refused, incomplete = "", not done.carried.whole
    if not done.carried.values:
        raise InputError(f"no weight of '{display(source.name)}' fits '{display(target.name)}'")
    scratch = _aside(trace, asked.name)
    try:
        fill(done.carried, scratch)
        filled, mapping = trace.recording(scratch), directed(asked.mapping, source, target)
        alignment = align(source, filled, mapping)
        filled = refine(trace, source, filled, alignment if mapping is None else align(source, filled))
        found = compare(source, filled, asked.tolerance, mapping=mapping, alignment=alignment)
        done = replace(done, diff=found)
        if not done.agrees:
            done = replace(done, why=explained(found, within=_SECONDS))
        elif found.first is not None:
            done = replace(done, diff=told(found))
        if not done.agrees and not asked.anyway and not incomplete:
            refused = different(done)
        path = None if refused else publish()
    except BaseException:
        _drop(trace, scratch)
        raise
    if refused:
        _drop(trace, scratch)
        return replace(done, refused=refused, seconds=time.monotonic() - began)
    if scratch != asked.name:
        trace.rename(scratch, asked.name)
    assert done.diff is not None
    final = replace(done.diff, candidate=trace.recording(asked.name))
    return replace(done, diff=final, path=path, seconds=time.monotonic() - began)


def into(source: Recording, target: Recording, model: object, out: Path | None, asked: Asked) -> Transferred:
    """Fill the live ``model`` of ``target`` in place, and write its weights to ``out`` if there is one.

    Where the transfer is refused or fails the model has its own weights again. Raises as :func:`transfer`.
    """
    check(source, target, asked)
    if out is not None:
        writing.check(out, asked.force)
        filling.check_format(adapters.for_object(model)[0], out)
    with janitor.folder() as folder:
        made = None if out is None else Path(folder) / out.name
        fill = filling.Live(source, target, model, made)

        def publish() -> Path | None:
            if made is not None and out is not None:
                writing.publish(made, out, asked.force)
            return out

        try:
            done = transfer(source, target, asked, fill, publish)
        except BaseException:
            fill.undo()
            raise
    if done.refused:
        fill.undo()
    return done


def check(source: Recording, target: Recording, asked: Asked) -> None:
    """Raises InputError where the two or the recording's name cannot be used."""
    trace = Trace.open(target.root)
    if source.root.resolve() != trace.root.resolve():
        raise InputError(
            f"'{display(source.name)}' and '{display(target.name)}' are of different traces: record both in one"
        )
    if source.name == target.name:
        raise InputError(f"'{display(source.name)}' is source and target: name two recordings")
    if not asked.name:
        raise InputError("a recording needs a name")
    if asked.name in (source.name, target.name):
        raise InputError(f"--name {display(asked.name)} is one of the two: name a new recording")
    if trace.has(asked.name) and not asked.force:
        raise InputError(
            f"recording '{display(asked.name)}' exists already in {display(str(trace.root))}: --force replaces it, "
            "--name NAME keeps both"
        )


def shown(key: Key) -> str:
    """A parameter's owner and name as one."""
    return display(".".join(part for part in key if part))


def _incomplete(found: Carried) -> str:
    """Why not every tensor is accounted for."""
    parts = []
    for names, what in (
        (found.missing, "of the target has no source"),
        (found.left_over, "of the source has no place"),
    ):
        if names:
            key, why = next(iter(names.items()))
            first = f"{shown(key)} ({display(why)})"
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            parts.append(f"{first}{more} {what if len(names) == 1 else what.replace('has', 'have')}")
    return "; ".join(parts)


def different(done: Transferred) -> str:
    """What keeps the outputs apart, in words."""
    assert done.diff is not None
    if not done.outputs:
        return "no output of both could be compared: nothing proves these weights"
    apart = [pair for pair in done.outputs if not agrees(pair)]
    unknown = [pair for pair in apart if not pair.compared]
    if unknown:
        return f"the output {display(unknown[0].aligned)} could not be compared: {display(unknown[0].reason)}"
    for pair in apart:
        assert pair.stats is not None
        if pair.stats.blank:
            values = done.carried.values.items()
            wrong = next((shown(key) for key, v in values if not np.isfinite(dtypes.as_float64(v)).all()), None)
            why = f" ({wrong} would hold NaN or infinity)" if wrong is not None else ""
            said = f"the output {display(pair.aligned)} is NaN or one value throughout{why}"
            return f"{said}: nothing proves these weights"
        if pair.verdict in AGREEING:
            return f"the output {display(pair.aligned)} is off by {pair.stats.rel_l2:.0%}, too much to prove anything"
    largest = max((pair.stats.max_abs for pair in apart if pair.stats is not None), default=0.0)
    findings = done.staying
    ids = Counter(name for one in findings for name in one.names or ("unknown",) for _ in one.pairs or (one.pair,))
    said = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in ids.most_common(4))
    layers = len({name for one in findings for name in one.pairs or (one.pair,)})
    where = f": {layers} layer{'s compute' if layers > 1 else ' computes'} otherwise ({said})" if layers else ""
    return f"the outputs stay apart by {largest:.1e} with these weights{where}"


def agrees(pair: PairDiff) -> bool:
    """Whether an output proves the weights before it: equal to within the tolerance or rounding, and not by accident.

    Deep in a network of a coarse type rounding may explain almost any difference, which then proves nothing.
    """
    if pair.verdict not in AGREEING or pair.stats is None or (pair.stats.blank and pair.stats.size > 1):
        return False
    return pair.verdict is Verdict.MATCH or pair.stats.rel_l2 <= _PROVES


def _ends(diff: Diff) -> dict[tuple[int, str], PairDiff | None]:
    """The pair of each output of either side: of the tensor itself, or of what only arranges it."""
    found: dict[tuple[int, str], PairDiff | None] = {}
    for side, recording in enumerate((diff.reference, diff.candidate)):
        named = {
            (pair.pair.reference, pair.pair.candidate)[side][-1]: pair
            for pair in reversed(diff.pairs)
            if "output" not in pair.pair.evidence  # what is the end of both, and no twin
        }
        for name in recording.structure.outputs:
            twins = (named.get(node) for node in chain(recording.structure, name))
            found[side, name] = next((pair for pair in twins if pair is not None), None)
    return found


def _aside(trace: Trace, name: str) -> str:
    """Where to record what may replace ``name``: what is there stays until the transfer has succeeded."""
    if not trace.has(name):
        return name
    aside = f"{name}.new"
    _drop(trace, aside)  # what a killed transfer left
    return aside


def _drop(trace: Trace, name: str) -> None:
    with contextlib.suppress(TraceError, InputError, OSError):
        if trace.has(name):
            trace.delete(name)
