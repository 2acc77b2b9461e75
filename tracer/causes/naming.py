"""What a stated difference is called in the catalogue of causes, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracer import kinds, relations
from tracer.causes import masks
from tracer.causes.axes import along_channels, along_features, as_flip, counts, reorders_channels, turns_features
from tracer.causes.case import Side
from tracer.causes.preparing import at_input, is_table, of_a_mask, of_input
from tracer.causes.scores import FAR, PRODUCTS, SCALING, about_heads, of_scores
from tracer.causes.step import Array, Step
from tracer.causes.sums import terms_apart
from tracer.causes.uses import bends_layer, makes_kernel
from tracer.graph import Node, Structure

SHOWING = frozenset({
    "epsilon", "momentum", "negative_slope", "alpha", "beta", "max_value", "min_value", "threshold", "approximate",
    "form", "ddof", "padding_mode", "pad_value", "count_include_pad", "padding", "dilation", "align_corners",
    "coordinates", "antialias", "mode", "reset_after", "activation", "recurrent_activation", "output_padding",
})  # fmt: skip
"""Settings that another input, or training, may show where this one does not."""
_SETTINGS = {
    "negative_slope": "activation-param", "alpha": "activation-param", "beta": "activation-param",
    "max_value": "activation-param", "min_value": "activation-param", "threshold": "activation-param",
    "value": "activation-param", "approximate": "gelu-approx", "form": "activation-kind", "ddof": "std-ddof",
    "mode": "bn-mode", "momentum": "training-bn-momentum", "dilation": "dilation", "padding_mode": "pad-mode",
    "crop": "transposed-conv-shift", "count_include_pad": "pool-count-include-pad", "strides": "stride-position",
    "scale": "attention-scale", "mask": "attention-mask", "offset": "embedding-offset",
    "align_corners": "resize-align-corners", "coordinates": "resize-align-corners", "antialias": "resize-antialias",
    "reset_after": "gru-reset-after", "activation": "rnn-activation", "recurrent_activation": "rnn-activation",
    "direction": "rnn-direction", "go_backwards": "rnn-direction", "reverse": "rnn-direction",
    "return_sequences": "rnn-last-step", "num_heads": "head-layout", "permutation": "reshape-order",
    "rate": "dropout-mode", "merge_mode": "rnn-direction", "time": "axis-permutation", "result": "rnn-last-step",
    "realign": "rnn-direction", "forget_bias": "rnn-bias", "output_activation": "rnn-activation",
    "heads": "head-layout", "given_as": "attention-mask", "given": "attention-mask", "zero": "attention-mask",
    "transpose_a": "axis-permutation", "transpose_b": "axis-permutation", "equation": "axis-permutation",
    "ids": "embedding-offset", "padding_idx": "embedding-offset", "shifts": "shift", "start": "shift", "stop": "shift",
    "indices": "shift", "dtype": "dtype", "pool_size": "pool-kind", "slope": "activation-kind",
    "condition": "attention-mask", "diagonal": "attention-mask", "axes": "norm-axis",
    "use_axes": "norm-axis", "use_ddof": "std-ddof", "use_epsilon": "ln-eps", "use_root": "ln-eps",
    "use_centred": "norm-axis", "use_mask": "weights-perturbed",
    "axis": "axis-permutation", "repeats": "reshape-order", "output_padding": "transposed-conv-shift",
}  # fmt: skip
_SAMPLED = ("grid_sample", "mode")
_OF_KINDS = (
    (kinds.RECURRENT, {"gates": "{kind}-gate-order", "mask": "rnn-last-step", "scale": "operation-kind"}),
    ({"attention"}, {"order": "qkv-order", "time": "axis-permutation", "layout": "head-layout"}),
    ({"attention"}, {"over": "softmax-axis"}),
    ({"softmax", "log_softmax"}, {"axis": "softmax-axis"}),
    ({"embedding"}, {"scale": "embedding-scale"}),
    ({"concat", "stack"}, {"order": "concat-order", "axis": "concat-order"}),
    ({"pixel_shuffle", "pixel_unshuffle"}, {"order": "depth-to-space-order", "factor": "depth-to-space-order"}),
    ({"resize", "upsample"}, {"rounding": "resize-align-corners", "coordinates": "resize-align-corners"}),
    ({"pad", "crop"}, {"padding": "pad-mode", "value": "pad-mode"}),
    ({"rescaling"}, {"scale": "input-scale", "offset": "input-normalisation"}),
    ({"normalization"}, {"epsilon": "input-normalisation", "invert": "input-normalisation"}),
    ({"mul", "div"}, {"operand": "scale"}),
    ({"add", "sub"}, {"operand": "shift", "alpha": "scale"}),
    ({"dense"}, {"activation": "activation-kind"}),
    ({"std"}, {"form": "ln-eps"}),
    ({"fft"}, {"norm": "scale"}),
)
"""For settings of some kinds of operations, before what they are called elsewhere."""


def of_setting(kind: str, key: str, ours: Any, theirs: Any) -> str:
    """The cause that a setting of a step of ``kind`` is."""
    if key == "epsilon":
        return "bn-eps" if kind == "batchnorm" else "ln-eps"
    if kind in kinds.NORMALISATIONS and key in ("channels", "axes", "groups"):
        return "norm-axis"
    if kind in kinds.NORMALISATIONS and key == "form":
        return "ln-eps"
    if kind == "l2_normalize" and key == "order":
        return "norm-axis"
    if kind == "flip":
        return "axis-permutation"
    if key == "result" and {ours, theirs} == {"h", "c"}:
        return "wiring"  # another of what a recurrent layer gives, and the same step
    if kind == "slice" and key == "index":
        return _of_index(ours, theirs)
    if key == "groups":
        return "groups"
    if key == "padding":
        return _padding(kind, ours, theirs)
    if kind in kinds.CONVOLUTIONS and key == "activation":
        return "activation-kind"
    for some, names in _OF_KINDS:
        if kind in some and key in names:
            return names[key].format(kind=kind.removesuffix("_cell"))
    if (kind in ("resize", "upsample") and key not in ("align_corners", "antialias")) or (kind, key) == _SAMPLED:
        return "resize-mode"
    if kind in kinds.ARRANGING and key != "shifts":
        return "reshape-order" if kind != "flatten" else "flatten-order"
    if kind in kinds.POOLS:
        return {"strides": "stride-position", "count_include_pad": "pool-count-include-pad"}.get(key, "pool-kind")
    return _SETTINGS.get(key, "operation-kind")


def plain_index(index: Sequence[Any]) -> list[Any]:
    """An index with what takes all of an axis, or every one from the first, written in one way."""
    return [(part[0] or 0, part[1], part[2] or 1) if isinstance(part, tuple | list) else part for part in index]


def _of_index(ours: Sequence[Any], theirs: Sequence[Any]) -> str:
    """Where another part of a tensor is taken: another one of a sequence, or other channels."""
    ours, theirs = plain_index(ours), plain_index(theirs)
    both = zip(ours, theirs, strict=False)
    apart = [axis for axis, (a, b) in enumerate(both) if a != b]
    single = any(isinstance(side[axis], int | np.integer) for axis in apart for side in (ours, theirs))
    if single and apart != [len(ours) - 1]:
        return "shift" if all(_neighbours(ours[axis], theirs[axis]) for axis in apart) else "rnn-last-step"
    if apart == [len(ours) - 1]:
        return "channel-order"
    parts = [(ours[axis], theirs[axis]) for axis in apart]
    other = any(isinstance(a, tuple) and isinstance(b, tuple) and a[2] != b[2] for a, b in parts)
    return "stride-position" if other else "shift"


def _neighbours(one: Any, other: Any) -> bool:
    """Whether two places are counted from the same end and lie side by side, and are not the first and the last."""
    places = isinstance(one, int | np.integer) and isinstance(other, int | np.integer)
    return places and (one < 0) == (other < 0) and abs(one - other) == 1


def _padding(kind: str, ours: Any, theirs: Any) -> str:
    if not (isinstance(ours, Sequence) and isinstance(theirs, Sequence)):
        return "pad-mode"
    totals = [[sum(pair) for pair in side] for side in (ours, theirs)]
    if totals[0] == totals[1]:
        return "pad-asymmetry"
    before = [[pair[0] for pair in side] for side in (ours, theirs)]
    if kind in kinds.POOLS and before[0] == before[1]:
        return "pool-ceil-mode"
    if not all(map(any, totals)):
        return "pad-mode"
    apart = [(a, b) for a, b in zip(ours, theirs, strict=False) if tuple(a) != tuple(b)]
    if all((a[0] == a[1]) != (b[0] == b[1]) and any(a) and any(b) for a, b in apart):
        return "pad-asymmetry"  # alike on both ends on one side alone: windows begin elsewhere
    if all(abs(a - b) <= 1 for a, b in zip(*totals, strict=False)):
        return "pad-asymmetry"  # a stride that does not divide: SAME pads one less than a symmetric pad
    return "pad-mode"


def of_kinds(ours: str, theirs: str) -> str:
    """The cause where one operation stands for another."""
    both = {ours, theirs}
    if both <= kinds.ACTIVATIONS | {"clip", "identity"}:
        if both & {"softmax", "log_softmax", "sigmoid"} and "identity" in both:
            return "logits"
        if both == {"softmax", "log_softmax"}:
            return "logits"
        return "activation-kind"
    if both <= kinds.POOLS:
        return "pool-kind"
    if both & {"upsample", "resize"} and both & (kinds.REPEATING | {"crop", "slice", "pad"}):
        return "resize-mode"
    if both & {"var", "std"} and both & kinds.POOLS:
        return "operation-kind"  # what is left out is the mean
    if both & kinds.POOLS and both & {"flatten", "reshape", "slice", "gather", *kinds.REDUCTIONS}:
        return "pool-kind"
    if both & kinds.ACTIVATIONS and both <= kinds.ACTIVATIONS | kinds.ELEMENTWISE | {"clip"}:
        return "activation-kind"
    if both <= kinds.NORMALISATIONS:
        return "norm-axis"
    if both & {"tile", "repeat"} and both <= kinds.REPEATING | {"concat", "stack"}:
        return "reshape-order"
    if both <= kinds.ARRANGING:
        return "depth-to-space-order" if both & {"pixel_shuffle", "pixel_unshuffle"} else "reshape-order"
    if both <= {"slice", "split", "gather"}:
        return "channel-order"
    if both == {"concat", "stack"}:
        return "concat-order"
    return "operation-kind"


def of_exchange(ours: Step, theirs: Step, side: Side) -> str:
    """The cause where ``theirs`` stands in the place of ``ours``, a step of ``side``."""
    both, structure = {ours.kind, theirs.kind}, side.recording.structure
    if both <= LOGARITHMS:
        return "scale"  # one is a multiple of the other
    if both & {"where", "masked_fill"} and masks.masks_scores(ours, side):
        return "attention-mask"
    if both <= SCALING and len(ours.inputs) == len(theirs.inputs) == 1:
        return of_operand(ours, side, theirs)
    if both <= kinds.REDUCTIONS | kinds.POOLS and normalises(ours, side) and not _of_extremes(ours, theirs):
        return "input-normalisation" if of_input(ours, side) else "norm-axis"
    if both <= {"slice", "gather", "split"} and any(map(_takes_a_step, (ours, theirs))):
        return "rnn-last-step"
    if both <= _CHANNELS and turns_features(ours, side):
        return "channel-order"
    if both == {"crop", "slice"}:
        return "transposed-conv-shift" if any("transpose" in kind for kind in _cut(ours, structure)) else "shift"
    if both == {"add", "average"}:
        return "scale"  # a mean is the sum times a number
    cause = of_kinds(ours.kind, theirs.kind)
    if cause in ("operation-kind", "pool-kind", "activation-kind") and of_input(ours, side):
        return "input-normalisation"
    return "head-layout" if cause in _LAID and about_heads(structure, ours) else cause


LOGARITHMS = frozenset({"log", "log2", "log10"})
_LAID = ("reshape-order", "channel-order", "concat-order")


def _of_extremes(ours: Step, theirs: Step) -> bool:
    """Whether one step takes the largest of some values and the other a mean: that is no matter of axes."""
    return ("max" in ours.kind) != ("max" in theirs.kind)


def _cut(step: Step, structure: Structure) -> list[str]:
    """The kinds of what a step cuts some values out of, through what cuts others off."""
    above = [structure.by_name[name] for name in step.inputs if name in structure.by_name]
    while any(node.kind in ("crop", "slice") for node in above):
        above = [structure.by_name[name] for node in above for name in node.parents]
    return [node.kind for node in above]


def _takes_a_step(step: Step) -> bool:
    """Whether a step takes one place along an axis that is not the last of three or more."""
    index = step.settings.get("index", ())
    return any(isinstance(part, int | np.integer) for part in index[: max(len(index), 3) - 1])


def picks_one(step: Step) -> bool:
    """Whether a step takes one place of a sequence."""
    return step.kind in ("slice", "gather") and _takes_a_step(step)


def normalises(step: Step, side: Side) -> bool:
    """Whether what a step reduces values to is taken from these values, or divides them."""
    structure = side.recording.structure
    known = structure.by_name
    if not step.inputs or step.inputs[0] not in known or step.name not in known:
        return False
    whole, small = known[step.inputs[0]].shape, known[step.name].shape
    names, seen = {step.name}, {step.name}
    for _ in range(_NEAR):
        following = {child for name in names for child in structure.children.get(name, ())} - seen
        for node in map(known.__getitem__, following):
            if node.kind in ("sub", "div", "mul", "squared_difference") and node.shape == whole != small:
                others = set(node.parents) - seen
                if others & _over(structure, step.inputs[0]) or step.inputs[0] in _over(structure, *others):
                    return True
        names = {name for name in following if known[name].kind in _STATISTICS}
        seen |= names
    return False


def _over(structure: Structure, *names: str) -> set[str]:
    """Some nodes and those a few steps above them."""
    found, above = set(names), set(names)
    for _ in range(3):
        above = {parent for name in above for parent in structure.by_name[name].parents}
        found |= above
    return found


_NEAR = 6
_STATISTICS = kinds.ELEMENTWISE | kinds.UNCHANGED | {
    "add", "sub", "mul", "div", "power", "maximum", "clip", "expand_dims", "reshape", "expand",
}  # fmt: skip
"""What is done to means and deviations before values are normalised by them."""
ORDERS = frozenset({
    "flatten-order", "reshape-order", "channel-order", "axis-permutation", "concat-order", "head-layout",
    "depth-to-space-order", "depthwise-order", "dense-row-order",
})  # fmt: skip
"""Causes that say of the same values that they stand elsewhere."""
GENERIC = frozenset({"operation-kind", "wiring"})
"""Causes that say no more than that something differs."""
_FEW = 16
"""Numbers of an array that are told."""
_CHANNELS = frozenset({"flip", "gather", "roll"})
_HEADS = 3
_PROBABLE = (["softmax"], ["sigmoid"])
_SCORES = 2
"""Axes of what says how likely each class is: of a map or a picture a sigmoid is an activation."""


def of_operand(step: Step, side: Side, twin: Step | None = None) -> str:
    """The cause where a number or a constant tensor that is added or multiplied is another one, or is there on one
    side only; of a ``twin`` that does either otherwise."""
    both = (step,) if twin is None else (step, twin)
    if any(one.kind not in SCALING for one in both):
        return "operation-kind"
    scaling, adding = (all(map(does, both)) for does in (_scales, _adds))
    if at_input(step, side) and not any(map(is_table, both)) and not of_a_mask(step, side):
        return "input-scale" if scaling and all(map(_is_scalar, both)) else "input-normalisation"
    known = side.recording.structure.by_name
    if adding and any(counts(known[name]) for name in step.inputs if name in known) and _looked_up(step, side):
        return "embedding-offset"
    if not adding and any(_scales_table(side, name, step.name) for name in step.inputs):
        return "embedding-scale"
    if scaling and all(map(_is_scalar, both)) and masks.on_scores(step, side) and not _of_maps(step, side):
        return "attention-scale"
    if adding and masks.masks_scores(step, side) and not _reads_as_query(step, side) and not _of_maps(step, side):
        return "attention-mask"
    if adding and _steadies(step, side):
        return "ln-eps"
    if of_input(step, side):
        return "input-normalisation"
    if adding:
        return "shift"
    return "operation-kind" if any(map(_adds, both)) else "scale"


def _scales_table(side: Side, name: str, reader: str) -> bool:
    """Whether what alone reads an embedding scales it: of one that others read too it is a term that is scaled."""
    node = side.recording.structure.by_name.get(name)
    return node is not None and node.kind == "embedding" and {*side.recording.structure.children[name]} <= {reader}


def _reads_as_query(step: Step, side: Side) -> bool:
    """Whether attention reads what a step gives as its query, key or value, and not as a mask."""
    structure = side.recording.structure
    following = [structure.by_name[child] for child in structure.children.get(step.name, ())]
    return any(node.kind == "attention" and step.name in node.parents[:_OPERANDS] for node in following)


_OPERANDS = 3
"""Tensors that attention reads before a mask."""


def _of_maps(step: Step, side: Side) -> bool:
    """Whether a step scales the maps of a convolution, whose softmax is over their places: no query meets a key."""
    known = side.recording.structure.by_name
    return step.kind != "add" and any(known[n].kind in kinds.CONVOLUTIONS for n in step.inputs if n in known)


def _looked_up(step: Step, side: Side) -> bool:
    """Whether what a step gives are ids, whose rows of a table are taken."""
    structure, names = side.recording.structure, [step.name]
    for _ in range(FAR):
        following = [structure.by_name[child] for name in names for child in structure.children.get(name, ())]
        if any(node.kind in ("embedding", "one_hot") for node in following):
            return True
        names = [node.name for node in following if counts(node)]
    return False


def _one_more(step: Step, side: Side) -> bool:
    """Whether a step adds one to what another tensor is multiplied by: which adds that tensor itself."""
    operand, structure = np.asarray(step.settings.get("operand", 0.0)), side.recording.structure
    readers = [structure.by_name[name] for name in structure.children.get(step.name, ())]
    multiplies = bool(readers) and all(node.kind == "mul" and len(node.parents) > 1 for node in readers)
    return step.kind == "add" and operand.size == 1 and float(operand.reshape(())) == 1 and multiplies


def _steadies(step: Step, side: Side) -> bool:
    """Whether a step adds a small number to what values are divided by."""
    structure = side.recording.structure
    operand, known = np.asarray(step.settings.get("operand", 1.0)), structure.by_name
    following = [known[child] for child in structure.children.get(step.name, ())]
    if operand.size != 1 or not 0 <= float(operand.reshape(())) <= _SMALL:
        return False
    above = [known[name] for name in step.inputs if name in known]
    above += [known[name] for node in above if node.kind in kinds.ELEMENTWISE for name in node.parents]
    statistics = [node for node in above if node.kind in kinds.REDUCTIONS | kinds.POOLS]
    if statistics and any(child.kind in ("sqrt", "rsqrt") for child in following):
        return True  # under a root, whatever the deviation is then used for
    return any(normalises(Step(node.name, node.kind, inputs=node.parents), side) for node in statistics)


_SMALL = 0.1


def _scales(step: Step) -> bool:
    """Whether a step multiplies, and no more."""
    given = {**step.settings, **step.weights}
    return step.kind in ("mul", "div") or (step.kind == "rescaling" and not np.any(given.get("offset", 0.0)))


def _adds(step: Step) -> bool:
    """Whether a step adds, and no more."""
    given = {**step.settings, **step.weights}
    return step.kind in ("add", "sub") or (step.kind == "rescaling" and bool(np.all(given.get("scale", 1.0) == 1)))


def of_single(step: Step, side: Side) -> tuple[str, bool]:
    """What a step is that one side has alone: a stem for Case.lacks and Case.has, or a cause of its own (True)."""
    step = as_flip(step)
    kind, structure = step.kind, side.recording.structure
    readers = [structure.by_name[name] for name in structure.children.get(step.name, ())]
    probable = kind in ("softmax", "log_softmax") or (kind == "sigmoid" and len(step.shape or ()) == _SCORES)
    if probable and step.name in map(side.recording.resolve, structure.outputs):
        # Of what is probabilities already it makes no others.
        given = [structure.by_name[name].kind for name in step.inputs if name in structure.by_name]
        return ("activation", False) if given in _PROBABLE else ("logits", True)
    operand = np.asarray(step.settings.get("operand", 2.0))
    if (kind == "mul" and operand.size > 1 and np.isin(operand, (0, 1)).all()) or masks.makes_mask(step, side):
        return "attention-mask", True
    if kind in SCALING and len(step.inputs) == 1:
        if _one_more(step, side):
            return "residual", False
        if step.kind == "add" and is_table(step) and at_input(step, side):
            return "block", False
        cause = of_operand(step, side)
        if cause == "scale" and np.size(step.weights.get("operand", 0.0)) > 1:
            return "block", False  # a layer of its own, that learns a gain for each channel
        operand = np.squeeze(np.asarray(step.weights.get("operand", step.settings.get("operand", 0.0))))
        if cause == "shift" and kind == "sub" and step.settings.get("side") == "left":
            return "block", False  # 1 − x and the like: what is left to a number is no x that is shifted
        if cause == "shift" and (step.weights or operand.ndim > 1):  # along more than one axis it is a table
            return ("bias" if operand.ndim < 2 else "block"), False
        return cause, True
    read = [structure.by_name[name] for name in step.inputs if name in structure.by_name]
    if kind in ("add", "sub") and read and all(map(counts, read)) and _looked_up(step, side):
        return "embedding-offset", True
    if kind in _CHANNELS and any(one.kind in kinds.RECURRENT for one in (*readers, *read)):
        return ("channel-order" if along_features(step) else "rnn-direction"), True
    if kind == "flip" and makes_kernel(step, structure):
        return "kernel-flip", True
    if kind == "flip" and any(one.kind == "grid_sample" for one in readers):
        return "axis-permutation", True  # the places of rows for those of columns
    at_ends = at_input(step, side) or step.name in side.recording.structure.outputs
    if kind in _CHANNELS and at_ends and not along_channels(step, side):
        if kind == "flip":
            return ("rnn-direction" if len(step.shape or ()) <= _HEADS else "axis-permutation"), True
    elif (kind in _CHANNELS and (at_ends or turns_features(step, side))) or reorders_channels(step):
        return "channel-order", True
    shuffles = ("pixel_shuffle", "pixel_unshuffle")
    if kind in shuffles or (kind == "gather" and readers and all(one.kind in shuffles for one in readers)):
        return "depth-to-space-order", True
    if kind == "roll":
        return "shift", True
    if kind in ("permute", "reshape"):
        for _ in range(3):  # through what moves the axes once more
            readers += [structure.by_name[name] for one in readers if one.kind == "permute"
                        for name in structure.children.get(one.name, ())]  # fmt: skip
        merges = any(one.kind in ("flatten", "reshape") and _merges(step, one.shape) for one in readers)
        if merges and len(step.shape or ()) > _HEADS and about_heads(structure, step):
            return "head-layout", True
        return ("flatten-order" if merges else "axis-permutation"), True
    scores = masks.masks_scores(step, side) and of_scores(step.inputs, structure)
    if kind in ("where", "masked_fill") or (kind == "add" and scores) or masks.lowers(step, side):
        return "attention-mask", True
    if kind == "pad":
        return "pad-mode", True
    if kind == "rounded":
        return "dtype", True
    if kind in kinds.ACTIVATIONS or kind == "clip" or bends_layer(step, structure):
        return "activation", False
    if kind != "add" and of_input(step, side):
        return "input-normalisation", True
    return ("residual" if kind == "add" else "block"), False


def passed(structure: Structure, early: str, late: str) -> list[Node]:
    """The operations that make one tensor of an earlier one, each of one input; none where that is not how it is."""
    found: list[Node] = []
    while late != early:
        node = structure.by_name.get(late)
        if node is None or len(node.parents) != 1:
            return []
        found.append(node)
        late = node.parents[0]
    return found


def multiplied(structure: Structure, step: Step) -> bool:
    """Whether a step is a product, or what it only moves is multiplied next: queries, keys or values."""
    names = [step.name]
    if step.kind in (*PRODUCTS, "attention"):
        return True
    for _ in range(FAR):
        following = [structure.by_name[child] for name in names for child in structure.children.get(name, ())]
        if any(node.kind in (*PRODUCTS, "attention") for node in following):
            return True
        names = [node.name for node in following if node.kind in kinds.LAYOUT_ONLY | SCALING]
    return False


def above(structure: Structure, name: str) -> set[str]:
    """All nodes that a node's tensor is made of, without itself."""
    found: set[str] = set()
    queue = [name]
    while queue:
        node = structure.by_name.get(queue.pop())
        new = set(node.parents) - found if node is not None else set()
        found |= new
        queue += new
    return found


