"""Loads model files with the library that their Keras version asks for, after our own checks."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tracer.adapter import LoadRequest
from tracer.errors import InputError, NoModelError, RefusedError, TracerError
from tracer.names import display
from tracer.text import first_line
from tracer_keras import custom, era, hdf5, legacy, operations, preflight, trust
from tracer_keras.eager import keras_model
from tracer_keras.flavour import KERAS, TF_KERAS, Flavour
from tracer_keras.model import KerasModel

_UNKNOWN = re.compile(
    r"(?:Unknown (?:activation function|\w+)|Could not (?:locate|deserialize|find) (?:class|function|object))"
    r"[^'\"]*['\"]([^'\"]+)['\"]|If `(\w+)` is a custom class"
)


@dataclass(frozen=True)
class Found:
    """What a file says of itself: its format, the version that made it, its architecture."""

    path: Path
    format: preflight.Format
    version: str | None
    config: Any

    @property
    def flavour(self) -> Flavour:
        """The library to load it with: the file's own version decides, whatever could also read it."""
        if self.version:
            return TF_KERAS if era.is_keras_2(self.version) else KERAS
        return KERAS if era.evidence(self.config)[0] == 3 else TF_KERAS

    @property
    def made(self) -> str:
        """Who made the file, in words."""
        if self.version:
            return f"file made by Keras {self.version}"
        major, what = era.evidence(self.config)
        return f"file names no Keras version; {what}, as in Keras {major}"


def load(request: LoadRequest) -> KerasModel:
    """The model of ``request``. Raises InputError or RefusedError, each in one line."""
    try:
        with _quiet():
            return _load(request)
    except TracerError:
        raise
    except RecursionError:
        raise InputError(f"{request.path or request.arch}: the architecture is nested too deeply") from None
    except Exception as error:
        raise InputError(f"{request.path or request.arch}: {_explain(error)}") from None


def _load(request: LoadRequest) -> KerasModel:
    if request.arch is not None:
        return _from_code(request)
    assert request.path is not None
    found = read(request.path)
    if found.config is None:
        if request.weights is None:
            raise NoModelError(
                f"{request.path} holds weights only: give the model.json with --weights {request.path}, "
                f"or --arch pkg.mod:callable"
            )
        raise NoModelError(f"{request.path} holds weights only: give the model.json first, the weights with --weights")
    if era.evidence(found.config)[0] == 1:
        raise InputError(
            f"{request.path} was made by Keras 1, whose architectures no Keras of today reads: build the model with "
            f"--arch pkg.mod:callable and load the file with --weights"
        )
    flavour = found.flavour
    _available(flavour, found)
    with legacy.names() if flavour.legacy else nullcontext():
        objects = custom.objects(request, registries(flavour))
    _same_library(flavour, objects, found)
    trust.check_graph(found.config, str(request.path))
    if not request.trust:
        trust.check(found.config, str(request.path), objects.keys() | custom.registered(registries(flavour)), flavour)
        _check_weights(request)
    taken = {} if flavour.legacy else operations.functions(found.config, flavour.module)
    taken = {name: function for name, function in taken.items() if name not in objects}
    with flavour.fresh_names():
        model = _model(found, flavour, {**taken, **objects}, request.trust)
    if request.weights is not None:
        _load_weights(model, request.weights, flavour)
    elif found.format == "json" and (model.weights or not getattr(model, "built", True)):
        raise InputError(f"{request.path} holds no weights: give them with --weights FILE")
    if not isinstance(model, flavour.layer_class):
        raise InputError(f"{request.path} holds a {type(model).__name__}, not a model")
    notes = [f"the file's function '{name}' is taken for keras.ops.{name}; --import your own" for name in taken]
    if flavour.legacy and (request.imports or request.allow):
        notes.append(legacy.note())
    return keras_model(model, flavour, f"{flavour.title} ({found.made})", tuple(notes))


