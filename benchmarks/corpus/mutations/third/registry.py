"""What the third set is made of: pairs of networks, their defects, and other ways to write a correct port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Apply = Callable[[Any], Any]


@dataclass(frozen=True)
class Pair:
    """Two networks that agree.

    Attributes:
        reference: the live model that is right.
        inputs: what it takes, an array or a mapping, the samples first.
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


NETWORKS: dict[str, Callable[[], Pair]] = {}
DEFECTS: dict[str, Defect] = {}
CONTROLS: dict[str, Defect] = {}
TOGETHER: dict[str, bool] = {}
"""Names of two defects of one network, joined by a plus; whether they are in one layer, or in neighbours."""


def network(build: Callable[[], Pair]) -> Callable[[], Pair]:
    """Registers a pair of networks under its function's name."""
    NETWORKS[build.__name__] = build
    return build


def defect(name: str, at: str, right: str, vague: str = "", *, latent: bool = False) -> Callable[[Apply], Apply]:
    """Registers what a function does to a port."""

    def register(apply: Apply) -> Apply:
        DEFECTS[name] = Defect(name, tuple(at.split()), frozenset(right.split()), frozenset(vague.split()), apply,
                               latent=latent)  # fmt: skip
        return apply

    return register


def mistake(name: str, at: str, right: str, vague: str = "", *, latent: bool = False, **wrong: Any) -> None:
    """Registers keywords that build a port in Keras wrongly."""
    DEFECTS[name] = Defect(name, tuple(at.split()), frozenset(right.split()), frozenset(vague.split()), None, wrong,
                           latent)  # fmt: skip


def control(name: str) -> Callable[[Apply], Apply]:
    """Registers another way to write a correct port."""

    def register(apply: Apply) -> Apply:
        CONTROLS[name] = Defect(name, (), frozenset(), frozenset(), apply)
        return apply

    return register


def one_layer(network: str, *pairs: str) -> None:
    """Registers two defects at once, in one layer."""
    TOGETHER.update({"+".join(f"{network}/{name}" for name in pair.split("+")): True for pair in pairs})


def neighbours(network: str, *pairs: str) -> None:
    """Registers two defects at once, in layers beside one another."""
    TOGETHER.update({"+".join(f"{network}/{name}" for name in pair.split("+")): False for pair in pairs})


def built(pair: Pair, name: str) -> Any:
    """The port with a defect, with two, or the other correct one; the plain correct one where nothing has that name."""
    chosen = [(DEFECTS | CONTROLS)[part] for part in name.split("+") if part in DEFECTS or part in CONTROLS]
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
    values = inputs if isinstance(inputs, list) else [inputs]
    if layout == "NHWC->NCHW":
        values = [np.moveaxis(v, -1, 1).copy() if v.ndim > 2 else v for v in values]
    elif layout == "NCHW->NHWC":
        values = [np.moveaxis(v, 1, -1).copy() if v.ndim > 2 else v for v in values]
    if hasattr(model, "get_weights"):
        given = model(values if len(values) > 1 else values[0], training=False)
    else:
        import torch

        with torch.inference_mode():
            given = model(*(torch.from_numpy(v.astype(np.int64) if v.dtype.kind == "i" else v) for v in values))
    found = [np.asarray(v) for v in (given if isinstance(given, list | tuple) else [given])]
    return [np.moveaxis(v, 1, -1) if v.ndim == 4 and not hasattr(model, "get_weights") else v for v in found]
