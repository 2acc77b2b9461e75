"""Attention of Keras and PyTorch, as layers and as functions, in the one convention of the operations."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tracer.causes.reading import Read, inferring, reader
from tracer.causes.reading.masking import steps_that_count
from tracer.causes.step import Array, Step, Unknown

_CALLED = {1: ("query+key+value",), 2: ("query", "key+value"), 3: ("query", "value", "key")}
"""The order in which Keras's layers are called; one tensor given twice is one parent."""
_TWICE = (("query+key", "value"), ("query+value", "key"), ("key+value", "query"))
_MEANT = ("add", "keep", "drop", "drop_keys", "keep_keys")


@reader("attention")
def attention(node: Read) -> Step:
    """A layer, or a function of queries, keys and values."""
    own = {
        name: node.stored(node.node.owner, name) for owner, name in node.recording.weights if owner == node.node.owner
    }
    if "in_proj_weight" in own or "q_proj_weight" in own:
        if "num_heads" not in node.config:
            return _headed(node, own)
        time = 1 if node.config.get("batch_first") or node.rank < 3 else 0
        step = _torch(node, own, int(node.config["num_heads"]), time)
    elif "query/kernel" in own:
        step = _keras(node, own)
    elif node.node.role == "layer" and node.node.label in ("Attention", "AdditiveAttention"):
        step = _bare(node, own)
    else:
        step = _function(node)
    return _with_mask(node, step.set(over="keys"))


def scores(node: Read, parent: Read) -> Step:
    """The further output of an attention layer: the scores, of each head or their mean."""
    whole = attention(parent)
    result = "mean_scores" if len(node.shape) == len(parent.shape) else "scores"
    return replace(whole.set(result=result), name=node.node.name, shape=node.node.shape)


def _headed(node: Read, own: dict[str, Array]) -> Step:
    """Of a graph that was exported the settings of the layer are gone."""
    width = len(own["out_proj.weight"])
    for heads in (count for count in range(1, width + 1) if width % count == 0):
        for time in (1, 0):
            step = _with_mask(node, _torch(node, own, heads, time))
            if inferring.reproduces(node, step, terms=256):
                return step.set(inferred=True)
    raise Unknown("how many heads it has is not told")


def _torch(node: Read, own: dict[str, Array], heads: int, time: int) -> Step:
    weights: dict[str, Array] = {}
    fused, bias = own.get("in_proj_weight"), own.get("in_proj_bias")
    for place, part in enumerate(("query", "key", "value")):
        matrix = own[f"{part[0]}_proj_weight"] if fused is None else np.split(fused, 3)[place]
        weights[f"{part}_kernel"] = matrix.T.reshape(matrix.shape[1], heads, -1)
        if bias is not None:
            weights[f"{part}_bias"] = np.split(bias, 3)[place].reshape(heads, -1)
    out = own["out_proj.weight"]
    weights["output_kernel"] = out.T.reshape(heads, -1, len(out))
    if "out_proj.bias" in own:
        weights["output_bias"] = own["out_proj.bias"]
    for name, word in (("bias_k", "key_extra"), ("bias_v", "value_extra")):
        if name in own:
            weights[word] = own[name].reshape(heads, -1)
    step = inferring.step_of(
        node,
        heads=heads,
        scale=None,
        layout="joined",
        order=("query", "key", "value") if len(node.node.parents) >= 3 else _CALLED[1],
        time=time,
        zero=bool(node.config.get("add_zero_attn", False)),
    )
    return replace(step, inputs=node.node.parents).weigh(**weights)


def _keras(node: Read, own: dict[str, Array]) -> Step:
    weights = {}
    for part in ("query", "key", "value"):
        weights[f"{part}_kernel"] = own[f"{part}/kernel"]
        if f"{part}/bias" in own:
            weights[f"{part}_bias"] = own[f"{part}/bias"]
    weights["output_kernel"] = own["attention_output/kernel"]
    if "attention_output/bias" in own:
        weights["output_bias"] = own["attention_output/bias"]
    if weights["query_kernel"].ndim != 3 or node.rank != 3:
        raise Unknown("attention over several axes is not computed")
    widths = {weights[f"{part}_kernel"].shape[0] for part in ("query", "key", "value")}
    order = _called(node, widths)
    settings = {"heads": weights["query_kernel"].shape[1], "scale": None, "layout": "joined", "order": order}
    return inferring.step_of(node, **settings).weigh(**weights)


