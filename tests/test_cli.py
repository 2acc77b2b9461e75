"""The command line from files on disk, and what it says to bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracer
from tests.cli import COMMAND, ENVIRONMENT, refused, run
from tests.zoo import PAIRS, ecg_pathology
from tracer.store.packs import Pack

TWICE = "2,3,50000"
"""An input so large that a model runs once to be looked at, and once more to be recorded."""
MODEL_PY = """
import time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv1d(3, width, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = self.act(self.conv(x))
        return self.head(x.mean(2))

class Slow(Net):
    def forward(self, x):
        x = self.act(self.conv(x))
        for _ in range(100):
            time.sleep(0.1)
            x = x + 1
        return x

_runs = []

class Broken(Net):
    def forward(self, x):
        x = self.act(self.conv(x))
        _runs.append(x.shape)
        if len(_runs) > 1:
            raise RuntimeError("no good")
        return self.head(x.mean(2))

def not_a_model():
    return 3
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models as people have them on disk."""
    import keras
    import safetensors.torch
    import torch

    folder = tmp_path_factory.mktemp("models")
    (folder / "model.py").write_text(MODEL_PY)
    space: dict[str, Any] = {"__name__": "model"}
    exec(MODEL_PY, space)
    net = space["Net"]().eval()
    torch.save(net.state_dict(), folder / "state.pt")
    torch.save({"epoch": 3, "model_state_dict": net.state_dict()}, folder / "checkpoint.pth")
    safetensors.torch.save_file(net.state_dict(), folder / "state.safetensors")
    plain = torch.nn.Sequential(torch.nn.Conv1d(3, 8, 3, padding=1), torch.nn.ReLU()).eval()
    torch.save(plain, folder / "plain.pt")
    inputs = keras.Input((7, 3), name="x")
    x = keras.layers.Conv1D(8, 3, padding="same", activation="relu", name="conv")(inputs)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    w = {name: value.detach().numpy() for name, value in net.state_dict().items()}
    model.get_layer("conv").set_weights([w["conv.weight"].transpose(2, 1, 0), w["conv.bias"]])
    model.get_layer("head").set_weights([w["head.weight"].T, w["head.bias"]])
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(2, 7, 3)).astype("f4"))
    ecg_pathology.write_keras2(folder)
    ecg_pathology.write_torch(folder)
    return folder


def test_the_story_from_files_with_no_input_named(files: Path, tmp_path: Path) -> None:
    done = run("record", "tf", files / "model.keras", cwd=tmp_path, fresh=True)
    assert "5 of 5 activations" in done.stdout
    assert "keras 3" in done.stdout
    done = run("record", "pt", files / "state.pt", "--arch", f"{files}/model.py:Net", cwd=tmp_path)
    assert "aligned to 'tf'" in done.stdout
    assert "2×3×7" in done.stdout
    done = run("diff", cwd=tmp_path)
    assert done.stdout.splitlines()[1].startswith("✓ match")
    found = json.loads(run("diff", "--json", cwd=tmp_path).stdout)
    assert found["verdict"] == "match"
    assert {p["aligned"]: p["candidate"] for p in found["pairs"]} == {
        "x": ["x"], "conv/preactivation": ["conv"], "conv": ["act"], "pool": ["mean"], "head": ["head"],
    }  # fmt: skip
    pairs = json.loads(run("map", "--json", cwd=tmp_path).stdout)["pairs"]
    assert [p["aligned"] for p in pairs] == [p["aligned"] for p in found["pairs"]]
    assert "max_abs" not in pairs[0]
    run("map", "--write", "m.yaml", cwd=tmp_path)
    refused("map", "--write", "m.yaml", cwd=tmp_path, says="--force")
    run("diff", "--map", "m.yaml", cwd=tmp_path)
    listed = json.loads(run("runs", "--json", cwd=tmp_path).stdout)["recordings"]
    assert [(r["name"], r["state"]) for r in listed] == [("tf", "complete"), ("pt", "complete")]
    refused(
        "record", "pt", files / "state.pt", "--arch", f"{files}/model.py:Net", cwd=tmp_path, says="--force replaces"
    )
    run("record", "pt", files / "checkpoint.pth", "--arch", "model:Net", "--force", cwd=tmp_path, PYTHONPATH=str(files))
    run("diff", "--strict", cwd=tmp_path)
    table = run("diff", "--all", "--ascii", cwd=tmp_path).stdout
    assert table.isascii()
    run("diff", "tf", "pt", "--atol", "0", "--rtol", "0", cwd=tmp_path)


def test_keras2_json_with_weights_against_a_pickled_checkpoint(files: Path, tmp_path: Path) -> None:
    structure, weights = files / "model.json", files / "weights.h5"
    done = run("record", "tf", structure, "--weights", weights, "--input-shape", "3,2000,12", cwd=tmp_path)
    assert "tf_keras" in done.stdout
    (state,) = (p for p in files.glob("*avb*.pt")) if list(files.glob("*avb*.pt")) else (files / "model.pt",)
    run("record", "pt", state, "--arch", "tests.zoo.ecg_pathology:architecture", cwd=tmp_path)
    found = json.loads(run("diff", "--json", cwd=tmp_path).stdout)
    paired = {p["aligned"]: p["candidate"][0] for p in found["pairs"]}
    truth = PAIRS["ecg_pathology_avb"].nodes
    assert {name: paired.get(name) for name in truth} == truth
    assert found["first_divergence"] is None


def test_keras3_h5_and_safetensors_from_torch_to_keras(files: Path, tmp_path: Path) -> None:
    arguments = ("record", "pt", files / "state.safetensors", "--arch", f"{files}/model.py:Net")
    refused(*arguments, cwd=tmp_path, says="--input-shape 2,3,LENGTH")
    assert not (tmp_path / "trace.zarr").exists()
    run(*arguments, "--input-shape", "2,3,7", cwd=tmp_path)
    done = run("record", "tf", files / "model.h5", cwd=tmp_path)
    assert "2×7×3" in done.stdout
    found = json.loads(run("diff", "--json", cwd=tmp_path).stdout)
    assert found["reference"] == "pt"
    assert len(found["pairs"]) == 5
    assert found["verdict"] == "match"


def test_a_whole_pickled_module_and_one_of_the_users_class(files: Path, tmp_path: Path) -> None:
    run("record", "pt", files / "plain.pt", "--input-shape", "2,3,7", cwd=tmp_path)
    code = "import torch, model; torch.save(model.Net(), 'whole.pt')"
    subprocess.run([COMMAND[0], "-c", code], cwd=files, check=True)
    whole = ("record", "pt", files / "whole.pt", "--name", "whole", "--input-shape", "2,3,7")
    assert "--import" in refused(*whole, cwd=tmp_path, says="model.Net")
    run(*whole, "--import", files / "model.py", cwd=tmp_path)
    assert [r.name for r in tracer.open(tmp_path / "trace.zarr").recordings()] == ["pt", "whole"]


def test_inspect(files: Path, tmp_path: Path) -> None:
    text = run("inspect", files / "model.keras", cwd=tmp_path).stdout
    assert "Conv1D" in text
    assert "parameters: 98 (98 trainable)" in text
    found = json.loads(run("inspect", files / "model.h5", "--json", cwd=tmp_path).stdout)
    assert found["totals"]["parameters"] == 98
    assert found["signature"][0]["shape"] == [None, 7, 3]
    saved = run("inspect", files / "model.keras", "--save-weights", "conv", "conv.npy", cwd=tmp_path).stdout
    assert "conv.kernel.npy" in saved
    assert np.load(tmp_path / "conv.kernel.npy").shape == (3, 3, 8)
    torch_side = ("inspect", files / "state.pt", "--arch", f"{files}/model.py:Net")
    assert "mean" in run(*torch_side, "--input-shape", "2,3,7", cwd=tmp_path).stdout
    assert "98" in run(*torch_side, cwd=tmp_path).stdout


def test_bad_files_are_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    refused("record", "tf", "nothing.h5", cwd=tmp_path, says="nothing.h5")
    for name, adapter in (("model.h5", "tf"), ("model.keras", "tf"), ("plain.pt", "pt")):
        raw = (files / name).read_bytes()
        (tmp_path / f"cut_{name}").write_bytes(raw[: len(raw) // 2])
        refused("record", adapter, f"cut_{name}", "--input-shape", "2,3,7", cwd=tmp_path, says=f"cut_{name}")
    refused("record", "pt", files / "state.pt", cwd=tmp_path, says="--arch")
    refused("record", "pt", files / "state.pt", "--arch", "no_such:Net", cwd=tmp_path, says="no_such")
    refused("record", "pt", files / "state.pt", "--arch", f"{files}/model.py:Nett", cwd=tmp_path, says="Nett")
    refused("record", "pt", files / "state.pt", "--arch", f"{files}/model.py:not_a_model", cwd=tmp_path, says="int")
    refused("record", "xx", files / "state.pt", cwd=tmp_path, says="no adapter named 'xx'")
    refused("record", "tf", cwd=tmp_path, says="--arch")
    assert not (tmp_path / "trace.zarr").exists()


def test_bad_inputs_are_one_line_and_exit_2(files: Path, tmp_path: Path) -> None:
    model = ("record", "tf", files / "model.keras")
    refused(*model, "--input", "no.npy", cwd=tmp_path, says="no.npy")
    np.save(tmp_path / "wrong.npy", np.zeros((2, 9, 4), "f4"))
    refused(*model, "--input", "wrong.npy", cwd=tmp_path, says="(2, 9, 4)")
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(*model, "--input", "object.npy", cwd=tmp_path, says="object.npy")
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    refused(*model, "--input", "text.npy", cwd=tmp_path, says="text.npy")
    refused(*model, "--input-shape", "a,b", cwd=tmp_path, says="--input-shape")
    refused(*model, "--input", "seed:x", cwd=tmp_path, says="seed:N")
    refused(*model, "--layout", "sideways", cwd=tmp_path, says="--layout")
    assert not (tmp_path / "trace.zarr").exists()


def test_bad_traces_are_one_line(files: Path, tmp_path: Path) -> None:
    refused("diff", cwd=tmp_path, says="does not exist")
    (tmp_path / "file").touch()
    refused("record", "tf", files / "model.keras", "--trace", "file", cwd=tmp_path, says="not a folder")
    refused("record", "tf", files / "model.keras", "--trace", "/proc/no/t.zarr", cwd=tmp_path, says="/proc/no")
    run("record", "tf", files / "model.keras", cwd=tmp_path)
    refused("diff", cwd=tmp_path, says="two recordings")
    refused("diff", "tf", "pt", cwd=tmp_path, says="have: tf")
    refused("ui", cwd=tmp_path, says="terminal")
    metadata = tmp_path / "trace.zarr/zarr.json"
    metadata.write_text(metadata.read_text().replace('"version":2', '"version":3'))
    refused("diff", cwd=tmp_path, says="newer tracer")
    refused("record", "pt", files / "plain.pt", cwd=tmp_path, says="newer tracer")


def test_a_full_disk_is_exit_3_and_harms_no_other_recording(files: Path, tmp_path: Path) -> None:
    run("record", "tf", files / "model.keras", cwd=tmp_path)
    before = tracer.open(tmp_path / "trace.zarr").recording("tf").read("head").copy()
    shell = f"ulimit -f 60; exec {COMMAND[0]} -c 'from tracer.cli.main import main; main()' " + (
        f"record pt {files}/model.py --arch {files}/model.py:Net --arch-args '[4000]' --name big"
    ).replace(f"{files}/model.py ", "")
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 3, done.stderr
    assert "cannot write the trace" in done.stderr
    trace = tracer.open(tmp_path / "trace.zarr")
    np.testing.assert_array_equal(trace.recording("tf").read("head"), before)
    assert trace.recording("big").state in ("failed", "interrupted")


def test_closed_streams(tmp_path: Path) -> None:
    """What is opened later must not become standard output, and a missing one is no fault."""
    shell = f"exec {COMMAND[0]} -c 'from tracer.cli.main import main; main()' info <&- >&-"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", [("diff",), ("show", "a"), ("runs", "--format", "csv"), ("diff", "--help")])
def test_whoever_reads_the_output_may_leave(arguments: tuple[str, ...], made: Path) -> None:
    """As of any program that SIGPIPE ends: nothing is said, and the exit code is no verdict."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, *arguments], cwd=made.parent, stdout=writing, stderr=subprocess.PIPE,
                          env=ENVIRONMENT, check=False)  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_name_that_is_too_long_is_a_mistake_on_the_line(made: Path) -> None:
    name = "x" * 300
    for arguments in (("diff", "--trace", name), ("report", "-o", f"{name}.html"), ("map", "--write", name)):
        refused(*arguments, cwd=made.parent, says="too long")


