"""The branch that an If takes for the given inputs, put in its place, so that what runs in it can be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from onnx import GraphProto, NodeProto

from tracer.adapter import Array
from tracer_onnx.loading import captured, graphs_of, is_standard, take_constants, take_weights
from tracer_onnx.names import unique

Evaluate = Callable[[GraphProto, dict[str, Array], Sequence[str]], list[bool] | None]
"""Computes conditions of a graph with its weights; None when what comes before them cannot run."""
_DEEPEST = 32


class Taken(NamedTuple):
    """Which way an If went: its own name, the value that decided, and what that was."""

    name: str
    condition: str
    answer: bool

    @property
    def word(self) -> str:
        return "then" if self.answer else "else"


def has_branches(graph: GraphProto) -> bool:
    """Whether an If stands in the graph itself (not inside a loop's body)."""
    return any(is_standard(node, "If") for node in graph.node)


def unfold(
    graph: GraphProto, weights: dict[str, Array], evaluate: Evaluate
) -> tuple[GraphProto, dict[str, Array], list[Taken]]:
    """``graph`` with the taken branch of every If in its place, its weights, and which branches these are.

    The conditions are computed with the inputs, those that hang on another If after it; Ifs inside a branch are
    unfolded as well. Where a condition cannot be computed the Ifs stay, and running the graph says why.
    """
    out, weights, ways = GraphProto(), dict(weights), list[Taken]()
    out.CopyFrom(graph)
    for _ in range(_DEEPEST):
        ifs = _independent(out)
        if not ifs:
            break
        conditions = evaluate(out, weights, [node.input[0] for node in ifs])
        if conditions is None:
            break
        answers = dict(zip((node.output[0] for node in ifs), conditions, strict=True))
        nodes: list[NodeProto] = []
        taken = _names(out)
        for node in out.node:
            if not is_standard(node, "If") or node.output[0] not in answers:
                nodes.append(node)
                continue
            way = Taken(node.name or node.output[0], node.input[0], answers[node.output[0]])
            branch = next(a.g for a in node.attribute if a.name == f"{way.word}_branch")
            nodes += _branch(node, branch, out, weights, taken)
            ways.append(way)
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del out.node[:]
        out.node.extend(kept)
        take_constants(out, weights)
    return out, weights, ways


def _independent(graph: GraphProto) -> list[NodeProto]:
    """The Ifs that hang on no other If."""
    tainted, found = set[str](), []
    for node in graph.node:
        branches = is_standard(node, "If")
        if branches and node.input[0] not in tainted:
            found.append(node)
        if branches or any(name in tainted for name in (*node.input, *captured(node))):
            tainted.update(node.output)
    return found


def _names(graph: GraphProto) -> set[str]:
    names = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    return names.union(*(node.output for node in graph.node))


def _branch(
    node: NodeProto, branch: GraphProto, outer: GraphProto, weights: dict[str, Array], taken: set[str]
) -> list[NodeProto]:
    """The branch's nodes with names of their own, giving the If's outputs; its weights go to the outer graph."""
    inner = GraphProto()
    inner.CopyFrom(branch)
    defined = [name for n in inner.node for name in n.output if name]
    defined += [t.name for t in inner.initializer] + [s.values.name for s in inner.sparse_initializer]
    names = {name: unique(name, taken) for name in defined}
    results = [output.name for output in inner.output]
    made = {name for n in inner.node for name in n.output}
    extra = []
    for given, result in zip(node.output, results, strict=False):
        if not given:
            continue
        if result in made and names[result] not in node.output:
            names[result] = given
        else:  # an outer value, a weight, or one value given twice
            extra.append(NodeProto(op_type="Identity", input=[names.get(result, result)], output=[given]))
    rename(inner, names)
    take_weights(inner, weights)
    outer.initializer.extend(inner.initializer)
    outer.sparse_initializer.extend(inner.sparse_initializer)
    return [*inner.node, *extra]


def rename(graph: GraphProto, names: dict[str, str]) -> None:
    """Rename values in a graph, and where graphs inside it read them."""
    for tensor in (*graph.initializer, *(s.values for s in graph.sparse_initializer)):
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in graphs_of(node):
            own = {v.name for v in inner.input} | {t.name for t in inner.initializer}
            own = own.union(*(n.output for n in inner.node))
            rename(inner, {old: new for old, new in names.items() if old not in own})
            for output in inner.output:
                if output.name not in own:
                    output.name = names.get(output.name, output.name)
