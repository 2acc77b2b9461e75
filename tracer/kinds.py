"""The vocabulary of operations that the adapters share.

An adapter maps its framework's classes and functions onto these words; the alignment compares the words. A kind that
is not listed here is legal as ``other:Foo``: it matches its own spellings, and may stand for anything else. An
adapter can add words of its own (:func:`declare`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONVOLUTIONS = frozenset(
    f"{stem}{rank}d" for stem in ("conv", "conv_transpose", "depthwise_conv", "separable_conv") for rank in (1, 2, 3)
)
RECURRENT = _words("lstm gru rnn lstm_cell gru_cell rnn_cell")
WEIGHTED = CONVOLUTIONS | RECURRENT | _words("dense embedding attention bilinear")
NORMALISATIONS = _words("batchnorm layernorm groupnorm instancenorm rmsnorm l2_normalize")
ACTIVATIONS = _words(
    "relu relu6 leaky_relu prelu elu selu celu gelu silu mish sigmoid hard_sigmoid hard_silu tanh hard_tanh softmax "
    "log_softmax softplus softsign exponential log_sigmoid threshold glu hard_shrink soft_shrink tanh_shrink"
)
POOLS = frozenset(
    [f"{stem}_pool{rank}d" for stem in ("max", "avg") for rank in (1, 2, 3)]
    + ["global_max_pool", "global_avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "mean", "amax"]
)
UNCHANGED = _words("identity dropout cast")
"""Kinds whose output is their input (in evaluation)."""
ARRANGING = _words("flatten reshape permute squeeze expand_dims roll flip pixel_shuffle pixel_unshuffle")
"""Kinds whose output holds every value of the input once, perhaps elsewhere."""
LAYOUT_ONLY = UNCHANGED | ARRANGING | _words("slice split input")
"""Kinds whose output holds values of their input unchanged (in evaluation), perhaps elsewhere."""
TRANSPARENT = UNCHANGED | _words("permute squeeze expand_dims split")
"""Kinds that one side may have and the other not, without anything being computed."""

COMBINING = _words(
    "add sub mul div average maximum minimum matmul dot concat stack pad crop upsample resize clip power"
)
REDUCTIONS = _words("sum prod amin var std logsumexp norm argmax argmin all any mean amax")
COMPARISONS = _words("equal not_equal less less_equal greater greater_equal")
LOGICAL = _words("logical_and logical_or logical_xor logical_not isnan isinf isfinite")
ELEMENTWISE = _words(
    "neg abs sign sqrt rsqrt square reciprocal log log1p log2 expm1 erf erfc sin cos tan asin acos atan sinh cosh "
    "asinh acosh atanh atan2 floor ceil round mod floor_div squared_difference nan_to_num"
)
INDEXING = _words("gather scatter setitem where masked_fill topk sort argsort one_hot cumsum cumprod tril triu")
REPEATING = _words("tile expand repeat unfold fold")
MAKING = _words("arange full zeros ones eye random")
RARE = _words("lrn grid_sample fft rescaling normalization quantize masking inverse")
KNOWN = (
    WEIGHTED | NORMALISATIONS | ACTIVATIONS | POOLS | LAYOUT_ONLY | COMBINING | REDUCTIONS | COMPARISONS | LOGICAL
) | (ELEMENTWISE | INDEXING | REPEATING | MAKING | RARE | {"item"})
"""The whole vocabulary; ``item`` is a further output of whatever operation."""

_RANKS = (1, 2, 3)
_FAMILIES: tuple[tuple[float, frozenset[str]], ...] = (
    # The same operation, named after how it is called.
    (0.9, _words("upsample resize")),
    (0.9, _words("flatten reshape")),
    (0.9, _words("tile expand repeat")),
    (0.9, _words("mean global_avg_pool")),
    (0.9, _words("amax global_max_pool")),
    (0.9, _words("power square")),
    (0.9, _words("where masked_fill")),
    (0.8, _words("dense matmul")),
    (0.8, _words("embedding gather")),
    (0.8, _words("adaptive_avg_pool global_avg_pool")),
    (0.8, _words("adaptive_max_pool global_max_pool")),
    (0.8, _words("lstm lstm_cell")),
    (0.8, _words("gru gru_cell")),
    (0.8, _words("rnn rnn_cell")),
    (0.8, _words("rescaling mul")),
    *((0.8, _words(f"depthwise_conv{rank}d conv{rank}d separable_conv{rank}d")) for rank in _RANKS),
    # The same purpose.
    (0.6, _words("conv1d conv2d conv3d dense matmul depthwise_conv1d depthwise_conv2d")),
    *((0.6, _words(f"conv_transpose{rank}d upsample resize")) for rank in _RANKS),
    (0.6, _words("matmul dot attention bilinear")),
    (0.6, NORMALISATIONS),
    (0.6, ACTIVATIONS),
    (0.6, POOLS),
    (0.6, _words("flatten reshape squeeze expand_dims permute")),
    (0.6, _words("add sub mul div average maximum minimum rescaling normalization")),
    (0.6, _words("normalization batchnorm")),
    (0.6, _words("lstm gru rnn")),
    (0.6, _words("lstm_cell gru_cell rnn_cell")),
    (0.6, UNCHANGED),
    (0.6, _words("clip relu relu6 hard_tanh maximum minimum")),
    (0.6, _words("slice crop split gather")),
    (0.6, _words("sub neg")),
    (0.6, _words("sqrt rsqrt reciprocal power div")),
    (0.6, _words("erf erfc")),
    (0.6, _words("abs square norm")),
    (0.6, _words("squared_difference square sub")),
    (0.6, _words("sum mean var std norm logsumexp")),
    (0.6, _words("amin amax argmin argmax topk sort argsort")),
    (0.6, COMPARISONS),
    (0.6, LOGICAL),
    (0.6, _words("pixel_shuffle pixel_unshuffle reshape permute")),
    (0.6, _words("concat stack pad tile")),
    (0.6, _words("where masked_fill mul setitem scatter")),
    (0.6, MAKING),
)
"""Words that may stand for each other, with how alike they are; of several families the closest counts."""

_SPELLINGS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "clamp": "clip", "lessequal": "less_equal", "exp": "exponential", "pow": "power", "swish": "silu",
    "hardswish": "hard_silu", "statelessdropout": "dropout", "droppath": "dropout", "stochasticdepth": "dropout",
    "layernormalization": "layernorm", "batchnormalization": "batchnorm", "groupnormalization": "groupnorm",
    "instancenormalization": "instancenorm", "rmsnormalization": "rmsnorm", "l2norm": "l2_normalize",
    "multiheadattention": "attention", "scaleddotproductattention": "attention", "linear": "dense",
    "repeatvector": "tile", "quickgelu": "gelu", "geluactivation": "gelu", "newgelu": "gelu",
    "zeroslike": "zeros", "oneslike": "ones", "fulllike": "full",
}  # fmt: skip
"""Other spellings, without underscores: of older traces, and of classes that people write themselves."""
_BY_SPELLING = {word.replace("_", ""): word for word in KNOWN} | _SPELLINGS
_NAMED = 0.8
_PART = 0.4
_UNKNOWN = 0.3

_LAST: dict[str, frozenset[str]] = {
    "attention": _words("matmul"),
    "gelu": _words("mul"),
    "silu": _words("mul"),
    "mish": _words("mul"),
    "hard_silu": _words("mul div"),
    "hard_sigmoid": _words("div mul clip relu6"),
    "glu": _words("mul"),
    "softmax": _words("div"),
    "log_softmax": _words("sub"),
    "relu": _words("maximum"),
    "leaky_relu": _words("maximum add where"),
    "prelu": _words("add where maximum"),
    "elu": _words("where add"),
    "selu": _words("mul where"),
    "rmsnorm": _words("mul"),
    "layernorm": _words("add mul div"),
    "batchnorm": _words("add mul sub"),
    "groupnorm": _words("add mul reshape"),
    "instancenorm": _words("add mul batchnorm"),
    "l2_normalize": _words("div mul"),
    "dense": _words("add"),
    **{f"{stem}{rank}d": _words("add") for stem in ("conv", "depthwise_conv", "conv_transpose") for rank in _RANKS},
    "embedding": _words("matmul"),
    "average": _words("div mul"),
    "mean": _words("div mul"),
    "global_avg_pool": _words("div"),
    "normalization": _words("div mul"),
    "rescaling": _words("add"),
}
"""What the last operation is where a whole is written out: its tensor is the whole's."""


