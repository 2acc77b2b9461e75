"""The Keras adapter: finds, checks and loads Keras models. Importing it imports no framework."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from tracer.adapter import Adapter, LoadedModel, LoadRequest
from tracer.errors import InputError
from tracer_keras.flavour import Flavour

if TYPE_CHECKING:
    from tracer_keras.model import KerasModel


class KerasAdapter(Adapter):
    """Keras 3, and tf_keras for files and models of Keras 2."""

    framework: ClassVar[str] = "tensorflow"
    requires: ClassVar[tuple[str, ...]] = ("tensorflow", "keras")
    extra: ClassVar[str] = "tensorflow"
    formats: ClassVar[str] = ".keras, whole-model .h5 or .hdf5, model.json with --weights, or --arch pkg.mod:callable"
    settings_files: ClassVar[tuple[str, ...]] = ("~/.keras/keras.json", "~/.keras/keras.config")

    @classmethod
    def owns(cls, model: object) -> bool:
        return Flavour.of(model) is not None

    def preflight(self, request: LoadRequest) -> None:
        from tracer_keras.preflight import preflight

        preflight(request)

    def load(self, request: LoadRequest) -> LoadedModel:
        self.preflight(request)
        loaded: LoadedModel = import_module("tracer_keras.loading").load(request)
        return loaded

    def wrap(self, model: object) -> LoadedModel:
        return wrapped(model)


def wrapped(model: object) -> KerasModel:
    """A live model behind the contract. Raises InputError for anything that is no Keras model."""
    flavour = Flavour.of(model)
    if flavour is None:
        raise InputError(f"{type(model).__module__}.{type(model).__qualname__} is no Keras model")
    from tracer_keras.model import KerasModel

    return KerasModel(model, flavour, f"{flavour.name} {flavour.version}")
