"""Which adapter, which models, and handing each rule the cases that offer what it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from tracer.adapter import Adapter
from tracer.testing.case import Case, CodeFile
from tracer.testing.evidence import Evidence, gather

_Test = TypeVar("_Test", bound=Callable[..., None])


def needs(*what: str) -> Callable[[_Test], _Test]:
    """A rule for those cases alone that have all of ``what``: an attribute, or ``sound`` for a model that runs."""

    def mark(test: _Test) -> _Test:
        vars(test)["needs"] = what
        return test

    return mark


def _offers(item: Case | CodeFile, need: str) -> bool:
    return not getattr(item, "raises", "") if need == "sound" else bool(getattr(item, need) not in (None, "", {}))


class Rules:
    """What the rules have in common; see :class:`tracer.testing.AdapterContract`."""

    adapter: ClassVar[type[Adapter]]
    entry: ClassVar[str] = ""
    cases: ClassVar[Sequence[Case]] = ()
    code_files: ClassVar[Sequence[CodeFile]] = ()
    suffix: ClassVar[str] = ""

    _evidence: ClassVar[dict[str, Evidence]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._evidence = {}

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Hand each rule the cases that offer what it needs; it is skipped, with a reason, where none does."""
        given: Sequence[Case | CodeFile]
        for fixture, given in (("case", self.cases), ("code_file", self.code_files)):
            if fixture not in metafunc.fixturenames:
                continue
            wanted: tuple[str, ...] = getattr(metafunc.function, "needs", ())
            fitting = [item for item in given if all(_offers(item, need) for need in wanted)]
            what = f"no case offers {' and '.join(wanted)}" if given else f"there is no {fixture}"
            skipped = pytest.param(None, marks=pytest.mark.skip(reason=what), id="none")
            metafunc.parametrize(fixture, fitting or [skipped], ids=[item.name for item in fitting] or None)

    def evidence(self, case: Case, tmp_path: Path) -> Evidence:
        """What the adapter does with ``case``, looked at once for all rules."""
        if case.name not in self._evidence:
            self._evidence[case.name] = gather(self.adapter(), case, tmp_path / "model")
        return self._evidence[case.name]
