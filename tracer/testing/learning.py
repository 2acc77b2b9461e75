"""The rules about gradients and the training mode, for adapters that say they can."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tracer.adapter import Array, LoadedModel, NotRecorded, Run
from tracer.graph import Structure
from tracer.testing.case import Case
from tracer.testing.evidence import (
    Recorder,
    captured,
    changes,
    check_values,
    close,
    copies,
    fail,
    learned,
    opened,
    parameters,
    same,
)  # fmt: skip
from tracer.testing.rules import Rules, needs

_SLOPE = 0.02
"""Relative error allowed to a difference quotient."""
_ROUNDING = 1e-6
"""Of an output in single precision, after a few operations."""


class LearningRules(Rules):
    """Part of :class:`tracer.testing.AdapterContract`."""

    @needs("sound")
    def test_gradients_are_complete(self, case: Case, tmp_path: Path) -> None:
        """One for each floating tensor and trainable parameter, of its shape; values come as without gradients."""
        self._learns()
        loaded, structure, sink = learned(self.adapter(), case, tmp_path, Run(loss="sum"))
        if sink.strange:
            fail("gradients must be numpy arrays, or NotRecorded with a reason", sink.strange)
        wrong = []
        for name, value in sink.arrays().items():
            gradient = sink.gradients.get(name)
            if gradient is None and value.dtype.kind not in "biu":
                wrong.append(f"{name} has none, and no reason (NotRecorded) either")
            elif isinstance(gradient, np.ndarray) and gradient.shape != value.shape:
                wrong.append(f"{name} has shape {value.shape}, its gradient {gradient.shape}")
        for owner, param, value in parameters(loaded):
            gradient = sink.weight_gradients.get((owner, param.name))
            if gradient is None and param.trainable and value.dtype.kind not in "biu":
                wrong.append(f"parameter {owner} {param.name} has none, and no reason either")
            elif isinstance(gradient, np.ndarray) and gradient.shape != value.shape:
                wrong.append(f"parameter {owner} {param.name} has shape {value.shape}, its gradient {gradient.shape}")
        wrong += [f"{name} is no stored node" for name in sink.gradients if name not in sink.values]
        if not any(isinstance(gradient, np.ndarray) for gradient in sink.gradients.values()):
            wrong.append("there is not one gradient")
        if wrong:
            fail("every floating tensor and trainable parameter needs a gradient of its shape", wrong)
        check_values(sink, structure)
        plain = self.evidence(case, tmp_path).sink
        if changed := [n for n, v in plain.arrays().items() if not _alike(v, sink.values.get(n), case.tolerance)]:
            fail("the values must be those of a run without gradients", changed)

    @needs("sound")
    def test_the_inputs_gradient_is_the_slope(self, case: Case, tmp_path: Path) -> None:
        """Against a difference quotient of the recorded outputs, along a random direction."""
        self._learns()
        for loss in ("sum", "square"):
            _, structure, sink = learned(self.adapter(), case, tmp_path / loss, Run(loss=loss))
            direction, predicted = _direction(case.inputs, sink)
            if not direction:
                pytest.skip("no input has a gradient")
            loaded = opened(self.adapter(), case, tmp_path / f"{loss}2")
            measured, noise = _slope(loaded, structure, case, direction, loss)
            if abs(predicted - measured) > _SLOPE * max(abs(predicted), abs(measured)) + noise:
                fail(f"the gradient of '{loss}' must be its slope", f"gradient {predicted}, difference {measured}")

    @needs("sound")
    def test_the_outputs_gradient_is_that_of_the_loss(self, case: Case, tmp_path: Path) -> None:
        """Ones for ``sum``, 1/n for ``mean``, the output itself for ``square``, where nothing else reads an output."""
        self._learns()
        for loss in ("sum", "mean", "square"):
            _, structure, sink = learned(self.adapter(), case, tmp_path / loss, Run(loss=loss))
            ends = [name for name in _outputs(structure) if not _read(structure, name)]
            floating = [v for n in _outputs(structure) if _floats(v := sink.values[n])]
            count = sum(v.size for v in floating if isinstance(v, np.ndarray))
            for name in ends:
                value, gradient = sink.values[name], sink.gradients.get(name)
                if not (_floats(value) and isinstance(value, np.ndarray) and isinstance(gradient, np.ndarray)):
                    continue
                one = np.ones_like(value)
                expected = {"sum": one, "mean": one / count, "square": value}[loss]
                if not close(gradient, expected, 1e-4):
                    fail(f"the gradient of '{loss}' at an output is wrong", f"{name}: {gradient} != {expected}")

    @needs("gradients")
    def test_gradients_are_those_of_the_framework(self, case: Case, tmp_path: Path) -> None:
        self._learns()
        assert case.gradients is not None
        assert case.model is not None
        _, _, sink = learned(self.adapter(), case, tmp_path, Run(loss="sum"))
        for key, expected in case.gradients(case.model(), copies(case.inputs)).items():
            found = sink.gradients.get(key) if isinstance(key, str) else sink.weight_gradients.get(key)
            if not (isinstance(found, np.ndarray) and close(found, np.asarray(expected), case.tolerance)):
                fail("a gradient is not what the framework computes", f"{key}: {found} != {expected}")

    @needs("sound")
    def test_gradients_leave_the_model_as_it_was(self, case: Case, tmp_path: Path) -> None:
        self._learns()
        self._check_left(case, tmp_path, Run(loss="sum"))

    @needs("sound")
    def test_training_mode_leaves_the_model_as_it_was(self, case: Case, tmp_path: Path) -> None:
        """Statistics that move in training, the mode and the random state are as before afterwards."""
        if "train" not in self.adapter.modes:
            pytest.skip("the adapter has no training mode")
        self._check_left(case, tmp_path, Run(mode="train"))

    def _learns(self) -> None:
        if not self.adapter.gradients:
            pytest.skip("the adapter gives no gradients")

    def _check_left(self, case: Case, tmp_path: Path, run: Run) -> None:
        live = case.model() if case.model is not None else None
        state = case.state(live) if case.state is not None else None
        loaded = opened(self.adapter(), case, tmp_path, live)
        loaded.run = run
        before = parameters(loaded)
        structure = loaded.structure(copies(case.inputs))
        sink = Recorder()
        loaded.capture(copies(case.inputs), sink)
        check_values(sink, structure)
        if sink.order != [node.name for node in structure.stored()]:
            fail("capture must hand over every stored node once, in the order of the structure", sink.order)
        wrong = changes(before, parameters(loaded))
        if case.state is not None and case.state(live) != state:
            wrong.append(f"its state was {state}, and is {case.state(live)}")
        if wrong:
            fail(f"a run of {run} must leave the model as it was found", wrong)
        if live is not None:
            now = captured(self.adapter().wrap(live), case.inputs)
            plain = self.evidence(case, tmp_path).sink.values
            if changed := [name for name, value in plain.items() if not same(value, now.values.get(name))]:
                fail(f"after a run of {run} the model must compute what it did before", changed)


def _alike(a: Array, b: Array | NotRecorded | None, tolerance: float) -> bool:
    return isinstance(b, np.ndarray) and close(a, b, tolerance)


def _floats(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind not in "biuc"


def _outputs(structure: Structure) -> list[str]:
    """The stored nodes that hold the outputs, each once."""
    nodes = [structure.by_name[name] for name in structure.outputs]
    return list(dict.fromkeys(node.alias_of or node.name for node in nodes))


def _read(structure: Structure, name: str) -> bool:
    """Whether another tensor is computed from this one."""
    names = {name, *(node.name for node in structure if node.alias_of == name)}
    return any(not names.isdisjoint(node.parents) and node.name not in names for node in structure)


def _direction(inputs: Mapping[str, Array], sink: Recorder) -> tuple[dict[str, Array], float]:
    """A direction in the floating inputs, and the loss's slope along it as the gradients say it."""
    rng = np.random.default_rng(0)
    direction: dict[str, Array] = {}
    slope = 0.0
    for name, array in inputs.items():
        gradient = sink.gradients.get(name)
        if _floats(array) and isinstance(gradient, np.ndarray):
            direction[name] = np.sign(rng.standard_normal(array.shape)).astype(array.dtype)
            # Along the gradient's own signs for most: sums of mixed signs vanish in rounding.
            direction[name] = np.where(rng.random(array.shape) < 0.8, np.sign(gradient), direction[name])
            slope += float((gradient.astype(np.float64) * direction[name]).sum())
    return direction, slope


def _slope(
    loaded: LoadedModel, structure: Structure, case: Case, direction: Mapping[str, Array], loss: str
) -> tuple[float, float]:
    """The difference quotient of the loss, and how far rounding of the outputs may move it."""

    def at(step: float) -> tuple[float, float]:
        moved = copies(case.inputs)
        for name, along in direction.items():
            moved[name] = (moved[name] + step * along).astype(moved[name].dtype)
        values = captured(loaded, moved).values
        total = size = 0.0
        for name in _outputs(structure):
            value = values[name]
            if isinstance(value, np.ndarray) and _floats(value):
                wide = value.astype(np.float64)
                terms = wide if loss == "sum" else wide * wide / 2
                total += float(terms.sum())
                size += float(np.abs(terms).sum())
        return total, size

    step = 2e-3
    (above, size), (below, _) = at(step), at(-step)
    return (above - below) / (2 * step), _ROUNDING * size / step
