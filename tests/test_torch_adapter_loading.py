"""Model files load as data; code runs only where the user consented, and every refusal is one line."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tracer.adapter import LoadRequest
from tracer.errors import InputError, RefusedError
from tracer_torch import TorchAdapter
from tracer_torch.allowed import consented
from tracer_torch.model import TorchModel

NET = """
import enum
from torch import nn

class Mode(enum.Enum):
    FAST = 1

class Net(nn.Module):
    def __init__(self, hidden=5, out=2):
        super().__init__()
        self.mode = Mode.FAST
        self.conv = nn.Conv1d(3, hidden, 3)
        self.bn = nn.BatchNorm1d(hidden)
        self.fc = nn.Linear(hidden, out)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean(-1))

def build(hidden=5):
    return Net(hidden)

def broken():
    raise KeyError("no such configuration")

built = Net()
number = 3
"""


@pytest.fixture
def net(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    # A name of its own: modules of that name stay imported from one test to the next.
    path = tmp_path / f"net_{abs(hash(request.node.name)):x}.py"
    path.write_text(NET)
    return path


def load(path: Path | None, **more: Any) -> TorchModel:
    model = TorchAdapter().load(LoadRequest(path, **more))
    assert isinstance(model, TorchModel)
    return model


def refused(path: Path | None, match: str, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(path, **more)
    text = str(caught.value)
    assert re.search(match, text), text
    assert "\n" not in text
    assert "weights_only" not in text
    assert "\x1b" not in text
    return text


def arch(net: Path) -> nn.Module:
    return load(None, arch=f"{net}:build").module


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


WRAPPINGS: list[Callable[[dict[str, torch.Tensor]], Any]] = [
    lambda s: s,
    lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.5)},
    lambda s: {"model": {f"module.{k}": v for k, v in s.items()}, "optimizer": {"state": {}, "param_groups": [{}]}},
    lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    lambda s: {"state_dict": {**{f"model.{k}": v for k, v in s.items()}, "loss.weight": torch.ones(2)}},
    lambda s: {"hyper": {"path": Path("a/b"), "mean": np.arange(3.0)}, "my_net": s},
    lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    lambda s: {"discriminator": {"w": torch.ones(3)}, "net_d": {"x.y": torch.ones(2)}, "net_g": s},
]


@pytest.mark.parametrize("wrap", WRAPPINGS)
@pytest.mark.parametrize("legacy", [False, True])
def test_state_dicts_and_checkpoints(net: Path, tmp_path: Path, wrap: Callable[[Any], Any], legacy: bool) -> None:
    source = arch(net)
    source.get_parameter("fc.weight").data += 1
    path = tmp_path / "w.pth"
    torch.save(wrap(dict(source.state_dict())), path, _use_new_zipfile_serialization=not legacy)
    assert same(load(path, arch=f"{net}:Net").module, source)
    assert same(load(None, arch=f"{net}:Net", weights=path).module, source)


def test_safetensors(net: Path, tmp_path: Path) -> None:
    source = arch(net)
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    model = load(path, arch=f"{net}:build", arch_args={"hidden": 5})
    assert same(model.module, source)
    assert "safetensors" in model.loader
    refused(path, "holds tensors only: give --arch")
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    refused(path, "damaged", arch=f"{net}:build")
    path.write_bytes(b"\xff" * 8 + b"{" + data)
    refused(path, "truncated", arch=f"{net}:build")


def test_what_does_not_fit_is_named(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    state = dict(arch(net).state_dict())
    state["extra.weight"] = state.pop("fc.bias")
    torch.save(state, path)
    refused(path, r"1 missing \(fc.bias\); 1 unexpected \(extra.weight\)", arch=f"{net}:Net")
    torch.save(arch(net).state_dict(), path)
    refused(path, r"of another shape \(.*conv.weight \(file \(5, 3, 3\), model", arch=f"{net}:Net", arch_args=[7])
    refused(path, r"state dict with 9 tensors \(conv.weight, conv.bias and 7 more\).*--arch pkg.mod:callable")
    torch.save({"a": [1, 2], "b": "text"}, path)
    refused(path, "neither a module nor a state dict, but a dict with keys a, b")
    refused(path, "holds no state dict", arch=f"{net}:Net")


def test_architectures_that_cannot_be_built(net: Path) -> None:
    refused(None, r"raised KeyError: 'no such configuration'", arch=f"{net}:broken")
    refused(None, r"has no 'Nope'", arch=f"{net}:Nope")
    refused(None, r"no such file", arch=f"{net}x.py:Net")
    refused(None, r"cannot import 'no.such': ModuleNotFoundError", arch="no.such:Net")
    refused(None, r"TypeError: .*--arch-args", arch=f"{net}:Net", arch_args={"wrong": 1})
    refused(None, r"is a int, not a callable", arch=f"{net}:number")
    refused(None, r"made a Mode, not an nn.Module", arch=f"{net}:Mode", arch_args=[1])
    refused(None, r"not of the form", arch="Net")
    refused(None, r"no model")
    assert isinstance(load(None, arch=f"{net}:built").module, nn.Module)


def test_whole_modules_of_torch_load_without_consent(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.LSTM(4, 4),
        nn.TransformerEncoderLayer(8, 2, activation=torch.nn.functional.gelu), nn.MultiheadAttention(4, 2),
        nn.TransformerEncoderLayer(8, 2, activation=torch.tanh), nn.ModuleDict({"a": nn.Softmax(1)}),
        nn.ParameterList([torch.ones(2)]), nn.PixelShuffle(2), nn.Embedding(4, 2), nn.Unflatten(1, (2, 2)),
    )  # fmt: skip
    net.extra = {"mean": np.arange(3.0), "scale": np.float32(2), "where": Path("x"), "kind": torch.float16}  # type: ignore[assignment]
    path = tmp_path / "m.pt"
    torch.save(net, path)
    model = load(path)
    assert same(model.module, net)
    extra: Any = model.module.extra
    np.testing.assert_array_equal(extra["mean"], np.arange(3.0))
    assert extra["scale"] == np.float32(2)
    assert extra["kind"] is torch.float16
    assert "weights_only" in model.loader
    torch.save({"model": net, "epoch": 1}, path)
    assert same(load(path).module, net)
    torch.save(net, path, _use_new_zipfile_serialization=False)
    refused(path, r"format from before 1.6")
    assert same(load(path, trust=True).module, net)


def test_classes_of_the_user_need_consent(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    source = arch(net)
    torch.save(source, path)
    text = refused(path, r"wants .*Net.*--import FILE")
    for wanted in (f"{net.stem}.Mode", f"{net.stem}.Net", "--trust"):
        assert wanted in text
    assert same(load(path, imports=(str(net),)).module, source)
    assert same(load(path, allow=(f"{net.stem}.Net", f"{net.stem}.Mode")).module, source)
    assert same(load(path, trust=True).module, source)
    refused(path, r"wants .*Mode", allow=(f"{net.stem}.Net",))


@pytest.mark.parametrize("trust", [False, True])
def test_classes_of_a_script_are_found_in_its_file(net: Path, tmp_path: Path, trust: bool) -> None:
    path = tmp_path / "m.pt"
    source = arch(net)
    torch.save(source, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "main.pt", "w") as new:
        for member in old.infolist():
            new.writestr(member, old.read(member).replace(f"c{net.stem}\n".encode(), b"c__main__\n"))
    assert same(load(tmp_path / "main.pt", imports=(str(net),), trust=trust).module, source)
    refused(tmp_path / "main.pt", "Net.*--import", trust=trust)


class Evil:
    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call = call, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_and_has_not_run(net: Path, tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "evil.pt"
    for evil in (Evil(os.system, f"touch {marker}"), Evil(eval, f"open({str(marker)!r}, 'w')")):
        for content in ({"state_dict": {"w": torch.ones(2)}, "x": evil}, evil):
            torch.save(content, path, _use_new_zipfile_serialization=not legacy)
            with pytest.raises(RefusedError):
                load(path)
            refused(path, r"system|eval", arch=f"{net}:Net", imports=(str(net),))
    path.write_bytes(pickle.dumps(Evil(os.system, f"touch {marker}"), protocol=4))
    refused(path, "system|damaged")
    # The harmless stand-ins lend themselves to nothing more.
    path.write_bytes(b"")
    torch.save({"x": Evil(getattr, vars(torch._C)["_VariableFunctionsClass"], "from_file")}, path)
    refused(path, r"torch.from_file")
    torch.save({"x": Evil(np.dtype, "O")}, path)
    refused(path, r"numpy.dtype\('O'\)")
    refused(path, "any code: if that is wanted say --trust", allow=("builtins.eval",))
    refused(path, "--allow no.Such: ModuleNotFoundError", allow=("no.Such",))
    assert not marker.exists()


def test_what_the_process_allowed_before_stays_allowed(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    before = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([nn.Linear]):
        load(path)
        assert nn.Linear in torch.serialization.get_safe_globals()
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_torchscript_and_exports_are_refused_without_trust(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    trace: Any = torch.jit.trace
    traced = trace(nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(traced, path)
    refused(path, "TorchScript.*nn.Module.*--trust")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/models/model.json", "{}")
    refused(path, "torch.export.*nn.Module.*--trust")


def test_damaged_and_foreign_files_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(400)}, path)
    data = path.read_bytes()
    for cut in (1, 4, 100, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:cut])
        refused(path, "damaged|not a PyTorch file")
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(400)}, buffer, _use_new_zipfile_serialization=False)
    for cut in (3, 50, 400, len(buffer.getvalue()) - 400):
        path.write_bytes(buffer.getvalue()[:cut])
        refused(path, "damaged")
    for content, match in {
        b"": "is empty",
        b"version https://git-lfs.github.com/spec/v1\noid": "git lfs pull",
        b"<!DOCTYPE html><html>": "web page",
        b"\x89HDF\r\n\x1a\n": "tracer record tf",
        b"\x93NUMPY": "numpy",
        b"hello": "not a PyTorch file",
    }.items():
        path.write_bytes(content)
        refused(path, match)
    refused(tmp_path, "is a directory")
    refused(tmp_path / "none.pt", "no such file")
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "named pipe")


def test_bombs_are_refused_at_once(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(1).expand(10**12)}, path)
    refused(path, r"'w' claims 4,000,000,000,000 bytes but stores 4", arch=f"{net}:Net")
    big = nn.Linear(1, 1)
    big.weight = nn.Parameter(torch.zeros(1).expand(2**20, 2**20))
    torch.save(big, path)
    refused(path, "claims")
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    started = time.perf_counter()
    refused(path, "zip bomb|compressed records")
    assert time.perf_counter() - started < 0.5


class Seizes(nn.Module):
    """A class of the user's with attributes named like methods that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.type = "Conv"  # type: ignore[assignment]
        self.my_hooks: list[int] = []
        self.fc = nn.Linear(2, 2)


