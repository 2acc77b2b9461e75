"""Whether a module that came out of a file is one: a pickle may put anything into an instance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from tracer.errors import InputError, RefusedError
from tracer.names import display
from tracer.text import described
from tracer_torch import layers
from tracer_torch.signature import signature, time_major

_FREE = frozenset({"type", "half", "float", "double", "bfloat16", "cpu", "cuda", "xpu", "ipu", "mtia", "to", "compile"})
"""Methods of nn.Module that nothing here calls; detectors use such names for attributes of their own (``type``)."""
_METHODS = frozenset(name for name, value in vars(nn.Module).items() if callable(value)) - _FREE
_CONTENTS: tuple[tuple[str, type, str], ...] = (
    ("_parameters", torch.Tensor, "tensor"),
    ("_buffers", torch.Tensor, "tensor"),
    ("_modules", nn.Module, "module"),
)
_HOOKS = frozenset(name for name in vars(nn.Module()) if name.endswith("_hooks"))
_MOST_PATHS = 1 << 17
"""Paths from the root to its modules, shared ones counted each time; the deepest networks have thousands."""


def check(content: object, shown: str, *, code: bool) -> None:
    """Check every module in what a file held.

    With ``code`` (the user trusts the file) instances may replace methods.
    Raises InputError for modules that are not put together as torch does it, RefusedError for traps.
    """
    for module in modules_in(content):
        _check_tree(module, shown, code)
        try:
            # Settings of layers may be of any type: whatever reads them is tried here.
            signature(module)
            time_major(module)
            for part in module.modules():
                layers.kind(part), layers.config(part), layers.layout(part)
            for _ in layers.owned(module):
                pass
        except Exception as error:
            raise InputError(f"{shown} holds a damaged {_kind(module)}: {described(error, 160)}") from error


def modules_in(content: object) -> Iterator[nn.Module]:
    """Every outermost module in nested mappings and sequences."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            yield value
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value


def _check_tree(root: nn.Module, shown: str, code: bool) -> None:
    """Depth first without recursion: each module sound, none inside itself, no explosion of shared ones."""
    paths: dict[int, int] = {}
    above: set[int] = set()
    waiting: list[tuple[nn.Module, bool]] = [(root, False)]
    while waiting:
        module, done = waiting.pop()
        if done:
            above.remove(id(module))
            paths[id(module)] = 1 + sum(paths[id(child)] for child in module._modules.values() if child is not None)
            if paths[id(module)] > _MOST_PATHS:
                raise RefusedError(f"{shown} holds modules shared so often that no walk through them ends: refused")
            continue
        if id(module) in above:
            raise InputError(f"{shown} holds a {_kind(module)} that contains itself")
        if id(module) in paths:
            continue
        _check_one(module, shown, code)
        above.add(id(module))
        waiting.append((module, True))
        waiting += [(child, False) for child in module._modules.values() if child is not None]


def _check_one(module: nn.Module, shown: str, code: bool) -> None:
    own = vars(module)
    for attribute, kind, word in _CONTENTS:
        held = own.get(attribute)
        if not isinstance(held, dict):
            raise InputError(f"{shown} holds a damaged {_kind(module)}: its {attribute} is a {type(held).__name__}")
        for name, value in held.items():
            if not isinstance(name, str):
                raise InputError(
                    f"{shown} holds a damaged {_kind(module)}: a name in its {attribute} is a {type(name).__name__}"
                )
            if value is not None and not isinstance(value, kind):
                raise InputError(
                    f"{shown} holds a damaged {_kind(module)}: '{display(name, 60)}' in its {attribute} is a "
                    f"{type(value).__name__}, not a {word}"
                )
    if not isinstance(own.get("training"), bool):
        raise InputError(f"{shown} holds a damaged {_kind(module)}: its 'training' is not True or False")
    for name, value in own.items():
        if name in _HOOKS and not isinstance(value, dict):
            raise InputError(f"{shown} holds a damaged {_kind(module)}: its {name} is a {type(value).__name__}")
        shadows = name in _METHODS or (name == "_compiled_call_impl" and value is not None)
        if shadows and not code:
            raise RefusedError(
                f"{shown} puts a {type(value).__name__} in place of the method '{display(name, 60)}' of a "
                f"{_kind(module)}: refused, or --trust if this file may run code"
            )


def _kind(module: nn.Module) -> str:
    return display(type(module).__name__, 60)
