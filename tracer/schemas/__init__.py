"""The JSON Schemas (draft 2020-12) of what the commands print with ``--json`` and of the files that are written.

They lie beside this module as files, made from the models of :mod:`tracer.schemas.models` by ``python -m
tracer.schemas``; the tests compare both, and hold real outputs of every command against the files.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def names() -> list[str]:
    """The schemas that there are."""
    found = (entry.name for entry in resources.files(__package__).iterdir())
    return sorted(name.removesuffix(".json") for name in found if name.endswith(".json"))


def text(name: str) -> str:
    """A schema as the text of its file. Raises KeyError for a name that is none of :func:`names`."""
    if name not in names():
        raise KeyError(name)
    return resources.files(__package__).joinpath(f"{name}.json").read_text("utf-8")


def load(name: str) -> dict[str, Any]:
    """A schema. Raises KeyError as :func:`text`."""
    found: dict[str, Any] = json.loads(text(name))
    return found
