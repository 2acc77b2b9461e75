"""Keras on torch in float64: every operation gets its floating tensors as such, whatever the model says."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_NARROW = frozenset({torch.float16, torch.bfloat16, torch.float32})
_AS_IT_IS = ("aten::view.dtype", "aten::_unsafe_view.dtype", "aten::set_")


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _NARROW:
        return value.to(torch.float64)
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


class Wide(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active, operations compute in float64; what the model keeps stays in the type that it has.

    Random numbers are drawn in their own type, so that they are the same numbers.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        schema = func._schema
        changed = [a.name for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        if changed:
            return self._in_place(func, args, given, set(changed))
        if torch.Tag.nondeterministic_seeded in func.tags:
            return tree_map(_wide, func(*args, **given))
        if schema.name in ("aten::detach", "aten::alias") or f"{schema.name}.{schema.overload_name}" in _AS_IT_IS:
            return func(*args, **given)
        return func(*tree_map(_wide, args), **tree_map(_wide, given))

    def _in_place(self, func: Any, args: Any, kwargs: Any, changed: set[str]) -> Any:
        """What is written keeps its type, and the rest is read in it."""
        names = [argument.name for argument in func._schema.arguments]
        named = dict(zip(names, args, strict=False)) | kwargs
        written = next((named[name] for name in names if name in changed and name in named), None)
        dtype = written.dtype if isinstance(written, torch.Tensor) else None
        if dtype is None or not dtype.is_floating_point or torch.Tag.nondeterministic_seeded in func.tags:
            return func(*args, **kwargs)

        def typed(name: str, value: Any) -> Any:
            if name in changed:
                return value
            return tree_map(
                lambda leaf: leaf.to(dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf,
                value,
            )

        return func(
            *(typed(name, value) for name, value in zip(names, args, strict=False)),
            **{name: typed(name, value) for name, value in kwargs.items()},
        )