def _from_code(request: LoadRequest) -> KerasModel:
    weights = request.weights or request.path
    if "tensorflow" not in sys.modules:
        os.environ.update(era.environment(request))
    custom.objects(request, [])
    flavours = [flavour for flavour in (KERAS, TF_KERAS) if flavour.name in sys.modules] or [KERAS]
    with flavours[0].fresh_names():
        model = custom.build(request)
    flavour = Flavour.of(model)
    if flavour is None:
        raise InputError(f"--arch {request.arch} gave a {type(model).__name__}, not a Keras model")
    if weights is not None:
        if not request.trust:
            _check_weights(LoadRequest(None, weights))
        _load_weights(model, weights, flavour)
    return keras_model(model, flavour, f"{flavour.title} (built by {request.arch})")


# -- reading what a file says of itself --------------------------------------------------------------------------


def read(path: Path) -> Found:
    """Version and architecture of a model file, read without Keras. Raises InputError."""
    kind = preflight.check(path)
    if kind == "json":
        config = preflight.parsed(path.read_text(encoding="utf-8-sig"), display(str(path)))
        return Found(path, kind, _text(config.get("keras_version")), _uncompiled(config))
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            config = _member(archive, "config.json", path)
            names = archive.namelist()
            metadata = _member(archive, "metadata.json", path) if "metadata.json" in names else {}
        version = metadata.get("keras_version") if isinstance(metadata, dict) else None
        return Found(path, kind, _text(version), _uncompiled(config))
    with _hdf5(path) as file:
        hdf5.check(file, str(path))
        raw = _text(file.attrs.get("model_config"))
        version = _text(file.attrs.get("keras_version"))
        if version is None and "model_weights" in file:
            version = _text(file["model_weights"].attrs.get("keras_version"))
    if raw is None:
        return Found(path, kind, version, None)
    if len(raw) > preflight.MAX_CONFIG:
        raise InputError(f"{path}: the architecture is larger than {preflight.MAX_CONFIG >> 20} MiB")
    try:
        return Found(path, kind, version, preflight.parsed(raw, display(str(path))))
    except RefusedError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: the architecture is no JSON: {first_line(error)}") from None


def _uncompiled(config: Any) -> Any:
    """Without the model's own losses and metrics: nothing is compiled here, so they are never made."""
    if not isinstance(config, dict):
        return config
    return {key: value for key, value in config.items() if key not in ("compile_config", "training_config")}


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> Any:
    try:
        return preflight.parsed(archive.read(name), f"{display(str(path))}: {display(name)}")
    except RefusedError:
        raise
    except (ValueError, zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RecursionError) as error:
        raise InputError(f"{path}: {name} is damaged: {first_line(error)}") from None


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) and value else None


@contextmanager
def _hdf5(source: Any) -> Iterator[Any]:
    import h5py

    try:
        file = h5py.File(source, "r")
    except Exception as error:  # libhdf5 raises half a dozen classes on damaged files
        where = source if isinstance(source, Path) else "the weights in the archive"
        raise InputError(f"{where}: truncated or damaged HDF5 file: {first_line(error)}") from None
    with file:
        yield file


def _check_weights(request: LoadRequest) -> None:
    """The weights' HDF5 structure, inside .keras archives too."""
    for path in (request.path, request.weights):
        if path is None:
            continue
        kind = preflight.check(path)
        if kind == "hdf5":
            with _hdf5(path) as file:
                hdf5.check(file, str(path))
        elif kind == "zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith((".h5", ".hdf5")):
                        _check_member(archive, name, path)


