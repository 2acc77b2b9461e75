"""Settings that lie in a file: ``tracer.toml``, or ``[tool.tracer]`` of ``pyproject.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracer.errors import InputError
from tracer.names import display

OWN = "tracer.toml"
SHARED = "pyproject.toml"
_LARGEST = 1 << 20


def table(*names: str, start: Path | None = None) -> tuple[dict[str, Any], str]:
    """The table of this name in the nearest file that has settings of ours, and that file as it is called here.

    Looked for in ``start`` (by default the working directory) and the folders above it, up to the root of the
    repository. An empty table where there is none.

    Raises InputError for a file that is no TOML, or where the name is not that of a table.
    """
    for file in _files((start or Path.cwd()).resolve()):
        found: Any = _read(file)
        if file.name == SHARED:
            found = found.get("tool", {})
            found = found.get("tracer") if isinstance(found, dict) else None
            if found is None:
                continue
        said = ["tool", "tracer"] if file.name == SHARED else []
        for name in names:
            found = found.get(name, {}) if isinstance(found, dict) else found
            said.append(name)
        shown = display(str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file))
        if not isinstance(found, dict):
            raise InputError(f"{shown}: [{'.'.join(said)}] is to be a table")
        return found, f"{shown}, [{'.'.join(said)}]"
    return {}, ""


def _files(folder: Path) -> Iterator[Path]:
    for place in (folder, *folder.parents):
        for name in (OWN, SHARED):
            if (place / name).is_file():
                yield place / name
        if (place / ".git").exists():
            return


def _read(file: Path) -> dict[str, Any]:
    shown = display(str(file))
    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"{shown} is too large for a file of settings")
        return tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{shown} is no TOML: {display(str(error), 160)}") from error
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror}") from error
