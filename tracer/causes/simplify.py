"""Programs in a plain form: what two frameworks write differently and compute alike is written one way."""

from __future__ import annotations

from dataclasses import replace

from tracer.causes.step import Program, Step, numbers, pairs_of

_LOWEST = -1e4
"""A number of padding that no maximum ever is."""


def simplified(program: Program) -> Program:
    """The program with padding that a layer of its own does as part of the convolution or pooling that reads it."""
    for step in program.steps:
        if step.kind != "pad":
            continue
        readers = [other for other in program.steps if step.name in other.inputs]
        if len(readers) != 1 or step is program.last:
            continue
        whole = _padded(step, readers[0])
        if whole is not None:
            kept = (whole if other is readers[0] else other for other in program.steps if other is not step)
            program = Program(tuple(kept))
    return program


def _padded(pad: Step, step: Step) -> Step | None:
    """A convolution or pooling that pads as ``pad`` does before it; None where it cannot."""
    if not step.kind.startswith(("conv", "depthwise_conv", "separable_conv", "max_pool", "avg_pool")):
        return None
    if step.kind.startswith("conv_transpose") or len(step.inputs) != 1:
        return None
    rank, settings = int(step.kind[-2]), step.settings
    around, mode = pairs_of(pad.settings["padding"]), str(pad.settings.get("padding_mode", "zeros"))
    own = pairs_of(settings.get("padding") or [(0, 0)] * rank)
    channels = int(settings.get("channels", -1)) % len(around)
    spatial = [pair for axis, pair in enumerate(around) if axis not in (0, channels)]
    if len(around) != rank + 2 or around[0] != (0, 0) or around[channels] != (0, 0):
        return None
    plain = not any(map(any, own)) and not any(numbers(settings.get("ceil", 0), rank))
    value = float(pad.settings.get("value") or 0.0) if mode in ("zeros", "constant") else 0.0
    zeros = mode in ("zeros", "constant") and not value
    if step.kind.startswith("max_pool") and value <= _LOWEST and plain:
        return replace(step, inputs=pad.inputs, settings={**settings, "padding": tuple(spatial)})
    if value:
        return None
    if step.kind.startswith(("max_pool", "avg_pool")):
        if not (zeros and plain):
            return None
        counts = {"pad_value": 0.0} if step.kind.startswith("max") else {"count_include_pad": True}
        return replace(step, inputs=pad.inputs, settings={**settings, "padding": tuple(spatial), **counts})
    if not zeros and not plain:
        return None
    if zeros and str(settings.get("padding_mode", "zeros")) != "zeros" and not plain:
        return None
    together = tuple((a + c, b + d) for (a, b), (c, d) in zip(spatial, own, strict=True))
    mode = "zeros" if zeros else mode
    return replace(step, inputs=pad.inputs, settings={**settings, "padding": together, "padding_mode": mode})
