"""Runs a model under a :class:`~tracer_keras.recorder.Recorder`: traced into one function, or eagerly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any

from tracer.adapter import Array, Run
from tracer.errors import LossError
from tracer.graph import MOST_DIMENSIONS, Structure
from tracer.text import described, some, text_of
from tracer_keras import describe, losses, state
from tracer_keras.describe import weights
from tracer_keras.events import Event, build, flatten, leaves
from tracer_keras.flavour import Flavour, raw_variable, tensorflow
from tracer_keras.outlet import Outlet, Take
from tracer_keras.recorder import Recorder
from tracer_keras.tree import Paths, is_leaf

Key = tuple[str, int, str]


@dataclass
class Plan:
    """A structure together with the way to compute its tensors.

    ``function`` computes them for the input tensors and lets them out through ``outlet``; None when the model only
    runs eagerly. ``failed`` is where and why a model raised during the dry run; the structure then ends there.
    ``skipped`` says of nodes whose tensors cannot be stored why, ``flat`` the same of gradients, by node name or by a
    weight's owner and name. ``fresh`` is false once the function ran: operations that draw go on from there.
    """

    structure: Structure
    names: dict[Key, str]
    function: Any = None
    outlet: Outlet | None = None
    failed: str | None = None
    skipped: dict[str, str] = field(default_factory=dict)
    flat: Mapping[losses.Of, str] = field(default_factory=dict)
    paths: Paths | None = None
    fresh: bool = True

    def note(self, sentence: str) -> None:
        """Add a note to the structure."""
        self.structure = replace(self.structure, notes=(*self.structure.notes, sentence))

    def run(self, tensors: list[Any], take: Take) -> None:
        """Let ``take`` have ``(what, key)`` and value of every tensor.

        ``what`` is ``value`` or ``gradient``, the key a node's name or a weight's owner and name. Raises whatever the
        model raises.
        """
        assert self.outlet is not None
        self.fresh = False
        with as_written():
            self.outlet.run(self.function, tensors, take)


@dataclass(frozen=True)
class Call:
    """How a model is called: its flavour, paths, and what packs tensors into its arguments."""

    model: Any
    flavour: Flavour
    pack: Callable[[list[Any]], tuple[tuple[Any, ...], dict[str, Any]]]
    input_names: tuple[str, ...]
    run: Run = field(default_factory=Run)

    @property
    def training(self) -> bool:
        return self.run.mode == "train"

    def __call__(self, tensors: list[Any]) -> Any:
        """The model in the mode of ``run``, called as Keras's own ``predict`` or ``fit`` would."""
        args, kwargs = self.pack(tensors)
        if self.takes_training():
            kwargs = {**kwargs, "training": self.training}
        with warnings.catch_warnings(), self._autograph():
            warnings.simplefilter("ignore")
            return self.model(*args, **kwargs)

    def takes_training(self) -> bool:
        """Whether the model can be told the mode; otherwise its layers run as they do by themselves."""
        if self.flavour.legacy:
            return self.training or bool(getattr(self.model, "_expects_training_arg", False))
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
    kept: list[Plan] = []

    def body(*tensors: Any) -> None:
        kept.clear()
        graph = tf.compat.v1.get_default_graph()
        recorder = Recorder(call.model, call.flavour, Paths(call.model, call.flavour), graph)
        _inputs(recorder, call, list(tensors))
        with recorder:
            outputs = call(list(tensors))
        plan, values = _plan(recorder, call, outputs)
        plan.outlet = Outlet(graph)
        found = losses.Found([], {})
        if call.run.loss is not None:
            found = losses.in_graph(losses.scalar(call.run.loss, outputs), _targets(plan, recorder, values), graph)
            plan.flat = found.reasons
        order = [node for node in plan.structure.stored() if node.role != "input" and node.name not in plan.skipped]
        plan.outlet.add([(("value", node.name), values[node.name]) for node in order])
        plan.outlet.add([(("gradient", key), gradient) for key, gradient in found.gradients])
        kept.append(plan)

    function = tf.function(body, autograph=False, jit_compile=False).get_concrete_function(*specs)
    [plan] = kept
    plan.function = function
    return plan


def _targets(plan: Plan, recorder: Recorder, values: Mapping[str, Any]) -> losses.Targets:
    """What gradients are wanted of: the stored tensors and the trainable weights."""
    stored = {node.name: values[node.name] for node in plan.structure.stored()}
    reasons = {name: plan.skipped.get(name) or losses.undifferentiable(value) for name, value in stored.items()}
    return losses.Targets(
        {name: value for name, value in stored.items() if reasons[name] is None},
        {(path, p.name): raw_variable(weight) for path, p, weight in weights(recorder.paths) if p.trainable},
        {name: why for name, why in reasons.items() if why is not None},
    )


