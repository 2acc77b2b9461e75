"""TorchScript is recorded operation by operation, as the nn.Module it came from is."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests import cli
from tests.programs import (
    Cnn,
    Evil,
    Loop,
    Odd,
    Raising,
    State,
    Transformer,
    random,
    recorded,
    reloaded,
    same_recording,
    scripted,
    traced,
)
from tracer.adapter import InputSpec, LoadRequest, MemorySink, Run
from tracer.errors import InputError, ModelError, RefusedError
from tracer.inputs import generate
from tracer_torch import TorchAdapter
from tracer_torch.scripted import Script

CASES: dict[str, tuple[type[nn.Module], dict[str, Tensor], bool]] = {
    "cnn": (Cnn, {"x": random(2, 3, 16, 16)}, True),
    "loop": (Loop, {"x": random(2, 3, 4)}, False),
    "transformer": (Transformer, {"ids": torch.arange(10).reshape(2, 5)}, True),
    "state": (State, {"x": random(2, 3)}, False),
}
FUNCTIONS = ("return_indices",)
"""Words that F.max_pool2d says of itself and the operator behind it does not."""


@pytest.mark.parametrize("name", CASES)
def test_scripted_modules_read_like_their_modules(name: str) -> None:
    made, inputs, traceable = CASES[name]
    net = made().eval()
    its = recorded(copy.deepcopy(net), inputs)
    script = scripted(net)
    for mine in (script, reloaded(script)):
        same_recording(recorded(mine, inputs), its, besides=FUNCTIONS)
    if traceable:
        trace = traced(net, *inputs.values())
        for mine in (trace, reloaded(trace)):
            # Tracing writes a single size out for each axis, and forgets settings that no operator has.
            besides = (*FUNCTIONS, "num_heads", "num_layers", "dropout")
            same_recording(recorded(mine, inputs), its, besides=besides)


def test_the_source_line_is_that_of_the_module(tmp_path: Path) -> None:
    known = ["max_pool2d", "mean", "cat", "mul", "softmax"]
    net = Cnn().eval()
    # Of a function that is another's argument scripting keeps no line.
    for script, names in ((scripted(net), known), (traced(net, random(2, 3, 16, 16)), [*known, "relu"])):
        nodes = recorded(reloaded(script), {"x": random(2, 3, 16, 16)})[0].by_name
        for name in names:
            assert "programs.py:" in str(nodes[name].source), name


class Watch(TorchDispatchMode):
    """Counts what torch really computes, below TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["cnn", "loop", "state"])
def test_every_operation_that_runs_is_run_and_accounted_for(name: str) -> None:
    """What the program computes by itself and what is computed one by one are the same operations, as often."""
    made, inputs, _ = CASES[name]
    script = scripted(made().eval())
    unoptimised: Any = torch.jit.optimized_execution  # type: ignore[attr-defined]
    plain = copy.deepcopy(script)
    with torch.no_grad(), Watch() as whole, unoptimised(False):
        plain(*inputs.values())
    program = Script(copy.deepcopy(script))
    reported: Counter[str] = Counter()
    own = program.operation

    def counted(operation: Any, args: Any) -> Any:
        with Watch() as inside:
            result = own(operation, args)
        reported.update(inside.seen)
        return result

    program.operation = counted  # type: ignore[method-assign]
    with torch.no_grad(), Watch() as steps:
        program.root(*inputs.values())
    assert steps.seen == whole.seen
    assert reported == whole.seen


def test_silero_vad(tmp_path: Path) -> None:
    package = pytest.importorskip("silero_vad")
    path = Path(package.__file__).parent / "data" / "silero_vad.jit"
    np.savez(tmp_path / "in.npz", x=random(3, 512).numpy() * 0.1, sr=np.array(16000))
    cli.refused("record", "pt", path, cwd=tmp_path, says="is TorchScript, which runs code while it is loaded")
    done = cli.run("record", "pt", path, "--trust", "--input", "in.npz", cwd=tmp_path)
    assert "33 of 33 activations (49 nodes)" in done.stdout
    assert "3×512, scalar" in done.stdout

    model = TorchAdapter().load(LoadRequest(path, trust=True))
    assert [(spec.name, spec.shape, spec.dtype) for spec in model.signature()][1] == ("sr", (), "int64")
    structure, sink = recorded(model, {"x": random(3, 512) * 0.1, "sr": torch.tensor(16000)})
    kinds = Counter(node.kind for node in structure if node.role == "layer")
    assert (kinds["conv1d"], kinds["lstm_cell"], kinds["relu"], kinds["sigmoid"]) == (5, 1, 5, 1)
    load: Any = torch.jit.load
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = load(path)(random(3, 512) * 0.1, 16000)
    np.testing.assert_array_equal(np.asarray(sink.values[structure.outputs[0]]), plain.detach().numpy())
    # Its other half, for 8 kHz, does not run.
    assert not any(node.name.startswith("_model_8k") for node in structure)
    with pytest.raises(InputError, match="Provided number of samples is 600"):
        model.structure({"x": np.zeros((3, 600), "f4"), "sr": np.array(16000)})


