"""The pytest plug-in: what a failing port says, which traces are kept, and that it costs nothing where it is not used.

Each test runs pytest in this process on tests of its own, with real models.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch

import tracer
from tests.cli import ENVIRONMENT
from tracer.errors import InputError

pytest_plugins = ["pytester"]

NETS = """
import unittest
import numpy as np
import pytest
import torch
import tracer

X = np.random.default_rng(0).normal(size=(2, 4)).astype("f4")

def net(eps=1e-5):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8, eps=eps), torch.nn.ReLU(), torch.nn.Linear(8, 2)]
    model = torch.nn.Sequential(*layers).eval()
    model[1].running_var.fill_(1e-2)
    return model
"""


class Ran(Protocol):
    def __call__(self, code: str, *arguments: str, ini: str = "") -> pytest.RunResult: ...


def import_all(*packages: str) -> None:
    """What a run of pytest imports is forgotten at its end: what is known before stays one and the same."""
    for package in map(importlib.import_module, packages):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith((".__main__", ".lightning")):
                importlib.import_module(module.name)


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Before any pytester: it forgets at its end what was imported since its beginning."""
    import_all("tracer", "tracer_torch")


@pytest.fixture
def ran(pytester: pytest.Pytester) -> Ran:
    """Runs pytest on tests that are given as text; what its own configuration says of asyncio is set."""

    def run(code: str, *arguments: str, ini: str = "") -> pytest.RunResult:
        pytester.makeini(f"[pytest]\nasyncio_default_fixture_loop_scope = function\n{ini}")
        pytester.makepyfile(NETS + code)
        return pytester.runpytest_inprocess("--strict-markers", "-p", "no:cacheprovider", *arguments)

    return run


def kept(result: pytest.RunResult) -> list[Path]:
    """The traces that the output says are kept."""
    marks = ("E       trace kept: ", "trace kept: ")
    found = [line.removeprefix(mark) for line in result.outlines for mark in marks if line.startswith(mark)]
    return [Path(path) for path in dict.fromkeys(found)]


def test_a_port_that_fails_says_why_and_keeps_its_trace(ran: Ran) -> None:
    result = ran(
        """
        def test_right(tmp_path_factory):
            found = tracer.assert_port(net(), net(), X)
            assert found and found.reference.read("3").shape == (2, 2)

        @pytest.mark.parametrize("eps", [1e-3, 1e-5])
        def test_wrong(eps):
            tracer.assert_port(net(), net(eps), X)

        class TestOld(unittest.TestCase):
            def test_of_unittest(self):
                tracer.assert_port(net(), net(1e-3), X, name="old style")
    """.replace("\n        ", "\n")
    )
    result.assert_outcomes(passed=2, failed=2)
    text = result.stdout.str()
    assert "AssertionError: the port diverges first at '1': bn-eps" in text
    assert "Cause: bn-eps: epsilon is 1e-05 in the reference, 0.001 in the candidate" in text
    assert "Fix: model[1].eps = 1e-05" in text
    assert "porting.py" not in text  # nothing of ours in the traceback
    paths = kept(result)
    assert len(paths) == 2
    assert [path.exists() for path in paths] == [True, True]
    assert "test_wrong-0.001" in paths[0].name
    assert paths[1].name.endswith("-old-style.zarr")
    assert sorted(paths) == sorted(paths[0].parent.iterdir())  # those of the tests that passed are gone
    assert f"tracer ui --trace {paths[0]}" in text
    assert [r.name for r in tracer.open(paths[0]).recordings()] == ["pt", "pt-2"]