def test_what_is_no_sound_module_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    relu = nn.ReLU()

    def spoilt(**attributes: Any) -> nn.Module:
        net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        vars(net).update(attributes)
        return net

    net = spoilt()
    for name in ("_modules", "_parameters", "_buffers", "_forward_hooks"):
        for value in (relu, None, [1]):
            torch.save(spoilt(**{name: value}), path)
            refused(path, f"holds a damaged Sequential: its {name} is a")
    for name in ("named_modules", "named_parameters", "named_buffers", "children", "eval", "forward", "_call_impl"):
        torch.save(spoilt(**{name: relu}), path)
        refused(path, f"in place of the method '{name}' of a Sequential")
    wrong: list[tuple[str, Any, Any]] = [
        ("_modules", 5, relu), ("_modules", "w", torch.ones(2)), ("_parameters", "w", 5), ("_buffers", "w", "x"),
    ]  # fmt: skip
    for name, key, thing in wrong:
        net = spoilt()
        getattr(net, name)[key] = thing
        torch.save({"model": net, "epoch": 1}, path)
        refused(path, f"damaged Sequential: .* in its {name} is a")
    torch.save(spoilt(training=relu), path)
    refused(path, "'training' is not True or False")
    net = spoilt()
    net._modules["2"] = nn.Sequential(net)
    torch.save(net, path)
    refused(path, "a Sequential that contains itself")
    conv = nn.Conv1d(2, 2, 1)
    conv.kernel_size = 3  # type: ignore[assignment]
    torch.save(nn.Sequential(conv), path)
    refused(path, "damaged Sequential: TypeError")
    # Live objects are the user's own, and so are the attributes of the user's classes.
    seizes = Seizes()
    torch.save(seizes, path)
    assert same(load(path, allow=(f"{Seizes.__module__}.Seizes",)).module, seizes)


