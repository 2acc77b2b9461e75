"""Defects that ports have, built into any correct port in PyTorch, with what they do to the pairing.

>>> subject = Subject(model, {"x": values})
>>> for name in KINDS:
...     mutation = subject.mutate(name)  # None where the model has no place for it
"""

from __future__ import annotations

from benchmarks.corpus.mutations import graph, layers, sequences  # noqa: F401
from benchmarks.corpus.mutations.subject import KINDS, Mutation, Subject, differ, observe

__all__ = ["KINDS", "Mutation", "Subject", "differ", "observe"]
