"""What is said of a pair's inputs, of shapes that differ, of outputs, settings and weights: on small real models."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tracer
from tracer.compare import Diff, PairDiff, Verdict
from tracer.compare.weights import facts

X = np.random.default_rng(0).normal(size=(3, 6, 8)).astype("f4")


class Block(nn.Module):
    """Norm, dense, tanh and a skip connection, three times; what is left out makes the defects."""

    def __init__(self, skip: bool = True, activate: bool = True, eps: float = 1e-5, head: str = "softmax") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.LayerNorm(8, eps=eps if i == 1 else 1e-5) for i in range(3))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.skip, self.activate, self.head = skip, activate, head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True)):
            y = layer(norm(x))
            if self.activate or i != 1:
                y = torch.tanh(y)
            x = x + y if self.skip or i != 1 else y
        if self.head == "softmax":
            return torch.softmax(x, -1)
        return {"none": x, "last": x[:, -1], "flat": x.reshape(len(x), -1)}[self.head]


def compared(path: Path, candidate: nn.Module, reference: nn.Module | None = None) -> Diff:
    a = tracer.record(reference or Block(), X, trace=path)
    return tracer.diff(a, tracer.record(candidate, trace=path))


def test_inputs_are_said_to_agree_only_where_they_were_compared(trace_path: Path) -> None:
    diff = compared(trace_path, Block(eps=1e-2))
    assert diff.first is not None
    assert diff.first.aligned == "norms.1"
    assert "inputs agree exactly" in diff.first.reason
    assert "Configuration differs: epsilon 1e-05 against 0.01" in str(diff)
    assert "Its weights are the same on both sides (gamma, beta)" in str(diff)


def test_what_has_no_twin_is_not_passed_over(tmp_path: Path) -> None:
    missing_skip = compared(tmp_path / "a.zarr", Block(skip=False))
    assert missing_skip.first is not None
    assert "inputs agree" not in missing_skip.first.reason
    assert "without a twin" in missing_skip.first.reason
    assert any("add" in name for name in missing_skip.first.between[0])
    missing_activation = compared(tmp_path / "b.zarr", Block(activate=False))
    assert missing_activation.first is not None
    assert any("tanh" in name for name in missing_activation.first.between[0])
    assert missing_activation.first.to_json()["between"]["reference"]


def test_an_output_that_one_side_lacks_is_a_divergence(tmp_path: Path) -> None:
    for head in ("none", "last"):
        diff = compared(tmp_path / f"{head}.zarr", Block(head=head))
        assert diff.first is not None, head
        assert diff.first.aligned == "softmax"
        assert diff.exit_code() == 1
    more = compared(tmp_path / "more.zarr", Block(), Block(head="none"))
    assert more.first is not None
    assert more.first.pair.candidate == ("softmax",)
    flat = compared(tmp_path / "flat.zarr", Block(head="flat"), Block(head="none"))
    assert flat.first is None
    assert flat.exit_code() == 0


def test_another_shape_is_a_divergence_of_its_own(trace_path: Path) -> None:
    image = np.random.default_rng(1).normal(size=(2, 3, 9, 9)).astype("f4")

    def net(ceil: bool) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, ceil_mode=ceil), nn.Conv2d(4, 5, 2), nn.ReLU())

    a = tracer.record(net(False), image, trace=trace_path)
    diff = tracer.diff(a, tracer.record(net(True), trace=trace_path))
    assert diff.first is not None
    assert diff.first.aligned == "1"
    assert "2×4×3×3 against 2×4×4×4" in diff.first.reason
    assert diff.exit_code() == 1
    assert diff.counts[Verdict.INHERITED] == 2
    assert "ceil_mode" in str(diff)


def test_settings_that_differ_are_told_even_where_the_values_agree(trace_path: Path) -> None:
    diff = compared(trace_path, Block(eps=1.0000001e-5 * 1.01))
    assert diff.first is None
    (pair,) = diff.latent
    assert pair.aligned == "norms.1"
    assert "settings differ where the values agree: norms.1 epsilon" in str(diff)


def test_a_small_jump_is_not_taken_for_rounding(trace_path: Path) -> None:
    """A BatchNorm epsilon behind seven layers: 1e-5 relative, far below any tolerance that people use."""

    def net(eps: float) -> nn.Module:
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for i in range(10):
            norm = nn.BatchNorm1d(32, eps=eps if i == 7 else 1e-3)
            norm.running_var.fill_(30.0)
            norm.weight.data.fill_(3.0)
            layers += [nn.Linear(32, 32), norm, nn.Tanh()]
        return nn.Sequential(*layers).eval()

    x = 10 * np.random.default_rng(2).normal(size=(4, 32)).astype("f4")
    a = tracer.record(net(1e-3), x, trace=trace_path)
    diff = tracer.diff(a, tracer.record(net(1e-5), trace=trace_path), atol=1e-7, rtol=1e-6)
    assert diff.first is not None
    assert diff.first.aligned == "22"
    assert diff.first.stats is not None
    assert diff.first.stats.rel_l2 < 5e-5


def keras_and_torch(change: Any) -> tuple[Any, nn.Module]:
    import keras

    inputs = keras.Input((6, 8), name="x")
    x = keras.layers.Conv1D(8, 3, name="conv")(inputs)
    x = keras.layers.LSTM(5, return_sequences=False, name="lstm")(x)
    model = keras.Model(inputs, keras.layers.Dense(5, name="head")(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.lstm, self.head = nn.Conv1d(8, 8, 3), nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out, _ = self.lstm(self.conv(x).transpose(1, 2))
            return self.head(out[:, -1])

    net = Net()
    kernel, recurrent, bias = (torch.tensor(w) for w in model.get_layer("lstm").get_weights())
    weights = {
        "conv.weight": torch.tensor(model.get_layer("conv").get_weights()[0]).permute(2, 1, 0),
        "conv.bias": torch.tensor(model.get_layer("conv").get_weights()[1]),
        "lstm.weight_ih_l0": kernel.T, "lstm.weight_hh_l0": recurrent.T,
        "lstm.bias_ih_l0": bias, "lstm.bias_hh_l0": torch.zeros_like(bias),
        "head.weight": torch.tensor(model.get_layer("head").get_weights()[0]).T,
        "head.bias": torch.tensor(model.get_layer("head").get_weights()[1]),
    }  # fmt: skip
    net.load_state_dict({k: v.contiguous() for k, v in change(weights).items()})
    return model, net


def test_the_last_step_of_a_recurrent_layer_is_found_by_its_values(trace_path: Path) -> None:
    model, net = keras_and_torch(lambda w: w)
    a = tracer.record(model, X, trace=trace_path)
    diff = tracer.diff(a, tracer.record(net, trace=trace_path))
    assert diff.alignment.by_reference["lstm"].candidate == ("lstm", "lstm[1][0]", "lstm[1][1]", "slice")
    assert diff.first is None
    assert not diff.alignment.unmatched_reference


@pytest.mark.parametrize(
    ("change", "layer", "says"),
    [
        (lambda w: w, None, "the same on both sides (kernel, bias)"),
        (lambda w: w | {"head.weight": w["head.weight"].T}, "head", "axes in another order"),
        (lambda w: w | {"conv.weight": w["conv.weight"].permute(1, 0, 2)}, "conv", "axes in another order"),
        (lambda w: w | {"conv.weight": w["conv.weight"] * 1.5}, "conv", "relative difference 5.0e-01"),
        (lambda w: w | {"head.bias": w["head.bias"] + 1}, "head", "bias: relative difference"),
        (
            lambda w: w | {"lstm.weight_ih_l0": w["lstm.weight_ih_l0"].roll(5, 0)},
            "lstm",
            "kernel: the same values with the elements in another order than this layer wants (20×8, gates ifco→ifgo",
        ),
        (lambda w: w | {"lstm.bias_hh_l0": w["lstm.bias_ih_l0"]}, "lstm", "bias: relative difference 1.0e+00"),
    ],
)
def test_weights_of_the_layer_are_compared_in_its_own_order(
    change: Any, layer: str | None, says: str, trace_path: Path
) -> None:
    model, net = keras_and_torch(change)
    a = tracer.record(model, X, trace=trace_path)
    diff = tracer.diff(a, tracer.record(net, trace=trace_path))
    assert (diff.first.aligned if diff.first else None) == layer
    pair = next(p for p in diff.pairs if p.aligned == (layer or "head"))
    assert any(says in fact for fact in facts(pair, diff.reference, diff.candidate, diff.alignment.parameters))


def test_what_is_folded_into_the_weights_is_not_said_to_be_missing(trace_path: Path) -> None:
    norm = nn.BatchNorm2d(4, eps=1e-3)
    norm.running_var, norm.running_mean = torch.linspace(0.5, 1.5, 4), torch.linspace(-1, 1, 4)
    plain, folded, last = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
    scale = 1 / torch.sqrt(norm.running_var + 1.2e-3)  # another epsilon
    assert plain.bias is not None
    assert folded.bias is not None
    folded.weight.data = plain.weight.data * scale[:, None, None, None]
    folded.bias.data = (plain.bias.data - norm.running_mean) * scale
    source = nn.Sequential(plain, norm, nn.ReLU(), last).eval()
    target = nn.Sequential(folded, nn.ReLU(), last).eval()
    image = np.random.default_rng(4).normal(size=(2, 3, 9, 9)).astype("f4")
    a = tracer.record(source, image, trace=trace_path)
    diff = tracer.diff(a, tracer.record(target, trace=trace_path))
    assert diff.first is not None
    assert (diff.first.pair.reference, diff.first.pair.candidate) == (("0", "1"), ("0",))
    assert "only on the" not in str(diff)


class Stacked(nn.Module):
    def __init__(self, together: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lower = nn.LSTM(3, 4, batch_first=True)
        self.upper = nn.LSTM(4, 4, batch_first=True)
        both = nn.LSTM(3, 4, 2, batch_first=True)
        for layer, module in enumerate((self.lower, self.upper)):
            for name, value in module.state_dict().items():
                getattr(both, name.replace("_l0", f"_l{layer}")).data = value * (1.5 if "weight_hh" in name else 1)
        self.last = nn.Linear(4, 2)
        if together:
            del self.lower, self.upper
            self.both = both

    def forward(self, x: torch.Tensor) -> Any:
        x = self.both(x)[0] if hasattr(self, "both") else self.upper(self.lower(x)[0])[0]
        return self.last(x)


def test_the_weights_of_several_layers_are_told_apart(trace_path: Path) -> None:
    a = tracer.record(Stacked(False), np.random.default_rng(3).normal(size=(2, 5, 3)).astype("f4"), trace=trace_path)
    text = str(tracer.diff(a, tracer.record(Stacked(True), trace=trace_path)))
    told = re.findall(r"Weights differ: (\w+) of (\w+)", text)
    assert told == [("recurrent_kernel", "lower"), ("recurrent_kernel", "upper")]


def test_rounding_is_handed_on_by_values_that_stand_in_another_shape(trace_path: Path) -> None:
    """Where no order of the axes makes two shapes equal the values, sorted, tell the error all the same."""

    def net(factor: float) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        model[0].weight.data *= factor
        model[1].weight.data *= 100
        return model

    a = tracer.record(net(1.0), X, trace=trace_path)
    diff = tracer.diff(a, tracer.record(net(1 + 2e-6), trace=trace_path))
    *above, first, second = diff.pairs
    assert [pair.verdict for pair in diff.pairs] == [Verdict.MATCH, Verdict.MATCH, Verdict.NOISE]

    def elsewhere(values: bool) -> PairDiff:
        moved = replace(first, stats=None, sorted=first.stats if values else None, pair=replace(first.pair, axes=None))
        again = replace(diff, pairs=(*above, moved, second)).at(diff.tolerance)
        assert (again.pairs[-2].reason == "the same values in another shape") is values
        return again.pairs[-1]

    assert elsewhere(values=True).verdict is Verdict.NOISE
    assert elsewhere(values=False).verdict is not Verdict.NOISE


def test_rounding_of_what_lies_above_in_less_precision_is_handed_on(trace_path: Path) -> None:
    class Half(nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(8, 8).to(dtype), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> Any:
            return self.head(self.body(x.to(self.body.weight.dtype)).float())

    half, whole = Half(torch.float16), Half(torch.float32)
    a = tracer.record(half, X, trace=trace_path)
    diff = tracer.diff(a, tracer.record(whole, trace=trace_path))
    assert next(p for p in diff.pairs if p.aligned == "head").verdict is Verdict.NOISE, str(diff)
    whole.head.weight.data *= 1.02
    assert tracer.diff(a, tracer.record(whole, name="wrong", trace=trace_path)).exit_code() == 1


def test_a_recurrent_layer_has_the_rounding_of_its_steps(trace_path: Path) -> None:
    """It enlarges the last bit of what it reads 33 times: more than one layer may."""

    class Steps(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.scale, self.rnn = nn.Linear(1, 1, bias=False), nn.RNN(1, 1, batch_first=True)
            for weight, value in zip((self.scale.weight, *self.rnn.parameters()), (factor, 1, 0, -1, 0), strict=True):
                nn.init.constant_(weight, value)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(self.scale(x))[0]

    def last(length: int) -> Verdict:
        x = (1 + 0.03 * np.random.default_rng(0).normal(size=(3, length, 1))).astype("f4")
        path = trace_path.with_name(f"{length}.zarr")
        a = tracer.record(Steps(1.0), x, trace=path)
        diff = tracer.diff(a, tracer.record(Steps(1 + 2**-22), trace=path), atol=0, rtol=1e-6)
        return next(p for p in diff.pairs if p.node.kind == "rnn").verdict

    assert last(36) is Verdict.NOISE
    assert last(3) is Verdict.DIVERGED


def test_values_below_the_tolerance_are_said_to_match_only_so(trace_path: Path) -> None:
    model, other = Block(), Block()
    for net, factor in ((model, 1e-9), (other, 3e-9)):
        net.layers[0].weight.data *= factor
        net.layers[0].bias.data.zero_()
    diff = compared(trace_path, other, model)
    assert diff.first is None
    assert {pair.aligned for pair in diff.faint} == {"layers.0", "tanh"}
    assert "match only because all values are below atol, relative L2 error up to 2.0e+00: layers.0, tanh" in str(diff)
    stricter = diff.at(replace(diff.tolerance, atol=1e-12))
    assert stricter.first is not None
    assert stricter.first.aligned == "layers.0"
    assert not stricter.faint


def test_weights_that_were_cast_are_the_same(trace_path: Path) -> None:
    half = Block().half()
    a = tracer.record(Block(), X, trace=trace_path)
    diff = tracer.diff(a, tracer.record(half, trace=trace_path))
    assert "weights differ" not in str(diff).lower()
    half.layers[1].weight.data *= 1.01
    assert "kernel of layers.1: relative" in str(tracer.diff(a, tracer.record(half, name="c", trace=trace_path)))
