"""Keras 3's own operations and functions in architectures that name them too briefly for Keras to find them again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

_SPACES = ("numpy", "nn", "math", "core", "image", "linalg")


def located(config: Any, library: Any, own: Collection[str]) -> Any:
    """``config`` of an .h5 file with the module of each operation that is no class of the user's ``own``.

    Keras writes ``Add`` for the operation and for the layer alike there, and reads the layer; but an operation's
    configuration does not say ``trainable``, as every layer's does.
    """
    homes = {
        key: f"keras.src.ops.{space}"
        for space in reversed(_SPACES)
        for key, value in vars(import_module(f"keras.src.ops.{space}")).items()
        if isinstance(value, type) and issubclass(value, library.Operation) and key not in own
    }

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        out = {key: walk(item) for key, item in value.items()}
        name, inner = value.get("class_name"), value.get("config")
        home = homes.get(name) if isinstance(name, str) and "module" not in value else None
        if home is not None and "inbound_nodes" in value and isinstance(inner, Mapping) and "trainable" not in inner:
            out |= {"module": home, "registered_name": name}
        return out

    return walk(config)


def functions(config: Any, library: Any) -> dict[str, Any]:
    """The functions of ``keras.ops`` that ``config`` names where an activation is expected.

    A file says of a function nothing but its name; Keras looks among its activations only.
    """
    found: dict[str, Any] = {}
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, Mapping):
            pending.extend(value.values())
            name = value.get("config")
            if value.get("class_name") != "function" or not isinstance(name, str) or hasattr(library.activations, name):
                continue
            function = getattr(library.ops, name, None)
            if callable(function):
                found[name] = function
    return found
