"""Convolutions that span all they read: each is the dense layer behind a flatten."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from tracer.alignment.atoms import Atom
from tracer.alignment.relayout import Steps
from tracer.graph import Structure


def spans(atom: Atom, structure: Structure) -> bool:
    """Whether it is the convolution of a layer that reads all of a picture at once."""
    if atom.kind != "conv" or atom.node < 0 or not atom.main.labels:
        return False
    node = structure.nodes[atom.node]
    read = structure.by_name.get(node.parents[0]) if node.parents else None
    if read is None or not read.shape or not node.shape:
        return False
    whole = math.prod(read.shape[1:]) * math.prod(node.shape[1:]) == math.prod(atom.main.shape)
    return whole and (_outputs_first(atom) or node.layout != "channels_first")


def as_dense(atom: Atom, wanted: Collection[tuple[int, ...]]) -> Atom:
    """A convolution that spans what it reads as a dense layer, its rows in the order in which its framework would
    flatten that; as it is where its kernel is not then of one of the shapes ``wanted``."""
    main = atom.main
    shape = (math.prod(main.shape[:-1]), main.shape[-1])
    if shape not in wanted:
        return atom
    steps: Steps = (("shape", *shape[::-1]), ("move", 1, 0)) if _outputs_first(atom) else (("shape", *shape),)
    kernel = replace(main, shape=shape, steps=steps, labels=None)
    return replace(atom, kind="dense", slots=tuple(kernel if slot is main else slot for slot in atom.slots))


def _outputs_first(atom: Atom) -> bool:
    """Whether the kernel is (out, in, spatial…) and not (spatial…, in, out)."""
    main = atom.main
    return main.labels is not None and main.labels[0] == len(main.shape) - 1
