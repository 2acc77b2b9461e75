"""The filter: words, ``is:diverged``, ``op:conv*``, ``err>1e-4``; all of them must hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from tracer.compare import Verdict
from tracer_tui.rows import Row

Test = Callable[[Row], bool]
_COMPARE = re.compile(r"(err|rel)(<=|>=|<|>)(.*)", re.IGNORECASE)
_FIELD = re.compile(r"(is|op|name):(.*)", re.IGNORECASE)


class QueryError(ValueError):
    """A filter that means nothing; the message says what would."""


def parse(text: str) -> Test:
    """The test a filter stands for. A term that is still being typed (``op:``) lets everything through.

    Raises QueryError.
    """
    tests = [_term(term) for term in text.split()]
    return lambda row: all(test(row) for test in tests)


def _term(term: str) -> Test:
    if match := _COMPARE.fullmatch(term):
        return _comparison(match[1].lower(), match[2], match[3])
    if match := _FIELD.fullmatch(term):
        field, wanted = match[1].lower(), match[2].casefold()
        if not wanted:
            return _anything
        if field == "is":
            return _verdict(wanted)
        pattern = wanted if any(char in wanted for char in "*?[") else f"*{wanted}*"
        if field == "op":
            return lambda row: any(
                fnmatchcase(word.casefold(), pattern) for word in (row.node.kind, row.node.label, row.op)
            )
        return lambda row: any(fnmatchcase(name.casefold(), pattern) for name in (row.reference, row.candidate))
    wanted = term.casefold()
    return lambda row: any(wanted in word.casefold() for word in (row.reference, row.candidate, row.op))


def _anything(_: Row) -> bool:
    return True


def _verdict(wanted: str) -> Test:
    found = {verdict for verdict in Verdict if str(verdict).startswith(wanted)}
    if not found:
        raise QueryError(f"is: takes {', '.join(Verdict)}")
    return lambda row: row.verdict in found


def _comparison(field: str, sign: str, text: str) -> Test:
    if not text or text[-1] in "eE+-.":
        return _anything
    try:
        bound = float(text)
    except ValueError:
        raise QueryError(f"{field}{sign} takes a number such as 1e-4") from None

    def test(row: Row) -> bool:
        value = row.error if field == "err" else row.relative
        if value is None:
            return False
        if sign == ">":
            return value > bound
        if sign == ">=":
            return value >= bound
        return value < bound if sign == "<" else value <= bound

    return test
