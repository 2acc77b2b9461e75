"""Programs of torch.export as nn.Modules that run their graph node by node, so that hooks see inside.

An exported program is one flat list of operators; each remembers the modules in whose forward it ran. From that the
calls of the modules are put together again: a stand-in (:mod:`shadows`) for each, called with the tensors that flow in,
giving those that flow out.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import keyword
import operator
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree

from tracer.adapter import InputSpec
from tracer.errors import InputError
from tracer_torch import aten, shadows
from tracer_torch.jitvalues import Unsupported
from tracer_torch.tensors import dtype_name
from tracer_torch.widening import Widening

_FRAME = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)')
_TORCH = re.compile(r"([/\\](site|dist)-packages[/\\]|^)torch[/\\]")
_CALL = re.compile(r"@\d+$")


@dataclass(eq=False)
class Call:
    """A module's call: what it runs, which values of before it reads, which of its own are read after it."""

    key: str
    path: str
    steps: list[fx.Node | Call] = field(default_factory=list)
    reads: list[fx.Node] = field(default_factory=list)
    gives: list[fx.Node] = field(default_factory=list)
    made: set[fx.Node] = field(default_factory=set)


class Export:
    """An ExportedProgram and the stand-ins for its modules."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.unsupported = ""
        self.names: list[str] = []
        self.nodes: list[fx.Node] = []
        self.order: list[fx.Node] = []
        self.fixed: dict[fx.Node, Any] = {}
        self.held: dict[fx.Node, torch.Tensor] = {}
        self.env: dict[fx.Node, Any] = {}
        self.indexing: dict[fx.Node, tuple[fx.Node, tuple[Any, ...]]] = {}
        self.parts: dict[str, nn.Module] = {}
        self.batched = 0
        self.unread: dict[fx.Node, int] = {}
        self.widening: Widening | None = None
        self.checked = True
        self._read_inputs()
        self._tree()
        self.top = self._calls()

    # --- what the program says ------------------------------------------------------------------------------

    def _read_inputs(self) -> None:
        program = self.program
        places = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
        tensors = {**program.state_dict, **program.constants}
        self.owners: dict[str, tuple[torch.Tensor, bool]] = {}
        for spec in program.graph_signature.input_specs:
            node = places[spec.arg.name]
            if spec.kind is InputKind.USER_INPUT:
                self.order.append(node)
                if isinstance(spec.arg, ConstantArgument):
                    self.fixed[node] = spec.arg.value
                    continue
                self.nodes.append(node)
                self.names.append(spec.arg.name)
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                assert spec.target is not None
                self.held[node] = tensors[spec.target]
                self.owners[spec.target] = tensors[spec.target], spec.kind is InputKind.PARAMETER
            else:
                raise Unsupported(f"an input of kind {spec.kind.name}")

    def _tree(self) -> None:
        """The stand-ins, by the classes that the operators remember."""
        classes = {"": "Program"}
        for node in self.program.graph.nodes:
            classes |= dict(_stack(node).values())
        for owner in {name.rpartition(".")[0] for name in self.owners}:
            parts = owner.split(".") if owner else []
            for end in range(1, len(parts) + 1):
                classes.setdefault(".".join(parts[:end]), "Module")
        for path in sorted(classes, key=lambda path: path.count(".") + bool(path)):
            tensors = {
                name.rpartition(".")[2]: held for name, held in self.owners.items() if name.rpartition(".")[0] == path
            }
            self.parts[path] = shadows.make(classes[path], tensors, {})
            if path:
                above, _, last = path.rpartition(".")
                while above not in self.parts:  # a list of modules is never called, and remembered by nobody
                    above, _, missing = above.rpartition(".")
                    last = f"{missing}.{last}"
                self.parts[above]._modules[last] = self.parts[path]
        for node in self.program.graph.nodes:
            inner = [path for path, _ in _stack(node).values()]
            if node.op == "call_function" and inner:
                shadows.learn(self.parts[inner[-1]], *_known(node))

    def _calls(self) -> Call:
        """The nodes as nested calls of modules."""
        top = Call("", "")
        open_: list[Call] = [top]
        users: dict[fx.Node, list[Call]] = {}
        for node in self.program.graph.nodes:
            if node.op == "output":
                continue
            if node.op != "placeholder":
                stack = [(key, path) for key, (path, _) in _stack(node).items() if path]
                if node.op == "call_function" and not stack and node.target in _SIZES:
                    stack = [(call.key, call.path) for call in open_[1:]]
                self._enter(open_, stack)
                open_[-1].steps.append(node)
                for source in node.all_input_nodes:
                    users.setdefault(source, []).append(open_[-1])
            for call in open_:
                call.made.add(node)
            if node.op != "placeholder":
                for call in open_:
                    for source in node.all_input_nodes:
                        if source not in call.made and source not in self.held and source not in call.reads:
                            call.reads.append(source)
        self._outputs(top)
        return top

    @staticmethod
    def _enter(open_: list[Call], stack: Sequence[tuple[str, str]]) -> None:
        same = 0
        while same < len(stack) and same + 1 < len(open_) and open_[same + 1].key == stack[same][0]:
            same += 1
        del open_[same + 1 :]
        for key, path in stack[same:]:
            call = Call(key, path)
            open_[-1].steps.append(call)
            open_.append(call)

    def _outputs(self, call: Call) -> None:
        for step in call.steps:
            if isinstance(step, Call):
                states = isinstance(self.parts[step.path], nn.RNNBase)
                step.gives = [
                    node
                    for node in self.program.graph.nodes
                    if node in step.made
                    and (
                        any(user not in step.made for user in node.users)
                        or (states and node.target is operator.getitem and not node.users)
                    )
                ]
                self._outputs(step)

    # --- running --------------------------------------------------------------------------------------------

    def entry(self) -> nn.Module:
        """The root, which takes the program's tensors by name."""
        for name in self.names:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise Unsupported(f"an input named '{name[:40]}'")
        signature = inspect.Signature(
            [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in self.names]
        )

        def forward(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            values = [self.given(node, bound.arguments[n]) for node, n in zip(self.nodes, self.names, strict=True)]
            self.env = {**self.fixed, **self.held, **dict(zip(self.nodes, values, strict=True))}
            self.indexing.clear()
            self.unread = {node: len(node.users) for node in self.program.graph.nodes}
            self.batched = 0
            try:
                self._run(self.top)
                return self._result()
            except Unsupported as error:
                self.unsupported = str(error)
                raise
            finally:
                self.env = {}

        forward.__signature__ = signature  # type: ignore[attr-defined]
        shadows.run_by(self.parts[""], forward)
        return self.parts[""]

    @contextlib.contextmanager
    def again(self, *, double: bool) -> Iterator[None]:
        """Within it passes take inputs of any shape, and are run in double precision where wanted."""
        before = self.unsupported
        self.widening, self.checked = (Widening() if double else None), False
        try:
            yield
        finally:
            self.unsupported, self.widening, self.checked = before, None, True

    def given(self, node: fx.Node, tensor: torch.Tensor) -> Any:
        """An input as the program takes it. Raises InputError where its shape or type is fixed and another."""
        known = node.meta.get("val")
        if not isinstance(known, torch.Tensor):
            return tensor.item() if isinstance(known, int | float | bool | torch.SymInt | torch.SymFloat) else tensor
        fixed = [size if isinstance(size, int) else None for size in known.shape]
        fits = len(fixed) == tensor.dim() and all(w in (None, h) for w, h in zip(fixed, tensor.shape, strict=True))
        if self.checked and (not fits or known.dtype != tensor.dtype):
            wanted = ", ".join("any" if size is None else str(size) for size in fixed)
            raise InputError(
                f"the program was exported for '{node.name}' of shape ({wanted}) and type "
                f"{dtype_name(known.dtype)}, not {tuple(tensor.shape)} {dtype_name(tensor.dtype)}"
            )
        return tensor

    def _result(self) -> Any:
        outputs = next(node for node in self.program.graph.nodes if node.op == "output").args[0]
        own = [
            self._value(node)
            for node, spec in zip(outputs, self.program.graph_signature.output_specs, strict=True)
            if spec.kind is OutputKind.USER_OUTPUT
        ]
        return _pytree.tree_unflatten(own, self.program.call_spec.out_spec)

    def _value(self, value: Any) -> Any:
        return fx.map_arg(value, lambda node: self.env[node])

    def _run(self, call: Call) -> None:
        for step in call.steps:
            if isinstance(step, Call):
                self._enter_module(step)
            elif step.op == "call_function":
                self.env[step] = self._node(step)
                self._used(step)
            elif step.op == "get_attr":  # a graph that a higher-order operator runs
                self.env[step] = operator.attrgetter(str(step.target))(self.program.graph_module)
            else:
                raise Unsupported(f"a node that is a {step.op}")

    def _used(self, node: fx.Node) -> None:
        """Let go of what no other node will read."""
        if node in self.indexing:
            return  # the rest of the index will be told as one of what this part reads
        for source in node.all_input_nodes:
            self.unread[source] -= 1
            if not self.unread[source]:
                self.env.pop(source, None)

    def _enter_module(self, call: Call) -> None:
        module = self.parts[call.path]

        def forward(*args: Any) -> Any:
            self._run(call)
            return _as_module_gives(module, [(node, self.env[node]) for node in call.gives])

        shadows.run_by(module, forward)
        result = module(*(self.env[node] for node in call.reads))
        if call.gives:
            self.env.update(_of_module(module, call.gives, result))

    def _node(self, node: fx.Node) -> Any:
        args, kwargs = self._value(node.args), self._value(node.kwargs)
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            if isinstance(target, torch._ops.HigherOrderOperator) and not self.batched:
                return self._called(_whole(target), [*args, *kwargs.values()], [args, kwargs], (), node)
            self.batched += _NESTING.get(getattr(target, "__name__", ""), 0)
            with torch._C.DisableTorchFunction():
                if self.widening is not None and target is not operator.getitem:
                    args, kwargs = self.widening.arguments([args, kwargs])
                return target(*args, **kwargs)  # type: ignore[operator]
        schema = target._schema
        names = [argument.name for argument in schema.arguments]
        defaults = [argument.default_value for argument in schema.arguments]
        full = _filled(schema.arguments, args, kwargs)

        run = _called(target)
        if aten.asks(schema.name) or self.batched:  # within vmap tensors have no values of their own
            with torch._C.DisableTorchFunction():
                return run(*self._actual(full))
        source = self.indexing.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        first = source[0] if source else node.args[0] if node.args else None
        if schema.name in _VIEWING and _goes_on(node) and isinstance(first, fx.Node):
            joined = aten.joined_index(source[1] if source else (), aten.index_of(schema.name, full))
            if joined is not None:
                self.indexing[node] = first, joined
                with torch._C.DisableTorchFunction():
                    return run(*self._actual(full))
        if source is not None:
            function, shown = aten.indexing(schema.name, run, self.env[source[0]], source[1], full)
        else:
            function, shown = aten.described(schema.name, run, names, defaults, full)
        return self._called(function, shown, full, names, node)

    def _actual(self, args: Sequence[Any]) -> Sequence[Any]:
        return args if self.widening is None else self.widening.arguments(args)

    def _called(
        self, function: aten.Function, shown: Sequence[Any], args: Sequence[Any], names: Sequence[str], node: fx.Node
    ) -> Any:
        if self.widening is not None:
            return self.widening.run(function, shown, args, names, _line(node))
        return function.run(shown, args, _line(node))


_VIEWING = frozenset({"aten::slice", "aten::select", "aten::unsqueeze", "aten::index"})
_SIZES = (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default)
_NESTING = {"_vmap_increment_nesting": 1, "_vmap_decrement_nesting": -1}
_CALLS: dict[Any, Callable[..., Any]] = {}


def _called(target: Any) -> Callable[..., Any]:
    """``target`` with all its arguments by place; the same each time."""
    if target not in _CALLS:
        arguments = target._schema.arguments

        def call(*values: Any, **kwargs: Any) -> Any:
            positional = [v for v, a in zip(values, arguments, strict=False) if not a.kwarg_only]
            named = {a.name: v for v, a in zip(values, arguments, strict=False) if a.kwarg_only}
            return target(*positional, **named, **kwargs)

        _CALLS[target] = call
    return _CALLS[target]


@functools.cache
def _whole(target: Any) -> aten.Function:
    """An operator that runs graphs of its own, as one operation."""
    return aten.Function(target.name(), "torch.ops.higher_order", lambda args, kwargs: target(*args, **kwargs))


def _filled(arguments: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """All arguments in the schema's order, its defaults where the graph leaves them out."""
    return [*args, *(kwargs.get(a.name, a.default_value) for a in arguments[len(args) :])]


def _stack(node: fx.Node) -> Mapping[str, tuple[str, str]]:
    """The modules in whose forward a node ran, outermost first: path and class of each, by a key for its call."""
    stack = node.meta.get("nn_module_stack") or {}
    return {
        key: (_CALL.sub("", path), str(name)) for key, (path, name) in stack.items() if not key.startswith("_empty")
    }


def _known(node: fx.Node) -> tuple[str, dict[str, Any]]:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return "", {}
    arguments = target._schema.arguments
    given = zip((a.name for a in arguments), _filled(arguments, node.args, node.kwargs), strict=False)
    return aten.plain_name(target._schema.name), {k: v for k, v in given if not isinstance(v, fx.Node)}


def _line(node: fx.Node) -> str | None:
    """``file:line`` of the innermost source that is not torch's own."""
    for found in reversed(list(_FRAME.finditer(node.meta.get("stack_trace") or ""))):
        if not _TORCH.search(found["file"]):
            return f"{found['file'].removeprefix(os.getcwd() + os.sep)}:{found['line']}"
    return None


def _goes_on(node: fx.Node) -> bool:
    """Whether another part of one indexing expression (``x[:, 0]``) is what alone reads its result."""
    if len(node.users) != 1:
        return False
    user = next(iter(node.users))
    name, then = (getattr(getattr(n.target, "_schema", None), "name", "") for n in (node, user))
    if then in aten.ASSIGNING and user.args[0] is node:
        return True
    if then not in _VIEWING or user.args[0] is not node:
        return False
    place = node.meta.get("stack_trace")
    bounds = (*node.args[2:], None, None, None)[:3]
    return (bool(place) and place == user.meta.get("stack_trace")) or aten.takes_all(name, *bounds)


def _as_module_gives(module: nn.Module, found: list[tuple[fx.Node, Any]]) -> Any:
    """A call's results as the module gave them, as far as its class tells."""
    if isinstance(module, nn.RNNBase) and all(node.target is operator.getitem for node, _ in found):
        made = {node.args[1]: value for node, value in found}
        states = (made.get(1), made.get(2)) if isinstance(module, nn.LSTM) else made.get(1)
        return made.get(0), states
    values = [value for _, value in found]
    return values[0] if len(values) == 1 else tuple(values)


def _of_module(module: nn.Module, nodes: Sequence[fx.Node], result: Any) -> dict[fx.Node, Any]:
    """The values of a call's nodes in what the module gave."""
    if isinstance(module, nn.RNNBase) and all(node.target is operator.getitem for node in nodes):
        states = result[1] if isinstance(module, nn.LSTM) else (result[1],)
        values = (result[0], *states)
        return {node: values[node.args[1]] for node in nodes}  # type: ignore[index]
    return dict(zip(nodes, (result,) if len(nodes) == 1 else result, strict=True))


def inputs(export: Export, layout: Callable[[nn.Module, str], InputSpec]) -> tuple[InputSpec, ...]:
    """The program's inputs with the shapes and types it was exported for; ``layout`` tells where channels are."""
    specs = []
    for node, name in zip(export.nodes, export.names, strict=True):
        known = node.meta.get("val")
        if not isinstance(known, torch.Tensor):
            kind = "float64" if isinstance(known, float | torch.SymFloat) else "int64"
            specs.append(InputSpec(name, (), "bool" if isinstance(known, bool) else kind))
            continue
        shape = tuple(size if isinstance(size, int) else None for size in known.shape)
        guess = layout(export.parts[""], name) if len(export.names) == 1 else InputSpec(name, None)
        fits = guess.shape is not None and len(guess.shape) == len(shape)
        top = guess.maximum if not known.is_floating_point() else None
        specs.append(InputSpec(name, shape, dtype_name(known.dtype), top, guess.layout if fits else None))
    return tuple(specs)
