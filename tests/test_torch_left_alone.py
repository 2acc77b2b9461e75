"""Nothing of ours stays on a module, and nothing that its forward does to it either, however the pass ends."""

from __future__ import annotations

import gc
import pickle
import random as python_random
import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from tracer.adapter import Array, MemorySink, NotRecorded, Run
from tracer.errors import InputError, ModelError
from tracer_torch import TorchAdapter

RUNS = [Run(), Run("train"), Run("eval", "sum"), Run("train", "square")]


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Busy(nn.Module):
    """Changes whatever a forward can change of its own module."""

    total: torch.Tensor
    last: torch.Tensor
    hidden: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4, max_norm=0.5)  # shortens its rows in place when they are read
        self.fc = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.bn = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Linear(4, 4).requires_grad_(False).eval()
        self.twin = self.frozen
        self.clamped = nn.Parameter(torch.randn(4) * 9)
        self.halved = nn.Parameter(torch.randn(4))
        self.swapped = nn.Parameter(torch.randn(4))
        self.register_buffer("total", torch.zeros(4))
        self.register_buffer("last", torch.zeros(1))
        self.register_buffer("hidden", torch.zeros(4), persistent=False)
        self.plain = torch.ones(4)
        self.table = torch.full((4,), float("nan"))
        self.kept: list[torch.Tensor] = []
        self.named: OrderedDict[str, Any] = OrderedDict(a=[1, 2])
        self.count = 0
        self.generators: list[Any] = [
            torch.Generator(),
            python_random.Random(1),
            np.random.default_rng(1),
            np.random.RandomState(1),
        ]
        self.fails: BaseException | None = None
        self.fc.weight.grad = None
        self.clamped.grad = torch.ones(4)
        self.frozen.register_forward_hook(lambda module, args, output: output * 1.0)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        self.count += 1
        self.clamped.data.clamp_(-1, 1)
        with torch.no_grad():
            self.halved.mul_(0.5)
        self.swapped.data = torch.zeros(4)
        self.total.data += 1
        self.hidden += x.mean(0)  # a buffer that becomes part of the graph
        self.plain.copy_(x[0])
        self.last = x[:1].sum()
        self.table.fill_(float("nan"))
        y = self.drop(self.bn(self.fc(x) + self.embed(ids))) + self.clamped + self.halved + self.swapped
        self.kept.append(y)
        self.named["b"] = y
        self.named["a"].append(y)
        self.new_attribute = y
        own, python, numpy, older = self.generators
        y += torch.rand(4, generator=own) + python.random() + float(numpy.random()) + float(older.rand())
        y += torch.rand(4) + python_random.random() + float(np.random.rand())
        if self.fails is not None:
            raise self.fails
        return self.frozen(y) + self.twin(y)  # type: ignore[no-any-return]


def flat(value: Any, depth: int = 0) -> Any:
    """``value`` with what could be changed inside it, by identity and by content."""
    if isinstance(value, torch.Tensor):
        return (
            id(value), type(value), tuple(value.shape), value.dtype, value.detach().numpy().tobytes(), value._version,
            value.data_ptr(), value.requires_grad, value.is_leaf, id(value.grad) if value.is_leaf else None,
            repr(value._backward_hooks),
        )  # fmt: skip
    if isinstance(value, torch.Generator):
        return id(value), value.get_state().numpy().tobytes()
    if isinstance(value, python_random.Random | np.random.Generator | np.random.RandomState):
        return id(value), pickle.dumps(value)
    if isinstance(value, dict) and depth < 4:
        return id(value), [(key, id(key), flat(item, depth + 1)) for key, item in value.items()]
    if isinstance(value, list | set) and depth < 4:
        return id(value), [flat(item, depth + 1) for item in value]
    return id(value), repr(value) if isinstance(value, int | float | str | bool) else None


def snapshot(module: nn.Module) -> list[Any]:
    around = [
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(), torch.get_rng_state().numpy().tobytes(), python_random.getstate(),
        pickle.dumps(np.random.get_state(legacy=False)), len(_get_current_function_mode_stack()),  # type: ignore[no-untyped-call]
        torch.are_deterministic_algorithms_enabled(), threading.active_count(),
        {k: repr(v) for k, v in vars(torch.nn.modules.module).items() if k.startswith("_global")},
        [repr(f) for f in (torch.autograd.Function.apply, nn.Module.__call__, nn.Module.forward, torch.Tensor.add)],
    ]  # fmt: skip
    return [*around, *[(name, id(part), type(part), flat(vars(part))) for name, part in module.named_modules()]]


