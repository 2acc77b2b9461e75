"""The Keras adapter: finds, checks and loads Keras models. Importing it imports no framework."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from tracer.adapter import Adapter, LoadedModel, LoadRequest, Mode
from tracer.errors import InputError
from tracer.graph import Param
from tracer_keras import backend
from tracer_keras.flavour import Flavour

if TYPE_CHECKING:
    from tracer_keras.model import KerasModel


class _Requires:
    """What must be installed for the backend that Keras is to have in this process."""

    def __get__(self, instance: object, owner: object = None) -> tuple[str, ...]:
        return ("tensorflow", "keras") if backend.chosen() == backend.TENSORFLOW else ("keras",)


class KerasAdapter(Adapter):
    """Keras 3 on any of its backends, and tf_keras for files and models of Keras 2."""

    framework: ClassVar[str] = "tensorflow"
    requires: ClassVar[tuple[str, ...]] = cast(Any, _Requires())
    extra: ClassVar[str] = "tensorflow"
    modes: ClassVar[tuple[Mode, ...]] = ("eval", "train")
    gradients: ClassVar[bool] = True
    weight_files: ClassVar[tuple[str, ...]] = (".weights.h5", ".keras", ".h5")
    formats: ClassVar[str] = (
        ".keras, whole-model .h5 or .hdf5, model.json with --weights, a SavedModel's folder, a frozen graph (.pb), "
        "or --arch pkg.mod:callable"
    )
    settings_files: ClassVar[tuple[str, ...]] = ("~/.keras/keras.json", "~/.keras/keras.config")

    @classmethod
    def claims(cls, path: Path) -> bool:
        from tracer_keras.preflight import claims

        return claims(path)

    def runs_code(self, request: LoadRequest) -> tuple[str, ...]:
        if _is_graph(request):
            return tuple(import_module("tracer_keras.graphs.files").findings(request))
        self.preflight(request)
        found: tuple[str, ...] = import_module("tracer_keras.listing").runs_code(request)
        return found

    def tensors(self, request: LoadRequest) -> tuple[Param, ...]:
        if _is_graph(request):
            return ()
        self.preflight(request)
        found: tuple[Param, ...] = import_module("tracer_keras.listing").tensors(request)
        return found

    def files(self, request: LoadRequest) -> tuple[Path, ...]:
        path = request.path
        if path is None or path.name != "saved_model.pb":
            return ()
        return tuple(part for part in (path.parent / "variables").glob("variables.*") if part.is_file())

    @classmethod
    def owns(cls, model: object) -> bool:
        return Flavour.of(model) is not None

    def environment(self, request: LoadRequest) -> dict[str, str]:
        from tracer_keras.era import environment

        return environment(request)

    def preflight(self, request: LoadRequest) -> None:
        backend.check()
        from tracer_keras.preflight import preflight

        preflight(request)

    def load(self, request: LoadRequest) -> LoadedModel:
        self.preflight(request)
        module = "tracer_keras.graphs.model" if _is_graph(request) else "tracer_keras.loading"
        loaded: LoadedModel = import_module(module).load(request)
        return loaded

    def constant(self, request: LoadRequest) -> str:
        if not _is_graph(request):
            return ""
        return "a SavedModel" if request.path is not None and request.path.is_dir() else "a frozen graph"

    def filled(self, request: LoadRequest, path: Path) -> LoadRequest:
        from tracer_keras.filling import filled

        return filled(request, path)

    def wrap(self, model: object) -> LoadedModel:
        return wrapped(model)


def _is_graph(request: LoadRequest) -> bool:
    from tracer_keras.graphs.files import is_graph

    return request.arch is None and request.path is not None and is_graph(request.path)


def wrapped(model: object) -> KerasModel:
    """A live model behind the contract. Raises InputError for anything that is no Keras model."""
    flavour = Flavour.of(model)
    if flavour is None:
        raise InputError(f"{type(model).__module__}.{type(model).__qualname__} is no Keras model")
    from tracer_keras.eager import keras_model

    return keras_model(model, flavour, flavour.title)