def on_one_path(structure: Structure, mine: Sequence[str], its: Sequence[str]) -> bool:
    """Whether a term that is read in place of another is made of it, or the other way round: added before or behind."""
    gone, new = terms_apart(mine, its)
    return bool(gone) and all(
        any(one in above(structure, other) or other in above(structure, one) for one in gone) for other in new
    )


def moved_before_sum(step: Step, side: Side, other: Side, twins: Mapping[str, str]) -> bool:
    """Whether an activation of a term stands behind the sum on the other side, and there alone."""
    mine, its = side.recording.structure, other.recording.structure
    if step.kind not in kinds.ACTIVATIONS:
        return False

    def follow(structure: Structure, name: str) -> set[str]:
        return {structure.by_name[child].kind for child in structure.children.get(name, ())}

    sums = [name for name in mine.children.get(step.name, ()) if mine.by_name[name].kind == "add"]
    return any(
        name in twins and step.kind in follow(its, twins[name]) and step.kind not in follow(mine, name) for name in sums
    )


def beside_another_sum(step: Step, side: Side, other: Side) -> bool:
    """Whether a norm that stands there on one side alone stands on the other one too, before or behind a sum."""
    own = [values for values in step.weights.values() if values.size > 1 and np.ptp(values)]
    if step.kind not in kinds.NORMALISATIONS or not own:
        return False
    mine, its = side.recording.structure, other.recording.structure
    there = [node for node in its if node.kind == step.kind and _weighs(other, node, own)]
    here = [node for node in mine if node.kind == step.kind and _weighs(side, node, own)]
    if len(here) > len(there):
        return False  # it stands beside the other as well: one more of the same
    return any(_of_sum(its, node.name) or _of_sum(mine, step.name) for node in there)


