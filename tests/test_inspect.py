"""tracer inspect: the table adds up and fits, files of weights are listed, refused files described."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from torch import nn

from tests.cli import run
from tracer import adapter as adapters
from tracer import inspection
from tracer.adapter import LoadRequest
from tracer.cli.inspecting import guess_adapter
from tracer.errors import InputError, NoModelError
from tracer.graph import Node, Structure
from tracer.report import outline

DOCS = Path(__file__).parent.parent / "docs" / "inspect.md"


class Net(nn.Module):
    """Containers, a shared layer, a parameter of its own, a part that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(8))
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
        self.shared = nn.Linear(8, 8)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shared(self.shared(self.encoder(x + self.token)))


def keras_model() -> Any:
    import keras

    x = keras.Input((8, 3), name="x")
    h = keras.layers.Conv1D(4, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    h = keras.layers.BatchNormalization(name="norm")(h)
    inner = [
        keras.Input((4, 4)),
        keras.layers.Dense(5, activation="gelu", name="dense"),
        keras.layers.Dropout(0.5, name="dropout"),
    ]
    h = keras.Sequential(inner, name="inner")(h)
    return keras.Model(x, keras.layers.Flatten(name="flat")(h))


def looked(adapter: str, model: object, *shape: str) -> dict[str, Any]:
    return inspection.inspect(adapters.get(adapter).wrap(model), shape)


def rows(found: dict[str, Any], **options: Any) -> list[outline.Line]:
    sizes = [(p["owner"], p["name"], math.prod(p["shape"])) for p in found["parameters"]]
    return outline.lines(*outline.outline(Structure.from_json(found["structure"]), sizes), **options)


def total(lines: list[outline.Line]) -> int:
    return sum(int(line.parameters.replace(",", "")) for line in lines if line.parameters not in ("", "shared"))


def test_the_table_is_nested_and_adds_up() -> None:
    found = looked("pt", Net(), "2,8")
    lines = rows(found)
    assert [("  " * line.deep + line.name, line.parameters) for line in lines] == [
        ("x", ""), ("add", "8"), ("encoder", ""), ("  0", "72"), ("  1", ""), ("    0", "72"), ("    1", ""),
        ("shared#0", "72"), ("shared#1", "shared"), ("idle", "12"),
    ]  # fmt: skip
    assert lines[-1].output == "not run"
    assert total(lines) == found["totals"]["parameters"] == 236
    folded = rows(found, depth=1)
    assert [(line.name, line.parameters) for line in folded][2] == ("encoder", "144")
    assert folded[2].configuration == "[4 inside]"
    assert total(folded) == total(rows(found, depth=2)) == 236
    assert [line.name for line in rows(found, whole=True)][5] == "encoder.1.0"


def test_a_fused_activation_is_part_of_its_layer() -> None:
    found = looked("tf", keras_model())
    lines = {line.name: line for line in rows(found)}
    assert list(lines) == ["x", "conv", "norm", "inner", "dense", "dropout", "flat"]
    assert lines["conv"].operation == "Conv1D"
    assert lines["conv"].parameters == "40"
    assert lines["conv"].configuration == "kernel_size=3 strides=2 padding=same activation=relu"
    assert "use_bias=True" in {line.name: line for line in rows(found, whole=True)}["conv"].configuration
    assert lines["dense"].deep == 1
    totals = found["totals"]
    assert (totals["parameters"], totals["trainable"], totals["parameter_bytes"]) == (81, 73, 324)
    stored = {"x": 48, "conv": 2 * 32, "norm": 32, "dense": 2 * 40, "flat": 40}
    assert totals["activation_bytes"] == 4 * sum(stored.values())
    assert totals["nodes"] == {"input": 1, "layer": 5, "container": 1, "activation": 2}


def test_the_activation_that_a_graph_fused_is_named() -> None:
    before = Node("c/preactivation", "conv2d", "Conv2D", "activation", config={"kernel_size": [3, 3]}, owner="c")
    after = Node("c", "relu6", "Conv2D.Relu6", parents=(before.name,), owner="c")
    [line] = outline.lines(*outline.outline(Structure((before, after), ("c",)), ()))
    assert line.configuration == "kernel_size=3×3 activation=relu6"


def test_a_last_dropout_stays_in_its_call_of_a_shared_model() -> None:
    import keras

    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="d"), keras.layers.Dropout(0.5, name="o")])
    x = keras.Input((4,))
    lines = rows(looked("tf", keras.Model(x, inner(inner(x)))))
    assert [line.name for line in lines if line.deep] == ["d#0", "o#0", "d#1", "o#1"]
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5, name="o"), keras.layers.Dense(4, name="d")])
    lines = rows(looked("tf", keras.Model(x, inner(inner(x)))))
    assert [line.name for line in lines if line.deep] == ["o#0", "d#0", "o#1", "d#1"]


