"""One fix for many layers: a loop over all modules of a class, where what is wrong is wrong in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tracer.causes import patching
from tracer.causes.finding import Finding
from tracer.store import Recording

_LOOP = 3
"""Layers from which on a loop is shorter."""
_CLASSES = frozenset(
    [f"{name}{rank}d" for name in ("BatchNorm", "InstanceNorm", "Conv", "MaxPool", "AvgPool") for rank in (1, 2, 3)]
    + ["LayerNorm", "GroupNorm", "RMSNorm", "LeakyReLU", "ELU", "GELU", "Softmax", "Dropout", "BatchNormalization"]
    + ["LayerNormalization", "GroupNormalization", "RMSNormalization"]
)
"""Classes that a loop may name: those of the library itself, whose subclasses have names of their own."""


def together(whole: Finding, each: Sequence[Finding], candidate: Recording) -> Finding:
    """A finding of several layers with a loop as its fix, where it is true of all layers of a class."""
    some = [one for one in each if one.pair in whole.pairs]
    if len(some) < _LOOP or len(whole.causes) != 1:
        return whole
    changes = [one.causes[0].changes for one in some if len(one.causes) == 1]
    first = changes[0][0] if changes and len(changes[0]) == 1 else None
    if first is None or first.what != "set" or len(changes) != len(some):
        return whole
    if any(len(other) != 1 or replace(other[0], owner=first.owner) != first for other in changes):
        return whole
    owners = {other[0].owner for other in changes}
    labels = {node.label for node in candidate.structure if node.owner in owners and node.role == "layer"}
    named = {node.owner for node in candidate.structure if node.label in labels and node.role == "layer"}
    if len(labels) != 1 or named != owners or (first.library != "torch" and any("/" in owner for owner in owners)):
        return whole
    (label,) = labels
    if label not in _CLASSES:
        return whole
    torch = first.library == "torch"
    of = f"torch.nn.{label}" if torch else f"keras.layers.{label}"
    layers = "model.modules()" if torch else "model.layers"
    line = f"for m in (m for m in {layers} if isinstance(m, {of})): m.{first.name} = {patching.written(first.value)}"
    return replace(whole, causes=(replace(whole.causes[0], fix=line),))
