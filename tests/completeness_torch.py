"""Counts what a torch model does without tracer's recorder, and says what of it a recording lacks.

The count is taken in three ways that share nothing with the recorder:

- forward hooks on every innermost module: each call of one must be a node of that module with that very tensor;
- torch's dispatcher, which every kernel passes, whoever called it (Python, TorchScript, C++): each result outside of
  the innermost modules that depends on the model's input must be a node of the module in whose forward it ran;
  kernels that one function of torch ran together (``F.interpolate``) count as that function;
- ``torch.fx``, where it can trace the model: each tensor of its graph must be a node's.

What is left out on purpose is in :data:`PASSING` and :func:`_worth`: functions that hand their input on with the same
values and type, masks, and what does not depend on the input.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tracer.adapter import Array, LoadedModel, MemorySink, NotRecorded
from tracer.graph import Structure

PASSING = frozenset(
    "contiguous clone detach alias to _to_copy float type_as requires_grad_ data lift_fresh expand expand_as "  # noqa: SIM905
    "broadcast_to identity dropout _conj resolve_conj resolve_neg".split()
)
"""Functions that are no nodes where they change neither values nor type (``expand`` only repeats)."""
SHAPED = (
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "new_empty", "new_zeros",
    "new_ones", "new_full", "new_empty_strided",
)  # fmt: skip
"""Functions that take nothing from a tensor but its shape and type."""


@dataclass(frozen=True)
class Seen:
    """A tensor that came into being: by whom, where, and what its values were at that moment."""

    where: str
    what: str
    digest: str

    def __str__(self) -> str:
        return f"{self.what} in '{self.where}'"


@dataclass
class Count:
    """What a model did. ``modules``: calls of innermost modules; ``functions``: tensors made between them."""

    modules: list[Seen] = field(default_factory=list)
    functions: list[Seen] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.modules) + len(self.functions)


def digest(value: torch.Tensor | Array) -> str:
    """Shape, type and bytes of a tensor, in short."""
    array = value if isinstance(value, np.ndarray) else value.detach().resolve_conj().resolve_neg().cpu().numpy()
    head = f"{array.shape}|{array.dtype}|".encode()
    return hashlib.blake2b(head + np.ascontiguousarray(array).tobytes(), digest_size=12).hexdigest()


def innermost(module: nn.Module) -> bool:
    """Whether a module counts as one operation: torch.nn's own, with nothing inside that it calls."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    forward = getattr(type(module), "forward", None)
    own = str(getattr(forward, "__module__", "")).startswith(("torch.nn.modules.", "torch.ao.nn."))
    if not own or isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    return isinstance(module, nn.MultiheadAttention) or not [
        n for n, _ in module.named_children() if n != "parametrizations"
    ]


