"""The user's own code that a model needs: custom classes, and callables that build a model."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tracer.adapter import LoadRequest
from tracer.errors import InputError, TracerError


def brief(error: BaseException, limit: int = 200) -> str:
    """Class and first line of an exception."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """The working directory on ``sys.path``, as for ``python -m``."""
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def module(name: str, flag: str) -> ModuleType:
    """A module by dotted name or ``.py`` file. Raises InputError in one line that names ``flag``."""
    try:
        if not name.endswith(".py"):
            with working_directory_importable():
                return import_module(name)
        path = Path(name).resolve()
        if not path.is_file():
            raise InputError(f"{flag} {name}: no such file")
        known = sys.modules.get(path.stem)
        if known is not None and getattr(known, "__file__", None) == str(path):
            return known
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        # Under its own name only where that hides nothing: a file may well be called model.py or types.py.
        if path.stem not in sys.modules:
            sys.modules[path.stem] = loaded
        sys.path.insert(0, str(path.parent))
        try:
            with working_directory_importable():
                spec.loader.exec_module(loaded)
        except BaseException:
            if sys.modules.get(path.stem) is loaded:
                del sys.modules[path.stem]
            raise
        finally:
            if str(path.parent) in sys.path:
                sys.path.remove(str(path.parent))
        return loaded
    except TracerError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{flag} {name} failed: {brief(error)}") from None


def objects(request: LoadRequest, registries: list[Any]) -> dict[str, Any]:
    """What the user's imports define: layers, models, functions, and what they register with Keras, by name."""
    before = {id(value) for registry in registries for value in registry.values()}
    found: dict[str, Any] = {}
    for name in request.imports:
        loaded = module(name, "--import")
        for key, value in vars(loaded).items():
            own = getattr(value, "__module__", None) == loaded.__name__ and callable(value)
            if not key.startswith("__") and (own or _is_keras_class(value)):
                found[key] = value
    for name in request.allow:
        owner, _, attribute = name.rpartition(".")
        if not owner:
            raise InputError(f"--allow {name}: give pkg.mod.Class")
        value = getattr(module(owner, "--allow"), attribute, None)
        if value is None:
            raise InputError(f"--allow {name}: {owner} has no {attribute}")
        found[attribute] = value
    for registry in registries:
        for key, value in registry.items():
            if id(value) not in before:
                found[key] = value
                found.setdefault(str(key).rsplit(">", 1)[-1], value)
    return found


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
    owner, separator, attribute = request.arch.rpartition(":")
    if not separator or not owner or not attribute:
        raise InputError(f"--arch {request.arch}: give pkg.mod:callable or path/file.py:callable")
    target: Any = module(owner, "--arch")
    for part in attribute.split("."):
        target = getattr(target, part, None)
    if target is None:
        raise InputError(f"--arch {request.arch}: {owner} has no {attribute}")
    if not callable(target) or _is_keras_instance(target):
        return target
    args = request.arch_args
    try:
        return target(**args) if isinstance(args, Mapping) else target(*args)
    except TracerError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"--arch {request.arch} failed: {brief(error)}") from None


def _is_keras_instance(value: Any) -> bool:
    from tracer_keras.flavour import Flavour

    return Flavour.of(value) is not None
