"""Names with indices: ``encoder.layer.{i}.norm`` stands for that node of every block, ``encoder.layer.{i}.*`` for all
that lies under it.

``{i}``, ``{i+1}``, ``{i-1}``, ``{3i+2}`` are numbers; ``add{_i}`` counts as the frameworks do: ``add``, ``add_1``,
``add_2``. A ``*`` stands at the end only.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

VARIABLES = "ijklmn"
MOST_VALUES = 100_000
_PLACE = re.compile(r"\{(_?)([1-9]\d{0,5})?([i-n])(?:([+-])(\d{1,9}))?\}")

Point = tuple[int, ...]
"""A value of each variable, in the order of :attr:`Template.variables`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a number stands: ``factor * variable + offset``, after an underscore and left out at zero if ``suffix``."""

    variable: str
    factor: int = 1
    offset: int = 0
    suffix: bool = False

    def __str__(self) -> str:
        factor = "" if self.factor == 1 else str(self.factor)
        offset = f"{self.offset:+d}" if self.offset else ""
        return "{" + "_" * self.suffix + factor + self.variable + offset + "}"

    def at(self, value: int) -> str | None:
        """The text for a value of the variable; None where there is none (a negative number)."""
        number = self.factor * value + self.offset
        if number < 0:
            return None
        if self.suffix:
            return f"_{number}" if number else ""
        return str(number)


@dataclass(frozen=True)
class Template:
    """A name with places for numbers; ``rest`` says that it ends in ``*``."""

    parts: tuple[str | Place, ...]
    rest: bool = False

    @classmethod
    def parse(cls, text: str) -> Template:
        """Braces that are no place stay text; so does a ``*`` that is not at the end."""
        rest = text.endswith("*")
        body = text[:-1] if rest else text
        parts: list[str | Place] = []
        last = 0
        for found in _PLACE.finditer(body):
            if found.start() > last:
                parts.append(body[last : found.start()])
            suffix, factor, variable, sign, offset = found.groups()
            parts.append(Place(variable, int(factor or 1), int((sign or "+") + (offset or "0")), bool(suffix)))
            last = found.end()
        if last < len(body):
            parts.append(body[last:])
        return cls(tuple(parts), rest)

    def __str__(self) -> str:
        return "".join(map(str, self.parts)) + "*" * self.rest

    @cached_property
    def variables(self) -> tuple[str, ...]:
        """In the alphabet's order."""
        return tuple(sorted({part.variable for part in self.parts if isinstance(part, Place)}))

    @property
    def is_pattern(self) -> bool:
        return self.rest or bool(self.variables)

    @cached_property
    def prefix(self) -> str:
        """The text before the first place."""
        return self.parts[0] if self.parts and isinstance(self.parts[0], str) else ""

    def at(self, point: Sequence[int]) -> str | None:
        """The name (or, with ``rest``, what it begins with) at a point; None where a number would be negative."""
        values = dict(zip(self.variables, point, strict=True))
        texts = [part if isinstance(part, str) else part.at(values[part.variable]) for part in self.parts]
        return None if None in texts else "".join(text for text in texts if text is not None)

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        out = []
        for part in self.parts:
            if isinstance(part, str):
                out.append(re.escape(part))
            else:
                out.append("(?:_([1-9][0-9]{0,8}))?" if part.suffix else "(0|[1-9][0-9]{0,8})")
                if self.rest or not part.suffix:
                    out.append("(?![0-9])")
        return re.compile("".join(out) + (".+" if self.rest else ""), re.DOTALL)

    def point(self, name: str) -> Point | None:
        """The values of the variables at which the template gives ``name``; None where it never does."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        values: dict[str, int] = {}
        places = [part for part in self.parts if isinstance(part, Place)]
        for place, text in zip(places, found.groups(), strict=True):
            value, remainder = divmod(int(text or 0) - place.offset, place.factor)
            if remainder or value < 0 or values.setdefault(place.variable, value) != value:
                return None
        return tuple(values[variable] for variable in self.variables)

    def instances(self, names: Names) -> dict[Point, tuple[str, ...]]:
        """The names that the template stands for, by point: one name a point, or with ``rest`` all below it."""
        found: dict[Point, list[str]] = {}
        for name in names.under(self.prefix):
            point = self.point(name)
            if point is not None:
                found.setdefault(point, []).append(name)
        return {point: tuple(found[point]) for point in sorted(found)}

    def fixed(self, values: Mapping[str, int]) -> Template:
        """The template with numbers in the places of some variables."""
        parts: list[str | Place] = []
        for part in self.parts:
            text = (
                part if isinstance(part, str) else part.at(values[part.variable]) if part.variable in values else None
            )
            if text is None:
                parts.append(part)
            elif parts and isinstance(parts[-1], str):
                parts[-1] += text
            else:
                parts.append(text)
        return Template(tuple(parts), self.rest)


class Names:
    """Names that are looked up by how they begin."""

    def __init__(self, names: Iterable[str]) -> None:
        self._sorted = sorted(names)

    def under(self, prefix: str) -> Sequence[str]:
        """All names that begin with ``prefix``."""
        start = bisect_left(self._sorted, prefix)
        end = bisect_left(self._sorted, prefix + chr(0x10FFFF), start)
        return self._sorted[start:end]


def ranges_text(values: Sequence[int], mark: str = "…") -> str:
    """Ascending numbers as ranges: ``0…3, 7, 9…11``."""
    parts = []
    start = 0
    for at, value in enumerate(values):
        if at + 1 == len(values) or values[at + 1] != value + 1:
            parts.append(str(value) if at == start else f"{values[start]}{mark}{value}")
            start = at + 1
    return ", ".join(parts)


def read_ranges(text: str) -> tuple[int, ...]:
    """The inverse of :func:`ranges_text`, with ``..`` or ``…``. Raises ValueError."""
    values: list[int] = []
    for part in text.replace("…", "..").split(","):
        found = re.fullmatch(r"\s*(\d{1,9})(?:\s*\.\.\s*(\d{1,9}))?\s*", part)
        if found is None:
            raise ValueError("numbers such as 0..11 or 0, 2, 4..7 wanted")
        low, high = int(found[1]), int(found[2] or found[1])
        if not 0 <= high - low < MOST_VALUES:
            raise ValueError(f"{part.strip()} is no range of at most {MOST_VALUES} numbers")
        values += range(low, high + 1)
        if len(values) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} numbers")
    return tuple(sorted(set(values)))
