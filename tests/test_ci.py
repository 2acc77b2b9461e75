"""docs/ci.md: its workflows are run, command by command in bash, on real models, without a network. Baselines."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import junitparser
import numpy as np
import pytest
import torch
import yaml

import tracer
from tests import cli
from tests.docs import small_models
from tests.test_pytest_plugin import import_all
from tests.test_schema import check
from tracer.compare import Diff, Verdict
from tracer.compare import baseline as baselines

pytest_plugins = ["pytester"]

PAGE = Path(__file__).parent.parent / "docs" / "ci.md"
TRACER = """\
#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as wire:
    wire.connect({door!r})
    names = [name for name in os.environ if name.startswith(("GITHUB_", "TRACER_"))]
    wire.sendall(json.dumps([sys.argv[1:], os.getcwd(), {{name: os.environ[name] for name in names}}]).encode())
    wire.shutdown(socket.SHUT_WR)
    code, out, err = json.loads(b"".join(iter(lambda: wire.recv(1 << 16), b"")))
sys.stdout.buffer.write(out.encode("utf-8", "surrogateescape"))
sys.stderr.buffer.write(err.encode("utf-8", "surrogateescape"))
sys.exit(code)
"""
"""The command as bash finds it: it is run by this process, which has a warm one for it."""

Shell = Callable[..., subprocess.CompletedProcess[str]]


def blocks() -> dict[str, str]:
    """The page's blocks by the names of their files."""
    return dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', PAGE.read_text("utf-8"), flags=re.DOTALL))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as the page takes it for granted: the weights are in the cache."""
    folder = tmp_path_factory.mktemp("ci") / "project"
    folder.mkdir()
    before = Path.cwd()
    os.chdir(folder)
    try:
        small_models.main()
    finally:
        os.chdir(before)
    (folder / "weights").mkdir()
    (folder / "model.h5").rename(folder / "weights" / "model.h5")
    return folder


@pytest.fixture(scope="module")
def bash(project: Path) -> Iterator[Shell]:
    """Runs a script in the repository, as the shell of a job does."""
    door = project.parent / "door"
    found = project.parent / "bin" / "tracer"
    found.parent.mkdir()
    found.write_text(TRACER.format(python=sys.executable, door=str(door)))
    found.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(door))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    wire, _ = listening.accept()
                except OSError:
                    return
                with wire:
                    arguments, cwd, environment = json.loads(b"".join(iter(lambda: wire.recv(1 << 16), b"")))  # noqa: B023
                    done = cli.run(*arguments, cwd=Path(cwd), code=None, **environment)
                    wire.sendall(json.dumps([done.returncode, done.stdout, done.stderr]).encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
            path = f"{found.parent}{os.pathsep}{os.environ['PATH']}"
            return subprocess.run(
                ["bash", "-eo", "pipefail", "-c", script], cwd=project, capture_output=True, text=True, timeout=300,
                env={**cli.ENVIRONMENT, "PATH": path, **environment}, stdin=subprocess.DEVNULL,
            )  # fmt: skip

        yield run
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.fixture(scope="module")
def recorded(project: Path, bash: Shell) -> Path:
    """The repository after the steps of GitHub's workflow that come before the comparison."""
    steps = yaml.safe_load(blocks()[".github/workflows/port.yml"])["jobs"]["compare"]["steps"]
    for step in steps[: steps.index(next(step for step in steps if step.get("name") == "Compare"))]:
        if "run" not in step or step["run"].startswith("pip install "):  # there is no network here
            continue
        done = bash(step["run"])
        assert done.returncode == 0, done.stderr
    return project


def test_the_shell_scripts_of_the_page(recorded: Path, bash: Shell) -> None:
    done = bash(blocks()["accept.sh"])
    assert done.returncode == 0, done.stdout
    assert check("baseline", json.loads((recorded / "known.json").read_text()))["accepted"]
    done = bash(blocks()["gate.sh"])
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "the port computes the same")
    (recorded / "known.json").write_text(baselines.dumped(baselines.of(())))
    done = bash(blocks()["gate.sh"].replace("#!/bin/sh", "set +e"))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "the port diverges: tracer explain says why")


