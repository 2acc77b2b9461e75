"""A model that raises: its own fault keeps what ran before, a wrong input is refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tracer.adapter import Array, MemorySink
from tracer.errors import ExitCode, InputError, ModelError
from tracer_torch import TorchAdapter


def random(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Middle(nn.Module):
    """Two layers, then what ``act`` does, then a third."""

    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.act(self.b(self.a(x))))  # type: ignore[no-any-return]


class Inner(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("bug in\nmy \x1b[31mmodel")


def raises(error: BaseException) -> Callable[[torch.Tensor], torch.Tensor]:
    def act(x: torch.Tensor) -> torch.Tensor:
        raise error

    return act


def asserts(x: torch.Tensor) -> torch.Tensor:
    assert x.shape[0] == 77, "batch"
    return x


OWN_FAULTS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    raises(RuntimeError("no good")), raises(KeyError("size")), raises(ValueError("expected another shape")), asserts,
    lambda x: x / (1 // 0), lambda x: x if x > 0 else -x, lambda x: torch.relu((x, x)),  # type: ignore[arg-type]
    lambda x: x.t().view(-1), lambda x: x.no_such_thing,  # type: ignore[attr-defined]
]  # fmt: skip


@pytest.mark.parametrize("act", OWN_FAULTS)
def test_a_fault_of_the_models_own_keeps_what_ran_before(
    act: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "t.zarr"
    with pytest.raises(ModelError) as caught:
        tracer.record(Middle(act), random(3, 4), name="pt", trace=path)
    text = str(caught.value)
    assert "the model raised " in text
    assert f"in Middle.forward at {__file__}:" in text or f"at tests/{Path(__file__).name}:" in text
    assert "\n" not in text
    assert caught.value.exit_code == ExitCode.PARTIAL
    kept = tracer.open(path).recording("pt")
    assert kept.state != "complete"
    assert {"x", "a", "b"} <= set(kept.activations)
    assert "c" not in kept.structure.by_name


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 1 bytes")])
def test_too_little_memory_is_no_fault_of_the_input(error: BaseException, tmp_path: Path) -> None:
    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(ModelError, match=type(error).__name__):
        tracer.record(nn.Sequential(First(), nn.Linear(4, 4)), random(2, 4), trace=tmp_path / "t.zarr")


def test_the_module_that_raised_is_named() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Inner()), nn.Linear(4, 4))
    model = TorchAdapter().wrap(net)
    structure = model.structure({"input": random(2, 4)})
    assert [node.name for node in structure] == ["input", "0", "1.0"]
    assert structure.outputs == ()
    assert len(structure.notes) == 1
    sink = MemorySink()
    with pytest.raises(ModelError, match=r"ValueError: bug in my .*model in '1.1' \(Inner\(\)\) at .*\.py:\d+$"):
        model.capture({"input": random(2, 4)}, sink)
    assert list(sink.values) == ["input", "0", "1.0"]


def test_a_fault_that_does_not_come_back_is_reported_all_the_same() -> None:
    calls: list[int] = []

    def once(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no good")
        return x

    model = TorchAdapter().wrap(Middle(once))
    sink = MemorySink()
    with pytest.raises(ModelError, match=r"no good .*when it was first run, but not again"):
        model.capture({"x": random(2, 4)}, sink)
    assert list(sink.values) == ["x", "a", "b"]


class Late(nn.Module):
    """A wrong order of axes is only noticed by the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(4, 4, 1), nn.LayerNorm(6), nn.Linear(4 * 4 * 6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).flatten(1))  # type: ignore[no-any-return]


class Early(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 2
        if x.shape[-1] != 4:
            raise ValueError("four, please")
        return self.fc(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("net", "x", "match"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1)), random(2, 5, 6, 6), "in '0'"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(144, 2)), random(2, 3, 5, 6), "in '2'"),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(4)), random(2, 3), "4D input"),
        (nn.Sequential(nn.Linear(3, 4), nn.Conv1d(4, 1, 3)), random(2, 3, 3), "in '1'"),
        (nn.Sequential(nn.Linear(3, 4), nn.TransformerEncoderLayer(8, 2)), random(2, 3), "in '1.self_attn'"),
        (nn.Sequential(nn.Conv1d(3, 4, 1), nn.LSTM(7, 2)), random(2, 3, 5), "in '1'"),
        (Late(), random(2, 4, 6, 4), "in 'norm'"),
        (Late(), random(2, 4, 5, 6), "in 'fc'"),
        (Early(), random(2, 5), "four, please"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(net: nn.Module, x: Array, match: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"the model does not take .*{match}"):
        tracer.record(net, x, trace=tmp_path / "t.zarr", layout="same")
    assert not (tmp_path / "t.zarr").exists()


def test_the_axes_are_found_though_the_first_layers_take_any(tmp_path: Path) -> None:
    # channels_last; both orders pass the convolution.
    recording = tracer.record(Late(), random(2, 4, 6, 4), trace=tmp_path / "t.zarr")
    assert recording.state == "complete"
    assert recording.structure.by_name["fc"].shape == (2, 2)
