"""What several documents hold: pairs, findings, parameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """An object all of whose keys are known; its field's descriptions become those of the schema."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


def optional(description: str = "") -> Any:
    """A key that is there only where there is something to say."""
    return Field(default=None, description=description or None, json_schema_extra=_undefaulted)


def _undefaulted(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


Count = Annotated[int, Field(ge=0)]
Size = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(description="A node's name in its recording, as its file has it: untrusted text.")]
Shape = list[Count]
Axes = Annotated[
    list[Count | None],
    Field(description="For each of the reference's axes which of the candidate's it is; null: of length one, added."),
]
Key = Annotated[
    list[str], Field(min_length=2, max_length=2, description="A parameter: the node that owns it, and its name there.")
]
Side = Literal["reference", "candidate"]
PairVerdict = Literal["match", "noise", "diverged", "inherited", "unmatched", "not-comparable"]
WholeVerdict = Annotated[
    Literal["match", "noise", "diverged", "not-comparable"],
    Field(description="diverged where any pair is, not-comparable where none could be compared, else the mildest."),
]


class Tolerance(Part):
    """|reference - candidate| <= atol + rtol * |reference|, for every element."""

    atol: Size
    """In the tensor's own unit."""
    rtol: Size
    """A share of the reference's magnitude."""


class Sides(Part):
    """One text of each side."""

    reference: str
    candidate: str


class SidesNames(Part):
    """Nodes of each side."""

    reference: list[Name]
    candidate: list[Name]


class Arrangement(Part):
    """How factors of merged axes move."""

    pattern: str
    """In the notation of einops, 'n (h w c) -> n (c h w)'."""
    lengths: dict[str, Count]
    """Elements along each letter of the pattern."""


class Pair(Part):
    """Nodes of both sides that compute the same thing."""

    reference: list[Name]
    """Of several the last is the one that is compared."""
    candidate: list[Name]
    """Of several the last is the one that is compared."""
    aligned: Name
    """The reference's name, which stands for the pair everywhere else."""
    axes: Axes | None
    """null where no order of the axes makes the shapes equal."""
    other_axes: list[Axes]
    """Orders that are as likely; empty where the axes are known."""
    arrangement: Arrangement | None
    confidence: Share
    """Probability that the pair is right."""
    evidence: dict[str, Share]
    """What speaks for the pair: kind, shape, params, graph, values, weights; mapping where a person wrote it."""


class Change(Part):
    """A fix as a change of the candidate in memory, which tracer explain --patch writes."""

    library: Literal["torch", "keras", "tf_keras"]
    what: Literal["set", "activation", "module", "behind", "weight", "pad", "affine", "call", "eval"]
    owner: str
    """Path of the module or layer."""
    name: str
    """Of the attribute, weight or function."""
    value: bool | int | float | str | list[bool | int | float | str] | None
    """What it is to be."""
    source: Key | None
    """Of a weight: the reference's parameter."""
    moves: list[list[Any]]
    """What is done to these values in turn: each a word and its numbers."""


class Cause(Part):
    """One difference."""

    id: str
    """Its name in the catalogue."""
    what: str
    """The difference as a sentence."""
    fix: str
    """What to change, a line of code where that is possible."""
    reference: str
    """The reference's node; empty where it has none."""
    candidate: str
    """The candidate's node; empty where it has none."""
    key: str
    """The setting or weight."""
    values: Annotated[list[Any], Field(min_length=2, max_length=2)]
    """Its value in the reference and in the candidate."""
    source: str | None
    """file:line on the candidate's side."""
    without: float | None
    """Error that is left when everything but this is taken into account, relative to the largest value."""
    changes: list[Change]
    block: list[str]
    """Of a block that one side has alone, its nodes."""


class Proof(Part):
    """Errors relative to the largest value of what is reproduced; null for another shape, or what is not known."""

    before: float | None
    """Without the causes."""
    after: float | None
    """With them."""
    floor: float | None
    """What counts as rounding."""
    how: str
    """What was computed, in words."""


class ProbeError(Part):
    """The largest error that a statement leaves on any of the random inputs."""

    cause: str
    """Its id; empty for the statement that nothing differs."""
    what: str
    error: float | None
    """null for another shape."""


class Probed(Part):
    """What random input at a layer says."""

    said: str
    """As a sentence; empty where nothing was run."""
    why: str
    """Why nothing was run, or could be said."""
    inputs: list[str]
    """What it was given, in words."""
    errors: list[ProbeError]


class Finding(Part):
    """Why a pair parts."""

    pair: Name
    """Its aligned name."""
    pairs: list[Name]
    """All pairs of which the same is true."""
    cause: str
    """The ids of the causes, several joined by '+'; unknown."""
    status: Literal["proven", "ambiguous", "unknown", "latent"]
    """latent: something differs that this input does not show."""
    candidates: list[str]
    """Ids of all that may be it."""
    proof: Proof
    fix: str
    """What to change, a line each."""
    details: list[Cause]
    """The causes, all of which are needed."""
    others: list[Cause]
    """Other statements that are the same function here."""
    seen: list[str]
    """What the difference looks like, in words."""
    tell_apart: str
    """What input would tell the others apart."""
    notes: list[str]
    """What could not be tried."""
    probed: Probed | None


class Parameter(Part):
    """A parameter or buffer."""

    owner: str
    """The node that owns it."""
    name: str
    shape: Shape
    dtype: str
    trainable: bool | None
