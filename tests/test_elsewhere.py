"""``--python``: the adapter in another environment, which has a framework and numpy and nothing else."""

from __future__ import annotations

import json
import os
import stat
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

import tracer
from tests.cli import refused, run
from tests.environments import environment, lacks
from tracer.cli import pythons
from tracer.errors import InputError
from tracer.store.recordings import VALUES
from tracer.worker import elsewhere, landlock

NEEDS = ("zarr", "pydantic", "scipy", "yaml", "psutil", "google_crc32c", "platformdirs", "typer", "zmq")
"""What tracer itself needs."""
NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, secret=None, eps=1e-5):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8, eps), nn.Linear(8, 3)
        if secret is not None:
            try:
                open(secret).close()
                self.seen = nn.Identity()
            except PermissionError:
                pass

    def forward(self, x):
        x = nn.functional.gelu(self.norm(self.conv(x))).mean(-1)
        if hasattr(self, "seen"):
            x = self.seen(x)
        return torch.softmax(self.fc(x).bfloat16().float(), -1)
"""


@pytest.fixture(scope="module")
def torch_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = environment(tmp_path_factory.mktemp("torch-env") / "env", "torch", "numpy")
    assert lacks(python, *NEEDS, "ml_dtypes", "tensorflow", "tracer")
    return python


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return environment(tmp_path_factory.mktemp("bare-env") / "env", "numpy")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, torch_only: Path) -> Path:
    """A model recorded here, and another one of its weights there: its epsilon is another."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "nets.py").write_text(NETS)
    (folder / "secret").write_text("x")
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(NETS, names)
    torch.save(names["Net"]().state_dict(), folder / "net.pt")  # type: ignore[operator]
    (folder / "model").mkdir()
    os.rename(folder / "nets.py", folder / "model" / "nets.py")
    arguments = ["record", "pt", folder / "net.pt", "--arch", "nets.py:Net", "--input-shape", "2,4,16"]
    run(*arguments, "--trace", folder / "trace.zarr", "--name", "here", cwd=folder / "model")
    more = ["--arch-args", json.dumps({"secret": str(folder / "secret"), "eps": 1e-2}), "--grad", "square"]
    done = run(
        *arguments, *more, "--trace", folder / "trace.zarr", "--name", "there", "--python", torch_only,
        cwd=folder / "model",
    )  # fmt: skip
    assert f"of {torch_only}" in done.stdout
    return folder


def test_a_framework_and_numpy_are_enough(recorded: Path, torch_only: Path) -> None:
    trace = tracer.open(recorded / "trace.zarr")
    here, there = trace.recording("here"), trace.recording("there")
    assert there.state == "complete"
    assert there.gradients
    assert np.array_equal(here.read("conv"), there.read("conv"))
    assert not np.array_equal(here.read("norm"), there.read("norm"))
    assert {there.structure.by_name[name].dtype for name in there.summaries} == {"float32", "bfloat16"}
    group = zarr.open_group(zarr.storage.ZipStore(there.folder / VALUES, mode="r"), mode="r")
    assert np.array_equal(group[there.activations["conv"].path][:], there.read("conv"))  # the checksum is right, too
    versions = there.attributes["versions"]
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["tracer"] == version("tracer-nn")
    assert {"torch", "numpy"} <= versions.keys()
    model = there.attributes["model"]
    assert model["load"]["python"] == str(torch_only)
    assert model["sandbox"].startswith("landlock" if landlock.supported() else "none")
    assert ("seen" in {node.name for node in there.structure}) == (not landlock.supported())
    assert "python" not in here.attributes["model"]["load"]
    assert "  by /" in run("runs", "--trace", recorded / "trace.zarr", cwd=recorded).stdout


def test_it_runs_again_where_it_was_recorded(recorded: Path, torch_only: Path) -> None:
    arguments = ["diff", "here", "there", "--local", "--trace", recorded / "trace.zarr", "--json", "--no-explain"]
    found = json.loads(run(*arguments, cwd=recorded / "model", code=1).stdout)
    assert found["first_divergence"] == "norm"
    assert [pair["aligned"] for pair in found["pairs"] if pair["verdict"] == "diverged"] == ["norm"]
    # Another user has never named that interpreter; a trace may come from anybody.
    other = {"XDG_STATE_HOME": str(recorded / "state")}
    said = refused(*arguments, cwd=recorded / "model", says="that you have not named here yet", **other)
    assert said.endswith(f"--python there={torch_only}")


def test_it_is_grafted_and_filled_where_it_was_recorded(recorded: Path) -> None:
    where = ["--trace", recorded / "trace.zarr", "--json"]
    found = json.loads(run("graft", "here", "there", *where, cwd=recorded / "model").stdout)
    assert [defect["pairs"] for defect in found["defects"]] == [["norm"]]
    out = recorded / "filled.pt"
    run("transfer", "--from", "here", "--to", "there", "-o", out, "--anyway", *where, cwd=recorded / "model")
    filled, before = torch.load(out), torch.load(recorded / "net.pt")
    assert all(torch.equal(filled[key], before[key]) for key in before)
    trace = tracer.open(recorded / "trace.zarr")
    again, there = trace.recording("there-transferred"), trace.recording("there")
    assert again.attributes["versions"] == there.attributes["versions"]
    assert again.attributes["model"]["load"]["python"] == there.attributes["model"]["load"]["python"]
    assert np.array_equal(again.read("norm"), there.read("norm"))


