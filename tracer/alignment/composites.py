"""What single layers are made of when they are written out: the table behind the groups of several nodes.

A further entry is one :class:`Composite` in :data:`COMPOSITES`; :func:`add` is for third parties.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tracer import kinds
from tracer.graph import Node

SAME = 0.99
"""Agreement from which on two tensors are taken for the same."""
LAYOUT = (kinds.LAYOUT_ONLY - {"input"}) | {"item", "expand", "tile"}
"""Kinds that any composite may contain: they compute nothing."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _any(*names: str) -> frozenset[str]:
    """These kinds, and those of the same names that the vocabulary lacks."""
    return frozenset(names) | {f"other:{name}" for name in names}


@dataclass(frozen=True)
class Case:
    """A single node and the nodes that may stand for it on the other side, for checks that need more than kinds.

    Attributes:
        single, before, parts, last: the nodes. ``before`` leads to the single one, which alone reads it; ``last`` is
            the one of ``parts`` that gives the result.
        agreement: of a part's tensor with the single one's; None where unknown.
        inputs_agree: whether everything that both read agrees; None where unknown.
        beside: the kinds of all nodes in the model of the single one.
        folded: whether a normalisation elsewhere in the model is known to be folded.
        unlike: whether the parts' model normalises more than once where the single node's never does, and nothing shows
            that this was forgotten.
    """

    single: Node
    before: Sequence[Node]
    parts: Sequence[Node]
    last: Node
    agreement: Callable[[Node], float | None]
    inputs_agree: bool | None
    beside: Collection[str]
    folded: bool
    unlike: bool


@dataclass(frozen=True)
class Composite:
    """Kinds that one node may have where the other side has several.

    Attributes:
        kinds: of the single node.
        parts: kinds that the several nodes may have, besides :data:`LAYOUT`.
        needs: of each of these sets some kind must occur among the several.
        what: words for a person; ``{}`` stands for those of the parts in ``_PARTS`` that occur.
        most: how often a kind, or the kinds of a set together, may occur; an extra one is a defect, no part.
        forks: whether what comes in is read at least twice, as ``x`` is in ``x * sigmoid(x)``.
        constants: of each of these sets some number must be used, where the numbers are known.
        params: ``kernels`` when both sides must have kernels of equal size altogether, ``within`` when the parts
            moreover have no more parameters than the single node.
        extra: whether further inputs (a mask) may come in.
        arity: how many inputs the single node has at least.
        check: what else must hold.
        both: whether both sides may have parts, not the same ones.
        steps: whether the parts are the same again and again, so that fewer of them would look as right.
    """

    kinds: frozenset[str]
    parts: frozenset[str]
    needs: tuple[frozenset[str], ...]
    what: str
    most: Mapping[frozenset[str], int] = field(default_factory=dict)
    forks: bool = False
    constants: tuple[frozenset[float], ...] = ()
    params: Literal["kernels", "within"] = "within"
    extra: bool = False
    arity: int = 0
    check: Callable[[Case], bool] | None = None
    both: bool = False
    steps: bool = False

    def words(self, found: Collection[str]) -> str:
        """:attr:`what`, completed where it leaves open which of several parts there are."""
        return self.what.format(" and ".join(word for kind, word in _PARTS.items() if kind in found))

    def admits(self, found: Mapping[str, int]) -> bool:
        """Whether nodes of these kinds (kind: how many) may be the several nodes."""
        return (
            all(kind in self.parts or kind in LAYOUT for kind in found)
            and all(any(kind in found for kind in need) for need in self.needs)
            and all(sum(found.get(kind, 0) for kind in some) <= count for some, count in self.most.items())
        )


_ROOT = _any("sqrt", "rsqrt", "std", "norm", "vector_norm")
_SQUARE = _any("square", "squareddifference", "squared_difference") | {"power", "mul"}
_SUM = _any("sum", "reduce_sum", "reducesum")
_MEAN = _any("mean", "var", "variance", "var_mean", "moments", "average") | {"global_avg_pool"} | _SUM
_FOUR = _words("add sub mul div") | _any("neg", "negative", "reciprocal", "bias_add")
_SCALED = _any("addcmul")
"""A scale and a shift in one operation."""
_STATISTICS = _FOUR | _ROOT | _SQUARE | _MEAN | _SCALED | _any("abs") | {"clip", "maximum", "minimum"}
_ERF = _any("erf", "erfc", "tanh", "normal_cdf", "ndtr")
_EXP = _any("exp") | {"exponential"}
_TIMES = _words("mul div")


def _limits(**counts: int) -> dict[frozenset[str], int]:
    return {frozenset({kind}): count for kind, count in counts.items()}


def _zero(padding: Any) -> bool:
    """Whether a padding is none."""
    if isinstance(padding, list | tuple):
        return all(_zero(item) for item in padding)
    return padding in (None, 0, "valid", "VALID", "NOTSET")