def test_the_workflow_for_github(recorded: Path, bash: Shell) -> None:
    workflow = yaml.safe_load(blocks()[".github/workflows/port.yml"])
    steps = {step["name"]: step for step in workflow["jobs"]["compare"]["steps"] if "name" in step}
    (recorded / "known.json").write_text(baselines.dumped(baselines.of(())))
    summary = recorded / "summary.md"
    done = bash(steps["Compare"]["run"], GITHUB_STEP_SUMMARY=str(summary), GITHUB_WORKSPACE=str(recorded))
    assert done.returncode == 1
    assert re.match(r"::error title=tracer%3A bn diverged,file=net.py,line=\d+::", done.stdout)
    assert summary.read_text("utf-8").startswith("### ✗ tracer: diverged, first at `bn`")
    assert steps["Write the report"]["if"] == "failure()"
    assert bash(steps["Write the report"]["run"]).returncode == 0
    upload = workflow["jobs"]["compare"]["steps"][-1]["with"]
    assert all((recorded / path).exists() for path in upload["path"].splitlines())


def test_the_job_for_gitlab(recorded: Path, bash: Shell) -> None:
    job = yaml.safe_load(blocks()[".gitlab-ci.yml"])["port"]
    (recorded / "known.json").write_text(baselines.dumped(baselines.of(())))
    steps = yaml.safe_load(blocks()[".github/workflows/port.yml"])["jobs"]["compare"]["steps"]
    before = "\n".join(step.get("run", "") for step in steps).splitlines()
    done = bash("\n".join(line for line in job["script"] if line not in before))  # the others were run for GitHub
    assert [line.split()[:2] for line in job["script"] if line not in before] == [["tracer", "diff"]] * 2
    assert done.returncode == 1, done.stderr
    assert "first divergence: bn" in done.stdout
    (suite,) = junitparser.JUnitXml.fromfile(str(recorded / job["artifacts"]["reports"]["junit"]))
    assert [case.name for case in suite if any(isinstance(r, junitparser.Failure) for r in case.result)] == ["bn ⇄ bn"]


@pytest.fixture(scope="module")
def imported() -> None:
    """Before any pytester: it forgets at its end what was imported since its beginning."""
    import_all("tracer", "tracer_torch", "tracer_keras")


@pytest.mark.usefixtures("imported")
def test_the_tests_of_the_page(recorded: Path, pytester: pytest.Pytester) -> None:
    shutil.copytree(recorded, pytester.path, dirs_exist_ok=True)
    (pytester.path / "trace.zarr").rename(pytester.path / "golden.zarr")
    for name in ("test_port.py", "test_golden.py", "test_by_hand.py"):
        (pytester.path / name).write_text(blocks()[name])
    pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\npythonpath = .")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--strict-markers")
    result.assert_outcomes(failed=2, passed=1)
    said = ["*AssertionError: the port diverges first at 'bn': bn-eps", "*Fix: *bn.eps = 0.001"]
    result.stdout.fnmatch_lines([*said, *said])


# --- baselines ------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(4, 6)).astype("f4")