def test_columns_fit_and_lose_only_what_they_must() -> None:
    table = [["name", "op", "n", "configuration"], ["  " + "block_" * 9 + "1", "Conv", "12", "a=1 " * 30 + "end"]]
    table.append(["層" * 30, "x" * 40, "1,000", "short"])
    for width in (50, 80, 120):
        text = "\n".join(outline.columns(table, width=width, right=frozenset({2})))
        assert max(map(cell_len, text.splitlines())) <= width
        assert "…" in text
        assert "1,000" in text
    whole = outline.columns(table, width=None)
    assert len(whole) == 3
    assert all(cell.strip() in line for cells, line in zip(table, whole, strict=True) for cell in cells)


def test_the_command_in_a_pipe_of_80_columns(tmp_path: Path) -> None:
    keras_model().save(tmp_path / "model.keras")
    text = run("inspect", "model.keras", "--ascii", cwd=tmp_path, COLUMNS="80").stdout
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80
    for line in ("input x: ?x8x3 float32 channels last (fed 2x8x3)", "output flat: 2x20 float32",
                 "parameters: 81 (73 trainable, 8 not), 324 B", "runs code on loading: nothing"):  # fmt: skip
        assert line in text.splitlines()
    assert re.search(r"^  dense +Dense +2x4x5 +25  activation=gelu$", text, re.MULTILINE)
    assert "\x1b" not in text
    found = json.loads(run("inspect", "model.keras", "--json", cwd=tmp_path).stdout)
    documented = re.findall(r"^\| (`.*?`) \|", DOCS.read_text(), re.MULTILINE)
    assert {name.strip("`") for cell in documented for name in cell.split(", ")} == set(found)
    assert found["schema"] in DOCS.read_text()


# -- files of weights ----------------------------------------------------------------------------------------------


def test_files_of_weights_are_listed(tmp_path: Path) -> None:
    import safetensors.torch

    state = Net().state_dict()
    torch.save(state, tmp_path / "state.pt")
    torch.save(
        {"epoch": 1, "ema": {**state}, "model": state, "optimizer": {"m": torch.ones(9)}}, tmp_path / "check.ckpt"
    )
    safetensors.torch.save_file({k: v.bfloat16() for k, v in state.items()}, tmp_path / "s.safetensors")
    adapter = adapters.get("pt")
    names = list(state)
    listed = {
        name: adapter.tensors(LoadRequest(tmp_path / name)) for name in ("state.pt", "check.ckpt", "s.safetensors")
    }
    assert [p.name for p in listed["state.pt"]] == names
    assert [p.name for p in listed["check.ckpt"]] == [f"{k}.{n}" for k in ("model", "ema") for n in names]
    assert {p.name: (p.shape, p.dtype) for p in listed["s.safetensors"]} == {
        name: (tuple(value.shape), "bfloat16") for name, value in state.items()
    }
    for name in listed:
        with pytest.raises(NoModelError):
            adapter.load(LoadRequest(tmp_path / name))
    done = run("inspect", "s.safetensors", cwd=tmp_path)
    assert "9 tensors: 236 elements, 472 B" in done.stdout
    assert re.search(r"^encoder\.0\.weight +8×8 +bfloat16 +64$", done.stdout, re.MULTILINE)
    assert "give --arch" in done.stderr
    found = json.loads(run("inspect", "check.ckpt", "--json", cwd=tmp_path).stdout)
    assert (found["loader"], found["refused"], len(found["tensors"])) == (None, None, 18)
    assert "holds no" not in found["why_no_structure"]


def test_keras_weights_are_listed_in_the_order_of_the_layers(tmp_path: Path) -> None:
    import tf_keras

    model = keras_model()
    model.save_weights(tmp_path / "new.weights.h5")
    old = tf_keras.Sequential([tf_keras.Input((2,)), *(tf_keras.layers.Dense(2, name=f"l{i}") for i in (2, 10, 1))])
    old.save_weights(tmp_path / "old.h5")
    adapter = adapters.get("tf")
    new = adapter.tensors(LoadRequest(tmp_path / "new.weights.h5"))
    assert sum(math.prod(p.shape) for p in new) == 81
    names = [p.name for p in adapter.tensors(LoadRequest(tmp_path / "old.h5"))]
    assert names == [f"{n}/{n}/{w}:0" for n in ("l2", "l10", "l1") for w in ("kernel", "bias")]
    with pytest.raises(NoModelError, match="holds weights only"):
        adapter.load(LoadRequest(tmp_path / "old.h5"))


