"""What the parameters of a layer are for: layers taken apart into what every framework has one of.

An :class:`Atom` is a kernel with its bias, the vectors of a normalisation, one direction of one recurrent layer … A
``MultiHeadAttention`` is four atoms, ``nn.LSTM(num_layers=3)`` three, a separable convolution two: where one framework
has one layer and the other several, their atoms are still one to one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

from tracer import kinds
from tracer.alignment.owned import Key
from tracer.alignment.owned import owner as owner_of
from tracer.alignment.relayout import Steps
from tracer.graph import Node, Param

Tag = Literal["", "query", "key", "value", "out", "backward"]


@dataclass(frozen=True)
class Slot:
    """One parameter's place, or that of several which act as one.

    Attributes:
        role: ``kernel``, ``bias``, ``gamma`` …, the same in every framework.
        shape: in the common layout.
        keys: the parameters, several where they are added up or stand side by side in the layout.
        steps: how to read them; see :mod:`tracer.alignment.relayout`.
        labels: for a parameter whose axes are only moved, the common axis that each of its axes is, None for an axis
            of length one that is dropped; None for other slots.
        gates: the order of a recurrent layer's gates.
        part: index and count, where the slot is one of several equal parts of its parameter.
        whole: the parameter's own shape.
    """

    role: str
    shape: tuple[int, ...]
    keys: tuple[Key, ...]
    steps: Steps = ()
    labels: tuple[int | None, ...] | None = None
    gates: str = ""
    part: tuple[int, int] | None = None
    whole: tuple[int, ...] = ()


@dataclass(frozen=True)
class Atom:
    """Parameters that belong together.

    Attributes:
        kind: what they are for, in few words: a 1×1 convolution is ``dense``; ``free`` is anything not known.
        node: index of the node that lists them; -1 where none does.
        order: place in the running order.
        owner: the layer they are of.
        tag: which of a layer's atoms it is, where that matters.
        plays: which projection of a written-out attention it is, where the graph says so.
    """

    kind: str
    slots: tuple[Slot, ...]
    node: int
    order: float
    owner: str
    tag: Tag = ""
    label: str = ""
    plays: Tag = ""

    @cached_property
    def main(self) -> Slot:
        """The largest slot, a kernel if there is one."""
        return max(self.slots, key=lambda s: (s.role == "kernel", math.prod(s.shape)))

    @cached_property
    def signature(self) -> tuple[int, ...]:
        """Equal for atoms that may be the same, whatever their kinds."""
        return tuple(sorted(d for d in self.main.shape if d != 1))

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        return tuple(dict.fromkeys(key for slot in self.slots for key in slot.keys))


_TORCH_RECURRENT = re.compile(r"(weight|bias)_(ih|hh|hr)(_l\d+)?(_reverse)?")
_ROLE = {"ih": "kernel", "hh": "recurrent_kernel", "hr": "projection"}
_ATTENTION: Mapping[str, Tag] = {
    "query": "query", "key": "key", "value": "value", "attention_output": "out", "query_dense": "query",
    "key_dense": "key", "value_dense": "value", "output_dense": "out", "out_proj": "out", "q_proj": "query",
    "k_proj": "key", "v_proj": "value",
}  # fmt: skip
_NAMED: Mapping[str, Tag] = {
    "query": "query", "q": "query", "q_proj": "query", "q_lin": "query", "query_proj": "query", "to_q": "query",
    "key": "key", "k": "key", "k_proj": "key", "k_lin": "key", "key_proj": "key", "to_k": "key",
    "value": "value", "v": "value", "v_proj": "value", "v_lin": "value", "value_proj": "value", "to_v": "value",
}  # fmt: skip
_NORMED = (("weight_v", "weight_g"), ("v", "g"))
"""Names of what a weight-normalised kernel is made of: its direction and its lengths."""
_FORWARD_GATES = {4: "ifgo", 3: "rzn", 1: ""}
_KERAS_GATES = {4: "ifco", 3: "zrh", 1: ""}
_ONNX_GATES = {4: "iofc", 3: "zrh", 1: ""}
_GATE_ORDER = {"ifgo": (), "ifco": (), "rzn": (), "": (), "zrh": (1, 0, 2), "iofc": (0, 2, 3, 1)}
"""Blocks in the order i,f,g,o or r,z,n; empty where they are in it."""
_RECURRENT = {4: "lstm", 3: "gru", 1: "rnn"}
RECURRENT = frozenset(_RECURRENT.values())
_APPLIED = {"mul": "gamma", "div": "gamma", "add": "beta", "sub": "beta"}
"""What a vector is for that an operation of its own applies: half of a normalisation that is written out."""
_IN_ORDER = {
    "layer_norm": ("gamma", "beta"), "group_norm": ("gamma", "beta"), "rms_norm": ("gamma",),
    "batch_norm": ("running_mean", "running_var", "gamma", "beta"),
    "instance_norm": ("running_mean", "running_var", "gamma", "beta"), "addcmul": ("beta", "gamma"),
    "batch_normalization": ("beta", "gamma"),
}  # fmt: skip
"""What the parameters of a function are for, by their order: their names are those of whatever module has them."""


@lru_cache(4096)
def named_tag(owner: str) -> Tag:
    """Query, key or value, where the layer's own name says so."""
    return _NAMED.get(re.split(r"[./]", owner)[-1].lower(), "")


