"""What a stated difference is called in the catalogue of causes, and how it is said."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes.case import Side
from tracer.causes.step import Step
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
    "axis": "axis-permutation", "repeats": "reshape-order", "output_padding": "transposed-conv-shift",
}  # fmt: skip
_OF_KINDS = (
    (kinds.RECURRENT, {"gates": "{kind}-gate-order", "mask": "rnn-last-step", "scale": "operation-kind"}),
    ({"attention"}, {"order": "qkv-order", "time": "axis-permutation", "layout": "head-layout"}),
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
    if key == "groups":
        return "groups"
    if key == "padding":
        return _padding(kind, ours, theirs)
    if kind in kinds.CONVOLUTIONS and key == "activation":
        return "activation-kind"
    for some, names in _OF_KINDS:
        if kind in some and key in names:
            return names[key].format(kind=kind.removesuffix("_cell"))
    if kind in ("resize", "upsample") and key not in ("align_corners", "antialias"):
        return "resize-mode"
    if kind in kinds.ARRANGING and key != "shifts":
        return "reshape-order" if kind != "flatten" else "flatten-order"
    if kind in kinds.POOLS:
        return {"strides": "stride-position", "count_include_pad": "pool-count-include-pad"}.get(key, "pool-kind")
    return _SETTINGS.get(key, "operation-kind")


def _padding(kind: str, ours: Any, theirs: Any) -> str:
    if not (isinstance(ours, Sequence) and isinstance(theirs, Sequence)):
        return "pad-mode"
    totals = [[sum(pair) for pair in side] for side in (ours, theirs)]
    if totals[0] == totals[1]:
        return "pad-asymmetry"
    before = [[pair[0] for pair in side] for side in (ours, theirs)]
    if kind in kinds.POOLS and before[0] == before[1]:
        return "pool-ceil-mode"
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
    if both & {"upsample", "resize"} and both & kinds.REPEATING:
        return "resize-mode"
    if both & kinds.POOLS and both & {"flatten", "reshape", "slice", "gather", *kinds.REDUCTIONS}:
        return "pool-kind"
    if both <= kinds.ACTIVATIONS | kinds.ELEMENTWISE | {"clip"}:
        return "activation-kind"
    if both <= kinds.NORMALISATIONS:
        return "norm-axis"
    return "operation-kind"


_FEW = 16
"""Numbers of an array that are told."""
SCALING = frozenset({"mul", "div", "add", "sub", "rescaling", "normalization"})
_CHANNELS = frozenset({"flip", "gather", "roll"})
_PREPARING = (
    SCALING | kinds.REDUCTIONS | kinds.ELEMENTWISE | kinds.UNCHANGED | {"power", "clip", "maximum", "minimum", "full"}
) | {"expand_dims", "squeeze"}
_FLOATING = ("float", "bfloat", "uint8")
_PASSED = SCALING | {"where", "masked_fill", "clip", "maximum"}


def of_operand(step: Step, side: Side) -> str:
    """The cause where a number or a constant tensor that is added or multiplied is another one."""
    if step.kind not in SCALING:
        return "operation-kind"
    if _at_input(step, side):
        return "input-scale" if step.kind in ("mul", "div") and _is_scalar(step) else "input-normalisation"
    if _scores(step, side):
        return "attention-scale" if step.kind in ("mul", "div") else "attention-mask"
    known = side.recording.structure.by_name
    if step.kind in ("mul", "div"):
        return "embedding-scale" if any(known[n].kind == "embedding" for n in step.inputs if n in known) else "scale"
    return "shift"


def of_single(step: Step, side: Side) -> tuple[str, bool]:
    """What a step is that one side has alone: a stem for Case.lacks and Case.has, or a cause of its own (True)."""
    kind, structure = step.kind, side.recording.structure
    before = {structure.by_name[name].kind for name in step.inputs if name in structure.by_name}
    readers = [structure.by_name[name] for name in structure.children.get(step.name, ())]
    if kind in ("softmax", "log_softmax") and step.name in map(side.recording.resolve, structure.outputs):
        return "logits", True
    operand = np.asarray(step.settings.get("operand", 2.0))
    if kind == "mul" and operand.size > 1 and np.isin(operand, (0, 1)).all():
        return "attention-mask", True
    if kind in SCALING and len(step.inputs) == 1:
        if _at_input(step, side):
            return ("input-scale" if kind in ("mul", "div") and _is_scalar(step) else "input-normalisation"), True
        if "embedding" in before and kind in ("mul", "div"):
            return "embedding-scale", True
        if _scores(step, side):
            return ("attention-scale" if kind in ("mul", "div") else "attention-mask"), True
        if kind in ("add", "sub") and step.weights:
            return "bias", False
        return ("scale" if kind in ("mul", "div") else "shift"), True
    if kind in _CHANNELS and any(one.kind in kinds.RECURRENT for one in readers):
        return "rnn-direction", True
    if kind in _CHANNELS and (_at_input(step, side) or step.name in side.recording.structure.outputs):
        return "channel-order", True
    if kind in ("pixel_shuffle", "pixel_unshuffle"):
        return "depth-to-space-order", True
    if kind == "permute" and makes_mask(step, side):
        return "attention-mask", True
    if kind in ("permute", "reshape"):
        for _ in range(3):  # through what moves the axes once more
            readers += [structure.by_name[name] for one in readers if one.kind == "permute"
                        for name in structure.children.get(one.name, ())]  # fmt: skip
        merges = any(one.kind in ("flatten", "reshape") and _merges(step, one.shape) for one in readers)
        return ("flatten-order" if merges else "axis-permutation"), True
    if kind in ("where", "masked_fill") or (kind == "add" and masks_scores(step, side)):
        return "attention-mask", True
    if kind == "pad":
        return "pad-mode", True
    if kind in kinds.ACTIVATIONS or kind == "clip":
        return "activation", False
    return ("residual" if kind == "add" else "block"), False


def of_input(steps: Sequence[Step], begins: Sequence[Node]) -> bool:
    """Whether operations are a computation on the model's input alone: its preprocessing."""
    made = {step.name for step in steps}
    sources = [node for node in begins if node.name not in made]
    floating = [node.role == "input" and (node.dtype or "float").startswith(_FLOATING) for node in sources]
    return bool(floating) and all(floating) and all(step.kind in _PREPARING for step in steps)


