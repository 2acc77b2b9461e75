"""What of a graph is run: dead branches chosen away, everything cut off that the outputs do not need, checked."""

from __future__ import annotations

import difflib
import heapq
import math
import re
from collections.abc import Container, Iterable, Mapping
from importlib import import_module
from typing import Any

from tracer.errors import InputError, RefusedError
from tracer.names import display
from tracer.text import some
from tracer_keras.flavour import tensorflow
from tracer_keras.graphs.allowed import ALLOWED, RANDOM, never_run
from tracer_keras.graphs.flat import Flat, Item, Tensor, called, is_operation, output_types, tensor_name, unique
from tracer_keras.vocabulary import words

PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
PASSING = words(
    "Identity IdentityN StopGradient PreventGradient Snapshot CheckNumerics CheckNumericsV2 EnsureShape "
    "PlaceholderWithDefault GuaranteeConst"
)
"""Operations whose outputs are their inputs."""
_ROUTING = ("NoOp", "Exit", "RefExit", "Switch", "RefSwitch", "Merge", "RefMerge", "NextIteration", "LoopCond")
_LOOPING = ("Enter", "RefEnter", "NextIteration", "RefNextIteration")
_TRAINING = re.compile(r"(^|[/_])(is_?)?train(ing)?([/_]|$)|phase|learning_phase", re.IGNORECASE)
_KEEP = re.compile(r"keep_?prob|keep_?rate", re.IGNORECASE)
_DROP = re.compile(r"drop(out)?_?(prob|rate)$", re.IGNORECASE)
_CONSTANTS = 1 << 30
"""Bytes that constants may take beyond what the file holds: a fill value is stored once."""


def fixed(value: Any, like: Item) -> None:
    """Turn a placeholder into the constant ``value``."""
    tf = tensorflow()
    dtype = like.attr["dtype"] if "dtype" in like.attr else like.attr["T"]
    attribute = tf.compat.v1.AttrValue()
    attribute.tensor.CopyFrom(tf.make_tensor_proto(value, dtype=dtype.type))
    like.op, like.inputs, like.attr = "Const", [], {"dtype": dtype, "value": attribute}


def settle_switches(flat: Flat, notes: list[str], fed: Container[str]) -> None:
    """Give training switches and keep probabilities the values of evaluation, unless they are ``fed``."""
    keeping = _keep_probabilities(flat)
    for item in flat.items.values():
        if item.op not in ("Placeholder", "PlaceholderV2") or item.name in fed:
            continue
        kind = tensorflow().as_dtype(item.attr["dtype"].type)
        last = item.name.rpartition("/")[2]
        value: Any = None
        if kind.is_bool and _TRAINING.search(item.name):
            value = False
        elif kind.is_floating and (_KEEP.search(last) or item.name in keeping):
            value = 1.0
        elif kind.is_floating and _DROP.search(last):
            value = 0.0
        if value is not None:
            fixed(value, item)
            notes.append(f"'{item.name}' is fed {value}: evaluation")


def _keep_probabilities(flat: Flat) -> set[str]:
    """What dropouts of the old kind keep by: something is divided by it, and random numbers are added to it."""
    random = {item.name for item in flat.items.values() if item.op in RANDOM}
    for item in flat.items.values():  # random_uniform/RandomUniform, then its scaling, in the file's order
        sources = [source for source, _ in item.inputs]
        plain = all(source in random or flat.items[source].op in ("Const", "Sub") for source in sources)
        if item.op in ("Mul", "Add", "AddV2") and plain and any(source in random for source in sources):
            random.add(item.name)
    added, divided = set(), set()
    for item in flat.items.values():
        sources = [source for source, _ in item.inputs]
        if item.op in ("Add", "AddV2") and any(source in random for source in sources):
            added |= set(sources)
        elif item.op in ("Div", "RealDiv"):
            divided.add(sources[1])
    return added & divided


def choose(flat: Flat, inputs: Iterable[Tensor]) -> None:
    """Take defaults for what is not fed, and the branch that a known condition chooses."""
    fed = {name for name, _ in inputs}
    for item in flat.items.values():
        if item.op == "PlaceholderWithDefault" and item.name not in fed:
            flat.alias[item.name, 0] = item.inputs[0]
    flat.settle()
    dead: set[Tensor] = set()
    for item in list(flat.items.values()):
        if item.op in ("Switch", "RefSwitch"):
            known = _condition(flat, item.inputs[1])
            if known is not None:
                flat.alias[item.name, int(known)] = item.inputs[0]
                dead.add((item.name, int(not known)))
        elif item.op in ("If", "StatelessIf"):
            known = _condition(flat, item.inputs[0])
            branch = item.attr["then_branch" if known else "else_branch"].func.name
            if known is not None and branch in flat.functions:
                results = flat.expand(item, flat.functions[branch], item.inputs[1:])
                flat.inline(results)
    if dead:
        _bury(flat, dead)
    flat.settle()


