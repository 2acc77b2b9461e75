"""Watches one run of a model: every layer call, Keras operation and TensorFlow operation outside leaf layers.

The same recorder watches a model while TensorFlow traces it into one function (the tensors are then symbolic, and
the function returns them all) and while it runs eagerly. Everything it patches is put back when it closes.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracer.forked import ends_with_process
from tracer.graph import Role
from tracer.kinds import composed
from tracer_keras import composites, describe
from tracer_keras.activations import Probed, probe_activation
from tracer_keras.events import Event, exchanged_leaves, flatten, user_source
from tracer_keras.flavour import Flavour
from tracer_keras.opwatch import OpWatch
from tracer_keras.tensors import Tensors
from tracer_keras.tree import Paths, from_library, is_leaf
from tracer_keras.vocabulary import words

_PATCHING = threading.RLock()
_HIGHER_ORDER = words(
    "cond map scan while_loop fori_loop vectorized_map associative_scan switch custom_gradient stop_gradient "
    "convert_to_tensor convert_to_numpy shape is_tensor dtype ndim size "
)
_BEFORE = "/preactivation"


@dataclass
class Frame:
    """A layer whose call is running and whose inside is visible."""

    path: str
    layer: Any
    start: int
    opened: bool
    """Whether a layer was called inside; a custom layer in which none is stays one node."""


class Recorder:
    """Collects events; use as a context manager around ``model(...)``.

    Args:
        root: the model.
        flavour: its library.
        paths: the model's layer paths.
        graph: the function graph being traced; None for an eager run.
        emit: called with each event as soon as it is final (eager runs).
        meet: called with each layer before it runs.
        watch: called with each tensor before anything reads it.
        swap: called with each event's key and tensor before anything reads it; what it returns takes the tensor's
            place, unless it is None.
    """

    def __init__(
        self,
        root: Any,
        flavour: Flavour,
        paths: Paths,
        graph: Any = None,
        emit: Callable[[Event], None] | None = None,
        *,
        meet: Callable[[Any], None] | None = None,
        watch: Callable[[Any], None] | None = None,
        swap: Callable[[tuple[str, int, str], Any], Any] | None = None,
    ) -> None:
        self.root = root
        self.flavour = flavour
        self.paths = paths
        self.emit = emit
        self.meet = meet
        self.watch = watch
        self.swap = swap
        self._instead: dict[int, tuple[Any, Any]] = {}
        """What took the place of living tensors, by their identity, and what watches their end."""
        self.events: list[Event] = []
        self.calls: dict[str, int] = {}
        self.notes: list[str] = []
        self.empty: dict[str, str] = {}
        """Layers that returned no tensor, with what they did return."""
        self.failed: tuple[str, str] | None = None
        self.tensors = self._new_tensors(graph)
        self.frames: list[Frame] = []
        self.training = False
        """Whether the model as a whole is called in training mode."""
        self.hidden = 0
        self._emitted = 0
        self._thread = threading.get_ident()
        self._undo: list[Callable[[], None]] = []
        self._ops = self._new_watch()
        ends_with_process(self)

    def forked(self) -> None:
        self._thread = 0

    def _new_tensors(self, graph: Any) -> Tensors:
        return Tensors(graph)

    def _new_watch(self) -> OpWatch:
        return OpWatch(self)

    # -- patching ----------------------------------------------------------------------------------------------

    def __enter__(self) -> Recorder:
        _PATCHING.acquire()
        try:
            self._patch_calls(self.flavour.layer_class, self._layer_call)
            if self.flavour.operation_class is not None:
                self._patch_calls(self.flavour.operation_class, self._operation_call)
                self._patch_functions()
            self._undo.append(self._ops.install())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._undo:
                self._undo.pop()()
        finally:
            _PATCHING.release()

    def _patch_calls(self, cls: Any, handler: Callable[..., Any]) -> None:
        original = cls.__dict__["__call__"]

        @functools.wraps(original)
        def call(instance: Any, *args: Any, **kwargs: Any) -> Any:
            return handler(original, instance, args, kwargs)

        # AutoGraph would otherwise translate this wrapper instead of calling it.
        call.autograph_info__ = {}  # type: ignore[attr-defined]
        cls.__call__ = call
        self._undo.append(lambda: setattr(cls, "__call__", original))

    def _patch_functions(self) -> None:
        """Make each public ``keras.ops`` function one operation, however many it is made of."""
        module = self.flavour.module.ops
        for name, function in list(vars(module).items()):
            if name.startswith("_") or name in _HIGHER_ORDER or isinstance(function, type) or not callable(function):
                continue
            if not hasattr(function, "__code__"):
                continue
            setattr(module, name, self._function(name, function))
            self._undo.append(functools.partial(setattr, module, name, function))

    def _function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.watching() or self._symbolic(args, kwargs):
                return function(*args, **kwargs)
            outputs = self._hide(function, args, kwargs)
            parents = self.tensors.parents((args, kwargs))
            if parents and any(self.tensors.unknown(t) for _, t in flatten(outputs)):
                config = {k: v for k, v in kwargs.items() if isinstance(v, (bool, int, float, str))}
                params, weighted = self._ops.claim([leaf for _, leaf in flatten((args, kwargs))])
                kind = composites.kind_of(name, args, kwargs, weighted=weighted)
                self.add_op(name, kind, f"keras.ops.{name}", parents, outputs, config, params)
            return self.given(outputs)

        call.autograph_info__ = {}  # type: ignore[attr-defined]
        return call

    # -- calls -------------------------------------------------------------------------------------------------

    def watching(self) -> bool:
        """Whether what runs now belongs to the model's visible part."""
        return (
            not self.hidden and bool(self.frames) and threading.get_ident() == self._thread and self.tensors.in_graph()
        )

    def _symbolic(self, *values: Any) -> bool:
        return any(type(leaf).__name__.endswith("KerasTensor") for _, leaf in flatten(values))

    def _hide(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.hidden += 1
        try:
            return function(*args, **kwargs)
        finally:
            self.hidden -= 1

    def _operation_call(self, original: Any, operation: Any, args: Any, kwargs: Any) -> Any:
        if isinstance(operation, self.flavour.layer_class) or not self.watching():
            return original(operation, *args, **kwargs)
        if self._symbolic(args, kwargs):
            return self._hide(functools.partial(original, operation), args, kwargs)
        return self._leaf(original, operation, args, kwargs, role="op")

    def _layer_call(self, original: Any, layer: Any, args: Any, kwargs: Any) -> Any:
        if layer is self.root and not self.frames and threading.get_ident() == self._thread:
            return self._container(original, layer, args, kwargs, path="", custom=False)
        if not self.watching():
            path = self.paths.get(layer)
            if self.frames and not self.hidden and path and not self.tensors.in_graph() and not self.tensors.trying():
                self.notes.append(f"{path}: runs inside a loop or branch, not visible")
            return original(layer, *args, **kwargs)
        if self._symbolic(args, kwargs):
            return self._hide(functools.partial(original, layer), args, kwargs)
        if self.meet is not None:
            self.meet(layer)
        for frame in self.frames:
            frame.opened = True
        if is_leaf(layer, self.flavour):
            role: Role = "op" if "OpLambda" in type(layer).__name__ else "layer"
            return self._leaf(original, layer, args, kwargs, role=role)
        path = self.paths.assign(layer, self.frames[-1].path)
        return self._container(original, layer, args, kwargs, path=path, custom=not self._is_model(layer))

    def _is_model(self, layer: Any) -> bool:
        return isinstance(layer, self.flavour.model_class) or from_library(layer)

    def _call_number(self, path: str) -> int:
        number = self.calls.get(path, 0)
        self.calls[path] = number + 1
        return number

    def _leaf(self, original: Any, layer: Any, args: Any, kwargs: Any, role: Role) -> Any:
        scope = self.frames[-1].path
        path = self.paths.assign(layer, scope)
        number = self._call_number(path)
        # Keras 3 passes masks along by itself; they are no input that a port has to provide.
        given = {key: value for key, value in kwargs.items() if key != "mask"}
        parents = self.tensors.parents((args, given))
        masks = self.tensors.parents(kwargs.get("mask"))
        kind = describe.kind_of(layer, self.flavour)
        inner = self.watch if self.swap is None else functools.partial(self.swap, (path, number, _BEFORE))
        restore, probed = probe_activation(layer, kind, inner)
        try:
            outputs = self._hide(functools.partial(original, layer), args, kwargs)
        except BaseException:
            self._fail(path, layer)
            raise
        finally:
            restore()
        split = probed[0] if len(probed) == 1 and self._is_output(probed[0][1], outputs) else None
        mode = self._own_mode(layer, kind, kwargs)
        self._record(layer, path, number, kind, role, scope, parents, outputs, split, masks, mode)
        return self.given(outputs)

    def _own_mode(self, layer: Any, kind: str, kwargs: Any) -> dict[str, Any]:
        """``training`` of a layer that computes otherwise in training and is called in another mode than the model."""
        asked = kwargs.get("training")
        if kind == "batchnorm" and self.training and not getattr(layer, "trainable", True):
            asked = False
        if kind not in ("batchnorm", "dropout") or not isinstance(asked, bool) or asked == self.training:
            return {}
        return {"training": asked}

    def _container(self, original: Any, layer: Any, args: Any, kwargs: Any, path: str, custom: bool) -> Any:
        if not self.frames:
            self.training = bool(kwargs.get("training"))
        scope = self.frames[-1].path if self.frames else ""
        number = self._call_number(path) if path else 0
        parents = self.tensors.parents((args, kwargs))
        frame = Frame(path, layer, len(self.events), opened=not custom)
        self.frames.append(frame)
        try:
            outputs = original(layer, *args, **kwargs)
        except BaseException:
            self._fail(path, layer)
            raise
        finally:
            self.frames.pop()
        if not path:
            return outputs
        inside = self.events[frame.start :]
        if not frame.opened:
            del self.events[frame.start :]
            self.tensors.forget(inside)
        role: Role = "container" if frame.opened else "layer"
        kind = describe.kind_of(layer, self.flavour)
        if not frame.opened and kind.startswith("other:"):
            kind = self._composed(layer, inside, outputs) or kind
        first = self._record(layer, path, number, kind, role, scope, parents, outputs, None)
        if not frame.opened and first is not None:
            for event in inside:
                event.merged = first
                self.paths.release(event.base)
        self.flush()
        return self.given(outputs)

    def _composed(self, layer: Any, inside: list[Event], outputs: Any) -> str | None:
        """What the operations that a layer is made of compute together."""
        leaves = [leaf for _, leaf in flatten(outputs)]
        if not inside and len(leaves) == 1 and self.tensors.at(leaves[0]) is not None:
            return "identity"
        return composed([e.kind for e in inside if e.role == "op"], weighted=bool(getattr(layer, "weights", ())))

    def _fail(self, path: str, layer: Any) -> None:
        # The innermost layer is the first to see its exception.
        if self.failed is None:
            self.failed = (path, type(layer).__name__)

    def _is_output(self, value: Any, outputs: Any) -> bool:
        leaves = [leaf for _, leaf in flatten(outputs)]
        return len(leaves) == 1 and self.tensors.same(value, leaves[0])

    # -- events ------------------------------------------------------------------------------------------------

    def _record(
        self,
        layer: Any,
        path: str,
        number: int,
        kind: str,
        role: Role,
        scope: str,
        parents: tuple[Event, ...],
        outputs: Any,
        split: Probed | None,
        masks: tuple[Event, ...] = (),
        mode: dict[str, Any] | None = None,
    ) -> Event | None:
        flavour = self.flavour
        rank = _rank(next((p.value for p in parents), None))
        common: dict[str, Any] = {
            "call": number,
            "owner": path,
            "scope": scope,
            "source": user_source(),
            "layout": describe.layout_of(layer, kind, rank),
            "needs": masks,
        }
        config = describe.config_of(layer, kind, flavour) | (mode or {})
        label = describe.label_of(layer, flavour)
        params = describe.params_of(layer, flavour) if role in ("layer", "op") else ()
        if split is not None:
            before, _, activation = split
            inner = Event(
                path, kind, label, "activation", before, _BEFORE,
                parents=parents, config=config, params=params, **common,
            )  # fmt: skip
            self.append(inner)
            word = getattr(activation, "__name__", type(activation).__name__)
            kind, label = describe.activation_name_kind(activation), f"{label}.{word}"
            parents, params, config = (inner,), (), {"activation": word}
            if isinstance(activation, flavour.layer_class):  # its slope or limit
                config = {**describe.config_of(activation, kind, flavour), **config}
            else:
                config = {**describe.activation_config(activation, kind), **config}
        return self._outputs(
            Event(path, kind, label, role, None, parents=parents, config=config, params=params, **common), outputs
        )

    def add_op(
        self,
        word: str,
        kind: str,
        label: str,
        parents: tuple[Event, ...],
        outputs: Any,
        config: dict[str, Any],
        params: tuple[Any, ...] = (),
    ) -> None:
        """Note an operation that ran outside every leaf layer."""
        scope = self.frames[-1].path
        base = self.paths.reserve(f"{scope}/{word}" if scope else word)
        event = Event(
            base, kind, label, "op", None,
            parents=parents, owner=scope, scope=scope, source=user_source(), config=config, params=params,
        )  # fmt: skip
        self._outputs(event, outputs)

    def _outputs(self, first: Event, outputs: Any) -> Event | None:
        """Append ``first`` for the first tensor of ``outputs`` and an item for each further one."""
        leaves = [(place, leaf) for place, leaf in flatten(outputs) if self.tensors.is_tensor(leaf)]
        if not leaves:
            if outputs is not None and first.role in ("layer", "container"):
                self.empty[first.base] = type(outputs).__name__
            return None
        for index, (place, leaf) in enumerate(leaves):
            event = first
            if index:
                event = Event(
                    first.base, "item", f"{first.label}{place}", "item", None, place, first.call, (first,),
                    first.owner, first.scope, first.source,
                )  # fmt: skip
            event.value = leaf
            event.alias = self.tensors.at(leaf)
            self.append(event)
        return first

    def append(self, event: Event) -> None:
        """Take ``event`` as the node of its tensor."""
        if self.swap is not None and event.alias is None and event.suffix != _BEFORE:
            instead = self.swap(event.key(), event.value)
            if instead is not None:
                if hasattr(event.value, "_keras_mask"):
                    instead._keras_mask = event.value._keras_mask
                self.replace(event.value, instead)
                event.value = instead
        if self.watch is not None and event.alias is None:
            self.watch(event.value)
        self.tensors.register(event)
        self.events.append(event)
        self.flush()

    def replace(self, value: Any, instead: Any) -> None:
        """``instead`` takes the place of ``value`` wherever a layer or operation returns it."""
        key = id(value)
        try:
            end: Any = weakref.ref(value, lambda _: self._instead.pop(key, None))
        except TypeError:  # what cannot be watched is kept, so that its identity is not used twice
            end = value
        self._instead[key] = instead, end

    def given(self, outputs: Any) -> Any:
        """Nested ``outputs`` with what took the place of their tensors."""
        return exchanged_leaves(outputs, self._instead) if self._instead else outputs

    def flush(self) -> None:
        """Hand over what can no longer be merged into an enclosing custom layer."""
        if self.emit is None or any(not frame.opened for frame in self.frames):
            return
        while self._emitted < len(self.events):
            event = self.events[self._emitted]
            self._emitted += 1
            self.emit(event)
            if self.watch is None:
                event.value = self.tensors.handed_over(event.value)


def _rank(value: Any) -> int | None:
    """The number of dimensions; None where it is open."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return len(shape)
    return getattr(shape, "rank", None)
