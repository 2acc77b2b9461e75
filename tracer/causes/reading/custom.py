"""Layers that somebody wrote and that are one node: what single operation gives the recorded values, if any does.

Nothing is told of such a layer but its inputs, its output and its weights, so every reading is proven on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracer.causes.reading import Read, arithmetic, arrangements, inferring, picking, reader, resizing
from tracer.causes.step import Step

_FILLED = frozenset({"oneslike", "zeroslike"})


@reader("other")
def custom(node: Read) -> Step:
    """The first of the operations that reproduces the node."""
    if not node.node.parents:
        return _without_input(node)
    if node.node.label.rpartition(".")[2].replace("_", "").lower() in _FILLED:
        return arithmetic.constant(node)
    why = f"{node.node.label} is not known, and no single operation does what it did"
    return inferring.first(node, _one(node) if len(node.node.parents) == 1 else _several(node), why, terms=64)


def _without_input(node: Read) -> Step:
    tables = {name: value for name, value in arithmetic.weights_of(node).items() if value.ndim == 2}
    found = picking.looked_up(node, tables, ids=None)
    return arithmetic.constant(node) if found is None else found


def _one(node: Read) -> Iterator[Step]:
    before, after = node.source(), node.shape
    source = node.node.parents[0]
    tables = {name: value for name, value in arithmetic.weights_of(node).items() if value.ndim == 2}
    if before == after:
        yield inferring.step_of(node, kind="identity")
    if np.prod(before) == np.prod(after):
        yield inferring.step_of(node, kind="reshape", shape=(-1, *after[1:]) if before[:1] == after[:1] else after)
    for ids in (source, None):
        found = picking.looked_up(node, tables, ids=ids)
        if found is not None:
            yield found
    if tables and after[-1:] != before[-1:]:
        return
    yield from _affine(node)
    yield from _normed(node)
    if before == after:
        yield from any_norm(node)
    if len(before) == len(after):
        yield from _shaped(node, before, after)


def _shaped(node: Read, before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[Step]:
    if before == after:
        for kind in ("mul", "add"):
            found = inferring.operand(node, node.node.parents[0], kind)
            if found is not None:
                yield found
        yield from arrangements.rolled(node)
        return
    yield from inferring.slices(node, node.node.parents[0])
    yield from arrangements.padded(node)
    if len(before) > 2 and before[0] == after[0]:
        for channels in (-1, 1):
            if before[channels] == after[channels]:
                yield from resizing.any_way(node, channels)


def _affine(node: Read) -> Iterator[Step]:
    """A scale and an offset for each feature, whatever they are called."""
    found = [value for value in arithmetic.weights_of(node).values() if value.size > 1]
    for scale in found:
        for offset in found:
            if scale is not offset:
                yield inferring.step_of(node, kind="rescaling").weigh(scale=scale, offset=offset)


def _normed(node: Read) -> Iterator[Step]:
    """A group normalisation, where the layer has the settings of one."""
    groups, epsilon = node.config.get("groups"), node.config.get("epsilon")
    gamma, beta = node.weight("gamma"), node.weight("beta")
    if groups is None or epsilon is None or gamma is None or beta is None:
        return
    for channels in (-1, 1):
        step = inferring.step_of(node, kind="groupnorm", groups=int(groups), epsilon=float(epsilon), channels=channels)
        yield step.weigh(gamma=gamma, beta=beta)


def any_norm(node: Read) -> Iterator[Step]:
    """Normalisations of the last axis as people write them, with each weight as the gains and as what is added."""
    found = [value for value in arithmetic.weights_of(node).values() if value.shape == node.source()[-1:]]
    told = node.config.get("epsilon")
    epsilons = _EPSILONS if told is None else (float(told),)
    for kind, form, ddof in _NORMS:
        for gamma, beta in ((None, None), *((one, None) for one in found), *itertools.permutations(found, 2)):
            for epsilon in epsilons:
                settings: dict[str, Any] = {"axes": (-1,), "epsilon": epsilon, "form": form, "inferred": True}
                settings |= {} if kind == "rmsnorm" else {"ddof": ddof}
                yield inferring.step_of(node, kind=kind, **settings).weigh(gamma=gamma, beta=beta)


_EPSILONS = (1e-5, 1e-6, 1e-3, 1e-12, 1e-8, 1e-7)
_NORMS = (("layernorm", "root", 0), ("layernorm", "deviation", 1), ("layernorm", "deviation", 0),
          ("layernorm", "root", 1), ("rmsnorm", "root", 0))  # fmt: skip


def _several(node: Read) -> Iterator[Step]:
    kinds = ("add", "mul", "sub", "div", "maximum", "minimum", "average")
    for kind in kinds:
        yield inferring.step_of(node, kind=kind)
    yield from _scaled(node)
    for name in node.node.parents:
        if node.recording.structure.by_name[name].shape == node.shape:
            yield inferring.step_of(node, (name,), "identity")


def _scaled(node: Read) -> Iterator[Step]:
    """The first and a multiple of the second."""
    if len(node.node.parents) != 2:
        return
    x, other, out = (node.recorded(name) for name in (*node.node.parents, node.node.name))
    if x.shape != other.shape or x.shape != node.shape or any(map(np.iscomplexobj, (x, other, out))):
        return
    x, other = np.asarray(x, np.float64), np.asarray(other, np.float64)
    rest = out - x
    size = float((other * other).sum())
    told = node.config.get("scale")
    factors = [float(told)] if isinstance(told, int | float) else []
    for alpha in [*factors, *([float(np.float32((rest * other).sum() / size))] if size else [])]:
        yield inferring.step_of(node, kind="add", alpha=alpha)
