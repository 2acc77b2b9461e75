"""Runs a model under a :class:`~tracer_keras.recorder.Recorder`: traced into one function, or eagerly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from tracer.adapter import Array
from tracer.graph import Structure
from tracer_keras import describe
from tracer_keras.events import Event, build, flatten
from tracer_keras.flavour import Flavour, tensorflow
from tracer_keras.recorder import Recorder
from tracer_keras.tree import Paths, is_leaf

Key = tuple[str, int, str]


@dataclass
class Plan:
    """A structure together with the way to compute its tensors.

    ``function`` returns the tensors of ``order`` for the input tensors; None when the model only runs eagerly.
    ``failed`` is where and why a model raised during the dry run; the structure then ends there. ``skipped`` says
    of nodes whose tensors cannot be stored why.
    """

    structure: Structure
    names: dict[Key, str]
    order: list[str]
    function: Any = None
    failed: str | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    paths: Paths | None = None

    def note(self, sentence: str) -> None:
        """Add a note to the structure."""
        self.structure = replace(self.structure, notes=(*self.structure.notes, sentence))

    def run(self, tensors: list[Any]) -> list[Any]:
        """The tensors of ``order``. Raises whatever the model raises."""
        with _as_written():
            return list(self.function(*tensors))


@dataclass(frozen=True)
class Call:
    """How a model is called: its flavour, paths, and what packs tensors into its arguments."""

    model: Any
    flavour: Flavour
    pack: Callable[[list[Any]], tuple[tuple[Any, ...], dict[str, Any]]]
    input_names: tuple[str, ...]

    def __call__(self, tensors: list[Any]) -> Any:
        """The model in evaluation mode."""
        args, kwargs = self.pack(tensors)
        if self._takes_training():
            kwargs = {**kwargs, "training": False}
        with warnings.catch_warnings(), self._autograph():
            warnings.simplefilter("ignore")
            return self.model(*args, **kwargs)

    def _takes_training(self) -> bool:
        if self.flavour.legacy:
            return bool(getattr(self.model, "_expects_training_arg", False))
        signature = getattr(self.model, "_call_signature", None)
        return signature is None or "training" in signature.parameters or self.flavour.is_functional(self.model)

    @contextmanager
    def _autograph(self) -> Iterator[None]:
        """As ``predict`` does it: tf_keras translates the calls of custom layers while a function is traced."""
        if not self.flavour.legacy or tensorflow().executing_eagerly():
            yield
            return
        context = import_module("tensorflow.python.autograph.core.ag_ctx")
        with context.ControlStatusCtx(status=context.Status.ENABLED):
            yield


def trace(call: Call, specs: list[Any]) -> Plan:
    """Trace the model once for these input specifications. Raises whatever the model raises."""
    tf = tensorflow()
    kept: list[tuple[Recorder, Any]] = []

    def body(*tensors: Any) -> list[Any]:
        kept.clear()
        graph = tf.compat.v1.get_default_graph()
        recorder = Recorder(call.model, call.flavour, Paths(call.model, call.flavour), graph)
        _inputs(recorder, call, list(tensors))
        with recorder:
            outputs = call(list(tensors))
        kept.append((recorder, outputs))
        return [event.value for event in _returned(recorder)]

    function = tf.function(body, autograph=False, jit_compile=False).get_concrete_function(*specs)
    recorder, outputs = kept[0]
    plan = _plan(recorder, call, outputs)
    keys = [event.key() for event in _returned(recorder)]
    plan.order = [plan.names[key] for key in keys]
    plan.function = function
    return plan


@contextmanager
def _as_written() -> Iterator[None]:
    """Run functions without TensorFlow's graph rewriting, so that the values are those of an eager run bit for bit."""
    options = tensorflow().config.optimizer
    before = options.get_experimental_options().get("disable_meta_optimizer", False)
    options.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        options.set_experimental_options({"disable_meta_optimizer": before})


def _returned(recorder: Recorder) -> list[Event]:
    """The events whose tensors a traced function hands out."""
    return [e for e in recorder.events if e.alias is None and e.role != "input" and reason(e.value) is None]


def run_eagerly(call: Call, tensors: list[Any], emit: Callable[[Event], None] | None = None) -> Plan:
    """Run the model layer by layer; an exception of the model ends the plan and stands in ``failed``."""
    recorder = Recorder(call.model, call.flavour, Paths(call.model, call.flavour), None, emit)
    _inputs(recorder, call, tensors)
    outputs: Any = None
    failed = None
    with recorder:
        try:
            outputs = call(tensors)
        except Exception as error:
            failed = _failure(recorder, error)
    plan = _plan(recorder, call, outputs)
    plan.failed = failed
    return plan