def _condition(flat: Flat, tensor: Tensor) -> bool | None:
    name, _ = flat.resolve(tensor)
    item = flat.items.get(name)
    for _ in range(50):
        if item is None:
            return None
        if item.op == "Const":
            value = item.attr["value"].tensor
            return bool(_array(value)) if _elements(value) == 1 else None
        if item.op == "LogicalNot":
            inner = _condition(flat, item.inputs[0])
            return None if inner is None else not inner
        if item.op not in PASSING:
            return None
        item = flat.items.get(flat.resolve(item.inputs[0])[0])
    return None


def _bury(flat: Flat, dead: set[Tensor]) -> None:
    """Follow dead tensors to the merges that leave them out."""
    gone = {name for name, _ in dead}
    changed = True
    while changed:
        changed = False
        for item in flat.items.values():
            if not item.inputs or (item.name, -1) in dead:
                continue
            lost = [t for t in map(flat.resolve, item.inputs) if t in dead or (t[0], -1) in dead]
            if not lost:
                continue
            if item.op in ("Merge", "RefMerge"):
                alive = [t for t in map(flat.resolve, item.inputs) if t not in lost]
                if len(alive) == 1 and (item.name, 0) not in flat.alias:
                    flat.alias[item.name, 0] = alive[0]
                    changed = True
                if alive:
                    continue
            if item.name not in gone or item.op not in ("Switch", "RefSwitch"):
                dead.add((item.name, -1))
                changed = True


# -- ends ----------------------------------------------------------------------------------------------------------


def unread(flat: Flat) -> list[str]:
    """The nodes that no other reads, before anything is cut off."""
    read = {name for item in flat.items.values() for name, _ in item.inputs}
    return [name for name in flat.items if name not in read]


def ends(flat: Flat, candidates: Iterable[str]) -> list[Tensor]:
    """The outputs of a graph that does not say them: those of ``candidates`` that depend on an input.

    Raises InputError when there are none, or when they need different inputs.
    """
    below = _sources(flat)
    found: dict[str, frozenset[str]] = {}
    for name in candidates:
        item = flat.items[name]
        if never_run(item.op) or not below[name]:
            continue
        # A loop hands out all its variables, also those that nobody wants.
        if item.op in PLACEHOLDERS or item.op in _ROUTING or not output_types(item):
            continue
        found[item.name] = below[item.name]
    if not found:
        known = [item.name for item in flat.items.values() if item.op in PLACEHOLDERS]
        hint = f"its placeholders are {some(known)}" if known else "it has no placeholder: name a tensor with --inputs"
        raise InputError(f"the graph has no output that depends on an input; {hint}")
    if len(set(found.values())) > 1:
        shown = "; ".join(f"{display(name)} from {some(sorted(roots))}" for name, roots in list(found.items())[:6])
        raise InputError(f"the graph has several ends, which need different inputs: {shown}. Choose with --outputs")
    return [(name, number) for name in found for number in range(len(output_types(flat.items[name])))]


def _sources(flat: Flat) -> dict[str, frozenset[str]]:
    """The placeholders that each node depends on."""
    below: dict[str, frozenset[str]] = {}
    order = ordered(flat, flat.items)
    # What a loop's body reads reaches the loop's own results only on the second time round.
    for name in order * 2 if any(item.op == "NextIteration" for item in flat.items.values()) else order:
        item = flat.items[name]
        if item.op in PLACEHOLDERS and not item.inputs:
            below[name] = frozenset([name])
        else:
            below[name] = frozenset().union(*(below.get(source, frozenset()) for source, _ in item.inputs))
    return below


def named(flat: Flat, text: str, option: str) -> Tensor:
    """The tensor that a user names. Raises InputError with the nearest names."""
    name, number = tensor_name(text)
    tails = [item for item in flat.items if item.endswith(f"/{name}")]
    if name not in flat.items and len(tails) == 1:
        name = tails[0]
    if name not in flat.items:
        near = difflib.get_close_matches(name, [n for n in flat.items if "/" not in n or n.count("/") < 9], 3, 0.5)
        near = near or tails[:3]
        hint = f"; did you mean {' or '.join(map(display, near))}?" if near else ""
        raise InputError(f"{option}: the graph has no tensor '{display(text)}'{hint}")
    if number >= max(1, len(output_types(flat.items[name]))):
        raise InputError(f"{option}: '{display(name)}' has no output {number}")
    return name, number


