"""The public Python interface: complete, documented, typed, and what it says to mistakes."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tracer

ROOT = Path(__file__).parent.parent


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, and every public method of every public class that is ours."""
    for name in tracer.__all__:
        value = getattr(tracer, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for own, member in vars(value).items():
                function = getattr(member, "__func__", member)
                if not own.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{own}", function


def faults(name: str, function: Callable[..., Any]) -> list[str]:
    """What the docstring and the signature of a function lack."""
    text = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    given = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    found = [] if text else [f"{name}: no docstring"]
    found += [f"{name}: {one.name} is not annotated" for one in given if one.annotation is inspect.Parameter.empty]
    if signature.return_annotation is inspect.Signature.empty:
        found.append(f"{name}: what it returns is not annotated")
    words = set(re.findall(r"\w+", text))
    found += [f"{name}: {one.name} is not documented" for one in given if one.name not in words]
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    if any(isinstance(node, ast.Raise) for node in ast.walk(tree)) and not re.search(r"\b[Rr]aises\b", text):
        found.append(f"{name}: does not say what it raises")
    return found


def test_every_public_function_is_documented_and_typed() -> None:
    found = list(public())
    assert len(found) > 60
    assert [fault for name, function in found for fault in faults(name, function)] == []
    silent = [
        name for name, function in found
        if "." not in name and not re.search(r"\b[Rr]aises\b", inspect.getdoc(function) or "")
    ]  # fmt: skip
    assert silent == []


def test_every_public_class_is_documented() -> None:
    found = []
    for name in tracer.__all__:
        value = getattr(tracer, name)
        if not inspect.isclass(value):
            continue
        text = inspect.getdoc(value) or ""
        if not text or text.startswith(f"{name}("):  # what dataclass makes of none
            found.append(name)
        for own, member in vars(value).items():
            getter = member.fget if isinstance(member, property) else getattr(member, "func", None)
            if own.startswith("_") or not isinstance(member, property | cached_property) or getter is None:
                continue
            if "return" not in getter.__annotations__:
                found.append(f"{name}.{own}: not annotated")
            if not inspect.getdoc(getter):
                found.append(f"{name}.{own}: not documented")
        if is_dataclass(value):
            found += [f"{name}.{one.name}: not annotated" for one in fields(value) if not one.type]
    assert found == []


class Net(nn.Module):
    """What the tests record."""

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.LeakyReLU(slope))
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.encoder(x).mean(2))
        return out


X = np.random.default_rng(0).normal(size=(2, 3, 6)).astype("f4")


@pytest.fixture
def cache(request: pytest.FixtureRequest) -> pytest.Cache:
    """What mypy found out about tracer's own modules is kept from run to run."""
    assert request.config.cache is not None
    return request.config.cache


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> tracer.Trace:
    path = tmp_path_factory.mktemp("api") / "trace.zarr"
    for name, slope in (("right", 0.0), ("wrong", 0.2)):
        tracer.record(Net(slope).eval(), X, name=name, trace=path, loss="square")
    return tracer.open(path)


@pytest.fixture(scope="module")
def pair(trace: tracer.Trace) -> tuple[tracer.Recording, tracer.Recording]:
    return trace.recording("right"), trace.recording("wrong")


SCRIPT = """
import tracer


def compare(path: str, model: object) -> int:
    trace: tracer.Trace = tracer.open(path)
    a: tracer.Recording = tracer.record(model, trace=path, name="a")
    b = tracer.record_file("model.h5", trace=path, layers=["conv*"])
    d: tracer.Diff = tracer.diff(a, b, atol=1e-4)
    first: tracer.PairDiff | None = d.first
    if first is not None and first.stats is not None:
        error: float = first.stats.rel_l2
        print(error, first.cause, first.fix, first.verdict == tracer.Verdict.DIVERGED)
    why: tracer.Explained = tracer.explain(a, b, only="conv*")
    for finding in why.findings:
        print(finding.cause, finding.fixes)
    table: tracer.WeightTable = tracer.weights(a, b)
    print(table.rows[0].status, len(d.to_pandas()))
    with tracer.attach(model, every=10) as attached:
        print(attached.fault)
    try:
        moved: tracer.Transferred = tracer.transfer(a, b, "out.pt")
        print(moved.missing)
    except tracer.TransferError as fault:
        print(fault.transferred)
    print(tracer.export(b, "b.npz", like=a).keys)
    print(a.read("conv").mean(), a.read_gradient("conv").shape, tracer.find(a, "conv")[0].statistics["std"])
    return len(trace.recordings())
"""


