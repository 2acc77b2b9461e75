"""Records Keras 3 models on backends other than TensorFlow: one eager run, each tensor handed over at once."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tracer.adapter import Array, Exchange, InputSpec, NotRecorded, Sink
from tracer.errors import InputError, ModelError, OptionError, ReplayError
from tracer.graph import Param
from tracer_keras import composites, describe, runner
from tracer_keras.backend import Backend, word
from tracer_keras.events import Event, build, flatten
from tracer_keras.exchanges import exchanged
from tracer_keras.flavour import Flavour
from tracer_keras.model import KerasModel
from tracer_keras.opwatch import OpWatch
from tracer_keras.recorder import Recorder
from tracer_keras.replay import exchanged_inputs
from tracer_keras.tensors import Tensors
from tracer_keras.tree import Paths, is_leaf, weights_of
from tracer_keras.vocabulary import op_kind, snake


@dataclass(frozen=True)
class _Described:
    """What is kept of a tensor once it was handed over."""

    shape: tuple[int, ...]
    dtype: str
    op = None


@dataclass(frozen=True)
class _Kept(_Described):
    """A tensor's values before it was changed in place."""

    array: Array


class EagerTensors(Tensors):
    """The origins of eager tensors. Holds none of them: a number that is used again is known by its owner's end."""

    def __init__(self, on: Backend) -> None:
        self.backend = on
        self.graph = None
        self._exact = {}
        self._origin = {}
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._watched: dict[int, Any] = {}
        self._next = 0

    def in_graph(self) -> bool:
        return self.backend.eager()

    def trying(self) -> bool:
        return False

    def is_tensor(self, value: Any) -> bool:
        return self.backend.is_tensor(value)

    def _symbolic(self, value: Any) -> bool:
        return False

    def _components(self, value: Any) -> list[Any]:
        return []

    def key(self, value: Any) -> int:
        identity = id(value)
        if identity not in self._numbers:
            try:
                self._watched[identity] = weakref.ref(value, functools.partial(self._gone, identity))
            except TypeError:  # numpy's scalars
                self._kept.append(value)
            self.renew(value)
        return self._numbers[identity]

    def _gone(self, identity: int, _: object) -> None:
        self._numbers.pop(identity, None)
        self._watched.pop(identity, None)

    def canonical(self, value: Any) -> int:
        return self.key(value)

    def link(self, value: Any, source: Any) -> None:
        number = self.key(source)
        self.key(value)
        self._numbers[id(value)] = number

    def renew(self, value: Any) -> None:
        """``value`` holds other numbers from now on."""
        self._next += 1
        self._numbers[id(value)] = self._next

    def unexplained(self, value: Any) -> bool:
        """Whether neither a node nor a constant was seen to give ``value``."""
        return self.is_tensor(value) and self.key(value) not in self._origin


class Claims(OpWatch):
    """The watch over operations on another backend: which of the containers' own weights they read."""

    recorder: EagerRecorder

    def install(self) -> Callable[[], None]:
        return self.recorder.backend.watch(self.recorder)

    def claim(self, values: list[Any]) -> tuple[tuple[Param, ...], bool]:
        if self._weights is None:
            self._weights = self._handles()
        weights = [known for value in values if (known := self._weights.get(id(value))) is not None]
        return self._claimed(weights), bool(weights)

    def _handles(self) -> dict[int, tuple[str, Param]]:
        found: dict[int, tuple[str, Param]] = {}
        flavour = self.recorder.flavour
        for path, layer in self.recorder.paths.layers():
            if is_leaf(layer, flavour):
                self._leaves.add(path)
            for name, weight in weights_of(layer, flavour):
                for holder in (weight, getattr(weight, "_value", weight)):
                    found[id(holder)] = (path, describe.param(name, weight))
        return found


