"""Random input for the layers that findings are about: the model that does it is run again with that, and decides.

What is asked of the model is only what it makes of the input. The statements are computed from the recordings, in
float64, as they were for the proof; those that do not give what the model gives are no longer believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.adapter import Array, LoadedModel
from tracer.causes import probes
from tracer.causes.case import Case, cases, distance
from tracer.causes.differences import differences, may_show
from tracer.causes.edit import Edit
from tracer.causes.explain import SECONDS, Explained, of_outcome, unshown, with_findings
from tracer.causes.finding import Finding, Probed
from tracer.causes.probes import DOUBT, RECORDED, Probe
from tracer.causes.search import Budget, Outcome, Spent, Tried, attempt, deduced, possible, search
from tracer.causes.step import Unknown
from tracer.compare import PairDiff
from tracer.dtypes import as_float64
from tracer.errors import ModelError, ReplayError, TracerError
from tracer.rerun import loading
from tracer.rerun.cuts import cuts
from tracer.store import Recording

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job

LARGEST = 1 << 29
"""Bytes of input that are made for all findings together."""
_NOTHING = "nothing differs"
_IN_TRAINING = ("training-bn-momentum", "training-bn-variance")
"""What no input shows of a model that is evaluated."""
_Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What a model is asked: which of its nodes are ``fed`` what, and the tensor of which one is ``wanted``."""

    fed: Mapping[str, Array]
    wanted: str


Run = Callable[[Recording, Sequence[Request]], Sequence[Array | str]]
"""What the recorded model gives for each request, or why it gives nothing. Raises TracerError."""


@dataclass(frozen=True)
class _Question:
    """What is asked about a finding.

    Attributes:
        place: of the finding among all of them.
        pair: that it is about.
        case: whose ``theirs`` is the side that is run.
        outcome: what the search came to; None of what this input does not show.
        stated: what the recordings say besides, which random input may show.
        inputs: what it is fed, what was recorded first.
    """

    place: int
    pair: PairDiff
    case: Case
    outcome: Outcome | None
    stated: tuple[Edit, ...]
    inputs: tuple[Probe, ...]

    @property
    def settings(self) -> tuple[Edit, ...]:
        """Of what is stated, all but the operations that one side has alone."""
        return tuple(edit for edit in self.stated if not edit.detail.get("alone"))

    @property
    def nbytes(self) -> int:
        return sum(values.nbytes for one in self.inputs for values in one.fed.values())

    @property
    def requests(self) -> list[Request]:
        return [Request(one.fed, self.case.theirs.node.name) for one in self.inputs]


def probe(
    found: Explained, run: Run, *, seconds: float = SECONDS, progress: _Progress = lambda done, total: None
) -> Explained:
    """The same findings with what random input says of them.

    That decides between statements that are one function on what was recorded, shows whether a hypothesis holds beyond
    it, whether a difference that it does not show matters, and may find what it does not tell. What is proven by what
    the recordings state is left as it is. ``seconds`` are for looking for the causes of one pair again.

    Raises TraceError where a recording cannot be read. Where a model cannot be run the findings say why.
    """
    each = list(found.each)
    questions, room = [], LARGEST
    wanted = [place for place, one in enumerate(each) if _wanted(one, found)]
    asking = _Asking(found, seconds)
    for done, place in enumerate(wanted):
        progress(done, len(wanted))
        try:
            question = asking(place, each[place])
        except Unknown as error:
            each[place] = _unasked(each[place], str(error))
            continue
        if question is None:
            continue
        room -= question.nbytes
        if room < 0:
            each[place] = _unasked(each[place], "there is no room for so much input")
        else:
            questions.append(question)
    for recording in (found.diff.reference, found.diff.candidate):
        some = [question for question in questions if question.case.theirs.recording is recording]
        requests = [request for question in some for request in question.requests]
        try:
            answers = list(run(recording, requests)) if requests else []
        except TracerError as error:
            answers = [str(error)] * len(requests)
        for question in some:
            own, answers = answers[: len(question.inputs)], answers[len(question.inputs) :]
            each[question.place] = asking.decided(question, each[question.place], own)
    return with_findings(found, each)