# -- what would run code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_refused_model_is_described(suffix: str, tmp_path: Path) -> None:
    import keras

    class Mine(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any) -> Any:
            return x

    keras.utils.clear_session()  # names in the file begin with whatever scope an earlier test was torn from
    marker = tmp_path / "marker"
    touch = eval(f"lambda t: (__import__('pathlib').Path({str(marker)!r}).touch(), t)[1]")
    x = keras.Input((4,))
    h = keras.layers.Lambda(touch, name="twice")(keras.layers.Dense(3, name="d")(x))
    keras.Model(x, Mine(name="own")(h)).save(tmp_path / f"model{suffix}")
    marker.unlink()
    done = run("inspect", f"model{suffix}", cwd=tmp_path, code=2)
    assert len(done.stderr.splitlines()) == 1
    assert "layer 'twice' is a Lambda layer that holds Python code; --trust runs it" in done.stderr
    text = done.stdout.splitlines()
    assert f"model{suffix}: tensorflow, not loaded" in text
    found = [line for line in text[text.index("runs code on loading:") :] if line.startswith("  ")]
    assert [line.split("'")[1] for line in found] == ["twice", "own"]
    assert ("model_weights/d/d/kernel" in done.stdout) == (suffix == ".h5")
    if suffix == ".h5":
        raw = json.loads(run("inspect", "model.h5", "--json", cwd=tmp_path, code=2).stdout)
        assert "Lambda" in raw["refused"]
        assert len(raw["runs_code"]) == 2
    assert not marker.exists()


def test_consent_leaves_what_ran_in_the_report(tmp_path: Path) -> None:
    import keras

    x = keras.Input((4,))
    keras.Model(x, keras.layers.Lambda(lambda t: t * 2, name="twice")(x)).save(tmp_path / "model.keras")
    text = run("inspect", "model.keras", "--trust", cwd=tmp_path).stdout
    assert "  layer 'twice' is a Lambda layer" in text
    assert "keras 3" in text


def test_a_pickle_that_calls_is_described(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "marker"),)

    torch.save({"weights": torch.ones(2), "more": Call()}, tmp_path / "code.pt")
    done = run("inspect", "code.pt", cwd=tmp_path, code=2)
    assert "runs code on loading:" in done.stdout
    assert "mkdir" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "marker").exists()


def test_what_is_damaged_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 and no more")
    done = run("inspect", "cut.pt", cwd=tmp_path, code=2)
    assert done.stdout == ""
    assert "cut.pt" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- weights, and whose file it is -------------------------------------------------------------------------------


def test_weights_of_a_container_and_of_a_glob(tmp_path: Path) -> None:
    model = adapters.get("pt").wrap(Net())
    saved = inspection.save_weights(model, "encoder", tmp_path)
    assert saved == ["encoder.0.weight", "encoder.0.bias", "encoder.1.0.weight", "encoder.1.0.bias"]
    assert np.load(tmp_path / "2.npy").shape == (8, 8)
    kept = inspection.keep_weights(tmp_path, saved, tmp_path / "out.npy")
    assert [Path(name).name for name in kept] == [f"out.{name}.npy" for name in saved]
    assert inspection.save_weights(model, "*d*", tmp_path) == [
        *saved, "shared.weight", "shared.bias", "idle.weight", "idle.bias"
    ]  # fmt: skip
    assert inspection.save_weights(model, "shared#1", tmp_path) == ["weight", "bias"]
    with pytest.raises(InputError, match="no layer 'encodr' with weights; there is encoder"):
        inspection.save_weights(model, "encodr", tmp_path)


def test_the_adapter_is_guessed_from_name_or_content(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "weights")
    keras_model().save(tmp_path / "model.h5")
    (tmp_path / "model.h5").rename(tmp_path / "model.bak")
    assert guess_adapter(tmp_path / "weights", None) == "pt"
    assert guess_adapter(tmp_path / "model.bak", None) == "tf"
    assert guess_adapter(Path("missing.safetensors"), None) == "pt"
    with pytest.raises(InputError, match="cannot tell the framework of --arch a:b: say --adapter"):
        guess_adapter(None, "a:b")
    (tmp_path / "notes").write_text("milk")
    with pytest.raises(InputError, match="cannot tell"):
        guess_adapter(tmp_path / "notes", None)