class Net(torch.nn.Module):
    """Two normalisations, whose epsilons and names may be others, and a linear layer behind them."""

    def __init__(self, *epsilons: float, names: tuple[str, str] = ("a", "b"), factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.names, self.factor = names, factor
        for at, name in enumerate(names):
            self.add_module(f"dense{at}", torch.nn.Linear(6, 6))
            self.add_module(name, torch.nn.BatchNorm1d(6, eps=epsilons[at] if epsilons else 1e-5))
            self.get_submodule(name).running_var.fill_(1e-2)  # type: ignore[operator]
        self.end = torch.nn.Linear(6, 2)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for at, name in enumerate(self.names):
            x = self.get_submodule(name)(self.get_submodule(f"dense{at}")(x))
        return self.end(x * self.factor)


class Compared:
    """Comparisons with one reference, beside what was accepted of a first candidate."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.reference = tracer.record(Net(), X, name="reference", trace=folder / "trace.zarr")

    def __call__(self, model: Net, *, accept: bool = False, **more: Any) -> Diff:
        self.count += 1
        candidate = tracer.record(model, None, name=f"pt{self.count}", trace=self.folder / "trace.zarr")
        known = self.folder / "known.json"
        if accept:
            found = tracer.diff(self.reference, candidate, causes=False)
            known.write_text(baselines.dumped(baselines.of(found.pairs)))
        return tracer.diff(self.reference, candidate, baseline=known, causes=False, **more)


@pytest.fixture
def compared(tmp_path: Path, one_thread: None) -> Compared:
    made = Compared(tmp_path)
    assert made(Net(1e-3, 1e-5), accept=True)
    return made


def verdicts(found: Diff) -> dict[str, str]:
    return {pair.aligned: str(pair.verdict) for pair in found.pairs if pair.verdict is not Verdict.MATCH}


def test_what_was_accepted_passes_whatever_it_is_called_and_measured_by(compared: Compared) -> None:
    found = compared(Net(1e-3, 1e-5), atol=1e-7, rtol=1e-7)
    assert found
    assert not found.notes
    assert set(verdicts(found).values()) == {"noise"}
    assert all(pair["accepted"] for pair in found.to_json()["pairs"] if pair["verdict"] == "noise")


def test_what_grows_fails_where_it_begins_and_is_inherited_below(compared: Compared) -> None:
    found = compared(Net(1e-2, 1e-5))
    assert list(verdicts(found).values()) == ["diverged", *["inherited"] * (len(verdicts(found)) - 1)]
    assert "grew from" in found.first.reason  # type: ignore[union-attr]


def test_a_second_mistake_below_an_accepted_one_fails(compared: Compared) -> None:
    found = compared(Net(1e-3, 1e-1))
    assert found.first is not None
    assert found.first.aligned == "b"
    found = compared(Net(1e-3, 1e-1, names=("a", "renamed")))  # it is not in the file by that name
    assert found.first is not None
    assert found.first.candidate_node.name == "renamed"
    assert found.first.reason.startswith("not in the baseline, and its relative error is ")
    assert any("not there any more (renamed?): b ⇄ b" in note for note in found.notes)


def test_a_renamed_layer_that_only_hands_on_what_was_accepted_passes(compared: Compared) -> None:
    found = compared(Net(1e-3, 1e-5, names=("a", "renamed")))
    assert found
    assert verdicts(found)["b"] == "inherited"


def test_what_gets_better_is_said(compared: Compared) -> None:
    found = compared(Net())
    assert found
    assert any("are gone, or less than half" in note for note in found.notes)


def test_what_has_no_finite_relative_error_can_be_accepted(tmp_path: Path) -> None:
    """Of a reference that is zero throughout."""
    compared = Compared(tmp_path)
    compared.reference = tracer.record(Net(factor=0.0), None, name="zero", trace=tmp_path / "trace.zarr")
    found = compared(Net(), accept=True)
    assert any(pair.stats is not None and np.isinf(pair.stats.rel_l2) for pair in found.pairs)
    assert found


def test_what_cannot_be_accepted_is_said(tmp_path: Path) -> None:
    trace = tmp_path / "trace.zarr"
    tracer.record(Net(), X, name="one", trace=trace)
    tracer.record(Net(factor=float("nan")), None, name="other", trace=trace)
    done = cli.run("diff", "--write-baseline", "known.json", cwd=tmp_path)
    assert "which no baseline accepts: mul" in done.stderr
    cli.run("diff", "--baseline", "known.json", cwd=tmp_path, code=1)
