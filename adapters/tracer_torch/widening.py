"""Operators of programs carried out in double precision, whatever the program's own tensors and constants are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from tracer_torch.aten import Function

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_ELEMENTS = {5: 7, 6: 7, 15: 7}
"""What TorchScript calls those types, and double precision."""
_TYPED = frozenset({"dtype", "output_dtype", "out_dtype"})


class Widening:
    """The double twins of what a program holds, for one pass: changed in place they stay changed."""

    def __init__(self) -> None:
        self._twins: Any = WeakTensorKeyDictionary()

    def arguments(self, args: Sequence[Any], names: Sequence[str] = ()) -> list[Any]:
        """``args`` with every narrower tensor and type in double precision; ``names`` are the schema's."""
        wide = [tree_map(self._wide, arg) for arg in args]
        for place, name in enumerate(names[: len(wide)]):
            if name in _TYPED and isinstance(wide[place], int):
                wide[place] = _ELEMENTS.get(wide[place], wide[place])
        return wide

    def run(
        self, function: Function, shown: Sequence[Any], args: Sequence[Any], names: Sequence[str], line: str | None
    ) -> Any:
        """Call ``function`` in double precision, or in single precision where it has no other.

        ``shown`` stays what it is: by these very tensors it is known where the values came from.
        """
        try:
            return function.run(shown, self.arguments(args, names), line)
        except Exception as error:
            if function.__name__.rstrip("_") != function.__name__:
                raise  # it may have changed something already
            try:
                return function.run(shown, [tree_map(_single, arg) for arg in args], line)
            except Exception:
                raise error from None

    def _wide(self, value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return torch.float64 if value in _NARROW else value
        if not isinstance(value, torch.Tensor) or value.dtype not in _NARROW:
            return value
        if value not in self._twins:
            with torch._C.DisableTorchFunction():
                self._twins[value] = value.detach().double()
        return self._twins[value]


def _single(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
        with torch._C.DisableTorchFunction():
            return value.float()
    return value