def test_a_model_that_raises_keeps_what_ran(files: Path, tmp_path: Path) -> None:
    arguments = ("record", "pt", "--arch", f"{files}/model.py:Broken", "--input-shape", TWICE)
    done = run(*arguments, cwd=tmp_path, code=3)
    assert "no good" in done.stderr
    recording = tracer.open(tmp_path / "trace.zarr").recording("pt")
    assert recording.state == "failed"
    assert "conv" in recording.activations
    assert "head" not in recording.activations
    assert "failed" in run("runs", cwd=tmp_path).stdout


def test_ctrl_c_leaves_a_consistent_trace(files: Path, tmp_path: Path) -> None:
    arguments = [*COMMAND, "record", "pt", "--arch", f"{files}/model.py:Slow", "--input-shape", TWICE]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    trace = tmp_path / "trace.zarr"
    for _ in range(600):
        if any(True for pack in trace.glob("recordings/pt/*.zip") for _ in Pack(pack).so_far()):
            break
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, narration = process.communicate(timeout=60)
    assert process.returncode == 130, narration
    assert "interrupted" in narration
    recording = tracer.open(trace).recording("pt")
    assert recording.state == "failed"
    assert recording.attributes["error"] == "interrupted"
    assert 0 < len(recording.activations) < recording.planned
    for node in recording.activations:
        recording.read(node)


