"""The user's own Python: modules named by ``--import`` and callables named by ``--arch``. Naming them is consent."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tracer.errors import InputError, TracerError
from tracer.names import display
from tracer.text import described

_loaded: dict[Path, ModuleType] = {}
"""Files already executed: the same file named by --arch and --import must give the same classes."""


def import_module(name: str) -> ModuleType:
    """Import ``pkg.mod`` or ``path/file.py``, with the working directory importable.

    Raises InputError when it does not exist or raises.
    """
    _importable(Path.cwd())
    try:
        if name.endswith(".py"):
            return _import_file(Path(name))
        return importlib.import_module(name)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"cannot import '{display(name)}': {described(error)}") from error


def _importable(folder: Path) -> None:
    text = str(folder)
    if text not in sys.path:
        sys.path.insert(0, text)


def _import_file(path: Path) -> ModuleType:
    path = path.resolve()
    if path in _loaded:
        return _loaded[path]
    if not path.is_file():
        raise InputError(f"cannot import '{display(str(path))}': no such file")
    _importable(path.parent)
    present = sys.modules.get(path.stem)
    if present is not None and _same_file(present, path):
        return present
    # A pickle names its classes by the module they were saved from, so the plain stem is the best name where free.
    name = path.stem
    if name in sys.modules or not name.isidentifier() or name in sys.stdlib_module_names:
        name = f"{name}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"cannot import '{display(str(path))}': not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    _loaded[path] = module
    return module


def _same_file(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).resolve() == path


def find(reference: str, flag: str) -> Any:
    """What ``pkg.mod:name`` or ``path/file.py:name`` names, given with ``flag``. Raises InputError where nothing."""
    shown = display(reference)
    where, colon, attribute = reference.rpartition(":")
    if not colon or not where or not attribute:
        raise InputError(f"{flag} '{shown}' is not of the form pkg.mod:callable or path/file.py:callable")
    target: Any = import_module(where)
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise InputError(f"{flag} '{shown}': {display(where)} has no '{display(part)}'") from None
    return target


def call(arch: str, arguments: Sequence[Any] | Mapping[str, Any], made: Callable[[Any], bool]) -> Any:
    """What ``pkg.mod:callable`` or ``path/file.py:callable`` makes; the thing itself where ``made`` says it is one.

    Raises InputError when it cannot be imported or called.
    """
    target = find(arch, "--arch")
    shown = display(arch)
    if made(target):
        return target
    if not callable(target):
        raise InputError(f"--arch '{shown}' is a {type(target).__name__}, not a callable that builds the model")
    try:
        return target(**arguments) if isinstance(arguments, Mapping) else target(*arguments)
    except TracerError:
        raise
    except (Exception, SystemExit) as error:
        hint = " (give its arguments with --arch-args)" if isinstance(error, TypeError) else ""
        raise InputError(f"--arch '{shown}' raised {described(error)}{hint}") from error
