"""Which layers the difference of the outputs comes from: what ``tracer graft`` finds, and how it is found."""

from __future__ import annotations

import difflib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from tracer import dtypes
from tracer.adapter import Array, LoadedModel
from tracer.alignment import Alignment, Pair, align
from tracer.alignment.features import TRANSPARENT
from tracer.compare import Diff, PairDiff, Tolerance, Verdict
from tracer.compare.judging import tolerance_for
from tracer.compare.local import Local
from tracer.compare.verdict import rounding_floor
from tracer.errors import InputError, ReplayError, TraceError, TracerError
from tracer.graph import Structure
from tracer.names import display
from tracer.rerun import graft, loading
from tracer.rerun.cuts import Cut, Way, cuts
from tracer.rerun.graft import Joint, Off, Output, explained
from tracer.rerun.grafted import Defect, Explanation, Graft, Side, growth
from tracer.rerun.measuring import apart
from tracer.store import Recording

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile

MOST = 16
"""Defects whose shares are found; of more those with the largest errors."""
Run = Callable[[Recording, dict[str, Any]], dict[str, Any]]
"""Does a task of :func:`tracer.rerun.graft.perform` with the model of a recording. Raises TracerError."""


def in_process(
    models: tuple[object | None, object | None],
    reference: Recording,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Run live models, the reference's and the candidate's; they are left as they were.

    What is returned raises ReplayError where a model is None or not the one recorded, InputError, ModelError.
    """
    ready: dict[str, tuple[LoadedModel, Mapping[str, Any]]] = {}

    def run(recording: Recording, options: dict[str, Any]) -> dict[str, Any]:
        if recording.name not in ready:
            given = models[recording.name != reference.name]
            if given is None:
                raise ReplayError(f"the model of '{display(recording.name)}' was not given")
            ready[recording.name] = loading.live(given, recording)
        model, inputs = ready[recording.name]
        return graft.perform(model, inputs, recording, options, progress or (lambda done, total: None))

    return run


# --- one model on from the other's activations -------------------------------------------------------------------


def at(
    reference: Recording,
    candidate: Recording,
    names: Sequence[str],
    run: Run,
    *,
    into: Side = "candidate",
    tolerance: Tolerance | None = None,
    mapping: MappingFile | None = None,
) -> Graft:
    """Run one model with the other's recorded activations put in at ``names``: what becomes of the outputs.

    ``names`` are aligned names, node names of either side, or globs. What does not depend on those tensors runs on its
    own inputs. Raises InputError for names that fit no pair, TraceError where there is nothing to compare, and what
    ``run`` raises.
    """
    tolerance = tolerance or Tolerance()
    _same_input(reference, candidate)
    alignment = align(reference, candidate, mapping)
    chosen = named(alignment, names, reference, candidate)
    made, without = cuts(alignment.pairs, reference, candidate)
    places = by_index(made)
    joints: dict[str, tuple[int, Joint]] = {}
    for index in chosen:
        if index not in places:
            pair = alignment.pairs[index]
            if "output" in pair.evidence and len(chosen) > 1:
                continue
            raise InputError(f"'{display(pair.aligned)}' cannot be put in: {display(without.get(index, 'no tensor'))}")
        joint = _at(alignment.pairs[index], places[index], reference, candidate, into)
        joints[joint.own] = index, joint
    outputs, notes = common_outputs(alignment, made, reference, candidate, tolerance, mapping, into)
    own, other = (candidate, reference) if into == "candidate" else (reference, candidate)
    answer = run(own, options("put", other, outputs, [joint for _, joint in joints.values()], ""))
    pairs = [alignment.pairs[index] for index, _ in joints.values()]
    return Graft(
        reference, candidate, tolerance, outputs, as_recorded(outputs, own, other),
        tuple(map(Off.from_json, answer["outputs"])), int(answer["runs"]), notes,
        tuple(pairs), into, tuple(answer["changed"]),
        tuple(pair.aligned for pair, choice in zip(pairs, answer["choice"], strict=True) if choice),
    )  # fmt: skip


def named(alignment: Alignment, names: Sequence[str], reference: Recording, candidate: Recording) -> list[int]:
    """The pairs that are meant, by their indices. Raises InputError, with the nearest names, where none is."""
    found: dict[int, None] = {}
    for name in names:
        indices = _matching(alignment, lambda known, name=name: known == name) or _matching(  # type: ignore[misc]
            alignment, lambda known, name=name: fnmatchcase(known, name)  # type: ignore[misc]
        )  # fmt: skip
        if not indices:
            raise InputError(_unknown(name, alignment, reference, candidate))
        found.update(dict.fromkeys(indices))
    return sorted(found)


def _matching(alignment: Alignment, fits: Callable[[str], bool]) -> list[int]:
    """Pairs by their aligned names; else by the reference's nodes, else by the candidate's."""
    sides: tuple[Callable[[Pair], tuple[str, ...]], ...] = (
        lambda pair: (pair.aligned,), lambda pair: pair.reference, lambda pair: pair.candidate
    )  # fmt: skip
    for side in sides:
        hits = [index for index, pair in enumerate(alignment.pairs) if any(map(fits, side(pair)))]
        own = [index for index in hits if "output" not in alignment.pairs[index].evidence]
        if hits:
            return own or hits
    return []


def _unknown(name: str, alignment: Alignment, reference: Recording, candidate: Recording) -> str:
    for recording, lonely in ((reference, alignment.unmatched_reference), (candidate, alignment.unmatched_candidate)):
        if name in lonely:
            return f"'{display(name)}' of '{display(recording.name)}' has no twin: nothing can be put in there"
    known = sorted({node for pair in alignment.pairs for node in (*pair.reference, *pair.candidate)})
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"did you mean {', '.join(map(display, near))}?" if near else "tracer map lists the pairs"
    return f"no pair is named '{display(name)}'; {hint}"


def _at(pair: Pair, cut: Cut, reference: Recording, candidate: Recording, into: Side) -> Joint:
    """Where a pair's tensors meet, with a second way where the values agree in another order than the axes say."""
    ours = reference.resolve(pair.reference[-1])
    if candidate.stored(cut.candidate) is not None:
        ways = _likely(cut, reference.read(ours), candidate.read(cut.candidate))
    elif into == "candidate":
        ways = cut.ways[:1]
    else:
        raise InputError(f"'{display(cut.candidate)}' cannot be put in: {candidate.why_missing(cut.candidate)}")
    own, other = (cut.candidate, ours) if into == "candidate" else (ours, cut.candidate)
    return Joint(own, other, ways, into == "reference")


def _likely(cut: Cut, ours: Array, theirs: Array) -> tuple[Way, ...]:
    """The likeliest way for two recorded tensors, and another under which they agree far better."""
    far = []
    for way in cut.ways:
        try:
            moved = way.to_reference(theirs)
        except ValueError:
            far.append(math.inf)
            continue
        far.append(apart(ours, moved)[0] if moved.shape == ours.shape else math.inf)
    best = min(range(len(far)), key=far.__getitem__)
    if not far[best] < 0.1 * far[0]:
        return cut.ways[:1]
    return (cut.ways[best],) if math.isinf(far[0]) else (cut.ways[0], cut.ways[best])


# --- which defects explain the difference -------------------------------------------------------------------------


def explain(diff: Diff, run: Run) -> Explanation:
    """Find how much of the outputs' difference each pair explains that diverges on its own in ``diff``.

    The reference is run once, the candidate at most 2k + 9 times for k defects. Raises TraceError where there is
    nothing to compare, and what ``run`` raises for the candidate.
    """
    reference, candidate, tolerance = diff.reference, diff.candidate, diff.tolerance
    _same_input(reference, candidate)
    measured = {index: pair.local for index, pair in enumerate(diff.pairs) if pair.local is not None}
    made, _ = cuts(diff.alignment.pairs, reference, candidate)
    outputs, notes = common_outputs(
        diff.alignment, made, reference, candidate, tolerance, diff.mapping, "candidate", measured
    )  # fmt: skip
    before = as_recorded(outputs, candidate, reference)
    found = _defects(diff, made)
    defects, groups = [defect for defect, _ in found[:MOST]], [nodes for _, nodes in found[:MOST]]
    left_out = tuple(defect for defect, _ in found[MOST:])
    agreed = all(output.agrees(off) for output, off in zip(outputs, before, strict=True))
    if not defects or all(output.passes(off) for output, off in zip(outputs, before, strict=True)):
        return Explanation(
            reference, candidate, tolerance, outputs, before, before, 0, (*diff.notes, *notes), diff, tuple(defects),
            () if agreed else None, left_out,
        )  # fmt: skip
    ways = {name: _way(cut, measured.get(cut.index)) for name, cut in made.items()}
    forth = [Joint(name, cut.heal, (ways[name],)) for name, cut in made.items() if not cut.draws]
    back = {
        node: Joint(node, name, (ways[name],), True)
        for name, cut in made.items()
        for node in dict.fromkeys((cut.reference, *(other for _, other in cut.same)))
        if not cut.draws and candidate.stored(name) is not None
    }
    sites = [joint for joint in forth if any(joint.own in nodes for nodes in groups)]
    said = [*diff.notes, *notes]
    with tempfile.TemporaryDirectory(prefix="tracer-") as folder:
        files, runs = {}, 0
        try:
            wanted = options("walk", candidate, outputs=(), joints=list(back.values()), folder=folder)
            wanted["sites"] = [back[site.other].to_json() for site in sites if site.other in back]
            answer = run(reference, wanted)
            files, runs = answer["files"], int(answer["runs"])
        except TracerError as error:
            said.append(f"shares are less exact: {error}")
        wanted = options("explain", reference, outputs, forth, folder)
        wanted["sites"] = [site.to_json() for site in sites]
        wanted |= {"repaired": files, "groups": [list(nodes) for nodes in groups]}
        answer = run(candidate, wanted)
    rows = {frozenset(row["repaired"]): row for row in answer["rows"]}
    offs = {members: tuple(map(Off.from_json, row["outputs"])) for members, row in rows.items()}
    weighed, after, enough = _weighed(defects, offs, rows, outputs)
    return Explanation(
        reference, candidate, tolerance, outputs, before, after, runs + int(answer["runs"]), tuple(said), diff,
        weighed, enough, left_out,
    )  # fmt: skip


def _weighed(
    defects: Sequence[Defect],
    offs: Mapping[frozenset[int], tuple[Off, ...]],
    rows: Mapping[frozenset[int], Mapping[str, Any]],
    outputs: Sequence[Output],
) -> tuple[tuple[Defect, ...], tuple[Off, ...], tuple[int, ...] | None]:
    """The defects with their shares, the largest first, the outputs with all repaired, and the set that suffices."""
    everything = frozenset(range(len(defects)))
    whole = explained(offs[everything])
    found = []
    for at_, defect in enumerate(defects):
        one, rest = frozenset({at_}), everything - {at_}
        others = explained(offs[rest])
        last = None if whole is None or others is None else whole - others
        grows = growth(offs[one], float(rows[one]["changed"][0]))
        found.append(Defect(defect.pairs, defect.settings, explained(offs[one]), last, grows))
    order = sorted(everything, key=lambda at_: -(found[at_].explains or 0.0))
    enough = [
        members
        for members, off in offs.items()
        if all(output.agrees(one) for output, one in zip(outputs, off, strict=True))
    ]
    smallest = min(enough, key=lambda members: (len(members), [order.index(m) for m in members]), default=None)
    positions = None if smallest is None else tuple(sorted(order.index(member) for member in smallest))
    return tuple(found[at_] for at_ in order), offs[everything], positions


def _defects(diff: Diff, made: Mapping[str, Cut]) -> list[tuple[Defect, tuple[str, ...]]]:
    """What diverges on its own, the largest local error first, with the candidate's nodes that are corrected for it.

    The same mistake in several layers is one defect, and so are the calls of one layer. What a person accepted counts
    as well: it explains what it explains.
    """
    places = by_index(made)
    groups: dict[tuple[object, ...], dict[int, str]] = {}
    for index, pair in enumerate(diff.pairs):
        accepted = bool(pair.note) and pair.local is not None and pair.local.diverged
        if not (pair.verdict is Verdict.DIVERGED or accepted) or index not in places or places[index].draws:
            continue
        if diff.candidate.stored(places[index].candidate) is None:
            continue
        node = places[index].candidate
        groups.setdefault(_mistake(pair, node, diff), {})[index] = node
    found = []
    for members in groups.values():
        pairs = tuple(diff.pairs[index] for index in members)
        several = len(set(members.values())) > 1
        said = "; ".join(s.values for s in pairs[0].settings if s.computes) if several else ""
        found.append((Defect(pairs, said), tuple(dict.fromkeys(members.values()))))
    return sorted(found, key=lambda item: -_ratio(item[0]))


def _mistake(pair: PairDiff, node: str, diff: Diff) -> tuple[object, ...]:
    """What is the same for all pairs of a defect: settings that differ, another operation, the layer that is called."""
    computing = [setting.values for setting in pair.settings if setting.computes]
    if computing:
        return ("settings", pair.node.kind, *computing)
    nodes = [diff.reference.structure.by_name[name] for name in pair.pair.reference]
    nodes += [diff.candidate.structure.by_name[name] for name in pair.pair.candidate]
    if pair.node.kind != pair.candidate_node.kind and not any(one.params for one in nodes):
        return ("operation", pair.node.label, pair.candidate_node.label, pair.pair.what)
    layer = pair.candidate_node
    return ("layer", layer.owner) if layer.role == "layer" and layer.owner else ("node", node)


def _ratio(defect: Defect) -> float:
    error = defect.error
    return -1.0 if math.isnan(error) else error


def _way(cut: Cut, local: Local | None) -> Way:
    """The way that was found when the pair was run again."""
    if local is not None and local.reordered and not local.unexpected:
        return next((way for way in cut.ways if way.arrangement is not None), cut.ways[0])
    return Way(local.axes) if local is not None and local.axes is not None else cut.ways[0]


# --- what both need -----------------------------------------------------------------------------------------------


def options(task: str, other: Recording, outputs: Sequence[Output], joints: Sequence[Joint], folder: str) -> Any:
    """What :func:`tracer.rerun.graft.perform` is told."""
    return {
        "task": task, "other": other.name, "outputs": [output.to_json() for output in outputs],
        "joints": [joint.to_json() for joint in joints], "folder": folder,
    }  # fmt: skip


def _same_input(reference: Recording, candidate: Recording) -> None:
    if reference.input_id != candidate.input_id:
        raise InputError(
            f"recordings '{display(reference.name)}' and '{display(candidate.name)}' were made on different inputs: "
            "record one of them again on the other's"
        )


def by_index(made: Mapping[str, Cut]) -> dict[int, Cut]:
    """The cut at which each pair is judged or passed on."""
    return {index: cut for cut in made.values() for index in (cut.index, *(index for index, _ in cut.same))}


def common_outputs(
    alignment: Alignment,
    made: Mapping[str, Cut],
    reference: Recording,
    candidate: Recording,
    tolerance: Tolerance,
    mapping: MappingFile | None,
    into: Side,
    measured: Mapping[int, Local] | None = None,
) -> tuple[tuple[Output, ...], tuple[str, ...]]:
    """The outputs that both models have, each once, and sentences about the others. Raises TraceError for none."""
    known = [(output.reference, output.candidate) for output in alignment.outputs]
    if not known:
        known = [(name, None) for name in reference.structure.outputs]
    depths = _depths(reference.structure)
    found: dict[tuple[str, str], Output] = {}
    notes = []
    for name, twin in known:
        pair = alignment.by_reference.get(name)
        if pair is not None and twin is not None and pair.candidate[-1] != twin:
            pair = next((p for p in alignment.pairs if name in p.reference and twin == p.candidate[-1]), pair)
        cut = made.get(candidate.resolve(pair.candidate[-1])) if pair is not None else None
        sides = ((reference, pair.reference[-1]), (candidate, pair.candidate[-1])) if pair is not None else ()
        if pair is None or cut is None or any(recording.stored(node) is None for recording, node in sides):
            notes.append(f"output {name} of '{reference.name}' is not compared: it has no twin that was recorded")
            continue
        ours = reference.resolve(pair.reference[-1])
        way = _way(cut, (measured or {}).get(cut.index))
        if measured is None and cut.ways[0].axes is not None:
            nearer = _likely(cut, reference.read(ours), candidate.read(cut.candidate))[-1]
            way = nearer if nearer.arrangement is None else way
        own, other = (cut.candidate, ours) if into == "candidate" else (ours, cut.candidate)
        types = (reference.structure.by_name[ours].dtype, candidate.structure.by_name[cut.candidate].dtype)
        coarsest = max((dtype for dtype in types if dtype), key=dtypes.epsilon, default="float32")
        allowed, _ = tolerance_for(pair.aligned, tolerance, mapping)
        floor = rounding_floor(coarsest, depths[ours])
        joint = Joint(own, other, (way,), into == "reference")
        found.setdefault((own, other), Output(joint, pair.aligned, allowed.atol, allowed.rtol, floor))
    if not found:
        raise TraceError("; ".join(notes) or f"the outputs of '{display(reference.name)}' are not known")
    return tuple(found.values()), tuple(notes)


def _depths(structure: Structure) -> dict[str, int]:
    """How many operations lie on the longest way to each node, itself counted."""
    depths: dict[str, int] = {}
    for node in structure:
        above = (*node.parents, *((node.alias_of,) if node.alias_of else ()))
        counts = node.alias_of is None and node.kind not in TRANSPARENT
        depths[node.name] = counts + max((depths.get(name, 0) for name in above), default=0)
    return depths


def as_recorded(outputs: Sequence[Output], own: Recording, other: Recording) -> tuple[Off, ...]:
    """How far the outputs are apart that the models gave when they were recorded."""
    found = []
    for output in outputs:
        recorded = own.read(output.joint.own)
        found.append(output.off(recorded, recorded, other.read(output.joint.other)))
    return tuple(found)
