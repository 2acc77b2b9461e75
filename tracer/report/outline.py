"""A model as a table that a person reads: one row a layer, nested as its containers nest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from rich.cells import cell_len, set_cell_size

from tracer.graph import Node, Structure
from tracer.kinds import CONVOLUTIONS
from tracer.names import display
from tracer.report.words import shape_text

_SEEN = {"filters", "units", "in_features", "in_channels", "groups_in", "embed_dim", "normalized_shape"}
"""Settings that the shapes show."""
_USUAL: Mapping[str, Any] = {
    "use_bias": True, "bias": True, "affine": True, "center": True, "scale": True, "activation": "linear",
    "data_format": "channels_last", "batch_first": True, "axis": -1, "negative_slope": 0, "threshold": 0,
    "depth_multiplier": 1,
}  # fmt: skip
_ONES = {"dilation", "dilation_rate", "groups"}
_PARTS = ("activation", "inner")
"""Roles of the tensors within a layer, which have no rows of their own."""
_NARROWEST = 10
_MOST_LINES = 3
_LONGEST = 60


@dataclass(eq=False)
class Row:
    """One line of the table.

    Attributes:
        node: the layer, container, operation or input; tensors within a layer and further outputs are not rows.
        weighted: the node that says what the layer is: itself, or its tensor before the fused activation.
        inside: the rows of what ran within it.
        items: how many outputs it has besides the first.
        own: elements of the parameters it owns, counted at its first call.
        shared: whether its parameters were counted at an earlier call.
    """

    node: Node
    weighted: Node
    inside: list[Row] = field(default_factory=list)
    items: int = 0
    own: int = 0
    shared: bool = False

    @property
    def total(self) -> int:
        """Elements of its own parameters and of all within it."""
        return self.own + sum(row.total for row in self.inside)

    @property
    def count(self) -> int:
        """How many rows there are within it."""
        return sum(1 + row.count for row in self.inside)

    def label(self, above: str = "") -> str:
        """Its name, without that of the container ``above``."""
        name = self.node.name
        return name[len(above) + 1 :] if above and name.startswith((f"{above}/", f"{above}.")) else name


def outline(structure: Structure, parameters: Iterable[tuple[str, str, int]]) -> tuple[list[Row], dict[str, int]]:
    """The rows at the top, and the elements of what owns parameters without being among them.

    ``parameters`` are the owner, the name and the number of elements of each parameter. A container's node comes
    after those that ran within it, or right before what only passes its output on, and takes them in.
    """
    left = {(owner, name): size for owner, name, size in parameters}
    weighted = {owner for owner, _ in left}
    open_rows: list[Row] = []
    by_name: dict[str, Row] = {}
    last = {node.owner: index for index, node in enumerate(structure) if node.role in ("layer", "container")}
    closed: dict[str, Row] = {}
    for index, node in enumerate(structure):
        if node.role == "item" and node.parents and node.parents[0] in by_name:
            by_name[node.parents[0]].items += 1
            by_name[node.name] = by_name[node.parents[0]]
            continue
        row = Row(node, node)
        if node.owner and node.role in ("layer", "container"):
            inside = [other for other in open_rows if _within(other.node.scope, node.owner)]
            parts = [other for other in open_rows if other.node.owner == node.owner and other.node.role in _PARTS]
            taken = {id(other) for other in (*inside, *parts)}
            open_rows = [other for other in open_rows if id(other) not in taken]
            row.inside = [other for other in inside if other not in parts]
            row.own = sum(part.own for part in parts)
            row.shared = any(part.shared for part in parts)
            row.weighted = next((part.node for part in reversed(parts) if part.node.role == "activation"), node)
        own = [left.pop((node.owner, param.name), 0) for param in node.params]
        row.own += sum(own)
        row.shared = (row.shared or bool(own) or (node.call > 0 and node.owner in weighted)) and not row.own
        by_name[node.name] = row
        if node.role in ("layer", "container"):
            closed[node.owner] = row
        # What changes nothing (dropout in evaluation) may come after the container whose output it is.
        late = closed.get(node.scope)
        if late is not None and last[node.scope] > index and (node.alias_of is None or node.call != late.node.call):
            late = None
        (open_rows if late is None or late is row else late.inside).append(row)
    owners = {row.node.owner: row for row in reversed(by_name.values()) if row.node.role in ("layer", "container")}
    idle: dict[str, int] = {}
    for (owner, _), size in left.items():
        if owner in owners:
            owners[owner].own += size
        else:
            idle[owner] = idle.get(owner, 0) + size
    return list(_gathered(open_rows, "")), idle


def _gathered(rows: Sequence[Row], above: str) -> Iterator[Row]:
    """The rows with those in a row that share a scope which no node stands for put under a row of its name."""
    for head, group in groupby(rows, key=lambda row: _head(row.node.scope, above)):
        run = list(group)
        for row in run:
            row.inside = list(_gathered(row.inside, row.node.owner))
        if not head or len(run) == 1:
            yield from run
            continue
        within = list(_gathered(run, head))
        if len(within) == 1 and within[0].node.role == "container" and within[0].node.name.startswith(head):
            yield within[0]
        else:
            scope = Node(head, "identity", "", "container", owner=head)
            yield Row(scope, scope, within)


def _head(scope: str, above: str) -> str:
    """The first part of ``scope`` below ``above``, with what stands before it."""
    if above and not _within(scope, above):
        return ""
    rest = scope[len(above) :].lstrip("/.")
    return scope[: len(scope) - len(rest)] + re.split("[/.]", rest, maxsplit=1)[0] if rest else ""


def _within(scope: str, owner: str) -> bool:
    return scope == owner or scope.startswith((f"{owner}/", f"{owner}."))


@dataclass(frozen=True)
class Line:
    """A row as text, ``deep`` levels below the top."""

    name: str
    operation: str
    output: str
    parameters: str
    configuration: str
    deep: int = 0
    dim: bool = False


def lines(rows: Sequence[Row], left: Mapping[str, int], *, depth: int | None = None, whole: bool = False) -> list[Line]:
    """The rows in reading order, a container before what it holds.

    ``depth`` folds what lies deeper into its container, whose parameters are then those of all it holds; ``whole``
    gives full names and configurations instead of what is not usual.
    """
    out = list(_lines(rows, "", 0, depth, whole))
    out += [
        Line(display(owner) or "(the model)", "", "not run", f"{size:,}", "", 0, True) for owner, size in left.items()
    ]
    return out


def _lines(rows: Sequence[Row], above: str, deep: int, depth: int | None, whole: bool) -> Iterator[Line]:
    for row in rows:
        if row.node.role == "inner" and not whole and not row.total:
            continue
        folded = depth is not None and deep + 1 >= depth and bool(row.inside)
        count = row.total if folded else row.own
        shape = shape_text(row.node.shape) + (f" +{row.items}" if row.items else "") if row.node.label else ""
        config = configuration(row.weighted, whole=whole)
        if row.weighted.role == "activation" and "activation" not in row.weighted.config:
            config = f"{config} activation={display(row.node.kind)}".lstrip()
        if folded:
            config = f"[{row.count} inside] {config}".rstrip()
        yield Line(
            name=display(row.node.name if whole else row.label(above)),
            operation=display(operation(row.weighted)),
            output=shape,
            parameters=f"{count:,}" if count else "shared" if row.shared else "",
            configuration=config,
            deep=deep,
            dim=row.node.role == "container" and not folded,
        )
        if not folded:
            yield from _lines(row.inside, row.node.owner, deep + 1, depth, whole)


def operation(node: Node) -> str:
    """The operation in the framework's words, without the path of a function."""
    head, _, last = node.label.rpartition(".")
    return (
        last if node.role == "op" and head.partition(".")[0] in ("torch", "keras", "tf", "tensorflow") else node.label
    )