def test_marks_and_settings_give_the_defaults(ran: Ran) -> None:
    result = ran(
        """
        pytestmark = pytest.mark.port(atol=1e-9, rtol=0)

        @pytest.mark.port(atol=10)
        def test_nearest_mark():
            assert tracer.assert_port(net(), net(1e-3), X).tolerance == tracer.Tolerance(10, 0)

        def test_given_wins():
            assert tracer.assert_port(net(), net(), X, rtol=0.5).tolerance == tracer.Tolerance(1e-9, 0.5)

        @pytest.mark.port(tolerance=3)
        def test_no_such():
            tracer.assert_port(net(), net(), X)
    """.replace("\n        ", "\n")
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*port takes atol, rtol, map, local, baseline, strict by name, not tolerance"])
    result = ran("def test_set():\n    assert tracer.assert_port(net(), net(), X).tolerance.atol == 0.25\n",
                 ini="tracer_atol = 0.25\n")  # fmt: skip
    result.assert_outcomes(passed=1)
    result = ran("def test_set():\n    tracer.assert_port(net(), net(), X)\n", ini="tracer_rtol = much\n")
    result.stdout.fnmatch_lines(["*tracer_rtol is to be a number, not 'much'"])


def test_what_is_kept_and_where(ran: Ran, pytester: pytest.Pytester) -> None:
    code = """
def test_own(tracer_trace):
    tracer.record(net(), X, trace=tracer_trace)
    assert tracer_trace.exists()

def test_own_fails(tracer_trace):
    tracer.record(net(), X, trace=tracer_trace)
    tracer.assert_port(net(), net(), X)
    assert False
"""
    first = ran(code, "--tracer-dir", "kept")
    first.assert_outcomes(passed=1, failed=1)
    assert len(kept(first)) == 2
    assert sorted(kept(first)) == sorted((pytester.path / "kept").iterdir())
    again = ran(code.replace("assert False", "pass"), "--tracer-keep", ini="tracer_dir = kept\n")
    again.assert_outcomes(passed=2)
    assert len(list((pytester.path / "kept").iterdir())) == 3
    ran(code.replace("assert False", "pass"), "--tracer-dir", "kept").assert_outcomes(passed=2)
    assert list((pytester.path / "kept").iterdir()) == []


def test_a_report_lies_beside_each_trace_that_is_kept(ran: Ran, pytester: pytest.Pytester) -> None:
    code = """
def test_wrong():
    tracer.assert_port(net(), net(), X, name="first")
    tracer.assert_port(net(), net(1e-3), X, name="second")

@pytest.mark.port(atol=10)
def test_by_hand(tracer_trace):
    a = tracer.record(net(), X, trace=tracer_trace)
    assert tracer.diff(a, tracer.record(net(1e-3), trace=tracer_trace), atol=10)

def test_alone(tracer_trace):
    tracer.record(net(), X, trace=tracer_trace)
    assert False

def test_right():
    tracer.assert_port(net(), net(), X)

@pytest.mark.xfail
def test_expected():
    tracer.assert_port(net(), net(1e-3), X)
"""
    ran(code, "--tracer-report", "--tracer-dir", "kept", "-k", "expected").assert_outcomes(xfailed=1)
    assert list((pytester.path / "kept").iterdir()) == []
    code = code[: code.index("@pytest.mark.xfail")]
    result = ran(code, "--tracer-report", "--tracer-keep", "--tracer-dir", "kept")
    result.assert_outcomes(passed=2, failed=2)
    written = {path.stem: path for path in (pytester.path / "kept").glob("*.html")}
    assert {path.stem for path in (pytester.path / "kept").glob("*.zarr")} - set(written) == {
        path.stem for path in kept(result) if "test_alone" in path.stem
    }
    (by_hand, right, first, second) = (written[stem] for stem in sorted(written))
    text = result.stdout.str()
    assert f"report: {second}" in text
    assert f"report: {first}" in text
    assert "no report: " in text  # of the test that recorded one model
    assert "bn-eps" in second.read_text("utf-8")
    assert "atol 10," in by_hand.read_text("utf-8")
    assert right.exists()
    ran(code, "--tracer-report", "--tracer-dir", "kept", "-k", "right").assert_outcomes(passed=1)
    assert not right.exists()


def test_a_baseline_beside_the_test(ran: Ran, pytester: pytest.Pytester) -> None:
    code = """
@pytest.mark.port(baseline="known.json")
def test_known():
    tracer.assert_port(net(), net({eps}), X, local=True)
"""
    missing = ran(code.format(eps=1e-3))
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["*InputError: no such baseline: *known.json (pytest --tracer-update-baseline makes*"])
    assert kept(missing) == []
    ran(code.format(eps=1e-3), "--tracer-update-baseline").assert_outcomes(passed=1)
    assert json.loads((pytester.path / "known.json").read_text())["accepted"]
    ran(code.format(eps=1e-3)).assert_outcomes(passed=1)
    worse = ran(code.format(eps=1e-1))
    worse.assert_outcomes(failed=1)
    worse.stdout.fnmatch_lines(["*ccepted in the baseline, but its greatest difference grew*"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_tests_that_share_a_baseline_add_to_it(ran: Ran, pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """However many differ, and in whatever order they run; what was there before the run goes, its reasons stay."""
    code = """
pytestmark = pytest.mark.port(baseline="known.json")
@pytest.mark.parametrize("eps", [1e-5, 1e-3, 1e-2, 2e-5])
def test_known(eps):
    tracer.assert_port(net(), net(eps), X)
"""
    before = {"verdict": "diverged", "max_abs": 9.0, "rel_l2": 9.0, "local": None, "reason": "as agreed"}
    accepted = [{"reference": name, "candidate": name, **before} for name in ("1", "gone")]
    known = pytester.path / "known.json"
    known.write_text(json.dumps({"schema": "tracer-baseline/1", "accepted": accepted}))
    ran(code, "--tracer-update-baseline", *workers).assert_outcomes(passed=4)
    found = {entry["reference"]: entry for entry in json.loads(known.read_text())["accepted"]}
    assert "gone" not in found
    assert found["1"]["reason"] == "as agreed"
    assert 0 < found["1"]["max_abs"] < 9
    ran(code).assert_outcomes(passed=4)


def test_each_worker_of_xdist_keeps_its_own(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("at", range(4))
        def test_one(at, tracer_trace):
            tracer_trace.mkdir()
            (tracer_trace / str(at)).touch()
            assert at % 2
    """)
    result = pytester.runpytest_inprocess("-n", "2", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=2)
    found = kept(result)
    assert sorted(entry.name for path in found for entry in path.iterdir()) == ["0", "2"]
    assert not any("test_one-1" in path.name for folder in {path.parent for path in found} for path in folder.iterdir())


def test_it_costs_nothing_where_it_is_not_used(tmp_path: Path) -> None:
    """pytest is started as users start it, and says which modules it has at the end."""
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n")
    (tmp_path / "conftest.py").write_text("import sys\ndef pytest_unconfigure():\n    print('modules', *sys.modules)\n")
    (entry,) = (found for found in entry_points(group="pytest11") if found.name == "tracer")
    # Without the plug-ins of others, which import what they like.
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-p", entry.value]
    environment = {**ENVIRONMENT, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("modules "))
    found = set(line.split())
    assert {name for name in found if name.partition(".")[0] == "tracer"} == {
        "tracer", "tracer.lazy", "tracer.pytest_plugin",
    }  # fmt: skip
    assert not {"numpy", "zarr", "pydantic", "rich", "torch"} & found


class Net(torch.nn.Module):
    """A linear layer, and another one where that is asked for."""

    def __init__(self, *, off: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one = torch.nn.Linear(3, 2)
        self.off = off

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) + self.off


X = np.linspace(-1, 1, 6, dtype="f4").reshape(2, 3)


def test_a_recording_stands_for_a_model_that_is_not_there(tmp_path: Path) -> None:
    golden = tracer.record(Net(), X, name="golden", trace=tmp_path / "golden.zarr")
    before = sorted(tmp_path.rglob("*"))
    found = tracer.assert_port(golden, Net())
    assert [found.reference.name, found.candidate.name] == ["golden", "pt"]
    assert found.reference.input_id == golden.input_id
    with pytest.raises(AssertionError, match="the port diverges first at 'add'"):
        tracer.assert_port(golden, Net(off=1.0))
    other = tracer.record(Net(off=1.0), None, name="other", trace=tmp_path / "golden.zarr")
    with pytest.raises(AssertionError, match=r"trace kept: .*golden\.zarr"):
        tracer.assert_port(golden, other)
    assert set(before) <= set(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="leave x out"):
        tracer.assert_port(golden, Net(), X)
    with pytest.raises(InputError, match="two live models"):
        tracer.assert_port(golden, Net(), local=True)


def test_files_are_recorded_as_the_command_does(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(torch.nn.Sequential(torch.nn.Linear(3, 2)).eval(), path)
    model = torch.load(path, weights_only=False)
    with torch.no_grad():
        model[0].bias += 1
    with pytest.raises(AssertionError, match="diverges first at '0'"):
        tracer.assert_port(path, model, {"input": X})
    with pytest.raises(InputError, match="cannot tell the framework"):
        tracer.assert_port(tmp_path / "net.xyz", model, X)


def test_layers_without_a_twin_fail_where_that_is_asked_for() -> None:
    plain, longer = torch.nn.Sequential(Net()), torch.nn.Sequential(torch.nn.Linear(3, 3), Net())
    with torch.no_grad():
        longer[0].weight.copy_(torch.eye(3))
        longer[0].bias.zero_()
    found = tracer.assert_port(plain, longer, X)
    assert found.unmatched == 1
    with pytest.raises(AssertionError, match="1 layer without a twin"):
        tracer.assert_port(plain, longer, X, strict=True)
