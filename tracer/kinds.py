"""The vocabulary of operations that the adapters share.

An adapter maps its framework's classes and functions onto these words; the alignment compares the words. A kind
that is not listed here is legal (``other:Foo``): it matches only itself.
"""

from __future__ import annotations

CONVOLUTIONS = frozenset(
    f"{stem}{rank}d" for stem in ("conv", "conv_transpose", "depthwise_conv", "separable_conv") for rank in (1, 2, 3)
)
WEIGHTED = CONVOLUTIONS | {"dense", "embedding", "lstm", "gru", "rnn", "lstm_cell", "gru_cell", "rnn_cell"}
WEIGHTED |= {"attention", "bilinear"}
NORMALISATIONS = frozenset({"batchnorm", "layernorm", "groupnorm", "instancenorm", "rmsnorm", "l2_normalize"})
ACTIVATIONS = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "prelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "sigmoid",
        "hard_sigmoid",
        "hard_silu",
        "tanh",
        "hard_tanh",
        "softmax",
        "log_softmax",
        "softplus",
        "softsign",
        "exponential",
        "log_sigmoid",
        "threshold",
        "glu",
    ]
)
POOLS = frozenset(
    [f"{stem}_pool{rank}d" for stem in ("max", "avg") for rank in (1, 2, 3)]
    + ["global_max_pool", "global_avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "mean", "amax"]
)
LAYOUT_ONLY = frozenset(
    [
        "flatten",
        "reshape",
        "permute",
        "squeeze",
        "expand_dims",
        "identity",
        "dropout",
        "cast",
        "slice",
        "split",
        "input",
    ]
)
"""Kinds whose output holds values of their input unchanged (in evaluation), perhaps elsewhere."""

COMBINING = frozenset(
    "add sub mul div average maximum minimum matmul dot concat stack "  # noqa: SIM905
    "pad crop upsample resize clip power".split()
)
KNOWN = WEIGHTED | NORMALISATIONS | ACTIVATIONS | POOLS | LAYOUT_ONLY | COMBINING | {"item"}
"""The whole vocabulary; ``item`` is a further output of whatever operation."""

FAMILIES: tuple[frozenset[str], ...] = (
    frozenset({"conv1d", "conv2d", "conv3d", "dense", "depthwise_conv1d", "depthwise_conv2d"}),
    frozenset({"depthwise_conv1d", "separable_conv1d", "conv1d"}),
    frozenset({"depthwise_conv2d", "separable_conv2d", "conv2d"}),
    NORMALISATIONS,
    ACTIVATIONS,
    POOLS,
    frozenset({"flatten", "reshape", "squeeze", "expand_dims"}),
    frozenset({"upsample", "resize"}),
    frozenset({"add", "sub", "mul", "div", "average", "maximum", "minimum"}),
    frozenset({"lstm", "gru", "rnn"}),
    frozenset({"identity", "dropout"}),
    frozenset({"clip", "relu", "relu6", "hard_tanh"}),
    frozenset({"slice", "crop", "split"}),
)


def similarity(a: str, b: str) -> float:
    """How alike two kinds are: 1 for the same, 0.6 within a family, 0.3 where one is not known, 0 otherwise."""
    if a == b:
        return 1.0
    if any(a in family and b in family for family in FAMILIES):
        return 0.6
    # A layer of the user's own may stand for anything; an input stands for nothing else.
    return 0.3 if (is_unknown(a) or is_unknown(b)) and "input" not in (a, b) else 0.0


def is_unknown(kind: str) -> bool:
    """Whether a kind is outside the vocabulary: a custom layer or a rare function."""
    return kind.startswith("other:")


_ROLES = {
    "weight": "kernel",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "weight_ih_l0": "kernel",
    "weight_hh_l0": "recurrent_kernel",
}
_NORMALISING = {"weight": "gamma", "bias": "beta"}


def parameter_role(kind: str, name: str) -> str:
    """What a parameter is for, whatever its framework calls it: ``weight`` is a ``kernel``, of a norm a ``gamma``."""
    if kind in NORMALISATIONS and name in _NORMALISING:
        return _NORMALISING[name]
    return _ROLES.get(name, name)
