"""The layers of a model: their paths, which of them are opened, and whose weights are whose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tracer_keras.flavour import Flavour

_LIBRARY = re.compile(r"(keras|tf_keras)(\.src)?\.(?!models|engine\.(training|functional|sequential)\b)")
_DEFAULT_NAME = re.compile(r"variable(_\d+)?")


def children(layer: Any, flavour: Flavour) -> list[Any]:
    """The layers (and, in a functional model, Keras 3 operations) directly inside ``layer``."""
    found: list[Any] = []
    if flavour.is_functional(layer):
        operations = getattr(getattr(layer, "_functional", None) or layer, "_operations", None)
        found.extend(operations if operations is not None else layer.layers)
    with suppress(AttributeError):  # operations hold no layers
        found.extend(layer._flatten_layers(include_self=False, recursive=False))
    inner = getattr(layer, "_functional", None)
    return list({id(item): item for item in found if item is not inner}.values())


def from_library(layer: Any) -> bool:
    """Whether the class that defines ``layer``'s computation is one of Keras's own layers."""
    for cls in type(layer).__mro__:
        if "call" in vars(cls):
            return bool(_LIBRARY.match(f"{cls.__module__}."))
    return True


def is_leaf(layer: Any, flavour: Flavour) -> bool:
    """Whether ``layer`` is taken as one operation, whatever it holds (Bidirectional, attention, RNN)."""
    if isinstance(layer, flavour.model_class) or flavour.is_functional(layer):
        return False
    return from_library(layer) or not isinstance(layer, flavour.layer_class)


class Paths:
    """Every layer's path from the root, assigned before the model runs so that it never depends on the run.

    A layer held in several places has the path of the first; one that no container tracks gets a path when it is
    first called.
    """

    def __init__(self, root: Any, flavour: Flavour) -> None:
        self.root = root
        self.flavour = flavour
        self._paths: dict[int, str] = {id(root): ""}
        self._taken: set[str] = set()
        self._layers: list[tuple[str, Any]] = [("", root)]
        self._walk(root, "")

    def _walk(self, layer: Any, prefix: str) -> None:
        for child in children(layer, self.flavour):
            if id(child) in self._paths:
                continue
            path = self.assign(child, prefix)
            if not is_leaf(child, self.flavour):
                self._walk(child, path)

    def assign(self, layer: Any, scope: str) -> str:
        """The path of ``layer``, new if it has none yet."""
        known = self._paths.get(id(layer))
        if known is not None:
            return known
        path = base = f"{scope}/{layer.name}" if scope else str(layer.name)
        number = 1
        while path in self._taken:
            number += 1
            path = f"{base}~{number}"
        self._taken.add(path)
        self._paths[id(layer)] = path
        self._layers.append((path, layer))
        return path

    def reserve(self, base: str) -> str:
        """A path for something that is no layer, unlike every other."""
        path, number = base, 0
        while path in self._taken:
            number += 1
            path = f"{base}_{number}"
        self._taken.add(path)
        return path

    def release(self, path: str) -> None:
        """Give a reserved path back."""
        self._taken.discard(path)

    def get(self, layer: Any) -> str | None:
        return self._paths.get(id(layer))

    def layers(self) -> Iterator[tuple[str, Any]]:
        """All known layers with their paths, the root first."""
        return iter(self._layers)


def weights_of(layer: Any, flavour: Flavour) -> list[tuple[str, Any]]:
    """The weights that belong to ``layer``'s own node: local name and variable, in Keras's order.

    A leaf owns what is inside it too, named by the way there; a container only what it made itself.
    """
    if not isinstance(layer, flavour.layer_class):
        return []
    names: dict[int, str] = {}
    _name_weights(layer, "", names, flavour, set())
    everything = list(layer.weights)
    if not is_leaf(layer, flavour):
        below = {id(w) for child in children(layer, flavour) for w in getattr(child, "weights", ())}
        everything = [w for w in everything if id(w) not in below]
    out: list[tuple[str, Any]] = []
    taken: set[str] = set()
    seen: set[int] = set()
    for weight in everything:
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        base = name = names.get(id(weight)) or _local(layer, weight)
        number = 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        out.append((name, weight))
    return out


def _name_weights(layer: Any, prefix: str, names: dict[int, str], flavour: Flavour, visited: set[int]) -> None:
    visited.add(id(layer))
    inner = [child for child in children(layer, flavour) if hasattr(child, "weights") and id(child) not in visited]
    below = {id(w) for child in inner for w in child.weights}
    for weight in layer.weights:
        if id(weight) not in below:
            names.setdefault(id(weight), prefix + _local(layer, weight))
    for child in inner:
        _name_weights(child, prefix + _step(layer, child), names, flavour, visited)


def _step(layer: Any, child: Any) -> str:
    """The part of a weight's name for going from ``layer`` into ``child``; wrappers and cells add none."""
    if child is getattr(layer, "forward_layer", None):
        return "forward/"
    if child is getattr(layer, "backward_layer", None):
        return "backward/"
    if child is getattr(layer, "cell", None):
        return ""
    if child is getattr(layer, "layer", None):
        return ""
    return f"{child.name}/"


def _local(layer: Any, weight: Any) -> str:
    name = str(weight.name).split(":", 1)[0].rsplit("/", 1)[-1]
    if _DEFAULT_NAME.fullmatch(name):
        # Keras counts unnamed variables over the whole process; the attribute is stable.
        for attribute, value in vars(layer).items():
            if value is weight:
                return attribute.lstrip("_") or name
    return name
