"""The user's own code that a model needs: custom classes, and callables that build a model."""

from __future__ import annotations

from typing import Any

from tracer import usercode
from tracer.adapter import LoadRequest
from tracer.errors import InputError


def objects(request: LoadRequest, registries: list[Any]) -> dict[str, Any]:
    """What the user's imports define: layers, models, functions, and what they register with Keras, by name."""
    before = {id(value) for registry in registries for value in registry.values()}
    found: dict[str, Any] = {}
    for name in request.imports:
        loaded = usercode.import_module(name)
        for key, value in vars(loaded).items():
            own = getattr(value, "__module__", None) == loaded.__name__ and callable(value)
            if not key.startswith("__") and (own or _is_keras_class(value)):
                found[key] = value
    for name in request.allow:
        owner, _, attribute = name.rpartition(".")
        if not owner:
            raise InputError(f"--allow {name}: give pkg.mod.Class")
        value = getattr(usercode.import_module(owner), attribute, None)
        if value is None:
            raise InputError(f"--allow {name}: {owner} has no {attribute}")
        found[attribute] = value
    for registry in registries:
        for key, value in registry.items():
            if id(value) not in before:
                found[key] = value
                found.setdefault(str(key).rsplit(">", 1)[-1], value)
    return found


def registered(registries: list[Any]) -> set[str]:
    """What the user's code had registered with Keras before, by name; not what Keras registers itself."""
    return {
        key
        for registry in registries
        for key, value in registry.items()
        if not str(getattr(value, "__module__", "keras")).startswith(("keras.", "tf_keras."))
    }


def _is_keras_class(value: Any) -> bool:
    if not isinstance(value, type):
        return False
    names = {f"{cls.__module__}.{cls.__name__}" for cls in value.__mro__}
    return not value.__module__.startswith(("keras.", "tf_keras.")) and any(
        name.startswith(("keras.", "tf_keras.")) and name.endswith((".Layer", ".Model")) for name in names
    )


def build(request: LoadRequest) -> Any:
    """Call ``request.arch``. Raises InputError in one line for whatever goes wrong there."""
    assert request.arch is not None
    return usercode.call(request.arch, request.arch_args, _is_keras_instance)


def _is_keras_instance(value: Any) -> bool:
    from tracer_keras.flavour import Flavour

    return Flavour.of(value) is not None
