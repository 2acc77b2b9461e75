"""TorchScript modules as nn.Modules that run their graphs step by step, so that hooks see inside.

:class:`Script` makes a tree of stand-ins with the paths, classes and tensors of the ScriptModule's own. Calling one
runs its graph through :mod:`jitgraph`; what the graph sets on its modules is kept aside for the pass and forgotten.
"""

from __future__ import annotations

import contextlib
import inspect
import keyword
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from tracer.adapter import InputSpec
from tracer.errors import InputError
from tracer.names import display
from tracer_torch import aten, jitgraph, layers, quantized, shadows
from tracer_torch.jitgraph import Compiler, FunctionRef, Operation, Program
from tracer_torch.jitvalues import Instance, Unsupported
from tracer_torch.tensors import walk
from tracer_torch.widening import Widening

_FORWARD = re.compile(r"forward(\d+|__\d+)?")
"""``forward``; what tracing names its further calls, and scripting its overloads."""
_SCALARS = {"IntType": "int64", "FloatType": "float64", "BoolType": "bool", "NumberType": "float64"}


class Script:
    """A ScriptModule and the stand-ins for its parts; carries out the steps of its graphs.

    ``unsupported`` says what kept a pass from being run step by step, once that has happened.
    """

    def __init__(self, script: torch.jit.ScriptModule) -> None:
        self.script = script
        self.unsupported = ""
        self.compiler = Compiler()
        self.parts: dict[nn.Module, Any] = {}
        self.programs: dict[tuple[nn.Module | str, str], Program] = {}
        self.changed: dict[tuple[int, str], Any] = {}
        self.indexing: dict[int, tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]]] = {}
        self.calling = "forward"
        self.differentiable = False
        self.running: list[nn.Module] = []
        self.widening: Widening | None = None
        self.returned: tuple[Any, Sequence[torch.Tensor]] = None, ()
        self.recurrent: Sequence[torch.Tensor] = ()
        self.root = self._part(script, {})
        self._entry()
        self._constants()

    # --- the tree -------------------------------------------------------------------------------------------

    def _part(self, script: Any, known: dict[tuple[Any, ...], nn.Module]) -> nn.Module:
        """The stand-in for ``script`` and what is below it; one for all places where it is shared."""
        parameters = dict(script.named_parameters(recurse=False))
        tensors = {name: (tensor, True) for name, tensor in parameters.items()}
        tensors |= {name: (tensor, False) for name, tensor in script.named_buffers(recurse=False)}
        tensors |= {name: (tensor, False) for name, tensor in _attributes(script) if name not in tensors}
        qualified = script._c._type().qualified_name()
        below = tuple(id(tensor) for tensor in (*script.parameters(), *script.buffers()))
        if below and (qualified, below) in known:
            return known[qualified, below]
        name = jitgraph.class_name(qualified)
        settings: dict[str, Any] = {}
        if shadows.torch_class(name) is not None:
            settings = {key: script._c.getattr(key) for key in shadows.SETTINGS if script._c.hasattr(key)}
            if not name.endswith("PackedParams"):
                tensors |= {key: (tensor, False) for key, tensor in _packed(script)}
        module = shadows.make(name, tensors, settings)
        known[qualified, below] = module
        self.parts[module] = script
        module.training = bool(getattr(script, "training", False))
        for child, inner in script._modules.items():
            module._modules[child] = self._part(inner, known)
        self._learn(module)
        shadows.run_by(module, lambda *args: self._run(module, args))
        return module

    def _learn(self, module: nn.Module) -> None:
        for name in self.parts[module]._c._method_names():
            if _FORWARD.fullmatch(name):
                try:
                    operations = self._program(module, name).operations
                except Unsupported:
                    continue
                for operation in operations:
                    shadows.learn(module, aten.plain_name(operation.name), operation.known)

    def _entry(self) -> None:
        """Let the root take its inputs by name, as tensors."""
        forward_: Any = self.script.forward
        schema = forward_.schema
        self.arguments = schema.arguments[1:]
        parameters = []
        for argument in self.arguments:
            name = argument.name
            if not name.isidentifier() or keyword.iskeyword(name):
                raise Unsupported(f"an input named '{display(name, 40)}'")
            default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
            if default is inspect.Parameter.empty and argument.type.kind() in ("OptionalType", "NoneType"):
                default = None
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        signature = inspect.Signature(
            [p.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for p in _required_first(parameters)]
        )
        names = [argument.name for argument in self.arguments]

        def forward(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            self.changed.clear()
            self.indexing.clear()
            self.calling = "forward"
            self.differentiable = torch.is_grad_enabled()
            given = [bound.arguments[name] for name in names]
            values = [as_declared(a.name, v, a.type) for a, v in zip(self.arguments, given, strict=True)]
            try:
                return self._run(self.root, values)
            except Unsupported as error:
                self.unsupported = str(error)
                raise
            finally:
                self.changed.clear()
                self.indexing.clear()
                self.returned, self.recurrent = (None, ()), ()

        forward.__signature__ = signature  # type: ignore[attr-defined]
        shadows.run_by(self.root, forward)

    def _constants(self) -> None:
        """Own the weights that freezing made into constants, under the operation that reads them."""
        holder = nn.Module()
        for module in self.parts:
            program = self.programs.get((module, "forward"))
            if program is None:
                continue
            prefix = layers.paths(self.root)[0].get(module, "")
            counts: dict[str, int] = {}
            for operation in program.operations:
                name = aten.recorded_name(operation.name)
                if operation.partial or aten.asks(operation.name):
                    continue
                number = counts[name] = counts.get(name, -1) + 1
                tensors = {
                    key: (value, False)
                    for key, value in _named_tensors(operation)
                    if value.dim() and (value.is_floating_point() or value.is_quantized)
                }
                if tensors:
                    place = f"{prefix}.{name}" if prefix else name
                    place = f"{place}_{number}" if number else place
                    holder.add_module(place.replace(".", "/"), shadows.make(name, tensors, {}))
        if holder._modules:
            name = "constants"
            while name in self.root._modules:
                name = f"{name}_"
            self.root._modules[name] = holder

    def reads_mode(self) -> bool:
        """Whether any of its graphs asks for the mode that its module is in."""
        return any(
            'GetAttr[name="training"]' in str(script._c._get_method(name).graph)
            for script in self.parts.values()
            for name in script._c._method_names()
        )

    # --- running --------------------------------------------------------------------------------------------

    def _program(self, owner: nn.Module, name: str) -> Program:
        if (owner, name) not in self.programs:
            self.programs[owner, name] = self.compiler.program(self.parts[owner]._c._get_method(name).graph)
        return self.programs[owner, name]

    def _run(self, module: nn.Module, args: Sequence[Any]) -> Any:
        name, self.calling = self.calling, "forward"
        self.running.append(module)
        try:
            result = self._program(module, name).run(self, (module, *args))
        finally:
            self.running.pop()
        if not isinstance(module, nn.RNNBase) or module is self.root:
            return result
        # Tracing drops the states that nobody reads: the module itself gave them all.
        self.returned, made = (result, ()), self.recurrent
        flat = result if isinstance(result, tuple) else (result,)
        if len(made) > 1 and all(any(item is tensor for tensor in made) for item in flat):
            self.returned = result, made
            return made[0], (tuple(made[1:]) if len(made) > 2 else made[1])
        return result

    def _without_states(self, result: Any) -> Any:
        """What a recurrent layer's own graph gave, of what the layer gives with all its states."""
        (given, made), self.returned = self.returned, (None, ())
        if not made:
            return result
        now = [tensor for _, tensor in walk(result)]

        def taken(item: torch.Tensor) -> torch.Tensor:
            return next(tensor for tensor, own in zip(now, made, strict=True) if own is item)

        return tuple(map(taken, given)) if isinstance(given, tuple) else taken(given)

    @contextlib.contextmanager
    def again(self, *, double: bool) -> Iterator[None]:
        """Within it passes are run in double precision where wanted, and what they show of the program is forgotten."""
        before = self.unsupported
        self.widening = Widening() if double else None
        try:
            yield
        finally:
            self.unsupported, self.widening = before, None

    def attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Instance):
            return owner.fields[name] if name in owner.fields else owner.object.getattr(name)
        if not isinstance(owner, nn.Module):
            return owner.getattr(name)
        key = id(owner), name
        if key in self.changed:
            return self.changed[key]
        for held in (owner._modules, owner._parameters, owner._buffers):
            if name in held and held[name] is not None:
                return held[name]
        if name == "training":
            return owner.training
        value = self.parts[owner]._c.getattr(name)
        if isinstance(value, list | dict):
            self.changed[key] = value  # the next to ask must see what was put into it
        return value

    def set_attribute(self, owner: Any, name: str, value: Any) -> None:
        if isinstance(owner, Instance):
            owner.fields[name] = value
        elif isinstance(owner, nn.Module):
            self.changed[id(owner), name] = value
        else:
            raise Unsupported("an attribute of a TorchScript class that changes")

    def method(self, owner: Any, name: str, args: Sequence[Any]) -> Any:
        if isinstance(owner, nn.Module):
            # Some of torch's layers are entered by a method of another name.
            entered = _FORWARD.fullmatch(name) or (owner not in self.running and layers.is_leaf(owner))
            if owner is not self.root and entered:
                self.calling = name
                result = owner(*args[1:])
                return self._without_states(result) if isinstance(owner, nn.RNNBase) else result
            return self._program(owner, name).run(self, args)
        held = owner.object if isinstance(owner, Instance) else owner
        key = held._type().qualified_name(), name
        if key not in self.programs:
            self.programs[key] = self.compiler.program(held._get_method(name).graph)
        return self.programs[key].run(self, args)

    def function(self, function: FunctionRef, args: Sequence[Any], line: str | None) -> Any:
        if not function.name.startswith("torch.nn.functional.") or not any(True for _ in walk(list(args))):
            return function.program.run(self, args)
        target, shown = aten.python_function(function.name, function.program.run, args)
        return target.run(shown, (self, args), line)

    def operation(self, operation: Operation, args: Sequence[Any]) -> Any:
        if aten.asks(operation.name):
            with torch._C.DisableTorchFunction():
                return operation.call(*args)
        if operation.name == "aten::is_grad_enabled":
            # torch's attention layers then take their ordinary path, as they do where hooks watch them.
            return True
        if operation.name == "aten::set_grad_enabled":
            return operation.call(bool(args[0]) and self.differentiable)
        source = self.indexing.pop(id(args[0]), None) if args else None
        if operation.partial:
            joined = aten.joined_index(source[2] if source else (), aten.index_of(operation.name, args))
            if joined is not None:
                actual = self.widening.arguments(args, operation.arguments) if self.widening else args
                with torch._C.DisableTorchFunction():
                    result = operation.call(*actual)
                self.indexing[id(result)] = result, source[1] if source else args[0], joined
                return result
        if source is not None:
            target, shown = aten.indexing(operation.name, operation.call, source[1], source[2], args)
        else:
            names, defaults = operation.arguments, operation.defaults
            seen = [operation.numbers.get(place, value) for place, value in enumerate(args)]
            target, shown = aten.described(operation.name, operation.call, names, defaults, seen)
        if self.widening is not None:
            result = self.widening.run(target, shown, args, operation.arguments, operation.line)
        else:
            result = target.run(shown, args, operation.line)
        if isinstance(result, tuple) and aten.plain_name(operation.name) in shadows.RECURRENT:
            self.recurrent = result
        return result