def test_a_script_is_checked_with_the_installed_types_alone(tmp_path: Path, cache: pytest.Cache) -> None:
    """``py.typed``: a user's strict mypy knows every public name, and finds a wrong one."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "wrong.py").write_text("import tracer\n\nnumber: int = tracer.open('x').recordings()\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(cache.mkdir("mypy")),
         "--follow-imports", "silent", "script.py", "wrong.py"],
        cwd=tmp_path, capture_output=True, text=True, env={"PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("script.py")] == [], done.stdout + done.stderr
    assert any(line.startswith("wrong.py:3") and "list[Recording]" in line for line in lines), done.stdout


def test_what_the_command_line_does_has_a_function(
    trace: tracer.Trace,
    pair: tuple[tracer.Recording, tracer.Recording],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRACER_RUNTIME", str(tmp_path))  # where no daemon is
    a, b = pair
    d = tracer.diff(a, b)
    assert d.first is not None
    assert (d.first.aligned, d.first.cause) == ("encoder.1", "activation-param")
    frame = d.to_pandas()
    assert [*frame.columns[:5]] == ["number", "verdict", "reference", "candidate", "operation"]
    assert len(frame) == len(d.pairs)
    assert frame.set_index("reference").loc["encoder.1", "rel_l2"] == d.first.stats.rel_l2  # type: ignore[union-attr]
    assert {frame[name].dtype.name for name in ("max_abs", "local", "floor")} == {"float64"}  # local is all missing
    assert frame["local"].isna().all()
    assert tracer.explain(a, b).to_pandas()["cause"].tolist() == ["activation-param"]
    assert set(tracer.weights(a, b).to_pandas()["status"]) == {"equal"}
    alignment = tracer.align(a, b)
    file = tmp_path / "map.yaml"
    tracer.save_mapping(alignment, file, reference=a.name, candidate=b.name)
    assert tracer.diff(a, b, map=tracer.load_mapping(file)).first is not None
    with pytest.raises(tracer.InputError, match="--force replaces it"):
        tracer.save_mapping(alignment, file)
    found = tracer.inspect(Net())
    assert found["totals"]["parameters"] == sum(p.numel() for p in Net().parameters())
    grafted = tracer.graft(a, b, models=(Net().eval(), Net(0.2).eval()), at="encoder.1")
    assert grafted
    explained = tracer.graft(a, b, models=(Net().eval(), Net(0.2).eval()))
    assert isinstance(explained, tracer.Explanation)
    assert explained.to_pandas()["pairs"].tolist() == ["encoder.1"]
    _, after = tracer.pack(trace, ["wrong"])
    assert tracer.diff(*pair).first is not None
    assert tracer.pack(trace, ["wrong"], unpack=True)[0] == after
    with pytest.raises(tracer.InputError, match="no URL of an object store"):
        tracer.push(trace, "elsewhere")
    with pytest.raises(tracer.InputError, match="one run, not a recording of many steps"):
        tracer.steps(a, b)
    with pytest.raises(tracer.InputError, match="no daemon runs"):
        next(tracer.watch())


def test_a_file_is_recorded_as_the_command_does(tmp_path: Path) -> None:
    torch.save(Net().state_dict(), tmp_path / "net.pt")
    source = f"import torch\nfrom torch import nn\n\n{textwrap.dedent(inspect.getsource(Net))}"
    (tmp_path / "net.py").write_text(source)
    arch = f"{tmp_path}/net.py:Net"
    recording = tracer.record_file(tmp_path / "net.pt", X, arch=arch, trace=tmp_path / "t.zarr", layers="encoder")
    assert recording.name == "pt"
    assert set(recording.activations) == {"x", "encoder.0", "encoder.1"}
    live = tracer.record(Net().eval(), trace=tmp_path / "t.zarr")
    np.testing.assert_array_equal(live.read("encoder.1"), recording.read("encoder.1"))
    with pytest.raises(tracer.InputError, match="a mapping of arrays, or one array"):
        tracer.record(tmp_path / "net.pt", [X], trace=tmp_path / "t.zarr")
    with pytest.raises(tracer.InputError, match="the model does not take x"):  # which the other process finds
        tracer.record_file(tmp_path / "net.pt", X[:, 0], arch=arch, trace=tmp_path / "t.zarr", name="bad")


def test_a_comparison_is_one_line_at_a_prompt(pair: tuple[tracer.Recording, tracer.Recording]) -> None:
    """pytest shows it of ``assert tracer.diff(a, b)``, and cuts what is longer than 240 characters."""
    assert re.fullmatch(r"<Diff right ⇄ wrong: diverged first at \S+ \(\S+\), \d+ pairs>", repr(tracer.diff(*pair)))
    assert re.fullmatch(r"<Diff right ⇄ right: match, \d+ pairs>", repr(tracer.diff(pair[0], pair[0])))
    first = tracer.diff(*pair).first
    assert re.fullmatch(r"<PairDiff encoder\.1 ⇄ encoder\.1: diverged, max_abs \S+>", repr(first))


def test_what_is_no_recording_and_no_tolerance_is_said(pair: tuple[tracer.Recording, tracer.Recording]) -> None:
    wrong: Any = "right"
    for call in (tracer.diff, tracer.explain, tracer.graft, tracer.transfer, tracer.weights):
        with pytest.raises(tracer.InputError, match=r"a recording is wanted, not str: .*\.recording\('tf'\)"):
            call(pair[0], wrong)
    for bad in ("0.1", float("nan"), -1.0, None):
        given: Any = bad
        with pytest.raises(tracer.InputError, match="rtol is to be a number, 0 or more, not"):
            tracer.diff(*pair, rtol=given)
    with pytest.raises(tracer.InputError, match="of= takes 'values' or 'gradients', not 'weights'"):
        tracer.diff(*pair, of=(wrong := "weights"))
    assert tracer.Tolerance(float("inf"), np.float32(0)).atol == float("inf")


def test_gradients_and_weights_are_read_by_name(pair: tuple[tracer.Recording, tracer.Recording]) -> None:
    """Grad-CAM from a recording equals Grad-CAM by hooks."""
    net = Net().eval()
    kept: list[torch.Tensor] = []
    handle = net.encoder.register_forward_hook(lambda _, __, out: kept.append(out))
    out = net(torch.from_numpy(X))
    handle.remove()
    gradient = torch.autograd.grad(out.square().sum() / 2, kept[-1])[0]
    expected = torch.relu((gradient.mean(2, keepdim=True) * kept[-1]).sum(1)).detach().numpy()
    recording = pair[0]
    activation, recorded = recording.read("encoder.1"), recording.read_gradient("encoder.1")
    cam = np.maximum((recorded.mean(2, keepdims=True) * activation).sum(1), 0)
    np.testing.assert_allclose(cam, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(recording.read_weight("head", "weight"), net.head.weight.detach().numpy())
    with pytest.raises(KeyError):
        recording.read_weight("head", "kernel")
    (found,) = tracer.find(recording, "encoder.1")
    assert found.statistics["max"] == pytest.approx(float(activation.max()))
    assert found.statistics["std"] == pytest.approx(float(activation.std()), rel=1e-4)


def test_without_pandas_one_line_says_what_to_install(
    pair: tuple[tracer.Recording, tracer.Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    d = tracer.diff(*pair, causes=False)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(tracer.MissingFrameworkError, match=r"pip install 'tracer-nn\[pandas\]'"):
        d.to_pandas()
