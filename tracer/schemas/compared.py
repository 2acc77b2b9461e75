"""What compares two recordings: diff, explain, graft, steps, transfer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tracer.schemas.parts import (
    Count,
    Finding,
    Key,
    Name,
    Pair,
    PairVerdict,
    Part,
    Shape,
    Share,
    Side,
    Sides,
    SidesNames,
    Size,
    Tolerance,
    WholeVerdict,
    optional,
)

SchemaName = Field(alias="schema", description="The document's kind and the version of its layout.")


class ComparedPair(Pair):
    """A pair and what its values say. Figures are null where there was nothing to compare."""

    operation: Sides
    """What each side calls its operation."""
    shape: Shape | None
    """The reference's."""
    max_abs: Size | None
    """Greatest absolute difference, in the tensor's unit."""
    mean_abs: Size | None
    """Mean absolute difference, in the tensor's unit."""
    rel_l2: Size | None
    """||reference - candidate|| / ||reference||; null also where it is infinite."""
    cosine: Annotated[float, Field(ge=-1.0000001, le=1.0000001)] | None
    """Of the two tensors; null also where one is zero."""
    argmax: list[Count] | None
    """Index of the greatest difference, in the reference's axes."""
    outside: Count | None
    """Elements outside the tolerance; null where only the statistics were at hand."""
    inherited: Size | None
    """Largest relative error among the nearest pairs above; null where there is none."""
    local: Size | None
    """What the layer adds itself, relative to its largest value; null where that was not measured (--local)."""
    floor: Size
    """Relative error that rounding explains here."""
    between: SidesNames
    """Nodes without a twin between the nearest pairs above and this one."""
    verdict: PairVerdict
    reason: str
    """Why that is the verdict, in words."""
    accepted: str
    """Why a difference over the tolerance is let pass: a person's tolerance or a baseline; else empty."""


class Diff(Part):
    """tracer diff: two recordings compared, pair by pair, in the reference's running order."""

    schema_: Literal["tracer-diff/1"] = SchemaName
    reference: str
    """A recording's name."""
    candidate: str
    """A recording's name."""
    of: Literal["gradients"] = optional("There where gradients were compared (--gradients).")
    tolerance: Tolerance
    verdict: WholeVerdict
    pairs: list[ComparedPair]
    unmatched: SidesNames
    """Nodes that have no twin on the other side."""
    first_divergence: Name | None
    """The aligned name of the first pair that diverged."""
    causes: list[Finding]
    """Why pairs part, as far as it was looked for; one finding for all pairs of one mistake."""


class OutputFigures(Part):
    """How far an output is from the other side's."""

    max_abs: Size | None
    rel_l2: Size | None


class VerifiedOutput(Part):
    """An output before and after the fixes."""

    name: Name
    before: OutputFigures
    after: OutputFigures


class Verified(Part):
    """What is left of the outputs' difference once the fixes were made in memory (--verify)."""

    agrees: bool
    outputs: list[VerifiedOutput]
    made: list[Name]
    """Pairs whose fixes were made."""
    stood_in: list[Name]
    """Pairs whose fix is in code, for which the reference's layer stood in."""
    left: dict[str, str]
    """Pairs whose fix could not be made, with the reason."""
    notes: list[str]


class Failure(Part):
    """A family of causes that raised."""

    family: str
    error: str


class Explain(Part):
    """tracer explain: why two recordings part."""

    schema_: Literal["tracer-explain/1"] = SchemaName
    reference: str
    candidate: str
    tolerance: Tolerance
    verdict: WholeVerdict
    causes: list[Finding]
    """What parts, in running order."""
    latent: list[Finding]
    """What will differ in training or on other inputs."""
    looked: Count
    """Pairs that were computed again."""
    unread: dict[str, str]
    """Pairs that could not be, by aligned name, with the reason."""
    left: list[Name]
    """Pairs for which no time was left."""
    failed: list[Failure]
    verified: Verified = optional("There where --verify was asked for.")


class GraftFigures(Part):
    """How far an output is from the other model's recorded one."""

    max_abs: Size | None
    rel_l2: Size | None
    outside: Count
    """Elements outside the tolerance."""
    size: Count
    """Elements."""
    argmax: list[Count] | None
    shape: Shape | None
    """The shape that came out, where it is another one."""


class GraftOutput(Part):
    """An output that both models have."""

    name: Name
    before: GraftFigures
    after: GraftFigures
    changed: Size | None
    """Relative change (L2) of this output; null where it did not come out."""


