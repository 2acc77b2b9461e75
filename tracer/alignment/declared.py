"""Layers of third parties that say themselves what their weights are for and how they are laid out.

A library declares its layers with an entry point of the group :data:`GROUP`, named as ``tracer inspect`` prints the
layer's operation, whose object is a :class:`LayerWeights`; a script decorates the class with :func:`layer_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from typing import TypeVar

from tracer.alignment.atoms import Atom
from tracer.alignment.atoms import declared as declared_slot
from tracer.alignment.owned import described, keys
from tracer.alignment.twins import Weights
from tracer.errors import InputError
from tracer.graph import Structure
from tracer.names import display

GROUP = "tracer.layers"
_LAST = ("in", "out")
"""Axes that stand last in the common layout, in this order; others stand before them by their names."""
_T = TypeVar("_T", bound=type)


@dataclass(frozen=True)
class LayerWeights:
    """What a layer's weights are for.

    Attributes:
        kind: one word for what the layer does, the same for every framework's layer that does it.
        weights: for each parameter, by its name within the layer, what it is for and the name of each of its axes:
            ``kernel out in``, ``tau`` (a scalar), ``bias out``. Parameters of two layers of one kind belong together
            when they are for the same, and their axes when they have the same name.
    """

    kind: str
    weights: Mapping[str, str]

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be read."""
        for name, text in self.weights.items():
            role, *axes = text.split() or [""]
            if not role or len(set(axes)) != len(axes):
                raise ValueError(f"{name}: a role and a different name for each axis are wanted, not {text!r}")

    def role(self, name: str) -> str:
        """What the parameter ``name`` is for: ``kernel``, ``bias`` …"""
        return self.weights[name].split()[0]

    def order(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of the parameter ``name`` of that ``shape`` as they stand in the common layout.

        Raises InputError where there are not as many.
        """
        _, *axes = self.weights[name].split()
        if len(axes) != len(shape):
            raise InputError(
                f"the weight {display(name)} of a {display(self.kind)} is declared as {display(self.weights[name])!r}, "
                f"which is {len(axes)} axes, and has {len(shape)}"
            )
        rank = {axis: (axis in _LAST and 1 + _LAST.index(axis), axis) for axis in axes}
        return tuple(sorted(range(len(axes)), key=lambda at: rank[axes[at]]))


_DECLARED: dict[str, LayerWeights] = {}


def layer_weights(kind: str, weights: Mapping[str, str]) -> Callable[[_T], _T]:
    """Declare the weights of the class that this decorates, its ``kind`` and ``weights`` as in :class:`LayerWeights`.
    Raises ValueError."""
    found = LayerWeights(kind, dict(weights))

    def declare(layer: _T) -> _T:
        _DECLARED[layer.__name__] = found
        return layer

    return declare


def declared(structure: Structure) -> dict[str, LayerWeights]:
    """By the path of each layer of the structure that somebody declared. Raises InputError for a broken declaration."""
    found: dict[str, LayerWeights] = {}
    for node in structure:
        if node.role in ("layer", "container") and node.owner not in found:
            layer = _DECLARED.get(node.label) or _installed(node.label)
            if layer is not None:
                found[node.owner] = layer
    return found


def as_declared(found: Sequence[Atom], structure: Structure, weights: Weights | None) -> list[Atom]:
    """Atoms with one for each layer that is declared, in place of those that its parameters were taken for.

    Raises InputError where a declaration does not fit the layer.
    """
    out = list(found)
    layers = declared(structure)
    if not layers:
        return out
    shapes = dict(weights.shapes) if weights is not None else {}
    shapes |= {key: param.shape for key, param in described(structure).items()}
    users = {key: i for i, node in reversed([*enumerate(structure)]) for key in keys([node])[0]}
    for owner, layer in layers.items():
        names = [name for name in layer.weights if (owner, name) in shapes]
        slots = [
            declared_slot((owner, n), shapes[owner, n], layer.role(n), layer.order(n, shapes[owner, n])) for n in names
        ]
        own = {key for slot in slots for key in slot.keys}
        if not own:
            continue
        at = max((users[key] for key in own if key in users), default=-1)
        order = min((atom.order for atom in out if own.intersection(atom.keys)), default=float(at))
        out = [
            replace(atom, slots=kept)
            for atom in out
            if (kept := tuple(slot for slot in atom.slots if not own.intersection(slot.keys)))
        ]
        out.append(Atom(f"declared:{layer.kind}", tuple(slots), at, order, owner))
    return out


@cache
def _installed(label: str) -> LayerWeights | None:
    point = next(iter(entry_points(group=GROUP, name=label)), None)
    if point is None:
        return None
    home = point.dist.name if point.dist is not None else point.module
    try:
        found = point.load()
    except Exception as error:
        raise InputError(f"the layer '{display(label)}' that {home} declares cannot be imported: {error}") from error
    if not isinstance(found, LayerWeights):
        raise InputError(f"the layer '{display(label)}' that {home} declares is no tracer.LayerWeights")
    return found
