"""What the numbers of the alignment are measured on: the ports that are not held out, whole and damaged.

Each port with equal and with unrelated weights, as bare structures, with another input, and with layers and blocks
missing, extra or unnamed (or there would be hardly a wrong pair to learn from); further what no port has: many equal
blocks of which some are missing, equal heads in another order, and two models that have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus import ports
from benchmarks.corpus.perturb import Renamed, chain, heads, perturbed
from benchmarks.corpus.record import Kept, kept
from benchmarks.corpus.truth import Truth
from benchmarks.growth import tower, twin
from tracer.alignment.engine import Side, Work, side
from tracer.alignment.features import extract
from tracer.graph import Structure

STRANGERS = (
    ("vision/vgg16", "vision/resnet50"),
    ("vision/resnet50", "vision/inception_v3"),
    ("vision/mobilenet_v2", "vision/convnext_tiny"),
    ("vision/densenet121", "vision/xception"),
    ("vision/xception", "vision/mobilenet_v2"),
    ("transformers/gpt2", "transformers/resnet"),
    ("transformers/t5", "transformers/vit"),
    ("transformers/swin", "transformers/bert"),
    ("transformers/xlnet", "transformers/segformer"),
    ("zoo/spliceai1", "zoo/deepepi"),
    ("zoo/vgg16_small", "zoo/mtcnn_onet"),
    ("zoo/ecg_generic", "zoo/tracto_ae"),
)
"""The reference of one port against the candidate of another: what is paired, but for the inputs, is wrong."""


@dataclass(frozen=True)
class Case:
    """One alignment whose answer is known.

    Attributes:
        port: whose; what was made up is a port of its own.
        regime: what is known of the two sides, or what was done to them.
        renamed: for each node of the candidate the node of the port that it was; None where nothing was done.
    """

    port: str
    regime: str
    truth: Truth
    reference: Side
    candidate: Side
    renamed: Renamed | None = None

    def work(self) -> Work:
        """The alignment in the making."""
        sides = self.reference, self.candidate
        a, b = (extract(s.structure, s.summaries) for s in sides)
        return Work(sides, a, b, None)

    def right(self, found: Work) -> NDArray[np.float64]:
        """1 for pairs considered that hold the same tensor, 0 for others, NaN where it is not known.

        Of nodes that hold one tensor, say a permutation and a reshape, only those that do the same are twins for sure.
        """
        labels: list[list[float]] = [[], []]
        looks: list[list[str]] = [[], []]
        for s, nodes in enumerate((found.a.nodes, found.b.nodes)):
            for node in nodes:
                old = node.name if s == 0 or self.renamed is None else self.renamed.get(node.name, "")
                label = -1 if old is None else (self.truth.reference, self.truth.candidate)[s].get(old)
                labels[s].append(np.nan if label is None else label)
                looks[s].append("computing" if old in self.truth.computing[s] else node.kind)
        x, y = np.array(labels[0])[found.pairs.rows], np.array(labels[1])[found.pairs.cols]
        alike = np.array(looks[0])[found.pairs.rows] == np.array(looks[1])[found.pairs.cols]
        out: NDArray[np.float64] = np.where(np.isnan(x) | np.isnan(y) | ((x == y) & ~alike), np.nan, x == y)
        return out


def cases(seeds: int) -> list[Case]:
    """Every case; the damage is drawn ``seeds`` times."""
    found = [kept(port) for port in ports().values() if not port.held_out]
    pairs = {pair.port.name: pair for pair in found if pair is not None}
    return [
        *(case for pair in pairs.values() for case in _of_port(pair, seeds)),
        *_equal_blocks(),
        *_equal_heads(),
        *(case for ours, theirs in STRANGERS for case in _strangers(pairs.get(ours), pairs.get(theirs))),
    ]


def _of_port(pair: Kept, seeds: int) -> Iterator[Case]:
    name, truth = pair.port.name, pair.truth
    ours = side(pair.recording("reference"))
    equal, unrelated = side(pair.recording("equal")), side(pair.recording("unrelated"))
    bare = side(ours.structure)
    yield Case(name, "equal weights", truth, ours, equal)
    yield Case(name, "unrelated weights", truth, ours, unrelated)
    yield Case(name, "structure", truth, bare, side(equal.structure))
    # Equal weights, but activations that a defect at the input has made others.
    yield Case(name, "other input", truth, ours, replace(equal, summaries=unrelated.summaries))
    for seed in range(seeds):
        for _, structure, renamed in perturbed(equal.structure, seed):
            yield Case(name, "damaged", truth, bare, side(structure), renamed)


def _equal_blocks() -> Iterator[Case]:
    for size in (100, 200, 300):
        yield _made("towers", tower(size, candidate=False), tower(size, candidate=True), twin)
    for blocks in (3, 5, 8):
        for gone in (0, 1, blocks - 1):
            yield _made("chains", chain(blocks), chain(blocks, gone), twin)


def _equal_heads() -> Iterator[Case]:
    """Nothing but the order says which is which; that two authors of three keep it is an assumption, not measured."""
    for deep in (False, True):
        for order in (*[(0, 1, 2)] * 4, (2, 1, 0), (1, 2, 0)):
            yield _made("heads", heads(range(3), deep, "a"), heads(order, deep, "b"), lambda name: f"b{name[1:]}")


def _made(port: str, ours: Structure, theirs: Structure, twin_of: Callable[[str], str]) -> Case:
    labels = {node.name: i for i, node in enumerate(ours)}
    twins = {twin_of(name): i for name, i in labels.items()}
    names = frozenset(labels), frozenset(node.name for node in theirs)
    truth = Truth(labels, {node.name: twins.get(node.name, -1) for node in theirs}, names, {})
    return Case(port, port, truth, side(ours), side(theirs))


def _strangers(ours: Kept | None, theirs: Kept | None) -> Iterator[Case]:
    if ours is None or theirs is None:
        return
    left, right = ours.recording("reference"), theirs.recording("equal")
    labels = {n.name: i for i, n in enumerate(left.structure) if n.role != "input"}
    others = {n.name: -1 for n in right.structure if n.role != "input"}
    truth = Truth(labels, others, (frozenset(labels), frozenset(others)), {})
    yield Case("strangers", "strangers", truth, side(left), side(right))
    yield Case("strangers", "strangers", truth, side(left.structure), side(right.structure))
