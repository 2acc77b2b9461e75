"""TorchScript graphs as programs of Python steps: every operation is called by itself, control flow is Python's.

TorchScript refuses hooks, and its own executor runs a graph in one piece. Here each node becomes a step that reads and
writes the slots of an environment; operators are called through torch's own registry, so what they compute is theirs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from tracer_torch import aten, jitvalues
from tracer_torch.jitvalues import Instance, Unsupported

Env = list[Any]
_LINE = re.compile(
    r'^\s*File "(?P<file>[^"\n]+)", line (?P<line>\d+)|^(?P<traced>[^\n]+)\((?P<at>\d+)\): ', re.MULTILINE
)
_TORCH = re.compile(r"[/\\](site|dist)-packages[/\\]torch[/\\]")
_VIEWING = frozenset({"aten::slice", "aten::select", "aten::unsqueeze", "aten::index"})
"""What indexing with several parts is compiled to, one operation each."""


@dataclass(slots=True, eq=False)
class Operation:
    """An operator at one place of a graph.

    Attributes:
        name: ``aten::conv2d``.
        call: torch's own implementation.
        arguments: the schema's argument names.
        defaults: their default values, None where there is none.
        line: ``file:line`` of the Python it was made from, where the file tells.
        partial: whether another part of the same indexing expression goes on with its result.
        known: its arguments by name, as far as they stand in the graph.
        numbers: those that tracing made tensors of numbers, by their place.
    """

    name: str
    call: Callable[..., Any]
    arguments: tuple[str, ...]
    defaults: tuple[Any, ...]
    line: str | None
    partial: bool = False
    known: dict[str, Any] = field(default_factory=dict)
    numbers: dict[int, Any] = field(default_factory=dict)


class Machine(Protocol):
    """What the steps of a program need."""

    def attribute(self, owner: Any, name: str) -> Any: ...
    def set_attribute(self, owner: Any, name: str, value: Any) -> None: ...
    def method(self, owner: Any, name: str, args: Sequence[Any]) -> Any: ...
    def function(self, function: FunctionRef, args: Sequence[Any], line: str | None) -> Any: ...
    def operation(self, operation: Operation, args: Sequence[Any]) -> Any: ...


Step = Callable[[Machine, Env], None]


@dataclass(slots=True)
class Block:
    """Steps in order, each with the slots that nothing reads after it."""

    inputs: list[int]
    steps: list[tuple[Step, tuple[int, ...]]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def run(self, machine: Machine, env: Env) -> None:
        for step, done in self.steps:
            step(machine, env)
            for slot in done:
                env[slot] = None


@dataclass(slots=True, eq=False)
class FunctionRef:
    """A function that graphs call: ``name`` is ``torch.nn.functional.relu``."""

    name: str
    program: Program


@dataclass(slots=True, eq=False)
class Program:
    """A graph ready to run."""

    block: Block
    template: Env
    operations: list[Operation]

    def run(self, machine: Machine, args: Sequence[Any]) -> Any:
        env = list(self.template)
        for slot, value in zip(self.block.inputs, args, strict=True):
            env[slot] = value
        self.block.run(machine, env)
        found = [env[slot] for slot in self.block.outputs]
        return found[0] if len(found) == 1 else tuple(found)


def class_name(qualified: str) -> str:
    """``torch.nn.modules.conv.Conv2d`` for ``__torch__.torch.nn.modules.conv.___torch_mangle_3.Conv2d``."""
    parts = qualified.removeprefix("__torch__.").split(".")
    return ".".join(part for part in parts if not part.startswith("___torch_mangle_"))


class Compiler:
    """Makes programs of one model's graphs; functions are compiled once."""

    def __init__(self) -> None:
        self._functions: dict[str, FunctionRef] = {}

    def program(self, graph: Any) -> Program:
        """Raises Unsupported for what no step can be made of."""
        return _Graph(self, graph).program

    def function(self, constant: Any, call: Any) -> FunctionRef:
        """The function that ``constant`` (a node) stands for, with the body that torch inlines at ``call``."""
        qualified = constant.output().type().annotation_str
        if qualified not in self._functions:
            # A function's graph has no name to ask for: torch inlines it into a graph made for the purpose.
            graph: Any = torch._C.Graph()
            places: dict[Any, Any] = {}
            for value in list(call.inputs())[1:]:
                if value.unique() not in places:  # an argument given twice is one input of the graph
                    places[value.unique()] = graph.addInput()
                    places[value.unique()].setType(value.type())
            clone = graph.createClone(constant, lambda value: value)
            graph.appendNode(clone)
            places[constant.output().unique()] = clone.output()
            called = graph.createClone(call, lambda value: places[value.unique()])
            graph.appendNode(called)
            for output in called.outputs():
                graph.registerOutput(output)
            torch._C._jit_pass_inline(graph)
            inputs = list(call.inputs())[1:]
            order = list(dict.fromkeys(value.unique() for value in inputs))
            program = self.program(graph)
            program.block.inputs = [program.block.inputs[order.index(value.unique())] for value in inputs]
            self._functions[qualified] = FunctionRef(class_name(qualified), program)
        return self._functions[qualified]