# -- pruning -------------------------------------------------------------------------------------------------------


def prune(flat: Flat, outputs: Iterable[Tensor], inputs: Iterable[Tensor]) -> dict[Tensor, str]:
    """Keep what ``outputs`` need, up to ``inputs``, which become placeholders; the placeholder of each input."""
    made: dict[Tensor, str] = {}
    for tensor in inputs:
        item = flat.items[tensor[0]]
        made[tensor] = tensor[0]
        if item.op in ("Placeholder", "PlaceholderV2"):
            continue
        types = output_types(item)
        attr = {"dtype": _type_attr(types[tensor[1]])}
        if item.op in PLACEHOLDERS and "shape" in item.attr:
            attr["shape"] = item.attr["shape"]
        if len(types) > 1:
            made[tensor] = unique(f"{tensor[0]}/input", flat.items)
            flat.alias[tensor] = (made[tensor], 0)
        flat.items[made[tensor]] = Item(made[tensor], "Placeholder", attr)
    flat.settle()
    pivots = _pivots(flat)
    kept: set[str] = set()
    pending = [flat.resolve(tensor)[0] for tensor in outputs]
    while pending:
        name = pending.pop()
        if name in kept:
            continue
        kept.add(name)
        item = flat.items[name]
        item.controls = [control for control in item.controls if control in pivots]
        pending += [*(source for source, _ in item.inputs), *item.controls]
    flat.items = {name: item for name, item in flat.items.items() if name in kept}
    flat.items = {name: flat.items[name] for name in ordered(flat, flat.items)}
    return made


def _type_attr(kind: int) -> Any:
    attribute = tensorflow().compat.v1.AttrValue()
    attribute.type = kind
    return attribute


def _pivots(flat: Flat) -> set[str]:
    """Identities of a switch and the heads of loops: constants hang on them to belong to a branch or a loop."""
    out: set[str] = set()
    for name in ordered(flat, flat.items):
        item = flat.items[name]
        if item.op == "Merge" and any(flat.items[source].op in _LOOPING for source, _ in item.inputs):
            out.add(name)
        if item.op == "Identity" and item.inputs:
            source = flat.items.get(item.inputs[0][0])
            if source is not None and (source.op == "Switch" or source.name in out):
                out.add(name)
    return out


def ordered(flat: Flat, names: Iterable[str]) -> list[str]:
    """``names`` so that each comes after what it reads, else in the file's order; loops are entered at the top."""
    place = {name: number for number, name in enumerate(names)}
    waiting: dict[str, int] = {}
    readers: dict[str, list[str]] = {}
    for name in place:
        item = flat.items[name]
        sources = {source for source, _ in item.inputs if source in place} | {c for c in item.controls if c in place}
        if item.op == "Merge":
            sources = {source for source in sources if flat.items[source].op != "NextIteration"}
        waiting[name] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(name)
    ready = [number for name, number in place.items() if not waiting[name]]
    heapq.heapify(ready)
    by_place = list(place)
    out: list[str] = []
    while ready:
        name = by_place[heapq.heappop(ready)]
        out.append(name)
        for reader in readers.get(name, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, place[reader])
    if len(out) < len(place):
        stuck = next(name for name in place if waiting[name])
        raise InputError(f"the graph reads its own output without a loop at '{display(stuck)}'")
    return out


# -- checks and the way back ---------------------------------------------------------------------------------------


def reachable(flat: Flat) -> dict[str, Any]:
    """The functions that the nodes call, and those that these call."""
    found: dict[str, Any] = {}
    pending = [name for item in flat.items.values() for name in (*called(item), item.op)]
    while pending:
        name = pending.pop()
        function = flat.functions.get(name)
        if function is None or name in found:
            continue
        found[name] = function
        for node in function.node_def:
            pending += [node.op, *called(Item(node.name, node.op, dict(node.attr.items())))]
    return found


def check(flat: Flat, shown: str, size: int, trusted: bool) -> None:
    """Raises RefusedError for operations outside the list, and for constants that are larger than the file."""
    functions = reachable(flat)
    bodies = [Item(n.name, n.op, dict(n.attr.items())) for f in functions.values() for n in f.node_def]
    total = 0
    unsafe: dict[str, str] = {}
    for item in [*flat.items.values(), *bodies]:
        for value in item.attr.values():
            if value.WhichOneof("value") == "tensor":
                total += _nbytes(value.tensor, item.name)
        if item.op not in ALLOWED and not _own(flat, item.op):
            unsafe.setdefault(item.op, item.name)
        # A function's name that is no function of the file would be looked up among the operations.
        for name in called(item):
            if name and not _own(flat, name):
                unsafe.setdefault(name, item.name)
    if total > size + _CONSTANTS:
        raise RefusedError(f"{shown}: its constants would unpack to {total >> 20} MiB, the file has {size >> 20}")
    if unsafe and not trusted:
        names = [f"{op} in '{node}'" for op, node in sorted(unsafe.items())]
        raise RefusedError(
            f"{shown} would run operations that may run code or touch files: {some(names, 5)} (--trust runs them)"
        )
    _acyclic(functions, shown)


