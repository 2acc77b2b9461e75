"""A loaded Keras model, as the core sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from tracer.adapter import Array, InputSpec, LoadedModel, NotRecorded, Sink
from tracer.errors import InputError, ModelError
from tracer.graph import Node, Param, Structure
from tracer_keras import runner
from tracer_keras.describe import param
from tracer_keras.events import Event
from tracer_keras.flavour import Flavour, tensorflow
from tracer_keras.signature import Signature, shown
from tracer_keras.tree import Paths, is_leaf, weights_of


class KerasModel(LoadedModel):
    """A Keras 3 or tf_keras model. ``model`` is the object itself, ``flavour`` its library."""

    framework: ClassVar[str] = "tensorflow"

    def __init__(self, model: Any, flavour: Flavour, loader: str, notes: tuple[str, ...] = ()) -> None:
        _on_tensorflow(flavour)
        if not isinstance(model, flavour.model_class) and is_leaf(model, flavour):
            # A single library layer has no inside; as the only layer of a model it is a node.
            model = flavour.sequential_class([model])
        self.model = model
        self._paths: Paths | None = None
        self.flavour = flavour
        self.loader = loader
        self.notes = notes
        # Building may rename inputs; the names a user has seen stay.
        self._signature = Signature.of(model, flavour)
        self._plans: dict[tuple[tuple[str, tuple[int, ...], str], ...], runner.Plan] = {}

    def versions(self) -> dict[str, str]:
        return {
            "tensorflow": str(tensorflow().__version__),
            self.flavour.name: self.flavour.version,
            "numpy": np.__version__,
        }

    def signature(self) -> tuple[InputSpec, ...]:
        return self._signature.specs

    def structure(self, inputs: Mapping[str, Array]) -> Structure:
        plan = self._plan(inputs)
        return replace(plan.structure, fault=plan.failed or "")

    # -- running -----------------------------------------------------------------------------------------------

    def _call(self) -> runner.Call:
        return runner.Call(self.model, self.flavour, self._signature.pack, self._signature.names)

    def _plan(self, inputs: Mapping[str, Array]) -> runner.Plan:
        arrays = self._signature.check(inputs)
        key = tuple((name, array.shape, str(array.dtype)) for name, array in arrays.items())
        if key not in self._plans:
            self._plans[key] = self._dry_run(arrays)
            self._paths = self._plans[key].paths
        return self._plans[key]

    def _dry_run(self, arrays: Mapping[str, Array]) -> runner.Plan:
        tf = tensorflow()
        call = self._call()
        tensors = self._signature.tensors(arrays)
        if not self._built():
            # Variables cannot be made inside a traced function.
            plan = self._eager(call, tensors)
            if plan.failed is not None:
                return self._failed(plan, arrays)
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in tensors]
        try:
            plan = runner.trace(call, specs)
        except Exception:
            # Control flow on values, or a fault of the model: an eager run tells which.
            plan = self._eager(call, tensors)
            if plan.failed is not None:
                return self._failed(plan, arrays)
            plan.note("the model cannot be traced into one function: it ran layer by layer")
            return self._with_input_types(plan, arrays)
        if any(node.shape is None for node in plan.structure.stored()):
            self._measure(plan, tensors)
        return self._with_input_types(plan, arrays)

    def _eager(self, call: runner.Call, tensors: list[Any]) -> runner.Plan:
        with runner.unchanged(self.model, self.flavour):
            return runner.run_eagerly(call, tensors)

    def _failed(self, plan: runner.Plan, arrays: Mapping[str, Array]) -> runner.Plan:
        seen = [node for node in plan.structure.nodes if node.role != "input"]
        if runner.refused_input(plan) or (not seen and not self._signature.stated):
            expected = ", ".join(shown(spec) for spec in self._signature.specs)
            given = ", ".join(f"{name} {tuple(array.shape)} {array.dtype}" for name, array in arrays.items())
            raise InputError(f"the model does not take this input: {plan.failed} (expects {expected}; given {given})")
        return plan

    def _built(self) -> bool:
        if self.flavour.is_functional(self.model):
            return True
        layers = self.model._flatten_layers(include_self=True, recursive=True)
        return all(bool(getattr(layer, "built", True)) for layer in layers)

    def _measure(self, plan: runner.Plan, tensors: list[Any]) -> None:
        """Run once to learn the shapes that depend on values."""
        with runner.unchanged(self.model, self.flavour):
            try:
                values = plan.run(tensors)
            except Exception:  # the capture will say it with the layer's name
                return
        runner.with_shapes(plan, {n: tuple(v.shape) for n, v in zip(plan.order, values, strict=True)})

    def _with_input_types(self, plan: runner.Plan, arrays: Mapping[str, Array]) -> runner.Plan:
        """Inputs are recorded as given, though the model may want them in another type."""
        nodes = tuple(
            replace(node, dtype=str(arrays[node.name].dtype)) if node.role == "input" else node
            for node in plan.structure.nodes
        )
        plan.structure = replace(plan.structure, nodes=nodes)
        return plan

    def capture(self, inputs: Mapping[str, Array], sink: Sink) -> None:
        plan = self._plan(inputs)
        arrays = self._signature.check(inputs)
        tensors = self._signature.tensors(arrays)
        with runner.unchanged(self.model, self.flavour):
            values = None
            if plan.function is not None:
                try:
                    values = plan.run(tensors)
                except Exception:  # which layer it was only an eager run can tell
                    values = None
            if values is None:
                self._capture_eagerly(plan, arrays, tensors, sink)
                return
        by_name = dict(zip(plan.order, values, strict=True))
        del values
        for node in plan.structure.stored():
            if node.role == "input":
                sink(node.name, arrays[node.name])
            else:
                _hand_over(sink, node, by_name.pop(node.name, None), plan.skipped.get(node.name))

    def _capture_eagerly(self, plan: runner.Plan, arrays: Mapping[str, Array], tensors: list[Any], sink: Sink) -> None:
        """Run layer by layer, each tensor handed over at once, so that what ran before a fault is kept."""
        stored = {node.name: node for node in plan.structure.stored()}

        def emit(event: Event) -> None:
            node = stored.pop(plan.names.get(event.key(), ""), None)
            if node is None:
                return
            if node.role == "input":
                sink(node.name, arrays[node.name])
            else:
                _hand_over(sink, node, event.value)

        outcome = runner.run_eagerly(self._call(), tensors, emit)
        failed = outcome.failed or plan.failed
        if failed is not None:
            raise ModelError(failed)
        for name in stored:
            sink(name, NotRecorded("not seen when the model ran eagerly"))

    # -- parameters --------------------------------------------------------------------------------------------

    def parameters(self) -> Iterable[tuple[str, Param, Array]]:
        # The run also found layers that no container tracks.
        paths = self._paths or Paths(self.model, self.flavour)
        seen: set[int] = set()
        for path, layer in paths.layers():
            for name, weight in weights_of(layer, self.flavour):
                if id(weight) not in seen:
                    seen.add(id(weight))
                    yield path, param(name, weight), np.asarray(weight.numpy())


def _on_tensorflow(flavour: Flavour) -> None:
    if not flavour.legacy:
        backend = str(flavour.module.backend.backend())
        if backend != "tensorflow":
            raise InputError(f"Keras runs on {backend} here: start with KERAS_BACKEND=tensorflow")


def _hand_over(sink: Sink, node: Node, value: Any, skipped: str | None = None) -> None:
    why = skipped or ("no tensor was made" if value is None else runner.reason(value))
    if why is not None:
        sink(node.name, NotRecorded(why))
        return
    sink(node.name, runner.array(value), owned=True)