class _Grafted(Part):
    schema_: Literal["tracer-graft/1"] = SchemaName
    reference: str
    candidate: str
    tolerance: Tolerance
    agreed: bool
    """Whether the outputs agreed as they were recorded."""
    agrees: bool
    """Whether they agree now."""
    outputs: list[GraftOutput]
    explained: float | None
    """Share of the outputs' difference that is gone; more than 1 where it is overshot."""
    runs: Count
    """How often models were run."""
    notes: list[str]


class GraftPlace(Part):
    """A pair where the other model's activation was put in."""

    aligned: Name
    reference: list[Name]
    candidate: list[Name]
    changed: Size | None
    """Relative change (L2) of the tensor there."""


class GraftedAt(_Grafted):
    """tracer graft --at: one model run on from the other's activation."""

    into: Side
    """The model that ran."""
    at: list[GraftPlace]
    reordered: list[Name]
    """Pairs whose values were put in in the order of the model that ran."""
    grows: Size | None
    """Relative change of the outputs per relative change of the one tensor."""


class Defect(Part):
    """Pairs that diverge on their own and are repaired together. Shares are of the outputs' difference."""

    pairs: list[Name]
    settings: str
    """What differs in each of several layers."""
    local: Size | None
    """The largest own error, relative to the largest value."""
    explains: float | None
    """The mean of alone and last."""
    alone: float | None
    """Share that goes when this is repaired alone; negative where that makes it worse."""
    last: float | None
    """Share that goes when this is repaired after all others."""
    grows: Size | None
    """Relative change of the outputs per relative change of the layer's result."""


class GraftExplained(_Grafted):
    """tracer graft: which defects the outputs' difference comes from."""

    defects: list[Defect]
    """The largest share first."""
    enough: list[Count] | None
    """The smallest set that brings the outputs within the tolerance, as positions in defects."""
    left_out: list[Name]
    """Pairs whose shares were not looked for."""


class GrownPair(Part):
    """How much a small change at a pair grows."""

    aligned: Name
    candidate: list[Name]
    grows: Size | None
    """Relative change of the outputs per relative change of the tensor; null for one without numbers."""


class Growth(Part):
    """tracer graft --grows: how much a small change at each layer grows to the outputs."""

    schema_: Literal["tracer-growth/1"] = SchemaName
    reference: str
    candidate: str
    pairs: list[GrownPair]
    left_out: Count
    """Pairs between them that were not looked at."""


class FailedStep(Part):
    """A step that could not be compared."""

    step: Count
    reference: str
    error: str


class ComparedStep(Part):
    """A step of both recordings, compared."""

    step: Count
    reference: str
    """The reference's name."""
    atol: Size
    rtol: Size
    verdict: WholeVerdict
    first: Name | None
    """The first pair that diverged."""
    first_error: Size | None
    """Its relative L2 error."""
    pairs: dict[str, Size | None]
    """Relative L2 error by aligned name; null where it is not finite."""
    seconds: Size
    """What it took."""
    parted: str = optional("There where a pair that agreed so far parts at this step.")


class Steps(Part):
    """tracer steps: two recordings of many steps, compared at each step that both have."""

    schema_: Literal["tracer-steps/1"] = SchemaName
    reference: str
    candidate: str
    steps: list[ComparedStep | FailedStep]


class Carried(Part):
    """A parameter of the target that was made of the source's."""

    parameter: Key
    how: str
    """How, in words."""
    confidence: Share


class Listed(Part):
    """A parameter, and why it is listed."""

    parameter: Key
    reason: str


class Transfer(Part):
    """tracer transfer: one model's weights in another, every tensor accounted for."""

    schema_: Literal["tracer-transfer/1"] = SchemaName
    source: str
    target: str
    written: str | None
    """The file; null where nothing was written."""
    recording: str | None
    """Of the filled model."""
    refused: str | None
    """Why nothing was written."""
    carried: list[Carried]
    kept: list[Listed]
    """Parameters that stay the target's own."""
    missing: list[Listed]
    """Parameters of the target that nothing was found for."""
    left_over: list[Listed]
    """Parameters of the source that went nowhere."""
    spent: list[Listed]
    """Parameters of the source that are contained in what was carried."""
    rounded: list[Key]
    """Parameters that the target holds at less precision."""
    outputs_agree: bool | None
    """null where nothing was run."""
    outputs: list[Name]
    """The pairs that prove it."""
    unproven: list[str]
    causes: list[Finding]
    """Why layers stay different."""
    diff: Diff | None
    """The source's recording compared with that of the filled model."""
    seconds: Size