def test_a_program_is_left_as_it_was() -> None:
    script = scripted(State().eval())
    first = recorded(script, {"x": random(2, 3)})
    assert (float(script.count), script.calls, len(script.history)) == (0.0, 0, 0)
    same_recording(recorded(script, {"x": random(2, 3)}), first)


@pytest.mark.parametrize("run", [Run(loss="sum"), Run(mode="train", loss="square")])
def test_gradients_and_training_mode_are_those_of_the_module(run: Run) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.ReLU())
    before = copy.deepcopy(net.state_dict())
    script = scripted(net)
    its, mine = recorded(net, {"input": random(3, 4)}, run), recorded(script, {"input": random(3, 4)}, run)
    same_recording(mine, its)
    assert its[1].gradients.keys() == mine[1].gradients.keys()
    for name, gradient in its[1].gradients.items():
        np.testing.assert_array_equal(np.asarray(mine[1].gradients[name]), np.asarray(gradient))
    for key, gradient in its[1].weight_gradients.items():
        np.testing.assert_array_equal(np.asarray(mine[1].weight_gradients[key]), np.asarray(gradient))
    assert all(torch.equal(tensor, before[name]) for name, tensor in script.state_dict().items())


def test_what_has_no_mode_cannot_be_run_in_training() -> None:
    trace = traced(nn.Sequential(nn.Linear(3, 3), nn.Dropout()).eval(), random(2, 3))
    with pytest.raises(InputError, match="keeps the mode that it was made in"):
        recorded(trace, {"input": random(2, 3)}, Run(mode="train"))


def test_numbers_among_the_inputs_are_generated() -> None:
    specs = (InputSpec("x", (None, 3)), InputSpec("n", (), "int64"))
    made = generate(specs, {}, 0)
    assert (made["x"].shape, made["n"].shape, made["n"].dtype) == ((2, 3), (), np.dtype("int64"))


def test_frozen_programs_own_their_constants() -> None:
    freeze: Any = torch.jit.freeze
    net = Cnn().eval()
    structure, sink = recorded(reloaded(freeze(scripted(net))), {"x": random(2, 3, 16, 16)})
    weighted = {node.name: [param.name for param in node.params] for node in structure if node.params}
    lstm = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    assert weighted["conv2d"] == ["weight", "bias"]
    assert weighted["lstm"] == lstm
    assert {node.kind for node in structure} >= {"conv2d", "conv_transpose2d", "depthwise_conv2d", "dense", "lstm"}
    with torch.no_grad():
        np.testing.assert_allclose(
            np.asarray(sink.values["softmax"]), net(random(2, 3, 16, 16))[0].numpy(), rtol=1e-4, atol=1e-6
        )


def test_what_cannot_be_run_step_by_step_is_one_node() -> None:
    net = Odd()
    model = TorchAdapter().wrap(scripted(net))
    structure = model.structure({"x": random(2, 3).numpy()})
    sink = MemorySink()
    model.capture({"x": random(2, 3).numpy()}, sink)
    assert [(node.name, node.parents) for node in structure] == [("x", ()), ("odd", ("x",))]
    assert any("its inside is not shown" in note for note in model.notes)
    with torch.no_grad():
        np.testing.assert_array_equal(np.asarray(sink.values["odd"]), net(random(2, 3)).numpy())
    assert {param.name for _, param, _ in model.parameters()} == {"lin.weight", "lin.bias"}


