"""Both graphs, how they are paired and how far apart they are, for Google's Model Explorer.

Three of its JSON formats: a graph collection (``graph_builder.py`` of the package ``ai-edge-model-explorer`` and
``input_graph.ts`` of its source), node data (``node_data_builder.py``), and the mapping of sync navigation
(``sync_navigation.ts``). Looked up in version 0.1.34.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tracer.compare.comparing import Diff
from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Verdict
from tracer.errors import InputError
from tracer.graph import Node
from tracer.names import display
from tracer.report import words
from tracer.report.outline import operation
from tracer.store import Recording
from tracer.weighing import writing

ERRORS, VERDICTS, MAPPING = ".errors.json", ".verdicts.json", ".mapping.json"
"""What the names of the files beside the graphs end in."""
_STEP = re.compile(r"[/.]")
_COLOURS: dict[Verdict, tuple[str, str]] = {
    Verdict.MATCH: ("#0072b2", "#ffffff"),
    Verdict.NOISE: ("#56b4e9", "#000000"),
    Verdict.DIVERGED: ("#d55e00", "#ffffff"),
    Verdict.INHERITED: ("#e69f00", "#000000"),
    Verdict.UNMATCHED: ("#cc79a7", "#000000"),
    Verdict.NOT_COMPARABLE: ("#999999", "#000000"),
}
"""Background and text: the palette of Okabe and Ito (2008), which the colour-blind tell apart."""
_SCALE = ((1e-7, 0), (1e-5, 1), (1e-3, 3), (1e-1, 3), (math.nextafter(math.inf, 0), 2))
"""Relative errors up to which a colour of the above is used."""


def check(path: Path, force: bool) -> None:
    """Raises InputError where :func:`export` cannot write its files."""
    if path.suffix.lower() != ".json":
        raise InputError(f"{display(str(path))}: graphs for Model Explorer go into a .json file")
    for one in files(path):
        writing.check(one, force)


def files(path: Path) -> tuple[Path, Path, Path, Path]:
    """The graphs, and beside them errors, verdicts and the mapping."""
    beside = (path.with_name(f"{path.stem}{ending}") for ending in (ERRORS, VERDICTS, MAPPING))
    return (path, *beside)  # type: ignore[return-value]


def export(diff: Diff, path: Path, *, force: bool = False) -> tuple[Path, Path, Path, Path]:
    """Write the four files; see :func:`files`.

    Raises InputError for a name that does not end in ``.json`` and what is in the way, TraceError where the disk fails.
    """
    check(path, force)
    found = files(path)
    contents = collection(diff), errors(diff), verdicts(diff), mapping(diff)
    for one, content in zip(found, contents, strict=True):
        writing.publish_text(json.dumps(content, indent=1, allow_nan=False), one, force)
    return found


def collection(diff: Diff) -> dict[str, Any]:
    """The graph collection: the reference's graph and the candidate's, each under its recording's name."""
    sides = ((diff.reference, diff.alignment.unmatched_reference), (diff.candidate, diff.alignment.unmatched_candidate))
    graphs = [
        _graph(recording, _pairs(diff, side), unmatched, diff) for side, (recording, unmatched) in enumerate(sides)
    ]
    return {"label": words.title(diff), "graphs": graphs}


def errors(diff: Diff) -> dict[str, Any]:
    """Node data: the relative L2 error of each pair, on both its nodes."""
    colours = [_COLOURS[verdict] for verdict in Verdict]
    thresholds = [{"value": value, "bgColor": colours[at][0], "textColor": colours[at][1]} for value, at in _SCALE]

    def of(pair: PairDiff) -> dict[str, Any] | None:
        error = None if pair.stats is None else pair.stats.rel_l2
        return {"value": error} if error is not None and math.isfinite(error) else None

    return _node_data(diff, "relative L2 error", of, {"thresholds": thresholds})


def verdicts(diff: Diff) -> dict[str, Any]:
    """Node data: the verdict on each pair, on both its nodes; nodes without a twin are ``unmatched``."""

    def said(verdict: Verdict) -> dict[str, Any]:
        background, text = _COLOURS[verdict]
        return {"value": str(verdict), "bgColor": background, "textColor": text}

    found = _node_data(diff, "verdict", lambda pair: said(pair.verdict), {})
    lonely = (
        (diff.reference, diff.alignment.unmatched_reference),
        (diff.candidate, diff.alignment.unmatched_candidate),
    )
    for recording, names in lonely:
        found[recording.name]["results"].update({name: said(Verdict.UNMATCHED) for name in names})
    return found


