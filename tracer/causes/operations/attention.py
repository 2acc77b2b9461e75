"""Attention: scores of queries against keys, and the values weighted by them.

Weights, where the layer projects its inputs itself: ``query_kernel``, ``key_kernel``, ``value_kernel``
(in, heads, features), ``query_bias`` … (heads, features), ``output_kernel`` (heads, features, out), ``output_bias``
(out); ``key_extra`` and ``value_extra`` (heads, features): one more step behind all keys and values.

Settings: ``scale`` (of the scores; None: one over the square root of the features), ``mask`` (none, causal, given),
``given`` (what is masked, broadcast to (batch, heads, queries, keys): booleans that keep, or numbers that are added;
a further input where it is one, ``given_as`` then says how it is meant: keep, drop, add, keep_keys, drop_keys),
``heads`` (the projections hold them; of inputs that are split already their own), ``order`` (what each input is:
query, key, value, or several of them: ``key+value``), ``layout`` of the inputs: ``joined`` (batch, time,
features), ``heads_first`` (…, heads, time, features), ``heads_inside`` (batch, time, heads, features); ``time`` (axis
of ``joined`` ones, 0 or 1), ``score`` (dot, additive; weight ``scale_kernel``), ``zero`` (a key and value of zeros
behind all others), ``softcap``, ``kept`` (batch, queries: where it is False zeros come out), ``over`` (keys,
queries: what the softmax is over); ``result``: ``output``,
``scores`` (of every head) or ``mean_scores``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracer.causes.operations import operation
from tracer.causes.operations.special import softmax
from tracer.causes.step import Array, Step

PARTS = ("query", "key", "value")


@operation("attention")
def attention(step: Step, inputs: Sequence[Array]) -> Array:
    """Attention with the heads, scale and mask that the step says."""
    own = step.settings
    order = own.get("order", PARTS)
    given = {part: value for word, value in zip(order, inputs, strict=False) for part in word.split("+")}
    mask = inputs[len(order)] if len(inputs) > len(order) else own.get("given")
    first = given["query"]
    batched = first.ndim > 2 or own.get("layout", "joined") != "joined"
    query, key, value = (_split(step, given[part], part, batched=batched) for part in PARTS)
    key, value = _grown(step, key, "key"), _grown(step, value, "value")
    repeat = query.shape[-3] // key.shape[-3] if query.ndim > 2 and key.ndim > 2 else 1
    if repeat > 1:
        key, value = np.repeat(key, repeat, -3), np.repeat(value, repeat, -3)
    scores = _masked(step, _scores(step, query, key), mask)
    weights = softmax(scores, -2 if own.get("over") == "queries" else -1)
    weights = np.nan_to_num(weights) if own.get("mask", "none") != "none" else weights
    if own.get("result", "output") != "output":
        return np.asarray(weights.mean(-3) if own["result"] == "mean_scores" else weights)
    found = _joined(step, weights @ value, batched=batched)
    kept = own.get("kept")
    return found if kept is None else found * np.asarray(kept, np.float64)[..., None]


def _split(step: Step, values: Array, part: str, *, batched: bool) -> Array:
    """Queries, keys or values as (…, heads, time, features)."""
    layout = step.settings.get("layout", "joined")
    if layout == "heads_first":
        return values
    if layout == "heads_inside":
        return np.swapaxes(values, -2, -3)
    values = values if batched else values[None] if step.settings.get("time", 1) else values[:, None]
    values = np.moveaxis(values, step.settings.get("time", 1), 1)
    kernel, bias = step.weights.get(f"{part}_kernel"), step.weights.get(f"{part}_bias")
    if kernel is not None:
        values = np.tensordot(values, kernel, 1)
    else:
        values = values.reshape(*values.shape[:2], step.settings.get("heads", 1), -1)
    return np.swapaxes(values if bias is None else values + bias, 1, 2)


def _grown(step: Step, values: Array, part: str) -> Array:
    """With the steps that the layer puts behind the keys and values itself."""
    extra = step.weights.get(f"{part}_extra")
    shape = (*values.shape[:-2], 1, values.shape[-1])
    if extra is not None:
        values = np.concatenate([values, np.broadcast_to(extra[..., None, :], shape)], -2)
    return np.concatenate([values, np.zeros(shape)], -2) if step.settings.get("zero") else values


def _scores(step: Step, query: Array, key: Array) -> Array:
    scale = step.settings.get("scale")
    if step.settings.get("score", "dot") == "additive":
        summed = np.tanh(query[..., :, None, :] + key[..., None, :, :])
        return np.asarray((summed * step.weights.get("scale_kernel", 1.0)).sum(-1))
    scores = query @ np.swapaxes(key, -1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    cap = step.settings.get("softcap")
    return np.asarray(np.tanh(scores / cap) * cap if cap else scores)


def _masked(step: Step, scores: Array, given: Array | None) -> Array:
    kind = step.settings.get("mask", "none")
    if kind == "causal":
        keep = np.tri(scores.shape[-2], scores.shape[-1], dtype=bool)
        return np.where(keep, scores, -np.inf)
    if kind == "none" or given is None:
        return scores
    how = step.settings.get("given_as", "keep" if np.asarray(given).dtype == np.bool_ else "add")
    mask = np.asarray(given)
    if mask.ndim == 3 and scores.ndim == 4:  # one for all heads of a sample, or for each head of every sample
        mask = mask[:, None] if len(mask) in (1, len(scores)) else mask.reshape(*scores.shape[:2], *mask.shape[1:])
    if how.endswith("_keys"):  # one for every key of a sample
        mask = mask.reshape(mask.shape[0], 1, 1, mask.shape[-1])
    missing = scores.shape[-1] - mask.shape[-1] if mask.ndim and mask.shape[-1] != 1 else 0
    if how == "add":
        return np.asarray(scores + _behind(mask, missing, 0.0))
    keep = _behind(mask.astype(bool) != how.startswith("drop"), missing, True)
    return np.where(keep, scores, -np.inf)


def _behind(mask: Array, count: int, value: float) -> Array:
    """The mask with room for the keys that the layer puts behind the others."""
    if count <= 0:
        return mask
    return np.concatenate([mask, np.full((*mask.shape[:-1], count), value, mask.dtype)], -1)


def _joined(step: Step, values: Array, *, batched: bool) -> Array:
    """The heads put together as the layer gives them."""
    layout = step.settings.get("layout", "joined")
    if layout == "heads_first":
        return values
    values = np.swapaxes(values, -2, -3)
    if layout == "heads_inside":
        return values
    kernel, bias = step.weights.get("output_kernel"), step.weights.get("output_bias")
    values = values.reshape(*values.shape[:-2], -1) if kernel is None else np.tensordot(values, kernel, 2)
    values = np.moveaxis(values if bias is None else values + bias, 1, step.settings.get("time", 1))
    return values if batched else values[0] if step.settings.get("time", 1) else values[:, 0]