def about_heads(structure: Structure, step: Step) -> bool:
    """Whether what a step lays out are the heads of attention: scores are made of it, or it joins what they weigh."""

    def near(names: set[str], ahead: bool, far: int) -> Iterator[str]:
        for _ in range(far):
            names = {
                other
                for name in names if name in structure.by_name
                for other in (structure.children.get(name, ()) if ahead else structure.by_name[name].parents)
            }  # fmt: skip
            yield from names

    def weighs(name: str) -> bool:
        return any(structure.by_name[other].kind in ("softmax", "attention") for other in near({name}, False, 4))

    following = list(near({step.name}, True, 7))
    if any(structure.by_name[name].kind in ("softmax", "attention") for name in following):
        return True
    return weighs(step.name) or any(structure.by_name[n].kind == "matmul" and weighs(n) for n in following)


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


def _is_scalar(step: Step) -> bool:
    return all(getattr(value, "size", 1) == 1 for value in step.settings.values() if hasattr(value, "shape"))


def _merges(step: Step, shape: tuple[int, ...] | None) -> bool:
    return shape is not None and step.shape is not None and len(shape) < len(step.shape)


def _at_input(step: Step, side: Side) -> bool:
    """Whether a step reads the model's input, through nothing that computes."""
    known, names = side.recording.structure.by_name, [step.name]
    while names:
        for parent in map(side.recording.resolve, known[names.pop()].parents):
            if known[parent].role == "input":
                if (known[parent].dtype or "float").startswith(_FLOATING):
                    return True
                continue
            if known[parent].kind in SCALING or known[parent].kind in kinds.LAYOUT_ONLY:
                names.append(parent)
    return False


def makes_mask(step: Step, side: Side) -> bool:
    """Whether a step makes what masks scores: a softmax comes next, and it neither makes nor reads scores itself."""
    return (
        step.kind not in ("matmul", "dot")
        and masks_scores(step, side)
        and not _of_scores(step, side.recording.structure)
    )


def _of_scores(step: Step, structure: Structure) -> bool:
    """Whether what a step reads are scores: a product is above, and nothing but what is done to scores between."""
    names = set(step.inputs)
    for _ in range(6):
        above = [structure.by_name[name] for name in names if name in structure.by_name]
        if any(node.kind in ("matmul", "dot", "softmax") for node in above):
            return True
        names = {parent for node in above if node.kind in _PASSED | kinds.LAYOUT_ONLY for parent in node.parents}
    return False


def masks_scores(step: Step, side: Side) -> bool:
    """Whether a softmax comes next."""
    return _scores(step, side, frozenset({"softmax", "attention"}))


def _scores(step: Step, side: Side, ends: frozenset[str] = frozenset({"softmax", "matmul", "attention"})) -> bool:
    """Whether a step works on attention scores, or on what they are made of: a softmax or a product comes next."""
    structure, names = side.recording.structure, [step.name]
    for _ in range(6):
        following = [structure.by_name[child] for name in names for child in structure.children.get(name, ())]
        if any(one.kind in ends for one in following):
            return True
        names = [one.name for one in following if one.kind in _PASSED | kinds.LAYOUT_ONLY or one.alias_of is not None]
    return False


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
