"""One forward pass, watched: hooks on the modules and a function mode for what runs between them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from tracer.forked import ends_with_process
from tracer.graph import Role
from tracer.kinds import composed
from tracer_torch import functions, layers, quantized
from tracer_torch.events import NOWHERE, Event, Origin, Origins, joined
from tracer_torch.tensors import Returned, dtype_name, shape_of, version, walk

Emit = Callable[[Event, torch.Tensor], None]
Swap = Callable[[Event, torch.Tensor], torch.Tensor | None]
_INTERNAL = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep)
_RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "running.py")
_NO_OPERATIONS = frozenset({"flatten", "reshape", "view", "ravel", "squeeze", "dropout", "feature_dropout"})
"""Operations shown even where they return their very input: the other framework has a layer there."""


@dataclass(slots=True)
class Frame:
    """A module whose forward is running."""

    module: nn.Module
    path: str
    call: int
    leaf: bool
    origins: Sequence[Origin] = ()
    versions: dict[int, int] = field(default_factory=dict)
    given: tuple[Sequence[Any], Mapping[str, Any]] = ((), {})
    """What it was called with; who called it holds on to that, too."""
    start: int = 0
    """How many events there were before it."""
    source: str | None = None
    """The line that called it."""
    operations: dict[str, int] | None = None

    @property
    def passed(self) -> frozenset[int]:
        args, kwargs = self.given
        return frozenset(map(id, (*args, *kwargs.values())))


class Recorder:
    """Collects the events of one pass.

    With ``describe`` False only what names them is filled in. ``emit`` gets each tensor as it comes into being,
    ``swap`` gives what is to stand in its place for all that runs after it (None: itself), ``reads`` those that are
    used, and ``writes`` those that a function is about to change.

    Faults of our own are kept in ``faults`` and never reach the model; ``unseen`` lists the scopes that read
    tensors of which it is not known where they came from; ``empty`` the modules that returned no tensor, with what
    they did return; ``others`` what the model returned besides tensors, and ``blind`` whether it
    returned tensors of which it is not known where they came from; ``drew`` says whether random numbers were
    drawn, ``frozen`` which modules were not in training mode, ``lost`` which tensors could not be put back.
    """

    def __init__(self, root: nn.Module, *, describe: bool, emit: Emit | None = None, swap: Swap | None = None) -> None:
        self.root = root
        self.describe = describe
        self.emit = emit
        self.swap = swap
        self._swapped: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.events: list[Event] = []
        self.calls: dict[str, int] = {}
        self.faults: list[str] = []
        self.unseen: list[str] = []
        self.failed: tuple[str, nn.Module, BaseException] | None = None
        self.outputs: list[int] = []
        self.places: list[str] = []
        self.others: list[str] = []
        self.blind = False
        self.empty: dict[str, str] = {}
        self.drew = False
        self.frozen: list[str] = []
        self.lost: list[str] = []
        self.writes: Callable[[torch.Tensor], None] = lambda tensor: None
        self.reads: Callable[[torch.Tensor], None] = lambda tensor: None
        self.paths, self.reserved = layers.paths(root)
        held = list(layers.parts(root))
        self.owned = list(layers.owned(root, held))
        self.origins = Origins([tensor for _, _, tensor in self.owned])
        if computed := list(layers.computed(root, held)):
            made = {(owner, name): tensor for owner, name, tensor in self.owned}
            for owner, name, weight in computed:
                for part in weight.parts:
                    self.origins[part] = Origin(None, (), (id(made[owner, name]),))
        self.stack: list[Frame] = []
        self.busy = False
        self.thread = threading.get_ident()
        ends_with_process(self)

    def forked(self) -> None:
        self.thread = 0

    # --- what the run calls ---------------------------------------------------------------------------------

    def begin(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Record the inputs and enter the root: what the model is to be fed."""
        for name, tensor in inputs.items():
            base = name if name not in self.reserved else f"input_{name}"
            self._new(tensor, Event(base, base, 0, "", "input", kind="input", label="input"))
        self.stack = [Frame(self.root, "", 0, leaf=False)]
        return {name: self._in_place_of(tensor) for name, tensor in inputs.items()}

    def _in_place_of(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._swapped.get(id(tensor), (tensor, tensor))[1]

    def swapped(self, result: Any, read: Iterable[int] = ()) -> Any:
        """What a call or module returns instead of ``result``; tensors in ``read`` (ids) are changed where they lie."""
        if not self._swapped:
            return result
        try:
            for original, new in self._swapped.values():
                if id(original) in read and original.shape == new.shape:
                    original.copy_(new)
            kept = {key: pair for key, pair in self._swapped.items() if key not in read or _resized(*pair)}

            def replaced(value: Any) -> Any:
                return kept[id(value)][1] if id(value) in kept else value

            return tree_map(replaced, result) if kept else result
        finally:
            self._swapped.clear()

    def finish(self, result: object) -> None:
        """Note which events are the model's outputs, and where they stand in what it returns."""
        found = Returned(result)
        self.others = found.others if result is not None else ["None"]
        for path, tensor in found.tensors:
            self.reads(tensor)
            node = self.origins[tensor].node
            self.blind |= self.origins[tensor] is NOWHERE
            if node is None:
                parents, reads = joined([self.origins[tensor]])
                suffix = path if self.outputs else ""
                event = Event("output", "", 0, suffix, "op", "other:output", "output", parents, reads=reads)
                node = self._new(tensor, event)
            self.outputs.append(node)
            self.places.append(path)

    # --- modules --------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A module is about to run."""
        if threading.get_ident() != self.thread or (self.stack and self.stack[-1].leaf):
            return
        path = self.paths.get(module, "")
        call = self.calls.get(path, 0)
        self.calls[path] = call + 1
        tensors: Sequence[torch.Tensor]
        if len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor):
            tensors = args
        else:
            tensors = [tensor for _, tensor in walk((tuple(args), dict(kwargs)))]
        for tensor in tensors:
            self.reads(tensor)
        # In-place modules return their input: where it came from must be asked before they run.
        origins = [self.origins[tensor] for tensor in tensors]
        if NOWHERE in origins:
            self._unseen(tensors)
            origins = [self.origins[tensor] for tensor in tensors]
        self.stack.append(
            Frame(
                module,
                path,
                call,
                layers.is_leaf(module),
                origins,
                {id(tensor): version(tensor) for tensor in tensors},
                (args, kwargs),
                len(self.events),
                _source(hook=True) if self.describe and path else None,
            )
        )

    def leave(self, module: nn.Module, output: object) -> object:
        """A module has run, or raised: what it returns instead of ``output``, None where that stays."""
        if threading.get_ident() != self.thread:
            return None
        position = len(self.stack) - 1
        while position > 0 and self.stack[position].module is not module:
            position -= 1
        if position <= 0:
            return None
        frame = self.stack[position]
        # What lies above raised, and someone caught it.
        del self.stack[position:]
        if output is None and (error := sys.exc_info()[1]) is not None:
            if self.failed is None or self.failed[2] is not error:
                self.failed = frame.path, module, error
            return None
        tensors = [("", output)] if isinstance(output, torch.Tensor) else Returned(output, frame.passed).tensors
        if not tensors and output is not None:
            self.empty[frame.path] = type(output).__name__
        self._module_outputs(frame, tensors)
        return self.swapped(output, frame.versions) if self._swapped else None

    def _module_outputs(self, frame: Frame, tensors: list[tuple[str, torch.Tensor]]) -> None:
        module, leaf = frame.module, frame.leaf
        base = frame.path or type(module).__name__.lower()
        scope = self.stack[-1].path if self.stack else ""
        first: int | None = None
        for suffix, tensor in tensors:
            before = frame.versions.get(id(tensor))
            changed = before is not None and before != version(tensor)
            alias = None if leaf and changed else self.origins[tensor].node
            role: Role = "layer" if leaf or alias is None else "container"
            if first is None:
                parents, reads = joined(frame.origins)
                event = Event(base, frame.path, frame.call, "", role, "", "", parents, alias, scope=scope,
                              source=frame.source, reads=reads, leaf=leaf)  # fmt: skip
                if self.describe:
                    self._describe(
                        event,
                        type(module).__name__,
                        lambda: {
                            "kind": self._kind(frame), "label": type(module).__name__,
                            "config": layers.config(module) | layers.own_mode(module, self.root),
                            "layout": layers.layout(module),
                        },
                    )  # fmt: skip
                first = self._new(tensor, event, rename=leaf)
            else:
                event = Event(base, frame.path, frame.call, suffix, "item", "item", "output", (first,), alias,
                              scope=scope, leaf=leaf)  # fmt: skip
                self._new(tensor, event, rename=leaf)

    def _kind(self, frame: Frame) -> str:
        """What a module is; one of somebody's own without modules inside is what its operations compute."""
        kind = layers.kind(frame.module)
        inside = self.events[frame.start :]
        if not kind.startswith("other:") or any(event.role in ("layer", "container") for event in inside):
            return kind
        weighted = any(True for _ in frame.module.parameters(recurse=False))
        return composed([event.kind for event in inside if event.role == "op"], weighted=weighted) or kind

    def _describe(self, event: Event, name: str, describe: Callable[[], dict[str, Any]]) -> None:
        """Say of a node what ``describe`` does; a fault in saying it does not lose the node."""
        try:
            said = describe()
        except Exception as error:
            self.faults.append(f"the settings of {name}: {type(error).__name__}")
            said = {"kind": f"other:{name}", "label": name}
        for key, value in said.items():
            setattr(event, key, value)

    # --- functions ------------------------------------------------------------------------------------------

    def watching(self) -> bool:
        """Whether a function called now is the model's own, outside any leaf."""
        return bool(self.stack) and not self.busy and not self.stack[-1].leaf and threading.get_ident() == self.thread

    def before(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[tuple[torch.Tensor, Origin, int]]:
        """The tensors a call reads, before it can change them."""
        found = [tensor for _, tensor in walk((tuple(args), tuple(kwargs.values())))]
        for tensor in found:
            self.reads(tensor)
        self._unseen(found)
        return [(tensor, self.origins[tensor], version(tensor)) for tensor in found]

    def _unseen(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give a tensor that no function was seen to make (TorchScript, numpy) a node where it is first read."""
        for tensor in tensors:
            if self.origins[tensor] is not NOWHERE or not tensor.is_floating_point():
                continue
            frame = self.stack[-1]
            self.unseen.append(frame.path)
            if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # one sample of a vmap: it has no values
                continue
            name, source = self._free_name(frame, "unseen"), _source() if self.describe else None
            self._new(tensor, Event(name, frame.path, frame.call, "", "op", "other:unseen", "made unseen",
                                    scope=frame.path, source=source))  # fmt: skip
            self.swapped(None, {id(tensor)})  # it is read already, and can only be changed where it lies

    def after(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        read: list[tuple[torch.Tensor, Origin, int]],
        result: object,
    ) -> None:
        """Record what a call gave."""
        name = functions.name_of(function)
        outputs = list(walk(args[0] if name == "setitem" else result))
        if not outputs:
            return
        tensor = outputs[0][1]
        parents, reads = joined([origin for _, origin, _ in read])
        for source, origin, before in read:
            if source is tensor and version(tensor) == before and (before >= 0 or name in functions.TRANSPARENT):
                if name in _NO_OPERATIONS and origin.node is not None:
                    self._operation(function, name, args, kwargs, [outputs[0]], parents, reads, alias=origin.node)
                return
        itself = name == "view_as" and len(read) == 2 and read[0][0] is read[1][0]  # what autograd.Functions return
        if (
            (name in functions.TRANSPARENT or itself)
            and read
            and tensor.dtype == read[0][0].dtype
            and len(outputs) == 1
            and not tensor.is_meta
        ):
            kept = shape_of(tensor) == shape_of(read[0][0])
            self.origins[tensor] = read[0][1] if kept else read[0][1]._replace(node=None, nodes=parents)
            return
        if name in functions.SHAPED:
            parents, reads = (), ()
        # Masks, and what is computed from parameters or sizes alone, are seen through: their readers inherit them.
        if not parents or all(item.dtype == torch.bool for _, item in outputs):
            for _, item in outputs:
                self.origins[item] = Origin(None, tuple(dict.fromkeys(parents)), reads)
            return
        base = tensor._base
        if base is not None and any(source is tensor for source, _, _ in read):
            old = self.origins[base]
            index = self._operation(function, name, args, kwargs, outputs, parents, reads)
            if old.nodes:
                # A view was written to: its base now depends on both.
                self.origins[base] = Origin(None, (*old.nodes, index), old.reads)
            return
        self._operation(function, name, args, kwargs, outputs, parents, reads)

    def _operation(
        self,
        function: Callable[..., Any],
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        outputs: list[tuple[str, torch.Tensor]],
        parents: tuple[int, ...],
        reads: tuple[int, ...],
        alias: int | None = None,
    ) -> int:
        frame = self.stack[-1]
        base = self._free_name(frame, name)
        event = Event(base, frame.path, frame.call, "", "op", "", "", parents, alias, scope=frame.path, reads=reads)

        def describe() -> dict[str, Any]:
            config = functions.config_of(function, args, kwargs)
            kind = functions.kind_of(function, args, kwargs, outputs[0][1], config)
            if reads and name != "einsum" and (kind == "matmul" or name == "addmm"):
                kind = "dense"
            first = kind != "mean" and ("conv" in kind or "pool" in kind or kind == "batchnorm")
            return {
                "kind": kind, "label": functions.label_of(function), "config": config,
                "source": getattr(function, "line", None) or _source(), "layout": "channels_first" if first else None,
            }  # fmt: skip

        if self.describe:
            self._describe(event, name, describe)
        index = self._new(outputs[0][1], event)
        for suffix, tensor in outputs[1:]:
            self._new(tensor, Event(base, frame.path, frame.call, suffix, "item", "item", "output", (index,),
                                    scope=frame.path))  # fmt: skip
        return index

    def _free_name(self, frame: Frame, name: str) -> str:
        prefix = f"{frame.path}." if frame.path else ""
        if frame.operations is None:
            frame.operations = {}
        while True:
            count = frame.operations.get(name, 0)
            frame.operations[name] = count + 1
            base = f"{prefix}{name}_{count}" if count else prefix + name
            if base not in self.reserved and base not in self.inputs:
                return base

    @property
    def inputs(self) -> set[str]:
        """The names of the inputs, which come first."""
        found = set()
        for event in self.events:
            if event.role != "input":
                break
            found.add(event.base)
        return found

    def _new(self, tensor: torch.Tensor, event: Event, *, rename: bool = True) -> int:
        """Note that ``tensor`` came into being: the event's position. Where it is an alias, ``rename`` says whether
        what reads it from now on reads the alias."""
        index, alias = len(self.events), event.alias
        if alias is not None:
            while (further := self.events[alias].alias) is not None:
                alias = further
            event.alias = alias
        if self.describe:
            event.shape, event.dtype = shape_of(tensor), dtype_name(tensor.dtype)
            if tensor.is_quantized:  # recorded as the numbers it stands for
                event.dtype = "float32"
                event.config = {**event.config, **quantized.storage(tensor)}
        self.events.append(event)
        if alias is None or rename:
            self.origins[tensor] = Origin(index, (index,))
        if self.emit is not None:
            self.emit(event, tensor)
        if self.swap is not None and alias is None and (new := self.swap(event, tensor)) is not None:
            self._swapped[id(tensor)] = tensor, new
            self.origins[new] = self.origins[tensor]
        return index


def _resized(old: torch.Tensor, new: torch.Tensor) -> bool:
    return old.shape != new.shape


def _source(*, hook: bool = False) -> str | None:
    """``file:line`` of the innermost frame that is neither torch's nor ours; ``hook``: torch called who asks."""
    frame = sys._getframe(1)
    while hook and not frame.f_code.co_filename.startswith(_INTERNAL[0]) and frame.f_back is not None:
        frame = frame.f_back
    while frame is not None:
        file = frame.f_code.co_filename
        if file == _RUNNER:
            return None  # code without a file (a notebook's <string>): above here are only callers of tracer
        if not file.startswith(_INTERNAL) and not file.startswith("<"):
            here = os.getcwd() + os.sep
            return f"{file.removeprefix(here)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


class FunctionWatch(TorchFunctionMode):
    """Tells the recorder of every torch function the model calls itself."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        recorder = self.recorder
        if functions.may_write(func) or "out" in named:
            with contextlib.suppress(Exception):
                for tensor in functions.written(func, args, named):
                    recorder.writes(tensor)
        if not recorder.watching() or functions.name_of(func) in functions.ASKING:
            return func(*args, **named)
        read: list[tuple[torch.Tensor, Origin, int]] | None = None
        try:
            read = recorder.before(args, named)
        except Exception as error:
            recorder.faults.append(f"{functions.name_of(func)}: {type(error).__name__}")
        result = func(*args, **named)
        if read is not None:
            try:
                recorder.after(func, args, named, read, result)
                result = recorder.swapped(result, {id(tensor) for tensor, _, _ in read})
            except Exception as error:
                recorder.faults.append(f"{functions.name_of(func)}: {type(error).__name__}")
        return result
