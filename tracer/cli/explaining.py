"""``tracer explain``: why two recordings part."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer.alignment import mapping as mappings
from tracer.causes.explain import Explained
from tracer.causes.kept import chosen, explained
from tracer.cli import settings
from tracer.cli.rerunning import Again
from tracer.compare import Tolerance, diff
from tracer.errors import TraceError
from tracer.names import display
from tracer.report import explain as report
from tracer.report import words
from tracer.rerun import loading
from tracer.rerun.verifying import Verified, patched, verify
from tracer.selection import choose
from tracer.store import Trace
from tracer.worker.results import parse_verify


@dataclass(frozen=True)
class Asked:
    """What is to be explained, as typed.

    Attributes:
        seconds: for one pair.
        only: globs over the names of either side's nodes; all pairs where there are none.
    """

    tolerance: Tolerance
    mapping: Path | None
    seconds: float
    only: tuple[str, ...] = ()


def explain(
    path: Path,
    reference: str | None,
    candidate: str | None,
    asked: Asked,
    *,
    patch: Path | None,
    force: bool,
    again: Again | None,
    everything: bool,
    as_json: bool,
    ascii_only: bool,
) -> int:
    """Explain and print; the exit code says whether anything parts.

    ``patch`` is a file to write the fixes to. With ``again`` they are made in memory, and the candidate is run again.
    """
    if patch is not None:
        settings.check_free(patch, force)
    found = find(path, reference, candidate, asked)
    verified = None if again is None else _verified(found, again)
    if as_json:
        more = {} if verified is None else {"verified": verified.to_json()}
        settings.out().print(json.dumps({**found.to_json(), **more}, allow_nan=False))
    else:
        plain, width = settings.ascii_only(ascii_only), settings.out().width
        settings.out().print(report.text(found, everything=everything, ascii_only=plain, width=width), end="")
        if verified is not None:
            settings.out().print(report.verified(verified, ascii_only=plain, width=width), end="")
    if patch is not None:
        _write(found, patch, force)
    elif not as_json and found.parting:
        option = settings.trace_option(path)
        check = "" if verified is not None else f"tracer explain --verify{option}   or   "
        settings.hint(f"{check}tracer explain --patch FILE.py{option}   or   tracer ui{option}")
    return found.exit_code()


def _verified(found: Explained, again: Again) -> Verified:
    candidate = found.diff.candidate

    def run(options: dict[str, Any]) -> dict[str, Any]:
        source = loading.source(candidate, trust=again.trust)
        with tempfile.TemporaryDirectory(prefix="tracer-") as folder:
            answer = again.run("verify", candidate, source, folder, **options)
        return parse_verify(answer, len(options["outputs"]))

    return verify(found, run)


def _write(found: Explained, path: Path, force: bool) -> None:
    name = path.stem if path.stem.isidentifier() else "patch"
    try:
        text = patched(found, name)
    except ValueError as error:
        settings.say(f"nothing written to {display(str(path))}: {error}")
        return
    settings.write_text(path, text, force)
    parting = [one for one in found.each if one.status != "latent"]
    whole = sum(bool(one.causes) and all(cause.changes for cause in one.causes) for one in parting)
    settings.say(
        f"{whole} of {words.count(len(parting), 'fix').replace('fixs', 'fixes')} written to {display(str(path))}"
    )


def find(path: Path, reference: str | None, candidate: str | None, asked: Asked) -> Explained:
    """What is found of two recordings. Raises InputError and TraceError."""
    ours, theirs = choose(Trace.open(path), reference, candidate)
    mapping = None if asked.mapping is None else mappings.load(asked.mapping)
    with settings.progress("comparing") as progress:
        compared = diff(ours, theirs, asked.tolerance, mapping=mapping, progress=progress)
    if not compared.pairs:
        raise TraceError(f"'{display(ours.name)}' and '{display(theirs.name)}' have no layer in common to compare")
    only = chosen(asked.only, compared.pairs)
    with settings.progress("looking for causes") as progress:
        found = explained(compared, seconds=asked.seconds, only=only, progress=progress)
    for recording in (ours, theirs):
        if recording.state != "complete":
            saved = f"{len(recording.summaries)} of {recording.planned} activations saved"
            settings.say(f"note: recording '{display(recording.name)}' is {recording.state} ({saved})")
    return found
