"""Where the steps of a watched model go: into a trace of this machine, or to a daemon."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from tracer.alignment import align
from tracer.graph import Structure
from tracer.names import display
from tracer.recording import aligned_names, stored_keys, weight_places
from tracer.store import Recording, Trace
from tracer.store.series import Part, SeriesWriter


@dataclass(frozen=True)
class Opening:
    """What a recording of steps begins with.

    Attributes:
        attributes: as a recording's: framework, versions, model …
        reference: the recording to align to; by default the trace's first.
        parameters: owner and name of those whose values or gradients will come.
    """

    name: str
    structure: Structure
    attributes: Mapping[str, Any]
    reference: str | None = None
    parameters: tuple[tuple[str, str], ...] = field(default=())


class Destination(Protocol):
    """Takes steps, from one thread. Every method raises TracerError; none is called after :meth:`close`.

    Attributes:
        left_out: steps that were begun and did not arrive.
        not_begun: steps that were due while it was not ``ready``, which who gives them counts.
    """

    left_out: int
    not_begun: int

    def open(self, opening: Opening) -> None:
        """Begin, before anything else."""

    def begin(self, step: int) -> None:
        """A step begins; one that was not committed is given up."""

    def put(self, part: Part, owner: str, name: str, values: NDArray[Any]) -> None:
        """A tensor of the step; ``owner`` is empty for a node's."""

    def statistics(self, name: str, shape: tuple[int, ...], dtype: str, summary: Mapping[str, float | int]) -> None:
        """The numbers of a node's tensor in its place."""

    def skip(self, part: Part, name: str, why: str) -> None:
        """Something of the step is not there."""

    def commit(self, ended: float) -> None:
        """The step is whole; it ended at this time (seconds since 1970)."""

    @property
    def ready(self) -> bool:
        """Whether what is given arrives; may be asked from another thread."""

    def idle(self) -> None:
        """Called now and then while there is nothing else to do."""

    def close(self, fault: str | None = None) -> None:
        """No more steps come."""


def reference_of(trace: Trace, opening: Opening) -> Recording | None:
    """The recording that a new one is aligned to, of the same rank. Raises InputError where one that is named is not
    there."""
    rank = opening.attributes.get("rank")
    if opening.reference is not None:
        own = f"{opening.reference}.rank{rank}"
        return trace.recording(own if rank is not None and trace.has(own) else opening.reference)
    whole = ("complete", "recording", "interrupted")
    others = [one for one in trace.recordings() if one.name != opening.name and one.state in whole]
    return next((o for o in others if o.attributes.get("rank") == rank and not o.attributes.get("reference")), None)


def opened(trace: Trace, opening: Opening, *, resume: bool = False) -> SeriesWriter:
    """The writer of a recording of steps, aligned to the reference; to be entered. Raises InputError, TraceError."""
    structure = opening.structure.checked()
    reference = reference_of(trace, opening)
    alignment = None if reference is None else align(reference, structure)
    keys = {node.name: node.name for node in structure.stored()}
    if reference is not None and alignment is not None:
        keys = stored_keys(structure, aligned_names(trace, reference, alignment))
    places = weight_places(reference, alignment)
    attributes = {
        **opening.attributes,
        "reference": None if reference is None else reference.name,
        "alignment": None if alignment is None else alignment.to_json(),
    }
    trace.make()
    weights = {key: places[key] for key in opening.parameters}
    return SeriesWriter(trace, opening.name, structure, attributes, keys, weights, resume=resume)


class Local:
    """A trace that this process writes itself."""

    def __init__(self, trace: Trace) -> None:
        self.left_out = self.not_begun = 0
        self._trace = trace
        self._writer: SeriesWriter | None = None

    def __str__(self) -> str:
        return display(str(self._trace.root))

    @property
    def writer(self) -> SeriesWriter:
        assert self._writer is not None, "nothing was opened"
        return self._writer

    def open(self, opening: Opening) -> None:
        self._writer = opened(self._trace, opening).__enter__()

    def begin(self, step: int) -> None:
        self.writer.begin(step)

    def put(self, part: Part, owner: str, name: str, values: NDArray[Any]) -> None:
        self.writer.put(part, name, values, owner)

    def statistics(self, name: str, shape: tuple[int, ...], dtype: str, summary: Mapping[str, float | int]) -> None:
        self.writer.statistics(name, shape, dtype, summary)

    def skip(self, part: Part, name: str, why: str) -> None:
        self.writer.skip(part, name, why)

    def commit(self, ended: float) -> None:
        self.writer.commit(ended=ended)

    @property
    def ready(self) -> bool:
        return True

    def idle(self) -> None:
        pass

    def close(self, fault: str | None = None) -> None:
        if self._writer is not None:
            self._writer.finish(fault)
            self._writer = None
