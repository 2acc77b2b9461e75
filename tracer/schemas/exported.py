"""What is said of single tensors: show and export."""

from __future__ import annotations

from typing import Any, Literal

from tracer.schemas.compared import ComparedPair, SchemaName
from tracer.schemas.parts import Count, Name, Part, Shape, optional


class Tensor(Part):
    """One tensor of a recording. What is not known is null."""

    name: str
    """Of the node; of a weight LAYER/PARAMETER."""
    kind: str
    operation: str | None
    role: str | None
    shape: Shape | None
    """Batch included."""
    dtype: str | None
    """As it was computed."""
    stored: str | None
    """The type that was stored; null where its values were not."""
    bytes: Count | None
    """On the disk."""
    missing: str | None
    """Why its values were not saved."""
    statistics: dict[str, float | int | None]
    """Numbers by name, of the finite elements."""


class Histogram(Part):
    """Of the values."""

    edges: list[float]
    shares: list[float]
    """Of the elements, one for each interval."""
    sampled: bool
    """Whether some of the elements were looked at."""


class Twin(Part):
    """The same tensor in the other recording."""

    recording: str
    compared: bool
    """Whether a comparison of the two is in the trace."""
    verdict: str = optional()
    reason: str = optional("Why it has no twin.")
    pair: ComparedPair | None = optional()


class DetailedTensor(Tensor):
    """One tensor, and what is known of its node, its weights and its twin."""

    axes: list[str]
    """A word for each axis."""
    aligned: Name | None
    """The reference's name for it."""
    alias_of: Name | None
    settings: dict[str, Any]
    """Of the layer, as its framework names them."""
    layout: str | None
    source: str | None
    """file:line of the call."""
    parents: list[Name]
    readers: list[Name]
    weights: list[Tensor]
    twin: Twin | None
    histogram: Histogram | None
    values: Any
    """Of --values and --slice: nested lists; numbers that are not finite, and complex ones, as text. Else null."""


class Show(Part):
    """tracer show: what a trace knows of tensors."""

    schema_: Literal["tracer-show/1"] = SchemaName
    recording: str
    tensors: list[DetailedTensor | Tensor]


class Origin(Part):
    """A tensor's name in the recording: a node, or a parameter and the node that owns it."""

    name: Name = optional()
    owner: Name = optional()
    parameter: str = optional()


class ExportedTensor(Part):
    """One tensor of an export: a node's (name), or a parameter's (owner and parameter)."""

    key: str
    """Its name in the file."""
    kind: str
    name: Name = optional()
    owner: Name = optional()
    parameter: str = optional()
    of: Origin
    """Its own name, where it goes by the reference's (--like)."""
    shape: Shape
    dtype: str
    """Of the recorded values."""
    stored: str
    """In the file."""
    moved: str | None
    """How its axes were moved, in words."""
    file: str = optional("Its file in a folder.")


class Export(Part):
    """tracer export, and the index that lies in what it writes (without path and bytes)."""

    schema_: Literal["tracer-export/1"] = SchemaName
    tracer: str
    """The version that wrote it."""
    recording: str
    state: str
    framework: str
    model: str
    input: str
    like: str | None
    """The recording whose axes and names it has."""
    tensors: list[ExportedTensor]
    aliases: dict[str, str]
    """Nodes whose tensor is another one's, and that one's key."""
    path: str = optional()
    bytes: Count = optional("Of all files.")


class Graphs(Part):
    """tracer export --model-explorer: the files that were written."""

    schema_: Literal["tracer-graphs/1"] = SchemaName
    files: list[str]
