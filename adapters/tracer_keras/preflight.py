"""Cheap checks of model files, before any framework is imported."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Literal

from tracer.adapter import LoadRequest
from tracer.errors import InputError, RefusedError
from tracer.names import display
from tracer.preflight import check_regular_file, sniff, zip_check, zip_names
from tracer.text import described
from tracer_keras.graphs.files import is_graph
from tracer_keras.graphs.files import preflight as graphs_preflight

Format = Literal["hdf5", "zip", "json"]

MAX_CONFIG = 64 << 20
_MAX_VALUES = 4_000_000
"""Of an architecture of ten thousand layers there are some 500,000; small as text, as objects they are gigabytes."""


def preflight(request: LoadRequest) -> None:
    """Check every file of ``request``. Raises InputError or RefusedError, in one line."""
    if request.path is None and request.arch is None:
        raise InputError("no model: give a model file, or --arch pkg.mod:callable")
    if request.arch is None and request.path is not None and (is_graph(request.path) or request.path.is_dir()):
        graphs_preflight(request)
        return
    if request.inputs or request.outputs:
        raise InputError("--inputs and --outputs are for graphs: a SavedModel's folder, or a frozen .pb")
    for path in (request.path, request.weights):
        if path is not None:
            check(path)


def claims(path: Path) -> bool:
    """Whether a file is a graph, HDF5, a .keras archive or a model's JSON, by its name or its first bytes."""
    if is_graph(path):
        return True
    if path.suffix.lower() in (".keras", ".h5", ".hdf5"):
        return True
    if not path.is_file():
        return False
    kind = sniff(path)
    if kind == "zip" and zipfile.is_zipfile(path):
        return "config.json" in zip_names(path)
    return kind == "hdf5" or path.suffix.lower() == ".json"


def check(path: Path) -> Format:
    """What ``path`` is. Raises InputError when it is no model file, RefusedError when it is built to do harm."""
    check_regular_file(path)
    shown = display(str(path))
    kind = sniff(path)
    if kind == "zip":
        _zip(path, shown)
    elif kind == "json" or path.suffix.lower() == ".json":
        _json(path, shown)
        kind = "json"
    elif kind == "pickle":
        raise InputError(f"{shown} is a pickle (a PyTorch file?): tracer record pt")
    elif kind != "hdf5":
        from tracer_keras.adapter import KerasAdapter

        raise InputError(f"{shown} is damaged, or no file that tf reads: give {KerasAdapter.formats}")
    return kind


def _json(path: Path, shown: str) -> None:
    size = path.stat().st_size
    if size > MAX_CONFIG:
        raise RefusedError(f"{shown} holds {size >> 20} MiB of JSON; a model has at most {MAX_CONFIG >> 20} MiB")
    try:
        value = parsed(path.read_text(encoding="utf-8-sig"), shown)
    except RefusedError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{shown} is not JSON: {described(error)}") from None
    if not isinstance(value, dict) or "class_name" not in value:
        raise InputError(f"{shown} is JSON, but not a Keras model's (no class_name)")


def parsed(text: str | bytes, shown: str) -> Any:
    """What an architecture's JSON says, in a string of JSON too (``model.to_json()`` saved with ``json.dump``).

    Raises RefusedError for one of millions of values, ValueError or RecursionError where it is no JSON.
    """
    if (text.count(",") if isinstance(text, str) else text.count(b",")) > _MAX_VALUES:
        raise RefusedError(f"{shown} holds an architecture of more than {_MAX_VALUES:,} values")
    value = json.loads(text)
    return json.loads(value) if isinstance(value, str) else value


def _zip(path: Path, shown: str) -> None:
    zip_check(path)
    with zipfile.ZipFile(path) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
    if "config.json" not in sizes:
        hint = " (a torch file?)" if any(name.endswith("data.pkl") for name in sizes) else ""
        raise InputError(f"{shown} is a zip archive, but no .keras model: it holds no config.json{hint}")
    for name, size in sizes.items():
        if name.endswith(".json") and size > MAX_CONFIG:
            raise RefusedError(f"{shown}: {display(name)} unpacks to {size >> 20} MiB, more than {MAX_CONFIG >> 20}")
