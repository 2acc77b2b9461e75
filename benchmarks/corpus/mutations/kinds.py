"""Sets whose defects are named by their kinds, as benchmarks.causes.names knows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.causes.names import RIGHT, VAGUE
from benchmarks.corpus.mutations.pairs import DefectSet, Register


@dataclass(frozen=True)
class KindedSet(DefectSet):
    """A set that is given the kinds of its defects in place of their names.

    ``right`` begins with the defect's own kind; what follows are kinds or names that are as true of it. ``vague`` are
    names that are too general, beside those that its kinds have.

    Attributes:
        kinds: the kind of each defect.
    """

    kinds: dict[str, str] = field(default_factory=dict)

    def defect(self, name: str, at: str, right: str, vague: str = "", *, latent: bool = False) -> Register:
        return super().defect(name, at, *self._names(name, right, vague), latent=latent)

    def mistake(self, name: str, at: str, right: str, vague: str = "", *, latent: bool = False, **wrong: Any) -> None:
        super().mistake(name, at, *self._names(name, right, vague), latent=latent, **wrong)

    def slip(self, name: str, at: str, kinds: str, vague: str = "") -> None:
        """Registers a mistake that the port makes where it is told the mistake's name."""
        self.mistake(name, at, kinds, vague, **{name.partition("/")[2]: True})

    def ways(self, network: str, *names: str) -> None:
        """Registers other correct ways to write a port, which it takes where it is told their names."""
        for name in names:
            self.variant(f"{network}/{name}", **{name: True})

    def _names(self, name: str, kinds: str, vague: str) -> tuple[str, str]:
        self.kinds[name], *_ = every = kinds.split()
        right = frozenset[str]().union(*(RIGHT.get(kind, {kind}) for kind in every))
        general = frozenset(vague.split()).union(*(VAGUE.get(kind, ()) for kind in every))
        return " ".join(sorted(right)), " ".join(sorted(general - right))
