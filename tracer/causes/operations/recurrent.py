"""Recurrent layers and cells.

Weights, for every layer and direction (see :func:`role`):

======================  =============================================================================================
``kernel``              (in, gates, units): applied to the input
``recurrent_kernel``    (state, gates, units): applied to the state
``bias``                (gates, units): added to the product with the input
``recurrent_bias``      (gates, units): added to the product with the state
``projection``          (units, state): an LSTM whose state is smaller than its units
``peephole``            (3, units): of the cell on the gates i, f, o
======================  =============================================================================================

The gates stand in the order of the setting ``gates``: ``ifgo`` for an LSTM (input, forget, candidate, output), ``zrn``
for a GRU (update, reset, candidate), ``n`` for a plain one. Readers bring weights into that order; another word says
that the same weights are taken in another order.

A layer that convolves (of ``lstm``) has kernels (spatial…, in, gates, units), with ``conv_strides``, ``conv_dilation``,
``conv_padding`` and ``conv_padding_mode`` of the input; the state is padded to keep its size, channels are last.

Settings: ``gates``; ``activation`` (of candidate and output; of the output alone ``output_activation``),
``recurrent_activation`` (of the gates); ``reset_after`` (GRU: the reset gate acts on the product with the state, not on
the state); ``layers``; ``bidirectional`` and ``merge_mode`` (concat, sum, ave, mul); ``reverse`` (runs from the last
step to the first) and ``realign`` (what it gives then stands at the steps that it read, not in the order in which it
ran; of two directions that is so unless it is False); ``time`` (axis of the steps, 0 or 1); ``return_sequences``;
``forget_bias``; ``clip``; ``mask`` (batch, steps: where it is False the state stays, and with ``hidden`` zeros these
come out there). ``result`` is ``output``, or ``h`` or ``c`` for the last states: of all layers and directions (layers ·
directions, batch, units), or of one where ``of`` says which. ``form`` is ``onnx`` where the directions of the output
have an axis behind that of the steps.

Inputs: the sequence, then initial states where there are any: ``h`` (and ``c``) with an axis of layers · directions,
or of one direction after the other without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracer.causes.operations import operation
from tracer.causes.operations.convolutions import convolved
from tracer.causes.operations.special import erf, expit
from tracer.causes.step import Array, Step, Unknown

GATES = {"lstm": "ifgo", "gru": "zrn", "rnn": "n"}
"""The order in which the readers bring the gates."""
ROLES = ("kernel", "recurrent_kernel", "bias", "recurrent_bias", "projection", "peephole")

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "sigmoid": expit,
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard_sigmoid_sixth": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))),
    "softplus": lambda x: np.logaddexp(x, 0),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "exponential": np.exp,
    "silu": lambda x: x * expit(x),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
}


_PLAIN = 3
"""Axes of a kernel that is no convolution's."""


