"""Weights of one framework's model for another's: compared, and carried over.

``tracer.weights(a, b)`` compares: importing a module of this package puts the package where that function is looked up,
so it can be called itself.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from tracer.api import weights

        return weights(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