@contextmanager
def as_written() -> Iterator[None]:
    """Run functions without TensorFlow's graph rewriting, so that the values are those of an eager run bit for bit."""
    options = tensorflow().config.optimizer
    before = options.get_experimental_options().get("disable_meta_optimizer", False)
    options.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        options.set_experimental_options({"disable_meta_optimizer": before})


def run_eagerly(
    call: Call,
    tensors: list[Any],
    emit: Callable[[Event], None] | None = None,
    *,
    meet: Callable[[Any], None] | None = None,
    take: Take | None = None,
) -> Plan:
    """Run the model layer by layer; an exception of the model ends the plan and stands in ``failed``.

    Args:
        emit: gets each value as soon as it is final.
        meet: gets each layer before it runs.
        take: gets the gradients afterwards, as in :meth:`Plan.run`.
    """
    tf = tensorflow()
    tape = tf.GradientTape() if call.run.loss is not None else None
    recorder = Recorder(
        call.model, call.flavour, Paths(call.model, call.flavour), None, emit or (lambda event: None),
        meet=meet, watch=None if tape is None else partial(_watch, tape),
    )  # fmt: skip
    outputs: Any = None
    failed = None
    with tape or nullcontext():
        _inputs(recorder, call, tensors)
        with recorder:
            try:
                outputs = call(tensors)
            except Exception as error:
                failed = _failure(recorder, error)
        plan, values = _plan(recorder, call, outputs)
        plan.failed = failed
        if tape is None or failed is not None:
            return plan
        loss = _loss(call, outputs)
    found = losses.on_tape(tape, loss, _targets(plan, recorder, values))
    plan.flat = found.reasons
    if take is not None:
        for key, gradient in found.gradients:
            take(("gradient", key), array(gradient))
    return plan


def _loss(call: Call, outputs: Any) -> Any:
    assert call.run.loss is not None
    try:
        return losses.scalar(call.run.loss, outputs)
    except LossError:
        raise
    except Exception as error:
        raise LossError(f"{losses.FLAG} {call.run.loss} raised {described(error)}") from error


def _watch(tape: Any, value: Any) -> None:
    if isinstance(value, tensorflow().Tensor) and losses.undifferentiable(value) is None:
        tape.watch(value)


def _inputs(recorder: Recorder, call: Call, tensors: list[Any]) -> None:
    for name, tensor in zip(call.input_names, tensors, strict=True):
        recorder.paths.reserve(name)
        recorder.append(Event(name, "input", "Input", "input", tensor, owner=name))


def concluded(recorder: Recorder, call: Call, outputs: Any) -> Plan:
    """The plan of a call that ``recorder`` saw, and which returned ``outputs``."""
    return _plan(recorder, call, outputs)[0]


def _plan(recorder: Recorder, call: Call, outputs: Any) -> tuple[Plan, dict[str, Any]]:
    """The plan, and the tensors of its nodes by name."""
    _outputs(recorder, outputs)
    events = recorder.events
    _unclaimed(recorder)
    ends = [(at, recorder.tensors.at(leaf)) for at, leaf in flatten(outputs) if recorder.tensors.is_tensor(leaf)]
    functional = call.flavour.is_functional(call.model)
    wanted = [(place, event) for place, event in ends if event is not None]
    structure, names = build(events, recorder.calls, wanted, _all_notes(recorder, call), functional)
    skipped = {names[event.key()]: why for event in events if (why := reason(event.value)) is not None}
    values = {names[event.key()]: _in_graph(recorder, event.value) for event in events}
    return Plan(structure, names, skipped=skipped, paths=recorder.paths), values


def _in_graph(recorder: Recorder, value: Any) -> Any:
    """A constant of the model as a tensor of the function being traced."""
    outside = recorder.tensors.graph is not None and reason(value) is None and not hasattr(value, "op")
    return tensorflow().identity(value) if outside else value


def _outputs(recorder: Recorder, outputs: Any) -> None:
    """Make what the model returns beside the tensors of its layers nodes, and say what is no tensor at all."""
    others = []
    for place, leaf in leaves(outputs):
        if not recorder.tensors.is_tensor(leaf):
            others.append(f"{'None' if leaf is None else type(leaf).__name__}{f' at {place}' if place else ''}")
        elif recorder.tensors.at(leaf) is None:
            base = recorder.paths.reserve("output")
            parents = recorder.tensors.parents(leaf)
            recorder.append(Event(base, "other:output", "output", "op", leaf, place, parents=parents))
    if others and recorder.failed is None:
        recorder.notes.append(f"the model returns {some(others)}: no tensor, not recorded")


