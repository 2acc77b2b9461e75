"""Lets a model be traced that looks at values to choose its way: what it saw in an eager run is what it sees again."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tracer_keras.events import is_framework

_ASKED = ("__bool__", "__int__", "__float__", "__index__")


class Decisions:
    """The numbers that a model's own code asked tensors for, in order."""

    def __init__(self) -> None:
        self._seen: list[tuple[str, Any]] = []
        self._left: list[tuple[str, Any]] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what eager tensors are asked for meanwhile."""
        cls = import_module("tensorflow.python.framework.ops")._EagerTensorBase
        originals = {name: getattr(cls, name) for name in _ASKED}

        def noting(name: str) -> Callable[[Any], Any]:
            original = originals[name]

            @functools.wraps(original)
            def ask(tensor: Any) -> Any:
                value = original(tensor)
                if not is_framework(sys._getframe(1).f_code.co_filename):
                    self._seen.append((name, value))
                return value

            return ask

        with _patched(cls, {name: noting(name) for name in _ASKED}):
            yield

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Let symbolic tensors answer the same again. Raises ValueError where they are asked something else."""
        self._left = list(reversed(self._seen))

        def answering(name: str) -> Callable[[Any], Any]:
            def ask(tensor: Any) -> Any:
                asked, value = self._left.pop() if self._left else ("", None)
                if asked != name:
                    raise ValueError("the model asks for other values when it is traced")
                return value

            return ask

        with _patched(import_module("tensorflow.python.framework.tensor").Tensor, {n: answering(n) for n in _ASKED}):
            yield


@contextmanager
def _patched(cls: Any, methods: dict[str, Callable[[Any], Any]]) -> Iterator[None]:
    own = {name: vars(cls)[name] for name in methods if name in vars(cls)}
    for name, method in methods.items():
        setattr(cls, name, method)
    try:
        yield
    finally:
        for name in methods:
            if name in own:
                setattr(cls, name, own[name])
            else:
                delattr(cls, name)
