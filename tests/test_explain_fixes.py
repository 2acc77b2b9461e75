"""The fixes that are printed are code: each is run on the real model, and the difference is gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tracer.causes import patching
from tracer.causes.change import Change
from tracer.causes.explain import Explained
from tracer.rerun.verifying import patched

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(3, 4, 9, 9)).astype("f4")
ROWS = RNG.normal(size=(3, 6)).astype("f4")
Build = Callable[[], Any]


def seeded(module: nn.Module) -> nn.Module:
    """Always the same weights for the same shapes, with statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.02 + 0.002)
            elif tensor.dtype.is_floating_point:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return module.eval()


def net(*layers: nn.Module) -> nn.Module:
    return seeded(nn.Sequential(*layers))


def wrong(model: nn.Module, change: Callable[[Any], object]) -> nn.Module:
    with torch.no_grad():
        change(model)
    return model


def explained(reference: Any, candidate: Any, x: np.ndarray, path: Path) -> Explained:
    a = tracer.record(reference, x, name="a", trace=path / "t.zarr")
    return tracer.explain(a, tracer.record(candidate, name="b", trace=path / "t.zarr"))


def weights(found: Explained) -> dict[tuple[str, str], np.ndarray]:
    recording = found.diff.reference
    return {key: recording.read_stored(stored) for key, stored in recording.weights.items()}


def off(reference: Any, candidate: Any, x: np.ndarray) -> float:
    """The largest difference of the outputs, relative."""
    with torch.no_grad():
        a, b = (np.asarray(model(torch.tensor(x) if isinstance(model, nn.Module) else x))
                for model in (reference, candidate))  # fmt: skip
    return float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else np.inf


