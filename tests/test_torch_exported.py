"""Programs of torch.export are recorded node by node, as the nn.Module they came from is."""

from __future__ import annotations

import copy
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import cli
from tests.programs import Cnn, Transformer, random, recorded, same_recording
from tracer.adapter import LoadRequest, Run
from tracer.errors import InputError, RefusedError
from tracer_torch import TorchAdapter
from tracer_torch.aten import asks

BESIDES = ("return_indices", "num_heads", "num_layers", "index", "dropout")


def exported(module: nn.Module, *args: Tensor, dynamic: Any = None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module.eval(), args, dynamic_shapes=dynamic)


@pytest.fixture(scope="module")
def cnn() -> tuple[Cnn, Any]:
    torch.manual_seed(0)
    net = Cnn().eval()
    return net, exported(copy.deepcopy(net), random(2, 3, 16, 16), dynamic={"x": {0: torch.export.Dim("b", min=2)}})


def test_programs_read_like_their_modules(cnn: tuple[Cnn, Any], tmp_path: Path) -> None:
    net, program = cnn
    its = recorded(net, {"x": random(2, 3, 16, 16)})
    same_recording(recorded(program, {"x": random(2, 3, 16, 16)}), its, besides=BESIDES)
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = TorchAdapter().load(LoadRequest(tmp_path / "net.pt2", trust=True))
    mine = recorded(loaded, {"x": random(2, 3, 16, 16)})
    same_recording(mine, its, besides=BESIDES)
    nodes = mine[0].by_name
    assert "programs.py:" in str(nodes["mean"].source)
    assert [(spec.name, spec.shape, spec.layout) for spec in loaded.signature()] == [
        ("x", (None, 3, 16, 16), "channels_first")
    ]
    with pytest.raises(InputError, match=r"exported for 'x' of shape \(any, 3, 16, 16\)"):
        loaded.structure({"x": np.zeros((2, 3, 16, 20), "f4")})
    with pytest.raises(InputError, match="keeps the mode that it was made in"):
        recorded(program, {"x": random(2, 3, 16, 16)}, Run(mode="train"))


def test_transformers_and_gradients(cnn: tuple[Cnn, Any]) -> None:
    net = Transformer().eval()
    ids = torch.arange(10).reshape(2, 5)
    its, mine = (
        recorded(net, {"ids": ids}, Run(loss="sum")),
        recorded(exported(net, ids), {"ids": ids}, Run(loss="sum")),
    )
    same_recording(mine, its, besides=BESIDES)
    assert mine[1].gradients.keys() == its[1].gradients.keys()
    for name, gradient in its[1].gradients.items():
        if name == "ids":  # whole numbers have none
            continue
        np.testing.assert_allclose(np.asarray(mine[1].gradients[name]), np.asarray(gradient), rtol=1e-4, atol=1e-6)


def test_every_node_is_accounted_for(cnn: tuple[Cnn, Any]) -> None:
    """The graph's operators: in a layer, recorded, or one step of an index."""
    net, program = cnn
    layers = {name for name, module in net.named_modules() if type(module).__module__.startswith("torch.nn")}
    layers -= {"seq", ""}
    inside = outside = 0
    for node in program.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema") or asks(node.target._schema.name):
            continue
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        last = stack[-1].partition("@")[0] if stack else ""
        if last in layers:
            inside += 1
        elif "sym_size" not in str(node.target):
            outside += 1
    structure, _ = recorded(program, {"x": random(2, 3, 16, 16)})
    roles = Counter(node.role for node in structure)
    calls = {(node.owner, node.call) for node in structure if node.role == "layer"}
    assert len(calls) == 14
    assert inside >= 14
    steps = outside - roles["op"]
    # x[:, :3], x[:, 1:2], x[:, None], out[:, -1]: each first takes all of the batch.
    assert 0 <= steps <= 4


