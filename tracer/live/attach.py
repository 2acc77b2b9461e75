"""Recording what a program's own runs of a model compute, on a schedule."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from tracer import adapter as adapters
from tracer import text
from tracer.adapter import Array, LoadedModel, Mode, NotRecorded
from tracer.errors import InputError
from tracer.forked import ends_with_process
from tracer.graph import Param, Structure
from tracer.live import place, wire
from tracer.live.destination import Destination, Local, Opening
from tracer.live.outlet import Outlet
from tracer.live.remote import Remote
from tracer.names import display
from tracer.recording import describe_model, describe_object, free
from tracer.store import Trace
from tracer.store.buffers import Buffers
from tracer.store.summary import summarize
from tracer.store.writer import DEFAULT_MEMORY
from tracer.wanted import wanted

WhenFull = Literal["wait", "skip"]
DEFAULT_TRACE = "trace.zarr"
LOSS = "the program's own"
"""What stands in a recording where others name the loss whose gradients they hold."""
DAEMON = "daemon"
"""What ``to`` says where a daemon must run."""


@dataclass
class Capture:
    """What is recorded of a watched model; may be changed while it runs.

    Attributes:
        on: whether anything is.
        every: of how many calls one is recorded, the first among them.
        mode: calls in this mode are counted, others are none; None for that of the first call.
        layers, exclude: patterns of :func:`tracer.wanted.wanted`.
        statistics_only: numbers in place of values (:mod:`tracer.store.summary`).
        when_full: where what was recorded waits to be written: the model waits too, or the step is left out.
    """

    on: bool = True
    every: int = 1
    mode: Mode | None = None
    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    statistics_only: bool = False
    when_full: WhenFull = "wait"

    def __post_init__(self) -> None:
        """Raises InputError."""
        if not isinstance(self.every, int) or self.every < 1:
            raise InputError(f"every is a whole number of at least 1, not {display(str(self.every))}")
        if self.mode not in (None, "train", "eval"):
            raise InputError(f"mode is train or eval, not '{display(str(self.mode))}'")
        if self.when_full not in ("wait", "skip"):
            raise InputError(f"when_full is wait or skip, not '{display(str(self.when_full))}'")


class Attached:
    """A model that is watched: what :func:`tracer.attach` returns. Detaches at the end of a ``with`` block.

    Attributes:
        model: the owner's.
        step: the number of the last counted call.
        recorded: how many steps were recorded.
        lost_steps: why steps were given up, by number; at most the last hundred.
    """

    def __init__(
        self,
        model: Any,
        destination: Destination,
        opening: Callable[[Structure, tuple[tuple[str, str], ...]], Opening],
        capture: Capture,
        *,
        gradients: bool,
        weights: bool,
        memory: int,
    ) -> None:
        self.model = model
        self.gradients = gradients
        self.weights = weights
        self.capture = capture
        self.step = -1
        self.recorded = 0
        self._skipped = 0
        self.lost_steps: dict[int, str] = {}
        self._destination = destination
        self._opening = opening
        self._outlet = Outlet(destination, memory)
        self._buffers = Buffers(memory)
        self._structure: Structure | None = None
        self._known: frozenset[str] = frozenset()
        self._wanted: frozenset[str] = frozenset()
        self._patterns: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        """Of ``capture`` as the program gave them, where others came before the first step."""
        self._deciding = threading.Lock()
        """What is recorded is changed from the outlet's thread, and looked at in the program's."""
        self._detach: Callable[[], None] = lambda: None
        self._parameters: tuple[tuple[str, str], ...] = ()
        atexit.register(self.detach)  # a program that just ends: its last step, too
        ends_with_process(self)

    def forked(self) -> None:
        self._deciding = threading.Lock()

    def follow(self, model: LoadedModel) -> None:
        if self.gradients or self.weights:
            self._parameters = tuple((owner, param.name) for owner, param, _ in model.parameters())
        self._detach = model.watch(self)

    # -- what the owner's program calls ------------------------------------------------------------------------

    @property
    def fault(self) -> str | None:
        """Why nothing is recorded any more; None while all is well."""
        return self._outlet.fault

    @property
    def left_out(self) -> int:
        """How many steps were due and are not recorded: there was no room, or no daemon."""
        return self._skipped + self._unsent

    @property
    def _unsent(self) -> int:
        return self._destination.left_out + self._destination.not_begun

    def __repr__(self) -> str:
        what = describe_object(self.model)["name"]
        state = f"every {self.capture.every}" if self.capture.on else "off"
        if self.fault is not None:
            state = self.fault
        elif self._outlet.closed:
            state = "detached"
        return f"<tracer: {what} → {self._destination}, {state}, steps recorded: {self.recorded}>"

    def flush(self) -> None:
        """Wait until every step so far is written or sent."""
        self._outlet.flush()

    def detach(self) -> None:
        """Leave the model as it was, and end the recording once everything is written."""
        self._end(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._end(None if error is None else text.text_of(error) or type(error).__name__)

    def _end(self, fault: str | None) -> None:
        atexit.unregister(self.detach)
        detach, self._detach = self._detach, lambda: None
        detach()
        was_closed = self._outlet.closed
        if self.step < 0 and not was_closed:
            warnings.warn(
                "tracer recorded nothing: no call of the model was seen (give tracer.attach what torch.compile "
                "returned; calls within a tf.function of your own are not seen)",
                RuntimeWarning, stacklevel=3,
            )  # fmt: skip
        self._outlet.close(fault)
        if self._unsent and not was_closed:
            said = f"tracer: steps that were due and could not be sent to the daemon: {self._unsent}"
            warnings.warn(said, RuntimeWarning, stacklevel=3)

    def control(self, wanted: wire.Capture) -> None:
        """Record otherwise from the next call on, as the daemon was told to; patterns of no layer change nothing.

        Where no call was recorded yet nobody knows the layers, and :meth:`structure` sees whether they fit.
        """
        changes: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in wanted.model_dump(exclude={"kind", "recording"}).items()
            if value is not None
        }
        with self._deciding:
            before = self.capture
            if self._structure is None:
                self._patterns = self._patterns or (before.layers, before.exclude)
            self.capture = replace(before, **changes)
            try:
                self._choose()
            except InputError:  # the daemon knows the layers, and refused it
                self.capture = before

    # -- what the adapter calls --------------------------------------------------------------------------------

    def soon(self, mode: Mode, count: int) -> bool:
        capture = self.capture
        if not capture.on or capture.mode not in (None, mode) or not self._outlet.ready:
            return False
        return any(step % capture.every == 0 for step in range(self.step + 1, self.step + 1 + count))

    def due(self, mode: Mode) -> bool:
        capture = self.capture
        if capture.mode is None:
            with self._deciding:
                capture = self.capture
                capture.mode = mode
        if mode != capture.mode:
            return False
        self.step += 1
        if not capture.on or self.step % capture.every or self._outlet.fault is not None:
            return False
        if not self._outlet.ready:
            self._destination.not_begun += 1
            return False
        if capture.when_full == "skip" and not self._outlet.has_room():
            self._skipped += 1
            return False
        if self._structure is not None:
            self._outlet.give(self._destination.begin, self.step)
        return True

    def structure(self, structure: Structure) -> None:
        with self._deciding:
            self._structure = structure
            self._known = frozenset(node.name for node in structure.stored())
            fault = self._fault_of_patterns()
        if fault is not None:
            self._outlet.fail(fault)
            return
        self._outlet.open(self._opening(structure, self._parameters))
        self._outlet.give(self._destination.begin, self.step)

    def _fault_of_patterns(self) -> str | None:
        """Why the patterns cannot be followed; of others than the program's own a warning is enough."""
        try:
            self._choose()
        except InputError as error:
            if self._patterns is None:
                return str(error)
            self.capture = replace(self.capture, layers=self._patterns[0], exclude=self._patterns[1])
            self._patterns = None
            with contextlib.suppress(RuntimeWarning):  # where warnings are errors it would end the program
                warnings.warn(f"tracer: capture: {error}: it is left out", RuntimeWarning, stacklevel=2)
            return self._fault_of_patterns()
        return None

    def _choose(self) -> None:
        """Raises InputError for patterns that no layer fits."""
        if self._structure is not None:
            only = wanted(self._structure, {}, self.capture.layers, self.capture.exclude)
            self._wanted = self._known if only is None else only

    def wants(self, name: str) -> bool:
        return name in self._wanted

    def __call__(self, name: str, value: Array | NotRecorded, owned: bool = False) -> None:
        if self.capture.statistics_only and isinstance(value, np.ndarray):
            # Here, where it is still in the processor's cache: a copy for another thread costs as much as they do.
            self._outlet.give(
                self._destination.statistics, name, value.shape, value.dtype.name, summarize(value, quick=True)
            )
        else:
            self._give("value", "", name, value, owned)

    def gradient(self, name: str, value: Array | NotRecorded, owned: bool = False) -> None:
        self._give("gradient", "", name, value, owned)

    def weight(self, owner: str, param: Param, value: Array | NotRecorded, owned: bool = False) -> None:
        self._give("weight", owner, param.name, value, owned)

    def weight_gradient(self, owner: str, name: str, value: Array | NotRecorded, owned: bool = False) -> None:
        self._give("weight_gradient", owner, name, value, owned)

    def finish(self) -> None:
        self.recorded += 1
        self._outlet.give(self._destination.commit, time.time(), soon=True)

    def lost(self, why: str) -> None:
        first = not self.lost_steps
        self.lost_steps[self.step] = why
        while len(self.lost_steps) > 100:
            del self.lost_steps[next(iter(self.lost_steps))]
        if first:
            with contextlib.suppress(RuntimeWarning):  # where warnings are errors it would end the program
                warnings.warn(
                    f"tracer: step {self.step} is not recorded: {why}; of further ones attached.lost_steps says it",
                    RuntimeWarning, stacklevel=2,
                )  # fmt: skip

    def _give(self, part: Any, owner: str, name: str, value: Array | NotRecorded, owned: bool) -> None:
        if not isinstance(value, NotRecorded):
            try:
                copied = value if owned else self._buffers.copy(value)
            except MemoryError as error:  # an expanded tensor is larger than its memory
                value = NotRecorded(text.described(error, 120))
        if isinstance(value, NotRecorded):
            self._outlet.give(self._destination.skip, part, f"{owner}:{name}" if owner else name, value.reason)
            return
        self._outlet.give(self._destination.put, part, owner, name, copied, size=copied.nbytes)