def test_nothing_to_compare_is_no_success(files: Path, tmp_path: Path) -> None:
    run("record", "tf", files / "model.keras", cwd=tmp_path)
    run("record", "pt", files / "plain.pt", "--name", "p", cwd=tmp_path)
    mapping = tmp_path / "m.yaml"
    mapping.write_text("ignore: {reference: ['*']}")
    done = run("diff", "--map", "m.yaml", cwd=tmp_path, code=3)
    assert "no layer in common" in done.stderr


def test_strict_wants_a_twin_for_every_layer(tmp_path: Path) -> None:
    pair = PAIRS["ecg_generic"]
    tracer.record(pair.keras(), pair.inputs(), trace=tmp_path / "trace.zarr")
    tracer.record(pair.torch(), trace=tmp_path / "trace.zarr")
    run("diff", cwd=tmp_path)
    run("diff", "--strict", cwd=tmp_path, code=4)
    (tmp_path / "m.yaml").write_text("ignore: {candidate: [permute]}")
    run("diff", "--strict", "--map", "m.yaml", cwd=tmp_path)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """Names with control sequences and markup reach no terminal as such."""
    import torch

    net = torch.nn.Sequential()
    names = ["\x1b[31mred", "[bold]x[/]", "a/b", "‮x", "zarr\tjson", "é" * 200]
    for name in names:
        net.add_module(name, torch.nn.Linear(3, 3))
    tracer.record(net, np.ones((2, 3), "f4"), trace=tmp_path / "trace.zarr")
    tracer.record(net, trace=tmp_path / "trace.zarr")
    done = run("diff", "--all", cwd=tmp_path)
    assert "\x1b" not in done.stdout
    assert "‮" not in done.stdout
    assert "\\x1b[31mred" in done.stdout
    assert "[bold]x[/]" in done.stdout
    assert {p["aligned"] for p in json.loads(run("diff", "--json", cwd=tmp_path).stdout)["pairs"]} >= set(names)