CONV = 4, 5, 3
TORCH: dict[str, tuple[str, Build, Build, np.ndarray]] = {
    "bn-eps": ("bn-eps", lambda: net(nn.BatchNorm2d(4, eps=1e-3)), lambda: net(nn.BatchNorm2d(4)), IMAGE),
    "ln-eps": ("ln-eps", lambda: net(nn.Linear(6, 5), nn.LayerNorm(5, eps=1e-2)),
               lambda: net(nn.Linear(6, 5), nn.LayerNorm(5)), ROWS),
    "slope": ("activation-param", lambda: net(nn.Linear(6, 5), nn.LeakyReLU(0.3)),
              lambda: net(nn.Linear(6, 5), nn.LeakyReLU(0.1)), ROWS),
    "alpha": ("activation-param", lambda: net(nn.Linear(6, 5), nn.ELU(0.5)),
              lambda: net(nn.Linear(6, 5), nn.ELU()), ROWS),
    "gelu": ("gelu-approx", lambda: net(nn.Linear(6, 5), nn.GELU("tanh")),
             lambda: net(nn.Linear(6, 5), nn.GELU()), ROWS * 3),
    "kind": ("activation-kind", lambda: net(nn.Linear(6, 5), nn.SiLU()),
             lambda: net(nn.Linear(6, 5), nn.ReLU()), ROWS),
    "kind with a parameter": ("activation-kind", lambda: net(nn.Linear(6, 5), nn.LeakyReLU(0.2)),
                              lambda: net(nn.Linear(6, 5), nn.Tanh()), ROWS),
    "extra": ("activation-extra", lambda: net(nn.Linear(6, 5), nn.Identity(), nn.Linear(5, 4)),
              lambda: net(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), ROWS),
    "missing": ("activation-missing", lambda: net(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)),
                lambda: net(nn.Linear(6, 5), nn.Identity(), nn.Linear(5, 4)), ROWS),
    "axis": ("softmax-axis", lambda: net(nn.Conv2d(*CONV), nn.Softmax(1)),
             lambda: net(nn.Conv2d(*CONV), nn.Softmax(2)), IMAGE),
    "dilation": ("dilation", lambda: net(nn.Conv2d(*CONV, padding=2, dilation=2)),
                 lambda: net(nn.Conv2d(*CONV, padding=1)), IMAGE),
    "pad mode": ("pad-mode", lambda: net(nn.Conv2d(*CONV, padding=1, padding_mode="reflect")),
                 lambda: net(nn.Conv2d(*CONV, padding=1)), IMAGE),
    "counted": ("pool-count-include-pad", lambda: net(nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
                lambda: net(nn.AvgPool2d(3, 1, 1)), IMAGE),
    "pool": ("pool-kind", lambda: net(nn.MaxPool2d(2)), lambda: net(nn.AvgPool2d(2)), IMAGE),
    "groups": ("norm-axis", lambda: net(nn.GroupNorm(2, 4)), lambda: net(nn.GroupNorm(4, 4)), IMAGE),
    "transposed": ("dense-transpose", lambda: net(nn.Linear(6, 6)),
                   lambda: wrong(net(nn.Linear(6, 6)), lambda m: m[0].weight.copy_(m[0].weight.T.clone())), ROWS),
    "flipped": ("kernel-flip", lambda: net(nn.Conv2d(*CONV)),
                lambda: wrong(net(nn.Conv2d(*CONV)), lambda m: m[0].weight.copy_(m[0].weight.flip(2, 3))), IMAGE),
    "not loaded": ("weights-not-loaded", lambda: net(nn.Linear(6, 5), nn.ReLU()),
                   lambda: wrong(net(nn.Linear(6, 5), nn.ReLU()), lambda m: m[0].weight.uniform_(-0.4, 0.4)), ROWS),
    "bias": ("bias-missing", lambda: net(nn.Linear(6, 5)), lambda: wrong(
        net(nn.Linear(6, 5, bias=False)), lambda m: m[0].weight.copy_(net(nn.Linear(6, 5))[0].weight)), ROWS),
    "statistics": ("bn-stats", lambda: net(nn.BatchNorm2d(4)), lambda: wrong(
        net(nn.BatchNorm2d(4)), lambda m: m[0].running_mean.zero_()), IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_a_line_for_torch_removes_the_difference(name: str, tmp_path: Path) -> None:
    cause, reference, candidate, x = TORCH[name]
    theirs = candidate()
    found = explained(reference(), theirs, x, tmp_path)
    assert cause in {one for finding in found.parting for one in finding.names}, str(found)
    assert off(reference(), candidate(), x) > 1e-4
    lines = [line for finding in found.findings for line in finding.fixes]
    assert lines
    by_hand, known = candidate(), {"torch": torch, "np": np, "reference": weights(found)}
    for line in lines:
        if line.startswith("behind "):  # a statement of the forward: the patch has it
            exec(patched(found), space := {"__name__": "p"})
            by_hand = space["apply"](by_hand)
            break
        exec(line, {**known, "model": by_hand})
    assert off(reference(), by_hand, x) < 1e-5, str(found)
    exec(patched(found), space := {"__name__": "p"})
    assert off(reference(), space["apply"](theirs), x) < 1e-5, patched(found)


def layers(*some: Any, shape: tuple[int, ...] = (6,)) -> Any:
    """A functional model with the same weights for the same shapes."""
    model = keras.Sequential([keras.Input(shape), *some])
    generator = np.random.default_rng(0)
    for weight in model.weights:
        spread = generator.uniform(0.002, 0.02, weight.shape)
        weight.assign(spread if "variance" in weight.path else generator.normal(size=weight.shape) * 0.3)
    return model


def conv(**settings: Any) -> Any:
    return layers(keras.layers.Conv2D(5, 3, name="conv", **settings), shape=(9, 9, 4))


def dense(kernel: Callable[[np.ndarray], np.ndarray] | None = None, **settings: Any) -> Any:
    model = layers(keras.layers.Dense(6, name="dense", **settings))
    if kernel is not None:
        model.layers[0].kernel.assign(kernel(np.array(model.layers[0].kernel)))
    return model


def norm(epsilon: float) -> Any:
    return layers(keras.layers.BatchNormalization(epsilon=epsilon, name="bn"))


LAST = IMAGE.transpose(0, 2, 3, 1).copy()
KERAS: dict[str, tuple[str, Build, Build, np.ndarray]] = {
    "bn-eps": ("bn-eps", lambda: norm(1e-3), lambda: norm(1e-5), ROWS),
    "slope": ("activation-param", lambda: layers(keras.layers.LeakyReLU(0.3, name="act")),
              lambda: layers(keras.layers.LeakyReLU(0.1, name="act")), ROWS),
    "fused": ("activation-kind", lambda: dense(activation="silu"), lambda: dense(activation="relu"), ROWS),
    "fused, extra": ("activation-extra", lambda: dense(), lambda: dense(activation="relu"), ROWS),
    "fused, missing": ("activation-missing", lambda: dense(activation="relu"), lambda: dense(), ROWS),
    "valid": ("pad-mode", lambda: conv(padding="same", strides=2), lambda: conv(padding="valid", strides=2), LAST),
    "transposed": ("dense-transpose", lambda: dense(), lambda: dense(lambda kernel: kernel.T), ROWS),
    "flipped": ("kernel-flip", lambda: conv(), lambda: _flipped(conv()), LAST),
    "not loaded": ("weights-not-loaded", lambda: dense(),
                   lambda: dense(lambda kernel: RNG.uniform(-0.4, 0.4, kernel.shape)), ROWS),
    "axis": ("softmax-axis", lambda: layers(keras.layers.Softmax(axis=1, name="soft"), shape=(9, 9, 4)),
             lambda: layers(keras.layers.Softmax(axis=-1, name="soft"), shape=(9, 9, 4)), LAST),
}  # fmt: skip


def _flipped(model: Any) -> Any:
    kernel = model.layers[0].kernel
    kernel.assign(np.array(kernel)[::-1, ::-1])
    return model


@pytest.mark.parametrize("name", KERAS)
def test_a_line_for_keras_removes_the_difference(name: str, tmp_path: Path) -> None:
    cause, reference, candidate, x = KERAS[name]
    theirs = candidate()
    found = explained(reference(), theirs, x, tmp_path)
    assert cause in {one for finding in found.parting for one in finding.names}, str(found)
    assert off(reference(), theirs, x) > 1e-4
    by_hand, known = candidate(), {"keras": keras, "np": np, "reference": weights(found)}
    by_hand.set_weights(theirs.get_weights())
    lines = [line for finding in found.findings for line in finding.fixes]
    assert lines
    for line in lines:
        exec(line, {**known, "model": by_hand})
    assert off(reference(), by_hand, x) < 1e-5, str(found)
    exec(patched(found), space := {"__name__": "p"})
    assert off(reference(), space["apply"](theirs), x) < 1e-5, patched(found)


def test_same_padding_is_put_before_a_torch_convolution(tmp_path: Path) -> None:
    reference = layers(keras.layers.Conv2D(5, 3, strides=2, padding="same", name="conv"), shape=(10, 10, 4))
    x = RNG.normal(size=(3, 10, 10, 4)).astype("f4")
    candidate = nn.Sequential(nn.Conv2d(4, 5, 3, stride=2, padding=1))
    kernel, bias = map(np.array, reference.get_weights())
    candidate[0].weight.data, candidate[0].bias.data = torch.tensor(kernel.transpose(3, 2, 0, 1)), torch.tensor(bias)
    found = explained(reference, candidate, x, tmp_path)
    assert found.parting[0].names == ("pad-asymmetry",)
    assert found.parting[0].fixes == (
        "model[0].padding = (0, 0)", "before model[0]: x = torch.nn.functional.pad(x, (0, 1, 0, 1))",
    )  # fmt: skip
    exec(patched(found), space := {"__name__": "p"})
    with torch.no_grad():
        mended = space["apply"](candidate)(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert np.allclose(mended, reference(x), atol=1e-5)


@pytest.mark.parametrize(
    ("cell", "cause"), [(nn.LSTM, "lstm-gate-order"), (nn.GRU, "gru-gate-order")], ids=["lstm", "gru"]
)
def test_gates_are_put_in_order(cell: Any, cause: str, tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell(6, 5, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.cell(x)[0]

    reference, candidate = seeded(Net()), seeded(Net())
    with torch.no_grad():
        for parameter in candidate.cell.parameters():
            gates = list(parameter.chunk(4 if cell is nn.LSTM else 3, 0))
            gates[0], gates[1] = gates[1].clone(), gates[0].clone()
            parameter.copy_(torch.cat(gates))
    x = RNG.normal(size=(3, 7, 6)).astype("f4")
    found = explained(reference, candidate, x, tmp_path)
    assert cause in found.parting[0].names, str(found)
    exec(patched(found), space := {"__name__": "p"})
    assert off(reference, space["apply"](candidate), x) < 1e-5, patched(found)


def test_many_layers_are_one_loop(tmp_path: Path) -> None:
    def build(eps: float) -> nn.Module:
        return net(*(layer for _ in range(3) for layer in (nn.Linear(6, 6), nn.BatchNorm1d(6, eps=eps))))

    found = explained(build(1e-3), candidate := build(1e-5), ROWS, tmp_path)
    (one,) = found.parting
    assert one.fixes == ("for m in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)): m.eps = 0.001",)
    assert "others" not in str(found)
    exec(one.fixes[0], {"torch": torch, "model": candidate})
    assert off(build(1e-3), candidate, ROWS) < 1e-5
    mixed = build(1e-5)
    mixed[5].eps = 1e-3
    (some,) = explained(build(1e-3), mixed, ROWS, tmp_path / "mixed").parting
    assert some.fixes == ("model[1].eps = 0.001",)
    assert some.pairs == ("1", "3")


def test_a_layer_that_runs_twice_is_not_exchanged(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, kind: nn.Module) -> None:
            super().__init__()
            self.first, self.second, self.act = nn.Linear(6, 5), nn.Linear(5, 4), kind

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.second(torch.tanh(self.act(self.first(x)))))

    found = explained(seeded(Net(nn.SiLU())), seeded(Net(nn.ReLU())), ROWS, tmp_path)
    assert found.parting
    assert all(not cause.changes and cause.fix for finding in found.parting for cause in finding.causes), str(found)


def test_functions_are_named_with_their_line(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.first, self.slope = nn.Linear(6, 5), slope

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.leaky_relu(self.first(x), self.slope)

    found = explained(seeded(Net(0.3)), seeded(Net(0.1)), ROWS, tmp_path)
    (line,) = found.parting[0].fixes
    assert line.startswith("tests/test_explain_fixes.py:") or "test_explain_fixes.py:" in line
    assert line.endswith(": F.leaky_relu(…) with negative_slope=0.3")
    mended = Net(0.1)
    exec(patched(found), space := {"__name__": "p"})
    assert off(seeded(Net(0.3)), space["apply"](seeded(mended)), ROWS) < 1e-6


def test_a_function_of_one_block_is_called_otherwise_in_that_block_alone(tmp_path: Path) -> None:
    """As InceptionV3's, whose means of pools count their padding in PyTorch and not in Keras."""

    class Block(nn.Module):
        def __init__(self, counts: bool) -> None:
            super().__init__()
            self.conv, self.counts = nn.Conv2d(4, 4, 1), counts

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found = nn.functional.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=self.counts)
            return self.conv(found)

    found = explained(net(Block(False), Block(True)), net(Block(True), Block(True)), IMAGE, tmp_path)
    (one,) = found.parting
    assert one.names == ("pool-count-include-pad",)
    assert [change.owner for change in one.causes[0].changes] == ["0"]
    mended = net(Block(True), Block(True))
    exec(patched(found), space := {"__name__": "p"})
    assert off(net(Block(False), Block(True)), space["apply"](mended), IMAGE) < 1e-6


def test_what_is_done_to_the_input_alone_is_put_before_the_first_layer(tmp_path: Path) -> None:
    """As EfficientNet's, which holds its preprocessing in Keras and not in PyTorch; zeros are padded behind it."""
    kl = keras.layers
    reference = keras.Sequential([
        keras.Input((10, 10, 3)), kl.Rescaling(1 / 255, name="rescaling"),
        kl.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06], name="normalization"),
        kl.Conv2D(5, 3, padding="same", name="conv"),
    ])  # fmt: skip
    x = RNG.uniform(0, 255, size=(3, 10, 10, 3)).astype("f4")
    candidate = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1))
    kernel, bias = map(np.array, reference.get_layer("conv").get_weights())
    candidate[0].weight.data, candidate[0].bias.data = torch.tensor(kernel.transpose(3, 2, 0, 1)), torch.tensor(bias)
    found = explained(reference, candidate, x, tmp_path)
    assert found.parting[0].names == ("input-normalisation",), str(found)
    (line,) = found.parting[0].fixes
    assert line.startswith("before model[0]: x = x * x.new_tensor((0.0196")
    exec(patched(found), space := {"__name__": "p"})
    with torch.no_grad():
        mended = space["apply"](candidate)(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert np.allclose(mended, reference(x), atol=1e-5)


def test_two_differences_that_cancel_are_none(tmp_path: Path) -> None:
    """A flatten in another order before a kernel with its rows in that order, below a defect that hides its values."""
    kl = keras.layers
    reference = keras.Sequential([
        keras.Input((6, 4, 3)), kl.BatchNormalization(epsilon=1e-2, name="norm"), kl.Flatten(name="flat"),
        kl.Dense(5, name="dense"),
    ])  # fmt: skip
    reference.get_layer("norm").moving_variance.assign([0.02, 0.03, 0.05])
    candidate = nn.Sequential(nn.BatchNorm2d(3, eps=1e-5), nn.Flatten(), nn.Linear(72, 5)).eval()
    x = RNG.normal(size=(3, 6, 4, 3)).astype("f4")
    a = tracer.record(reference, x, name="a", trace=tmp_path / "t.zarr")
    b = tracer.record(candidate, name="b", trace=tmp_path / "t.zarr")
    filled = tracer.transfer(a, b, model=candidate, anyway=True).recording
    assert filled is not None
    assert [one.names for one in tracer.explain(a, filled).parting] == [("bn-eps",)]
    with torch.no_grad():
        candidate[2].weight.copy_(torch.tensor(reference.get_layer("dense").get_weights()[0].T))
    turned = tracer.explain(a, tracer.record(candidate, name="turned", trace=tmp_path / "t.zarr"))
    assert {name for one in turned.parting for name in one.names} & {"flatten-order", "dense-row-order"}, str(turned)


@pytest.mark.parametrize(
    "change",
    [
        Change("torch", "set", "a.b", "__class__", 1),
        Change("torch", "set", "a", "eps = 1; import os", 1),
        Change("keras", "set", "a", "x.y", 1),
    ],
)
def test_a_patch_holds_no_code_of_a_trace(change: Change) -> None:
    with pytest.raises(ValueError, match="no attribute"):
        patching.statements(change)


def test_strings_of_a_trace_stay_strings() -> None:
    evil = "x'); import os; os.system('echo"
    for change in (
        Change("torch", "weight", evil, evil, None, (evil, evil), (("take", (0, 1)),)),
        Change("keras", "set", evil, "padding", evil),
        Change("torch", "pad", evil, evil, (0, 1)),
        Change("torch", "affine", evil, evil, (1, 4, 2.0, 1.0)),
        Change("torch", "call", evil, "gelu", ("approximate", evil)),
    ):
        for statement in patching.statements(change):
            tree = compile(statement, "p", "exec", flags=1024)  # ast.PyCF_ONLY_AST
            assert len(tree.body) == 1
            assert "import" not in {type(node).__name__.lower() for node in tree.body}
    with pytest.raises(KeyError):
        patching.statements(Change("torch", "module", "a", "", ("os.system",)))
    for change in (
        Change("torch", "call", "a", evil, ("approximate", "tanh")), Change("torch", "call", "a", "gelu", (evil, 1)),
        Change("torch", "affine", "a", "", (evil, 4, 1.0, 0.0)), Change("torch", "affine", "a", "", (1, 4, 1.0)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"no function|not arguments|not a scale"):
            patching.statements(change)


def test_changes_from_json_are_checked() -> None:
    good = Change("torch", "weight", "a", "b", None, ("c", "d"), (("transpose", (1, 0)),))
    assert Change.from_json(good.to_json()) == good
    for key, value in (("library", "os"), ("what", "run"), ("owner", 1), ("moves", [["eval", [1]]]),
                       ("moves", [["take", ["x"]]]), ("source", ["a"]), ("value", {"a": 1})):  # fmt: skip
        with pytest.raises(ValueError, match="not a"):
            Change.from_json({**good.to_json(), key: value})
