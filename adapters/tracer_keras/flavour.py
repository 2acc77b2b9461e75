"""The two Keras libraries behind one face: Keras 3 and tf_keras (Keras 2)."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

from tracer_keras import backend as backends

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR", "AUTOGRAPH_VERBOSITY": "0"}


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send the process's standard error nowhere: TensorFlow's C++ greets there whatever its log level is."""
    try:
        sys.stderr.flush()
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except (OSError, AttributeError, ValueError):
        yield
        return
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def tensorflow() -> Any:
    """TensorFlow, imported so that nothing but a real error reaches the terminal."""
    if "tensorflow" in sys.modules:
        return sys.modules["tensorflow"]
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings(), _silent_stderr():
        warnings.simplefilter("ignore")
        module: Any = import_module("tensorflow")
        # The first operation starts the devices, which is announced too.
        module.constant(0)
    logger = logging.getLogger("tensorflow")
    if logger.level in (logging.NOTSET, logging.WARNING, logging.INFO):
        logger.setLevel(logging.ERROR)
    return module


@dataclass(frozen=True)
class Flavour:
    """One of the libraries: ``keras`` or ``tf_keras``."""

    name: str

    @cached_property
    def module(self) -> ModuleType:
        """The library. Raises InputError or MissingFrameworkError when Keras's backend cannot be had."""
        if self.on_tensorflow:
            tensorflow()
        if self.name in sys.modules:
            return sys.modules[self.name]
        if not self.legacy:
            backends.check()
        with warnings.catch_warnings(), _silent_stderr():
            warnings.simplefilter("ignore")
            return import_module(self.name)

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def title(self) -> str:
        """Name and version, with the backend where it is not TensorFlow: ``keras 3.15.1 on torch 2.13.0``."""
        on = "" if self.on_tensorflow else f" on {self.backend.name} {self.backend.version}"
        return f"{self.name} {self.version}{on}"

    @property
    def legacy(self) -> bool:
        return self.name == "tf_keras"

    @property
    def on_tensorflow(self) -> bool:
        return self.legacy or backends.chosen() == backends.TENSORFLOW

    @cached_property
    def backend(self) -> backends.Backend:
        """The backend, where it is not TensorFlow. Raises InputError for one that tracer does not know."""
        return backends.of(backends.chosen())

    @cached_property
    def layer_class(self) -> Any:
        return self.module.layers.Layer

    @cached_property
    def model_class(self) -> Any:
        return self.module.Model

    @cached_property
    def sequential_class(self) -> Any:
        return self.module.Sequential

    @cached_property
    def functional_class(self) -> Any:
        path = "tf_keras.src.engine.functional" if self.legacy else "keras.src.models.functional"
        return import_module(path).Functional

    @cached_property
    def operation_class(self) -> Any:
        """The class of Keras 3 operations that are no layers; None in tf_keras."""
        return None if self.legacy else self.module.Operation

    def is_functional(self, model: object) -> bool:
        """Whether ``model`` is a static graph with known inputs."""
        if isinstance(model, self.functional_class):
            # A subclass may have its own call that does something else than its graph.
            return self.legacy is False or bool(getattr(model, "_is_graph_network", True))
        if isinstance(model, self.sequential_class):
            inner = getattr(model, "_functional", None)
            return inner is not None or bool(getattr(model, "_is_graph_network", False))
        return False

    @staticmethod
    def of(model: object) -> Flavour | None:
        """The library that ``model`` belongs to, by what is imported already; None for a foreign object."""
        for name in ("keras", "tf_keras"):
            module = sys.modules.get(name)
            layers = getattr(module, "layers", None)
            layer_class = getattr(layers, "Layer", None)
            if layer_class is not None and isinstance(model, layer_class):
                return Flavour(name)
        return None

    @contextmanager
    def fresh_names(self) -> Iterator[None]:
        """Count automatic layer names from the start, so that a model built twice has the same names twice."""
        if self.legacy:
            backend: Any = import_module("tf_keras.src.backend")
            kept = backend.PER_GRAPH_OBJECT_NAME_UIDS
            uids = type(kept)()
            backend.PER_GRAPH_OBJECT_NAME_UIDS = uids
            try:
                yield
            finally:
                backend.PER_GRAPH_OBJECT_NAME_UIDS = kept
            return
        state = import_module("keras.src.backend.common.global_state")
        before = state.get_global_attribute("object_name_uids")
        state.set_global_attribute("object_name_uids", None)
        try:
            yield
        finally:
            state.set_global_attribute("object_name_uids", before)


def raw_variable(weight: Any) -> Any:
    """TensorFlow's variable inside a Keras weight, past what casts it in mixed precision."""
    inner = getattr(weight, "_value", weight)
    return getattr(inner, "_variable", inner) if type(inner).__name__ == "AutoCastVariable" else inner


KERAS = Flavour("keras")
TF_KERAS = Flavour("tf_keras")