def same(before: list[Any], after: list[Any]) -> None:
    for one, two in zip(before, after, strict=True):
        assert one == two


class Broken(MemorySink):
    """Fails at the third value, or at the first gradient."""

    def __init__(self, at: str, error: BaseException) -> None:
        super().__init__()
        self.at, self.error = at, error

    def __call__(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        super().__call__(name, value)
        if self.at == "value" and len(self.values) == 3:
            raise self.error

    def gradient(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        if self.at == "gradient":
            raise self.error


INPUTS = {"x": random(3, 4), "ids": np.array([1, 2, 6])}


@pytest.mark.parametrize("how", RUNS, ids=str)
def test_after_success(how: Run) -> None:
    net = Busy()
    before = snapshot(net)
    model = TorchAdapter().wrap(net)
    model.run = how
    structure = model.structure(INPUTS)
    same(before, snapshot(net))
    assert not any("could not be undone" in note for note in structure.notes)
    first: Any = MemorySink()
    again: Any = MemorySink()
    model.capture(INPUTS, first)
    same(before, snapshot(net))
    list(model.parameters())
    model.capture(INPUTS, again)
    same(before, snapshot(net))
    assert (first.values["add"] != 0).any()
    for one, two in zip(first.values.values(), again.values.values(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert bool(first.gradients) == (how.loss is not None)


def test_buffers_too_large_to_copy_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracer_torch.state._LARGEST_SNAPSHOT", -1)
    net = Busy()
    net.fc = nn.Linear(4, 4)  # its norm would change its buffers where no function is seen
    before = snapshot(net)
    model = TorchAdapter().wrap(net)
    model.run = Run("train")
    structure = model.structure(INPUTS)
    same(before, snapshot(net))
    assert not any("could not be undone" in note for note in structure.notes)


def test_what_cannot_be_undone_is_said() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch._C.DisableTorchFunction():
                self.fc.weight.mul_(0.5)
            return self.fc(x)  # type: ignore[no-any-return]

    structure = TorchAdapter().wrap(nn.Sequential(Hidden())).structure({"input": random(2, 4)})
    assert any("could not be undone: 0.fc.weight" in note for note in structure.notes)


@pytest.mark.parametrize("how", [Run(), Run("train", "sum")], ids=str)
@pytest.mark.parametrize("error", [RuntimeError("no good"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_after_an_exception_half_way(how: Run, error: BaseException) -> None:
    net = Busy()
    model = TorchAdapter().wrap(net)
    model.run = how
    model.structure(INPUTS)
    net.fails = error
    before = snapshot(net)
    with pytest.raises(ModelError if isinstance(error, Exception) else type(error)):
        model.capture(INPUTS, MemorySink())
    same(before, snapshot(net))


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("at", ["value", "gradient"])
def test_after_a_sink_that_fails(at: str, error: BaseException) -> None:
    net = Busy()
    model = TorchAdapter().wrap(net)
    model.run = Run("train", "sum")
    before = snapshot(net)
    with pytest.raises(type(error)):
        model.capture(INPUTS, Broken(at, error))
    same(before, snapshot(net))


def test_after_inputs_and_losses_that_are_refused() -> None:
    net = Busy()
    before = snapshot(net)
    for inputs, loss in (
        ({"x": random(3, 5), "ids": INPUTS["ids"]}, None),
        ({"y": random(2)}, "sum"),
        (INPUTS, "no:such"),
    ):
        model = TorchAdapter().wrap(net)
        model.run = Run(loss=loss)
        with pytest.raises(InputError):
            model.structure(inputs)
        same(before, snapshot(net))


@pytest.mark.parametrize("how", RUNS, ids=str)
@pytest.mark.parametrize("fails", [False, True])
def test_no_tensor_of_the_pass_outlives_it(how: Run, fails: bool) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.fails = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            z = torch.tanh(y)
            alive.extend(map(weakref.ref, (x, y, z)))
            self.seen = z
            if self.fails:
                raise RuntimeError("no good")
            out = self.b(z)
            alive.append(weakref.ref(out))
            return out  # type: ignore[no-any-return]

    net = Watched()
    model = TorchAdapter().wrap(nn.Sequential(net))
    model.run = how
    inputs = {"input": random(2, 4)}
    gc.disable()  # cycles would keep a whole pass until the collector comes by
    try:
        model.structure(inputs)
        net.fails = fails
        if fails:
            with pytest.raises(ModelError):
                model.capture(inputs, MemorySink())
        else:
            model.capture(inputs, MemorySink())
        assert len(alive) >= 7
        assert not [ref for ref in alive if ref() is not None]
    finally:
        gc.enable()


def test_lazy_modules_stay_without_weights() -> None:
    net = nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d())
    kinds = [type(part) for part in net]
    model = TorchAdapter().wrap(net)
    structure = model.structure({"input": random(3, 4)})
    sink: Any = MemorySink()
    model.capture({"input": random(3, 4)}, sink)
    params = {(owner, p.name): value for owner, p, value in model.parameters()}
    wanted = random(3, 4) @ params["0", "weight"].T + params["0", "bias"]
    np.testing.assert_allclose(sink.values["0"], wanted, rtol=1e-5, atol=1e-6)
    assert any("lazy" in note for note in structure.notes)
    assert [type(part) for part in net] == kinds
    assert isinstance(net[0].weight, nn.UninitializedParameter)
    assert [len(part._forward_pre_hooks) for part in net] == [1, 1]


def test_a_pass_inside_the_callers_own_contexts() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    inputs = {"input": random(3, 4)}
    model = TorchAdapter().wrap(net)
    wanted = MemorySink()
    model.run = Run("train", "sum")
    model.capture(inputs, wanted)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            before = snapshot(net)
            sink = MemorySink()
            model.capture(inputs, sink)
            same(before, snapshot(net))
        np.testing.assert_array_equal(sink.gradients["0"], wanted.gradients["0"])


def test_a_pending_backward_of_the_users_is_not_broken() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    x = torch.from_numpy(random(3, 4))
    loss = (net(x) * net[1].running_mean).sum()  # its backward needs the statistics of now
    model = TorchAdapter().wrap(net)
    model.run = Run("train", "sum")
    model.capture({"input": random(5, 4)}, MemorySink())
    loss.backward()
    assert net[0].weight.grad is not None


def test_other_threads_are_not_watched() -> None:
    def other(x: torch.Tensor, out: list[torch.Tensor]) -> None:
        out.append(F.relu(helper(x)))

    helper = nn.Linear(4, 4)

    class Threads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = helper

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: list[torch.Tensor] = []
            thread = threading.Thread(target=other, args=(x, out))
            thread.start()
            thread.join()
            return self.fc(x) + out[0].detach()  # type: ignore[no-any-return]

    net = Threads()
    before = snapshot(net)
    model = TorchAdapter().wrap(net)
    structure = model.structure({"x": random(2, 4)})
    same(before, snapshot(net))
    assert [node.name for node in structure] == ["x", "fc", "unseen", "add"]
    assert any("unknown origin" in note for note in structure.notes)


@pytest.mark.parametrize("where", ["class", "instance", "nowhere"])
def test_modes_are_changed_as_the_model_wants(where: str) -> None:
    """A part that stays in training whatever the model is told draws in evaluation, too."""

    class Stubborn(nn.Dropout):
        def train(self, mode: bool = True) -> Stubborn:
            return super().train(True)

    drop: Any = Stubborn(0.5) if where == "class" else nn.Dropout(0.5)
    if where == "instance":
        drop.train = lambda mode=True: drop
    model = nn.Sequential(nn.Linear(4, 4), drop, nn.Linear(4, 2).eval())
    loaded, sink = TorchAdapter().wrap(model), MemorySink()
    loaded.capture({"input": random(3, 4)}, sink)
    assert ("1" in sink.values) == (where != "nowhere")  # else it hands on its input, which is stored once
    assert [module.training for module in model] == [True, True, False]
    assert model.training