@dataclass(frozen=True)
class _Cell:
    """One layer in one direction."""

    kind: str
    settings: Mapping[str, Any]
    weights: Mapping[str, Array]

    @property
    def units(self) -> int:
        return int(self.weights["recurrent_kernel"].shape[-1])

    def gate(self, values: Array, letter: str) -> Array:
        """One gate of values (…, gates, units)."""
        return values[..., str(self.settings.get("gates", GATES[self.kind])).index(letter), :]

    def function(self, word: str, usual: str) -> Callable[[Array], Array]:
        name = str(self.settings.get(word) or usual)
        if name not in _ACTIVATIONS:
            raise Unknown(f"the activation {name} of a recurrent layer is not known")
        return _ACTIVATIONS[name]

    def given(self, inputs: Array) -> Array:
        """What the input gives to the gates, (…, gates, units)."""
        bias, kernel = self.weights.get("bias"), self.weights["kernel"]
        found = np.tensordot(inputs, kernel, 1) if kernel.ndim <= _PLAIN else self._convolved(inputs)
        return found if bias is None else found + bias

    def back(self, state: Array, kernel: str = "") -> Array:
        """What the state gives to the gates, or to one."""
        weights, bias = self.weights["recurrent_kernel"], self.weights.get("recurrent_bias")
        if kernel:
            weights, bias = self.gate(weights, kernel), None if bias is None else self.gate(bias, kernel)
        found = np.tensordot(state, weights, 1) if self.weights["kernel"].ndim <= _PLAIN else self._kept(state)
        return found if bias is None else found + bias

    def _convolved(self, inputs: Array) -> Array:
        """What the input gives to the gates of a layer that convolves: of (steps, batch, spatial…, channels)."""
        kernel, rank = self.weights["kernel"], inputs.ndim - 3
        names = ("strides", "dilation", "padding", "padding_mode")
        own = {name: self.settings[f"conv_{name}"] for name in names if f"conv_{name}" in self.settings}
        whole = inputs.reshape(-1, *inputs.shape[2:])
        found = convolved(whole, kernel.reshape(*kernel.shape[: rank + 1], -1), own)
        return found.reshape(*inputs.shape[:2], *found.shape[1:-1], *kernel.shape[-2:])

    def _kept(self, state: Array) -> Array:
        """What the state gives to them, of (batch, spatial…, channels)."""
        kernel, rank = self.weights["recurrent_kernel"], state.ndim - 2
        around = [((size - 1) // 2, size - 1 - (size - 1) // 2) for size in kernel.shape[:rank]]
        found = convolved(state, kernel.reshape(*kernel.shape[: rank + 1], -1), {"padding": around})
        return found.reshape(*found.shape[:-1], *kernel.shape[-2:])

    def clipped(self, values: Array) -> Array:
        most = self.settings.get("clip")
        return values if most is None else np.clip(values, -most, most)

    def step(self, given: Array, h: Array, c: Array) -> tuple[Array, Array]:
        """One step: the next ``h`` and ``c``."""
        if self.kind == "lstm":
            return self._lstm(given, h, c)
        if self.kind == "gru":
            return self._gru(given, h), c
        return self.function("activation", "tanh")(self.clipped(given + self.back(h))[..., 0, :]), c

    def _lstm(self, given: Array, h: Array, c: Array) -> tuple[Array, Array]:
        gates = self.clipped(given + self.back(h))
        inner, sigma = self.function("activation", "tanh"), self.function("recurrent_activation", "sigmoid")
        outer = self.function("output_activation", str(self.settings.get("activation") or "tanh"))
        peep = self.weights.get("peephole", np.zeros((3, 1)))
        i = sigma(self.gate(gates, "i") + peep[0] * c)
        f = sigma(self.gate(gates, "f") + self.settings.get("forget_bias", 0.0) + peep[1] * c)
        c = f * c + i * inner(self.gate(gates, "g"))
        h = sigma(self.gate(gates, "o") + peep[2] * c) * outer(c)
        projection = self.weights.get("projection")
        return (h if projection is None else h @ projection), c

    def _gru(self, given: Array, h: Array) -> Array:
        inner, sigma = self.function("activation", "tanh"), self.function("recurrent_activation", "sigmoid")
        z = sigma(self.clipped(self.gate(given, "z") + self.back(h, "z")))
        r = sigma(self.clipped(self.gate(given, "r") + self.back(h, "r")))
        old = r * self.back(h, "n") if self.settings.get("reset_after", True) else self.back(r * h, "n")
        n = inner(self.clipped(self.gate(given, "n") + old))
        return np.asarray(z * h + (1 - z) * n)


def role(name: str, layer: int = 0, *, backward: bool = False) -> str:
    """The name of a weight: ``kernel``, ``kernel_l1``, ``kernel_reverse``, ``kernel_l1_reverse``."""
    return f"{name}{f'_l{layer}' if layer else ''}{'_reverse' if backward else ''}"


def _cell(step: Step, kind: str, layer: int = 0, *, backward: bool = False) -> _Cell:
    names = {name: role(name, layer, backward=backward) for name in ROLES}
    return _Cell(kind, step.settings, {name: step.weights[own] for name, own in names.items() if own in step.weights})


def _scan(
    cell: _Cell, values: Array, h: Array | None, c: Array | None, mask: Array | None
) -> tuple[Array, Array, Array]:
    """A run over (steps, batch, features): what every step gives, and the last states."""
    projection = cell.weights.get("projection")
    given = cell.given(values)
    lead = given.shape[1:-2]
    h = np.zeros((*lead, cell.units if projection is None else projection.shape[1])) if h is None else h
    c = np.zeros((*lead, cell.units)) if c is None else c
    outputs = np.empty((len(values), *h.shape))
    output = np.zeros_like(h)
    for k in range(len(values)):
        new, memory = cell.step(given[k], h, c)
        if mask is None:
            h, c, output = new, memory, new
        else:
            keep = mask[k][:, None]
            h, c, output = np.where(keep, new, h), np.where(keep, memory, c), np.where(keep, new, output)
        outputs[k] = output
    return outputs, h, c


def _initial(step: Step, states: Sequence[Array], count: int) -> list[tuple[Array | None, Array | None]]:
    """The initial states of every layer and direction."""
    if not states:
        h, c = step.weights.get("initial_h"), step.weights.get("initial_c")
        states = [state for state in (h, c) if state is not None]
    if not states:
        return [(None, None)] * count
    kinds = 2 if step.kind == "lstm" else 1
    if states[0].ndim == 3 and len(states) <= 2:
        both = [list(state) for state in states]
    else:
        both = [list(states[start::kinds]) for start in range(kinds)]
    both += [[None] * count] * (2 - len(both))
    return [(both[0][k], both[1][k] if both[1] else None) for k in range(count)]


@operation("lstm", "gru", "rnn")
def recurrent(step: Step, inputs: Sequence[Array]) -> Array:
    """A recurrent layer, or a stack of them, over a sequence."""
    own = step.settings
    several = inputs[0].ndim > 2  # a single sequence has no batch
    time = own.get("time", 1) if several else 0
    values = np.moveaxis(inputs[0], time, 0) if several else inputs[0][:, None]
    mask = own.get("mask")
    mask = None if mask is None else np.asarray(mask, bool).T
    layers, both = own.get("layers", 1), bool(own.get("bidirectional"))
    ways = [False, True] if both else [bool(own.get("reverse"))]
    initial = _initial(step, inputs[1:], layers * len(ways))
    states: list[tuple[Array, Array]] = []
    for layer in range(layers):
        found = []
        for number, backward in enumerate(ways):
            cell = _cell(step, step.kind, layer, backward=both and backward)
            turned = values[::-1] if backward else values
            order = None if mask is None else mask[::-1] if backward else mask
            outputs, h, c = _scan(cell, turned, *initial[layer * len(ways) + number], order)
            if order is not None and own.get("hidden") == "zeros":
                outputs = np.where(order[:, :, None], outputs, 0.0)
            found.append(outputs[::-1] if backward and own.get("realign", both) else outputs)
            states.append((h, c))
        values = _merged(own, found, layer == layers - 1)
    if own.get("result", "output") != "output":
        kept = [state["hc".index(own["result"])] for state in states]
        result = kept[own["of"]] if "of" in own else np.stack(kept)
    elif own.get("form") == "onnx":
        result = np.stack(found, 1) if time == 0 else np.stack(found, 1).transpose(2, 0, 1, 3)
    elif own.get("return_sequences", True):
        result = np.moveaxis(values, 0, time)
    else:
        # Of a backward run the last step is the first that stands there.
        result = _merged(own, [state[0] for state in states[-len(ways) :]], True)
    if several:
        return result
    return np.squeeze(result, -2) if own.get("result", "output") != "output" else result[:, 0]


def _merged(own: Mapping[str, Any], found: Sequence[Array], last: bool) -> Array:
    """Both directions joined."""
    if len(found) == 1:
        return found[0]
    mode = own.get("merge_mode", "concat") if last else "concat"
    if mode == "concat":
        return np.concatenate(found, -1)
    total = found[0] * found[1] if mode == "mul" else found[0] + found[1]
    return total / 2 if mode == "ave" else total


@operation("lstm_cell", "gru_cell", "rnn_cell")
def cell(step: Step, inputs: Sequence[Array]) -> Array:
    """One step of a cell: from input and states, which are zeros where they are not given."""
    kind = step.kind.removesuffix("_cell")
    own = _cell(step, kind)
    values = np.atleast_2d(inputs[0])
    states = [np.atleast_2d(state) for state in inputs[1:]]
    h = states[0] if states else np.zeros((len(values), own.weights["recurrent_kernel"].shape[0]))
    c = states[1] if len(states) > 1 else np.zeros((len(values), own.units))
    new, memory = own.step(own.given(values), h, c)
    result = memory if step.settings.get("result") == "c" else new
    return result if inputs[0].ndim > 1 else result[0]