def test_a_step_that_computes_something_else_is_never_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    script = scripted(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
    own = Script.operation

    def wrong(self: Script, operation: Any, args: Any) -> Any:
        return own(self, operation, args) * 2

    monkeypatch.setattr(Script, "operation", wrong)
    model = TorchAdapter().wrap(script)
    structure = model.structure({"input": random(2, 3).numpy()})
    assert len(structure) == 2
    assert any("by itself it gives other values" in note for note in model.notes)


def test_a_program_that_raises_keeps_what_ran_before() -> None:
    model = TorchAdapter().wrap(scripted(Raising()))
    structure = model.structure({"x": random(2, 3).numpy()})
    assert "ValueError: not today" in structure.fault
    assert [node.name for node in structure] == ["x", "a", "sum"]
    sink = MemorySink()
    with pytest.raises(ModelError, match="not today"):
        model.capture({"x": random(2, 3).numpy()}, sink)
    assert set(sink.values) == {"x", "a", "sum"}


def test_files_are_refused_without_trust(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.save(scripted(nn.Linear(2, 2)), path)
    adapter = TorchAdapter()
    with pytest.raises(RefusedError, match=r"is TorchScript.*nn\.Module.*--trust") as caught:
        adapter.load(LoadRequest(path))
    assert "\n" not in str(caught.value)
    assert adapter.claims(path)
    assert "compiles its own code" in adapter.runs_code(LoadRequest(path))[0]
    assert recorded(adapter.load(LoadRequest(path, trust=True)), {"input": random(3, 2)})[0].by_name["linear"].params
    with pytest.raises(InputError, match="--weights has no use"):
        adapter.load(LoadRequest(path, weights=path, trust=True))


def test_a_file_that_acts_when_it_is_loaded_has_not_acted(tmp_path: Path) -> None:
    path, marker = tmp_path / "net.pt", tmp_path / "marker"
    torch.jit.save(scripted(Evil(str(marker))), path)
    marker.unlink(missing_ok=True)
    adapter = TorchAdapter()
    said = adapter.runs_code(LoadRequest(path))
    assert any("__setstate__, which runs on loading, in Evil" in sentence for sentence in said)
    assert any("reads or writes files with torch.save" in sentence for sentence in said)
    cli.refused("record", "pt", path, cwd=tmp_path, says="is TorchScript, which runs code while it is loaded")
    with pytest.raises(RefusedError):
        adapter.load(LoadRequest(path))
    assert not marker.exists()


def test_weights_of_a_script_fit_its_architecture(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    net = nn.Linear(2, 2)
    torch.jit.save(scripted(net), path)
    request = LoadRequest(path, arch="torch.nn:Linear", arch_args=(2, 2), trust=True)
    values = {param.name: value for _, param, value in TorchAdapter().load(request).parameters()}
    np.testing.assert_array_equal(values["weight"], net.weight.detach().numpy())


class Mixed(nn.Module):
    """Has a TorchScript module between two others; may ask it for something that only it has."""

    def __init__(self, inner: nn.Module, asks: bool) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.inner = inner
        self.b = nn.Linear(3, 2)
        self.asks = asks

    def forward(self, x: Tensor) -> Tensor:
        if self.asks:
            assert self.inner.code
        return self.b(self.inner(self.a(x)))


def test_scripts_inside_a_module_are_seen_from_inside() -> None:
    inner = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    net = Mixed(scripted(inner), asks=False).eval()
    before = [(name, id(module)) for name, module in net.named_modules()]
    its = recorded(Mixed(inner, asks=False).eval(), {"x": random(2, 4)})
    mine = recorded(net, {"x": random(2, 4)})
    assert [(node.name, node.kind, node.parents) for node in mine[0] if node.name not in ("a", "b")] == [
        (node.name, node.kind, node.parents) for node in its[0] if node.name not in ("a", "b")
    ]
    with torch.no_grad():
        plain = net(random(2, 4)).numpy()
    np.testing.assert_array_equal(np.asarray(mine[1].values["b"]), plain)
    assert [(name, id(module)) for name, module in net.named_modules()] == before

    asking = Mixed(net.inner, asks=True).eval()
    model = TorchAdapter().wrap(asking)
    structure = model.structure({"x": random(2, 4).numpy()})
    assert structure.by_name["b"].kind == "dense"
    assert any("TorchScript inside, not visible" in note for note in structure.notes)
