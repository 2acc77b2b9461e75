"""What was found of a pair: the causes, how they are proven, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from tracer.causes.change import Change

if TYPE_CHECKING:
    from tracer.causes.edit import Edit

Status = Literal["proven", "ambiguous", "unknown", "latent"]
"""How sure a finding is.

``proven``     with the causes the result is reproduced to within rounding, without any of them it is not;
``ambiguous``  so it is with several statements that are one function on this data;
``unknown``    nothing that was tried reproduces it;
``latent``     something differs that this input does not show.
"""


@dataclass(frozen=True)
class Cause:
    """One difference.

    Attributes:
        id: its name in the catalogue.
        what: the difference as a sentence.
        fix: what to change on which side, as a line of code where that is possible.
        reference, candidate: the nodes that it is about; empty where a side has none.
        key: the setting or weight, and ``values``, the reference's and the candidate's.
        source: ``file:line`` on the candidate's side, where known.
        without: the error that is left when everything but this is taken into account.
        changes: the fix as changes of the candidate in memory; none where it cannot be made there.
        block: of a block that one side has alone, its nodes.
    """

    id: str
    what: str
    fix: str = ""
    reference: str = ""
    candidate: str = ""
    key: str = ""
    values: tuple[Any, Any] = (None, None)
    source: str | None = None
    without: float | None = None
    changes: tuple[Change, ...] = ()
    block: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id, "what": self.what, "fix": self.fix, "reference": self.reference,
            "candidate": self.candidate, "key": self.key, "values": [plain(v) for v in self.values],
            "source": self.source, "without": _finite(self.without),
            "changes": [change.to_json() for change in self.changes], "block": list(self.block),
        }  # fmt: skip

    @classmethod
    def from_json(cls, raw: Any) -> Cause:
        """The inverse of :meth:`to_json`, but for infinite numbers. Raises KeyError, TypeError, ValueError."""
        texts = {key: _text(raw[key]) for key in ("id", "what", "fix", "reference", "candidate", "key")}
        first, second = raw["values"]
        source = None if raw["source"] is None else _text(raw["source"])
        changes = tuple(map(Change.from_json, raw["changes"]))
        block = tuple(map(_text, raw["block"]))
        return cls(
            **texts, values=(first, second), source=source, without=_number(raw["without"]), changes=changes,
            block=block,
        )  # fmt: skip


@dataclass(frozen=True)
class Probed:
    """What random input at a layer says: the model that does it was run again with it.

    Attributes:
        said: as a sentence; empty where nothing was run.
        why: why nothing was run, or could be said.
        inputs: what it was given, in words.
        errors: for each statement its id, the statement, and the largest error that it leaves on any of the inputs,
            in the measure of the finding's; the first is that nothing differs, with an empty id.
    """

    said: str = ""
    why: str = ""
    inputs: tuple[str, ...] = ()
    errors: tuple[tuple[str, str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        errors = [{"cause": name, "what": what, "error": _finite(error)} for name, what, error in self.errors]
        return {"said": self.said, "why": self.why, "inputs": list(self.inputs), "errors": errors}

    @classmethod
    def from_json(cls, raw: Any) -> Probed:
        """The inverse of :meth:`to_json`, but for infinite numbers. Raises KeyError, TypeError, ValueError."""
        errors = tuple(
            (_text(e["cause"]), _text(e["what"]), math.inf if e["error"] is None else float(e["error"]))
            for e in raw["errors"]
        )
        return cls(_text(raw["said"]), _text(raw["why"]), tuple(map(_text, raw["inputs"])), errors)


@dataclass(frozen=True)
class Finding:
    """Why a pair parts.

    Attributes:
        pair: its aligned name; ``pairs`` all of which the same is true.
        status: how sure it is.
        causes: all of which are needed; none where it is unknown.
        candidates: other statements that are the same function here, or other names of the same one.
        before, after: error without and with the causes, ``floor`` what counts as rounding; relative to the largest
            value of what is reproduced.
        seen: the fingerprints of the difference, in words.
        how: what was computed, in words.
        apart: what input would tell the candidates apart, in words.
        notes: sentences about what could not be tried.
        probed: what random input says; None where it was not asked.
        edits: the causes as changes of a program, while they are looked for; ``turned``: of the candidate's.
    """

    pair: str
    status: Status
    causes: tuple[Cause, ...] = ()
    candidates: tuple[Cause, ...] = ()
    before: float | None = None
    after: float | None = None
    floor: float | None = None
    seen: tuple[str, ...] = ()
    how: str = ""
    apart: str = ""
    notes: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    probed: Probed | None = None
    seconds: float = field(default=0.0, compare=False)
    edits: tuple[Edit, ...] = field(default=(), compare=False, repr=False)
    turned: bool = field(default=False, compare=False, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The ids of the causes."""
        return tuple(cause.id for cause in self.causes)

    @property
    def cause(self) -> str:
        """The ids joined by ``+`` where several are needed together."""
        return "+".join(dict.fromkeys(self.names)) or "unknown"

    @property
    def fixes(self) -> tuple[str, ...]:
        """What to change, each a line."""
        return tuple(dict.fromkeys(line for cause in self.causes for line in cause.fix.split("\n") if line))

    def to_json(self) -> dict[str, Any]:
        """As ``causes`` of ``tracer diff --json``."""
        return {
            "pair": self.pair,
            "pairs": list(self.pairs or (self.pair,)),
            "cause": self.cause,
            "status": self.status,
            "candidates": list(dict.fromkeys([*self.names, *(cause.id for cause in self.candidates)])),
            "proof": {
                "before": _finite(self.before), "after": _finite(self.after), "floor": _finite(self.floor),
                "how": self.how,
            },
            "fix": "\n".join(self.fixes),
            "details": [cause.to_json() for cause in self.causes],
            "others": [cause.to_json() for cause in self.candidates],
            "seen": list(self.seen),
            "tell_apart": self.apart,
            "notes": list(self.notes),
            "probed": None if self.probed is None else self.probed.to_json(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, raw: Any) -> Finding:
        """The inverse of :meth:`to_json`, but for infinite numbers: of its object ``raw``.

        Raises KeyError, TypeError, ValueError.
        """
        if raw["status"] not in get_args(Status):
            raise ValueError("not a finding")
        proof = raw["proof"]
        return cls(
            _text(raw["pair"]), raw["status"], tuple(map(Cause.from_json, raw["details"])),
            tuple(map(Cause.from_json, raw["others"])), _number(proof["before"]), _number(proof["after"]),
            _number(proof["floor"]), tuple(map(_text, raw["seen"])), _text(proof["how"]), _text(raw["tell_apart"]),
            tuple(map(_text, raw["notes"])), tuple(map(_text, raw["pairs"])),
            None if raw["probed"] is None else Probed.from_json(raw["probed"]),
        )  # fmt: skip


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