class Kept(nn.Module):
    """Counts in a buffer, takes two inputs by name, and gives a dict."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.lin = nn.Linear(3, 3)

    def forward(self, x: Tensor, *, mask: Tensor) -> dict[str, Tensor]:
        self.count.add_(1)
        y = self.lin(x) + self.count
        y[:, 0] = 0.0
        return {"y": torch.where(mask, y, torch.zeros_like(y)), "n": self.count * 1}


def test_state_and_named_inputs() -> None:
    net = Kept().eval()
    mask = torch.tensor([[True, False, True]] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (random(2, 3),), {"mask": mask})
    for _ in range(2):
        structure, sink = recorded(program, {"x": random(2, 3), "mask": mask})
        assert float(np.asarray(sink.values[structure.outputs[1]])[0]) == 1.0
    with torch.no_grad():
        plain = copy.deepcopy(net)(random(2, 3), mask=mask)["y"].numpy()
    np.testing.assert_array_equal(np.asarray(sink.values[structure.outputs[0]]), plain)
    assert [param.name for param in structure.by_name["lin"].params] == ["weight", "bias"]
    assert float(program.state_dict["count"]) == 0.0


def test_decomposed_programs_keep_their_layers(cnn: tuple[Cnn, Any]) -> None:
    net, program = cnn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken_apart = program.run_decompositions()
    mine, _ = recorded(taken_apart, {"x": random(2, 3, 16, 16)})
    its, _ = recorded(net, {"x": random(2, 3, 16, 16)})
    layers = {node.name: (node.kind, node.params) for node in its if node.role == "layer"}
    found = {node.name: (node.kind, node.params) for node in mine if node.role == "layer"}
    assert layers == found
    assert mine.by_name["bn"].config["epsilon"] == its.by_name["bn"].config["epsilon"]


def test_files_are_refused_without_trust(cnn: tuple[Cnn, Any], tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    torch.export.save(cnn[1], path)
    said = cli.refused("record", "pt", path, cwd=tmp_path, says="is a torch.export archive, which runs code while")
    assert "--trust" in said
    adapter = TorchAdapter()
    assert adapter.claims(path)
    with pytest.raises(RefusedError):
        adapter.load(LoadRequest(path))
    assert "evaluates the formulas of its shapes" in adapter.runs_code(LoadRequest(path))[0]
    done = cli.run("record", "pt", path, "--trust", cwd=tmp_path)
    assert "torch.export.load (trusted)" in done.stdout
    with zipfile.ZipFile(tmp_path / "hostile.pt2", "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/models/model.json", '{"expr_str": "__import__(1)"}')
        archive.writestr(
            "m/data/sample_inputs/model.pt", b"\x80\x02cos\nsystem\nq\x00X\x02\x00\x00\x00lsq\x01\x85q\x02Rq\x03."
        )
    said = " ".join(adapter.runs_code(LoadRequest(tmp_path / "hostile.pt2")))
    assert "os.system" in said or "posix.system" in said
    assert "__import__(1)" in said
    with pytest.raises(RefusedError):
        adapter.load(LoadRequest(tmp_path / "hostile.pt2"))


def test_what_holds_no_layers_is_one_line(cnn: tuple[Cnn, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the ExportedProgram itself"):
        TorchAdapter().wrap(cnn[1].module(check_guards=False))
    with zipfile.ZipFile(tmp_path / "compiled.pt2", "w") as archive:
        archive.writestr("m/archive_format", "pt2")
        archive.writestr("m/data/aotinductor/model/model.so", b"")
    with pytest.raises(InputError, match="AOTInductor package"):
        TorchAdapter().load(LoadRequest(tmp_path / "compiled.pt2", trust=True))


def test_graph_modules_of_fx_read_well() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    structure, _ = recorded(torch.fx.symbolic_trace(net), {"input": random(2, 3)})
    assert [(node.kind, node.role) for node in structure] == [("input", "input"), ("dense", "layer"), ("relu", "layer")]