def configuration(node: Node, *, whole: bool = False) -> str:
    """``key=value`` for each setting; without ``whole`` only what is neither usual nor plain from the shapes."""
    limit = None if whole else _LONGEST
    said = ((key, value) for key, value in node.config.items() if whole or _says(node.kind, key, value))
    return " ".join(f"{key}={display(_short(value), limit)}" for key, value in said)


def _says(kind: str, key: str, value: Any) -> bool:
    if value is None or value is False or key in _SEEN or _USUAL.get(key) == value:
        return False
    ones = key in _ONES or (key == "strides" and kind in CONVOLUTIONS)
    return not (ones and set(_flat(value)) == {1})


def _flat(value: Any) -> list[Any]:
    return [item for one in value for item in _flat(one)] if isinstance(value, list | tuple) else [value]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple) and not any(isinstance(item, list | tuple | dict) for item in value):
        return "×".join(map(_short, value))
    return str(value)


def columns(table: Sequence[Sequence[str]], *, width: int | None, right: frozenset[int] = frozenset()) -> list[str]:
    """The rows in columns, each one or more lines of text without its newline; the first row are the heads.

    Where ``width`` does not hold them, cells are cut in their middle, those of the first column last, and the last
    column is folded into a quarter of the width or more and at most three lines.
    """
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    if width is not None:
        last = min(widths[-1], max(width // 4, _NARROWEST))
        over = sum(widths[:-1]) + last + 2 * (len(widths) - 1) - width
        for floor in (_NARROWEST + 4, _NARROWEST):
            for index in (*range(1, len(widths) - 1), 0):
                cut = max(0, min(over, widths[index] - max(floor, cell_len(table[0][index]))))
                widths[index] -= cut
                over -= cut
        widths[-1] = min(widths[-1], last - min(over, 0))
    out = []
    for cells in table:
        fitted = [
            _fit(cell, limit, index in right) for index, (cell, limit) in enumerate(zip(cells, widths, strict=True))
        ]
        folded = _fold(cells[-1], widths[-1], len(widths) - 1 in right)
        blank = "\n" + " " * (sum(widths[:-1]) + 2 * (len(widths) - 1))
        out.append("  ".join([*fitted[:-1], blank.join(line.rstrip() for line in folded)]).rstrip())
    return out


def _fit(cell: str, width: int, right: bool) -> str:
    if cell_len(cell) > width:
        indent = len(cell) - len(cell.lstrip())
        cell = cell[:indent] + display(cell[indent:], max(width - indent, 3))
        # What is left may be too wide all the same: wide characters, or a deep indent.
        cell = cell if cell_len(cell) <= width else set_cell_size(cell, width - 1) + "…"
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space


def _fold(cell: str, width: int, right: bool) -> list[str]:
    """``cell`` in lines of ``width``, broken between words, the rest of the fourth line cut off."""
    if cell_len(cell) <= width:
        return [_fit(cell, width, right)]
    folded = [""]
    for word in cell.split(" "):
        longer = f"{folded[-1]} {word}".lstrip()
        if cell_len(longer) <= width or not folded[-1]:
            folded[-1] = longer
        else:
            folded.append(word)
    if len(folded) > _MOST_LINES:
        folded = [*folded[: _MOST_LINES - 1], f"{folded[_MOST_LINES - 1]} …"]
    return [_fit(line, width, right) for line in folded]
