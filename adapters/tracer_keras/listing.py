"""What can be said of a model file without loading it: what would run code, and the tensors of a file of weights."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import h5py

from tracer.adapter import LoadRequest
from tracer.errors import InputError
from tracer.graph import Param
from tracer.text import first_line
from tracer_keras import custom, hdf5, legacy, loading, trust


def runs_code(request: LoadRequest) -> tuple[str, ...]:
    """A sentence for each layer that keeps the file from loading without ``--trust`` or ``--import``.

    Layers of the classes that the request imports are no longer among them. Raises InputError.
    """
    if request.arch is not None or request.path is None:
        return ()
    found = loading.read(request.path)
    if found.config is None or found.flavour.module is None:
        return ()
    with legacy.names() if found.flavour.legacy else nullcontext():
        objects = custom.objects(request, loading.registries(found.flavour))
    return trust.findings(
        found.config, objects.keys() | custom.registered(loading.registries(found.flavour)), found.flavour
    )


def tensors(request: LoadRequest) -> tuple[Param, ...]:
    """The arrays of an HDF5 file, in the order in which it lists its layers. Raises InputError, RefusedError."""
    path = request.path or request.weights
    if path is None or zipfile.is_zipfile(path):
        return ()
    try:
        with h5py.File(path, "r") as file:
            hdf5.check(file, str(path))
            return tuple(_arrays(file))
    except OSError as error:
        raise InputError(f"{path}: truncated or damaged HDF5 file: {first_line(error)}") from None


def _arrays(group: Any, path: str = "") -> Iterator[Param]:
    # Keras 1 and 2 say in which order layers and weights come; the groups themselves come by the alphabet.
    weights = [(name, group.get(name)) for name in _listed(group, "weight_names")]
    if weights and all(isinstance(item, h5py.Dataset) for _, item in weights):
        for name, item in weights:
            yield from _array(item, f"{path}/{name}")
        return
    order = {name: index for index, name in enumerate(_listed(group, "layer_names"))}
    for name in sorted(group, key=lambda key: (order.get(key, len(order)), _number(key), key)):
        item, place = group[name], f"{path}/{name}"
        yield from _arrays(item, place) if isinstance(item, h5py.Group) else _array(item, place)


def _array(item: Any, place: str) -> Iterator[Param]:
    if isinstance(item, h5py.Dataset) and item.dtype.kind in "biufcV" and item.shape is not None:
        yield Param(place.removeprefix("/"), tuple(item.shape), str(item.dtype))


def _listed(group: Any, key: str) -> list[str]:
    names = group.attrs.get(key, ())
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]


def _number(name: str) -> int:
    """The number at the end of a name: ``conv2d_10`` comes after ``conv2d_9``."""
    digits = name[len(name.rstrip("0123456789")) :]
    return int(digits[:9] or 0)