def _weighs(side: Side, node: Node, values: Sequence[Array]) -> bool:
    """Whether a node of a side has these weights."""
    stored = [side.recording.weights.get((node.owner, param.name)) for param in node.params]
    found = [side.recording.read_stored(one) for one in stored if one is not None]
    return all(any(relations.alike(value, one) for one in found) for value in values)


def _of_sum(structure: Structure, name: str) -> bool:
    node = structure.by_name.get(name)
    return node is not None and any(structure.by_name[parent].kind == "add" for parent in node.parents)


def _is_scalar(step: Step) -> bool:
    return all(getattr(value, "size", 1) == 1 for value in step.settings.values() if hasattr(value, "shape"))


def _merges(step: Step, shape: tuple[int, ...] | None) -> bool:
    return shape is not None and step.shape is not None and len(shape) < len(step.shape)


def plain(value: Any) -> Any:
    """A setting's value as JSON knows it: arrays of a few numbers as lists, of more by their shape."""
    if isinstance(value, np.ndarray):
        return (
            value.item() if value.size == 1 else value.tolist() if value.size <= _FEW else f"an array of {value.shape}"
        )
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


def said(value: Any) -> str:
    """A setting's value for a sentence."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return f"({', '.join(said(item) for item in value)})"
    return str(value)
