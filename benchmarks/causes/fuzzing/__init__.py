"""Defects that nobody wrote: operators that a seed applies anywhere in the correct ports of the sets of networks."""

from __future__ import annotations

from benchmarks.causes.fuzzing import calls, modules  # noqa: F401
from benchmarks.causes.fuzzing.registry import OPERATORS, Operator, told

__all__ = ["OPERATORS", "Operator", "told"]
