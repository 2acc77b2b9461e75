"""A worker in another environment: one that has a framework and numpy, and need not have tracer or what tracer needs.

It gets tracer's own source, the adapter's, what says that they are installed, and the library that computes checksums.
Nothing else of this environment comes onto its path: the framework that is here is not the one that is meant.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, version
from importlib.util import find_spec
from pathlib import Path

from tracer import adapter as adapters
from tracer.errors import InputError
from tracer.names import display
from tracer.store import crc32c
from tracer.worker import bootstrap

_COMPILED = ("ml_dtypes",)
"""Packages that work with any numpy, but only in a Python of our own version."""


@dataclass(frozen=True)
class Prepared:
    """What starts the worker.

    Attributes:
        command: the interpreter and its arguments, before the worker's own.
        variables: of its environment.
        read: what its sandbox must let it read.
    """

    command: tuple[str, ...]
    variables: dict[str, str]
    read: tuple[str, ...]


def interpreter(given: str | os.PathLike[str]) -> str:
    """The interpreter that is meant by its path, its name, or its environment's folder. Raises InputError for none.

    A symbolic link stays one: what an environment's interpreter finds depends on where the link lies.
    """
    text = os.path.expanduser(os.fspath(given))
    if os.sep not in text and not os.path.exists(text):
        text = shutil.which(text) or text
    path = Path(text)
    if path.is_dir():
        path = path / "bin" / "python"
    if not path.is_file():
        raise InputError(f"no Python at {display(str(given))}")
    return _placed(path)


def is_other(python: str) -> bool:
    """Whether that is the interpreter of another environment than ours."""
    return _placed(Path(python)) != _placed(Path(sys.executable))


def _placed(path: Path) -> str:
    return str(path.parent.resolve() / path.name)


def prepare(python: str, adapter: str, temporary: str) -> Prepared:
    """Lay out in ``temporary`` what a worker of ``python`` needs for an adapter.

    Raises InputError and AdapterError where there is no such adapter, OSError.
    """
    place = Path(temporary) / bootstrap.PACKAGES
    place.mkdir()
    point = adapters.entry_point(adapter)
    read = [_linked(place, name) for name in ("tracer", point.module.partition(".")[0])]
    _declare(place, point)
    same = Path(temporary) / bootstrap.SAME / (sys.implementation.cache_tag or "none")
    same.mkdir(parents=True)
    read += [_linked(same, name) for name in _COMPILED if find_spec(name) is not None]
    variables = {}
    if (library := crc32c.library()) is not None:
        variables[crc32c.LIBRARY] = library
        read.append(os.path.realpath(library))
    return Prepared((python, bootstrap.__file__), variables, tuple(read))


def _linked(folder: Path, name: str) -> str:
    """Have a package or module in ``folder``: where it really lies."""
    spec = find_spec(name)
    assert spec is not None, name
    places = list(spec.submodule_search_locations or ())
    real = os.path.realpath(places[0] if places else str(spec.origin))
    os.symlink(real, folder / (name if places else os.path.basename(real)))
    return real


def _declare(folder: Path, point: EntryPoint) -> None:
    """Say what is installed there, as an installer would: tracer's version, and the adapter."""
    homes = {adapters.OURS: version(adapters.OURS)}
    if point.dist is not None:
        homes[point.dist.name] = point.dist.version
    for home, number in homes.items():
        said = folder / f"{home.replace('-', '_')}-{number}.dist-info"
        said.mkdir()
        (said / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {home}\nVersion: {number}\n")
        if home == adapters.distribution(point):
            (said / "entry_points.txt").write_text(f"[{adapters.GROUP}]\n{point.name} = {point.value}\n")
