"""Running recorded models again in workers: ``tracer diff --local``."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from typing import Any

from tracer.alignment import Alignment
from tracer.cli.recording import Loading
from tracer.compare.local import Local, Measured
from tracer.errors import ReplayError, TracerError
from tracer.names import display
from tracer.rerun import loading
from tracer.rerun.cuts import cuts
from tracer.rerun.measure import joined
from tracer.store import Recording
from tracer.worker.results import parse_exact, parse_local


@dataclass(frozen=True)
class Again:
    """How recorded models are run again, as typed."""

    trust: bool = False
    sandbox: bool = True
    load_timeout: float = 300.0
    memory_limit: float | None = None

    def __call__(self, alignment: Alignment, reference: Recording, candidate: Recording) -> Measured:
        """Measure the local error of every pair. Raises TracerError where the candidate cannot be run again."""
        theirs = loading.source(candidate, trust=self.trust)
        made, without = cuts(alignment.pairs, reference, candidate)
        given = [cut.to_json() for cut in made.values()]
        with tempfile.TemporaryDirectory(prefix="tracer-") as folder:
            exact: dict[str, Any] | None = None
            why = ""
            try:
                ours = loading.source(reference, trust=self.trust)
                answer = parse_exact(self.run("exact", reference, ours, folder, cuts=given))
                exact, why = (None, answer.why) if answer.why else (answer.model_dump(), "")
            except TracerError as error:
                why = str(error)
            more = {"reference": reference.name, "exact": exact}
            result = parse_local(self.run("local", candidate, theirs, folder, cuts=given, **more))
        pairs = len(alignment.pairs)
        found = {
            local.index: Local.from_json(local.model_dump(exclude={"index"}))
            for local in result.found
            if local.index < pairs
        }
        notes = [f"the reference: {why}"] if why else []
        return joined(alignment.pairs, reference, candidate, found, without, [*notes, *result.notes])

    def run(
        self, command: str, recording: Recording, source: loading.Source, folder: str, **more: Any
    ) -> dict[str, Any]:
        """Run a command in a worker that has the recorded model; it may write in ``folder``. Raises TracerError."""
        request = source.request
        again = Loading(
            source.adapter, request.path, request.weights, request.arch, json.dumps(request.arch_args),
            request.imports, request.allow, request.trust, self.sandbox, self.load_timeout, self.memory_limit,
            request.inputs, request.outputs,
        )  # fmt: skip
        options = {
            "trace": str(recording.root.absolute()), "recording": recording.name, "folder": folder, **more,
        }  # fmt: skip
        label = f"{display(recording.name)} again"
        try:
            return again.run(command, label, options, read=(str(recording.root.absolute()),), write=(folder,))
        except TracerError as error:
            if isinstance(error, ReplayError):
                raise
            error.args = (f"'{display(recording.name)}' cannot be run again: {error}", *error.args[1:])
            raise
