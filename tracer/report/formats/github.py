"""Workflow commands of GitHub Actions: annotations at the lines of the candidate that diverge."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.compare.verdict import Verdict
from tracer.errors import ExitCode
from tracer.names import display
from tracer.report import causes, words
from tracer.report.text import diff_text, headline

if TYPE_CHECKING:
    from tracer.compare import Diff, PairDiff

_MOST = 10
"""Annotations of one kind that GitHub takes of a step."""
_SOURCE = re.compile(r"(?P<file>.+):(?P<line>[0-9]+)")


def commands(diff: Diff, *, strict: bool = False, environment: Mapping[str, str] = os.environ) -> str:
    """What ``tracer diff --format github`` prints: an annotation for each mistake, then the text of ``tracer diff``.

    The text stands between ``::stop-commands::`` and its end, so that no name in it is taken for a command. A file is
    named where it lies in the repository (``GITHUB_WORKSPACE``, else the working directory).
    """
    token = secrets.token_hex(16)
    quoted = [f"::stop-commands::{token}", diff_text(diff), f"::{token}::"]
    return "\n".join([*_annotations(diff, strict, environment), *quoted]) + "\n"


def _annotations(diff: Diff, strict: bool, environment: Mapping[str, str]) -> Iterator[str]:
    root = Path(environment.get("GITHUB_WORKSPACE") or Path.cwd())
    groups: dict[tuple[str, ...], list[PairDiff]] = {}
    for pair in diff.pairs:
        if pair.verdict is Verdict.DIVERGED:
            key = pair.finding.pairs if pair.finding is not None and pair.finding.causes else ()
            groups.setdefault(key or (pair.aligned,), []).append(pair)
    shown = list(groups.values())
    fits = len(shown) <= _MOST
    for group in shown if fits else shown[: _MOST - 1]:
        yield _command("error", _told(group), title=f"tracer: {_named(group)}", **_place(group[0], root))
    if not fits:
        yield _command("error", f"{len(shown) - _MOST + 1} more divergences: see the summary", title="tracer")
    code = diff.exit_code(strict=strict)
    if diff.first is None and code:
        said = (
            f"{words.count(diff.unmatched, 'layer')} without a twin" if code is ExitCode.UNMATCHED else headline(diff)
        )
        yield _command("error", said, title="tracer")
    elif not code:
        yield _command("notice", headline(diff), title="tracer")


def _named(group: list[PairDiff]) -> str:
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return f"{words.together(group[0].pair.candidate)}{more} diverged"


def _told(group: list[PairDiff]) -> str:
    """The cause and the fix of what diverged, or what is known of it."""
    pair = group[0]
    lines = words.facts(pair)[:3]
    if pair.finding is not None:
        lines += [f"Cause: {causes.short(pair.finding)}", *(f"Fix: {fix}" for fix in causes.fixes(pair.finding))]
    return "\n".join(lines)


def _place(pair: PairDiff, root: Path) -> dict[str, str]:
    """File and line of the candidate's layer, where that file lies below ``root``."""
    found = _SOURCE.fullmatch(pair.candidate_node.source or "")
    if found is None:
        return {}
    # As it was called where it was recorded: from the root of the repository, or from here.
    paths = (Path(os.path.normpath(folder / found["file"])) for folder in (Path.cwd(), root))
    path = next((path for path in paths if path.is_relative_to(root) and path.is_file()), None)
    return {} if path is None else {"file": path.relative_to(root).as_posix(), "line": found["line"]}


def _command(kind: str, message: str, **properties: str) -> str:
    """A workflow command; what it says is escaped as the runner takes it back."""
    shown = ",".join(f"{name}={_escaped(display(value), more=True)}" for name, value in properties.items())
    text = "\n".join(display(line) for line in message.split("\n"))
    return f"::{kind} {shown}::{_escaped(text)}"


def _escaped(text: str, *, more: bool = False) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if more else text
