"""What each kind of defect may be called."""

from __future__ import annotations

LATENT_KINDS = {"bn-momentum"}
"""Kinds of which nothing is to be seen but in training."""

RIGHT: dict[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "activation-extra": "activation-extra",
        "activation-kind": "activation-kind",
        "activation-missing": "activation-missing",
        "activation-param": "activation-param weights-perturbed",  # the slopes of a PReLU are weights
        "attention-mask": "attention-mask",
        "attention-scale": "attention-scale",
        "bias-missing": "bias-missing",
        "block-extra": "block-extra",
        "block-missing": "block-missing",
        "block-repeated": "block-extra",
        "bn-eps": "bn-eps",
        "bn-mode": "bn-mode",
        "bn-momentum": "training-bn-momentum",
        "bn-stats": "bn-stats",
        "bn-swapped": "bn-stats",
        "channel-order": "channel-order",
        "concat-order": "concat-order",
        "dense-missing": "block-missing",
        "dense-row-order": "dense-row-order",
        "dense-transpose": "dense-transpose",
        "depth-to-space-order": "depth-to-space-order",
        "depthwise-order": "depthwise-order",
        "dilation": "dilation",
        "dropout-mode": "dropout-mode",
        "dtype": "dtype",
        "embedding-offset": "embedding-offset",
        "embedding-scale": "embedding-scale",
        # Where heads are joined or split by a view, the other order of the view is the other layout of the heads.
        "flatten-order": "flatten-order reshape-order head-layout",
        "gelu-approx": "gelu-approx",
        "groups": "groups",
        "gru-gate-order": "gru-gate-order",
        "head-layout": "head-layout",
        "input-normalisation": "input-normalisation",
        "input-scale": "input-scale",
        "kernel-flip": "kernel-flip",
        "kernel-layout": "kernel-layout",
        "layer-extra": "block-extra",
        "layer-missing": "block-missing",
        "ln-eps": "ln-eps",
        "logits": "logits",
        "lstm-gate-order": "lstm-gate-order",
        "norm-axis": "norm-axis",
        "normalisation-extra": "block-extra",
        "pad-asymmetry": "pad-asymmetry",
        "pad-mode": "pad-mode",
        "pad-valid": "pad-mode",
        "pool-ceil-mode": "pool-ceil-mode",
        "pool-count-include-pad": "pool-count-include-pad",
        "pool-kind": "pool-kind",
        # The weights of two projections change places: both are what happened.
        "qkv-order": "qkv-order weights-swapped",
        "reshape-order": "reshape-order flatten-order head-layout",
        "residual-missing": "residual-missing",
        "residual-order": "residual-order",
        "resize-align-corners": "resize-align-corners",
        "resize-mode": "resize-mode",
        "rnn-activation": "rnn-activation",
        "rnn-bias": "rnn-bias",
        "rnn-direction": "rnn-direction",
        "rnn-last-step": "rnn-last-step",
        "scale": "scale",
        "softmax-axis": "softmax-axis",
        "stack-order": "concat-order",
        "std-ddof": "std-ddof",
        "stride-position": "stride-position",
        "transposed-conv-shift": "transposed-conv-shift",
        "weights-not-loaded": "weights-not-loaded",
        "weights-perturbed": "weights-perturbed",
        "weights-swapped": "weights-swapped qkv-order",  # two layers beside one another may be projections
    }.items()
}
"""The names that are right for each kind of defect."""
VAGUE: dict[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "activation-kind": "operation-kind",
        "attention-mask": "block-missing",
        "attention-scale": "scale weights-perturbed block-missing",
        "channel-order": "axis-permutation block-extra",
        "concat-order": "axis-permutation channel-order",
        "depth-to-space-order": "axis-permutation channel-order reshape-order block-extra",
        "depthwise-order": "kernel-layout channel-order",
        "embedding-scale": "scale block-extra",
        "flatten-order": "axis-permutation block-extra",
        "gelu-approx": "activation-kind",
        "head-layout": "channel-order kernel-layout",
        "input-normalisation": "block-extra",
        "input-scale": "scale input-normalisation block-extra",
        "kernel-layout": "dense-transpose",
        "pad-asymmetry": "block-extra shift",
        "pad-mode": "block-extra",
        "pool-kind": "operation-kind",
        "reshape-order": "axis-permutation block-extra",
        "rnn-direction": "block-extra",
        "stack-order": "axis-permutation channel-order",
        "std-ddof": "scale",
        "transposed-conv-shift": "shift block-extra pad-mode",
        "weights-swapped": "weights-not-loaded",
    }.items()
}
"""Names that are true of a kind of defect, and too general."""