def _inputs(recorder: Recorder, call: Call, tensors: list[Any]) -> None:
    for name, tensor in zip(call.input_names, tensors, strict=True):
        recorder.paths.reserve(name)
        recorder.append(Event(name, "input", "Input", "input", tensor, owner=name))


def _plan(recorder: Recorder, call: Call, outputs: Any) -> Plan:
    events = recorder.events
    _unclaimed(recorder)
    ends = [recorder.tensors.at(leaf) for _, leaf in flatten(outputs) if recorder.tensors.is_tensor(leaf)]
    functional = call.flavour.is_functional(call.model)
    wanted = [event for event in ends if event is not None]
    structure, names = build(events, recorder.calls, wanted, [*recorder.notes, *_notes(recorder)], functional)
    skipped = {names[event.key()]: why for event in events if (why := reason(event.value)) is not None}
    return Plan(structure, names, [], skipped=skipped, paths=recorder.paths)


def _unclaimed(recorder: Recorder) -> None:
    """Give each container's own weights that no operation was seen to read to the container's node."""
    claimed = recorder._ops.claimed
    layers = dict(recorder.paths.layers())
    for event in recorder.events:
        layer = layers.get(event.owner)
        if event.role == "container" and layer is not None and not is_leaf(layer, recorder.flavour):
            params = describe.params_of(layer, recorder.flavour)
            event.params = tuple(p for p in params if (event.owner, p.name) not in claimed)


def _notes(recorder: Recorder) -> Iterator[str]:
    for word, what in (("lstm", "gates"), ("gru", "gates"), ("rnn", "steps"), ("attention", "heads")):
        names = list(dict.fromkeys(e.base for e in recorder.events if e.kind == word and e.role == "layer"))
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"{names[0]}{more}: {what} inside are not visible"


def reason(value: Any) -> str | None:
    """Why a tensor cannot be stored; None when it can."""
    tf = tensorflow()
    name = type(value).__name__
    if isinstance(value, tf.RaggedTensor):
        return "ragged tensor"
    if isinstance(value, tf.SparseTensor):
        return "sparse tensor"
    if isinstance(value, tf.__internal__.CompositeTensor) and not isinstance(value, (tf.Tensor, tf.Variable)):
        return f"{name} is not a plain tensor"
    dtype = getattr(value, "dtype", None)
    word = getattr(dtype, "name", str(dtype))
    return f"{word} tensor" if word in ("string", "resource", "variant") else None


def _failure(recorder: Recorder, error: BaseException) -> str:
    path, cls = recorder.failed or ("", type(recorder.root).__name__)
    where = f"layer '{path}' ({cls})" if path else f"the model ({cls})"
    return f"{where} raised {type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException, limit: int = 240) -> str:
    """The telling line of an exception's text, without the dump of arguments that Keras appends."""
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception encountered", "Error when deserializing"))]
    line = (telling or lines or [type(error).__name__])[0]
    # Keras colours the first line of some messages.
    line = line.replace("\x1b[1m", "").replace("\x1b[0m", "")
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def refused_input(plan: Plan) -> bool:
    """Whether the dry run failed because a layer's input specification does not fit what it was given."""
    return plan.failed is not None and (
        "is incompatible with the layer" in plan.failed or "Invalid input shape" in plan.failed
    )


@contextmanager
def unchanged(model: Any, flavour: Flavour) -> Iterator[None]:
    """Put every non-trainable variable (statistics, seeds, RNN states) back afterwards."""
    variables: dict[int, Any] = {}
    for layer in [model, *model._flatten_layers(include_self=False, recursive=True)]:
        try:
            own = getattr(layer, "non_trainable_variables", ())
        except ValueError:  # tf_keras, of a Sequential without weights yet
            own = ()
        states = getattr(layer, "states", None)
        for _, variable in flatten([list(own), states]):
            if hasattr(variable, "assign"):
                variables[id(variable)] = variable
    before = [(variable, _numpy(variable)) for variable in variables.values()]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _numpy(variable: Any) -> Any:
    return variable.numpy().copy() if hasattr(variable.numpy(), "copy") else variable.numpy()


def with_shapes(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Fill in shapes that the trace left open."""
    nodes = tuple(
        replace(node, shape=shapes.get(node.alias_of or node.name)) if node.shape is None else node
        for node in plan.structure.nodes
    )
    plan.structure = replace(plan.structure, nodes=nodes)


def array(value: Any) -> Array:
    """A tensor's memory as an array, without a copy on the CPU."""
    import numpy as np

    return np.asarray(value)