def _table() -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for whole, parts in _LAST.items():
        for part in parts:
            found[whole, part] = found[part, whole] = _PART
    for degree, family in reversed(_FAMILIES):
        found |= {(a, b): degree for a in family for b in family if found.get((a, b), 0) < degree}
    return found


_ALIKE = _table()
_declared: dict[str, frozenset[str]] = {}
_WORD = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST_DECLARED = 10_000


def declare(words: Mapping[str, Iterable[str]]) -> None:
    """Add words to the vocabulary, each with the listed ones that it resembles; declaring again adds to those.

    Adapters do so by :attr:`tracer.adapter.Adapter.kinds`. Raises ValueError for a word that is listed already or is
    not made of ``a-z``, digits and ``_``, and where it resembles something that is not listed.
    """
    found: dict[str, frozenset[str]] = {}
    for word, alike in words.items():
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            raise ValueError(f"a kind is a word of a-z, 0-9 and _, not {word!r:.80}")
        if word in KNOWN:
            raise ValueError(f"'{word}' is a word of tracer.kinds already")
        if isinstance(alike, str):
            raise ValueError(f"what '{word}' resembles is a set of words, not one")
        resembled = frozenset(alike)
        if unlisted := [repr(other) for other in resembled if other not in KNOWN]:
            raise ValueError(f"'{word}' resembles {', '.join(sorted(unlisted))}, which tracer.kinds does not list")
        found[word] = resembled | _declared.get(word, frozenset())
    if len(_declared) + len(found) > _MOST_DECLARED:
        raise ValueError(f"more than {_MOST_DECLARED} kinds declared")
    _declared.update(found)


