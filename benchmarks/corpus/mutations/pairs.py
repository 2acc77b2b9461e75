"""Sets of small pairs of networks, their defects, and other ways to write a correct port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Apply = Callable[[Any], Any]
Register = Callable[[Apply], Apply]


@dataclass(frozen=True)
class Pair:
    """Two networks that agree.

    Attributes:
        reference: the live model that is right.
        inputs: what it takes, an array or a mapping that names them alike on both sides, the samples first.
        make: builds the port anew, weights carried over; keywords build mistakes into one written in Keras.
        layout: how the inputs' axes move for the port, as ``tracer.record`` takes it.
    """

    reference: Any
    inputs: Any
    make: Callable[..., Any]
    layout: str


@dataclass(frozen=True)
class Defect:
    """One mistake, or another correct way to write the port where ``right`` is empty.

    Attributes:
        name: the network's, a slash, its own.
        at: where it is: names of layers and calls on either side, with wildcards.
        right: what it may be called; ``vague``: what is true of it and too general.
        apply: changes the port, or returns another one; None where ``wrong``, keywords of ``Pair.make``, say it all.
        latent: whether it shows in training alone.
    """

    name: str
    at: tuple[str, ...]
    right: frozenset[str]
    vague: frozenset[str]
    apply: Apply | None = None
    wrong: Mapping[str, Any] = field(default_factory=dict)
    latent: bool = False

    @property
    def network(self) -> str:
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class DefectSet:
    """What one package of this one registers: pairs of networks by name, defects and correct ports by theirs.

    Attributes:
        name: the package's.
        together: names of two defects of one network, joined by a plus; whether they are in one layer, or in
            neighbours.
    """

    name: str
    networks: dict[str, Callable[[], Pair]] = field(default_factory=dict)
    defects: dict[str, Defect] = field(default_factory=dict)
    controls: dict[str, Defect] = field(default_factory=dict)
    together: dict[str, bool] = field(default_factory=dict)

    def network(self, build: Callable[[], Pair]) -> Callable[[], Pair]:
        """Registers a pair of networks under its function's name."""
        self.networks[build.__name__] = build
        return build

    def defect(self, name: str, at: str, right: str, vague: str = "", *, latent: bool = False) -> Register:
        """Registers what a function does to a port."""

        def register(apply: Apply) -> Apply:
            self._add(self.defects, name, at, right, vague, apply, {}, latent)
            return apply

        return register

    def mistake(self, name: str, at: str, right: str, vague: str = "", *, latent: bool = False, **wrong: Any) -> None:
        """Registers keywords that build a port in Keras wrongly."""
        self._add(self.defects, name, at, right, vague, None, wrong, latent)

    def control(self, name: str) -> Register:
        """Registers another way to write a correct port."""

        def register(apply: Apply) -> Apply:
            self._add(self.controls, name, "", "", "", apply)
            return apply

        return register

    def variant(self, name: str, **other: Any) -> None:
        """Registers keywords that build another correct port in Keras."""
        self._add(self.controls, name, "", "", "", None, other)

    def _add(self, to: dict[str, Defect], name: str, at: str, right: str, vague: str, *rest: Any) -> None:
        assert name not in to, name
        to[name] = Defect(name, tuple(at.split()), frozenset(right.split()), frozenset(vague.split()), *rest)

    def one_layer(self, network: str, *pairs: str) -> None:
        """Registers two defects at once, in one layer."""
        self._join(network, pairs, True)

    def neighbours(self, network: str, *pairs: str) -> None:
        """Registers two defects at once, in layers beside one another."""
        self._join(network, pairs, False)

    def _join(self, network: str, pairs: tuple[str, ...], one_layer: bool) -> None:
        for pair in pairs:
            self.together["+".join(f"{network}/{name}" for name in pair.split("+"))] = one_layer

    def names(self, network: str) -> list[str]:
        """Of all that a network's port is built as, but for the plain correct one: correct ports come first."""
        every = (*self.controls, *self.defects, *self.together)
        return [name for name in every if name.partition("/")[0] == network]

    def build(self, pair: Pair, name: str) -> Any:
        """The port with a defect, with two, or the other correct one; the plain one where nothing has that name."""
        known = self.defects | self.controls
        chosen = [known[part] for part in name.split("+") if part in known]
        wrong: dict[str, Any] = {}
        for one in chosen:
            wrong |= one.wrong
        port = pair.make(**wrong)
        for one in chosen:
            if one.apply is not None:
                port = one.apply(port) or port
        return port.eval() if hasattr(port, "eval") else port


def outputs(model: Any, inputs: Any, layout: str = "same") -> list[np.ndarray]:
    """What a model gives, channels last."""
    named = isinstance(inputs, dict)
    given = {name: _moved(values, layout) for name, values in (inputs if named else {"": inputs}).items()}
    is_keras = hasattr(model, "get_weights")
    if is_keras:
        out = model(given if named else given[""], training=False)
    else:
        import torch

        tensors = {n: torch.from_numpy(v.astype(np.int64) if v.dtype.kind == "i" else v) for n, v in given.items()}
        with torch.inference_mode():
            out = model(**tensors) if named else model(tensors[""])
    found = [np.asarray(v) for v in (out if isinstance(out, list | tuple) else [out])]
    return [np.moveaxis(v, 1, -1) if v.ndim == 4 and not is_keras else v for v in found]


def _moved(values: np.ndarray, layout: str) -> np.ndarray:
    if values.ndim < 3 or layout == "same":
        return values
    return np.moveaxis(values, -1, 1).copy() if layout == "NHWC->NCHW" else np.moveaxis(values, 1, -1).copy()
