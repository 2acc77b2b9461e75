"""Watching a PyTorch model that its own program runs."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import tracer  # noqa: E402
from tests.live_driving import at_once  # noqa: E402


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(160, 4)
    )


def train(model: nn.Module, steps: int, epsilon: float = 1e-8) -> Any:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=epsilon)
    draws = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    model.train()
    for _ in range(steps):
        x, y = torch.randn(8, 3, 20, generator=draws), torch.randint(0, 4, (8,), generator=draws)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return loss.item()


def test_training_is_recorded_and_not_changed(trace_path: Path) -> None:
    plain, watched = network(), network()
    expected = train(plain, 7)
    with tracer.attach(watched, to=trace_path, every=3, gradients=True, weights=True) as attached:
        assert train(watched, 7) == expected
    for mine, theirs in zip(plain.state_dict().values(), watched.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert not watched._forward_hooks
    assert not watched._forward_pre_hooks
    assert (attached.step, attached.recorded, attached.left_out, attached.lost_steps) == (6, 3, 0, {})
    recording = tracer.open(trace_path).recording("pt")
    assert recording.steps == (0, 3, 6)
    assert recording.attributes["mode"] == "train"
    step = recording.at(3)
    assert step.activations.keys() >= {"input", "0", "1", "2", "3", "4", "5"}
    assert step.gradients.keys() >= {"0", "5"}
    assert step.weights.keys() >= {("0", "weight"), ("1", "running_mean")}
    assert step.weight_gradients.keys() == {("0", "weight"), ("0", "bias"), ("1", "weight"), ("1", "bias"),
                                            ("5", "weight"), ("5", "bias")}  # fmt: skip


def test_what_is_recorded_is_what_was_computed(trace_path: Path) -> None:
    model = nn.Linear(3, 2)  # a root without modules inside
    x = torch.randn(4, 3)
    before = copy.deepcopy(model.state_dict())
    with tracer.attach(model, to=trace_path, gradients=True, weights=True, name="mine"):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        out = model(x)
        out.square().sum().backward()
        gradient = model.weight.grad.clone()
        optimizer.step()
    step = tracer.open(trace_path).recording("mine@0")
    assert np.array_equal(step.read("input"), x.numpy())
    assert np.array_equal(step.read("linear"), out.detach().numpy())
    assert np.array_equal(step.read_gradient("linear"), 2 * out.detach().numpy())
    assert np.array_equal(step.read_stored(step.weights["", "weight"]), before["weight"].numpy())
    assert np.array_equal(step.read_stored(step.weight_gradients["", "weight"]), gradient.numpy())


def test_a_defect_of_the_optimiser_is_seen_to_grow(trace_path: Path) -> None:
    for name, epsilon in (("right", 1e-8), ("wrong", 1e-4)):
        with tracer.attach(network(), to=trace_path, name=name, every=5) as attached:
            train(attached.model, 16, epsilon)
    trace = tracer.open(trace_path)
    errors = []
    for step in trace.recording("wrong").steps:
        found = tracer.diff(trace.recording(f"right@{step}"), trace.recording(f"wrong@{step}"), causes=False)
        assert found.pairs[1].stats is not None
        errors.append(found.pairs[1].stats.rel_l2)
    assert errors[0] == 0
    assert errors[0] < errors[1] < errors[-1]
    assert trace.recording("wrong").attributes["reference"] == "right"


def test_validation_between_is_not_counted(trace_path: Path) -> None:
    model = network()
    with tracer.attach(model, to=trace_path) as attached:
        for _ in range(2):
            model.train()(torch.randn(2, 3, 20))
            model.eval()(torch.randn(5, 3, 20))
    assert attached.step == 1
    assert tracer.open(trace_path).recording("pt@1").read("input").shape == (2, 3, 20)


def test_a_batch_of_another_size_and_a_branch(trace_path: Path) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.often, self.rarely = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor, deep: bool = False) -> torch.Tensor:
            x = self.often(x).relu()
            return self.rarely(x) if deep else x

    model = Branching()
    with tracer.attach(model, to=trace_path) as attached:
        model(torch.randn(4, 3), deep=True)
        model(x=torch.randn(2, 3))
    trace = tracer.open(trace_path)
    assert trace.recording("pt@0").read("rarely").shape == (4, 3)
    assert trace.recording("pt@1").read("relu").shape == (2, 3)
    assert "rarely" not in trace.recording("pt@1").activations
    assert attached.fault is None


def test_only_some_layers_and_only_numbers(trace_path: Path) -> None:
    model = network()
    with tracer.attach(model, to=trace_path, layers="op:conv*", statistics_only=True, name="few"):
        model(torch.randn(2, 3, 20))
    step = tracer.open(trace_path).recording("few@0")
    assert not step.activations
    assert step.summaries.keys() == {"input", "0"}
    assert step.summaries["0"]["size"] == 2 * 8 * 20
    with pytest.warns(RuntimeWarning, match=r"matches no layer"), tracer.attach(model, to=trace_path, layers="nope"):
        model(torch.randn(2, 3, 20))


def test_a_model_that_raises_is_left_alone(trace_path: Path) -> None:
    model = network()
    with tracer.attach(model, to=trace_path) as attached:
        model(torch.randn(2, 3, 20))
        with pytest.raises(RuntimeError, match="expected input"):
            model(torch.randn(2, 4, 20))
        model(torch.randn(2, 3, 20))
    assert attached.lost_steps == {1: "the model raised"}
    assert tracer.open(trace_path).recording("pt").steps == (0, 2)


def test_a_forward_that_raises_between_its_layers_is_no_step(trace_path: Path) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor | None:
            x = self.fc(x)
            if len(x) == 1:
                raise ValueError("half way")
            return None if len(x) == 2 else x

    model = Half()
    with tracer.attach(model, to=trace_path) as attached:
        for size in (3, 1, 3):
            try:
                raise KeyError
            except KeyError:  # the owner's program may be handling something of its own
                try:
                    model(torch.ones(size, 3))
                except ValueError:
                    assert size == 1
    assert attached.lost_steps == {1: "the model raised"}
    assert tracer.open(trace_path).recording("pt").steps == (0, 2)


def test_copies_of_a_watched_model_are_plain(trace_path: Path) -> None:
    model = network().eval()
    with tracer.attach(model, to=trace_path, gradients=True) as attached:
        copied = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        assert b"tracer" not in file.getvalue()
        file.seek(0)
        x = torch.randn(2, 3, 20)
        expected = model(x)
        for other in (copied, torch.load(file, weights_only=False)):
            assert torch.equal(other(x), expected)
    assert attached.step == 0


def test_leaving_a_model_keeps_no_other_thread_from_its_work(trace_path: Path) -> None:
    """What a search for compiled models refers to meanwhile is not what somebody is just building."""
    import_module("torch._dynamo")
    faults: list[SystemError] = []
    stop = threading.Event()

    def build() -> None:
        try:
            while not stop.is_set():
                tuple(number for number in range(2000))
        except SystemError as error:
            faults.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    try:
        for number in range(3):
            attached = tracer.attach(nn.Linear(3, 3), to=trace_path, name=str(number))
            attached.model(torch.ones(1, 3))
            attached.detach()
    finally:
        stop.set()
        thread.join()
    assert not faults


def test_a_compiled_model_runs_its_python_where_it_is_recorded(trace_path: Path) -> None:
    plain, placed = network().eval(), network().eval()
    wrapped = torch.compile(plain, backend="eager")
    placed.compile(backend="eager")
    x = torch.randn(2, 3, 20)
    for name, model in (("wrapped", wrapped), ("placed", placed)):
        with tracer.attach(model, to=trace_path, name=name, every=2) as attached:
            outputs = [model(x) for _ in range(4)]
        assert all(torch.equal(output, outputs[0]) for output in outputs)
        assert (attached.step, attached.lost_steps) == (3, {})
        recording = tracer.open(trace_path).recording(name)
        assert recording.steps == (0, 2)
        assert np.array_equal(recording.at(2).read("5"), outputs[2].detach().numpy())


def test_a_model_that_is_compiled_while_it_is_watched(trace_path: Path) -> None:
    x = torch.randn(2, 3, 20)
    for name in ("wrapped", "placed"):
        torch.compiler.reset()  # else the other's code is taken, and nobody looks into this one
        model = network().eval()
        with tracer.attach(model, to=trace_path, name=name, every=2) as attached:
            model(x)
            compiled = torch.compile(model, backend="eager", fullgraph=True) if name == "wrapped" else model
            if name == "placed":
                model.compile(backend="eager", fullgraph=True)
            outputs = [compiled(x) for _ in range(4)]  # the first of them is not seen: it is compiled then
            copy.deepcopy(compiled)(x)
        assert all(torch.equal(output, outputs[0]) for output in outputs)
        assert (attached.step, attached.lost_steps) == (3, {})
        assert tracer.open(trace_path).recording(name).steps == (0, 2)
        compiled(x)
    model = network().eval()
    with tracer.attach(model, to=trace_path) as attached:
        model(x)
        with pytest.warns(RuntimeWarning, match="compiled as a part of something else"):
            torch.compile(lambda x: model(x) + 1, backend="eager", fullgraph=True)(x)
    assert attached.step == 0
    torch.compiler.reset()
    torch.compile(network().eval(), backend="eager")(x)
    model = network().eval()
    attached = tracer.attach(model, to=trace_path)
    model(x)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    with pytest.warns(RuntimeWarning, match="its calls of this one were not seen"):
        attached.detach()


def test_gradients_of_weights_without_an_optimiser(trace_path: Path) -> None:
    model = nn.Linear(2, 1)
    with tracer.attach(model, to=trace_path, gradients=True):
        for scale in (1.0, 3.0):
            model(torch.ones(1, 2) * scale).sum().backward()
            model.zero_grad()
    recording = tracer.open(trace_path).recording("pt")
    for step, scale in enumerate((1.0, 3.0)):
        found = {
            name: recording.at(step).read_stored(g) for (_, name), g in recording.at(step).weight_gradients.items()
        }
        assert (found["weight"] == scale).all()
        assert found["bias"] == 1
    assert not model.weight._post_accumulate_grad_hooks


def test_a_server_of_several_threads(trace_path: Path) -> None:
    model = network().eval()
    serve = torch.no_grad()(lambda size: model(torch.full((size, 3, 20), float(size))))
    with tracer.attach(model, to=trace_path, every=2) as attached:
        at_once(serve, range(1, 5), 40)
    assert (attached.fault, attached.lost_steps) == (None, {})
    recording = tracer.open(trace_path).recording("pt")
    assert len(recording.steps) == attached.recorded > 1
    for step in map(recording.at, recording.steps):  # each is one thread's, and whole
        values = {name: step.read(name) for name in ("input", "0", "1", "5")}
        size = len(values["input"])
        assert (values["input"] == size).all()
        assert {len(value) for value in values.values()} == {size}


def test_a_program_that_just_ends_leaves_its_last_step(trace_path: Path) -> None:
    code = (
        "import sys, torch, tracer; model = torch.nn.Linear(2, 2)\n"
        "tracer.attach(model, to=sys.argv[1], gradients=True)\n"
        "model(torch.ones(1, 2)).sum().backward()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(trace_path)], check=True, timeout=120)
    recording = tracer.open(trace_path).recording("pt")
    assert (recording.state, recording.steps) == ("complete", (0,))
    assert recording.at(0).weight_gradients


def test_a_fault_of_the_disk_stops_the_recording_not_the_program(trace_path: Path) -> None:
    model = network()
    with tracer.attach(model, to=trace_path) as attached:
        model(torch.randn(2, 3, 20))
        attached.flush()
        folder = tracer.open(trace_path).recording("pt").folder / "steps"
        folder.rename(folder.with_name("gone"))

        def fail() -> None:
            model(torch.randn(2, 3, 20))
            attached.flush()

        with pytest.warns(RuntimeWarning, match="records no more steps: cannot write"):
            fail()
        folder.with_name("gone").rename(folder)
        assert model(torch.randn(2, 3, 20)).shape == (2, 4)
        assert "cannot write" in str(attached.fault)
    assert tracer.open(trace_path).recording("pt").steps == (0,)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"every": 0}, "every is a whole number"),
        ({"mode": "training"}, "mode is train or eval"),
        ({"when_full": "drop"}, "when_full is wait or skip"),
        ({"reference": "tf"}, "does not exist|no recording"),
    ],
)
def test_mistakes_are_one_line(trace_path: Path, given: dict[str, Any], said: str) -> None:
    model = network()
    with pytest.raises(tracer.InputError, match=said):
        tracer.attach(model, to=trace_path, **given)
    assert not model._forward_hooks


def test_how_durable_a_daemon_is_it_says_itself() -> None:
    with pytest.raises(tracer.InputError, match="tracer daemon start --durable"):
        tracer.attach(nn.Linear(2, 2), to="daemon", durable=True)
