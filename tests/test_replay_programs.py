"""TorchScript modules and programs of torch.export run again with tensors exchanged, operation by operation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.programs import Cnn, Loop, Odd, State, random, recorded, scripted, traced
from tracer.adapter import LoadedModel
from tracer.errors import ModelError, ReplayError
from tracer_torch import TorchAdapter


def exported(module: nn.Module, *args: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(module, args)


class Exchanged:
    """Keeps what it is handed; gives what it is told to, or a copy of what it was handed where ``same``."""

    def __init__(self, given: dict[str, Any] | None = None, *, same: bool = False) -> None:
        self.given, self.same = given or {}, same
        self.seen: dict[str, Any] = {}

    def wants(self, name: str) -> bool:
        return True

    def __call__(self, name: str, value: Any) -> Any:
        self.seen[name] = np.array(value)
        return self.given.get(name, np.array(value) if self.same else None)


def replayed(model: object, x: Any, given: dict[str, Any] | None = None, *, double: bool = False) -> dict[str, Any]:
    loaded = model if isinstance(model, LoadedModel) else TorchAdapter().wrap(model)
    loaded.structure({"x": x})
    exchange = Exchanged(given)
    loaded.replay({"x": x}, exchange, double=double)
    return exchange.seen


WAYS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "script": lambda net, x: scripted(net),
    "export": exported,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_program_is_replayed_like_its_module(way: str) -> None:
    net, x = Cnn().eval(), random(2, 3, 16, 16)
    program = TorchAdapter().wrap(WAYS[way](copy.deepcopy(net), x))
    module = TorchAdapter().wrap(net)
    _, sink = recorded(program, {"x": x})
    same = Exchanged(same=True)
    program.replay({"x": x.numpy()}, same)
    assert list(same.seen) == list(sink.values)
    for name, value in sink.values.items():
        np.testing.assert_array_equal(same.seen[name], value, err_msg=name)
    # A module, one that works in place, one with states, a function, a part of an index, the input.
    for name in ("conv", "act", "lstm", "max_pool2d", "slice", "x"):
        given = {name: sink.values[name] + np.float32(0.25)}
        mine, its = (replayed(model, x.numpy(), given) for model in (program, module))
        assert mine.keys() == same.seen.keys()
        other = {"unsqueeze", "slice_2", "slice_3"}  # torch.export makes one more step of y[:, None]
        assert mine.keys() ^ its.keys() <= other
        changed = {key for key, value in mine.items() if not np.array_equal(value, same.seen[key])}
        assert "head" in changed
        for key in (mine.keys() & its.keys()) - other:
            value = its[key]
            np.testing.assert_allclose(mine[key], value, rtol=1e-6, atol=1e-6, err_msg=f"{name} {key}")
            assert (key in changed) == (not np.array_equal(value, same.seen[key])), key
    exact = replayed(module, x.numpy(), double=True)
    for name, value in replayed(program, x.numpy(), double=True).items():
        assert value.dtype == np.float64
        if name not in other:
            np.testing.assert_allclose(value, exact[name], rtol=0, atol=1e-14)
    for name, value in recorded(program, {"x": x})[1].values.items():
        np.testing.assert_array_equal(value, sink.values[name])


class Typed(nn.Module):
    """Casts, constants of a type of their own, and a buffer in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.register_buffer("scale", torch.tensor([0.1, 0.2, 0.3]).half())

    def forward(self, x: Tensor) -> Tensor:
        y = self.lin(x).to(torch.float32) * self.scale.float()
        y = y + torch.full((3,), 0.5, dtype=torch.float32)
        return torch.sigmoid(y.half()).type_as(x)


@pytest.mark.parametrize("way", [*WAYS, "trace", "freeze"])
def test_double_precision_holds_across_casts_and_constants(way: str) -> None:
    net, x = Typed().eval(), random(4, 3)
    ways = WAYS | {"trace": traced, "freeze": lambda net, x: torch.jit.freeze(scripted(net))}
    seen = replayed(ways[way](copy.deepcopy(net), x), x.numpy(), double=True)
    weight, bias, half = (t.detach().double().numpy() for t in (net.lin.weight, net.lin.bias, net.scale))
    wanted = 1 / (1 + np.exp(-((x.double().numpy() @ weight.T + bias) * half + 0.5)))
    assert list(seen.values())[-1].dtype == np.float64
    np.testing.assert_allclose(list(seen.values())[-1], wanted, rtol=0, atol=1e-15)


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize())


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_has_no_double_precision_is_run_in_single() -> None:
    net, x = Quantised().eval(), random(4, 3)
    seen = replayed(scripted(net), x.numpy(), double=True)
    steps = np.round(x.numpy() / np.float32(0.1)).astype(np.float32) * np.float32(0.1)
    np.testing.assert_allclose(seen["dequantize"], steps, rtol=1e-6)
    weight, bias = net.lin.weight.detach().double().numpy(), net.lin.bias.detach().double().numpy()
    np.testing.assert_allclose(seen["lin"], seen["dequantize"].astype(np.float64) @ weight.T + bias, rtol=1e-14)


def test_exchanged_values_decide_what_runs_and_another_shape_passes() -> None:
    loaded = TorchAdapter().wrap(scripted(Loop().eval()))
    x = random(2, 3, 4)
    structure, sink = recorded(loaded, {"x": x})
    first = next(node for node in structure if node.owner == "cell")
    large = np.full_like(sink.values[first.name], 50.0)
    plain, grown = replayed(loaded, x.numpy()), replayed(loaded, x.numpy(), {first.name: large})
    halved = torch.from_numpy(large) * 0.5
    module: Any = loaded.module  # type: ignore[attr-defined]
    wanted = nn.functional.linear(halved, module.out.weight, module.out.bias).detach().numpy()
    outs = [node.name for node in structure if node.owner == "out"]
    np.testing.assert_allclose(grown[outs[0]], wanted, rtol=1e-5)
    assert plain.keys() == set(sink.values)

    chain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    for way in WAYS.values():
        program = TorchAdapter().wrap(way(chain, random(2, 3)))
        name = next(iter(program.signature())).name
        program.structure({name: random(2, 3).numpy()})
        exchange = Exchanged({"1": random(7, 4).numpy()})
        program.replay({name: random(2, 3).numpy()}, exchange)
        assert exchange.seen["2"].shape == (7, 2)
        with pytest.raises(ModelError, match="'2'"):
            program.replay({name: random(2, 3).numpy()}, Exchanged({"1": random(2, 5).numpy()}))


def test_what_a_program_counts_is_left_as_it_was() -> None:
    net = State().eval()
    program = scripted(net)
    loaded = TorchAdapter().wrap(program)
    for double in (False, True):
        seen = replayed(loaded, random(2, 3).numpy(), double=double)
        wanted = seen["lin"] + 3  # one call, one number, one entry of the list
        np.testing.assert_allclose(list(seen.values())[-1], wanted, rtol=1e-6)
    assert float(program.count) == 0
    assert program.calls == 0
    assert not program.history


def test_a_program_that_runs_as_one_is_replayed_at_its_ends() -> None:
    loaded = TorchAdapter().wrap(scripted(Odd().eval()))
    x = random(2, 3).numpy()
    seen = replayed(loaded, x, {"x": 2 * x})
    assert any("its inside is not shown" in note for note in loaded.notes)
    assert len(seen) == 2
    assert not np.array_equal(list(seen.values())[1], list(replayed(loaded, x).values())[1])
    with pytest.raises(ReplayError, match="is not run in float64"):
        replayed(loaded, x, double=True)
