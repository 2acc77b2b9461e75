"""A graph with shapes: which operations depend on the input, which only on weights or on shapes, who reads whom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tracer_keras.flavour import tensorflow
from tracer_keras.graphs import cut
from tracer_keras.graphs.allowed import RANDOM
from tracer_keras.graphs.flat import Flat, Item, Tensor
from tracer_keras.vocabulary import words

_SHAPES = frozenset({"Shape", "ShapeN", "Size", "Rank", "VariableShape"})
_CARRIES = words("Identity Cast Reshape ExpandDims Squeeze ReadVariableOp Enter StopGradient BroadcastTo Snapshot")
"""Through these a weight stays the weight that it is."""
_SMALL = 4096
_NO_NUMBERS = ("string", "resource", "variant")
_LOOP_OPS = frozenset({"Enter", "Exit", "NextIteration", "LoopCond", "RefEnter"})


class Network:
    """A graph that TensorFlow has imported, so that shapes and types are known.

    Every operation is one of: an input; *static*, computed from weights and constants alone; *shapely*, computed
    from the shapes of tensors; *passing*, its output is its input; *hidden*, inside a branch or a loop of the old
    kind; else *live*, something a person may want to see.
    """

    def __init__(self, flat: Flat, graph: Any, inputs: set[str], ends: list[Tensor]) -> None:
        self.flat = flat
        self.graph = graph
        self.inputs = inputs
        self.items = flat.items
        self.order = {name: number for number, name in enumerate(flat.items)}
        self.static: set[str] = set()
        self.shapely: set[str] = set()
        self.hidden: set[str] = set()
        self.passing: set[str] = set()
        self._values: dict[Tensor, Any] = {}
        self.reading: dict[str, Tensor] = {
            item.inputs[0][0]: (name, 0) for name, item in reversed(flat.items.items()) if item.op == "ReadVariableOp"
        }
        self._classify()
        self.ends = [self.through(tensor) for tensor in ends]
        self.users: dict[Tensor, list[str]] = {}
        for name in self.live():
            for tensor in dict.fromkeys(self.sources(name)):
                self.users.setdefault(tensor, []).append(name)

    # -- classes ---------------------------------------------------------------------------------------------------

    def _classify(self) -> None:
        depth = self._depths()
        for name, item in self.items.items():
            sources = [source for source, _ in item.inputs]
            if name in self.inputs:
                continue
            if depth.get(name):
                self.hidden.add(name)
            elif item.op == "Const" or item.op == "VarHandleOp":
                self.static.add(name)
            elif item.op in RANDOM:
                continue
            elif item.op in _SHAPES:
                (self.static if all(s in self.static for s in sources) else self.shapely).add(name)
            elif all(source in self.static for source in sources):
                self.static.add(name)
            elif all(source in self.static or source in self.shapely for source in sources):
                self.shapely.add(name)
            elif item.op in cut.PASSING:
                self.passing.add(name)

    def _depths(self) -> dict[str, tuple[str, ...]]:
        """For each operation the branches and loops of the old kind that it stands in, outermost first."""
        found: dict[str, tuple[str, ...]] = {}
        if not any(item.op in ("Switch", "Enter", "RefSwitch", "RefEnter") for item in self.items.values()):
            return found
        for name, item in self.items.items():
            above = [found.get(source, ()) for source in (*(s for s, _ in item.inputs), *item.controls)]
            inside = max(above, key=len, default=())
            looping = any(frame.startswith("loop:") for frame in inside)
            if item.op in ("Enter", "RefEnter"):
                inside = (*inside, "loop:" + item.attr["frame_name"].s.decode("utf-8", "replace"))
            elif item.op in ("Switch", "RefSwitch") and not looping:
                inside = (*inside, f"branch:{item.inputs[1][0]}")
            elif item.op in ("Exit", "RefExit") or (item.op in ("Merge", "RefMerge") and not looping):
                inside = inside[:-1]
            found[name] = inside
        return found

    def live(self) -> Iterator[str]:
        """The operations that a person may want to see, in running order."""
        out = self.static | self.shapely | self.hidden | self.passing | self.inputs
        return (name for name in self.items if name not in out)

    # -- tensors ---------------------------------------------------------------------------------------------------

    def through(self, tensor: Tensor) -> Tensor:
        """The tensor that passing operations hand on."""
        while tensor[0] in self.passing:
            inputs = self.items[tensor[0]].inputs
            tensor = inputs[tensor[1] if self.items[tensor[0]].op == "IdentityN" else 0]
        return tensor

    def sources(self, name: str) -> list[Tensor]:
        """The tensors of inputs and live operations that ``name`` reads, through what is not shown."""
        out: list[Tensor] = []
        seen: set[str] = set()
        pending = list(self.items[name].inputs)
        while pending:
            tensor = self.through(pending.pop(0))
            source = tensor[0]
            if source in self.hidden:
                if source not in seen:
                    seen.add(source)
                    pending += self.items[source].inputs
            elif source not in self.static and source not in self.shapely and tensor not in out:
                out.append(tensor)
        return out

    def is_static(self, tensor: Tensor) -> bool:
        return tensor[0] in self.static

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor is the same for all inputs of one shape."""
        return tensor[0] in self.static or tensor[0] in self.shapely

    def tensor(self, tensor: Tensor) -> Any:
        """TensorFlow's own tensor."""
        return self.graph.get_operation_by_name(tensor[0]).outputs[tensor[1]]

    def outputs(self, name: str) -> int:
        return len(self.graph.get_operation_by_name(name).outputs)

    def shape(self, tensor: Tensor) -> tuple[int, ...] | None:
        """The full shape; None unless every length is known."""
        found = self.tensor(tensor).shape
        if found.rank is None or any(size is None for size in found.as_list()):
            return None
        return tuple(int(size) for size in found.as_list())

    def rank(self, tensor: Tensor) -> int | None:
        found = self.tensor(tensor).shape.rank
        return None if found is None else int(found)

    def dtype(self, tensor: Tensor) -> str:
        return str(self.tensor(tensor).dtype.base_dtype.name)

    def floating(self, tensor: Tensor) -> bool:
        kind = self.tensor(tensor).dtype
        return bool(kind.is_floating or kind.is_complex)

    def size(self, tensor: Tensor) -> int | None:
        shape = self.shape(tensor)
        return None if shape is None else int(np.prod(shape, dtype=np.int64))

    def value(self, tensor: Tensor) -> Any:
        """The value of a small constant; None for anything else."""
        if tensor not in self._values:
            size = self.size(tensor)
            known = None
            if self.is_static(tensor) and size is not None and size <= _SMALL and self.dtype(tensor) not in _NO_NUMBERS:
                known = tensorflow().get_static_value(self.tensor(tensor))
            self._values[tensor] = known
        return self._values[tensor]

    def number(self, tensor: Tensor) -> float | None:
        """The value of a constant of one element."""
        value = self.value(tensor) if self.size(tensor) == 1 else None
        return None if value is None else float(np.asarray(value).reshape(()))

    def integers(self, tensor: Tensor) -> list[int] | None:
        value = self.value(tensor)
        return None if value is None else [int(v) for v in np.asarray(value).ravel()]

    def leaf(self, tensor: Tensor) -> Tensor:
        """The weight behind a static tensor, through casts and changes of shape, or what it is computed as."""
        at = tensor
        while at[0] in self.static:
            item = self.items[at[0]]
            if item.op == "Const":
                return at
            if item.op == "ReadVariableOp":  # one of perhaps several reads of the variable stands for them all
                return self.reading[item.inputs[0][0]]
            if item.op not in _CARRIES or not item.inputs:
                break
            at = item.inputs[0]
        return at

    def weight_name(self, leaf: Tensor) -> str:
        """What the graph calls a weight: ``dense/kernel``."""
        item = self.items[leaf[0]]
        if item.op == "ReadVariableOp":
            return item.inputs[0][0]
        return leaf[0].removesuffix("/read").removesuffix("/ReadVariableOp")

    def only_user(self, tensor: Tensor) -> str | None:
        """The one live operation that reads a tensor; None when there are several, or when it is an output."""
        users = self.users.get(tensor, [])
        return users[0] if len(users) == 1 and tensor not in self.ends else None

    def item(self, name: str) -> Item:
        return self.items[name]
