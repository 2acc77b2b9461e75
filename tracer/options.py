"""What a user chooses about a recording, and what of it contradicts itself."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.adapter import LOSSES, Mode
from tracer.errors import InputError
from tracer.names import display
from tracer.store.writer import DEFAULT_MEMORY

PRECISIONS = ("float32", "float16", "bfloat16")
"""What activations can be rounded to before they are stored."""


@dataclass(frozen=True)
class Options:
    """What the user said about the recording (not about the model file).

    Attributes:
        input: ``.npy``, ``.npz`` or ``seed:N``.
        samples: how many samples are generated, or taken of the input; None for what there is.
        batch: how many samples run at a time; None for all at once.
        mode, loss: as in :class:`tracer.adapter.Run`.
        layers, exclude: patterns of :func:`tracer.wanted.wanted`.
        statistics_only, precision: as in :class:`tracer.store.writer.Storage`.
        weights: whether parameters are saved.
        force: replace a recording of this name.
        memory: bytes of copies that may wait for the disk.
        durable: as of :class:`tracer.store.Trace`.
        reference: the recording to align to; by default the trace's oldest complete one.
    """

    name: str
    input: str | None = None
    input_shape: tuple[str, ...] = ()
    layout: str = "auto"
    weights: bool = True
    force: bool = False
    memory: int = DEFAULT_MEMORY
    durable: bool = False
    reference: str | None = None
    samples: int | None = None
    batch: int | None = None
    mode: Mode = "eval"
    loss: str | None = None
    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    statistics_only: bool = False
    precision: str | None = None

    def __post_init__(self) -> None:
        """Raises InputError for what contradicts itself or is no such thing."""
        for option in ("layers", "exclude"):
            if not all(isinstance(pattern, str) for pattern in getattr(self, option)):
                raise InputError(f"{option} takes patterns, which are text")
        if self.loss is not None and not isinstance(self.loss, str):
            raise InputError(
                f"loss takes text, not a {type(self.loss).__name__}: {', '.join(LOSSES)} or pkg.mod:callable"
            )
        if any(count is not None and not isinstance(count, int) for count in (self.samples, self.batch)):
            raise InputError("--samples and --batch are whole numbers")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise InputError(f"--precision is one of {', '.join(PRECISIONS)}, not '{display(str(self.precision))}'")
        if self.precision is not None and self.statistics_only:
            raise InputError("--precision is for values, and --stats-only keeps none")
        if self.mode not in ("eval", "train"):
            raise InputError(f"--mode is eval or train, not '{display(str(self.mode))}'")
        if self.loss is not None and self.loss not in LOSSES and ":" not in self.loss:
            raise InputError(
                f"--grad takes {', '.join(LOSSES)} or pkg.mod:callable (the loss of what the model returns), "
                f"not '{display(self.loss)}'"
            )
        if any(count is not None and count < 1 for count in (self.samples, self.batch)):
            raise InputError("--samples and --batch want at least 1")
        if self.input_shape and self.input is not None and not self.input.startswith("seed:"):
            raise InputError("--input-shape is for generated inputs, and --input FILE has its own: leave one out")
        if self.loss is not None and self.batch is not None:
            raise InputError("--grad needs the whole input in one run: leave --batch out")