def _wanted(one: Finding, found: Explained) -> bool:
    """Whether a finding may have something to ask that was not: of one mistake in many layers it is the first."""
    if one.probed is not None and one.probed.said:
        return False
    return one.status in ("ambiguous", "unknown") or any(one.pair == whole.pair for whole in found.findings)


def _unasked(one: Finding, why: str) -> Finding:
    return replace(one, probed=Probed(why=why))


class _Asking:
    """Makes questions of findings, and findings of the answers."""

    def __init__(self, found: Explained, seconds: float) -> None:
        diff = found.diff
        made, _ = cuts(diff.alignment.pairs, diff.reference, diff.candidate)
        self._make = cases(made, diff.reference, diff.candidate)
        self._seconds = seconds
        known = {index for cut in made.values() for index in (cut.index, *(index for index, _ in cut.same))}
        self._places: dict[str, tuple[int, PairDiff]] = {}
        for index, pair in enumerate(diff.pairs):
            if index in known:
                self._places.setdefault(pair.aligned, (index, pair))

    def __call__(self, place: int, one: Finding) -> _Question | None:
        """None where there is nothing to ask. Raises Unknown."""
        if one.pair not in self._places:
            raise Unknown("it has no tensor of its own")
        index, pair = self._places[one.pair]
        both = self._make(index, pair, frozenset())
        if one.status == "latent":
            case = next((case for case in both if case.ours.program is not None), both[0])
            edits = tuple(edit for edit in differences(case) if may_show(case, edit) and edit.cause not in _IN_TRAINING)
            return _Question(place, pair, case, None, edits, _inputs(case)) if edits else None
        try:
            outcome = search(*both, Budget(self._seconds))
        except Spent:
            raise Unknown("the time for this pair was over") from None
        if outcome.agrees:
            return None
        told = of_outcome(pair, outcome)
        outcome = self._turned(outcome, both)
        case = outcome.case
        if outcome.best is not None and not outcome.rivals:
            sure = all(edit.seen for edit in outcome.best.edits)
            if sure and not any(map(_deduced, both)) and not unshown(outcome):
                return None
            if told is None or told.names != one.names:
                return None  # it is told of several pairs together
        stated = tuple(edit for edit in outcome.spare if edit.seen)
        return _Question(place, pair, case, outcome, stated, _inputs(case))

    def _turned(self, outcome: Outcome, both: Sequence[Case]) -> Outcome:
        """The same with the other side run, where that is the one of which something was only deduced."""
        other = next(case for case in both if case.turned_round != outcome.case.turned_round)
        if outcome.best is None or _deduced(outcome.case) or not _deduced(other):
            return outcome
        try:
            found = search(other, _unread(outcome.case), Budget(self._seconds))
        except (Spent, Unknown):
            return outcome
        return found if found.best is not None and not found.agrees else outcome

    def decided(self, question: _Question, one: Finding, answers: Sequence[Array | str]) -> Finding:
        """The finding with what the answers say."""
        try:
            tried = _answered(question, answers)
        except Unknown as error:
            return _unasked(one, str(error))
        if question.outcome is None:
            return replace(one, probed=_shown(question, tried))
        statements = [question.outcome.best, *question.outcome.rivals] if question.outcome.best is not None else []
        bar, settings = DOUBT * question.case.bar, question.settings
        rows = [(statement, _worst(tried, statement.edits, settings)) for statement in statements]
        holding = [statement for statement, left in rows if left <= bar]
        said = _verdict(statements, holding, open_=one.status == "ambiguous")
        if not holding and (afresh := self._afresh(question, tried)):
            said = "found on random input, where it alone holds" if statements else "found on random input"
            rows += [(statement, _worst(tried, statement.edits, settings)) for statement in afresh]
            holding = afresh
        elif not holding and statements and _worst(tried, statements[0].edits, question.stated) <= bar:
            said = "it holds on random input together with what differs besides"
            holding = statements[:1]
        errors = [("", _NOTHING, _worst(tried, (), settings))]
        errors += [(_ids(statement), statement.edits[-1].what, left) for statement, left in rows]
        probed = Probed(said, inputs=tuple(tried), errors=tuple(errors))
        if not holding:
            return replace(one, status="ambiguous" if statements else one.status, probed=probed)
        found = of_outcome(question.pair, _narrowed(question, holding))
        return one if found is None else replace(found, probed=probed, seconds=one.seconds)

    def _afresh(self, question: _Question, tried: Mapping[str, Case]) -> list[Tried]:
        """What a search on random input finds, where that holds on what was recorded and on every other input."""
        at = next(iter(tried.values()))
        try:
            outcome = search(at, _unread(at), Budget(self._seconds))
        except (Spent, Unknown):
            return []
        if outcome.best is None or not outcome.best.edits:
            return []
        bar, recorded = DOUBT * question.case.bar, {RECORDED: question.case}
        return [
            one
            for one in (outcome.best, *outcome.rivals)
            if _worst({**tried, **recorded}, one.edits, question.settings) <= bar
        ]


