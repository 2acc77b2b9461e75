"""The results of the worker's commands as their reader may rely on them: a hostile model can write any."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from tracer.errors import ExitCode
from tracer.graph import Structure
from tracer.worker.failure import WorkerError

NONSENSE = "the worker's answer makes no sense"

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Shape = Annotated[list[Count], Field(max_length=64)]
FreeShape = Annotated[list[Count | None], Field(max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class RecordResult(_Strict):
    """:class:`tracer.recording.Summary` as JSON; ``model_dump()`` gives that JSON back."""

    name: str
    framework: str
    loader: str
    nodes: Count
    saved: Count
    planned: Count
    skipped: dict[str, str]
    gradients: Count
    weight_gradients: Count
    weights: Count
    nbytes: Count
    seconds: Annotated[FiniteFloat, Field(ge=0)]
    input_id: str
    input_shapes: dict[str, Shape]
    reference: str | None
    pairs: Count | None
    notes: list[str]
    model_notes: Count

    @model_validator(mode="after")
    def _agree(self) -> RecordResult:
        if self.model_notes > len(self.notes) or (self.pairs is not None and self.reference is None):
            raise ValueError("contradicts itself")
        return self


class Digest(_Strict):
    """One file a model was loaded from."""

    path: str
    bytes: Count
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None


class ModelFile(_Strict):
    """What a model was loaded from, as :func:`tracer.recording.describe_files` says it."""

    name: str
    arch: str | None
    file: Digest | None = None
    weights: Digest | None = None


class Input(_Strict):
    """A :class:`tracer.adapter.InputSpec`."""

    name: str
    shape: FreeShape | None
    dtype: str
    maximum: int | None
    layout: str | None


class Parameter(_Strict):
    """A parameter and the layer it belongs to."""

    owner: str
    name: str
    shape: Shape
    dtype: str
    trainable: bool


class Tensor(_Strict):
    """A tensor of a file of weights."""

    name: str
    shape: Shape
    dtype: str


class Totals(_Strict):
    """Numbers and bytes of parameters (or of a weights file's tensors), bytes of what a run stores, nodes by role."""

    parameters: Count
    trainable: Count
    parameter_bytes: Count
    activation_bytes: Count
    nodes: dict[str, Count]


class InspectResult(_Strict):
    """What :func:`tracer.inspection.run_inspect` returns.

    ``loader`` is None when no model was loaded: ``refused`` says why, or it is None and ``tensors`` are those of a
    file of weights. ``saved`` are the names of the parameters whose arrays are in the job's folder, see
    :mod:`tracer.inspection`.
    """

    adapter: str
    framework: str
    loader: str | None
    versions: dict[str, str]
    notes: list[str]
    signature: list[Input]
    parameters: list[Parameter]
    tensors: list[Tensor]
    totals: Totals
    structure: dict[str, Any] | None
    why_no_structure: str | None
    runs_code: list[str]
    refused: str | None
    file: ModelFile
    saved: list[str]

    @model_validator(mode="after")
    def _agree(self) -> InspectResult:
        if (self.structure is None) == (self.why_no_structure is None) or (self.refused and self.loader is not None):
            raise ValueError("contradicts itself")
        if self.structure is not None:
            try:
                Structure.from_json(self.structure)
            except (KeyError, TypeError, AttributeError, OverflowError) as error:
                raise ValueError("not a structure") from error
        return self


_Result = TypeVar("_Result", bound=_Strict)


def _parse(kind: type[_Result], value: object) -> _Result:
    try:
        return kind.model_validate(value)
    except (ValidationError, RecursionError) as error:
        raise WorkerError(NONSENSE, ExitCode.PARTIAL, "protocol") from error


def parse_record(value: object) -> RecordResult:
    """The result of the ``record`` command. Raises WorkerError, in one line, for anything else."""
    return _parse(RecordResult, value)


def parse_inspect(value: object) -> InspectResult:
    """The result of the ``inspect`` command. Raises WorkerError, in one line, for anything else."""
    return _parse(InspectResult, value)


class LocalError(_Strict):
    """A :class:`tracer.compare.local.Local`, and which pair it is about."""

    index: Count
    error: FiniteFloat | Literal["inf"] | None
    scale: FiniteFloat | Literal["inf"]
    rounding_reference: FiniteFloat | Literal["inf"] | None
    rounding_candidate: FiniteFloat | Literal["inf"] | None
    epsilon: FiniteFloat
    basis: str
    argmax: Shape | None
    shape: Shape | None
    reordered: bool
    unexpected: bool
    axes: Annotated[list[Count | None], Field(max_length=64)] | None
    sensitivity: float | None
    coarse: bool
    why: str


class LocalResult(_Strict):
    """What :func:`tracer.rerun.measure.run_local` returns; the files lie in the job's folder."""

    found: list[LocalError]
    files: dict[str, Annotated[str, Field(pattern=r"^open-[0-9]+\.npy$")]]
    double: bool
    notes: list[str]


class ComparedResult(_Strict):
    """A :class:`tracer.rerun.local.Compared`."""

    error: Annotated[float, Field(ge=0)] | Literal["inf"]
    argmax: Shape | None
    rounding: Annotated[float, Field(ge=0)] | Literal["inf"] | None


class AgainstResult(_Strict):
    """What :func:`tracer.rerun.measure.run_against` returns, by the candidate's nodes."""

    compared: dict[str, ComparedResult]


class ShakenResult(_Strict):
    """What :func:`tracer.rerun.measure.run_shaken` returns, by the candidate's nodes."""

    moved: dict[str, Annotated[float, Field(ge=0)]]


def parse_local(value: object) -> LocalResult:
    """The result of the ``local`` command. Raises WorkerError, in one line, for anything else."""
    return _parse(LocalResult, value)


def parse_against(value: object) -> AgainstResult:
    """The result of the ``against`` command. Raises WorkerError, in one line, for anything else."""
    return _parse(AgainstResult, value)


def parse_shaken(value: object) -> ShakenResult:
    """The result of the ``shaken`` command. Raises WorkerError, in one line, for anything else."""
    return _parse(ShakenResult, value)


class OutputOff(_Strict):
    """A :class:`tracer.rerun.graft.Off`."""

    max_abs: float
    rel_l2: float
    outside: Count
    size: Count
    argmax: Shape | None
    scale: float
    changed: float
    inner: float
    whole: float
    shape: Shape | None


class Repaired(_Strict):
    """Outputs with some defects repaired, by their indices, and by how much the tensors of each changed."""

    repaired: list[Count]
    outputs: list[OutputOff]
    changed: list[float]

    @model_validator(mode="after")
    def _agree(self) -> Repaired:
        if len(self.changed) != len(self.repaired):
            raise ValueError("contradicts itself")
        return self


class PutResult(_Strict):
    """What :func:`tracer.rerun.graft.put` returns."""

    outputs: list[OutputOff]
    choice: list[Count]
    changed: list[float]
    runs: Count


class WalkResult(_Strict):
    """What :func:`tracer.rerun.graft.walk` left in the job's folder, by node."""

    files: dict[str, Annotated[str, Field(pattern=r"^(reference|candidate)-[0-9]+\.npy$")]]
    runs: Count


class ExplainResult(_Strict):
    """What :func:`tracer.rerun.graft.explain` returns."""

    rows: list[Repaired]
    runs: Count


class AmplifyResult(_Strict):
    """What :func:`tracer.rerun.graft.amplify` returns, in the order of the nodes."""

    grows: list[float]
    runs: Count


_GRAFTS: dict[str, type[_Strict]] = {
    "put": PutResult, "walk": WalkResult, "explain": ExplainResult, "amplify": AmplifyResult
}  # fmt: skip


def parse_graft(task: str, value: object, outputs: int, joints: int, groups: int) -> dict[str, Any]:
    """The result of a task of the ``graft`` command with so many outputs, joints and defects.

    Raises WorkerError, in one line, for anything else.
    """
    found = _parse(_GRAFTS[task], value)
    if isinstance(found, PutResult):
        right = len(found.outputs) == outputs and len(found.choice) == len(found.changed) == joints
    elif isinstance(found, ExplainResult):
        sets = {frozenset(row.repaired) for row in found.rows}
        whole = frozenset(range(groups))
        wanted = {whole, *(frozenset({at}) for at in whole), *(whole - {at} for at in whole)}
        right = wanted <= sets and all(len(row.outputs) == outputs for row in found.rows)
        right = right and all(members <= whole for members in sets)
    else:
        right = not isinstance(found, AmplifyResult) or len(found.grows) == joints
    if not right:
        raise WorkerError(NONSENSE, ExitCode.PARTIAL, "protocol")
    return found.model_dump()


class TransferResult(_Strict):
    """What :func:`tracer.weighing.filling.run_transfer` returns; the file lies in the job's folder."""

    recorded: RecordResult


def parse_transfer(value: object) -> TransferResult:
    """The result of the ``transfer`` command. Raises WorkerError, in one line, for anything else."""
    return _parse(TransferResult, value)


class VerifyResult(_Strict):
    """What :func:`tracer.rerun.verifying.perform` returns."""

    outputs: list[OutputOff]
    failed: dict[str, str]


def parse_verify(value: object, outputs: int) -> dict[str, Any]:
    """The result of the ``verify`` command with so many outputs. Raises WorkerError, in one line, for anything else."""
    found = _parse(VerifyResult, value)
    if len(found.outputs) != outputs:
        raise WorkerError(NONSENSE, ExitCode.PARTIAL, "protocol")
    return found.model_dump()


class ProbeResult(_Strict):
    """What :func:`tracer.rerun.probing.run_probe` returns; the files lie in the job's folder."""

    files: dict[Annotated[str, Field(pattern="^[0-9]+$")], Annotated[str, Field(pattern=r"^probe-[0-9]+\.npy$")]]
    failed: dict[Annotated[str, Field(pattern="^[0-9]+$")], str]


def parse_probe(value: object, requests: int) -> ProbeResult:
    """The result of the ``probe`` command with so many requests. Raises WorkerError, in one line, for anything else."""
    found = _parse(ProbeResult, value)
    if {*found.files, *found.failed} != set(map(str, range(requests))) or len(found.files) + len(
        found.failed
    ) != requests:
        raise WorkerError(NONSENSE, ExitCode.PARTIAL, "protocol")
    return found
