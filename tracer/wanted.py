"""Which nodes of a model are recorded: the patterns of ``--layers`` and ``--exclude``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from tracer.errors import InputError
from tracer.graph import Node, Structure
from tracer.names import display

_BY_KIND, _BY_ROLE = "op:", "role:"


def wanted(
    structure: Structure, keys: Mapping[str, str], layers: Sequence[str], exclude: Sequence[str]
) -> frozenset[str] | None:
    """Names of the stored nodes that the patterns leave; None when there are no patterns.

    A pattern is a glob over a node's name, its layer's path, or its aligned name (``keys``); a path picks everything
    inside (``encoder`` is also ``encoder/*`` and ``encoder.*``), ``op:conv*`` goes by the operation, ``role:inner`` by
    the role. The model's inputs are kept unless they are excluded. Raises InputError for a pattern that no node has,
    and when nothing is left.
    """
    if not layers and not exclude:
        return None
    chosen = {node.name for node in (structure.inputs if layers else structure) if node.alias_of is None}
    for pattern in layers:
        chosen = chosen | stored_of(structure, keys, pattern, "--layers ")
    for pattern in exclude:
        chosen = chosen - stored_of(structure, keys, pattern, "--exclude ")
    if not chosen:
        raise InputError("--layers and --exclude leave nothing to record")
    return frozenset(chosen)


def stored_of(structure: Structure, keys: Mapping[str, str], pattern: str, option: str = "") -> set[str]:
    """The stored nodes that have a pattern as :func:`wanted` reads it. Raises InputError, naming ``option`` and what is
    near, where there are none."""
    stored = {node.name for node in structure.stored()}
    found = {node.alias_of or node.name for node in structure if matches(node, pattern, keys)} & stored
    if not found:
        raise InputError(f"{option}'{display(pattern)}' matches no layer{near(structure, pattern)}")
    return found


def matches(node: Node, pattern: str, keys: Mapping[str, str]) -> bool:
    """Whether a node has a pattern, see :func:`wanted`."""
    if pattern.startswith(_BY_KIND):
        word = pattern.removeprefix(_BY_KIND)
        return fnmatchcase(node.kind, word) or fnmatchcase(node.label.lower(), word.lower())
    if pattern.startswith(_BY_ROLE):
        return node.role == pattern.removeprefix(_BY_ROLE)
    names = {node.name, node.owner, keys.get(node.name, node.name)} - {""}
    # Names hold brackets ([1] is a second output), which a glob reads as a set of characters.
    return any(
        name == pattern or fnmatchcase(name, pattern) or name.startswith((f"{pattern}/", f"{pattern}.", f"{pattern}#"))
        for name in names
    )


def near(structure: Structure, pattern: str) -> str:
    """Names that are like a pattern, to be put behind what says that nothing has it."""
    close = difflib.get_close_matches(pattern.strip("*"), [node.name for node in structure], 3, 0.4)
    close = close or [node.name for node in structure if node.role != "input"][:3]
    return f"; there is {', '.join(display(name, 60) for name in close)}" if close else ""
