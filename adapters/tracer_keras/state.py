"""What a run of a model changes, and puts back: variables, losses, random numbers; what fixes training's draws."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from typing import Any

import numpy as np

from tracer_keras.events import flatten
from tracer_keras.flavour import Flavour, tensorflow

SEED = 0x7ACE
"""The seed of every draw that no layer owns."""
_LOSSES = ("_losses", "_loss_ids", "_callable_losses", "_eager_losses", "_updates")
_SEED_GENERATOR = "global_seed_generator"
_READING = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"})


class Keeper:
    """Keeps what one model and its library held before a run.

    Args:
        training: whether the run draws random numbers: the seeds are then the same for every run.
    """

    def __init__(self, model: Any, flavour: Flavour, training: bool) -> None:
        self.model = model
        self.flavour = flavour
        self.training = training
        self._draws: Any = None
        self._before: dict[int, tuple[Any, Any]] = {}
        self._eager = False

    @contextmanager
    def unchanged(self, more: Iterable[Any] = (), *, eager: bool = False, reading: bool = False) -> Iterator[Keeper]:
        """Put everything back afterwards: also ``more`` variables, and those of the layers told to :meth:`meet`.

        ``eager`` says that operations run one by one, whose own random state TensorFlow keeps between runs; ``reading``
        that what runs writes no variables.
        """
        self._before = {}
        with ExitStack() as stack:
            stack.enter_context(_random_numbers(self.flavour))
            stack.enter_context(self._unseeded_draws())
            stack.callback(self._put_back)
            self._eager = eager
            layers = [self.model, *self.model._flatten_layers(include_self=False, recursive=True)]
            for layer in layers:
                if self.training or not reading:
                    self.meet(layer)
                stack.enter_context(_attributes(layer))
            for variable in more:
                self._keep(variable)
            if self.training:
                self._fix_seeds(layers, eager)
            yield self

    def meet(self, layer: Any) -> None:
        """Keep the statistics, seeds and states of a layer that is about to run."""
        for variable in variables_of(layer):
            self._keep(variable)
        if self.training and self._eager:
            # Spectral normalisation, for one, writes the weights that it reads.
            for weight in getattr(layer, "weights", ()):
                self._keep(weight)

    def _keep(self, variable: Any) -> None:
        if id(variable) not in self._before:
            with tensorflow().init_scope() if self.flavour.on_tensorflow else nullcontext():
                self._before[id(variable)] = variable, np.array(variable.numpy())

    def _put_back(self) -> None:
        for variable, value in self._before.values():
            variable.assign(value)
        self._before = {}

    # -- random numbers ----------------------------------------------------------------------------------------

    @contextmanager
    def _unseeded_draws(self) -> Iterator[None]:
        """Keras 3 makes a generator at the first draw without a seed, which a traced function cannot."""
        if self.flavour.legacy:
            yield
            return
        state = import_module("keras.src.backend.common.global_state")
        before = state.get_global_attribute(_SEED_GENERATOR)
        if self._draws is None:
            with self.flavour.fresh_names():
                self._draws = self.flavour.module.random.SeedGenerator(SEED)
        self._draws.state.assign([SEED, 0])
        if before is not None and not self.training:
            self._draws.state.assign(before.state)
        state.set_global_attribute(_SEED_GENERATOR, self._draws)
        try:
            yield
        finally:
            state.set_global_attribute(_SEED_GENERATOR, before)

    def _fix_seeds(self, layers: list[Any], eager: bool) -> None:
        """Let two runs draw the same: each layer by its place, the rest by operation."""
        for number, layer in enumerate(layers):
            seed = zlib.crc32(f"{number} {type(layer).__name__}".encode()) >> 1
            for offset, generator in enumerate(getattr(layer, "_seed_generators", None) or ()):
                generator.state.assign([seed + offset, 0])
            generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
            if generator is not None:
                generator.reset_from_seed(seed)
        random.seed(SEED)
        np.random.seed(SEED)
        if not self.flavour.on_tensorflow:
            self.flavour.backend.seed(SEED)
        elif eager:
            tensorflow().random.set_seed(SEED)
        else:
            context = _context()
            context._seed, context._rng = SEED, random.Random(SEED)


def variables_of(layer: Any) -> list[Any]:
    """The variables that a run of ``layer`` may change: statistics, seeds, states."""
    own: Any = ()
    with suppress(ValueError):  # tf_keras, of a Sequential without weights yet
        own = getattr(layer, "non_trainable_variables", ())
    generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
    found = [list(own), getattr(layer, "states", None), getattr(generator, "state", None)]
    return [variable for _, variable in flatten(found) if hasattr(variable, "assign")]


def changed_by(graph: Any) -> list[Any]:
    """The variables that a function writes, also those of layers that nothing tracks; and all that nobody trains."""
    resource = tensorflow().resource
    written = {
        operation.inputs[0].name
        for operation in graph.get_operations()
        if ("Assign" in operation.type or "Scatter" in operation.type) and operation.inputs[0].dtype == resource
    }
    outside = {id(outer) for outer, inner in graph.captures if inner.name in written}
    return [variable for variable in graph.variables if not variable.trainable or id(variable.handle) in outside]


def only_reads(graph: Any) -> bool:
    """Whether a function plainly writes none of the variables that it is given."""
    resource = tensorflow().resource
    held = (inner for _, inner in graph.captures if inner.dtype == resource)
    return all(operation.type in _READING for tensor in held for operation in tensor.consumers())


def _context() -> Any:
    return import_module("tensorflow.python.eager.context").context()


@contextmanager
def _random_numbers(flavour: Flavour) -> Iterator[None]:
    """Python's, numpy's and the backend's own random state as it was."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with _tensorflow_numbers() if flavour.on_tensorflow else flavour.backend.undisturbed():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _tensorflow_numbers() -> Iterator[None]:
    context = _context()
    context.ensure_initialized()
    seed, rng = context._seed, getattr(context, "_rng", None)
    inner = rng.getstate() if rng is not None else None
    try:
        yield
    finally:
        context._seed, context._rng = seed, rng
        if rng is not None:
            rng.setstate(inner)


@contextmanager
def _attributes(layer: Any) -> Iterator[None]:
    """A layer's losses (they would hold on to our tensors) and its count of seeds."""
    own = vars(layer)
    holders = [own, vars(own["_thread_local"])] if "_thread_local" in own else [own]
    kept = [(h, name, h[name], list(h[name])) for h in holders for name in _LOSSES if h.get(name) is not None]
    generator = getattr(layer, "_random_generator", None)
    seed = getattr(generator, "_seed", None)
    try:
        yield
    finally:
        for holder, name, held, items in kept:
            holder[name] = held
            if len(held) != len(items) or any(a is not b for a, b in zip(held, items, strict=True)):
                held.clear()
                held.update(items) if isinstance(held, set) else held.extend(items)
        if generator is not None and getattr(generator, "_seed", None) != seed:
            generator._seed = seed
