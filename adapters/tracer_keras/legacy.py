"""Lets the user's own code of Keras 2 find Keras 2 where Keras 3 has its name today."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


@contextmanager
def names() -> Iterator[None]:
    """``import keras`` means tf_keras meanwhile, and ``tf.keras`` too where TensorFlow was not imported before.

    What was imported so keeps it; Keras 3 has its name back afterwards.
    """
    if "tensorflow" not in sys.modules:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    hidden = _take_away()
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _take_away()
        sys.modules.update(hidden)


def note() -> str:
    """What code of Keras 2 was given, for the user."""
    tensorflow = sys.modules.get("tensorflow")
    own = "keras and tf.keras" if getattr(tensorflow, "keras", None) is not None and _tensorflow_legacy() else "keras"
    return f"a file of Keras 2: {own} meant tf_keras in the imported code"


def _tensorflow_legacy() -> bool:
    return os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")


def _take_away() -> dict[str, ModuleType]:
    found = [name for name in sys.modules if name == "keras" or name.startswith("keras.")]
    return {name: sys.modules.pop(name) for name in found}


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "keras" and not name.startswith("keras."):
            return None
        real = f"tf_{name}"
        try:
            if find_spec(real) is None:
                return None
        except ImportError:
            return None
        return ModuleSpec(name, _Loader(real), is_package=True)


class _Loader(Loader):
    """Gives the module of tf_keras itself, as it was."""

    def __init__(self, real: str) -> None:
        self.real = real
        self._spec: Any = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self.real)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