def _called(node: Read, widths: Container[int] = ()) -> tuple[str, ...]:
    """What each of its inputs is, of these ``widths`` where they are known; a mask is none. Raises Unknown."""
    if not node.node.parents:
        raise Unknown("what it reads was not recorded")
    known = node.recording.structure.by_name
    read = [
        name for name, shape in zip(node.node.parents, node.shapes, strict=True)
        if not (known[name].dtype or "").startswith("bool")
        and not (widths and shape is not None and (len(shape) != 3 or shape[-1] not in widths))
    ]  # fmt: skip
    return _CALLED[max(1, min(3, len(read)))]


def _bare(node: Read, own: dict[str, Array]) -> Step:
    """Keras's Attention and AdditiveAttention, without projections."""
    additive = node.node.label == "AdditiveAttention"
    scale = own.get("scale")
    if "concat_score_weight" in own:
        raise Unknown("scores of added queries and keys are not computed")
    settings: dict[str, Any] = {"layout": "joined", "heads": 1, "order": _called(node)}
    if additive:
        step = inferring.step_of(node, score="additive", **settings)
        return step if scale is None else step.weigh(scale_kernel=scale)
    return inferring.step_of(node, scale=1.0 if scale is None else float(scale.reshape(())), **settings)


def _function(node: Read) -> Step:
    parents = node.node.parents
    inside = node.framework == "tensorflow"
    settings: dict[str, Any] = {"scale": node.config.get("scale")}
    settings["layout"] = "heads_inside" if inside else "heads_first"
    settings["order"] = ("query", "key", "value") if len(parents) >= 3 else _CALLED[len(parents)]
    if settings["scale"] is not None:
        settings["scale"] = float(settings["scale"])
    if settings["scale"] == 0 and node.framework == "onnx":
        settings["scale"] = None
    return inferring.step_of(node, **settings)


def _with_mask(node: Read, step: Step) -> Step:
    """With the mask that gives the recorded values: none, the causal one, that of the padding, or a recorded one."""
    told = node.config.get("causal", node.config.get("is_causal"))
    plain = replace(step, inputs=node.node.parents[: len(step.settings["order"])]).set(
        mask="causal" if told else "none"
    )
    if inferring.reproduces(node, plain, terms=256):
        return plain
    for other in _masked(node, step, plain):
        if inferring.reproduces(node, other, terms=256):
            return other
    if len(node.node.parents) > len(step.settings["order"]):
        raise Unknown("its mask was not recorded")
    return plain


def _masked(node: Read, step: Step, plain: Step) -> Iterator[Step]:
    yield plain.set(mask="none" if plain.settings["mask"] == "causal" else "causal")
    count = len(step.settings["order"])
    for name in node.node.parents[count:]:
        for how in _MEANT:
            yield replace(plain, inputs=(*plain.inputs, name)).set(mask="given", given_as=how)
    called = [plain]
    if count == 2:  # one tensor in two places
        called += [plain.set(order=order) for order in _TWICE]
        yield from (one.set(mask=mask) for one in called[1:] for mask in ("none", "causal"))
    if node.framework == "tensorflow":
        yield from (step for one in called for step in _handed_on(node, one))


_HIDDEN = -1e30
"""What Keras adds to scores that it hides: rows of which all are hidden weigh every key alike."""


def _handed_on(node: Read, plain: Step) -> Iterator[Step]:
    """With the masks that Keras knows the padding by, beside a given one and the causal one."""
    order = plain.settings["order"]
    place = {part: k for k, word in enumerate(order) for part in word.split("+")}
    queries, keys = (steps_that_count(node, place[part]) for part in ("query", "value"))
    padding = [] if keys is None else [keys[:, None, None, :]]
    if queries is not None:
        padding.append(queries[:, None, :, None] & (padding[0] if padding else True))
    given = [_over_heads(node.recorded(name)) for name in node.node.parents[len(order) :]]
    steps = [node.source(place[part])[1] for part in ("query", "value")]
    causal = np.tri(steps[0], steps[1]) > 0
    for pad in [*padding, None]:
        for own in [*given, None]:
            for ahead in (None, causal):
                parts = [part for part in (pad, own, ahead) if part is not None]
                if pad is None and own is None:
                    continue
                keep = functools.reduce(np.logical_and, parts)
                step = plain.set(mask="given", given=np.where(keep, 0.0, _HIDDEN), given_as="add")
                yield step
                if queries is not None:
                    yield step.set(kept=queries)


def _over_heads(mask: Array) -> Array:
    """A mask of Keras, one for all heads where it has no axis for them."""
    kept: Array = np.asarray(mask) != 0
    return kept[:, None] if kept.ndim == 3 else kept