def declared(words: Iterable[str]) -> dict[str, frozenset[str]]:
    """Those of ``words`` that were declared, with the listed words that each resembles."""
    return {word: _declared[word] for word in dict.fromkeys(words) if word in _declared}


def is_legal(kind: str) -> bool:
    """Whether a node may be of that kind: a word of the vocabulary, a declared one, or ``other:Name``."""
    return kind in KNOWN or kind in _declared or (is_unknown(kind) and len(kind) > len("other:"))


def similarity(a: str, b: str) -> float:
    """How alike two kinds are.

    1 for the same, also in another spelling; 0.9 to 0.6 within a family; 0.4 for a whole (``gelu``) against the last
    of the operations that it is made of; 0.3 where one is not known; 0 otherwise. A class that somebody wrote and
    called like a known operation (``other:RMSNorm``) is like that operation to 0.8.
    """
    if a == b:
        return 1.0
    one, sure = _meaning(a)
    other, sure_too = _meaning(b)
    trust = 1.0 if one == other and sure == sure_too else sure * sure_too
    unknown = is_unknown(one) or is_unknown(other) or trust < 1
    # A layer of the user's own may stand for anything; an input stands for nothing else.
    least = _UNKNOWN if unknown and "input" not in (one, other) else 0.0
    return max(least, trust * _listed(one, other))


def _listed(a: str, b: str) -> float:
    if a == b:
        return 1.0
    wide = [(word, _declared.get(word)) for word in (a, b)]
    if all(alike is None for _, alike in wide):
        return _ALIKE.get((a, b), 0.0)
    left, right = ([word] if alike is None else sorted(alike) for word, alike in wide)
    return _NAMED * max((1.0 if x == y else _ALIKE.get((x, y), 0.0) for x in left for y in right), default=0.0)


@lru_cache(maxsize=4096)
def _meaning(kind: str) -> tuple[str, float]:
    """The word that a kind is, and how far that can be trusted: a name says less of a class than of a function."""
    if not is_unknown(kind):
        return kind, 1.0
    name = kind.removeprefix("other:")
    plain = re.sub(r"[^0-9a-z]", "", name.lower())
    known = _BY_SPELLING.get(plain) or _BY_SPELLING.get(plain.removeprefix("tf"))
    if known is None or known in ("input", "item"):
        return f"other:{plain.removeprefix('tf') or plain or name}", 1.0
    return known, 1.0 if name == name.lower() else _NAMED


def is_unknown(kind: str) -> bool:
    """Whether a kind is outside the vocabulary: a custom layer or a rare function."""
    return kind.startswith("other:")


def reduction(word: str, axes: Iterable[int], rank: int, *, keeps: bool) -> str:
    """``mean`` or ``amax`` over these axes of a tensor with ``rank`` axes: a global pooling if they are the spatial
    ones. ``keeps`` says that the reduced axes stay with length 1."""
    found = {axis % rank for axis in axes} if rank else set()
    spatial = rank >= 3 and found in (set(range(2, rank)), set(range(1, rank - 1)))
    # Of three axes the last is a length or the features: what keeps it as 1 is a norm's statistic.
    if not spatial or (rank == 3 and keeps):
        return word
    return {"mean": "global_avg_pool", "amax": "global_max_pool"}.get(word, word)