def of_node(node: Node, index: int) -> list[Atom]:
    """The atoms of the parameters that a node lists."""
    owner = owner_of(node)
    found: list[Atom] = []
    for number, (prefix, params) in enumerate(_by_prefix(node).items()):
        try:
            made = _sub_layer(node, prefix, params, owner)
        except (IndexError, ValueError):  # a layer of one's own, or a damaged file: names that say what shapes do not
            slots = [_vector((owner, p.name), p.shape, _plain_role(p.name)) for p in params]
            made = [Atom("free", (slot,), -1, 0, owner) for slot in slots]
        found += [
            replace(atom, node=index, order=index + (number + i / 64) / 64, owner=owner, label=node.label)
            for i, atom in enumerate(made)
        ]
    return found


def cells(found: Sequence[Atom], nodes: Sequence[Node]) -> list[Atom]:
    """Atoms with one for each recurrent cell that is written out, in place of those of its parameters."""
    spread: dict[str, list[Atom]] = {}
    for atom in found:
        if atom.node >= 0 and nodes[atom.node].role == "op":
            spread.setdefault(atom.owner, []).append(atom)
    out = list(found)
    for owner, some in spread.items():
        have = {name for atom in some for _, name in atom.keys}
        if not have & {"weight_hh", "recurrent_kernel"}:
            continue
        params = {p.name: p for atom in some for p in nodes[atom.node].params if p.name in have}
        made = _cell(owner, list(params.values()))
        if made is not None and {name for _, name in made.keys} == have:
            first = min(some, key=lambda atom: atom.order)
            out = [atom for atom in out if not any(atom is other for other in some)]
            out.append(replace(made, node=first.node, order=first.order, label=first.label))
    return out


def declared(key: Key, shape: tuple[int, ...], role: str, order: Sequence[int]) -> Slot:
    """A parameter of which its layer's author says what it is for and how its axes stand in the common layout."""
    return _plain(key, shape, role, order)


def of_lone(owner: str, name: str, shape: tuple[int, ...], order: float) -> Atom:
    """The atom of a parameter that no node lists."""
    return Atom("free", (_vector((owner, name), shape, _plain_role(name)),), -1, order, owner)


def _cell(owner: str, params: Sequence[Param]) -> Atom | None:
    """The atom of a recurrent cell that somebody wrote out, its parameters named as in a framework's own; None for
    anything else."""
    names = {param.name: param for param in params}
    ends = ("weight_ih", "weight_hh") if "weight_hh" in names else ("kernel", "recurrent_kernel")
    torch = ends[0] == "weight_ih"
    if not set(ends) <= names.keys() or any(len(names[end].shape) != 2 for end in ends):
        return None
    wide, units = names[ends[1]].shape if torch else names[ends[1]].shape[::-1]
    if wide not in (units * count for count in _RECURRENT) or names[ends[0]].shape[0 if torch else 1] != wide:
        return None
    if torch:
        found = [names[name] for name in (*ends, "bias_ih", "bias_hh", "bias") if name in names]
        return _torch_recurrent("", found, owner)
    return _keras_recurrent("", {name: names[name] for name in (*ends, "bias") if name in names}, owner)


