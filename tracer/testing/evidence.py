"""What an adapter did with a case, gathered once for all the rules that only look at it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from tracer.adapter import Adapter, Array, LoadedModel, NotRecorded, Run
from tracer.errors import ModelError
from tracer.graph import Param, Structure
from tracer.testing.case import Case

Parameters = list[tuple[str, Param, Array]]


@dataclass
class Recorder:
    """A sink that remembers in which order it was called, and the very arrays it was told nobody would change."""

    only: frozenset[str] | None = None
    order: list[str] = field(default_factory=list)
    values: dict[str, Array | NotRecorded] = field(default_factory=dict)
    owned: dict[str, Array] = field(default_factory=dict)
    gradients: dict[str, Array | NotRecorded] = field(default_factory=dict)
    weight_gradients: dict[tuple[str, str], Array | NotRecorded] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)

    def wants(self, name: str) -> bool:
        return self.only is None or name in self.only

    def __call__(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        self.order.append(name)
        self.values[name] = self._copy(name, value)
        if owned and isinstance(value, np.ndarray):
            self.owned[name] = value

    def gradient(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        self.gradients[name] = self._copy(name, value)

    def weight_gradient(self, owner: str, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        self.weight_gradients[owner, name] = self._copy(f"{owner} {name}", value)

    def _copy(self, name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.copy()
        if not isinstance(value, NotRecorded) or not value.reason:
            self.strange.append(f"{name}: {type(value).__module__}.{type(value).__qualname__}")
        return value

    def arrays(self) -> dict[str, Array]:
        return {name: value for name, value in self.values.items() if isinstance(value, np.ndarray)}


@dataclass(frozen=True)
class Evidence:
    """A model behind the contract, its structure, one capture, and what was found before and after it."""

    live: Any
    loaded: LoadedModel
    structure: Structure
    sink: Recorder
    before: Parameters
    after: Parameters
    draws: bool
    """Whether numpy's or Python's own random state was moved."""


def opened(adapter: Adapter, case: Case, folder: Path, live: Any = None) -> LoadedModel:
    """The case's model behind the contract: live where it has one, else from its file."""
    if case.model is not None:
        return adapter.wrap(case.model() if live is None else live)
    assert case.file is not None
    folder.mkdir(parents=True, exist_ok=True)
    return adapter.load(case.file(folder))


def gather(adapter: Adapter, case: Case, folder: Path) -> Evidence:
    """Open, look, capture."""
    live = case.model() if case.model is not None else None
    loaded = opened(adapter, case, folder, live)
    before = parameters(loaded)
    structure = loaded.structure(copies(case.inputs))
    mark = _draws()
    sink = Recorder()
    try:
        loaded.capture(copies(case.inputs), sink)
    except ModelError:
        if not case.raises:
            raise
    moved = _draws() != mark
    return Evidence(live, loaded, structure, sink, before, parameters(loaded), moved)


def captured(loaded: LoadedModel, inputs: Mapping[str, Array], only: frozenset[str] | None = None) -> Recorder:
    """One capture, structure first."""
    loaded.structure(copies(inputs))
    sink = Recorder(only)
    loaded.capture(copies(inputs), sink)
    return sink


def learned(adapter: Adapter, case: Case, folder: Path, run: Run) -> tuple[LoadedModel, Structure, Recorder]:
    """A fresh model, run as ``run`` says."""
    loaded = opened(adapter, case, folder)
    loaded.run = run
    structure = loaded.structure(copies(case.inputs))
    sink = Recorder()
    loaded.capture(copies(case.inputs), sink)
    return loaded, structure, sink


def copies(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in inputs.items()}


def parameters(loaded: LoadedModel) -> Parameters:
    return [(owner, param, np.array(value)) for owner, param, value in loaded.parameters()]


def _draws() -> tuple[object, str]:
    return random.getstate(), repr(np.random.get_state())


def same(a: Array | NotRecorded | None, b: Array | NotRecorded | None) -> bool:
    """Equal to the last bit; NaN equals NaN."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return type(a) is type(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def close(a: Array, b: Array, tolerance: float) -> bool:
    """Equal within ``tolerance`` of the larger's greatest value; complex, boolean and reduced types as well."""
    if a.shape != b.shape:
        return False
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    x, y = a.astype(wide), b.astype(wide)
    scale = max([1e-12, *(float(np.nanmax(np.abs(v))) for v in (x, y) if v.size and not np.isnan(v).all())])
    return bool(np.allclose(x, y, rtol=0, atol=tolerance * scale, equal_nan=True))


def fail(rule: str, details: object = "") -> NoReturn:
    """Fail the running test with the rule that was broken, without a traceback into the kit."""
    __tracebackhide__ = True
    text = details if isinstance(details, str) else "\n".join(f"  {line}" for line in _some(details))
    pytest.fail(f"{rule}\n{text}".rstrip(), pytrace=False)


def _some(details: Any, most: int = 12) -> list[str]:
    lines = [str(line) for line in details]
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]


def one_line(text: object) -> bool:
    return isinstance(text, str) and text.strip() != "" and len(text.splitlines()) == 1


def raised(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def check_values(sink: Recorder, structure: Structure) -> None:
    if sink.strange:
        fail("values must be numpy arrays, or NotRecorded with a reason", sink.strange)
    wrong = []
    for name, value in sink.arrays().items():
        node = structure.by_name.get(name)
        if node is None:
            continue  # the rule about order says so
        if node.shape is not None and value.shape != node.shape:
            wrong.append(f"{name} has shape {value.shape}, announced was {node.shape}")
        if node.dtype is not None and value.dtype.name != node.dtype:
            wrong.append(f"{name} is {value.dtype}, announced was {node.dtype}")
    if wrong:
        fail("a captured tensor must have the shape and type of its node", wrong)


def changes(before: Parameters, after: Parameters) -> list[str]:
    now = {(owner, param.name): value for owner, param, value in after}
    return [
        f"{owner} {param.name} changed"
        for owner, param, value in before
        if not same(value, now.get((owner, param.name)))
    ]