def test_no_colour_without_a_terminal(files: Path, tmp_path: Path) -> None:
    run("record", "tf", files / "model.keras", cwd=tmp_path)
    assert "\x1b" not in run("runs", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("nosuch", "nosuch"),
        ("record", "adapter"),
        ("diff --foo", "--foo"),
        ("diff --atol abc", "number"),
        ("diff --atol -1", "greater"),
        ("diff --atol nan", "greater"),
        ("diff --atol", "atol"),
        ("diff a b c", "c"),
        ("record tf x.h5 --memory x", "integer"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(arguments: str, says: str, tmp_path: Path) -> None:
    refused(*arguments.split(), cwd=tmp_path, says=says)


def test_help_and_version(tmp_path: Path) -> None:
    assert "Commands" in run(cwd=tmp_path, code=2).stderr
    assert "--input-shape" in run("record", "--help", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout.startswith("tracer ")
    assert "Traceback" in run("record", "tf", "no.h5", "--debug", cwd=tmp_path, code=2).stderr


def test_force_keeps_the_old_recording_until_the_new_one_is_whole(files: Path, tmp_path: Path) -> None:
    good = ("record", "pt", "--arch", f"{files}/model.py:Net", "--input-shape", TWICE)
    run(*good, cwd=tmp_path)
    trace = tracer.open(tmp_path / "trace.zarr")
    before = trace.recording("pt").created
    broken = ("record", "pt", "--arch", f"{files}/model.py:Broken", "--force")
    done = run(*broken, cwd=tmp_path, code=3)
    assert "the earlier 'pt' is as it was" in done.stderr
    assert trace.recording("pt").created == before
    assert trace.recording("pt").state == "complete"
    assert trace.recording("pt.new").state == "failed"
    run(*good, "--force", cwd=tmp_path)
    assert [r.name for r in trace.recordings()] == ["pt"]
    assert trace.recording("pt").created > before