def _padded(case: Case) -> bool:
    """Whether both sides pad once, be it on their own or within the layer, or neither does."""
    inner = [node for node in case.parts if node.kind == case.single.kind]
    sides = (case.before, [case.single]), (case.parts, inner)
    pads = [
        sum(node.kind == "pad" for node in around) + sum(not _zero(node.config.get("padding")) for node in layers)
        for around, layers in sides
    ]
    return pads[0] == pads[1] <= 1


def _biased(node: Node) -> bool:
    return any("bias" in param.name for param in node.params)


def _added(case: Case) -> bool:
    """Whether every sum among the parts adds a parameter that the layer itself lacks."""
    layers = [node for node in case.parts if node.kind in kinds.WEIGHTED]
    sums = [node for node in case.parts if node.kind == "add"]
    return not sums or (len(sums) == 1 and bool(sums[0].params) and not any(_biased(node) for node in layers))


def _folded(case: Case) -> bool:
    """Whether a normalisation after a layer went into the weights of the single node, rather than being forgotten."""
    if not any(node.kind == "batchnorm" for node in case.parts):
        return True
    if case.last.kind != "batchnorm":
        return False
    layer = next(node for node in case.parts if node.kind == case.single.kind)
    after, before = case.agreement(case.last), case.agreement(layer)
    if after is not None and after >= 0.5:
        return before is None or after >= before
    if (before is not None and before >= SAME) or not _biased(case.single):
        return False
    if "batchnorm" in case.beside:  # its author normalises: here it may have been forgotten
        return False
    if after is not None and case.inputs_agree:
        return case.folded
    return case.folded or case.unlike or not _biased(layer)


def _layer(case: Case) -> bool:
    return _padded(case) and _added(case) and _folded(case)


def _layers(stem: str) -> list[Composite]:
    found = []
    for kind in sorted(kinds.CONVOLUTIONS | {"dense"}):
        if not kind.startswith(stem):
            continue
        own = frozenset({kind})
        parts = own | _words("batchnorm add pad")
        most = {own: 1, frozenset({"batchnorm"}): 1, frozenset({"add"}): 1, frozenset({"pad"}): 1}
        found.append(Composite(own, parts, (own, parts - own), _LAYER, most, params="kernels", check=_layer))
    return found


_LAYER = "layer against one with separate {}"
_PARTS = {"pad": "padding", "add": "bias", "batchnorm": "normalisation"}


def _cropped(kind: str) -> Composite:
    own = frozenset({kind})
    cuts = _words("crop slice pad")
    return Composite(own, own | cuts, (own, cuts), "transposed convolution against one that is cropped", {own: 1})


def _pool(kind: str) -> Composite:
    own = frozenset({kind})
    return Composite(own, own | {"pad"}, (own, frozenset({"pad"})), "pooling against padding and pooling", {own: 1},
                     check=_padded)  # fmt: skip


def _separable(rank: int) -> Composite:
    depth, point = f"depthwise_conv{rank}d", f"conv{rank}d"
    parts = frozenset({depth, point, "pad", "add"})

    def check(case: Case) -> bool:
        pads = [node for node in case.parts if node.kind == "pad"]
        return not pads or all(_zero(n.config.get("padding")) for n in case.parts if n.kind == depth)

    needs = (frozenset({depth, point}), frozenset({point}))
    return Composite(frozenset({f"separable_conv{rank}d"}), parts, needs,
                     "separable convolution against depthwise and pointwise",
                     {frozenset({depth, point}): 2, frozenset({"pad"}): 1, frozenset({"add"}): 1}, params="kernels",
                     check=check)  # fmt: skip


def _recurrent(kind: str) -> list[Composite]:
    own, cell = frozenset({kind}), frozenset({f"{kind}_cell"})
    turned = _any("flip", "reverse", "reversev2", "reverse_sequence")
    joined = _words("concat stack slice split add average mul") | turned
    by_hand = _words("dense matmul add sub mul sigmoid hard_sigmoid tanh relu concat stack slice split div batchnorm")
    by_hand |= _any("neg", "bias_add") | turned
    filled = _any("zeros", "zeros_like", "empty", "setitem")
    gates = (_words("sigmoid hard_sigmoid"), _words("dense matmul")) if kind != "rnn" else (_words("dense matmul"),)
    steps = _words("slice item")
    return [
        Composite(own, own | steps, (own, steps), "recurrent layer against one step of its outputs", {own: 1}),
        Composite(own, own | joined, (own,), "one recurrent layer against several", params="kernels", both=True),
        Composite(
            own,
            cell | joined | filled,
            (cell,),
            "recurrent layer against its cell, step by step",
            params="kernels",
            steps=True,
        ),
        Composite(
            own,
            by_hand | filled,
            gates,
            "recurrent layer against its arithmetic, step by step",
            params="kernels",
            steps=True,
        ),
        Composite(cell, by_hand | filled, gates, "recurrent cell against its arithmetic", params="kernels"),
    ]


