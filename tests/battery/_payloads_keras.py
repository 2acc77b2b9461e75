"""Keras files that run code, read other files or fill the memory, where a loader lets them."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import tf_keras

from tests.battery._attack import Case, Command, Place, loading
from tests.battery._payloads_torch import rezipped

GROUP = "keras"
_Make = Callable[[Place], Sequence[Command]]
_LIBRARIES = {"Keras 3": keras, "Keras 2": tf_keras}


def small(library: Any, layer: Any = None) -> Any:
    """A model of two layers, or with ``layer`` before them."""
    x = library.Input((5,), name="x")
    y = x if layer is None else layer(x)
    y = library.layers.Dense(4, name="fc")(y)
    return library.Model(x, library.layers.Activation("relu", name="end")(y))


@cache
def saved(name: str, suffix: str) -> bytes:
    """The file of :func:`small`; ``.json`` holds no weights."""
    made = small(_LIBRARIES[name])
    if suffix == ".json":
        return str(made.to_json()).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m{suffix}"
        (made.save_weights if suffix == ".weights.h5" else made.save)(path)
        return path.read_bytes()


def _configured(raw: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A .keras archive or JSON whose architecture is changed."""
    if raw[:2] != b"PK":
        config = json.loads(raw)
        change(config)
        return json.dumps(config).encode()
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    return _zipped(members)


def _zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _written(raw: Callable[[Place], bytes], file: str, *more: tuple[str, bytes]) -> _Make:
    def make(at: Place) -> Sequence[Command]:
        (at.work / file).write_bytes(raw(at))
        for name, content in more:
            (at.work / name).write_bytes(content)
        return loading("tf", file, *(word for name, _ in more for word in ("--weights", name)))

    return make


# -- code in layers ----------------------------------------------------------------------------------------------------


def lambdas() -> Iterator[tuple[str, _Make]]:
    """A Lambda whose code makes the marker as it runs, in every format of both libraries."""
    for title, library in _LIBRARIES.items():
        for suffix in (".keras", ".h5", ".json"):

            def raw(at: Place, library: Any = library, suffix: str = suffix) -> bytes:
                target = str(at.marker)
                evil: Any = library.layers.Lambda(
                    lambda t, where=target: (__import__("os").makedirs(where, exist_ok=True), t * 2)[1],
                    output_shape=(5,), name="evil",
                )  # fmt: skip
                path = at.work / f"m{suffix}"
                made = small(library, evil)
                path.write_text(made.to_json()) if suffix == ".json" else made.save(path)
                if at.marker.exists():
                    os.rmdir(at.marker)
                return path.read_bytes()

            more = [("w.weights.h5", saved(title, ".weights.h5"))] if suffix == ".json" else []
            yield f"{title} Lambda in {suffix}", _written(raw, f"m{suffix}", *more)