class _Graph:
    """Compiles one graph."""

    def __init__(self, compiler: Compiler, graph: Any) -> None:
        self.compiler = compiler
        self.slots: dict[int, int] = {}
        self.template: Env = []
        self.constants: set[int] = set()
        self.operations: list[Operation] = []
        self.program = Program(self._block(graph, graph.inputs(), graph.outputs()), self.template, self.operations)

    def _slot(self, value: Any) -> int:
        key = value.unique()
        if key not in self.slots:
            self.slots[key] = len(self.template)
            self.template.append(None)
        return self.slots[key]

    def _block(self, block: Any, inputs: Any, outputs: Any) -> Block:
        out = Block([self._slot(value) for value in inputs])
        made = set(out.inputs)
        reads: list[set[int]] = []
        for node in block.nodes():
            step = self._step(node)
            if step is None:
                continue
            made |= {self._slot(value) for value in node.outputs()}
            reads.append({self.slots[key] for key in _read_by(node) if key in self.slots})
            out.steps.append((step, ()))
        out.outputs = [self._slot(value) for value in outputs]
        kept = self.constants | set(out.outputs)
        seen: set[int] = set()
        for index in range(len(out.steps) - 1, -1, -1):
            last = tuple(slot for slot in reads[index] & made if slot not in seen and slot not in kept)
            seen |= reads[index]
            out.steps[index] = out.steps[index][0], last
        return out

    def _step(self, node: Any) -> Step | None:
        kind = node.kind()
        if kind.startswith("^"):
            raise Unsupported(f"Python's {kind[1:]}")
        into = [self._slot(value) for value in node.outputs()]
        if kind == "prim::Constant":
            self.constants.add(into[0])
            if node.output().type().kind() != "FunctionType":
                self.template[into[0]] = node.output().toIValue()
            return None
        given = [self._slot(value) for value in node.inputs()]
        if kind == "prim::If":
            return self._if(node, given, into)
        if kind == "prim::Loop":
            return self._loop(node, given, into)
        if kind == "prim::fork":
            program = self.compiler.program(node.g("Subgraph"))
            return _into(into, lambda machine, args: program.run(machine, args), given)
        if kind in ("prim::GetAttr", "prim::SetAttr", "prim::CallMethod"):
            return _member(kind, node.s("name"), given, into)
        if kind == "prim::CallFunction":
            constant = next(node.inputs()).node()
            if constant.kind() != "prim::Constant":
                raise Unsupported("a function chosen at run time")
            function = self.compiler.function(constant, node)
            line = _line(node)
            return _into(into, lambda machine, args: machine.function(function, args[1:], line), given)
        if kind == "prim::CreateObject":
            made = node.output().type()
            return _into(into, lambda machine, args: Instance(torch._C._create_object_with_type(made)), given)
        if kind in ("prim::Enter", "prim::Exit"):
            name, more = ("__enter__", ()) if kind == "prim::Enter" else ("__exit__", (None, None, None))
            return _into(into, lambda machine, args: machine.method(args[0], name, (*args, *more)), given[:1])
        if kind == "prim::isinstance":
            types, static = node.tys("types"), next(node.inputs()).type()
            return _into(into, lambda machine, args: jitvalues.is_instance(args[0], types, static), given)
        if kind == "prim::TupleSlice":
            part = slice(node.i("beg"), node.i("end"))
            return _into(into, lambda machine, args: args[0][part], given)
        native = jitvalues.native(kind, len(into))
        if node.schema() == "(no schema)":
            if native is None:
                raise Unsupported(kind)
            return _into(into, lambda machine, args: native(args), given)
        return self._operator(node, kind, given, into, native)

    def _operator(self, node: Any, kind: str, given: list[int], into: list[int], native: Any) -> Step:
        schema = torch._C.parse_schema(node.schema())
        if native is not None and (native.always or not any(_is_tensor(value) for value in node.inputs())):
            return _into(into, lambda machine, args: native(args), given)
        try:
            call = torch._C._get_operation_overload(schema.name, schema.overload_name)[0]
        except Exception as error:
            raise Unsupported(f"{schema.name}") from error
        known = [_known(value) for value in node.inputs()]
        operation = Operation(
            schema.name,
            _positional(call, schema.arguments),
            tuple(argument.name for argument in schema.arguments),
            tuple(argument.default_value for argument in schema.arguments),
            _line(node),
            _goes_on(node),
            {a.name: v for a, v in zip(schema.arguments, known, strict=False) if v is not _OPEN},
            {i: v.item() for i, v in enumerate(known) if isinstance(v, torch.Tensor) and not v.dim() and not v.is_meta},
        )
        self.operations.append(operation)
        return _into(into, lambda machine, args: machine.operation(operation, args), given)

    def _if(self, node: Any, given: list[int], into: list[int]) -> Step:
        yes, no = (self._block(block, block.inputs(), block.outputs()) for block in node.blocks())

        def step(machine: Machine, env: Env) -> None:
            block = yes if env[given[0]] else no
            block.run(machine, env)
            for slot, source in zip(into, block.outputs, strict=True):
                env[slot] = env[source]

        return step

    def _loop(self, node: Any, given: list[int], into: list[int]) -> Step:
        block = next(node.blocks())
        body = self._block(block, block.inputs(), block.outputs())

        def step(machine: Machine, env: Env) -> None:
            limit, going, *carried = [env[slot] for slot in given]
            count = 0
            while going and count < limit:
                env[body.inputs[0]] = count
                for slot, value in zip(body.inputs[1:], carried, strict=True):
                    env[slot] = value
                carried = []
                body.run(machine, env)
                going, *carried = [env[slot] for slot in body.outputs]
                count += 1
            for slot, value in zip(into, carried, strict=True):
                env[slot] = value

        return step


