"""What a stated difference is called in the catalogue of causes, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes.case import Side
from tracer.causes.step import Step

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
    "operand": "scale", "rate": "dropout-mode",
}  # fmt: skip


def of_setting(kind: str, key: str, ours: Any, theirs: Any) -> str:
    """The cause that a setting of a step of ``kind`` is."""
    if key == "epsilon":
        return "bn-eps" if kind == "batchnorm" else "ln-eps"
    if kind in kinds.NORMALISATIONS and key in ("channels", "axes", "groups"):
        return "norm-axis"
    if key == "groups":
        return "groups"
    if key == "padding":
        return _padding(kind, ours, theirs)
    if kind in ("softmax", "log_softmax") and key == "axis":
        return "softmax-axis"
    if kind == "embedding" and key == "scale":
        return "embedding-scale"
    if kind in ("resize", "upsample") and key in ("mode", "interpolation", "nearest"):
        return "resize-mode"
    if kind in ("concat", "stack"):
        return "concat-order"
    if kind in ("pixel_shuffle", "pixel_unshuffle"):
        return "depth-to-space-order"
    if kind in kinds.ARRANGING:
        return "reshape-order" if kind != "flatten" else "flatten-order"
    if kind in kinds.POOLS:
        return {"strides": "stride-position", "count_include_pad": "pool-count-include-pad"}.get(key, "pool-kind")
    return _SETTINGS.get(key, key.replace("_", "-"))


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
    if both & kinds.POOLS and both & {"flatten", "reshape"}:
        return "pool-kind"
    if both <= kinds.NORMALISATIONS:
        return "norm-axis"
    return "operation-kind"


_FEW = 16
"""Numbers of an array that are told."""
SCALING = frozenset({"mul", "div", "add", "sub", "rescaling", "normalization"})
_CHANNELS = frozenset({"flip", "gather", "roll"})
_PASSED = SCALING | {"where", "masked_fill", "clip", "maximum"}


def of_single(step: Step, side: Side) -> tuple[str, bool]:
    """What a step is that one side has alone: a stem for Case.lacks and Case.has, or a cause of its own (True)."""
    kind, structure = step.kind, side.recording.structure
    before = {structure.by_name[name].kind for name in step.inputs if name in structure.by_name}
    readers = [structure.by_name[name] for name in structure.children.get(step.name, ())]
    if kind in ("softmax", "log_softmax") and side.program is not None and step is side.program.last:
        return "logits", True
    if kind in SCALING and len(step.inputs) == 1:
        if _at_input(step, side):
            return ("input-scale" if kind in ("mul", "div") and _is_scalar(step) else "input-normalisation"), True
        if "embedding" in before and kind in ("mul", "div"):
            return "embedding-scale", True
        if _scores(step, side):
            return ("attention-scale" if kind in ("mul", "div") else "attention-mask"), True
        return ("scale" if kind in ("mul", "div") else "block"), kind in ("mul", "div")
    if kind in _CHANNELS and _at_input(step, side):
        return "channel-order", True
    if kind in ("pixel_shuffle", "pixel_unshuffle"):
        return "depth-to-space-order", True
    if kind in ("permute", "reshape"):
        for _ in range(3):  # through what moves the axes once more
            readers += [structure.by_name[name] for one in readers if one.kind == "permute"
                        for name in structure.children.get(one.name, ())]  # fmt: skip
        merges = any(one.kind in ("flatten", "reshape") and _merges(step, one.shape) for one in readers)
        return ("flatten-order" if merges else "axis-permutation"), True
    if kind in ("where", "masked_fill"):
        return "attention-mask", True
    if kind == "pad":
        return "pad-mode", True
    if kind in kinds.ACTIVATIONS or kind == "clip":
        return "activation", False
    return ("residual" if kind == "add" else "block"), False


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
                return True
            if known[parent].kind in SCALING or known[parent].kind in kinds.LAYOUT_ONLY:
                names.append(parent)
    return False


def _scores(step: Step, side: Side) -> bool:
    """Whether a step works on attention scores, or on what they are made of: a softmax or a product comes next."""
    structure, names = side.recording.structure, [step.name]
    for _ in range(6):
        following = [structure.by_name[child] for name in names for child in structure.children.get(name, ())]
        if any(one.kind in ("softmax", "matmul", "attention") for one in following):
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