def test_shared_parts_are_walked_once(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    bomb: Any = [torch.ones(1)]
    named: Any = {"w": [1]}
    for _ in range(60):
        bomb, named = [bomb] * 10, dict.fromkeys(("model", "net", "a", "b"), named)
    shared: nn.Module = nn.ReLU()
    for _ in range(60):
        pair = nn.Module()
        pair.a, pair.b = nn.Sequential(shared), nn.Sequential(shared)
        shared = pair
    started = time.perf_counter()
    torch.save([bomb, named], path)
    refused(path, "but a list")
    torch.save(named, path)
    refused(path, "holds no state dict", arch=f"{net}:Net")
    torch.save(shared, path)
    refused(path, "shared so often")
    assert time.perf_counter() - started < 5
    deep: Any = torch.zeros(1).expand(10**12)
    for _ in range(12):
        deep = [deep]
    torch.save(deep, path)
    refused(path, "claims")
    cycle: Any = {}
    cycle["model"] = cycle
    torch.save(cycle, path)
    refused(path, "neither a module nor a state dict")


def test_no_consent_is_offered_that_would_be_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    for evil in (Evil(os.system, "true"), Evil(np.dtype, "O"), Evil(eval, "1")):
        torch.save({"x": evil}, path)
        text = refused(path, "refused; only --trust")
        assert "--allow" not in text
        assert "--import" not in text
    torch.save({"x": [Evil(os.system, "true"), Seizes()]}, path)
    refused(path, r"calls (posix|nt).system and would run code")
    for name in ("os.system", "torch.os.system", "tempfile._os.system"):  # the same by other ways
        with pytest.raises(RefusedError, match="would let the file run any code"):
            consented((), [name])


def test_tensors_of_the_file_that_were_not_used_are_named(net: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    state = {f"encoder.{key}": value for key, value in arch(net).state_dict().items()}
    torch.save(state, path)
    assert load(path, arch=f"{net}:Net").notes == ()
    extra = {"loss.weight": torch.ones(2), "decoder.a": torch.ones(1), "decoder.b": torch.ones(1)}
    torch.save({"state_dict": state | extra}, path)
    model = load(path, arch=f"{net}:Net")
    assert len(model.notes) == 1
    assert re.search(r"3 tensors of .* not used.*: loss.weight, decoder.a and 1 more", model.notes[0])
    torch.save(state | {"loss.weight": torch.ones(2), "loss.num_batches_tracked": torch.ones(1)}, path)
    assert load(path, arch=f"{net}:Net").notes[0].startswith("1 tensor of ")