class EagerRecorder(Recorder):
    """The recorder of one eager run on the backend ``on``; lets go of each tensor as soon as it was emitted."""

    tensors: EagerTensors
    _ops: Claims

    def __init__(
        self,
        on: Backend,
        root: Any,
        flavour: Flavour,
        emit: Callable[[Event], None] | None,
        meet: Callable[[Any], None],
        swap: Callable[[tuple[str, int, str], Any], Any] | None = None,
    ) -> None:
        self.backend = on
        self.written: list[str] = []
        """Models and layers written as classes that ran."""
        super().__init__(root, flavour, Paths(root, flavour), None, emit, meet=meet, swap=swap)

    def _new_tensors(self, graph: Any) -> Tensors:
        return EagerTensors(self.backend)

    def _new_watch(self) -> OpWatch:
        return Claims(self)

    def _function(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.operation(name, f"keras.ops.{name}", function, args, kwargs, named=True)

        return call

    def operation(
        self,
        name: str,
        label: str,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
        *,
        same: bool = False,
        named: bool = False,
        changed: Any = None,
    ) -> Any:
        """Call ``function``, and note the operation where it is one between layers.

        ``same`` says that its result may be its first argument again, ``named`` that ``name`` is the node's name,
        ``changed`` what it changes in place.
        """
        if changed is not None and self.frames:
            self._keep_before(changed)
        if not self.watching() or self._symbolic(args, kwargs):
            outputs = function(*args, **kwargs)
            if same and self.frames:
                self._link(args, outputs)
            return outputs
        parents = self.tensors.parents((args, kwargs))
        outputs = self._hide(function, args, kwargs)
        try:
            with self._unwatched():
                self._see(name, label, parents, args, kwargs, outputs, same, named, changed)
        except Exception as error:  # never into the user's forward pass
            self.notes.append(f"operation {label} could not be recorded: {type(error).__name__}")
        return self.given(outputs)

    def _unwatched(self) -> Any:
        recorder = self

        class Hidden:
            def __enter__(self) -> None:
                recorder.hidden += 1

            def __exit__(self, *_: object) -> None:
                recorder.hidden -= 1

        return Hidden()

    def _see(
        self,
        name: str,
        label: str,
        parents: tuple[Event, ...],
        args: Any,
        kwargs: Any,
        outputs: Any,
        same: bool,
        named: bool,
        changed: Any,
    ) -> None:
        if same and self._link(args, outputs):
            return
        made = [leaf for _, leaf in flatten(outputs) if self.tensors.is_tensor(leaf)]
        if changed is not None and self.tensors.is_tensor(changed):
            self.tensors.renew(changed)
            made = made or [changed]
            outputs = changed if name == "__setitem__" else outputs
        fresh = [leaf for leaf in made if self.tensors.unknown(leaf)]
        if not fresh:
            return
        masks = not named and all(self.backend.dtype(leaf) == "bool" for leaf in fresh)
        if not parents or masks:
            for leaf in fresh:
                self.tensors.pass_on(leaf, parents)
            return
        spelled = name if named else word(name)
        params, weighted = self._ops.claim([leaf for _, leaf in flatten((args, kwargs))])
        kind = composites.kind_of(spelled, args, kwargs, weighted=weighted)
        config = {k: v for k, v in kwargs.items() if isinstance(v, (bool, int, float, str))} if named else {}
        node = name if named else snake(spelled) if op_kind(spelled).startswith("other:") else op_kind(spelled)
        self.add_op(node, kind, label, parents, outputs, config, params)
        if changed is not None and id(changed) in self._instead:  # others hold it too
            instead, _ = self._instead.pop(id(changed))
            self.backend.overwrite(changed, instead)
            self.tensors.link(changed, instead)

    def _link(self, args: Any, outputs: Any) -> bool:
        source: Any = args[0] if args else None
        if not (self.tensors.is_tensor(source) and self.tensors.is_tensor(outputs)):
            return False
        if self.backend.dtype(source) != self.backend.dtype(outputs) or source.shape != outputs.shape:
            return False
        self.tensors.link(outputs, source)
        return True

    def _keep_before(self, changed: Any) -> None:
        """Copy what waits to be handed over and shares the memory that is about to change."""
        if not self.tensors.is_tensor(changed):
            return
        memory = self.backend.memory(changed)
        for event in self.events[self._emitted :]:
            value = event.value
            if self.tensors.is_tensor(value) and self.backend.memory(value) == memory:
                seen = self._described(value)
                event.value = _Kept(seen.shape, seen.dtype, np.array(self.backend.array(value)))

    def _leaf(self, original: Any, layer: Any, args: Any, kwargs: Any, role: Any) -> Any:
        given = {key: value for key, value in kwargs.items() if key != "mask"}
        self.miss(self.paths.assign(layer, self.frames[-1].path), "takes", (args, given))
        return super()._leaf(original, layer, args, kwargs, role)

    def _container(self, original: Any, layer: Any, args: Any, kwargs: Any, path: str, custom: bool) -> Any:
        if not self.flavour.is_functional(layer):
            self.written.append(path or "the model")
        return super()._container(original, layer, args, kwargs, path, custom)

    def _outputs(self, first: Event, outputs: Any) -> Event | None:
        if first.role == "container":
            self.miss(first.base, "returns", outputs)
        return super()._outputs(first, outputs)

    def miss(self, name: str, does: str, values: Any) -> None:
        """Say so where ``name`` takes or returns tensors that came from nowhere."""
        if self.backend.watches and any(self.tensors.unexplained(leaf) for _, leaf in flatten(values)):
            self.notes.append(f"{name} {does} a tensor whose making was not seen{self.backend.blind}")

    def flush(self) -> None:
        if any(not frame.opened for frame in self.frames):
            return
        while self._emitted < len(self.events):
            event = self.events[self._emitted]
            self._emitted += 1
            if self.emit is not None:
                self.emit(event)
            event.value = self._described(event.value)

    def release(self) -> None:
        """Let go of every tensor."""
        for event in self.events:
            event.value = self._described(event.value)

    def _described(self, value: Any) -> _Described:
        if isinstance(value, _Described):
            return _Described(value.shape, value.dtype)
        return _Described(tuple(int(size) for size in value.shape), self.backend.dtype(value))


class _Swap:
    """Lets ``exchange`` have each tensor of the nodes of ``plan`` while a model runs, and gives what it returns."""

    def __init__(self, plan: runner.Plan, exchange: Exchange, on: Backend) -> None:
        self._waiting = {node.name for node in plan.structure.stored() if node.role != "input"}
        self._names = plan.names
        self._exchange = exchange
        self._backend = on
        self.raised: BaseException | None = None

    def __call__(self, key: runner.Key, value: Any) -> Any:
        name = self._names.get(key, "")
        if self.raised is not None or name not in self._waiting:
            return None
        self._waiting.remove(name)
        if self._backend.reason(value) is not None or not self._exchange.wants(name):
            return None
        array = self._backend.array(value)
        try:
            new = exchanged(self._exchange, name, array)
        except BaseException as error:  # a recorder lets no fault of its own into the model
            self.raised = error
            return None
        return None if new is array else self._backend.tensor(new, self._backend.dtype(value))


# -- the model -------------------------------------------------------------------------------------------------


class EagerKerasModel(KerasModel):
    """A Keras 3 model on torch, JAX or NumPy."""

    framework: ClassVar[str] = "keras"

    @property
    def backend(self) -> Backend:
        return self.flavour.backend

    def versions(self) -> dict[str, str]:
        own = self.backend
        return {own.name: own.version, self.flavour.name: self.flavour.version, "numpy": np.__version__}

    def capture(self, inputs: Mapping[str, Array], sink: Sink) -> None:
        plan = self._plan(inputs)
        arrays = self._signature.check(inputs)
        stored = {node.name: node for node in plan.structure.stored()}

        def emit(event: Event) -> None:
            node = stored.pop(plan.names.get(event.key(), ""), None)
            if node is None or not sink.wants(node.name):
                return
            value = event.value
            if node.role == "input":
                sink(node.name, arrays[node.name])
            elif isinstance(value, _Kept):
                sink(node.name, value.array, owned=True)
            else:
                why = self.backend.reason(value)
                sink(node.name, self.backend.array(value) if why is None else NotRecorded(why))

        seen = self._eager_run(arrays, emit)
        failed = seen.failed or plan.failed
        if failed is not None:
            raise ModelError(failed)
        for name in stored:
            if sink.wants(name):
                sink(name, NotRecorded("not seen in this run"))

    def replay(self, inputs: Mapping[str, Array], exchange: Exchange, *, double: bool = False) -> None:
        try:
            plan = self._plan(inputs)
        except InputError as error:
            raise ReplayError(f"the model cannot be run again on this input: {error}") from error
        arrays = self._signature.check(inputs)
        dtypes = {spec.name: dtype or spec.dtype for spec, dtype in self._typed_specs()}
        types = {name: np.float32 if dtype == "bfloat16" else dtype for name, dtype in dtypes.items()}
        with self.backend.double() if double else nullcontext():
            given = exchanged_inputs(arrays, exchange, types, double=double)
            swap = _Swap(plan, exchange, self.backend)
            seen = self._eager_run(given, None, swap)
        if swap.raised is not None:
            raise swap.raised
        failed = seen.failed or plan.failed
        if failed is not None:
            raise ModelError(failed)

    def _dry_run(self, arrays: Mapping[str, Array]) -> runner.Plan:
        if self.run.loss is not None:
            raise OptionError(f"no gradients of Keras on {self.backend.name}: start with KERAS_BACKEND=tensorflow")
        if not self._built():
            # What a layer owns is only known once it is built.
            self._eager_run(arrays, None)
        plan = self._eager_run(arrays, None)
        return self._failed(plan, arrays) if plan.failed is not None else self._with_input_types(plan, arrays)

    def _typed_specs(self) -> Iterator[tuple[InputSpec, str | None]]:
        return zip(self._signature.specs, self._signature.dtypes, strict=True)

    def _eager_run(
        self, arrays: Mapping[str, Array], emit: Callable[[Event], None] | None, swap: _Swap | None = None
    ) -> runner.Plan:
        tensors = [self._tensor(arrays[spec.name], dtype or spec.dtype) for spec, dtype in self._typed_specs()]
        call = self._call()
        outputs: Any = None
        failed = None
        with self._unchanged(eager=True) as keeper:
            recorder = EagerRecorder(self.backend, self.model, self.flavour, emit, keeper.meet, swap)
            runner._inputs(recorder, call, tensors)
            with recorder:
                try:
                    outputs = call(tensors)
                except Exception as error:
                    failed = runner._failure(recorder, error)
        return self._plan_of(recorder, outputs, failed)

    def _tensor(self, array: Array, dtype: str) -> Any:
        if dtype == "string" or array.dtype.kind in "OUS":
            raise InputError(f"Keras takes no text on {self.backend.name}: start with KERAS_BACKEND=tensorflow")
        return self.backend.tensor(array, dtype)

    def _plan_of(self, recorder: EagerRecorder, outputs: Any, failed: str | None) -> runner.Plan:
        runner._unclaimed(recorder)
        leaves = [(place, leaf) for place, leaf in flatten(outputs) if recorder.tensors.is_tensor(leaf)]
        ends = [(place, event) for place, leaf in leaves if (event := recorder.tensors.at(leaf)) is not None]
        recorder.miss("the model", "returns", outputs)
        recorder.release()
        if not self.backend.watches and recorder.written:
            recorder.notes.append(
                f"{', '.join(dict.fromkeys(recorder.written))}: operators between layers are not visible on "
                f"{self.backend.name}, only keras.ops functions"
            )
        notes = [*recorder.notes, *runner._notes(recorder)]
        functional = self.flavour.is_functional(self.model)
        structure, names = build(recorder.events, recorder.calls, ends, notes, functional)
        return runner.Plan(structure, names, failed=failed, paths=recorder.paths)


def keras_model(model: Any, flavour: Flavour, loader: str, notes: tuple[str, ...] = ()) -> KerasModel:
    """``model`` behind the contract, for the backend that computes it. Raises InputError for an unknown backend."""
    kind = KerasModel if flavour.on_tensorflow else EagerKerasModel
    return kind(model, flavour, loader, notes)
