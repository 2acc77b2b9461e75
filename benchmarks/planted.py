"""Defects built into ports, one or several at once, and which pairs of a comparison they explain."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tracer
from tracer.alignment import align
from tracer.compare.comparing import Diff
from tracer.compare.pair import PairDiff
from tracer.graph import Structure
from tracer.store import Recording, Trace

AT_ONCE = ("block-missing", "block-extra", "block-repeated", "layer-extra", "layer-missing", "normalisation-extra",
           "activation-extra", "activation-missing", "dense-missing")  # fmt: skip
"""Defects whose place is what they added or took away, not the layer beside it."""


@dataclass
class Planted:
    """Defects in one model: what each changed, in the names that its nodes have in the end."""

    model: Any
    kinds: list[str] = field(default_factory=list)
    places: list[set[str]] = field(default_factory=list)
    gone: list[set[str]] = field(default_factory=list)
    was: dict[str, str | None] = field(default_factory=dict)


def plant(subject: Any, kinds: Sequence[str], seed: int) -> Planted | None:
    """Build in the defects one after the other; None where there is no place for one of them."""
    from benchmarks.corpus.mutations import Subject, observe

    out, inputs = Planted(subject.model), subject.inputs
    out.was = {node.name: node.name for node in subject.structure}
    for position, kind in enumerate(kinds):
        own = subject if out.model is subject.model else Subject(out.model, inputs)
        mutation = own.mutate(kind, seed + position)
        if mutation is None:
            return None
        structure = observe(mutation.model, inputs)[0]
        names = mutation.names
        now: dict[str, set[str]] = {}
        for new, old in names.items():
            if old is not None:
                now.setdefault(old, set()).add(new)
        out.places = [{new for old in place for new in now.get(old, ())} for place in out.places]
        new_nodes = {node.name for node in structure if names.get(node.name, None) is None}
        place = new_nodes
        if kind not in AT_ONCE:
            place |= {new for new, old in names.items() if old is not None and within(old, mutation.where)}
        out.gone.append({found for name in mutation.gone if (found := out.was.get(name)) is not None})
        out.was = {node.name: out.was.get(names.get(node.name) or "") for node in structure}
        out.places.append(place)
        out.kinds.append(kind)
        out.model = mutation.model
    undone = any(not place and not gone for place, gone in zip(out.places, out.gone, strict=True))
    return None if undone else out


def within(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith((f"{place}.", f"{place}#", f"{place}[")) for place in places)


def segment(structure: Structure, start: str, stops: set[str]) -> set[str]:
    """The nodes that a tensor is computed by, up to those in ``stops``; itself among them."""
    seen, queue = {start}, [start]
    nodes = structure.by_name
    while queue:
        node = nodes[queue.pop()]
        for name in (*node.parents, *((node.alias_of,) if node.alias_of else ())):
            if name not in seen and name not in stops:
                seen.add(name)
                queue.append(name)
    return seen


def stacked(subject: Any, names: Sequence[str], count: int, draws: int, seed: int) -> Iterator[Planted]:
    """Models with ``count`` defects at once, ``draws`` of them; with one, each kind that there is a place for."""
    rng = np.random.default_rng(seed)
    stacks = [[kind] for kind in names]
    if count > 1:
        possible = [kind for kind in names if subject.mutate(kind, seed) is not None]
        most = min(count, len(possible))
        stacks = [list(rng.choice(possible, most, replace=False)) for _ in range(4 * draws)]
    done = 0
    for kinds in stacks:
        if count > 1 and done == draws:
            break
        try:
            planted = plant(subject, [str(kind) for kind in kinds], seed)
        except Exception as error:
            print(f"{'+'.join(kinds)}: not planted: {type(error).__name__} {str(error)[:100]}")
            continue
        if planted is not None:
            done += 1
            yield planted


def defective(model: Any, correct: Recording, record: Mapping[str, Any], place: Path) -> Recording:
    """Record a defective model on the port's own input."""
    from benchmarks.defects import _layout

    shutil.rmtree(place, ignore_errors=True)
    saved = Trace.open(correct.root).inputs(correct.input_id)
    inputs = {name: values for name, (values, _) in saved.items()}
    trace = Trace.at(place)
    trace.make()
    trace.save_inputs(correct.input_id, inputs, {name: dict(own) for name, (_, own) in saved.items()})
    tracer.record(model, inputs, trace=place, name="defect", **{**record, "layout": _layout(correct)})
    return Trace.open(place).recording("defect")


def twins_of(reference: Recording, correct: Recording) -> dict[str, str]:
    """The reference's node of each of the correct port's."""
    twins = {name: pair.reference[-1] for pair in align(reference, correct).pairs for name in pair.candidate}
    for node in reversed(list(correct.structure)):  # what has no twin shows in the first that does
        below = [twins[child] for child in correct.structure.children[node.name] if child in twins]
        if node.name not in twins and below:
            twins[node.name] = below[0]
    return twins


def explaining(found: Diff, planted: Planted, twins: Mapping[str, str]) -> Callable[[PairDiff], list[bool | None]]:
    """Says of a pair, for each defect, whether it explains what is found there: None where it does not, else whether
    the defect is in that very node.

    ``twins``: the reference's node of each of the correct port's.
    """
    theirs, ours = found.candidate.structure, found.reference.structure
    computed = [p for p in found.pairs if "output" not in p.pair.evidence]
    ends = [(p.node.name, p.candidate_node.name) for p in computed]
    known = {name for ours_, _ in ends for name in (ours_, found.reference.resolve(ours_))}
    # What a defect made another node's twin (queries and values exchanged) shows where it is read.
    crossed = {t for o, t in ends if twins.get(planted.was.get(t) or "", o) != o}
    stops = {name for _, theirs_ in ends for name in (theirs_, found.candidate.resolve(theirs_))} - crossed
    lost = [{twins[name] for name in gone if name in twins} for gone in planted.gone]

    def explained(pair: PairDiff) -> list[bool | None]:
        place = segment(theirs, pair.candidate_node.name, stops) | {found.candidate.resolve(pair.candidate_node.name)}
        source = segment(ours, pair.node.name, known)
        return [
            pair.candidate_node.name in affected or bool(source & gone) if place & affected or source & gone else None
            for affected, gone in zip(planted.places, lost, strict=True)
        ]

    return explained
