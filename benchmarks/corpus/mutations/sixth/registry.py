"""Where the sixth set's modules register, and what its ports share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.corpus.mutations.carrying import carry
from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("sixth")
network, control, defect = SET.network, SET.control, SET.defect
one_layer, neighbours = SET.one_layer, SET.neighbours


class Port(nn.Module):
    """A port that is told which mistakes, or which other correct ways, it is written with."""

    def __init__(self, ways: Collection[str] = ()) -> None:
        super().__init__()
        self.ways = ways


def slip(name: str, at: str, kinds: str, vague: str = "") -> None:
    """Registers a mistake that the port makes where it is told the mistake's name."""
    SET.mistake(name, at, kinds, vague, **{name.partition("/")[2]: True})


def way(name: str) -> None:
    """Registers another correct way to write the port, which it takes where it is told the way's name."""
    SET.variant(name, **{name.partition("/")[2]: True})


def ported(
    reference: Any,
    port: Callable[[Collection[str]], nn.Module],
    own: Mapping[str, Any] | None = None,
    rename: Callable[[str], str] = str,
) -> Callable[..., Any]:
    """What makes a port with the Keras model's weights.

    ``own`` are values of parameters that are not carried by a layer's name, which ``rename`` turns into the module's.
    """

    def make(**ways: bool) -> Any:
        module = port(frozenset(ways))
        state = module.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, array in (own or {}).items():
                state.pop(name).copy_(torch.from_numpy(np.array(array)))
        return carry(reference, SimpleNamespace(state_dict=lambda keep_vars: state, eval=module.eval), rename)

    return make


def epsilon(value: float, *kinds: type[nn.Module]) -> Callable[[Any], None]:
    """Gives every layer of these kinds another epsilon."""

    def apply(port: Any) -> None:
        for module in port.modules():
            if isinstance(module, kinds):
                module.eps = value

    return apply


def set_to(path: str, **settings: Any) -> Callable[[Any], None]:
    """Sets attributes of a layer."""

    def apply(port: Any) -> None:
        module = port.get_submodule(path)
        for name, value in settings.items():
            setattr(module, name, value)

    return apply


def rewritten(path: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], None]:
    """Gives parameters or buffers the values that ``change`` makes of their own; ``path`` may have wildcards."""

    def apply(port: Any) -> None:
        for name, tensor in port.state_dict().items():
            if fnmatchcase(name, path):
                tensor.copy_(change(tensor.clone()))

    return apply


def exchanged(one: str, two: str) -> Callable[[Any], None]:
    """Lets two layers change places."""

    def apply(port: Any) -> None:
        first, second = port.get_submodule(one), port.get_submodule(two)
        port.set_submodule(one, second)
        port.set_submodule(two, first)

    return apply


def fed(seed: int, *shape: int) -> np.ndarray:
    """Values of a normal distribution."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def counted(seed: int, below: int, *shape: int, least: int = 0) -> np.ndarray:
    """Whole numbers."""
    return np.random.default_rng(seed).integers(least, below, shape).astype(np.int32)