def _own(flat: Flat, name: str) -> bool:
    """Whether ``name`` is a function of the file and cannot be mistaken for an operation of TensorFlow's."""
    return name in flat.functions and not is_operation(name)


def _acyclic(functions: Mapping[str, Any], shown: str) -> None:
    """Functions that call each other in a circle may never end. Loops are operations, not calls."""
    calls = {
        name: {
            inner
            for node in function.node_def
            for inner in (node.op, *called(Item(node.name, node.op, dict(node.attr.items()))))
            if inner in functions
        }
        for name, function in functions.items()
    }
    state: dict[str, int] = {}
    for start in calls:
        stack = [(start, iter(calls[start]))] if start not in state else []
        state.setdefault(start, 1)
        while stack:
            name, rest = stack[-1]
            step = next(rest, None)
            if step is None:
                state[name] = 2
                stack.pop()
            elif state.get(step) == 1:
                raise RefusedError(f"{shown}: function '{display(step)}' calls itself without end")
            elif step not in state:
                state[step] = 1
                stack.append((step, iter(calls[step])))


def _elements(tensor: Any) -> int:
    return math.prod(max(0, dim.size) for dim in tensor.tensor_shape.dim)


def _nbytes(tensor: Any, name: str) -> int:
    if tensor.tensor_shape.unknown_rank or any(dim.size < 0 for dim in tensor.tensor_shape.dim):
        raise InputError(f"constant '{display(name)}' has no shape")
    dtype = tensorflow().as_dtype(tensor.dtype)
    if dtype.name in ("string", "variant", "resource"):
        # One value may stand for all elements; an empty one still takes room.
        return _elements(tensor) * 24
    return _elements(tensor) * int(dtype.size)


def _array(tensor: Any) -> Any:
    return tensorflow().make_ndarray(tensor)


def graph_def(flat: Flat, shapes: Mapping[str, tuple[int, ...] | None]) -> Any:
    """The graph as TensorFlow's own message; ``shapes`` are those of the placeholders.

    Devices and private attributes are left out: where something runs, and how it is compiled, is not the file's to say.
    """
    tf = tensorflow()
    out = tf.compat.v1.GraphDef()
    out.versions.CopyFrom(flat.versions)
    for item in flat.items.values():
        node = out.node.add(name=item.name, op=item.op)
        node.input.extend(f"{name}:{number}" if number else name for name, number in item.inputs)
        node.input.extend(f"^{name}" for name in item.controls)
        for key, value in item.attr.items():
            if not key.startswith("_") and key not in ("config_proto", "config", "executor_type"):
                node.attr[key].CopyFrom(value)
        if item.name in shapes:
            node.attr["shape"].shape.CopyFrom(tf.TensorShape(shapes[item.name]).as_proto())
    for function in reachable(flat).values():
        copy = out.library.function.add()
        copy.CopyFrom(function)
        copy.attr.clear()
        for node in copy.node_def:
            node.device = ""
            for key in [k for k in node.attr if k.startswith("_") or k in ("config_proto", "config", "executor_type")]:
                del node.attr[key]
    return out


def input_type(item: Item) -> str:
    """The name of the type of what a placeholder is fed."""
    return str(tensorflow().as_dtype(output_types(item)[0]).name)


def stated_shape(item: Item, producer: int) -> tuple[int | None, ...] | None:
    """The shape that a placeholder states; None for a free rank."""
    shape = item.attr.get("shape")
    if shape is None or shape.shape.unknown_rank:
        return None
    if not shape.shape.dim and producer < 24:  # old graphs write an unknown shape as a scalar's
        return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in shape.shape.dim)


def loads(message: str, data: bytes) -> Any:
    """Parse a protobuf message of TensorFlow. Raises InputError."""
    tensorflow()
    module, _, name = message.rpartition(".")
    cls = getattr(import_module(module), name)
    try:
        return cls.FromString(data)
    except Exception as error:  # DecodeError, and what the parser raises for too deep messages
        raise InputError(f"truncated or damaged: {display(str(error), 120)}") from None
