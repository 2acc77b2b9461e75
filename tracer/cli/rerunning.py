"""Running recorded models again in workers: ``tracer diff --local``."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tracer.alignment import Alignment
from tracer.cli import pythons
from tracer.cli.recording import Loading
from tracer.compare.local import Local, Measured
from tracer.errors import InputError, ReplayError, TracerError
from tracer.names import display
from tracer.rerun import loading
from tracer.rerun.cuts import cuts
from tracer.rerun.local import Compared, Walked, local_errors
from tracer.rerun.measure import joined
from tracer.store import Recording, sources
from tracer.worker.results import parse_against, parse_local, parse_shaken


@dataclass(frozen=True)
class Again:
    """How recorded models are run again, as typed."""

    trust: bool = False
    sandbox: bool = True
    load_timeout: float = 300.0
    memory_limit: float | None = None
    pythons: tuple[str, ...] = ()
    """Interpreters in place of those that the models were recorded by: see :func:`tracer.cli.pythons.again`."""

    def __call__(self, alignment: Alignment, reference: Recording, candidate: Recording) -> Measured:
        """Measure the local error of every pair. Raises TracerError where the candidate cannot be run again."""
        theirs = loading.source(candidate, trust=self.trust)
        made, without = cuts(alignment.pairs, reference, candidate)
        given = [cut.to_json() for cut in made.values()]
        indices = {index for cut in made.values() for index in (cut.index, *(index for index, _ in cut.same))}
        with tempfile.TemporaryDirectory(prefix="tracer-") as folder:

            def alone() -> Walked:
                answer = parse_local(self.run("local", candidate, theirs, folder, cuts=given, reference=reference.name))
                found = {
                    error.index: Local.from_json(error.model_dump(exclude={"index"}))
                    for error in answer.found
                    if error.index in indices
                }
                files = {
                    name: file for name, file in answer.files.items() if name in made and made[name].index in found
                }
                return Walked(found, files, answer.double, answer.notes)

            def against(open_: Walked) -> dict[str, Compared]:
                try:
                    ours = loading.source(reference, trust=self.trust)
                    answer = parse_against(self.run("against", reference, ours, folder, cuts=given, files=open_.files))
                except TracerError as error:
                    raise ReplayError(f"the reference: {error}") from error
                return {
                    name: Compared(
                        float(one.error),
                        None if one.argmax is None else tuple(one.argmax),
                        None if one.rounding is None else float(one.rounding),
                    )
                    for name, one in answer.compared.items()
                    if name in open_.files
                }

            def shaken(before: Walked, names: Sequence[str]) -> dict[str, float]:
                found = [{"index": index, **local.to_json()} for index, local in before.found.items()]
                more = {"reference": reference.name, "found": found, "files": before.files, "names": list(names)}
                return parse_shaken(self.run("shaken", candidate, theirs, folder, cuts=given, **more)).moved

            found, notes = local_errors(made, alone, against, shaken)
        return joined(alignment.pairs, reference, candidate, found, without, notes)

    def how(self, recording: Recording, source: loading.Source) -> Loading:
        """How the model of a recording is loaded once more. Raises InputError."""
        if (url := sources.called.get(recording.root)) is not None:
            where = display(url)
            raise InputError(f"models are not run again from {where}: tracer pull {where}, and name what it writes")
        request = source.request
        return Loading(
            source.adapter, request.path, request.weights, request.arch, json.dumps(request.arch_args),
            request.imports, request.allow, request.trust, self.sandbox, self.load_timeout, self.memory_limit,
            request.inputs, request.outputs, pythons.again(recording.name, source.python, self.pythons),
        )  # fmt: skip

    def run(
        self, command: str, recording: Recording, source: loading.Source, folder: str, **more: Any
    ) -> dict[str, Any]:
        """Run a command in a worker that has the recorded model; it may write in ``folder``. Raises TracerError."""
        again = self.how(recording, source)
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
