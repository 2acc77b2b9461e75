"""What to do in words, by the id of the cause: where there is no line of code for it."""

from __future__ import annotations

from collections.abc import Mapping

from tracer.causes.change import Value

WORDS: Mapping[str, str] = {
    "flatten-order": "move the channels before the flatten at {place} to where the reference has them, or put the rows "
    "of the dense kernel behind it into that order",
    "reshape-order": "move the axes at {place} as the reference does before the values are reshaped",
    "kernel-layout": "permute the kernel of {node} into the layout of its framework when it is loaded",
    "kernel-flip": "flip the kernel of {node} over its spatial axes",
    "dense-transpose": "transpose the kernel of {node}",
    "dense-row-order": "put the rows of the kernel of {node} into the order in which its own model flattens",
    "depthwise-order": "put the channels of the depthwise kernel of {node} in the reference's order",
    "pad-asymmetry": "pad as the reference does before {node}, and take its own padding away",
    "pad-mode": "pad as the reference does at {place}",
    "pool-count-include-pad": "count the padding at {place} as the reference does (count_include_pad)",
    "pool-ceil-mode": "round the size at {place} as the reference does (ceil_mode)",
    "pool-kind": "pool at {place} as the reference does: {reference}",
    "stride-position": "give {node} the strides of the reference's {other}",
    "dilation": "give {node} the dilation of the reference's {other}",
    "groups": "build {node} with as many groups as the reference's {other}",
    "transposed-conv-shift": "crop the result of {node} as the reference does: output_padding or a slice behind it",
    "bn-eps": "set epsilon of {node} to the reference's",
    "bn-stats": "load the running mean and variance, gamma and beta of {node} from the reference's {other}",
    "bn-mode": "run {node} in evaluation mode",
    "dropout-mode": "run {node} in evaluation mode",
    "ln-eps": "set epsilon at {place} to the reference's",
    "norm-axis": "normalise at {place} over the axes of the reference's {other}",
    "std-ddof": "divide by n or n − 1 at {place} as the reference does (correction, ddof)",
    "gelu-approx": "use the reference's gelu at {place} (approximate)",
    "activation-kind": "use the reference's activation at {place}: {reference}",
    "activation-param": "give the activation at {place} the reference's parameter",
    "activation-missing": "add the reference's activation behind {place}",
    "activation-extra": "take the activation at {place} away",
    "softmax-axis": "take the softmax at {place} over the reference's axis",
    "logits": "make both end alike, in logits or in probabilities, at {place}",
    "resize-align-corners": "set align_corners at {place} to the reference's",
    "resize-mode": "interpolate at {place} as the reference does",
    "resize-antialias": "set antialias at {place} to the reference's",
    "depth-to-space-order": "permute the channels before {place} into the order of its own framework",
    "lstm-gate-order": "put the gates in the weights of {node} into its framework's order",
    "rnn-bias": "load the biases of {node} so that their sum is the reference's",
    "rnn-activation": "use the reference's gate activation in {node} (recurrent_activation)",
    "gru-gate-order": "put the gates in the weights of {node} into its framework's order",
    "gru-reset-after": "apply the reset gate in {node} where the reference does (reset_after)",
    "rnn-direction": "read the sequence at {place} in the reference's direction",
    "rnn-last-step": "take the same step of the sequence as the reference at {place}",
    "attention-scale": "scale the scores at {place} as the reference does",
    "attention-mask": "mask the scores at {place} as the reference does",
    "head-layout": "split the heads at {place} as the reference does",
    "qkv-order": "take query, key and value from the projection at {place} in the reference's order",
    "embedding-offset": "shift the ids before {place} to the reference's rows, or the rows of the table",
    "embedding-scale": "multiply the embedding at {place} as the reference does",
    "concat-order": "join the tensors at {place} in the reference's order",
    "channel-order": "give the input at {place} its channels in the reference's order",
    "input-scale": "scale the input as the reference does before {place}",
    "input-normalisation": "normalise the input as the reference does before {place}",
    "residual-missing": "add the skip connection of the reference at {place}",
    "residual-extra": "take the skip connection at {place} away",
    "residual-order": "add the skip connection at {place} where the reference does: before or after "
    "the norm or the activation",
    "block-missing": "add the reference's {other} before {place}",
    "block-extra": "take {node} away",
    "weights-not-loaded": "load the weights of {node} from the reference's {other}",
    "weights-swapped": "exchange the weights of {node} with those of the layer that has the reference's",
    "weights-perturbed": "load the weights of {node} again from the reference's {other}",
    "bias-missing": "give {node} the reference's bias",
    "bias-extra": "take the bias of {node} away, or set it to zero",
    "dtype": "compute {place} in the reference's precision",
    "scale": "multiply at {place} by the reference's factor",
    "axis-permutation": "move the axes at {place} as the reference does",
    "shift": "shift the result at {place} as the reference does",
    "training-bn-momentum": "set the momentum of {node} to the reference's",
    "training-bn-variance": "update the running variance of {node} as the reference does",
    "training-optimizer-eps": "place the optimiser's epsilon as the reference does",
    "operation-kind": "compute at {place} what the reference does: {reference}",
    "operand-order": "give {node} its inputs in the reference's order",
    "wiring": "let {node} read the tensor that the reference's {other} reads",
    "noise": "nothing: this is rounding",
}  # fmt: skip
"""``node``: the candidate's; ``other``: the reference's; ``place``: the candidate's with its line in the code;
``reference``: what the reference computes there."""


def moved(cause: str, place: str, library: str, values: tuple[Value, Value]) -> str:
    """The line that moves axes into the order in which the reference flattens them; empty where there is none.

    ``values`` are the orders in which the two read the same axes, the reference's first; None is as they stand.
    """
    theirs, ours = (value if isinstance(value, tuple) else () for value in values)
    theirs, ours = theirs or tuple(range(len(ours))), ours or tuple(range(len(theirs)))
    if cause != "flatten-order" or len(theirs) != len(ours) or set(theirs) != set(ours):
        return ""
    order = tuple(ours.index(axis) for axis in theirs)
    line = {"torch": f"x = x.permute{order}"}
    if order[:1] == (0,):
        line |= dict.fromkeys(("keras", "tf_keras"), f"x = keras.layers.Permute({order[1:]})(x)")
    if library not in line:
        return ""
    return f"before {place}: {line[library]}; or put the rows of the dense kernel behind it into that order"
