"""Masks that Keras hands on from layer to layer, and records as no input of any."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracer import kinds
from tracer.causes.reading import Read
from tracer.causes.step import Array, Unknown
from tracer.store import Recording

_KEEPING = kinds.ACTIVATIONS | {"dropout", "identity", "cast", "lstm", "gru", "rnn"}
_LAYERS = kinds.NORMALISATIONS | {"dense", "add", "attention", "mul", "rescaling"}
"""Layers of Keras that hand on the mask of what they read first."""
_STOPPING = kinds.RECURRENT | {"global_avg_pool"}
"""Layers of Keras that pass over the steps that are masked."""
_EACH_STEP = kinds.ACTIVATIONS | {"dropout", "identity", "cast", "dense", "layernorm", "rescaling"}
"""Kinds that compute each step of its own."""


def steps_that_count(node: Read, place: int = 0) -> Array | None:
    """Which steps of an input count, where a Masking layer or an Embedding that masks zeros stands before the layer in
    Keras: a boolean for each step of each sample."""
    known = node.recording.structure.by_name
    name = node.node.parents[place] if place < len(node.node.parents) else None
    for _ in range(64):
        found = known.get(name) if name is not None else None
        if found is None:
            return None
        if found.kind == "masking":
            source = node.recorded(found.parents[0])
            return np.asarray(np.any(source != found.config.get("mask_value", 0.0), axis=-1))
        if found.kind == "embedding":
            hides = found.config.get("mask_zero") and found.parents
            return np.asarray(node.recorded(found.parents[0])) != 0 if hides else None
        if found.kind not in _KEEPING and not (found.role == "layer" and found.kind in _LAYERS):
            return None
        name = found.parents[0] if found.parents else None
    return None


def steps_read(recording: Recording, name: str) -> Array | None:
    """Which steps of a tensor of Keras are read at all, a boolean for each step of each sample: all that reads it masks
    the others, or hands them on to what does. None where all may be read."""
    structure, found = recording.structure, None
    queue, seen = [name], {name}
    while queue:
        here = queue.pop()
        readers = structure.children.get(here, ())
        if not readers or here in structure.outputs:
            return None
        for node in (structure.by_name[reader] for reader in readers):
            mask = steps_that_count(Read(recording, node), node.parents.index(here)) if here in node.parents else None
            if mask is None or (found is not None and not np.array_equal(mask, found)):
                return None
            found = mask
            if node.kind in _STOPPING and node.role == "layer":
                continue
            if node.kind not in _EACH_STEP or node.name in seen:
                return None
            seen.add(node.name)
            queue.append(node.name)
    return found


def masks_given(node: Read) -> Iterator[Array]:
    """What may have been given to a layer of Keras as its mask, which is recorded as none of its inputs: a boolean for
    each step of each sample."""
    source = node.source()
    for other in node.recording.structure:
        if other.name == node.node.name:
            return
        if other.shape == source[:2] and (other.dtype or "").startswith("bool") and other.alias_of is None:
            try:
                yield np.asarray(node.recorded(other.name), bool)
            except Unknown:
                continue
