"""The user's own PyTorch code: classes that a pickle may name, and callables that build a module."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any

import torch

from tracer import usercode
from tracer.errors import InputError
from tracer.names import display


def classes(module: ModuleType) -> list[type]:
    """The nn.Module, dataclass and enum classes that ``module`` defines or re-exports from its own package."""
    found: list[type] = []
    package = module.__name__.partition(".")[0]
    for value in list(vars(module).values()):
        if not isinstance(value, type) or value in found:
            continue
        home = getattr(value, "__module__", "")
        if home != module.__name__ and home.partition(".")[0] != package:
            continue
        if issubclass(value, torch.nn.Module | enum.Enum) or is_dataclass(value):
            found.append(value)
    return found


def build(arch: str, arguments: Sequence[Any] | Mapping[str, Any]) -> torch.nn.Module:
    """Call ``--arch``. Raises InputError when it cannot be imported or called, or makes something else."""
    made = usercode.call(arch, arguments, lambda value: isinstance(value, torch.nn.Module))
    if not isinstance(made, torch.nn.Module):
        raise InputError(f"--arch '{display(arch)}' made a {type(made).__name__}, not an nn.Module")
    return made