def _by_prefix(node: Node) -> dict[str, list[Param]]:
    """A leaf's parameters by the part of the layer they are of: ``query``, ``forward``, ``l0_reverse``."""
    found: dict[str, list[Param]] = {}
    for param in node.params:
        torch = _TORCH_RECURRENT.fullmatch(param.name)
        inner = re.split(r"[./](?=[^./]*$)", param.name)
        prefix = f"{torch[3] or ''}{torch[4] or ''}" if torch else inner[0] if len(inner) > 1 else ""
        found.setdefault(prefix, []).append(param)
    return found


def _sub_layer(node: Node, prefix: str, params: Sequence[Param], owner: str) -> list[Atom]:
    names = {_local(p.name): p for p in params}
    for direction, lengths in _NORMED:
        if direction in names and lengths in names and math.prod(names[lengths].shape) in (1, *names[direction].shape):
            return _weight_normed(node, prefix, names, owner, direction, lengths)
    if all(_TORCH_RECURRENT.fullmatch(name) for name in names):
        return [_torch_recurrent(prefix, params, owner)]
    if "recurrent_kernel" in names and "kernel" in names:
        *_, rows, columns = names["recurrent_kernel"].shape
        if len(names["kernel"].shape) == 3 and rows >= columns:  # a recurrent convolution has (width, in, 4·out)
            return _onnx_recurrent(params, owner)
        return [_keras_recurrent(prefix, names, owner)]
    if {"depthwise_kernel", "pointwise_kernel"} <= names.keys():
        return _separable(names, owner)
    if any(name in names for name in ("in_proj_weight", "q_proj_weight")):
        return _in_projections(params, owner)
    tag = _ATTENTION.get(prefix.rpartition("/")[2], "") if prefix else named_tag(owner)
    return [replace(atom, tag=tag) for atom in _plain_layer(node, names, owner, tag if prefix else "")]


@lru_cache(4096)
def _local(name: str) -> str:
    return re.split(r"[./]", name)[-1]


def _plain_role(name: str, kind: str = "") -> str:
    return kinds.parameter_role(kind, _local(name))


def _plain_layer(node: Node, names: Mapping[str, Param], owner: str, tag: Tag) -> list[Atom]:
    kind = node.kind
    kernel = next((names[n] for n in ("kernel", "weight", "depthwise_kernel") if n in names), None)
    called = _function(node)
    if kernel is None and called and (kind == "dense" or kind in kinds.CONVOLUTIONS):
        kernel = next((p for p in node.params if len(p.shape) > 1), None)
    rest = [p for p in names.values() if p is not kernel]
    roles = _IN_ORDER.get(called, ())
    ordered = dict(zip(names, roles, strict=True)) if len(roles) == len(names) else {}
    if kind in kinds.NORMALISATIONS:
        made = _flat if kind == "layernorm" else _vector
        slots = tuple(
            made((owner, p.name), p.shape, ordered.get(name) or _plain_role(p.name, kind)) for name, p in names.items()
        )
        return [Atom(kind, slots, -1, 0, owner)]
    if kind == "embedding" and len(names) == 1:
        (table,) = names.values()
        return [
            Atom(
                "embedding",
                (_plain((owner, table.name), table.shape, "kernel", range(len(table.shape))),),
                -1,
                0,
                owner,
            )
        ]
    if kernel is not None and kind in kinds.CONVOLUTIONS and len(kernel.shape) >= 3:
        keras = node.label.startswith(("tf.", "keras.")) if called else _local(kernel.name) != "weight"
        main = _convolution(kind, (owner, kernel.name), kernel, keras)
        spatial = len(main.shape) > (1 if kind.startswith("depthwise") else 2)
        word = "depthwise" if kind.startswith("depthwise") else "transposed" if "transpose" in kind else "conv"
        return [
            Atom(word if spatial or word != "conv" else "dense", (main, *_biases(rest, owner, called)), -1, 0, owner)
        ]
    dense = kernel is not None and (
        (kind in ("dense", "matmul", "attention") and len(kernel.shape) >= 2)
        or (kinds.is_unknown(kind) and len(kernel.shape) == 2 and all(_local(p.name) == "bias" for p in rest))
    )
    if dense and kernel is not None:
        return [Atom("dense", (_dense(node, kernel, owner, tag), *_biases(rest, owner, called)), -1, 0, owner)]
    word = "prelu" if kind == "prelu" else "free"
    applied = _APPLIED.get(kind)
    lone = [
        _vector((owner, p.name), p.shape, ordered.get(name) or _plain_role(p.name, kind)) for name, p in names.items()
    ]
    lone = [replace(slot, role=applied) if applied and len(slot.shape) == 1 else slot for slot in lone]
    return [Atom(word, (slot,), -1, 0, owner) for slot in lone]