def _mapped(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one sample of a vmap: it has no values of its own."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


class _Ledger:
    """Follows one plain forward pass: which module runs, which tensors depend on the input."""

    def __init__(self) -> None:
        self.count = Count()
        self.scopes: list[tuple[str, bool]] = [("", False)]
        self.function: list[str] = []
        self.made: list[torch.Tensor] = []
        self.storages: dict[int, Any] = {}
        self.quiet = 0

    def depends(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages

    def follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.storages[storage._cdata] = storage  # kept, so that its number is not used again

    @property
    def inside(self) -> bool:
        return any(leaf for _, leaf in self.scopes)

    def note(self, what: str, outputs: Sequence[torch.Tensor], inputs: Sequence[tuple[str, torch.Tensor]]) -> None:
        fed = [mark for mark, tensor in inputs]
        for tensor in outputs:
            if _worth(what, tensor, fed) and self.depends(tensor):
                self.count.functions.append(Seen(self.scopes[-1][0], what, digest(tensor)))


def _worth(what: str, tensor: torch.Tensor, inputs: Sequence[str]) -> bool:
    """Whether a function's result has to be a node: no mask, and not its input again."""
    if tensor.dtype == torch.bool:
        return False
    return what not in PASSING or not _same(what, tensor, inputs)


def _same(what: str, tensor: torch.Tensor, inputs: Sequence[str]) -> bool:
    return what.startswith(("expand", "broadcast")) or digest(tensor) in inputs


class _Dispatched(TorchDispatchMode):
    """Every kernel: what it makes from the input depends on the input; outside of any function it counts by itself."""

    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        ledger = self.ledger
        if ledger.quiet:
            return func(*args, **named)
        read = list(_tensors((args, named)))
        name = func._schema.name.partition("::")[2]
        tainted = any(map(ledger.depends, read)) and not name.endswith(SHAPED)
        lonely = tainted and not ledger.function and not ledger.inside
        marks = [(digest(tensor), tensor) for tensor in read] if lonely else []
        out = func(*args, **named)
        if tainted:
            made = list(_tensors(out))
            for tensor in made:
                ledger.follow(tensor)
            if func._schema.is_mutable:
                for tensor in read:
                    if func._schema.arguments and tensor is args[0]:
                        ledger.follow(tensor)
            if lonely:
                ledger.quiet += 1
                ledger.note(name, made, marks)
                ledger.quiet -= 1
        return out


class _Functions(TorchFunctionMode):
    """The outermost functions of torch: the kernels of one count together."""

    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        ledger = self.ledger
        if ledger.quiet or ledger.inside or ledger.function or any(map(_mapped, _tensors((args, named)))):
            return func(*args, **named)
        what = str(getattr(func, "__name__", func))
        what = what if what == "_to_copy" else what.strip("_")
        if what == "get":  # a property: x.T, x.shape
            what = str(getattr(getattr(func, "__self__", None), "__name__", what))
        ledger.quiet += 1
        marks = [(digest(tensor), tensor) for tensor in _tensors((args, named))] if what in PASSING else []
        ledger.quiet -= 1
        ledger.function.append(what)
        try:
            out = func(*args, **named)
        finally:
            ledger.function.pop()
        ledger.quiet += 1
        # A result that is not the function's own, such as a parameter that a loop looks at, is nothing new.
        given = {id(tensor) for tensor in _tensors((args, named))}
        changed = what == "setitem" or str(getattr(func, "__name__", "")).endswith("_")
        made = [args[0]] if what == "setitem" else [t for t in _tensors(out) if changed or id(t) not in given]
        ledger.note(what, made, marks)
        ledger.quiet -= 1
        return out


def count(model: nn.Module, inputs: Mapping[str, Array]) -> Count:
    """What ``model`` does in evaluation mode on ``inputs``, taken without tracer.

    The model is left as it was, but for its mode.
    """
    ledger = _Ledger()
    calls: Counter[str] = Counter()
    handles = []
    covered: set[nn.Module] = set()
    for path, module in model.named_modules():
        leaf = innermost(module)
        if module in covered or (module is model and not leaf) or isinstance(module, torch.jit.ScriptModule):
            continue
        if leaf:
            covered |= set(module.modules())

        def enter(_: nn.Module, __: Any, path: str = path, leaf: bool = leaf) -> None:
            ledger.scopes.append((path, leaf))

        def leave(_: nn.Module, __: Any, out: Any, path: str = path, leaf: bool = leaf) -> None:
            ledger.scopes.pop()
            if not leaf or ledger.inside:
                return
            ledger.quiet += 1
            for index, tensor in enumerate(_tensors(out)):
                ledger.count.modules.append(Seen(path, f"call {calls[path]} output {index}", digest(tensor)))
            calls[path] += 1
            ledger.quiet -= 1

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    for tensor in tensors.values():
        ledger.follow(tensor)
    try:
        with torch.no_grad(), _Dispatched(ledger), _Functions(ledger):
            model.eval()(**tensors)
    finally:
        for handle in handles:
            handle.remove()
    return ledger.count


@dataclass
class Recording:
    """What tracer recorded, by owner and by scope."""

    structure: Structure
    values: dict[str, str]
    reasons: dict[str, str]

    @classmethod
    def of(cls, model: LoadedModel, inputs: Mapping[str, Array]) -> Recording:
        structure = model.structure(inputs)
        sink = MemorySink()
        model.capture(inputs, sink)
        return cls.made(structure, sink)

    @classmethod
    def made(cls, structure: Structure, sink: MemorySink) -> Recording:
        values = {n: digest(v) for n, v in sink.values.items() if isinstance(v, np.ndarray)}
        return cls(structure, values, {n: v.reason for n, v in sink.values.items() if isinstance(v, NotRecorded)})

    def tensors(self, *roles: str) -> Iterator[tuple[Any, str]]:
        """The nodes of these roles, each with the digest of its tensor."""
        for node in self.structure:
            mark = self.values.get(node.alias_of or node.name)
            # That something was made unseen does not say what was done.
            if node.role in roles and mark is not None and node.kind != "other:unseen":
                yield node, mark


def lacking(found: Count, recording: Recording) -> list[str]:
    """What was counted and is no node, in words. Each node answers for one tensor only."""
    layers = Counter((node.owner, mark) for node, mark in recording.tensors("layer", "item"))
    operations = Counter((node.scope, mark) for node, mark in recording.tensors("op", "item"))
    out = []
    for pool, seen in ((layers, found.modules), (operations, found.functions)):
        for item in seen:
            if pool[item.where, item.digest]:
                pool[item.where, item.digest] -= 1
            else:
                out.append(str(item))
    return out


def traced(model: nn.Module, inputs: Mapping[str, Array]) -> list[Seen] | None:
    """The tensors of ``torch.fx``'s graph of ``model`` that depend on its inputs; None where fx cannot trace it."""

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, path: str) -> bool:
            return innermost(module)

    model = model.eval()
    try:
        absent = {name: default for name, default in _defaults(model).items() if name not in inputs}
        graph = Tracer().trace(model, absent)
    except Exception:  # fx says in many ways that it cannot follow control flow
        return None
    module = torch.fx.GraphModule(model, graph)
    depends: set[torch.fx.Node] = set()
    out: list[Seen] = []

    class Interpreter(torch.fx.Interpreter):
        def run_node(self, node: torch.fx.Node) -> Any:
            given = list(_tensors([self.env[n] for n in node.all_input_nodes]))
            before = [digest(tensor) for tensor in given]
            value = super().run_node(node)
            if node.op == "placeholder" or any(n in depends for n in node.all_input_nodes):
                if isinstance(value, torch.Tensor | tuple | list) and list(_tensors(value)):
                    depends.add(node)
                what = str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?"))
                if node.op.startswith("call") and isinstance(value, torch.Tensor):
                    picked = what == "getitem" and not isinstance(self.env.get(node.args[0]), torch.Tensor)
                    # A function that returns its very argument did nothing (torchvision's stochastic_depth).
                    nothing = picked or (any(value is tensor for tensor in given) and not _in_place(node, what))
                    if node.op == "call_module" or (not nothing and _worth(what, value, before)):
                        out.append(Seen(node.op, what, digest(value)))
            return value

    tensors = [torch.from_numpy(array.copy()) for array in inputs.values()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it rounds otherwise, and does not run where functions are watched
    with torch.no_grad():
        Interpreter(module).run(*tensors, *absent.values())
    torch.backends.mha.set_fastpath_enabled(fused)
    return out


def _in_place(node: torch.fx.Node, what: str) -> bool:
    return what.endswith("_") or what.startswith("i") or bool(node.kwargs.get("inplace"))


def _defaults(model: nn.Module) -> dict[str, Any]:
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def lacking_of_graph(found: Sequence[Seen], recording: Recording) -> list[str]:
    """The tensors of a traced graph that no node holds."""
    pool = Counter(mark for _, mark in recording.tensors("layer", "op", "item"))
    out = []
    for item in found:
        if pool[item.digest]:
            pool[item.digest] -= 1
        else:
            out.append(f"{item.where} {item.what}")
    return out