def test_which_python_runs_a_recording_again(tmp_path: Path, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(InputError, match="have not named here yet: --python a="):
        pythons.again("a", str(bare), ())
    assert pythons.again("a", str(bare), (f"a={bare}",)) == str(bare)
    assert pythons.again("a", str(bare), ()) == str(bare)
    assert pythons.again("a", str(bare), (f"b={bare}", sys.executable)) is None
    assert pythons.again("b", None, (str(bare.parent.parent), "a=/no")) == str(bare)
    assert pythons.again("b", None, ("a=/no",)) is None
    assert pythons.again("b", sys.executable, ()) is None
    with pytest.raises(InputError, match="no Python at /no"):
        pythons.again("a", None, ("a=/no",))


def _script(place: Path, text: str) -> Path:
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    return place


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("/no/python", "no Python at /no/python"),
        ("exit 3", "python is no Python that can be used: it ended with status 3: broken"),
        ("kill -SEGV $$", "python is no Python that can be used: it was killed by SIGSEGV"),
        ("text", "python: Exec format error"),
        ("data", "python: Permission denied"),
        ("numpy", "env/bin/python has no torch"),
        ("nothing", "python has no numpy"),
    ],
)
def test_what_is_no_python_for_it(what: str, says: str, tmp_path: Path, bare: Path) -> None:
    place = tmp_path / "python"
    if what.startswith("/"):
        place = Path(what)
    elif what == "numpy":
        place = bare
    elif what == "nothing":
        place = environment(tmp_path / "env")
    elif what in ("text", "data"):  # another machine's program looks like the first
        place.write_bytes(b"\x7fELF\2\1\1" + bytes(64))
        place.chmod(0o755 if what == "text" else 0o644)
    else:
        _script(place, f"echo broken >&2; {what}")
    (tmp_path / "nets.py").write_text(NETS)
    refused("record", "pt", "--arch", "nets.py:Net", "--python", place, cwd=tmp_path, says=says)
    assert not (tmp_path / "trace.zarr").exists()


def test_an_old_python_says_so(tmp_path: Path, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = _script(tmp_path / "python", f'exec {bare} -c "{_OLD}" "$@"')
    (tmp_path / "nets.py").write_text(NETS)
    says = "is Python 3.9.18: 3.10 or later is needed"
    refused("record", "pt", "--arch", "nets.py:Net", "--python", old, cwd=tmp_path, says=says)


_OLD = (
    "import sys, runpy; sys.version_info = (3, 9, 18, 'final', 0); "
    "sys.argv[:1] = []; runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""Runs a script as an old Python would, as far as that can be seen."""


def test_one_that_does_not_begin_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tracer.adapter import LoadRequest
    from tracer.worker import supervise
    from tracer.worker.protocol import Job, request_to_json

    monkeypatch.setattr(supervise, "_GREETING", 0.3)
    job = Job("record", "pt", request_to_json(LoadRequest(path=None)))
    with pytest.raises(supervise.WorkerError, match=r"it did not begin within 0\.3 s") as caught:
        supervise.run(job, on_event=lambda event: None, python=_script(tmp_path / "python", "exec sleep 60"))
    assert caught.value.exit_code == 2


def test_keras_in_an_environment_of_its_own(tmp_path: Path) -> None:
    import keras

    python = environment(tmp_path / "env", "tensorflow", "keras")
    assert lacks(python, *NEEDS, "torch", "tracer")
    model = keras.Sequential([keras.Input((8, 3)), keras.layers.Conv1D(4, 3), keras.layers.Flatten()])
    model.save(tmp_path / "m.keras")
    run("record", "tf", "m.keras", "--python", tmp_path / "env", cwd=tmp_path)
    there = tracer.open(tmp_path / "trace.zarr").recording("tf")
    assert {"tensorflow", "keras", "numpy"} <= there.attributes["versions"].keys()
    x = there.read(there.structure.inputs[0].name)
    assert np.allclose(np.asarray(model(x)), there.read(there.structure.outputs[0]), atol=1e-6)


def test_links_keep_their_place(tmp_path: Path) -> None:
    """What an interpreter finds depends on where it lies, not on what it is a link to."""
    (tmp_path / "env" / "bin").mkdir(parents=True)
    link = tmp_path / "env" / "bin" / "python"
    link.symlink_to(sys.executable)
    assert elsewhere.interpreter(tmp_path / "env") == elsewhere.interpreter(link) == str(link)
    assert elsewhere.is_other(str(link))
    assert not elsewhere.is_other(sys.executable)
    assert Path(elsewhere.interpreter("sh")).name == "sh"  # looked for as the shell does
