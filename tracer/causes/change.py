"""Changes of a live model: what a fix is where it can be made in memory, as data that a patch is written from.

Nothing here is code. Findings are kept with the trace, which anyone may have written, and a patch made of them is run:
so what comes back from there is checked to be one of the few things that :mod:`tracer.causes.patching` knows to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Library = Literal["torch", "keras", "tf_keras"]
What = Literal["set", "activation", "module", "behind", "weight", "pad", "affine", "call", "eval"]
Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...] | None
MOVES = ("transpose", "reshape", "flip", "blocks", "take", "zeros")


@dataclass(frozen=True)
class Change:
    """One change of the candidate.

    Attributes:
        library: whose model it is.
        what: ``set`` an attribute; another ``activation`` of a layer, or another ``module`` in its place, named in
            ``value``, or one put ``behind`` it; a ``weight``; a ``pad`` of the
            input before the layer, as ``torch.nn.functional.pad`` takes it; an ``affine`` function of the input before
            the layer, ``(axis, rank, *scales, *offsets)``, one of each or one along the axis; a ``call`` in the
            module's own forward of the function ``name`` with other arguments, ``(argument, value, …)``; ``eval`` mode.
        owner: path of the module or layer.
        name: of the attribute or weight.
        value: what it is to be.
        source: of a weight, the reference's owner and parameter; None where its own values are moved.
        moves: what is done to these values, one after the other: ``("transpose", axes)``, ``("reshape", shape)``,
            ``("flip", axes)``, ``("blocks", (axis, *order))`` for equal blocks along an axis in another order,
            ``("take", (axis, *indices))``, ``("zeros", ())`` for as many zeros.
    """

    library: Library
    what: What
    owner: str
    name: str = ""
    value: Value = None
    source: tuple[str, str] | None = None
    moves: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "library": self.library, "what": self.what, "owner": self.owner, "name": self.name,
            "value": list(self.value) if isinstance(self.value, tuple) else self.value,
            "source": None if self.source is None else list(self.source),
            "moves": [[move, list(numbers)] for move, numbers in self.moves],
        }  # fmt: skip

    @classmethod
    def from_json(cls, raw: Any) -> Change:
        """The inverse of :meth:`to_json`. Raises ValueError for anything else."""
        if not isinstance(raw, Mapping) or raw.keys() != cls("torch", "set", "").to_json().keys():
            raise ValueError("not a change")
        value, source = raw["value"], raw["source"]
        if raw["library"] not in get_args(Library) or raw["what"] not in get_args(What):
            raise ValueError("not a change")
        if not isinstance(raw["owner"], str) or not isinstance(raw["name"], str) or not isinstance(raw["moves"], list):
            raise ValueError("not a change")
        if isinstance(value, list):
            value = tuple(map(_scalar, value))
        elif value is not None:
            value = _scalar(value)
        if source is not None:
            if not isinstance(source, list) or len(source) != 2 or not all(isinstance(one, str) for one in source):
                raise ValueError("not a source")
            source = (source[0], source[1])
        moves = tuple(map(_move, raw["moves"]))
        return cls(raw["library"], raw["what"], raw["owner"], raw["name"], value, source, moves)


def _scalar(value: Any) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("not a value")
    return value


def _move(raw: Any) -> tuple[str, tuple[int, ...]]:
    if not isinstance(raw, list) or len(raw) != 2 or raw[0] not in MOVES or not isinstance(raw[1], list):
        raise ValueError("not a move")
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in raw[1]):
        raise ValueError("not a move")
    return raw[0], tuple(raw[1])
