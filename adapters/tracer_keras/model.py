"""A loaded Keras model, as the core sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from tracer.adapter import Array, Exchange, InputSpec, LoadedModel, Run, Sink, Watcher
from tracer.errors import InputError, MisfitError, ModelError, ReplayError, TracerError
from tracer.graph import Param, Structure
from tracer_keras import filling, losses, runner
from tracer_keras import replay as replays
from tracer_keras.decisions import Decisions
from tracer_keras.describe import weights
from tracer_keras.flavour import Flavour, tensorflow
from tracer_keras.handover import Handover
from tracer_keras.recorder import Recorder
from tracer_keras.signature import Signature, shown
from tracer_keras.state import Keeper, changed_by, only_reads
from tracer_keras.tapping import Tap
from tracer_keras.tree import Paths, is_leaf

_Again = tuple[bool, frozenset[str], frozenset[str]]
"""Whether it is in float64, which nodes are looked at and which are known; of a replay that computes all none are."""


class KerasModel(LoadedModel):
    """A Keras 3 or tf_keras model. ``model`` is the object itself, ``flavour`` its library."""

    framework: ClassVar[str] = "tensorflow"

    def __init__(self, model: Any, flavour: Flavour, loader: str, notes: tuple[str, ...] = ()) -> None:
        if not isinstance(model, flavour.model_class) and is_leaf(model, flavour):
            # A single library layer has no inside; as the only layer of a model it is a node.
            with flavour.fresh_names():
                model = flavour.sequential_class([model])
        self.model = model
        self._paths: Paths | None = None
        self.flavour = flavour
        self.loader = loader
        self.notes = notes
        # Building may rename inputs; the names a user has seen stay.
        self._signature = self._stated = Signature.of(model, flavour)
        self._plans: dict[tuple[Any, ...], runner.Plan] = {}
        self._misfit: tuple[tuple[Any, ...], runner.Plan] | None = None
        self._keeper: Keeper | None = None
        self._replays: dict[_Again, tuple[runner.Plan, replays.Replay]] = {}

    def versions(self) -> dict[str, str]:
        return {
            "tensorflow": str(tensorflow().__version__),
            self.flavour.name: self.flavour.version,
            "numpy": np.__version__,
        }

    def live(self) -> object:
        return self.model

    def signature(self) -> tuple[InputSpec, ...]:
        return self._stated.specs

    def optional(self) -> tuple[InputSpec, ...]:
        return self._stated.optional

    def structure(self, inputs: Mapping[str, Array]) -> Structure:
        plan = self._plan(inputs)
        return replace(plan.structure, fault=plan.failed or "")

    # -- running -----------------------------------------------------------------------------------------------

    def _call(self) -> runner.Call:
        return runner.Call(self.model, self.flavour, self._signature.pack, self._signature.names, self.run)

    def _plan(self, inputs: Mapping[str, Array]) -> runner.Plan:
        self._signature = self._stated.given(inputs)
        arrays = self._signature.check(inputs)
        key = self._key(arrays)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._dry_run(arrays)
            self._paths = plan.paths
        return plan

    def _unchanged(self, plan: runner.Plan | None = None, *, eager: bool = False) -> AbstractContextManager[Keeper]:
        if self._keeper is None or self._keeper.training != self._call().training:
            self._keeper = Keeper(self.model, self.flavour, self._call().training)
        graph = None if plan is None or plan.function is None else plan.function.graph
        reading = graph is not None and only_reads(graph)
        changed = () if graph is None or reading else changed_by(graph)
        return self._keeper.unchanged(changed, eager=eager, reading=reading)

    def _dry_run(self, arrays: Mapping[str, Array]) -> runner.Plan:
        call = self._call()
        if self.run.loss is not None:
            losses.check(self.run.loss)
        tensors = self._signature.tensors(arrays)
        if not self._built():
            # Variables cannot be made inside a traced function.
            plan = self._eager(call, tensors)
            if plan.failed is not None:
                return self._failed(plan, arrays)
        try:
            plan = self._traced(call, tensors)
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

    def _traced(self, call: runner.Call, tensors: list[Any]) -> runner.Plan:
        with self._unchanged():
            return runner.trace(call, [tensorflow().TensorSpec(t.shape, t.dtype) for t in tensors])

    def _eager(self, call: runner.Call, tensors: list[Any]) -> runner.Plan:
        with self._unchanged(eager=True) as keeper:
            return runner.run_eagerly(call, tensors, meet=keeper.meet)

    def _failed(self, plan: runner.Plan, arrays: Mapping[str, Array]) -> runner.Plan:
        seen = [node for node in plan.structure.nodes if node.role != "input"]
        if runner.refused_input(plan) or (not seen and not self._signature.stated):
            expected = ", ".join(shown(spec) for spec in self._signature.specs)
            given = ", ".join(f"{name} {tuple(array.shape)} {array.dtype}" for name, array in arrays.items())
            message = f"the model does not take this input: {plan.failed} (expects {expected}; given {given})"
            if not any(node.params for node in seen):
                raise InputError(message)
            self._misfit = self._key(arrays), plan
            raise MisfitError(message, replace(plan.structure, fault=plan.failed or ""))
        return plan

    def _key(self, arrays: Mapping[str, Array]) -> tuple[Any, ...]:
        return (self.run, *((name, array.shape, str(array.dtype)) for name, array in arrays.items()))

    def _built(self) -> bool:
        if self.flavour.is_functional(self.model):
            return True
        layers = self.model._flatten_layers(include_self=True, recursive=True)
        return all(bool(getattr(layer, "built", True)) for layer in layers)

    def _measure(self, plan: runner.Plan, tensors: list[Any]) -> None:
        """Run once to learn the shapes that depend on values."""
        shapes: dict[str, tuple[int, ...]] = {}

        def take(what: tuple[str, Any], value: Array) -> None:
            if what[0] == "value":
                shapes[what[1]] = value.shape

        with self._unchanged(plan), suppress(Exception):  # the capture will say it with the layer's name
            plan.run(tensors, take)
        runner.with_shapes(plan, shapes)

    def _with_input_types(self, plan: runner.Plan, arrays: Mapping[str, Array]) -> runner.Plan:
        """Inputs are recorded as given, though the model may want them in another type."""
        nodes = tuple(
            replace(node, dtype=str(arrays[node.name].dtype)) if node.role == "input" else node
            for node in plan.structure.nodes
        )
        plan.structure = replace(plan.structure, nodes=nodes)
        return plan

    def capture(self, inputs: Mapping[str, Array], sink: Sink) -> None:
        self._signature = self._stated.given(inputs)
        key = self._key(self._signature.check(inputs))
        misfit = self._misfit[1] if self._misfit is not None and self._misfit[0] == key else None
        plan = self._plans.get(key) or misfit or self._plan(inputs)
        arrays = self._signature.check(inputs)
        tensors = self._signature.tensors(arrays)
        call = self._call()
        handover = Handover(plan, arrays, sink)
        flat: Mapping[Any, str] | None = None
        if plan.function is not None:
            again = plan if plan.fresh or not call.training else self._traced(call, tensors)
            with self._unchanged(again):
                try:
                    again.run(tensors, handover.take)
                    flat = again.flat
                except TracerError:  # of the sink's
                    raise
                except Exception:  # which layer it was only an eager run can tell
                    flat = None
        if flat is None:
            with self._unchanged(eager=True) as keeper:
                outcome = runner.run_eagerly(call, tensors, handover.event, meet=keeper.meet, take=handover.take)
            failed = outcome.failed or plan.failed
            if failed is not None:
                raise ModelError(failed)
            flat = outcome.flat
        handover.finish(flat)

    # -- running again -----------------------------------------------------------------------------------------

    def replay(self, inputs: Mapping[str, Array], exchange: Exchange, *, double: bool = False) -> None:
        self.replay_rest(inputs, exchange, {}, double=double)

    def replay_rest(
        self, inputs: Mapping[str, Array], exchange: Exchange, known: Mapping[str, Array], *, double: bool = False
    ) -> None:
        plan = self._replayable(inputs)
        arrays = self._signature.check(inputs)
        types = {name: t.dtype.as_numpy_dtype for name, t in zip(arrays, self._signature.tensors(arrays), strict=True)}
        given = replays.exchanged_inputs(arrays, exchange, types, double=double)
        if any(given[name].shape != arrays[name].shape for name in arrays):
            plan = self._replayable(given)
        tensors = self._signature.tensors(given)
        if double:
            tensors = [
                tensorflow().constant(given[name]) if given[name].dtype == np.float64 else tensor
                for name, tensor in zip(given, tensors, strict=True)
            ]
        with self._unchanged(plan):
            if known and self.run.mode == "eval":  # what a model changes while it is trained is not left out
                due = {name for name in plan.names.values() if name not in known and exchange.wants(name)}
                self._again(plan, double, frozenset(due), frozenset(known)).run(tensors, exchange, known)
            else:
                self._again(plan, double).run(tensors, exchange)

    def _again(
        self, plan: runner.Plan, double: bool, due: frozenset[str] = frozenset(), known: frozenset[str] = frozenset()
    ) -> replays.Replay:
        mark = double, due, known
        made, again = self._replays.get(mark, (None, None))
        if again is None or made is not plan:
            again = replays.Replay(plan, double=double, due=due, known=known)
            # Operations that draw would go on where they stopped.
            if self.run.mode == "eval" and any(plan is kept for kept in self._plans.values()):
                if known:  # another choice of nodes does not come back
                    self._replays = {other: kept for other, kept in self._replays.items() if not other[2]}
                self._replays[mark] = plan, again
        return again

    def _replayable(self, inputs: Mapping[str, Array]) -> runner.Plan:
        """The plan of a run without gradients. Raises ModelError or ReplayError."""
        try:
            plan = self._plan(inputs)
        except InputError as error:
            raise ReplayError(f"the model cannot be run again on this input: {error}") from error
        if plan.failed is not None:
            raise ModelError(plan.failed)
        if plan.function is not None and self.run.loss is None:
            return plan
        call = replace(self._call(), run=Run(self.run.mode))
        tensors = self._signature.tensors(self._signature.check(inputs))
        try:
            return self._traced(call, tensors) if plan.function is not None else self._followed(call, tensors, plan)
        except TracerError:
            raise
        except Exception as error:
            why = runner.one_line(error, 160)
            raise ReplayError(f"the model cannot be traced into one function, to be run again: {why}") from error

    def _followed(self, call: runner.Call, tensors: list[Any], plan: runner.Plan) -> runner.Plan:
        """The trace of a model that chooses its way by values, along the way that it takes on this input."""
        decisions = Decisions()
        with decisions.noted():
            outcome = self._eager(call, tensors)
        if outcome.failed is not None:
            raise ModelError(outcome.failed)
        with decisions.followed():
            traced = self._traced(call, tensors)
        if traced.names != plan.names:
            raise ValueError("it does other things when it is traced")
        return traced

    # -- parameters --------------------------------------------------------------------------------------------

    def parameters(self) -> Iterable[tuple[str, Param, Array]]:
        # The run also found layers that no container tracks.
        paths = self._paths or Paths(self.model, self.flavour)
        for path, described, weight in weights(paths):
            yield path, described, np.asarray(weight.numpy())

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        if not hasattr(self.model, "train_step") or not self.flavour.on_tensorflow:
            return super().watch(watcher)

        def conclude(recorder: Recorder, outputs: Any) -> tuple[Structure, dict[runner.Key, str]]:
            plan = runner.concluded(recorder, self._call(), outputs)
            self._paths = plan.paths
            return plan.structure, plan.names

        return Tap(self.model, self.flavour, self._stated.names, watcher, conclude).close

    def assign(self, values: Mapping[tuple[str, str], Array]) -> None:
        filling.assign(self._paths or Paths(self.model, self.flavour), values)

    def save_weights(self, path: Path) -> None:
        filling.save(self.model, self.flavour, path)