def _acts(at: Place) -> dict[str, dict[str, Any]]:
    """What a layer's entry in the architecture may say that is more than a layer."""
    marker, secret, url = str(at.marker), str(at.secret), f"http://127.0.0.1:{at.port}/x"
    layers = "keras.layers"
    command = {"args": [f"touch {marker}"]}
    return {
        "os.system": {"module": "os", "class_name": "system", "config": command, "registered_name": "system"},
        "Popen": {"module": "subprocess", "class_name": "Popen", "config": {"args": ["touch", marker]}},
        "eval": {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"},
        "get_file": {"module": "keras.utils", "class_name": "get_file", "config": {"fname": marker, "origin": url}},
        "source of get_file": {"module": "keras.src.utils.file_utils", "class_name": "function", "config": "get_file"},
        "enable unsafe": {"module": "keras.config", "class_name": "enable_unsafe_deserialization", "config": {}},
        "load_model": {"module": "keras.models", "class_name": "function", "config": "load_model"},
        "TFSMLayer": {"module": layers, "class_name": "TFSMLayer", "config": {"filepath": str(at.outside)}},
        "TorchModuleWrapper": {"module": layers, "class_name": "TorchModuleWrapper", "config": {"module": "gAJ9Lg=="}},
        "JaxLayer": {"module": layers, "class_name": "JaxLayer", "config": {"call_fn": "x"}},
        "FlaxLayer": {"module": layers, "class_name": "FlaxLayer", "config": {"module": "x"}},
        "vocabulary": {"module": layers, "class_name": "StringLookup", "config": {"name": "fc", "vocabulary": secret}},
        "TextVectorization": {
            "module": layers, "class_name": "TextVectorization", "config": {"name": "fc", "vocabulary": secret},
        },
        "lambda as activation": {
            "config": {
                "name": "fc", "units": 4, "activation": {"class_name": "__lambda__", "config": {"value": "4wAA"}},
            },
        },
        "function as units": {
            "config": {"name": "fc", "units": {"class_name": "function", "config": "get_file", "module": "builtins"}},
        },
        "write_file": {"class_name": "TFOpLambda", "config": {"name": "fc", "function": "io.write_file"}},
        "py_func": {"class_name": "TFOpLambda", "config": {"name": "fc", "function": "compat.v1.py_func"}},
        "raw operation": {
            "class_name": "TensorFlowOpLayer", "config": {"name": "fc", "node_def": {"name": "f", "op": "WriteFile"}},
        },
        "path as class": {"module": None, "class_name": "os>system", "config": command, "registered_name": "os.system"},
        "registered Lambda": {"class_name": "Dense", "registered_name": "Lambda", "module": layers},
        "initializer": {
            "config": {"name": "fc", "units": 4, "kernel_initializer": {
                "module": "os", "class_name": "system", "config": {"command": f"touch {marker}"},
            }},
        },
        "huge units": {"config": {"name": "fc", "units": 1 << 31}},
        "huge units, zeros": {"config": {"name": "fc", "units": 1 << 31, "kernel_initializer": "zeros"}},
        "huge repeats": {"class_name": "RepeatVector", "module": layers, "config": {"name": "fc", "n": 1 << 33}},
    }  # fmt: skip


def _replaced(config: dict[str, Any], entry: dict[str, Any]) -> None:
    dense = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Dense")
    dense.update(entry)


def configurations() -> Iterator[tuple[str, _Make]]:
    """Architectures that name more than layers."""
    for name in _acts(Place(Path("/nonexistent"), Path("/nonexistent"), 9)):
        for title in _LIBRARIES:
            for suffix in (".keras", ".json", ".h5"):

                def raw(at: Place, name: str = name, title: str = title, suffix: str = suffix) -> bytes:
                    return _with(title, suffix, lambda config: _replaced(config, _acts(at)[name]))

                more = [("w.weights.h5", saved(title, ".weights.h5"))] if suffix == ".json" else []
                yield f"{title} {suffix} {name}", _written(raw, f"m{suffix}", *more)


def _with(title: str, suffix: str, change: Callable[[dict[str, Any]], None]) -> bytes:
    raw = saved(title, suffix)
    if suffix != ".h5":
        return _configured(raw, change)
    buffer = io.BytesIO(raw)
    with h5py.File(buffer, "r+") as file:
        text: Any = file.attrs["model_config"]
        config = json.loads(text)
        change(config)
        file.attrs["model_config"] = json.dumps(config)
    return buffer.getvalue()


# -- HDF5 that leads elsewhere -----------------------------------------------------------------------------------------

_HOWS = ("external", "soft", "storage", "virtual", "cycle", "shape", "gzip", "references", "deep")


def _spoiled(at: Place, how: str, raw: bytes) -> bytes:
    secret = at.outside / "secret.h5"
    if not secret.exists():
        with h5py.File(secret, "w") as file:
            file["kernel"] = np.frombuffer(b"SECRET-5f1c9e2b7a" * 5, "u1")[:20].reshape(5, 4).astype("f4")
    buffer = io.BytesIO(raw)
    with h5py.File(buffer, "r+") as file:
        found: list[str] = []
        file.visititems(lambda path, item: found.append(path) if isinstance(item, h5py.Dataset) else None)
        place = next(path for path in found if file[path].shape == (5, 4))
        group, name = file[place].parent, place.rpartition("/")[2]
        del group[name]
        if how == "external":
            group[name] = h5py.ExternalLink(str(secret), "/kernel")
        elif how == "soft":
            group[name] = h5py.SoftLink("/" + next(path for path in found if path != place))
        elif how == "storage":
            group.create_dataset(name, (5, 4), "f4", external=[(str(at.secret), 0, 80)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((5, 4), "f4")
            layout[:] = h5py.VirtualSource(str(secret), "kernel", (5, 4))
            group.create_virtual_dataset(name, layout)
        elif how == "cycle":
            group[name] = file["/"]
        elif how == "shape":
            group.create_dataset(name, (1 << 20, 1 << 20), "f4", chunks=(1 << 10, 1 << 10), compression="gzip")
        elif how == "gzip":
            zeros = group.create_dataset(name, (1 << 15, 1 << 15), "f4", chunks=(1 << 12, 1 << 12), compression="gzip")
            zeros[:1, :1] = 0
        elif how == "references":
            group.create_dataset(name, (5, 4), h5py.ref_dtype)
        else:
            for _ in range(200):
                group = group.create_group("g")
    return buffer.getvalue()


def elsewhere() -> Iterator[tuple[str, _Make]]:
    """Weights that lie in another file, in themselves, or in terabytes."""
    for how in _HOWS:
        for title in _LIBRARIES:
            yield (
                f"{title} .h5 {how}",
                _written(lambda at, how=how, title=title: _spoiled(at, how, saved(title, ".h5")), "m.h5"),
            )

        def archive(at: Place, how: str = how) -> bytes:
            with zipfile.ZipFile(io.BytesIO(saved("Keras 3", ".keras"))) as old:
                members = {name: old.read(name) for name in old.namelist()}
            members["model.weights.h5"] = _spoiled(at, how, members["model.weights.h5"])
            return _zipped(members)

        yield f".keras {how}", _written(archive, "m.keras")

        def beside(at: Place, how: str = how) -> Sequence[Command]:
            (at.work / "m.json").write_bytes(saved("Keras 3", ".json"))
            (at.work / "w.weights.h5").write_bytes(_spoiled(at, how, saved("Keras 3", ".weights.h5")))
            return loading("tf", "m.json", "--weights", "w.weights.h5")

        yield f".weights.h5 {how}", beside


# -- archives and sizes ------------------------------------------------------------------------------------------------


def archives() -> Iterator[tuple[str, _Make]]:
    """Archives whose members lie outside, twice or too large, and architectures without end."""
    good = saved("Keras 3", ".keras")
    yield "a member outside", _written(lambda _: rezipped(good, ("../../outside/marker", b"x")), "m.keras")
    yield "an absolute member", _written(lambda at: rezipped(good, (str(at.marker), b"x")), "m.keras")
    yield "two architectures", _written(lambda _: rezipped(good, ("config.json", b"{}")), "m.keras")
    bomb = {"config.json": b'{"class_name": "' + b" " * (256 << 20)}
    yield "an architecture of 256 MiB, deflated", _written(lambda _: _zipped(bomb, zipfile.ZIP_DEFLATED), "m.keras")
    yield "an architecture of 80 MiB", _written(lambda _: b'{"class_name": "' + b" " * (80 << 20), "m.json")
    # Small as text, large as objects.
    many = b'{"class_name": "Sequential", "config": {"layers": [' + b"[]," * (20 << 20) + b"[]]}}"
    yield "an architecture of 20 million lists", _written(lambda _: many, "m.json", ("w.h5", saved("Keras 3", ".h5")))
    deep = b'{"class_name": ' * 100_000
    yield "an architecture without end", _written(lambda _: deep, "m.json")
    number = b'{"class_name": ' + b"9" * 1_000_000 + b"}"
    yield "a number of a million digits", _written(lambda _: number, "m.json")

    def inner(depth: int) -> Any:
        config: Any = json.loads(saved("Keras 3", ".json"))
        for _ in range(depth):
            outer = json.loads(saved("Keras 3", ".json"))
            outer["config"]["layers"][1] = {**outer["config"]["layers"][1], **config}
            config = outer
        return config

    yield (
        "models in models",
        _written(lambda _: json.dumps(inner(60)).encode(), "m.json", ("w.weights.h5", saved("Keras 3", ".weights.h5"))),
    )


def cases() -> Iterator[Case]:
    """Every attack by a Keras file; those of Keras 2 where tf_keras is installed."""
    assert importlib.util.find_spec("tf_keras")
    for name, make in chain(lambdas(), configurations(), elsewhere(), archives()):
        # So many repeats overflow to none in a library, which is a model that runs.
        yield Case(GROUP, name, make, refused="huge repeats" not in name)
