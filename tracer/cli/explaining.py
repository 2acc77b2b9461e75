"""``tracer explain``: why two recordings part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracer.adapter import Array
from tracer.alignment import mapping as mappings
from tracer.causes.explain import Explained
from tracer.causes.kept import chosen, explained, probed
from tracer.cli import formatting, settings
from tracer.cli.formatting import DiffFormat
from tracer.cli.rerunning import Again
from tracer.compare import Tolerance, diff
from tracer.errors import ExitCode, TraceError
from tracer.names import display
from tracer.report import explain as report
from tracer.report import words
from tracer.rerun import loading, probing, verifying
from tracer.rerun.verifying import patched
from tracer.rerun.verifying import verify as verified
from tracer.selection import choose
from tracer.store import Recording, Trace
from tracer.worker import arrays, janitor
from tracer.worker.failure import WorkerError
from tracer.worker.results import NONSENSE, ProbeResult, parse_probe, parse_verify


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
    probe: Again | None,
    verify: Again | None,
    everything: bool,
    form: DiffFormat = "table",
    ascii_only: bool,
) -> int:
    """Explain and print; the exit code says whether anything parts.

    ``patch`` is a file to write the fixes to. With ``probe`` models are run on random input where that may decide; with
    ``verify`` the fixes are made in memory, and the candidate is run again.
    """
    if patch is not None:
        settings.check_free(patch, force)
    found = find(path, reference, candidate, asked)
    if probe is not None:
        found = probed(found, asking(probe), asked.seconds)
    if verify is not None:
        found = replace(found, verified=verified(found, changing(verify, found.diff.candidate)))
    if form != "table":
        formatting.write(found.to_json(), form)
    else:
        plain, width = settings.ascii_only(ascii_only), settings.out().width
        settings.out().print(report.text(found, everything=everything, ascii_only=plain, width=width), end="")
    if patch is not None:
        _write(found, patch, force)
    elif form == "table" and found.parting:
        option = settings.trace_option(path)
        open_ = probe is None and any(one.status == "ambiguous" and one.probed is None for one in found.parting)
        options = ["--probe"] * open_ + ["--verify"] * (verify is None) + ["--patch FILE.py"]
        commands = [f"tracer explain {name}{option}" for name in options]
        settings.hint("   or   ".join([*commands, f"tracer ui{option}"]))
    return found.exit_code()


def changing(again: Again, candidate: Recording) -> verifying.Run:
    """Make the fixes in a worker that has the candidate."""

    def run(options: dict[str, Any]) -> dict[str, Any]:
        source = loading.source(candidate, trust=again.trust)
        with janitor.folder() as folder:
            answer = again.run("verify", candidate, source, folder, **options)
        return parse_verify(answer, len(options["outputs"]))

    return run


def asking(again: Again) -> probing.Run:
    """Ask models in workers that have them."""

    def run(recording: Recording, requests: Sequence[probing.Request]) -> list[Array | str]:
        source = loading.source(recording, trust=again.trust)
        with janitor.folder() as folder:
            place = Path(folder)
            wanted = [
                {"fed": probing.write(request, place / f"fed-{at}"), "wanted": request.wanted}
                for at, request in enumerate(requests)
            ]
            answer = parse_probe(again.run("probe", recording, source, folder, requests=wanted), len(requests))
            return [_answer(answer, place, str(at)) for at in range(len(requests))]

    return run


def _answer(found: ProbeResult, place: Path, at: str) -> Array | str:
    if at in found.failed:
        return display(found.failed[at])
    try:
        return arrays.numbers(place / found.files[at])
    except ValueError as error:
        raise WorkerError(NONSENSE, ExitCode.PARTIAL, "protocol") from error


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
    for failure in found.failed:
        settings.say(f"note: the causes of {failure}")
        for line in failure.trace.splitlines() if settings.debug else ():
            settings.say(line)
    for recording in (ours, theirs):
        if recording.state != "complete":
            saved = f"{len(recording.summaries)} of {recording.planned} activations saved"
            settings.say(f"note: recording '{display(recording.name)}' is {recording.state} ({saved})")
    return found
