"""A normalisation that one side has multiplied into the weights of the layer in front of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from tracer import kinds, relations
from tracer.causes.step import Array, Program, Step
from tracer.relations import alike

_LINEAR = kinds.CONVOLUTIONS | {"dense"}
_EPSILONS = (1e-5, 1e-3, 1e-6, 0.0)


def folded(program: Program, other: Program) -> Program | None:
    """The program with normalisations in the layers in front of them, where ``other`` has none behind such a layer;
    None where there is nothing to fold. What was folded is kept in the setting ``folded``."""
    normed = {name for step in other.steps if step.kind == "batchnorm" for name in step.inputs}
    bare = [step for step in other.steps if "kernel" in step.weights and step.name not in normed]
    steps = {step.name: step for step in program.steps}
    found = None
    for norm in program.steps:
        layer = steps.get(norm.inputs[0]) if norm.inputs else None
        if norm.kind != "batchnorm" or layer is None or not _fits(layer, norm):
            continue
        if sum(layer.name in step.inputs for step in program.steps) != 1:
            continue
        kernel = layer.weights["kernel"]
        alone = [one.weights["kernel"] for one in bare if one.kind == layer.kind]
        alone = [one for one in alone if one.shape == kernel.shape]
        if not alone or any(relations.same_values(one, kernel) for one in alone):
            continue  # what is as it stands, if in another order, has nothing folded in: the norm is left out
        whole = replace(
            layer, name=norm.name, shape=norm.shape, weights=_weights(layer, norm),
            settings={**layer.settings, "folded": (layer, norm)},
        )  # fmt: skip
        kept = (found or program).steps
        found = Program(tuple(whole if step.name == norm.name else step for step in kept if step is not layer))
    return found


def _fits(layer: Step, norm: Step) -> bool:
    kernel = layer.weights.get("kernel")
    return (
        layer.kind in _LINEAR and kernel is not None and not layer.settings.get("activation")
        and norm.settings.get("mode", "eval") == "eval" and "running_var" in norm.weights
        and kernel.shape[-1] == norm.weights["running_var"].size
    )  # fmt: skip


def _weights(layer: Step, norm: Step, deviation: Array | None = None) -> dict[str, Array]:
    """The weights of a layer with a normalisation in them."""
    own = norm.weights
    if deviation is None:
        deviation = np.sqrt(own["running_var"] + float(norm.settings["epsilon"]))
    factor = own.get("gamma", np.ones_like(deviation)) / deviation
    shift = layer.weights.get("bias", 0.0) - own["running_mean"]
    return {"kernel": layer.weights["kernel"] * factor, "bias": own.get("beta", 0.0) + shift * factor}


def mistaken(whole: Step, weights: Mapping[str, Array]) -> tuple[str, str] | None:
    """The cause, and what was done otherwise, where weights are those of ``whole``, folded wrongly."""
    if "folded" not in whole.settings or "kernel" not in weights:
        return None
    if all(alike(value, weights.get(role, np.zeros(()))) for role, value in whole.weights.items()):
        return None
    bias = weights.get("bias", np.zeros(weights["kernel"].shape[-1]))
    for cause, what, tried in _otherwise(*whole.settings["folded"]):
        if alike(tried["kernel"], weights["kernel"]) and alike(tried["bias"], bias):
            return cause, what
    return None


def _otherwise(layer: Step, norm: Step) -> Iterator[tuple[str, str, dict[str, Array]]]:
    own, var = norm.weights, norm.weights["running_var"]
    mean = np.zeros_like(var)
    for role, nothing in (("running_mean", mean), ("beta", mean), ("gamma", mean + 1), ("running_var", mean + 1)):
        if role in own:
            yield "bn-stats", f"without its {role}", _weights(layer, norm.weigh(**{role: nothing}))
    for number in _EPSILONS:
        what = f"with an epsilon of {number:g}" if number else "without its epsilon"
        yield "bn-eps", what, _weights(layer, norm.set(epsilon=number))
    epsilon = float(norm.settings["epsilon"])
    yield "bn-eps", "with epsilon beside the root", _weights(layer, norm, np.sqrt(var) + epsilon)
    yield "bn-stats", "with the variance for the deviation", _weights(layer, norm, var + epsilon)
    if "bias" in layer.weights:
        without = _weights(layer.weigh(bias=None), norm)
        yield "bias-missing", "without the layer's own bias", without
        unscaled = without["bias"] + layer.weights["bias"]
        yield "scale", "with the layer's own bias as it was", {**without, "bias": unscaled}