def attach(
    model: object,
    *,
    to: str | os.PathLike[str] | None = None,
    name: str | None = None,
    on: bool = True,
    every: int = 1,
    mode: Mode | None = None,
    layers: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    gradients: bool = False,
    weights: bool = False,
    statistics_only: bool = False,
    when_full: WhenFull = "wait",
    memory: int = DEFAULT_MEMORY,
    reference: str | None = None,
    durable: bool = False,
) -> Attached:
    """See :func:`tracer.attach`."""
    entry, adapter = adapters.for_object(model)
    capture = Capture(on, every, mode, layers, exclude, statistics_only, when_full)
    loaded = adapter.wrap(model)
    rank = loaded.rank()
    stem = (name or entry) + ("" if rank is None else f".rank{rank}")
    destination, taken = _destination(to, stem, numbered=name is None, reference=reference, durable=durable)

    def opening(structure: Structure, parameters: tuple[tuple[str, str], ...]) -> Opening:
        said = described(loaded, model, attached.capture, structure) | ({"loss": LOSS} if gradients else {})
        return Opening(taken, structure, said if rank is None else {**said, "rank": rank}, reference, parameters)

    attached = Attached(model, destination, opening, capture, gradients=gradients, weights=weights, memory=memory)
    if isinstance(destination, Remote):
        destination.control = attached.control
    attached.follow(loaded)
    return attached


def _destination(
    to: str | os.PathLike[str] | None, name: str, *, numbered: bool, reference: str | None, durable: bool
) -> tuple[Destination, str]:
    """Where the steps go, and the recording's name there as far as that is known. Raises InputError."""
    if to == DAEMON or (to is None and place.running() is not None):
        if durable:
            raise InputError("durable is for the daemon to say, which writes: tracer daemon start --durable")
        return Remote(name=name, numbered=numbered), name
    trace = Trace.at(to or DEFAULT_TRACE, durable=durable)
    if reference is not None:
        trace.recording(reference)  # said now, not when the model first runs
    if trace.has(name):
        if not numbered:
            raise InputError(
                f"recording '{display(name)}' exists already in {display(str(trace.root))}: give another name"
            )
        name = free(trace, name)
    return Local(trace), name


def described(model: LoadedModel, given: object, capture: Capture, structure: Structure) -> dict[str, Any]:
    """What a recording says of a model that is watched."""
    return {
        **describe_model(model, structure),
        "model": describe_object(given),
        "mode": capture.mode,
        "every": capture.every,
        **{key: list(value) for key in ("layers", "exclude") if (value := getattr(capture, key))},
        **({"statistics_only": True} if capture.statistics_only else {}),
    }