def _positional(call: Callable[..., Any], arguments: Sequence[Any]) -> Callable[..., Any]:
    """``call`` with all of its arguments by place, as graphs give them."""
    named = [argument.name for argument in arguments if argument.kwarg_only]
    if not named:
        return call
    first = len(arguments) - len(named)
    return lambda *args: call(*args[:first], **dict(zip(named, args[first:], strict=False)))


def _into(into: list[int], compute: Callable[[Machine, list[Any]], Any], given: list[int]) -> Step:
    def step(machine: Machine, env: Env) -> None:
        result = compute(machine, [env[slot] for slot in given])
        if len(into) == 1:
            env[into[0]] = result
        elif into:
            for slot, value in zip(into, result, strict=True):
                env[slot] = value

    return step


def _member(kind: str, name: str, given: list[int], into: list[int]) -> Step:
    if kind == "prim::GetAttr":
        return _into(into, lambda machine, args: machine.attribute(args[0], name), given)
    if kind == "prim::SetAttr":
        return _into(into, lambda machine, args: machine.set_attribute(args[0], name, args[1]), given)
    return _into(into, lambda machine, args: machine.method(args[0], name, args), given)


def _is_tensor(value: Any) -> bool:
    return bool(value.type().kind() == "TensorType")


def _read_by(node: Any) -> set[int]:
    """The values that a node and the blocks within it read."""
    found = {value.unique() for value in node.inputs()}
    for block in node.blocks():
        for inner in block.nodes():
            found |= _read_by(inner)
        found |= {value.unique() for value in block.outputs()}
    return found


_OPEN = object()


def _known(value: Any) -> Any:
    """What stands in the graph for an argument; _OPEN where that is only known while it runs."""
    node = value.node()
    if node.kind() == "prim::Constant" and value.type().kind() != "FunctionType":
        return value.toIValue()
    if node.kind() == "prim::ListConstruct":
        items = [_known(item) for item in node.inputs()]
        return items if all(item is not _OPEN for item in items) else _OPEN
    return _OPEN


def _line(node: Any) -> str | None:
    """``file:line`` of the innermost source that is not torch's own."""
    for found in _LINE.finditer(_place(node)):
        file, line = found["file"] or found["traced"], found["line"] or found["at"]
        if not file.startswith("<") and not _TORCH.search(file):
            return f"{file.removeprefix(os.getcwd() + os.sep)}:{line}"
    return None


def _place(node: Any) -> str:
    """The expression a node was compiled from; empty where the file does not tell."""
    try:
        text: str = node.sourceRange()
    except RuntimeError:  # it is read from the file as it is asked for, which may be damaged there
        return ""
    return text.partition("Serialized")[0]


def _goes_on(node: Any) -> bool:
    """Whether another part of one indexing expression (``x[:, 0]``) is what alone reads its result."""
    if node.kind() not in _VIEWING:
        return False
    uses = [use for use in node.output().uses() if not aten.asks(use.user.kind())]
    if len(uses) != 1 or uses[0].user.kind() not in _VIEWING | aten.ASSIGNING or uses[0].offset != 0:
        return False
    if uses[0].user.kind() in aten.ASSIGNING:
        return True
    place = _place(node)
    if place and place == _place(uses[0].user):
        return True
    _, *bounds = (*map(_known, list(node.inputs())[1:]), _OPEN)
    return len(bounds) == 4 and aten.takes_all(node.kind(), *bounds[:3])
