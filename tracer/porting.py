"""``assert_port``: a port as an assertion of a test, with pytest or without."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import ExitCode, InputError, ModelError, TracerError
from tracer.names import display

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile
    from tracer.compare import Diff
    from tracer.compare.local import Measure
    from tracer.pytest_plugin import Test
    from tracer.store import Recording

_PLUGIN = "tracer.pytest_plugin"


def assert_port(
    reference: object,
    candidate: object,
    x: Any = None,
    *,
    atol: float | None = None,
    rtol: float | None = None,
    map: MappingFile | str | os.PathLike[str] | None = None,
    local: bool | None = None,
    baseline: str | os.PathLike[str] | None = None,
    strict: bool | None = None,
    name: str | None = None,
) -> Diff:
    """Assert that two models compute the same, layer by layer; the error's text is what ``tracer diff`` prints.

    Both are recorded on one input and compared. In a test of pytest the trace is kept where the test fails, and the
    text says how to open it; elsewhere it is kept where the assertion fails. What is not given here comes from the
    test's ``@pytest.mark.port(…)``, then from pytest's settings ``tracer_atol`` and ``tracer_rtol``.

    Args:
        reference, candidate: each a live model, the path of a model file, or a :class:`~tracer.Recording` that was
            made before: then the other model is run on its input, and its framework is not needed.
        x: the input, as :func:`tracer.record` takes it; None generates one from the reference's signature.
        atol, rtol: the tolerance (1e-5): |reference − candidate| ≤ atol + rtol·|reference|, element by element.
        map: a mapping, or its file.
        local: run both once more, so that each layer is judged by what it adds itself, see :func:`tracer.diff`.
        baseline: a file of differences that are accepted; ``pytest --tracer-update-baseline`` writes it.
        strict: layers that have no twin fail too.
        name: of the trace, where one test makes several.

    Relative paths of ``map`` and ``baseline`` begin at the test's file under pytest, else at the working directory.

    Returns the comparison where it holds. Raises AssertionError where it does not; InputError, ModelError and
    TraceError where the two cannot be recorded or compared.
    """
    __tracebackhide__ = True
    check = _Check.of(atol=atol, rtol=rtol, map=map, local=local, baseline=baseline, strict=strict)
    try:
        found, place = check.run(reference, candidate, x, name)
    except ModelError as error:
        raise error.with_traceback(None) from error.__cause__  # where the user's own code raised
    except TracerError as error:
        raise error.with_traceback(None) from None
    failure = check.failure(found, place)
    if failure:
        raise AssertionError(failure)
    return found


@dataclass(frozen=True)
class _Check:
    """What is asserted, all defaults in place.

    Attributes:
        folder: where relative paths begin.
        test: the test of pytest that is running; None elsewhere.
    """

    atol: float
    rtol: float
    map: Any
    local: bool
    baseline: Path | None
    strict: bool
    folder: Path
    test: Test | None

    @classmethod
    def of(cls, **given: Any) -> _Check:
        plugin = sys.modules.get(_PLUGIN)
        test = None if plugin is None else plugin.running()
        known = {} if test is None else test.defaults()
        chosen = {**known, **{key: value for key, value in given.items() if value is not None}}
        folder = Path.cwd() if test is None else test.folder
        for key in ("map", "baseline"):
            if isinstance(chosen.get(key), str | os.PathLike):
                chosen[key] = folder / chosen[key]
        return cls(
            chosen.get("atol", 1e-5), chosen.get("rtol", 1e-5), chosen.get("map"), bool(chosen.get("local")),
            chosen.get("baseline"), bool(chosen.get("strict")), folder, test,
        )  # fmt: skip

    def run(self, reference: object, candidate: object, x: Any, name: str | None) -> tuple[Diff, Path]:
        """The comparison, and the trace that it was made in. Raises TracerError."""
        from tracer.store import Recording

        sides = (reference, candidate)
        self._check_baseline()
        if isinstance(reference, Recording) and isinstance(candidate, Recording):
            if x is not None:
                raise InputError("two recordings have their input: leave x out")
            return self._compared(reference, candidate, sides), reference.root
        place = _folder(name) if self.test is None else self.test.place(name)
        try:
            ours, theirs = _recorded(sides, x, place)
            found = self._compared(ours, theirs, sides)
        except BaseException:
            if self.test is None:
                shutil.rmtree(place.parent, ignore_errors=True)
            raise
        if self.test is None and found.exit_code(strict=self.strict) is ExitCode.OK:
            weakref.finalize(found, shutil.rmtree, place.parent, ignore_errors=True)
        return found, place

    def _compared(self, ours: Recording, theirs: Recording, sides: tuple[object, object]) -> Diff:
        from tracer.alignment.mapping import load as load_mapping
        from tracer.compare import Tolerance
        from tracer.compare import baseline as baselines
        from tracer.compare.comparing import diff

        live = [_is_live(side) for side in sides]
        if self.local and any(live) and not all(live):
            raise InputError("local=True runs both models again: give two live models, or two files or recordings")
        measure: Measure | None = None
        if self.local and all(live):
            from tracer.rerun.measure import in_process

            measure = in_process(sides)
        elif self.local:
            from tracer.cli.rerunning import Again

            measure = Again()
        mapping = load_mapping(Path(self.map)) if isinstance(self.map, str | os.PathLike) else self.map
        known = None if self.baseline is None or self._updates else baselines.load(self.baseline)
        found = diff(
            ours, theirs, Tolerance(self.atol, self.rtol), mapping=mapping, measure=measure, baseline=known
        )  # fmt: skip
        if self._updates:
            found = self._accepted(found)
        if found.first is None:
            return found
        from tracer.causes.kept import told

        return told(found)

    @property
    def _updates(self) -> bool:
        """Whether the baseline is to be written."""
        return self.baseline is not None and self.test is not None and self.test.updates_baselines

    def _check_baseline(self) -> None:
        """Raises InputError where a baseline is named that is not there, before anything is run."""
        if self.baseline is not None and self.test is not None and not self._updates and not self.baseline.exists():
            shown = display(str(self.baseline))
            raise InputError(f"no such baseline: {shown} (pytest --tracer-update-baseline makes it)")

    def _accepted(self, found: Diff) -> Diff:
        """The comparison with all its differences accepted in the file, as far as they can be.

        Tests may share the file: the first of a run replaces what is in it, the others add to that.
        """
        from dataclasses import replace

        from tracer.compare import baseline as baselines
        from tracer.weighing import writing

        assert self.baseline is not None
        assert self.test is not None
        with self.test.alone_at(self.baseline) as original:
            now = baselines.load(self.baseline) if self.baseline.exists() else None
            written = original.exists()  # by another test of this run
            if not written and now is not None:
                shutil.copyfile(self.baseline, original)
            elif not written:
                original.write_text(baselines.dumped(baselines.of(())))
            made = baselines.of(found.pairs, baselines.load(original), beside=now if written else None)
            writing.publish_text(baselines.dumped(made), self.baseline, force=True)
        return replace(found, baseline=made).at(found.tolerance)

    def failure(self, found: Diff, place: Path) -> str:
        """What is to be said; empty where the assertion holds."""
        from tracer.report import words

        if self.test is not None:
            self.test.compared(found, place)
        code = found.exit_code(strict=self.strict)
        if code is ExitCode.OK:
            return ""
        first = found.first
        if code is ExitCode.UNMATCHED:
            said = f"{words.count(found.unmatched, 'layer')} without a twin"
        elif first is not None:
            cause = f": {first.cause}" if first.cause not in (None, "unknown") else ""
            said = f"the port diverges first at '{display(first.aligned)}'{cause}"
        else:
            said = f"the port cannot be said to agree: {found.verdict}"
        lines = [said, "", str(found), "", *opening(place)]
        if self.test is not None:
            lines += self.test.failed_with(found, place)
        return "\n".join(lines)


def of_trace(place: Path, known: dict[str, Any]) -> Diff:
    """The two newest recordings of a trace compared, by the tolerance that a test's marks and settings name.

    Raises InputError where there are not two, TraceError.
    """
    from tracer.compare import Tolerance
    from tracer.compare.comparing import diff
    from tracer.selection import choose
    from tracer.store import Trace

    return diff(*choose(Trace.open(place)), Tolerance(known.get("atol", 1e-5), known.get("rtol", 1e-5)))


def opening(place: Path) -> list[str]:
    """Where a trace is kept, and the command that opens it."""
    return [f"trace kept: {place}", f"look at it: tracer ui --trace {shlex.quote(str(place))}"]


def _is_live(side: object) -> bool:
    from tracer.store import Recording

    return not isinstance(side, str | os.PathLike | Recording)


def _folder(name: str | None) -> Path:
    """Where the trace of an assertion outside of pytest lies, in a folder of its own."""
    from tracer.names import encode

    return Path(tempfile.mkdtemp(prefix="tracer-port-")) / f"{encode(name or 'trace')}.zarr"


def _recorded(sides: tuple[object, object], x: Any, place: Path) -> list[Recording]:
    """Both sides as recordings of one trace at ``place``, the reference's first."""
    from tracer.api import record
    from tracer.store import Recording, Step

    given = next((side for side in sides if isinstance(side, Recording)), None)
    found: list[Recording | None] = [None, None]
    if given is not None:
        if x is not None:
            raise InputError("a recording has its input: leave x out")
        if isinstance(given, Step):
            raise InputError("a step of a recording can only be compared with another one")
        found[sides.index(given)] = _copied(given, place)
    for at, side in enumerate(sides):
        if found[at] is None:
            first = not any(found)
            found[at] = record(side, x if first else None, trace=place)
    return [one for one in found if one is not None]


def _copied(recording: Recording, place: Path) -> Recording:
    """A recording and its input in a trace of their own, so that the one it came from stays as it is."""
    from tracer.names import encode
    from tracer.store import Trace

    trace = Trace.create(place)
    for part in (recording.folder.relative_to(recording.root), Path("inputs") / encode(recording.input_id)):
        shutil.copytree(recording.root / part, place / part, dirs_exist_ok=True)
    return trace.recording(recording.name)