def _unclaimed(recorder: Recorder) -> None:
    """Give each container's own weights that no operation was seen to read to the container's node."""
    claimed = recorder._ops.claimed
    layers = dict(recorder.paths.layers())
    for event in recorder.events:
        layer = layers.get(event.owner)
        if event.role == "container" and layer is not None and not is_leaf(layer, recorder.flavour):
            params = describe.params_of(layer, recorder.flavour)
            event.params = tuple(p for p in params if (event.owner, p.name) not in claimed)


def _all_notes(recorder: Recorder, call: Call) -> list[str]:
    return [*recorder.notes, *_notes(recorder), *(_training_notes(recorder, call) if call.training else ())]


def _training_notes(recorder: Recorder, call: Call) -> Iterator[str]:
    if not call.takes_training():
        yield "the model's call takes no 'training': fit() would run its layers as in evaluation, and so does this"
    layers = dict(recorder.paths.layers())
    drawn = [e.base for e in recorder.events if e.kind == "dropout" and e.role == "layer" and e.alias is None]
    recurrent = [
        e.base
        for e in recorder.events
        if e.kind in ("lstm", "gru", "rnn") and any(_dropped(layer) for layer in describe.inside(layers.get(e.base)))
    ]
    if drawn or recurrent:
        names = some(list(dict.fromkeys([*drawn, *recurrent])))
        yield f"{names}: drawn at random, with fixed seeds; another framework draws other numbers"
    if recurrent and call.flavour.legacy:
        yield f"{some(list(dict.fromkeys(recurrent)))}: tf_keras draws in the loop, other numbers in every run"


def _dropped(layer: Any) -> bool:
    return bool(getattr(layer, "dropout", 0) or getattr(layer, "recurrent_dropout", 0))


def _notes(recorder: Recorder) -> Iterator[str]:
    if recorder.empty:
        yield f"returned no tensor: {some([f'{path} ({kind})' for path, kind in recorder.empty.items()])}"
    for word, what in (("lstm", "gates"), ("gru", "gates"), ("rnn", "steps"), ("attention", "heads")):
        kinds = (word, "other:RNN") if word == "rnn" else (word,)
        names = list(dict.fromkeys(e.base for e in recorder.events if e.kind in kinds and e.role == "layer"))
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield f"{names[0]}{more}: {what} inside are not visible"
    wrapped: dict[str, list[str]] = {}
    steps: list[str] = []
    layers = dict(recorder.paths.layers())
    for path in dict.fromkeys(e.base for e in recorder.events if e.role == "layer"):
        layer = layers.get(path)
        if layer is not None and is_leaf(layer, recorder.flavour):
            for inner in describe.inside(layer)[1:]:
                if not is_leaf(inner, recorder.flavour):
                    wrapped.setdefault(type(inner).__name__, []).append(path)
        if layer is not None and type(layer).__name__ == "TimeDistributed":
            function = getattr(layer.layer, "activation", None)
            if callable(function) and describe.activation_name_kind(function) != "identity":
                steps.append(path)
    if steps:
        yield f"{some(steps)}: what goes into its activation is not visible"
    for name, paths in wrapped.items():
        yield f"{some(list(dict.fromkeys(paths)))}: what the {name} inside does is not visible"


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
    rank = getattr(getattr(value, "shape", None), "rank", None) or 0
    if rank > MOST_DIMENSIONS:
        return f"tensor of {rank} dimensions (at most {MOST_DIMENSIONS} can be stored)"
    dtype = getattr(value, "dtype", None)
    word = getattr(dtype, "name", str(dtype))
    return f"{word} tensor" if word in ("string", "resource", "variant") else None


def _failure(recorder: Recorder, error: BaseException) -> str:
    path, cls = recorder.failed or ("", type(recorder.root).__name__)
    where = f"layer '{path}' ({cls})" if path else f"the model ({cls})"
    return f"{where} raised {type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException, limit: int = 240) -> str:
    """The telling line of an exception's text, without the dump of arguments that Keras appends."""
    text = text_of(error).strip()
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
    """Put every non-trainable variable (statistics, seeds, RNN states) back afterwards, on any backend."""
    layers = [model, *model._flatten_layers(include_self=False, recursive=True)]
    variables = {id(variable): variable for layer in layers for variable in state.variables_of(layer)}
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
