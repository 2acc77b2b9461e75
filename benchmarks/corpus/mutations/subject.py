"""A correct port that defects are built into: what runs in it, copies of it, and which node is which afterwards."""

from __future__ import annotations

import copy
import functools
import re
import types
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tracer.adapter import Run
from tracer.graph import Node, Structure
from tracer_torch import functions, layers, running
from tracer_torch.engine import Recorder
from tracer_torch.events import finished
from tracer_torch.tensors import walk

Inputs = Mapping[str, np.ndarray]
Change = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""What is done in place of a call: gets the function, its arguments, its keyword arguments."""
LEAST_CHANGE = 1e-6
"""Of the outputs, relative to their largest value: less is rounding, and no defect."""
_MOST_SITES = 8
_COUNTS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "n_layer")


@dataclass(frozen=True)
class Call:
    """A function that a module calls itself, outside its children: ``node`` is what it gave.

    ``ordinal`` counts the calls of ``op`` in this run of the module's forward.
    """

    scope: str
    op: str
    ordinal: int
    node: Node
    shapes: tuple[tuple[int, ...], ...]
    scalars: tuple[Any, ...]
    nodes_read: int


@dataclass(frozen=True)
class Mutation:
    """A port with a defect.

    Attributes:
        kind: the cause's identifier.
        model: the defective module.
        where: paths of the modules, or names of the nodes, whose computation is another one now.
        gone: nodes of the correct port that have no twin any more.
        added: nodes of the defective one that are nobody's twin.
        renamed: the other nodes whose name changed, new name to old name.
        names: the nodes of the defective port, and which of the correct one each is; None for those added. Left out
            are those that now pass on another node's tensor (dropout behind an inserted layer, what is left of a
            layer that was removed), and inserted ones that only move values: by name they are one node, by value
            another.
        latent: whether the outputs are the same in evaluation.
    """

    kind: str
    model: nn.Module
    where: tuple[str, ...]
    gone: frozenset[str]
    added: frozenset[str]
    renamed: Mapping[str, str]
    names: Mapping[str, str | None]
    latent: bool = False


@dataclass
class Kind:
    """How a kind of defect is built in: ``sites`` says where it could be, ``apply`` does it (False: not there)."""

    name: str
    sites: Callable[[Subject], Iterable[Any]]
    apply: Callable[[Work, Any], bool | None]
    latent: bool = False


KINDS: dict[str, Kind] = {}


def kind(
    name: str, sites: Callable[[Subject], Iterable[Any]], *, latent: bool = False, into: dict[str, Kind] = KINDS
) -> Callable[[Callable[[Work, Any], bool | None]], Callable[[Work, Any], bool | None]]:
    """Registers a function that builds a defect into a :class:`Work` at one of ``sites``; several may share a name."""

    def register(apply: Callable[[Work, Any], bool | None]) -> Callable[[Work, Any], bool | None]:
        known = into.get(name)
        if known is None:
            into[name] = Kind(name, lambda s: [(apply, site) for site in sites(s)], _dispatch, latent)
        else:
            before = known.sites
            known.sites = lambda s: [*before(s), *((apply, site) for site in sites(s))]
        return apply

    return register


def _dispatch(work: Work, site: Any) -> bool | None:
    apply, where = site
    return apply(work, where)  # type: ignore[no-any-return]


class Subject:
    """A correct port in evaluation mode, and what one run of it shows.

    Attributes:
        inputs: arrays by the names of the forward's parameters.
        structure: its graph.
        outputs: the tensors it returns.
        calls: the functions called outside leaf modules that gave a node.
        leaves: the leaf modules that ran, by path; ``weighted`` those with a kernel, ``paths`` all modules.
        reads: by path, the shapes of the tensors that a leaf module was called with; ``gives`` what it returned.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self.model = model.eval()
        self.inputs = dict(inputs)
        self.reads: dict[str, tuple[tuple[int, ...], ...]] = {}
        self.gives: dict[str, tuple[int, ...]] = {}
        self.calls: list[Call] = []
        self.structure, self.outputs = self._probe()
        ran = dict.fromkeys(node.owner for node in self.structure if node.role == "layer")
        paths = {layers.clean(name): module for name, module in model.named_modules(remove_duplicate=False)}
        self.leaves = {path: paths[path] for path in ran if path in paths and layers.is_leaf(paths[path])}
        self.paths = paths
        # transformers' Conv1D is a dense layer with a kernel as Keras keeps it, though no module of torch's.
        dense = (nn.modules.conv._ConvNd, nn.Linear)
        ran_too = {p: m for p, m in paths.items() if type(m).__name__ == "Conv1D" and p in self.gives}
        self.weighted = {p: m for p, m in self.leaves.items() if isinstance(m, dense)} | ran_too

    def mutate(self, name: str, seed: int = 0) -> Mutation | None:
        """The port with a defect of this kind somewhere in its middle; None where there is no place for it."""
        found = KINDS[name]
        for position, site in enumerate(self._middle_first(list(found.sites(self)), f"{name}{seed}")):
            if position == _MOST_SITES:
                break
            work = Work(self, name, seed)
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    if found.apply(work, site) is False:
                        continue
                structure, outputs = observe(work.model, self.inputs)
            except Exception:
                continue  # what the layer is used for does not allow this defect
            if found.latent == differ(self.outputs, outputs):
                continue
            names = work.names(structure)
            kept = {old for old in names.values() if old is not None}
            lost = {node.name for node in self.structure if node.role == "op" and node.name not in kept}
            if work.strays or any(not _within(name, work.where) for name in lost):
                continue  # the forward calls other functions now: their numbers say no longer which is which
            return Mutation(
                name,
                work.model,
                tuple(work.where),
                frozenset(node.name for node in self.structure if node.name not in kept),
                frozenset(new for new, old in names.items() if old is None),
                {new: old for new, old in names.items() if old is not None and old != new},
                names,
                found.latent,
            )
        return None

    def modules(self, *classes: type[nn.Module]) -> Iterator[str]:
        """Paths of the leaf modules of these classes that ran, in running order."""
        return (path for path, module in self.leaves.items() if isinstance(module, classes))

    def _middle_first(self, sites: list[Any], text: str) -> list[Any]:
        """The middle half in a seeded order, then the rest."""
        rng = np.random.default_rng(zlib.crc32(text.encode()))
        quarter = len(sites) // 4
        order = [*rng.permutation(np.arange(quarter, len(sites) - quarter))]
        order += [*rng.permutation([i for i in range(len(sites)) if i < quarter or i >= len(sites) - quarter])]
        return [sites[int(i)] for i in order]

    def _probe(self) -> tuple[Structure, list[torch.Tensor]]:
        recorder = Recorder(self.model, describe=True)
        probe = _Probe(recorder)
        forward, own = self.model.forward, vars(self.model).get("forward")

        @functools.wraps(forward)
        @unseen
        def watched(*args: Any, **kwargs: Any) -> Any:
            with probe:
                return forward(*args, **kwargs)

        def shapes(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            path = recorder.paths.get(module, "")
            self.reads.setdefault(path, tuple(tuple(t.shape) for _, t in walk((args, kwargs))))
            given = [tuple(t.shape) for _, t in walk(output)]
            if given:
                self.gives.setdefault(path, given[0])

        handles = [m.register_forward_hook(shapes, with_kwargs=True) for m in self.model.modules()]
        self.model.forward = watched
        try:
            with running.run(self.model, self.inputs, recorder, Run()) as result:
                outputs = [tensor.detach().clone() for _, tensor in walk(result)]
        finally:
            del self.model.forward
            if own is not None:  # a defect is built into it
                self.model.forward = own
            for handle in handles:
                handle.remove()
        structure, names = finished(
            recorder.events, recorder.calls, recorder.outputs, recorder.places, recorder.owned, ()
        )
        for scope, op, ordinal, index, shapes_read, scalars, read in probe.seen:
            node = structure.by_name[names[recorder.events[index].key]]
            self.calls.append(Call(scope, op, ordinal, node, shapes_read, scalars, read))
        return structure, outputs


def observe(
    model: nn.Module, inputs: Inputs, emit: Callable[[Any, torch.Tensor], None] | None = None
) -> tuple[Structure, list[torch.Tensor]]:
    """A model's graph as tracer records it, and its outputs. Raises what the model raises."""
    recorder = Recorder(model, describe=True, emit=emit)
    with running.run(model, inputs, recorder, Run()) as result:
        outputs = [tensor.detach().clone() for _, tensor in walk(result)]
    return finished(recorder.events, recorder.calls, recorder.outputs, recorder.places, recorder.owned, ())[0], outputs


def differ(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    """Whether two models' outputs differ by more than rounding."""
    if [a.shape for a in left] != [b.shape for b in right]:
        return True
    for a, b in zip(left, right, strict=True):
        scale = float(a.double().abs().max()) if a.numel() else 0.0
        if a.numel() and not float((a.double() - b.double()).abs().max()) <= LEAST_CHANGE * scale:
            return True
    return False


def unseen(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` as code without a file: a node's source stays the model's own line."""
    code = function.__code__.replace(co_filename="<defect>")
    copied = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


class _Probe(TorchFunctionMode):
    """Notes which call made which event of the recorder around it."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.counts: dict[tuple[str, int, str], int] = defaultdict(int)
        self.seen: list[tuple[str, str, int, int, tuple[tuple[int, ...], ...], tuple[Any, ...], int]] = []

    @unseen
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        recorder, named = self.recorder, kwargs or {}
        if not recorder.watching():
            return func(*args, **named)
        frame, op = recorder.stack[-1], functions.name_of(func)
        key = frame.path, frame.call, op
        ordinal = self.counts[key]
        self.counts[key] += 1
        tensors = [tensor for _, tensor in walk((tuple(args), dict(named)))]
        read = sum(recorder.origins[tensor].node is not None for tensor in tensors)
        known = tuple(tuple(tensor.shape) for tensor in tensors)
        scalars = tuple(a for a in args if isinstance(a, bool | int | float))
        before = len(recorder.events)
        result = func(*args, **named)
        made = [i for i in range(before, len(recorder.events)) if recorder.events[i].role == "op"]
        if made:
            self.seen.append((frame.path, op, ordinal, made[0], known, scalars, read))
        return result


class _Intercept(TorchFunctionMode):
    """Replaces one call that a module makes itself; ``depth`` is above zero inside its children."""

    def __init__(self, op: str, ordinal: int, change: Change, depth: list[int]) -> None:
        super().__init__()
        self.op, self.ordinal, self.change, self.depth = op, ordinal, change, depth
        self.count = 0

    @unseen
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if self.depth[0] == 0 and functions.name_of(func) == self.op:
            self.count += 1
            if self.count == self.ordinal + 1:
                return self.change(func, tuple(args), named)
        return func(*args, **named)


def around(module: nn.Module, run: Callable[..., Any]) -> None:
    """Let ``run(forward, *args, **kwargs)`` stand for a module's forward; the module still counts as what it is."""
    module.forward = _Around(module.forward, unseen(run))


class _Around:
    """What stands for a module's forward, in its copies for theirs."""

    def __init__(self, forward: Callable[..., Any], run: Callable[..., Any]) -> None:
        functools.update_wrapper(self, forward)  # says whose forward it is: a layer of torch's own stays one
        self.forward, self.run = forward, run

    @unseen
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.forward, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Around:
        return _Around(copy.deepcopy(self.forward, memo), self.run)


@dataclass
class Work:
    """A copy of the subject that a defect is being built into.

    Attributes:
        where: what computes otherwise now.
        moved: prefixes of node names, new to old; None for what is nobody's twin.
        edits: the calls that were replaced; ``first`` and ``last`` say that the model's inputs or outputs were changed,
            ``moving`` that what this inserted only moves values.
        strays: functions that the correct port does not call.
    """

    subject: Subject
    kind: str
    seed: int = 0
    where: list[str] = field(default_factory=list)
    moved: dict[str, str | None] = field(default_factory=dict)
    edits: list[Call] = field(default_factory=list)
    first: bool = False
    last: bool = False
    moving: bool = False
    strays: int = 0

    def __post_init__(self) -> None:
        self.model: nn.Module = copy.deepcopy(self.subject.model)
        self.rng = np.random.default_rng(self.seed)

    def at(self, path: str) -> Any:
        """The copy's module at a path, which computes otherwise from now on."""
        self.where.append(path)
        return self.model.get_submodule(path)

    # --- modules --------------------------------------------------------------------------------------------

    def replace(self, path: str, new: nn.Module) -> None:
        """Another module in the place of one."""
        if path not in self.where:
            self.where.append(path)
        parent, _, key = path.rpartition(".")
        self.model.get_submodule(parent)._modules[key] = new.eval()

    def remove(self, path: str) -> None:
        """A module less: its successors in a Sequential or ModuleList move up; elsewhere nothing stands for it."""
        if not self._renumbered(path, []):
            self.replace(path, nn.Identity())
            self.moved[path] = None

    def insert(self, path: str, new: nn.Module, *, before: bool = False, moving: bool = False) -> None:
        """A further module before or after one."""
        self.moving = moving
        new.eval()
        module = self.model.get_submodule(path)
        pair: list[tuple[bool, nn.Module]] = (
            [(False, new), (True, module)] if before else [(True, module), (False, new)]
        )
        if not self._renumbered(path, pair):
            self.replace(path, nn.Sequential(*(part for _, part in pair)))
            self.moved |= {path: None, f"{path}.{int(before)}": path, f"{path}.{int(not before)}": None}

    def _renumbered(self, path: str, parts: list[tuple[bool, nn.Module]]) -> bool:
        """Put ``parts`` (whether it is the old one, module) in the place of a module in a list of modules."""
        above, _, key = path.rpartition(".")
        parent = self.model.get_submodule(above)
        prefix = f"{above}." if above else ""
        if not (isinstance(parent, nn.Sequential | nn.ModuleList) and all(n.isdecimal() for n in parent._modules)):
            return False
        self.where.append(path)
        entries: list[tuple[str | None, nn.Module]] = []
        for name, module in parent._modules.items():
            if name == key:
                entries += [(key if old else None, part) for old, part in parts]
            elif module is not None:
                entries.append((name, module))
        self._recounted(above, len(parent._modules), len(entries))
        indexed = all(_indexed(module, int(name)) for name, module in parent.named_children())
        parent._modules.clear()
        for index, (was, module) in enumerate(entries):
            parent._modules[str(index)] = module
            for part in _indexed(module, int(was or key)) if indexed else ():
                part.layer_idx = index
            self.moved[f"{prefix}{index}"] = None if was is None else f"{prefix}{was}"
        return True

    def _recounted(self, above: str, before: int, after: int) -> None:
        """Tell the configuration that counts the blocks: transformers' models make a list of that length."""
        while above:
            above = above.rpartition(".")[0]
            settings = getattr(self.model.get_submodule(above), "config", None)
            if settings is not None:
                for name in _COUNTS:
                    if getattr(settings, name, None) == before:
                        setattr(settings, name, after)
                return

    # --- functions ------------------------------------------------------------------------------------------

    def edit(self, call: Call, change: Change, *, moving: bool = False) -> None:
        """Do something else in place of a call; the last tensor made in its place is its twin."""
        self.moving = moving
        scope = self.model.get_submodule(call.scope)
        depth = [0]

        def deeper(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            depth[0] += 1
            try:
                return forward(*args, **kwargs)
            finally:
                depth[0] -= 1

        for module in scope.modules():
            if module is not scope:
                around(module, deeper)

        def run(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with _Intercept(call.op, call.ordinal, unseen(change), depth):
                return forward(*args, **kwargs)

        around(scope, run)
        self.edits.append(call)
        self.where.append(_stem(call.node.name))

    def feed(self, change: Callable[[torch.Tensor], torch.Tensor], *, moving: bool = False) -> None:
        """Change the model's first floating-point input before anything else."""
        self.moving = moving

        change = unseen(change)

        def run(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            floating = [t for _, t in walk((args, kwargs)) if t.is_floating_point()]

            def swap(value: Any) -> Any:
                return change(value) if floating and value is floating[0] else value

            return forward(*map(swap, args), **{key: swap(value) for key, value in kwargs.items()})

        around(self.model, run)
        self.first = True

    def finish(self, change: Callable[[Any], Any]) -> None:
        """Change what the model returns."""
        change = unseen(change)
        around(self.model, lambda forward, *args, **kwargs: change(forward(*args, **kwargs)))
        self.last = True

    # --- which node is which --------------------------------------------------------------------------------

    def names(self, structure: Structure) -> dict[str, str | None]:
        """The nodes of the defective port and which of the correct one each is, see :class:`Mutation`."""
        old = self.subject.structure
        exact: dict[str, str | None] = {}
        for scope in dict.fromkeys(call.scope for call in self.edits):
            exact |= self._spliced(old, structure, scope)
        if self.first or self.last:
            exact |= self._spliced(old, structure, "")
        out: dict[str, str | None] = {}
        for node in structure:
            name = _resolve(node.name, exact)
            if name is not None:
                name = _resolve(name, self.moved)
            if name is None and self.moving:
                continue
            if name is not None and name not in old.by_name:
                self.strays += node.role == "op"
                name = None
            if node.alias_of is not None:
                passed = out.get(node.alias_of)
                if (None if name is None else old.by_name[name].alias_of) != passed:
                    continue  # it passes on another tensor than before: an inserted one, or one further back
            out[node.name] = name
        return out

    def _spliced(self, old: Structure, new: Structure, scope: str) -> dict[str, str | None]:
        """The functions of a scope, whose numbers count its calls: paired in running order around what was edited."""
        out: dict[str, str | None] = {}
        before, after = _operations(old, scope), _operations(new, scope)
        stem = next((_stem(call.node.name) for call in self.edits if call.scope == scope), None)
        for call, names in after.items():
            was = before.get(call, [])
            more = len(names) - len(was)
            start = 0
            if stem is not None:
                start = next((i for i, name in enumerate(was) if _stem(name) == stem), len(was))
            elif self.last:
                start = len(was)
            keeps = int(stem is not None and start < len(was))  # the one that was edited may live on
            made = more + keeps
            for position, name in enumerate(names):
                if position < start:
                    twin: str | None = was[position]
                elif position < start + made:
                    twin = was[start] if keeps and position == start + made - 1 else None
                else:
                    twin = was[position - more]
                out[name] = twin
        return out


def _operations(structure: Structure, scope: str) -> dict[int, list[str]]:
    """The functions that a module calls itself, for each call of the module."""
    out: dict[int, list[str]] = defaultdict(list)
    for node in structure:
        if node.role == "op" and node.scope == scope and node.label not in ("output", "made unseen"):
            out[_call_of(node.name)].append(node.name)
    return out


def _call_of(name: str) -> int:
    _, mark, call = name.rpartition("#")
    return int(call) if mark and call.isdecimal() else 0


def _indexed(module: nn.Module, index: int) -> list[Any]:
    """Parts of a block that know its place, where transformers caches keys and values."""
    return [part for part in module.modules() if getattr(part, "layer_idx", None) == index]


def _within(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith((f"{place}.", f"{place}#", f"{place}[")) for place in places)


def _stem(name: str) -> str:
    return re.sub(r"#\d+$", "", name)


def _resolve(name: str, moved: Mapping[str, str | None]) -> str | None:
    """A name after its longest prefix in ``moved`` was exchanged; None where that prefix is nobody's."""
    ends = [i for i, letter in enumerate(name) if letter in ".#[/~"]
    for end in (len(name), *reversed(ends)):
        if name[:end] in moved:
            old = moved[name[:end]]
            return None if old is None else old + name[end:]
    return name
