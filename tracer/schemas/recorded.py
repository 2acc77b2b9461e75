"""What is said of recordings, models, weights, the daemon and the machine."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tracer.schemas.compared import SchemaName
from tracer.schemas.parts import Axes, Count, Key, Name, Pair, Parameter, Part, Shape, Share, SidesNames, Size, optional
from tracer.worker.results import InspectResult, RecordResult

Time = Annotated[float, Field(description="Seconds since 1970, UTC.")]


class File(Part):
    """A file that a model was loaded from."""

    path: str
    bytes: Count
    sha256: str


class Model(Part):
    """What was recorded: of a live object its class alone."""

    name: str
    """The file's name, or the class."""
    arch: str | None = optional("What built it.")
    file: File = optional()
    weights: File = optional("Its separate file of weights.")
    trust: bool = optional()
    sandbox: Any = optional("How its process was confined.")
    load: dict[str, Any] = optional("How it is loaded once more.")


class Run(Part):
    """A recording. What it does not say is null."""

    name: str
    state: Literal["complete", "recording", "failed", "interrupted", "damaged"]
    framework: str | None
    versions: dict[str, str] | None
    loader: str | None
    """What loaded the model."""
    model: Model | None
    input: str | None
    """Identifies what it was run on: recordings of one input can be compared."""
    mode: Literal["eval", "train"] | None
    reference: str | None
    """The recording that it was aligned to."""
    created: Time | None
    seconds: Size | None
    """What recording took."""
    notes: list[str] | None
    loss: str | None
    """What the gradients are of."""
    batches: Count | None
    """In how many batches it was run, where there were several."""
    statistics_only: bool | None
    precision: str | None
    """What activations were rounded to before they were stored."""
    layers: list[str] | None
    """Patterns of what was recorded."""
    exclude: list[str] | None
    pairs: Count | None
    """How many of its activations are stored beside the reference's."""
    steps: list[Count]
    """Of a recording of many steps their numbers."""
    activations: Count
    gradients: Count
    planned: Count
    """Tensors that the model has to store."""
    skipped: dict[str, str]
    """Nodes that could not be stored, with the reason."""
    bytes: Count
    """On the disk."""
    error: str | None


class Runs(Part):
    """tracer runs: what a trace holds, the oldest first."""

    schema_: Literal["tracer-runs/1"] = SchemaName
    recordings: list[Run]


class Record(RecordResult):
    """tracer record: what was recorded. nbytes: bytes of activations; seconds: what it took; input_shapes: by name."""

    schema_: Literal["tracer-record/1"] = SchemaName


class Inspect(InspectResult):
    """tracer inspect: a model's layers, shapes, parameters, and what would run code on loading it."""

    schema_: Literal["tracer-inspect/2"] = SchemaName


class MappedPair(Pair):
    """A pair, with the reference's shape."""

    shape: Shape | None


class Ambiguous(Part):
    """A node of the reference that the evidence does not settle."""

    reference: list[Name]
    candidates: list[Annotated[list[Any], Field(min_length=2, max_length=2)]]
    """Nodes that it may be, each with its probability, the likeliest first."""
    reason: str


class Output(Part):
    """Where an output's twin stands."""

    reference: Annotated[list[str], Field(min_length=2, max_length=2)]
    """The node, and its place in what the model returns."""
    candidate: Annotated[list[str], Field(min_length=2, max_length=2)] | None
    moved: bool
    """Whether the twin stands elsewhere than it should."""


class ParameterPair(Part):
    """Parameters that hold, or should hold, the same."""

    reference: list[Key]
    candidate: list[Key]
    axes: Axes | None
    relation: str
    """How the one becomes the other, in words."""
    confidence: Share
    evidence: str


class UnmatchedParameters(Part):
    """Parameters without a twin."""

    reference: list[Key]
    candidate: list[Key]


class Pattern(Part):
    """Repeated blocks that are paired alike."""

    reference: str
    """A name with a variable in it."""
    candidate: str
    variables: list[str]
    blocks: list[list[Count | str]]
    """The variables' values, a list for each block."""
    pairs: list[Count]
    """Pairs in each block."""
    confidence: Share
    """The least of any."""


class Map(Part):
    """tracer map: what is paired with what."""

    schema_: Literal["tracer-map/1"] = SchemaName
    reference: str
    candidate: str
    pairs: list[MappedPair]
    unmatched: SidesNames
    ambiguous: list[Ambiguous]
    outputs: list[Output]
    parameters: list[ParameterPair]
    unmatched_parameters: UnmatchedParameters
    patterns: list[Pattern]


NotFinite = Literal["inf", "nan"]


class Figures(Part):
    """How far two parameters are apart in one layout; numbers that are not finite are texts."""

    size: Count
    """Numbers compared."""
    max_abs: Size | NotFinite
    mean_abs: Size | NotFinite
    rel_max: Size | NotFinite
    """max_abs over the reference's greatest magnitude."""
    rel_l2: Size | NotFinite
    nonfinite: Count
    """Numbers that are finite on one side only."""