def powered(exponent: object) -> str:
    """The kind of ``x ** exponent``."""
    known = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal", 1.0: "identity"}
    number = float(exponent) if isinstance(exponent, int | float) else None
    return "power" if number is None else known.get(number, "power")


_ROOTS = _words("sqrt rsqrt power")
_SQUARES = _words("square power mul squared_difference")
_SCALES = _words("mul div")


def composed(parts: Sequence[str], *, weighted: bool) -> str | None:
    """The word for what the operations ``parts`` compute together, in order; None where there is none.

    A layer that somebody wrote out of operations is then called like the framework's own that computes the same.
    ``weighted`` says that it has parameters.
    """
    steps = [part for part in parts if part not in LAYOUT_ONLY or part in ("slice", "split")]
    if not steps:
        return None
    if len(steps) == 1:
        return "dense" if steps[0] == "matmul" and weighted else steps[0]
    count = Counter(steps)
    found = frozenset(count)
    main, rest = steps[0], steps[1:]
    if weighted and rest == ["add"] and (main in ("matmul", "dense") or main in CONVOLUTIONS):
        return "dense" if main == "matmul" else main
    if found & _words("slice split"):
        return "glu" if found == _words("split sigmoid mul") else None
    if "softmax" in found and count["matmul"] == 2:
        return "attention"
    return _gate(found, count) or _normalisation(steps, found, weighted=weighted)


def _gate(found: frozenset[str], count: Mapping[str, int]) -> str | None:
    scaled = found & _SCALES
    arithmetic = _words("mul div add sub neg square power")
    if len(found & _words("erf erfc tanh")) == 1 and scaled and found - _words("erf erfc tanh") <= arithmetic:
        return "gelu" if "add" in found or "erfc" in found else None
    if found == _words("softplus tanh mul"):
        return "mish"
    if found == _words("sigmoid mul"):
        return {1: "silu", 2: "gelu"}.get(count["mul"])
    if found - scaled <= _words("add relu6 clip hard_tanh hard_sigmoid") and scaled and found & _words("relu6 clip"):
        return "hard_silu" if sum(count[word] for word in scaled) > 1 else "hard_sigmoid"
    if found == _words("hard_sigmoid mul"):
        return "hard_silu"
    return None


def _normalisation(steps: Sequence[str], found: frozenset[str], *, weighted: bool) -> str | None:
    allowed = _words("add sub mean global_avg_pool var std cast clip maximum norm sum amax exponential reciprocal")
    if found - allowed - _ROOTS - _SQUARES - _SCALES or not found & _SCALES:
        return None
    mean = found & _words("mean global_avg_pool")
    if "exponential" in found:
        return "softmax" if "sum" in found and "div" in found else None
    if "sub" in found and (found & _words("var std") or (mean and found & _SQUARES)) and found & (_ROOTS | {"std"}):
        return "layernorm"
    if mean and found & _words("sqrt rsqrt power") and found & _SQUARES and "sub" not in found:
        return "rmsnorm"
    if "norm" in found or ("sum" in found and found & _words("sqrt rsqrt power") and found & _SQUARES):
        return "l2_normalize" if steps[-1] in _SCALES else None
    if weighted and not mean and found & _words("sqrt rsqrt") and found & _words("add sub") and "sum" not in found:
        return "batchnorm"
    return None


_ROLES = {
    "weight": "kernel",
    "embeddings": "kernel",
    "depthwise_kernel": "kernel",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "weight_ih_l0": "kernel",
    "weight_hh_l0": "recurrent_kernel",
    "weight_ih": "kernel",
    "weight_hh": "recurrent_kernel",
}
_NORMALISING = {"weight": "gamma", "bias": "beta", "scale": "gamma"}
_SLOPES = {"weight": "alpha"}


def parameter_role(kind: str, name: str) -> str:
    """What a parameter is for, whatever its framework calls it: ``weight`` is a ``kernel``, of a norm a ``gamma``."""
    if kind in NORMALISATIONS and name in _NORMALISING:
        return _NORMALISING[name]
    if kind == "prelu" and name in _SLOPES:
        return _SLOPES[name]
    if kind.startswith("separable") and name == "depthwise_kernel":
        return name
    return _ROLES.get(name, name)