# -- slots -------------------------------------------------------------------------------------------------------------


def _plain(key: Key, shape: Sequence[int], role: str, order: Sequence[int], droppable: Sequence[int] = ()) -> Slot:
    """A parameter whose axes, in ``order``, are the common ones; ``droppable`` ones go where they have length one."""
    kept = [axis for axis in order if not (axis in droppable and shape[axis] == 1)]
    labels = tuple(kept.index(axis) if axis in kept else None for axis in range(len(shape)))
    common = tuple(shape[axis] for axis in kept)
    steps: Steps = (
        (("move", *order), ("shape", *common))
        if tuple(order) != tuple(range(len(shape))) or len(common) != len(shape)
        else ()
    )
    return Slot(role, common, (key,), steps, labels, whole=tuple(shape))


def _vector(key: Key, shape: Sequence[int], role: str) -> Slot:
    return _plain(
        key, shape, role, range(len(shape)), range(len(shape)) if math.prod(shape) > 1 else range(len(shape) - 1)
    )


def _biases(params: Sequence[Param], owner: str, called: str = "") -> list[Slot]:
    """``called``: the function that the parameters were handed to, if any, whatever they are named."""
    return [
        (_flat if role == "bias" else _vector)((owner, p.name), p.shape, role)
        for p in params
        for role in ("bias" if called else _plain_role(p.name),)
    ]


def _flat(key: Key, shape: Sequence[int], role: str) -> Slot:
    """A vector, of whatever shape."""
    if sum(d != 1 for d in shape) < 2:
        return _vector(key, shape, role)
    size = math.prod(shape)
    return Slot(role, (size,), (key,), (("shape", size),), whole=tuple(shape))


def _convolution(kind: str, key: Key, kernel: Param, keras: bool) -> Slot:
    shape = kernel.shape
    rank = len(shape)
    spatial = tuple(range(rank - 2)) if keras else tuple(range(2, rank))
    first, second = (rank - 2, rank - 1) if keras else (0, 1)
    if kind.startswith("depthwise"):
        lone = second if shape[second] == 1 else first if shape[first] == 1 and not keras else None
        if lone is not None:
            order = (*spatial, second if lone == first else first, lone)
            return _plain(key, shape, "kernel", order, (*spatial, lone))
        lengths = tuple(shape[a] for a in spatial if shape[a] != 1)
        common = (*lengths, shape[first] * shape[second])
        steps: Steps = (("move", *spatial, first, second), ("shape", *common))
        return Slot("kernel", common, (key,), steps, whole=shape)
    if "transpose" in kind:
        # The input channels stand last in Keras and first in PyTorch.
        first, second = (second, first) if keras else (first, second)
        return _plain(key, shape, "kernel", (*spatial, first, second), spatial)
    first, second = (first, second) if keras else (second, first)
    return _plain(key, shape, "kernel", (*spatial, first, second), spatial)