def _check_member(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    try:
        stored = archive.getinfo(name).compress_type == zipfile.ZIP_STORED
        stream: Any = archive.open(name) if stored else io.BytesIO(archive.read(name))
        with stream, _hdf5(stream) as file:
            hdf5.check(file, f"{path}:{name}")
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise InputError(f"{path}: {name} is damaged: {first_line(error)}") from None


# -- loading -------------------------------------------------------------------------------------------------------


def _available(flavour: Flavour, found: Found) -> None:
    from importlib.util import find_spec

    if flavour.name not in sys.modules and find_spec(flavour.name) is None:
        raise InputError(
            f"{found.path} was made by Keras {found.version or '2'} and needs {flavour.name}: "
            f"pip install {flavour.name.replace('_', '-')}"
        )


def _same_library(flavour: Flavour, objects: dict[str, Any], found: Found) -> None:
    """Refuse custom layers of the other Keras: they would fail deep inside this one."""
    other = sys.modules.get("keras" if flavour.legacy else "tf_keras")
    base = getattr(getattr(other, "layers", None), "Layer", None)
    for name, value in objects.items():
        if base is not None and isinstance(value, type) and issubclass(value, base):
            how = "TF_USE_LEGACY_KERAS=1" if flavour.legacy else "TF_USE_LEGACY_KERAS=0"
            raise InputError(
                f"{found.path} needs {flavour.name} (made by Keras {found.version}), but '{name}' is a layer of "
                f"{base.__module__.split('.')[0]}: import {flavour.name} there, or start Python with {how}"
            )


def registries(flavour: Flavour) -> list[Any]:
    """Where the user's code may have registered classes with the library."""
    module = flavour.module
    return [module.saving.get_custom_objects()] if module is not None else []


def _model(found: Found, flavour: Flavour, objects: dict[str, Any], trusted: bool) -> Any:
    module = flavour.module
    if found.format == "json":
        text = json.dumps(found.config)
        if flavour.legacy or not trusted:
            return module.models.model_from_json(text, custom_objects=objects)
        scope = import_module("keras.src.saving.serialization_lib").SafeModeScope(False)
        with scope:
            return module.models.model_from_json(text, custom_objects=objects)
    with _named(found.path, {"zip": ".keras", "hdf5": ".h5"}[found.format]) as path:
        config = found.config
        if not flavour.legacy and found.format == "hdf5":
            config = operations.located(config, module, objects)
        if config == found.config:
            return module.models.load_model(path, custom_objects=objects, compile=False, safe_mode=not trusted)
        model = _from_config(config, objects, trusted)
        model.load_weights(path)
        return model


def _from_config(config: Any, objects: dict[str, Any], trusted: bool) -> Any:
    """A Keras 3 model of an .h5 file's architecture, made as Keras makes it."""
    options: Any = import_module("keras.src.legacy.saving.saving_options")
    library: Any = import_module("keras.src.saving.serialization_lib")
    with options.keras_option_scope(use_legacy_config=True), library.SafeModeScope(not trusted):
        return import_module("keras.src.legacy.saving.saving_utils").model_from_config(config, custom_objects=objects)


@contextmanager
def _named(path: Path, *suffixes: str) -> Iterator[str]:
    """``path`` under a name with the suffix by which Keras tells the formats apart."""
    if path.name.endswith(suffixes) and not (".h5" in suffixes and path.name.endswith(".weights.h5")):
        yield str(path)
        return
    if path.suffix in (".h5", ".hdf5") and ".h5" in suffixes:
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="tracer-") as folder:
        link = Path(folder) / f"model{suffixes[0]}"
        link.symlink_to(path.resolve())
        yield str(link)


def _load_weights(model: Any, path: Path, flavour: Flavour) -> None:
    if not getattr(model, "built", True) or not model.weights:
        raise InputError(f"the model has no weights yet to load {path} into: build it in --arch (Input or build())")
    kind = preflight.check(path)
    if kind == "json":
        raise InputError(f"{path} is JSON; --weights takes .h5, .hdf5, .weights.h5 or .keras")
    if kind == "zip":
        with _named(path, ".keras") as name:
            model.load_weights(name)
        return
    with _hdf5(path) as file:
        keyed = "layer_names" in file.attrs or "model_weights" in file
        group = file["model_weights"] if "layer_names" not in file.attrs and "model_weights" in file else file
        count = sum(len(group[name].attrs.get("weight_names", ())) for name in group) if keyed else None
    if keyed and count == 0:
        raise InputError(f"{path} holds no weights")
    with _named(path, ".h5" if keyed else ".weights.h5") as name:
        model.load_weights(name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keras prints and warns while it loads; none of it is ours to show."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _explain(error: BaseException) -> str:
    """One line without Keras's dump of the configuration."""
    text = str(error)
    unknown = _UNKNOWN.search(text)
    if unknown:
        name = unknown.group(1) or unknown.group(2)
        return f"needs the custom class '{name}': --import pkg.mod (or file.py) where it is defined"
    return first_line(error, 240)