def _deduced(case: Case) -> bool:
    """Whether what the side does that would be run was in part read off the values that it recorded."""
    return any(deduced(case, name) for name in case.theirs.nodes)


def _unread(case: Case) -> Case:
    """A case that no search finds anything in."""
    unread = replace(case, ours=replace(case.ours, program=None, problem="it is not asked"))
    unread.__dict__.pop("program", None)
    return unread


def _inputs(case: Case) -> tuple[Probe, ...]:
    return (probes.again(case), *probes.probes(case))


def _answered(question: _Question, answers: Sequence[Array | str]) -> dict[str, Case]:
    """The case on each input that was answered with numbers. Raises Unknown where none was."""
    case, tried, why = question.case, dict[str, Case](), ""
    for one, answer in zip(question.inputs, answers, strict=True):
        if isinstance(answer, str):
            why = why or answer
        elif one.kind == RECORDED:
            try:
                same = distance(case.way(as_float64(answer)), case.target) <= DOUBT * case.bar
            except ValueError:
                same = False
            if not same:
                raise Unknown("given what was recorded it does not make again what was recorded")
            continue
        else:
            at = probes.on(case, one, answer)
            if np.all(np.isfinite(at.target)) or not np.all(np.isfinite(case.target)):
                tried[one.kind] = at
        if one.kind == RECORDED:
            break
    if not tried:
        raise Unknown(why or "random input gives no numbers")
    return tried


def _worst(tried: Mapping[str, Case], edits: Sequence[Edit], stated: Sequence[Edit]) -> float:
    """The largest error that is left; what the recordings state besides may be part of an edit already."""
    first = next(iter(tried.values()))
    ways = dict.fromkeys((tuple(edits), possible(first, (*stated, *edits)), possible(first, (*edits, *stated))))
    return min(max(probes.error(case, way) for case in tried.values()) for way in ways)


def _verdict(statements: Sequence[Tried], holding: Sequence[Tried], *, open_: bool) -> str:
    if not statements:
        return "random input does not tell it either"
    if not holding:
        many = "none of these holds" if len(statements) > 1 else "it does not hold"
        return f"{many} on random input: what is at work is another thing, which is the same on what was recorded"
    if len(holding) == len(statements):
        return "random input leaves all of them" if open_ else "it holds on random input as well"
    if len(holding) == 1:
        return f"on random input only {_ids(holding[0])} holds"
    return f"random input leaves {len(holding)} of {len(statements)}"


def _ids(statement: Tried) -> str:
    return "+".join(dict.fromkeys(edit.cause for edit in statement.edits))


