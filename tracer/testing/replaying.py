"""Rules for adapters whose models can be run again with tensors exchanged on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tracer.adapter import Array, LoadedModel
from tracer.errors import ReplayError
from tracer.graph import Structure
from tracer.testing.case import Case
from tracer.testing.evidence import Recorder, fail, opened
from tracer.testing.rules import Rules, needs


@dataclass
class _Exchange:
    """Notes what comes, and gives what it was told to."""

    instead: dict[str, Array] = field(default_factory=dict)
    seen: dict[str, Array] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        return True

    def __call__(self, name: str, value: Array) -> Array | None:
        self.seen[name] = np.array(value)
        return self.instead.get(name)


def _replayed(loaded: LoadedModel, case: Case, instead: dict[str, Array], *, double: bool = False) -> dict[str, Array]:
    """What every node gave; the test is skipped where the model cannot be run again."""
    exchange = _Exchange(instead)
    try:
        loaded.replay(case.inputs, exchange, double=double)
    except ReplayError as error:
        pytest.skip(str(error))
    return exchange.seen


def _below(structure: Structure, name: str) -> set[str]:
    """``name`` and all that depends on it."""
    found = {name}
    for node in structure:
        if found & {*node.parents, node.alias_of}:
            found.add(node.name)
    return found


class ReplayRules(Rules):
    """What :meth:`tracer.adapter.LoadedModel.replay` promises."""

    def _recorded(self, case: Case, tmp_path: Path) -> tuple[LoadedModel, Structure, dict[str, Array]]:
        loaded = opened(self.adapter(), case, tmp_path)
        structure = loaded.structure(case.inputs)
        sink = Recorder()
        loaded.capture(case.inputs, sink)
        return loaded, structure, sink.arrays()

    @needs("sound")
    def test_run_again_it_is_what_was_captured(self, case: Case, tmp_path: Path) -> None:
        """With nothing exchanged, and with every tensor exchanged for itself."""
        loaded, _, values = self._recorded(case, tmp_path)
        for instead in ({}, values):
            seen = _replayed(loaded, case, dict(instead))
            wrong = [f"{name} is not handed over" for name in values if name not in seen]
            wrong += [f"{name} was not captured" for name in seen if name not in values]
            wrong += [
                n for n in values if n in seen and not np.array_equal(values[n], seen[n], equal_nan=_float(seen[n]))
            ]
            if wrong:
                fail("a replay that changes nothing must be the very run that was captured", wrong)

    @needs("sound")
    def test_what_is_exchanged_is_what_is_read(self, case: Case, tmp_path: Path) -> None:
        loaded, structure, values = self._recorded(case, tmp_path)
        ends = {structure.by_name[name].alias_of or name for name in structure.outputs}
        inner = [n.name for n in structure.stored() if n.role != "input" and n.name not in ends and n.name in values]
        inner = [name for name in inner if _float(values[name]) and len(_below(structure, name)) > 1]
        if not inner:
            pytest.skip("it has no tensor between input and output")
        name = inner[0]
        value = values[name]
        other = (value.astype(np.float64) * 0.5 + 1).astype(value.dtype)
        seen = _replayed(loaded, case, {name: other})
        below = _below(structure, name)
        wrong = [
            n for n in values if n not in below and not np.array_equal(values[n], seen[n], equal_nan=_float(seen[n]))
        ]
        if wrong:
            fail(f"exchanging {name} must not change what does not depend on it", wrong)
        if all(np.array_equal(values[n], seen[n]) for n in values if n in below and n != name):
            fail(f"what reads {name} must get what it was exchanged for")

    @needs("sound")
    def test_in_double_it_computes_the_same(self, case: Case, tmp_path: Path) -> None:
        loaded, _, values = self._recorded(case, tmp_path)
        before = [(owner, p.name, value.copy()) for owner, p, value in loaded.parameters()]
        seen = _replayed(loaded, case, dict(values), double=True)
        wrong = []
        for name, value in values.items():
            if name not in seen or not _float(value) or value.size == 0:
                continue
            with np.errstate(all="ignore"):
                error = np.abs(np.nan_to_num(seen[name]) - np.nan_to_num(value.astype(np.float64))).max()
                size = np.abs(np.nan_to_num(value.astype(np.float64))).max()
            if not error <= max(1e-30, 0.05 * size):
                wrong.append(f"{name}: {error:.1e} off")
        if wrong:
            fail("in double each node must compute what it computes otherwise", wrong)
        after = [(owner, p.name, value) for owner, p, value in loaded.parameters()]
        if any(a[:2] != b[:2] or not np.array_equal(a[2], b[2]) for a, b in zip(before, after, strict=True)):
            fail("a replay in double must leave the model as it was")


def _float(value: Array) -> bool:
    return value.dtype.kind in "fV"