def _dense(node: Node, kernel: Param, owner: str, tag: Tag) -> Slot:
    key, shape = (owner, kernel.name), kernel.shape
    if len(shape) == 2:
        return _plain(key, shape, "kernel", (0, 1) if _inputs_first(node, kernel) else (1, 0))
    read = _read_axes(node, len(shape))
    if read is not None:
        order = (*read, *(axis for axis in range(len(shape)) if axis not in read))
        rows = math.prod(shape[axis] for axis in read)
        steps: Steps = () if order == tuple(range(len(shape))) else (("move", *order),)
        common = (rows, math.prod(shape) // max(1, rows))
        return Slot("kernel", common, (key,), (*steps, ("shape", *common)), whole=shape)
    if tag == "out" or (not tag and node.shape and shape[-1] == node.shape[-1] and shape[0] != node.shape[-2]):
        common = (math.prod(shape[:-1]), shape[-1])
    else:
        common = (shape[0], math.prod(shape[1:]))
    return Slot("kernel", common, (key,), (("shape", *common),), whole=shape)


def _read_axes(node: Node, rank: int) -> tuple[int, ...] | None:
    """The axes of a kernel that an equation such as ``abc,cde->abde`` sums over; None where there is none."""
    read, arrow, given = str(node.config.get("equation", "")).replace(" ", "").partition("->")
    _, comma, kernel = read.partition(",")
    if not arrow or not comma or len(kernel) != rank or not kernel.isalpha():
        return None
    axes = tuple(axis for axis, letter in enumerate(kernel) if letter not in given)
    return axes if 0 < len(axes) < rank else None


def _function(node: Node) -> str:
    """The function that a node calls with parameters of the module around it; empty for layers."""
    module, _, name = node.label.rpartition(".")
    return name if module and node.role == "op" else ""


def _inputs_first(node: Node, kernel: Param) -> bool:
    """Whether a matrix is (in, out): from the node's own width, else as its framework keeps it."""
    rows, columns = kernel.shape
    width = node.shape[-1] if node.shape else None
    if rows != columns and width in (rows, columns) and "/" not in kernel.name:
        return width == columns
    if node.config.get("transpose_b") or _function(node) == "linear":
        return False
    if _local(kernel.name) != "weight":
        return True
    return node.label.rpartition(".")[2] in {
        "addmm",
        "matmul",
        "mm",
        "bmm",
        "__matmul__",
        "Conv1D",
        "TFConv1D",
        "einsum",
    }


def _separable(names: Mapping[str, Param], owner: str) -> list[Atom]:
    deep, point = names["depthwise_kernel"], names["pointwise_kernel"]
    rest = [p for p in names.values() if p not in (deep, point)]
    kind = f"conv{len(deep.shape) - 2}d"
    return [
        Atom("depthwise", (_convolution(f"depthwise_{kind}", (owner, deep.name), deep, True),), -1, 0, owner),
        Atom("dense", (_convolution(kind, (owner, point.name), point, True), *_biases(rest, owner)), -1, 0, owner),
    ]


def _weight_normed(
    node: Node, prefix: str, names: Mapping[str, Param], owner: str, direction: str, lengths: str
) -> list[Atom]:
    """A layer whose kernel is kept as a direction and its lengths: as if it had the kernel that these make."""
    v, g = names[direction], names[lengths]
    width = node.config.get("filters") or node.config.get("units")
    ends = v.shape[0] == width, v.shape[-1] == width
    torch = ends[0] if ends[0] != ends[1] else direction == "weight_v"
    rest = {name: param for name, param in names.items() if param not in (v, g)}
    name = "weight" if torch else "kernel"
    made = _sub_layer(node, prefix, [replace(v, name=name), *rest.values()], owner)
    step: Steps = (("normed", *_measured(v.shape, g.shape, torch)),)
    keys = (owner, v.name), (owner, g.name)

    def held(slot: Slot) -> Slot:
        return replace(slot, keys=keys, steps=(*step, *slot.steps)) if slot.keys == ((owner, name),) else slot

    return [replace(atom, slots=tuple(map(held, atom.slots))) for atom in made]


def _measured(shape: Sequence[int], lengths: Sequence[int], torch: bool) -> tuple[int, ...]:
    """The axis of a direction along which its lengths stand; none where there is one length for all."""
    count = math.prod(lengths)
    fits = [axis for axis, length in enumerate(shape) if length == count]
    if count == 1 or not fits:
        return ()
    at = next((axis for axis, length in enumerate(lengths) if length == count), 0)
    own = [at, len(shape) - 1 - at] if len(lengths) == len(shape) else [0 if torch else len(shape) - 1]
    return (next((axis for axis in own if axis in fits), fits[0]),)


# -- recurrent layers and attention ------------------------------------------------------------------------------------


def _torch_recurrent(prefix: str, params: Sequence[Param], owner: str) -> Atom:
    biases, slots = [], []
    units, count = 1, 1
    for param in params:
        found = _TORCH_RECURRENT.fullmatch(_local(param.name))
        if found is None or found[1] == "bias":
            biases.append(param)
            continue
        if found[2] == "hh":
            units = param.shape[1]
            count = param.shape[0] // max(1, units)
        slots.append(_plain((owner, param.name), param.shape, _ROLE[found[2]], (1, 0)))
    kind = _RECURRENT.get(count, "rnn")
    gates = _FORWARD_GATES.get(count, "")
    slots = [replace(slot, gates=gates) for slot in slots]
    if biases:
        steps: Steps = () if kind == "gru" else (("sum",),)
        keys = tuple((owner, p.name) for p in biases)
        slots.append(Slot("bias", biases[0].shape, keys, steps, gates=gates, whole=biases[0].shape))
    return Atom(kind, tuple(slots), -1, 0, owner, "backward" if prefix.endswith("_reverse") else "")


def _keras_recurrent(prefix: str, names: Mapping[str, Param], owner: str) -> Atom:
    recurrent = names["recurrent_kernel"]
    count = recurrent.shape[-1] // max(1, recurrent.shape[-2])
    kind, gates = _RECURRENT.get(count, "rnn"), _KERAS_GATES.get(count, "")
    order = _GATE_ORDER[gates]
    slots = []
    for name, param in names.items():
        key, shape = (owner, param.name), param.shape
        slot = _plain(key, shape, name, range(len(shape)), range(len(shape) - 2 if name != "bias" else 0))
        blocks: Steps = (("blocks", len(slot.shape) - 1, *order),) if order else ()
        if name != "bias":
            slots.append(replace(slot, steps=(*slot.steps, *blocks), gates=gates))
        elif len(shape) == 2:  # GRU with reset_after: one bias for the input, one for the state
            slots.append(Slot("bias", shape[1:], (key,), blocks, gates=gates, whole=shape))
        else:
            slots.append(Slot("bias", shape, (key,), blocks, gates=gates, whole=shape))
    tag: Tag = "backward" if prefix.startswith("backward") else ""
    return Atom(kind, tuple(slots), -1, 0, owner, tag)


def _onnx_recurrent(params: Sequence[Param], owner: str) -> list[Atom]:
    """ONNX keeps the directions in the first axis, (gates·units, in), and both biases one behind the other."""
    names = {p.name: p for p in params}
    directions, _, units = names["recurrent_kernel"].shape
    count = names["kernel"].shape[1] // max(1, units)
    kind, gates = _RECURRENT.get(count, "rnn"), _ONNX_GATES.get(count, "")
    order = _GATE_ORDER[gates]
    blocks: Steps = (("blocks", 1, *order),) if order else ()
    found = []
    for direction in range(directions):
        part = (direction, directions) if directions > 1 else None
        slots = []
        for role in ("kernel", "recurrent_kernel"):
            _, rows, columns = names[role].shape
            steps: Steps = (("part", 0, direction, directions), ("shape", rows, columns), ("move", 1, 0), *blocks)
            slots.append(
                Slot(
                    role,
                    (columns, rows),
                    ((owner, names[role].name),),
                    steps,
                    gates=gates,
                    part=part,
                    whole=names[role].shape,
                )
            )
        if "bias" in names:
            width = count * units
            steps = (("part", 0, direction, directions), ("shape", 2, width), *blocks)
            steps += () if kind == "gru" else (("fold",),)
            slots.append(
                Slot(
                    "bias",
                    (width,),
                    ((owner, names["bias"].name),),
                    steps,
                    gates=gates,
                    part=part,
                    whole=names["bias"].shape,
                )
            )
        found.append(Atom(kind, tuple(slots), -1, 0, owner, "backward" if direction else ""))
    return found


def _in_projections(params: Sequence[Param], owner: str) -> list[Atom]:
    """``nn.MultiheadAttention``'s projections of queries, keys and values; what is left are vectors of its own."""
    names = {p.name: p for p in params}
    tags: tuple[Tag, ...] = ("query", "key", "value")
    slots: dict[Tag, list[Slot]] = {tag: [] for tag in tags}
    for index, tag in enumerate(tags):
        for name, role in (("in_proj_weight", "kernel"), ("in_proj_bias", "bias")):
            param = names.get(name)
            if param is None:
                continue
            third = param.shape[0] // 3
            steps: Steps = (("part", 0, index, 3),) + ((("move", 1, 0),) if role == "kernel" else ())
            common = (param.shape[1], third) if role == "kernel" else (third,)
            slots[tag].append(Slot(role, common, ((owner, name),), steps, part=(index, 3), whole=param.shape))
        own = names.get(f"{tag[0]}_proj_weight")
        if own is not None:
            slots[tag].append(_plain((owner, own.name), own.shape, "kernel", (1, 0)))
    used = {key[1] for found in slots.values() for slot in found for key in slot.keys}
    rest = [
        Atom("free", (_vector((owner, p.name), p.shape, p.name),), -1, 0, owner) for p in params if p.name not in used
    ]
    return [Atom("dense", tuple(slots[tag]), -1, 0, owner, tag) for tag in tags if slots[tag]] + rest