def _attributes(script: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that a module's graphs read from plain attributes of it: states, which are no buffers."""
    for method in script._c._method_names():
        graph = script._c._get_method(method).graph
        own = next(graph.inputs()).unique()
        for node in graph.findAllNodes("prim::GetAttr"):
            if node.input().unique() == own and node.output().type().kind() == "TensorType":
                value = script._c.getattr(node.s("name"))
                if isinstance(value, torch.Tensor):
                    yield node.s("name"), value


def _packed(script: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights in a quantized layer's packed parameters, which lie in it or in its child of that name."""
    held = script
    for _ in range(2):
        held = dict(held._modules.items()).get("_packed_params", held)
    if held._c.hasattr("_packed_params"):
        yield from quantized.unpacked(held._c.getattr("_packed_params"))


def _named_tensors(operation: Operation) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that stand in the graph as an operator's arguments; recurrent ones as torch.nn names them."""
    for key, value in operation.known.items():
        if isinstance(value, torch.Tensor):
            yield key, value
        elif isinstance(value, list) and key == "params":
            ways = ("", "_reverse") if operation.known.get("bidirectional") else ("",)
            parts = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if operation.known.get("has_biases") else ()))
            layers_ = range(len(value) // (len(ways) * len(parts)) or 1)
            names = [f"{part}_l{layer}{way}" for layer in layers_ for way in ways for part in parts]
            yield from zip(names, value, strict=False)
        elif isinstance(value, list):
            yield from ((f"{key}_{i}", item) for i, item in enumerate(value) if isinstance(item, torch.Tensor))


def _required_first(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    required = [p for p in parameters if p.default is p.empty]
    return required + [p for p in parameters if p.default is not p.empty]


def as_declared(name: str, value: Any, declared: Any) -> Any:
    """A tensor of the input as the type that a schema wants: a number, a list of numbers. Raises InputError."""
    kind = declared.kind()
    if kind == "OptionalType" and value is not None:
        return as_declared(name, value, declared.containedTypes()[0])
    if not isinstance(value, torch.Tensor) or kind in ("TensorType", "AnyType"):
        return value
    if kind in _SCALARS:
        if value.numel() != 1:
            raise InputError(f"input '{display(name)}' is one number ({declared}), not an array of {value.numel()}")
        convert: Callable[[Any], Any] = {"IntType": int, "BoolType": bool}.get(kind, float)
        return convert(value.item())
    if kind == "ListType" and declared.containedTypes()[0].kind() in _SCALARS:
        return value.tolist()
    raise InputError(f"input '{display(name)}' is a {declared}, which no array can stand for")


def signature(script: Script, guess: Callable[[nn.Module, str], InputSpec]) -> tuple[InputSpec, ...]:
    """The inputs that forward's schema wants; ``guess`` tells the shape of an only tensor from the layers."""
    required = [a for a in script.arguments if not a.has_default_value() and a.type.kind() != "OptionalType"]
    if len(required) == 1 and required[0].type.kind() == "TensorType":
        return (guess(script.root, required[0].name),)
    specs = []
    for argument in required:
        dtype = _SCALARS.get(argument.type.kind())
        specs.append(InputSpec(argument.name, None) if dtype is None else InputSpec(argument.name, (), dtype))
    return tuple(specs)