def _narrowed(question: _Question, holding: Sequence[Tried]) -> Outcome:
    """What the search would have come to, had it known."""
    case, outcome, best = question.case, question.outcome, holding[0]
    assert outcome is not None
    if outcome.best is best:
        return replace(outcome, rivals=tuple(holding[1:]))
    without = tuple(attempt(case, [e for e in best.edits if e is not edit]) for edit in best.edits)
    found = Tried(best.edits, attempt(case, best.edits))
    return replace(outcome, best=found, without=without, rivals=tuple(holding[1:]), nearest=None)


def _shown(question: _Question, tried: Mapping[str, Case]) -> Probed:
    """What random input says of a difference that the recorded one does not show."""
    bar = DOUBT * question.case.bar
    before = _worst(tried, (), ())
    after = _worst(tried, tuple(possible(question.case, question.stated)), ())
    if before <= bar:
        said = "random input does not show it either"
    elif after <= bar:
        said = "random input shows it"
    else:
        said = "on random input the layers part, and this is not all of it"
    edits = question.stated
    row = ("+".join(dict.fromkeys(edit.cause for edit in edits)), "; ".join(edit.what for edit in edits), after)
    return Probed(said, inputs=tuple(tried), errors=(("", _NOTHING, before), row))


# --- where the model is ------------------------------------------------------------------------------------------


class _Watch:
    def __init__(self, request: Request) -> None:
        self._request = request
        self.found: Array | None = None

    def wants(self, name: str) -> bool:
        return name == self._request.wanted or name in self._request.fed

    def __call__(self, name: str, value: Array) -> Array | None:
        if name == self._request.wanted:
            self.found = value.astype(np.float32) if value.dtype.kind == "V" else np.array(value)
            return None
        return self._request.fed[name]


def answered(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    requests: Sequence[Request],
    progress: _Progress = lambda done, total: None,
) -> list[Array | str]:
    """What a model makes of each request, or the reason in words why that cannot be had."""
    found: list[Array | str] = []
    for done, request in enumerate(requests):
        progress(done, len(requests))
        watch, why = _Watch(request), f"{request.wanted} did not run"
        try:
            model.replay_rest(inputs, watch, request.fed)
        except (ReplayError, ModelError) as error:  # what comes after the layer may not take what it makes
            why = str(error)
        found.append(why if watch.found is None else watch.found)
    return found


def in_process(models: tuple[object | None, object | None], reference: Recording) -> Run:
    """Ask live models, the reference's and the candidate's; they are left as they were."""

    def run(recording: Recording, requests: Sequence[Request]) -> list[Array | str]:
        model = models[0 if recording.name == reference.name else 1]
        if model is None:
            raise ReplayError(f"the model of '{recording.name}' was not given")
        return answered(*loading.live(model, recording), requests)

    return run


def write(request: Request, stem: Path) -> dict[str, str]:
    """Write what a request feeds as files beside ``stem``; their names by node."""
    files = {}
    for at, (name, values) in enumerate(request.fed.items()):
        files[name] = f"{stem.name}-{at}.npy"
        np.save(stem.parent / files[name], values)
    return files


def run_probe(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``probe`` command: arrays by files in the job's folder, answers there as ``probe-N.npy``."""
    from tracer.worker import protocol

    model, inputs, _ = loading.of_job(job, emit)
    folder = Path(job.options["folder"])
    files, failed = dict[str, str](), dict[str, str]()
    requests = job.options["requests"]
    for at, request in enumerate(requests):
        emit(protocol.progress(at, len(requests)))
        fed = {name: np.load(folder / file) for name, file in request["fed"].items()}
        (found,) = answered(model, inputs, [Request(fed, request["wanted"])])
        if isinstance(found, str):
            failed[str(at)] = found
        else:
            files[str(at)] = f"probe-{at}.npy"
            np.save(folder / files[str(at)], found)
    return {"files": files, "failed": failed}
