"""Mapping files: what a person says about the alignment. It wins over the engine.

reference: tf            # names of the recordings, optional
candidate: pt
pairs:
  - reference: conv1d_3
    candidate: conv4
    axes: [0, 2, 1]      # optional; null for an axis of length one that the candidate lacks
ignore:
  reference: [dropout_*]
  candidate: []
tolerances:
  - match: "decoder/*"   # glob over aligned names
    atol: 1e-3
    reason: accepted in review
"""

from __future__ import annotations

import difflib
import math
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tracer.alignment.axes import Axes, possible
from tracer.alignment.features import pairable
from tracer.errors import InputError
from tracer.graph import Structure
from tracer.names import display

if TYPE_CHECKING:
    from tracer.alignment.engine import Alignment

_LARGEST = 16 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Strict):
    """One pair; a name may stand for a list of one."""

    reference: tuple[str, ...] = Field(min_length=1)
    candidate: tuple[str, ...] = Field(min_length=1)
    axes: Axes | None = None

    @field_validator("reference", "candidate", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("axes", mode="before")
    @classmethod
    def _null_axes(cls, value: Any) -> Any:
        return [None if v in ("null", "~", None) else v for v in value] if isinstance(value, list) else value


class Ignore(_Strict):
    reference: tuple[str, ...] = ()
    candidate: tuple[str, ...] = ()


class Tolerance(_Strict):
    """Another tolerance for the aligned names that match a glob; ``reason`` is shown wherever it is used."""

    match: str
    atol: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    rtol: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    reason: str = ""


class Mapping(_Strict):
    """A mapping file's content."""

    reference: str | None = None
    candidate: str | None = None
    pairs: tuple[Entry, ...] = ()
    ignore: Ignore = Ignore()
    tolerances: tuple[Tolerance, ...] = ()

    def ignores(self, side: Literal["reference", "candidate"], name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in getattr(self.ignore, side))

    def tolerance(self, aligned: str) -> Tolerance | None:
        """The last entry whose glob fits."""
        return next((t for t in reversed(self.tolerances) if fnmatchcase(aligned, t.match)), None)

    def check(self, reference: Structure, candidate: Structure) -> None:
        """Raises InputError for names that do not exist (with the nearest ones) or that are used twice."""
        for side, structure in (("reference", reference), ("candidate", candidate)):
            known = {node.name for node in structure if pairable(node)}
            seen: set[str] = set()
            for name in (name for entry in self.pairs for name in getattr(entry, side)):
                if name not in known:
                    near = difflib.get_close_matches(name, known, 3)
                    hint = f"; did you mean {' or '.join(map(display, near))}?" if near else ""
                    raise InputError(f"mapping: the {side} has no node '{display(name)}'{hint}")
                if name in seen:
                    raise InputError(f"mapping: '{display(name)}' of the {side} is in two pairs")
                seen.add(name)
        for entry in self.pairs:
            ours = reference.by_name[entry.reference[-1]].shape
            theirs = candidate.by_name[entry.candidate[-1]].shape
            stated = entry.axes is not None and ours is not None and theirs is not None
            if stated and entry.axes not in possible(ours or (), theirs or ()):
                raise InputError(
                    f"mapping: axes {list(entry.axes or ())} do not turn '{display(entry.candidate[-1])}' "
                    f"{list(theirs or ())} into '{display(entry.reference[-1])}' {list(ours or ())}"
                )


def load(path: Path) -> Mapping:
    """Read a mapping file (YAML without anchors, aliases or tags). Raises InputError in one line."""
    shown = display(str(path))
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{shown} is too large for a mapping file")
        text = path.read_text("utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
                raise InputError(f"{shown}: aliases and tags are not allowed in a mapping file")
        raw = _plain(yaml.compose(text, Loader=yaml.SafeLoader), shown)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"no such mapping file: {shown}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cannot read the mapping file {shown}: {display(reason, 160)}") from error
    try:
        return Mapping.model_validate(raw or {})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{shown}: {display(where)}: {first['msg']}") from error


def _plain(node: yaml.Node | None, shown: str) -> Any:
    """Strings, lists and mappings only: YAML's guesses (``on`` is True, ``1_0`` is 10) never apply to names."""
    if node is None:
        return None
    if isinstance(node, yaml.ScalarNode):
        return None if node.style is None and node.value in ("", "null", "~") else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, shown) for child in node.value]
    assert isinstance(node, yaml.MappingNode)
    out: dict[str, Any] = {}
    for key, value in node.value:
        name = _plain(key, shown)
        if not isinstance(name, str) or name in out:
            raise InputError(f"{shown}: line {key.start_mark.line + 1}: a key that is repeated or no text")
        out[name] = _plain(value, shown)
    return out


def dump(alignment: Alignment, reference: str, candidate: str) -> str:
    """The alignment as a mapping file that a person can edit; pairs in doubt come with their confidence."""

    def quoted(text: str) -> str:
        return yaml.safe_dump(text, allow_unicode=False, width=math.inf, default_style='"').strip()

    def side(names: tuple[str, ...]) -> str:
        return quoted(names[0]) if len(names) == 1 else "[" + ", ".join(map(quoted, names)) + "]"

    lines = [f"reference: {quoted(reference)}", f"candidate: {quoted(candidate)}", "pairs:"]
    for pair in alignment.pairs:
        lines.append(f"  - reference: {side(pair.reference)}")
        doubt = "" if pair.confidence >= 0.9 else f"  # confidence {pair.confidence:.2f}"
        lines.append(f"    candidate: {side(pair.candidate)}{doubt}")
        if pair.axes is not None:
            lines.append("    axes: [" + ", ".join("null" if a is None else str(a) for a in pair.axes) + "]")
    if not alignment.pairs:
        lines[-1] = "pairs: []"
    lines += ["ignore:", "  reference: []", "  candidate: []"]
    for side_name, names in (
        ("reference", alignment.unmatched_reference),
        ("candidate", alignment.unmatched_candidate),
    ):
        lines += [f"# unmatched in the {side_name}: {display(name)} ({reason})" for name, reason in names.items()]
    return "\n".join(lines) + "\n"
