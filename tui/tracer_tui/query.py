"""The filter: words, ``is:diverged``, ``op:conv*``, ``err>1e-4``; all of them must hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Protocol

from tracer.compare import Verdict


class Listed(Protocol):
    """A row that can be filtered.

    Attributes:
        key: identifies it among the rows, and in the same list made again.
        names: of both sides, as they came from the file.
        ops: what it is, the word that is shown first.
        error, relative: how far the two sides are apart; None where nothing was compared.
        state: one of the words that ``is:`` takes.
    """

    @property
    def key(self) -> Any: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def ops(self) -> tuple[str, ...]: ...
    @property
    def error(self) -> float | None: ...
    @property
    def relative(self) -> float | None: ...
    @property
    def state(self) -> str: ...


Test = Callable[[Listed], bool]
_COMPARE = re.compile(r"(err|rel)(<=|>=|<|>)(.*)", re.IGNORECASE)
_SPACED = re.compile(r"(?<!\S)(err|rel)\s*(<=|>=|<|>)\s*", re.IGNORECASE)
_FIELD = re.compile(r"(is|op|name):(.*)", re.IGNORECASE)


class QueryError(ValueError):
    """A filter that means nothing; the message says what would."""


def parse(text: str, states: Iterable[str] = tuple(Verdict)) -> Test:
    """The test a filter stands for. A term that is still being typed (``op:``) lets everything through.

    Args:
        states: what ``is:`` takes.

    Raises QueryError.
    """
    tests = [_term(term, tuple(states)) for term in _SPACED.sub(r"\1\2", text).split()]
    return lambda row: all(test(row) for test in tests)


def _term(term: str, states: tuple[str, ...]) -> Test:
    if match := _COMPARE.fullmatch(term):
        return _comparison(match[1].lower(), match[2], match[3])
    if match := _FIELD.fullmatch(term):
        field, wanted = match[1].lower(), match[2].casefold()
        if not wanted:
            return _anything
        if field == "is":
            return _state(wanted, states)
        pattern = wanted if any(char in wanted for char in "*?[") else f"*{wanted}*"
        if field == "op":
            return lambda row: any(fnmatchcase(word.casefold(), pattern) for word in row.ops)
        return lambda row: any(fnmatchcase(name.casefold(), pattern) for name in row.names)
    wanted = term.casefold()
    return lambda row: any(wanted in word.casefold() for word in (*row.names, *row.ops[:1]))


def _anything(_: Listed) -> bool:
    return True


def _state(wanted: str, states: tuple[str, ...]) -> Test:
    found = {state for state in states if state.startswith(wanted)}
    if not found:
        raise QueryError(f"is: takes {', '.join(states)}")
    return lambda row: row.state in found


def _comparison(field: str, sign: str, text: str) -> Test:
    if not text or text[-1] in "eE+-.":
        return _anything
    try:
        bound = float(text)
    except ValueError:
        raise QueryError(f"{field}{sign} takes a number such as 1e-4") from None

    def test(row: Listed) -> bool:
        value = row.error if field == "err" else row.relative
        if value is None:
            return False
        if sign == ">":
            return value > bound
        if sign == ">=":
            return value >= bound
        return value < bound if sign == "<" else value <= bound

    return test
