"""Public names of a package that are imported when they are first used, so that importing the package costs nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any


def exports(package: str, where: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package (PEP 562) whose names lie in other modules.

    Args:
        package: its ``__name__``.
        where: public name to the module that has it. No submodule may have the name of an export: once imported, the
            submodule would be what is found.
    """

    def find(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(where[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted(where)
