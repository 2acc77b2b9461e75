"""The contract between the core and a framework, and how adapters are found.

An adapter is a class registered under the entry-point group ``tracer.adapters``; its entry-point name is the word
typed after ``tracer record`` (``tf``, ``pt``). Importing the adapter's package must not import the framework: that
happens in :meth:`Adapter.load` and later.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from tracer.errors import InputError, MissingFrameworkError
from tracer.graph import Layout, Param, Structure

Array = NDArray[Any]


@dataclass(frozen=True)
class LoadRequest:
    """What the user said about the model file.

    Attributes:
        path: the model file or directory; None when ``arch`` alone makes the model.
        weights: a separate weights file.
        arch: ``pkg.mod:callable`` or ``path/file.py:callable`` that builds the model.
        arch_args: positional list or keyword mapping for ``arch``.
        imports: modules (``pkg.mod``) or files (``path/file.py``) whose classes may be used.
        allow: fully qualified classes a pickle may name.
        trust: the user's consent to run code from the file.
    """

    path: Path | None
    weights: Path | None = None
    arch: str | None = None
    arch_args: Sequence[Any] | Mapping[str, Any] = ()
    imports: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    trust: bool = False


@dataclass(frozen=True)
class InputSpec:
    """One input of the model as its signature states it.

    ``shape`` includes the batch; None is a free dimension, and a ``shape`` of None a free rank. ``maximum`` is the
    largest legal value of an integer input (vocabulary size − 1). ``layout`` says where channels are expected.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str = "float32"
    maximum: int | None = None
    layout: Layout | None = None


@dataclass(frozen=True)
class NotRecorded:
    """Stands in for a tensor that cannot be stored; the reason is shown to the user."""

    reason: str


class Sink(Protocol):
    """Takes activations while the model runs."""

    def __call__(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        """Store ``value`` as node ``name``.

        The array is copied before the call returns, unless ``owned`` says that nothing will change it later.
        Never raises for a fault of the writer: that would break the user's forward pass.
        """


class LoadedModel(ABC):
    """A model ready to run."""

    framework: ClassVar[str]
    """``tensorflow`` or ``pytorch`` …: shown to the user."""
    loader: str
    """What loaded it, with version: ``keras 3.15.1``, ``torch 2.13.0 weights_only``."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about how it was loaded."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of everything that computes, by package name."""

    @abstractmethod
    def signature(self) -> tuple[InputSpec, ...]:
        """The inputs in call order, as far as the model states them."""

    @abstractmethod
    def structure(self, inputs: Mapping[str, Array]) -> Structure:
        """The graph for these inputs (keys: names of :meth:`signature`), without storing values.

        Raises InputError when the model does not take them, in one line that says why.
        """

    @abstractmethod
    def capture(self, inputs: Mapping[str, Array], sink: Sink) -> None:
        """Run once in evaluation mode and hand every stored node's tensor to ``sink``, in order.

        :meth:`structure` was called with the same inputs before. Raises ModelError when the model raises; whatever
        ran before was handed over. The model is left as it was found.
        """

    @abstractmethod
    def parameters(self) -> Iterable[tuple[str, Param, Array]]:
        """Every parameter and buffer once: owner (as :attr:`Node.owner`), its description, its value."""


class Adapter(ABC):
    """A framework's way in."""

    framework: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    """Import names that must be importable (``torch``)."""
    extra: ClassVar[str]
    """The extra of this distribution that installs them."""
    settings_files: ClassVar[tuple[str, ...]] = ()
    """The framework's own settings, which a confined worker may read (``~`` stands for the home folder)."""
    formats: ClassVar[str]
    """What ``load`` takes, in words, for error messages."""

    @classmethod
    @abstractmethod
    def owns(cls, model: object) -> bool:
        """Whether ``model`` is a live object of this framework; must not import the framework."""

    @abstractmethod
    def preflight(self, request: LoadRequest) -> None:
        """Cheap checks without importing the framework. Raises InputError or RefusedError."""

    @abstractmethod
    def load(self, request: LoadRequest) -> LoadedModel:
        """Load from files under the trust rules. Raises InputError or RefusedError, in one line."""

    @abstractmethod
    def wrap(self, model: object) -> LoadedModel:
        """Take a live model object for which :meth:`owns` is true."""


GROUP = "tracer.adapters"


def names() -> tuple[str, ...]:
    """The names of all installed adapters; imports none of them."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def _point(name: str) -> EntryPoint:
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point
    raise InputError(f"no adapter named '{name}'; installed: {', '.join(names()) or 'none'}")


def get(name: str, *, check: bool = True) -> Adapter:
    """The adapter ``name``.

    Raises InputError if there is none, MissingFrameworkError if ``check`` and its framework is not installed.
    """
    from importlib.util import find_spec

    cls = _point(name).load()
    if check:
        missing = [module for module in cls.requires if module not in sys.modules and find_spec(module) is None]
        if missing:
            raise MissingFrameworkError(f"'{name}' needs {', '.join(missing)}: pip install 'tracer-nn[{cls.extra}]'")
    adapter = cls()
    assert isinstance(adapter, Adapter)
    return adapter


def for_object(model: object) -> tuple[str, Adapter]:
    """The adapter that owns a live model object. Raises InputError when none does."""
    for name in names():
        if _point(name).load().owns(model):
            return name, get(name)
    raise InputError(f"no adapter knows objects of type {type(model).__module__}.{type(model).__qualname__}")


@dataclass
class MemorySink:
    """A sink that keeps everything: for tests and small models."""

    values: dict[str, Array | NotRecorded] = field(default_factory=dict)

    def __call__(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        self.values[name] = np.array(value) if isinstance(value, np.ndarray) else value