class Likeness(Part):
    """What the candidate's parameter is of the reference's."""

    what: Literal[
        "shape", "not-finite", "constant", "gates", "transposed", "flipped", "reordered", "elsewhere", "negated",
        "scaled", "rounded", "quantised", "statistics", "near", "initialised", "unrelated",
    ]  # fmt: skip
    text: str
    factor: float = optional("What it is multiplied by.")
    order: list[Count] = optional("Of axes, or of equal blocks.")


class WeightRow(Part):
    """Parameters of both sides that hold, or should hold, the same; or one that is alone."""

    aligned: str
    status: Literal["equal", "differs", "missing", "extra", "not-comparable", "aside"]
    role: str
    """kernel, bias, gamma …"""
    reference: list[Parameter]
    candidate: list[Parameter]
    relation: str
    confidence: Share
    reason: str
    figures: Figures | None
    likeness: Likeness | None


class WeightCounts(Part):
    """Rows by status."""

    equal: Count
    differs: Count
    missing: Count
    extra: Count
    not_comparable: Count = Field(alias="not-comparable")
    aside: Count


class WeightTotals(Part):
    """How much there is, indices and counters aside."""

    tensors: Count
    parameters: Count
    """Numbers."""
    trainable: Count
    not_trainable: Count
    bytes: Count


class More(Part):
    """How many more the candidate has."""

    count: int
    percent: float | None
    """Of the reference's; null where it has none."""


class WeightDifference(Part):
    """The candidate's totals less the reference's."""

    parameters: More
    trainable: More
    not_trainable: More
    bytes: More


class WeightSummary(Part):
    """Totals of both sides."""

    reference: WeightTotals
    candidate: WeightTotals
    difference: WeightDifference


class Tied(Part):
    """Parameters of one side that hold the very same values."""

    reference: list[list[str]]
    candidate: list[list[str]]


class Weights(Part):
    """tracer weights: the parameters of two recordings, pair by pair, whatever their layout."""

    schema_: Literal["tracer-weights/1"] = SchemaName
    reference: str
    candidate: str
    equal: bool
    counts: WeightCounts
    rows: list[WeightRow]
    summary: WeightSummary
    tied: Tied


class Event(Part):
    """tracer watch --json: a line for each event; also what [events] of tracer.toml hands to commands and webhooks."""

    what: str
    """step, compared (both with --steps), or the rule that tells: nonfinite, divergence, exploding …"""
    recording: str
    step: Count
    time: Time
    said: dict[str, Any]
    """Of a rule: node, what (a sentence), trace."""


class DaemonEvent(Event):
    """An event, as the daemon's clients get it."""

    kind: Literal["event"]


class Recorder(Part):
    """A program that sends steps."""

    recording: str | None
    asks_for: str
    trace: str
    pid: Count
    host: str
    steps: Count
    last_step: Count | None
    bytes: Count
    messages: Count
    mb_per_s: Size
    waiting: Count
    """Bytes that came and are not written."""
    lag: Size
    """Seconds from the end of the last step to when it was written."""
    left_out: Count
    """Steps that were due and not sent."""
    silent: float
    """Seconds since it was heard of."""


class Watched(Part):
    """Two recordings that are compared as their steps come, and the last comparison."""

    reference: str
    candidate: str
    trace: str
    compared: Count
    """Steps."""
    step: Count
    atol: Size = optional()
    rtol: Size = optional()
    verdict: str = optional()
    first: Name | None = optional()
    first_error: Size | None = optional()
    seconds: Size = optional()
    error: str = optional("Why the step could not be compared.")


class Daemon(Part):
    """tracer daemon status."""

    schema_: Literal["tracer-daemon/1"] = SchemaName
    version: str
    pid: Count
    since: Time
    trace: str
    recorders: list[Recorder]
    pairs: list[Watched]
    watchers: Count
    to_look_at: Count
    """Steps and pairs that wait for the rules and to be compared."""
    not_looked_at: Count
    """Those that were left out."""
    events: dict[str, Count]
    """How many of each kind there were."""
    last_events: list[DaemonEvent]


class PackedRecording(Part):
    """A recording that was packed or unpacked."""

    name: str
    before: Count
    """Bytes."""
    after: Count
    """Bytes."""


class Pack(Part):
    """tracer pack: bytes before and after."""

    schema_: Literal["tracer-pack/1"] = SchemaName
    recordings: list[PackedRecording]


class Copy(Part):
    """tracer push and pull: a trace that was copied."""

    schema_: Literal["tracer-copy/1"] = SchemaName
    trace: str
    url: str
    bytes: Count


class Info(Part):
    """tracer info: what is installed."""

    schema_: Literal["tracer-info/1"] = SchemaName
    python: str
    packages: dict[str, str | None]
    """Versions; null for what is not installed."""
    adapters: dict[str, str]
    """What each adapter takes, or why it cannot be used."""
    landlock: Count
    """The kernel's version of what confines a worker; 0 for none."""