_HEADS = _words("dense attention matmul dot softmax mul div add sub concat stack clip maximum power exponential")
_HEADS |= _any("where", "masked_fill", "sqrt", "rsqrt", "einsum", "baddbmm", "triu", "tril") | _SUM
_NORMS = kinds.NORMALISATIONS - {"l2_normalize", "batchnorm"}


def _affine(kind: str) -> Composite:
    own, after = frozenset({kind}), _words("mul add") | _SCALED

    def check(case: Case) -> bool:
        bare = not any(node.params for node in case.parts if node.kind == kind)
        return bare and all(node.params for node in case.parts if node.kind in after)

    return Composite(own, own | after, (own, after),
                     "normalisation against one whose scale and shift come after", {own: 1} | _limits(mul=1, add=1),
                     check=check)  # fmt: skip


COMPOSITES: list[Composite] = [
    *_layers(""),
    *(_cropped(f"conv_transpose{rank}d") for rank in (1, 2, 3)),
    *(_pool(f"{stem}_pool{rank}d") for stem in ("max", "avg") for rank in (1, 2, 3)),
    *(_separable(rank) for rank in (1, 2, 3)),
    *_recurrent("lstm"),
    *_recurrent("gru"),
    *_recurrent("rnn"),
    Composite(
        frozenset({"attention"}), _HEADS, (_words("matmul dot attention"), _words("softmax exponential attention")),
        "attention against its projections and products",
        {frozenset({"softmax"}): 1, frozenset({"attention"}): 1, frozenset({"matmul", "dot"}): 2}, params="kernels",
        extra=True, both=True,
    ),
    Composite(
        _words("layernorm groupnorm instancenorm"), _STATISTICS, (_MEAN, _ROOT | {"power"}),
        "normalisation against its arithmetic",
        _limits(mul=4, div=2) | {_ROOT: 1, frozenset({"add"}): 3, frozenset({"sub"}): 3}, forks=True, both=True,
    ),
    *(_affine(kind) for kind in sorted(_NORMS)),
    Composite(
        frozenset({"rmsnorm"}), _STATISTICS, (_MEAN, _ROOT | {"power"}), "RMS normalisation against its arithmetic",
        _limits(mul=4, div=2, add=2, sub=0) | {_ROOT: 1}, forks=True, both=True,
    ),
    Composite(
        frozenset({"l2_normalize"}), _STATISTICS, (_ROOT | {"power"}, _TIMES), "normalisation against its arithmetic",
        _limits(mul=2, div=1, add=1, sub=0) | {_ROOT: 1}, forks=True, both=True,
    ),
    Composite(
        frozenset({"batchnorm"}), _FOUR | _ROOT | {"power"}, (_TIMES,), "normalisation against its arithmetic",
        _limits(mul=3, div=1, add=3, sub=2) | {_ROOT: 1},
        check=lambda case: any(n.params for n in case.parts),
    ),
    Composite(
        frozenset({"gelu"}), _FOUR | _SQUARE | _ERF | {"sigmoid"} | _any("sqrt"), (_ERF | {"sigmoid"}, _TIMES),
        "GELU against its arithmetic", {_ERF | {"sigmoid"}: 1} | _limits(add=2, mul=7, div=2, sub=1),
        forks=True, both=True,
        constants=(frozenset({0.5, 2.0, 1.702}),),
    ),
    Composite(
        frozenset({"silu"}), _words("mul sigmoid"), (_words("mul"), _words("sigmoid")), "SiLU against its arithmetic",
        _limits(mul=1, sigmoid=1), forks=True, both=True,
    ),
    Composite(
        frozenset({"silu"}), _FOUR | _EXP, (_EXP, _words("div mul")), "SiLU against its arithmetic",
        {_EXP: 1} | _limits(mul=2, div=2, add=1), forks=True, both=True,
    ),
    Composite(
        frozenset({"hard_silu"}), _words("mul div add relu6 clip hard_tanh hard_sigmoid minimum maximum relu"),
        (_words("mul"), _words("relu6 clip hard_tanh hard_sigmoid minimum")), "hard SiLU against its arithmetic",
        {_words("relu6 clip hard_tanh hard_sigmoid"): 1} | _limits(mul=3, div=1, add=1), forks=True, both=True,
        constants=(frozenset({6.0, 1 / 6}),),
    ),
    Composite(
        frozenset({"hard_sigmoid"}), _words("mul div add relu6 clip minimum maximum relu"),
        (_words("relu6 clip minimum"), _words("add")), "hard sigmoid against its arithmetic",
        {_words("relu6 clip minimum"): 1} | _limits(mul=1, div=1, add=1),
        constants=(frozenset({6.0, 1 / 6}),),
    ),
    Composite(
        frozenset({"mish"}), _words("mul tanh softplus add") | _EXP | _any("log", "log1p"),
        (_words("mul"), _words("tanh")), "Mish against its arithmetic", _limits(mul=1, tanh=1, softplus=1),
        forks=True, both=True,
    ),
    Composite(
        frozenset({"softmax"}), _FOUR | _EXP | _SUM | _any("max", "reduce_max") | {"amax"}, (_EXP, _SUM),
        "softmax against its arithmetic", {_EXP: 1, _SUM: 1, frozenset({"sub"}): 1, _TIMES: 1},
    ),
    Composite(
        frozenset({"log_softmax"}), _FOUR | _EXP | _SUM | _any("log", "logsumexp", "max") | _words("amax softmax"),
        (_any("log", "logsumexp"),), "log-softmax against its arithmetic",
        {_EXP: 1, _SUM: 1, _any("log", "logsumexp"): 1, frozenset({"softmax"}): 1},
    ),
    Composite(
        frozenset({"sigmoid"}), _FOUR | _EXP, (_EXP, _words("div") | _any("reciprocal")),
        "sigmoid against its arithmetic", {_EXP: 1} | _limits(add=1, div=1, mul=1),
    ),
    Composite(
        frozenset({"softplus"}), _EXP | _any("log", "log1p") | {"add"}, (_EXP, _any("log", "log1p")),
        "softplus against its arithmetic", {_EXP: 1, frozenset({"add"}): 1},
    ),
    Composite(
        frozenset({"glu"}), _words("sigmoid mul slice split"), (_words("sigmoid"), _words("mul")),
        "gated linear unit against its arithmetic", _limits(sigmoid=1, mul=1),
    ),
    Composite(
        frozenset({"leaky_relu"}),
        _words("mul maximum relu sub add") | _any("where", "neg", "gt", "select", "selectv2"),
        (_words("mul"), _words("maximum relu") | _any("where", "select", "selectv2")),
        "leaky ReLU against its arithmetic", _limits(maximum=1, mul=1, relu=2), forks=True, both=True,
    ),
    Composite(
        frozenset({"prelu"}), _words("mul relu sub add minimum maximum") | _any("neg", "abs", "where"),
        (_words("mul"), _words("relu minimum maximum") | _any("where")), "PReLU against its arithmetic",
        _limits(mul=2, relu=2, add=1), forks=True, both=True,
    ),
    Composite(
        _words("relu6 clip hard_tanh"), _words("relu minimum maximum clip"), (_words("minimum clip"),),
        "clipping against its two limits", {_words("relu maximum"): 1, _words("minimum clip"): 1},
    ),
    Composite(
        _words("global_avg_pool mean"), _words("mean div mul global_avg_pool") | _SUM,
        (_words("mean global_avg_pool") | _SUM,), "global pooling in steps", _limits(div=1, mul=1, mean=3),
    ),
    Composite(
        _words("global_max_pool amax"), _words("amax global_max_pool") | _any("max", "reduce_max"),
        (_words("amax global_max_pool") | _any("max", "reduce_max"),), "global pooling in steps", _limits(amax=3),
    ),
    Composite(
        _any("std", "var"), _STATISTICS, (_MEAN, _SQUARE), "deviation against its arithmetic",
        _limits(sub=1, mean=2, mul=2, div=1) | {_ROOT: 1}, forks=True, both=True,
    ),
    Composite(
        frozenset({"average"}), _words("add mul div") | _any("stack", "mean"), (_words("add mean"),),
        "average against a sum and its share", _limits(mul=1, div=1), constants=(),
    ),
    *(
        Composite(frozenset({kind}), frozenset({kind}), (frozenset({kind}),), "one of many inputs against several",
                  arity=3)
        for kind in ("add", "mul", "concat", "maximum", "minimum")
    ),
    Composite(
        _any("rescaling", "normalization"), _words("mul div add sub"), (_words("mul div"),),
        "scaling of the input against its arithmetic", _limits(mul=1, div=1, add=1, sub=1),
    ),
    Composite(
        frozenset({"pixel_shuffle"}) | _any("space_to_depth"), frozenset(), (_words("reshape"), _words("permute")),
        "rearrangement in steps",
    ),
]  # fmt: skip


def add(composite: Composite) -> None:
    """Make a further entry known; for adapters and other third parties."""
    COMPOSITES.append(composite)


def entries(kind: str) -> list[Composite]:
    """The table's entries for a kind, or for the one after which somebody called a layer of their own."""

    def stands(known: str) -> bool:
        return kind == known or (kinds.is_unknown(kind) and kinds.similarity(kind, known) >= 0.8)

    return [entry for entry in COMPOSITES if any(map(stands, entry.kinds))]
