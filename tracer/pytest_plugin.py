"""The pytest plug-in: what ``tracer.assert_port`` knows of the test that runs, and which traces are kept.

It is found by its entry point, ``pytest11``, and loaded in every run of pytest beside an installed tracer: nothing of
tracer is imported here before a test uses it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tracer.compare import Diff

_MARK = "port"
_OPTIONS = ("atol", "rtol", "map", "local", "baseline", "strict")
_LONGEST = 100


class Test:
    """A test that runs, and its traces.

    Attributes:
        folder: that of its file, where the relative paths of its marks begin.
    """

    __test__ = False

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.folder = item.path.parent
        self._places: list[Path] = []
        self._found: dict[Path, Diff] = {}
        self._told: set[Path] = set()
        self._failed = False

    @property
    def updates_baselines(self) -> bool:
        return bool(self.item.config.getoption("tracer_update_baseline"))

    def defaults(self) -> dict[str, Any]:
        """Options of ``assert_port`` from the settings and from the test's marks, the nearest mark first.

        Fails the test for a mark or setting that is none.
        """
        found: dict[str, Any] = {}
        for name in ("atol", "rtol"):
            value = self.item.config.getini(f"tracer_{name}")
            if value:
                try:
                    found[name] = float(value)
                except ValueError:
                    pytest.fail(f"tracer_{name} is to be a number, not {value!r}", pytrace=False)
        for mark in reversed(list(self.item.iter_markers(_MARK))):
            if mark.args or not set(mark.kwargs) <= set(_OPTIONS):
                wrong = ", ".join([*map(repr, mark.args), *(name for name in mark.kwargs if name not in _OPTIONS)])
                pytest.fail(f"@pytest.mark.port takes {', '.join(_OPTIONS)} by name, not {wrong}", pytrace=False)
            found.update(mark.kwargs)
        return found

    def place(self, name: str | None = None) -> Path:
        """Where a new trace of this test goes: no other test's, and the same in the next run."""
        nodeid = self.item.nodeid
        stem = re.sub(r"[^\w.-]+", "-", nodeid, flags=re.ASCII).strip("-")[-_LONGEST:].lstrip("-")
        digest = hashlib.sha256(nodeid.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        own = "" if name is None else "-" + re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)[:_LONGEST]
        folder = self._kept_in()
        number, path = 1, folder / f"{stem}-{digest}{own}.zarr"
        while path in self._places:
            number += 1
            path = folder / f"{stem}-{digest}{own}-{number}.zarr"
        for stale in (path, path.with_suffix(".html")):  # of an earlier run
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        self._places.append(path)
        return path

    def _kept_in(self) -> Path:
        config = self.item.config
        named = config.getoption("tracer_dir") or config.getini("tracer_dir")
        if named:
            folder = config.rootpath / named
        elif (factory := getattr(config, "_tmp_path_factory", None)) is not None:
            folder = factory.getbasetemp() / "tracer"  # which pytest clears, but for those of the last three runs
        else:
            folder = Path(tempfile.mkdtemp(prefix="tracer-"))
        folder.mkdir(parents=True, exist_ok=True)
        return Path(folder)

    @contextmanager
    def alone_at(self, baseline: Path) -> Iterator[Path]:
        """Keeps this run's other tests, those of pytest-xdist's other workers too, from writing a baseline meanwhile.

        Yields where its text from before the run is to be kept: that is there once one of them has written it.
        """
        import fcntl

        folder = _common(self.item.config)
        digest = hashlib.sha256(str(baseline.resolve()).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        with (folder / f"{digest}.lock").open("w") as lock:  # closing it opens the lock
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder / f"{digest}.json"

    def compared(self, found: Diff, place: Path) -> None:
        """Keep what an assertion has compared, for the report of its trace."""
        if self._reports:
            # Recordings that were made elsewhere have no trace of this test's.
            self._found[place if place in self._places else self.place("report")] = found

    def failed_with(self, found: Diff, place: Path) -> list[str]:
        """Further lines of a failing assertion's text; writes the report where ``--tracer-report`` wants one."""
        self._told.add(place)
        at = next((at for at, one in self._found.items() if one is found), place)
        self._told.add(at)
        return self._reported(at)

    def saw(self, report: pytest.TestReport) -> None:
        """Note whether a phase of the test failed, and say in its report which traces are kept."""
        self._failed = self._failed or report.failed
        if report.failed:
            untold = [place for place in self._places if place not in self._told and place.exists()]
            self._told.update(untold)
            if untold:
                from tracer.porting import opening

                lines = [line for place in untold for line in (*opening(place), *self._reported(place))]
                report.sections.append(("tracer", "\n".join(lines)))

    def done(self) -> None:
        """The test is over: its traces go, unless it failed or all are kept."""
        kept = self._failed or self.item.config.getoption("tracer_keep")
        for place in self._places:
            if not kept:
                shutil.rmtree(place, ignore_errors=True)
                place.with_suffix(".html").unlink(missing_ok=True)  # of an assertion that was expected to fail
            elif place not in self._told:
                self._reported(place)

    @property
    def _reports(self) -> bool:
        return bool(self.item.config.getoption("tracer_report"))

    def _reported(self, place: Path) -> list[str]:
        """Write the report of a trace that is kept, where one is wanted; a line that says where it is, or why not."""
        if not self._reports or not (place.exists() or place in self._found):
            return []
        report = place.with_suffix(".html")
        try:
            from tracer.porting import of_trace

            found = self._found.get(place)
            (of_trace(place, self.defaults()) if found is None else found).report(report, force=True)
        except (Exception, pytest.fail.Exception) as error:  # a report that cannot be made is no fault of the test
            return [f"no report: {error}"]
        return [f"report: {report}"]


_COMMON = pytest.StashKey[Path]()


def _common(config: pytest.Config) -> Path:
    """A folder of this run alone, one for all workers of pytest-xdist."""
    if _COMMON not in config.stash:
        factory = getattr(config, "_tmp_path_factory", None)
        if factory is None:
            folder = Path(tempfile.mkdtemp(prefix="tracer-"))
        else:
            base = factory.getbasetemp()
            folder = (base.parent if hasattr(config, "workerinput") else base) / "tracer-baselines"
            folder.mkdir(exist_ok=True)
        config.stash[_COMMON] = folder
    return config.stash[_COMMON]


_running: list[Test] = []
"""The tests that run: one, or several where a test runs pytest itself."""


def running() -> Test | None:
    """The test that runs now."""
    return _running[-1] if _running else None


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tracer", "comparisons of networks (tracer.assert_port)")
    group.addoption("--tracer-dir", metavar="DIR", help="keep the traces of failing tests in this folder")
    group.addoption("--tracer-keep", action="store_true", help="keep the traces of passing tests too")
    group.addoption("--tracer-report", action="store_true", help="write an HTML report beside each trace that is kept")
    group.addoption(
        "--tracer-update-baseline", action="store_true", help="accept all differences of now in the tests' baselines"
    )
    parser.addini("tracer_dir", "the folder of --tracer-dir, below the root folder", default="")
    parser.addini("tracer_atol", "absolute tolerance of assert_port (1e-5)", default="")
    parser.addini("tracer_rtol", "relative tolerance of assert_port (1e-5)", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{_MARK}({', '.join(f'{name}=…' for name in _OPTIONS)}): what tracer.assert_port takes by default"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    test = Test(item)
    _running.append(test)
    try:
        return (yield)
    finally:
        _running.remove(test)
        test.done()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    test = running()
    if test is not None and test.item is item:
        test.saw(report)
    return report


@pytest.fixture
def tracer_trace() -> Path:
    """The path of a trace of this test's own, kept where the test fails: ``tracer.record(model, x, trace=…)``."""
    test = running()
    assert test is not None
    return test.place()