def mapping(diff: Diff) -> dict[str, Any]:
    """The mapping of sync navigation, the reference on the left: node to node, and groups as they are."""
    pairs = [pair.pair for pair in diff.pairs]
    return {
        "type": "sync_navigation",
        "mapping": {pair.reference[-1]: pair.candidate[-1] for pair in reversed(pairs)},
        "mappingEntries": [
            {"leftNodeIds": list(pair.reference), "rightNodeIds": list(pair.candidate)} for pair in pairs
        ],
        "disableMappingFallback": True,
    }


def _pairs(diff: Diff, side: int) -> dict[str, PairDiff]:
    """The pair of each node of one side; of several that of its own."""
    return {name: pair for pair in reversed(diff.pairs) for name in (pair.pair.reference, pair.pair.candidate)[side]}


def _node_data(diff: Diff, name: str, of: Any, more: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for side, recording in enumerate((diff.reference, diff.candidate)):
        values = ((node, of(pair)) for node, pair in _pairs(diff, side).items())
        found[recording.name] = {"name": name, "results": {node: value for node, value in values if value}, **more}
    return found


def _graph(
    recording: Recording, pairs: Mapping[str, PairDiff], unmatched: Mapping[str, str], diff: Diff
) -> dict[str, Any]:
    structure = recording.structure
    folded = {node.name: node.alias_of for node in structure if node.role == "container" and node.alias_of}

    def seen(name: str) -> str:
        """The node that stands for one: a container is a group here, and its tensor that of a node in it."""
        while name in folded:
            name = folded[name]
        return name

    nodes = [
        {
            "id": node.name,
            "label": display(node.name if node.role == "input" else operation(node) or node.kind),
            "namespace": namespace(node),
            "attrs": [{"key": key, "value": display(value)} for key, value in _said(node, pairs, unmatched)],
            "incomingEdges": [
                {"sourceNodeId": seen(parent), "sourceNodeOutputId": "0", "targetNodeInputId": str(at)}
                for at, parent in enumerate(node.parents)
                if seen(parent) in structure.by_name
            ],
            "outputsMetadata": [{"id": "0", "attrs": [{"key": "shape", "value": _tensor(node)}]}],
        }
        for node in structure
        if node.name not in folded
    ]
    about = {
        "model": recording.model, "framework": recording.framework, "verdict": str(diff.verdict),
        "compared with": (diff.candidate if recording is diff.reference else diff.reference).name,
        "tolerance": f"atol {diff.tolerance.atol:g} rtol {diff.tolerance.rtol:g}",
    }  # fmt: skip
    if diff.first is not None:
        about["first divergence"] = diff.first.aligned
    return {
        "id": recording.name,
        "nodes": nodes,
        "groupNodeAttributes": {"": {key: display(value) for key, value in about.items()}},
    }


def namespace(node: Node) -> str:
    """Where a node lies among the groups: the containers it is in, outermost first, with ``/`` between."""
    inside = node.owner if node.owner and node.name.startswith(node.owner) else node.name
    parts = [display(part) for part in _STEP.split(inside) if part]
    return "/".join(parts if node.role == "inner" and node.owner else parts[:-1])


def _said(node: Node, pairs: Mapping[str, PairDiff], unmatched: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is known of a node, as keys and values of text."""
    yield "name", node.name
    pair = pairs.get(node.name)
    if pair is not None:
        twin = pair.pair.candidate if node.name in pair.pair.reference else pair.pair.reference
        yield "verdict", str(pair.verdict)
        yield "twin", words.together(twin)
        if pair.reason:
            yield "why", pair.reason
        if pair.stats is not None:
            yield "max abs difference", words.number(pair.stats.max_abs)
            yield "relative L2 error", words.number(pair.stats.rel_l2)
        yield "axes", words.axes_text(pair)
        if pair.cause is not None:
            yield "cause", pair.cause
        if pair.fix:
            yield "fix", pair.fix
    elif node.name in unmatched:
        yield "verdict", str(Verdict.UNMATCHED)
        yield "why", unmatched[node.name]
    yield "operation", node.label
    for key, value in node.config.items():
        yield key, value if isinstance(value, str) else json.dumps(value)
    if node.params:
        yield "parameters", ", ".join(f"{one.name} {words.shape_text(one.shape)}" for one in node.params)
    if node.source:
        yield "source", node.source


def _tensor(node: Node) -> str:
    shape = "?" if node.shape is None else ",".join(map(str, node.shape))
    return f"{node.dtype or '?'}[{shape}]"


__all__ = ["check", "collection", "errors", "export", "files", "mapping", "namespace", "verdicts"]
