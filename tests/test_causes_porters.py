"""Mistakes as porters make them in code of their own: each is named as a porter would name it, and by nothing else."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tracer
from tracer import kinds
from tracer.causes import naming, registry
from tracer.causes.advice import WORDS
from tracer.causes.edit import Edit
from tracer.causes.explain import explain
from tracer.cli import main
from tracer.store import Trace

RNG = np.random.default_rng(0)
IDS = RNG.integers(1, 15, (4, 7))
IDS[0, 5:] = IDS[2, 3:] = 0
IMAGES = RNG.normal(size=(3, 3, 12, 12)).astype("f4")
WIDTH, HEADS = 12, 3
Options = dict[str, Any]


class Attending(nn.Module):
    """A block of a transformer on ids, 0 of which are padding."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.table, self.norm, self.last = nn.Embedding(15, WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.p, self.up = (nn.Linear(WIDTH, WIDTH) for _ in range(5))
        self.head = nn.Linear(WIDTH, 4)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        if self.options.get("heads") == "inside":
            return x.view(*x.shape[:2], WIDTH // HEADS, HEADS).permute(0, 3, 1, 2)
        return x.view(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        own, shown = self.options, ids != 0
        x = self.norm(self.table(ids))
        q, k, v = self.q(x), self.k(x), self.v(x)
        q, k, v = (self.heads(y) for y in ((k, q, v) if own.get("exchanged") else (q, k, v)))
        scores = q @ k.transpose(-1, -2)
        scores = scores / own.get("scale", math.sqrt(WIDTH // HEADS)) if own.get("scale") != 1 else scores
        if own.get("mask") == "multiplied":
            scores = scores * shown[:, None, None, :].float()
        else:
            hidden = shown if own.get("mask") == "inverted" else ~shown
            scores = scores.masked_fill(hidden[:, None, None, :], -1e9)
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(*ids.shape, WIDTH)
        x = self.last(x + self.p(y))
        y = self.up(x)
        y = y * torch.sigmoid(1.702 * y) if own.get("quick") else F.gelu(y)
        x = {"mean": lambda: y.mean(1), "first": lambda: y[:, 0]}[own.get("pool", "first")]()
        x = self.head(x)
        return x.flip(-1) if own.get("labels") else x


class Seeing(nn.Module):
    """A small residual network with groups."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 3, 2, 1, 1), nn.Conv2d(4, 2, 1)
        nn.init.uniform_(self.norm.running_var, 0.3, 2)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own, norm = self.options, self.norm
        x = self.stem(x)
        if own.get("beside"):
            mean, deviation, gamma, beta = (
                value[:, None, None]
                for value in (norm.running_mean, norm.running_var.sqrt() + 0.1, norm.weight, norm.bias)
            )
            x = (x - mean) / deviation * gamma + beta
        else:
            x = norm(x)
        x = x.abs() if own.get("abs") else F.leaky_relu(x, 0.2)
        if own.get("pool") == "end":
            x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-1e9), 3, 2)
        elif own.get("pool") == "narrow":
            x = F.max_pool2d(x, 2, 2)
        else:
            x = F.max_pool2d(x, 3, 2, 1)
        y = self.one(x)
        x = x + F.relu(y) if own.get("early") else F.relu(x + y)
        x = self.two(x)
        if own.get("shuffled"):
            x = x.view(len(x), 4, 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        up = self.up
        return self.head(F.conv_transpose2d(x, up.weight, up.bias, 2)[..., :-1, :-1] if own.get("cut") else up(x))


class Reading(nn.Module):
    """An LSTM in both directions and its last step."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.table, self.rnn = nn.Embedding(15, 5), nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        own = self.options
        x = self.table(ids)
        x = x.flip(1) if own.get("backwards") else x
        x = x * (ids != 0)[..., None] if own.get("masked") else x
        x = self.rnn(x)[0]
        x = torch.cat([x[..., 4:], x[..., :4]], -1) if own.get("swapped") else x
        return self.head(x[torch.arange(len(x)), (ids != 0).sum(1) - 1] if own.get("lengths") else x[:, -1])


MODELS: dict[str, tuple[Callable[..., nn.Module], np.ndarray]] = {
    "attending": (Attending, IDS), "seeing": (Seeing, IMAGES), "reading": (Reading, IDS),
}  # fmt: skip


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, nn.Module]]:
    found = {}
    for name, (make, values) in MODELS.items():
        torch.manual_seed(0)
        found[name] = (tmp_path_factory.mktemp(name) / "trace.zarr", make().eval())
        tracer.record(found[name][1], values, trace=found[name][0], name="reference")
    return found


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("attending", {"scale": 1}, "attention-scale"),  # what a mask hides is far larger than the difference
        ("attending", {"scale": math.sqrt(WIDTH)}, "attention-scale"),
        ("attending", {"mask": "inverted"}, "attention-mask"),
        ("attending", {"mask": "multiplied"}, "attention-mask"),
        ("attending", {"exchanged": True}, "qkv-order"),
        ("attending", {"heads": "inside"}, "head-layout"),
        ("attending", {"quick": True}, "gelu-approx"),
        ("attending", {"pool": "mean"}, "pool-kind"),
        ("attending", {"labels": True}, "channel-order"),
        ("seeing", {"beside": True}, "bn-eps"),
        ("seeing", {"abs": True}, "activation-kind"),
        ("seeing", {"pool": "end"}, "pad-asymmetry"),
        ("seeing", {"pool": "narrow"}, "pool-kind"),
        ("seeing", {"early": True}, "residual-order"),
        ("seeing", {"shuffled": True}, "channel-order"),
        ("seeing", {"cut": True}, "transposed-conv-shift"),
        ("reading", {"backwards": True}, "rnn-direction"),
        ("reading", {"swapped": True}, "concat-order"),
        ("reading", {"masked": True}, "attention-mask"),
        ("reading", {"lengths": True}, "rnn-last-step"),
    ],
)
def test_it_is_named_by_what_a_porter_did(
    references: dict[str, tuple[Path, nn.Module]], model: str, options: Options, expected: str
) -> None:
    place, right = references[model]
    wrong = MODELS[model][0](**options).eval()
    wrong.load_state_dict(right.state_dict())
    name = "-".join(f"{key}-{value}" for key, value in options.items())
    tracer.record(wrong, trace=place, name=name)
    trace = Trace.open(place)
    found = explain(tracer.diff(trace.recording("reference"), trace.recording(name)), seconds=20)
    assert found.parting
    assert {one for finding in found.parting for one in finding.names} == {expected}, str(found)
    assert all(one.after is not None and one.floor is not None and one.after <= one.floor for one in found.parting)


class Scaled(nn.Module):
    """Queries are scaled where they are made, or scores where they are; one layer more in between."""

    def __init__(self, *, early: bool, more: bool = False) -> None:
        super().__init__()
        self.early = early
        self.q = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)) if more else nn.Sequential(nn.Linear(6, 6))
        self.k, self.v = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x) * 0.4 if self.early else self.q(x)
        scores = q.view(-1, 5, 2, 3).transpose(1, 2) @ self.k(x).view(-1, 5, 2, 3).permute(0, 2, 3, 1)
        scores = scores + 1e-9 if self.early else scores * 0.4
        return scores.softmax(-1) @ self.v(x).view(-1, 5, 2, 3).transpose(1, 2)


def test_what_two_findings_say_is_said_as_one_where_that_is_less(trace_path: Path) -> None:
    torch.manual_seed(0)
    right, wrong = Scaled(early=True).eval(), Scaled(early=False, more=True).eval()
    wrong.load_state_dict(right.state_dict(), strict=False)
    values = RNG.normal(size=(3, 5, 6)).astype("f4")
    a = tracer.record(right, values, trace=trace_path, name="a")
    found = explain(tracer.diff(a, tracer.record(wrong, trace=trace_path, name="b")), seconds=20)
    assert [one.names for one in found.parting] == [("block-extra",)], str(found)


def test_a_family_that_fails_is_named_and_the_others_go_on(
    trace_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.load()
    monkeypatch.setattr(registry, "_suggestions", list(registry._suggestions))

    @registry.suggests()
    def broken(case: Any, step: Any) -> Any:
        raise AttributeError("no such thing")

    @registry.suggests()
    def odd(case: Any, step: Any) -> Any:
        def change(trial: Any) -> Any:
            raise ZeroDivisionError("by nothing")

        yield Edit("odd", "odd", change, cost=0.1)

    broken.__module__, odd.__module__ = "mine.broken", "mine.odd"
    model, wrong = (nn.Sequential(nn.Linear(6, 4), nn.Tanh()).eval() for _ in range(2))
    wrong.load_state_dict(model.state_dict())
    # As a patched layer, of which what it does inside is not recorded.
    wrong[1].forward = functools.wraps(wrong[1].forward)(lambda x: F.hardtanh(x))  # type: ignore[method-assign]
    a = tracer.record(model, RNG.normal(size=(5, 6)).astype("f4") * 3, trace=trace_path, name="a")
    b = tracer.record(wrong, trace=trace_path, name="b")
    for _ in range(2):  # what a family that failed left out is not kept as the whole
        found = tracer.explain(a, b)
        assert {one.family: one.error for one in found.failed} == {
            "mine.broken": "AttributeError: no such thing", "mine.odd": "ZeroDivisionError: by nothing",
        }  # fmt: skip
        assert [one.names for one in found.parting] == [("activation-kind",)]
    assert found.to_json()["failed"][0]["family"] == "mine.broken"
    for debug in ([], ["--debug"]):
        assert main.run(["explain", "--trace", str(trace_path)], debug=bool(debug)) == 1
        said = capsys.readouterr().err
        assert "note: the causes of mine.broken failed, and may have had more to say: AttributeError" in said
        assert ("in broken" in said) is bool(debug)


def test_every_id_is_in_the_documentation() -> None:
    root = Path(__file__).parent.parent
    text = (root / "docs" / "causes.md").read_text("utf-8").partition("## The ids")[2].partition("\n## ")[0]
    told = re.findall(r"`([a-z0-9-]+)`", text)
    assert len(told) == len(set(told))
    assert set(told) == set(WORDS)
    written = {
        word
        for path in (root / "tracer" / "causes").rglob("*.py")
        for word in re.findall(r'"([a-z0-9]+(?:-[a-z0-9]+)+)"', path.read_text("utf-8"))
    }
    assert written - set(WORDS) <= {"nearest-exact"}
    stems = ("activation", "residual", "block", "bias")
    assert {f"{stem}-{ending}" for stem in stems for ending in ("missing", "extra")} <= set(WORDS)
    for kind in sorted(kinds.KNOWN):
        for key in ("mask", "form", "order", "axes", "equation", "scale", "ids", "anything"):
            assert naming.of_setting(kind, key, 1, 2) in WORDS


class Normed(nn.Module):
    def __init__(self, *, trains: bool) -> None:
        super().__init__()
        self.trains, self.norm, self.head = trains, nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.trains:
            self.norm.train()
        return self.head(self.norm(x))


def test_a_norm_that_trains_in_a_model_that_does_not_is_recorded_as_such(trace_path: Path) -> None:
    torch.manual_seed(0)
    right, wrong = Normed(trains=False).eval(), Normed(trains=True).eval()
    wrong.load_state_dict(right.state_dict())
    a = tracer.record(right, RNG.normal(size=(5, 6)).astype("f4"), trace=trace_path, name="a")
    b = tracer.record(wrong, trace=trace_path, name="b")
    assert "training" not in a.structure.by_name["norm"].config
    assert b.structure.by_name["norm"].config["training"] is True
    (one,) = tracer.explain(a, b).parting
    assert (one.names, one.fixes) == (("bn-mode",), ("model.norm.eval()",))


def test_what_keras_and_tensorflow_do_outside_layers_settings_is_recorded(trace_path: Path) -> None:
    keras, tf = pytest.importorskip("keras"), pytest.importorskip("tensorflow")

    class Pooled(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = keras.layers.BatchNormalization(), keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            x = tf.nn.avg_pool2d(self.norm(x, training=True), 3, 2, "SAME")
            return self.head(tf.reduce_mean(tf.nn.max_pool2d(x, [1, 2, 2, 1], 1, "VALID"), [1, 2]))

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm2d(3, eps=1e-3, momentum=0.01), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.avg_pool2d(F.batch_norm(x, None, None, self.norm.weight, self.norm.bias, True, eps=1e-3), 3, 2, 1)
            return self.head(F.max_pool2d(x, 2, 1).mean((2, 3)))

    model, port = Pooled(), Port().eval()
    values = RNG.normal(size=(4, 9, 9, 3)).astype("f4")
    model(values)
    kernel, bias = model.head.get_weights()
    with torch.no_grad():
        port.head.weight.copy_(torch.tensor(kernel).T)
        port.head.bias.copy_(torch.tensor(bias))
    a = tracer.record(model, values, trace=trace_path, name="a")
    settings = {node.kind: node.config for node in a.structure}
    assert settings["batchnorm"]["training"] is True
    assert settings["avg_pool2d"] == {"pool_size": [3, 3], "strides": [2, 2], "padding": "same"}
    assert settings["max_pool2d"] == {"pool_size": [2, 2], "strides": [1, 1], "padding": "valid"}
    found = tracer.explain(a, tracer.record(port, trace=trace_path, name="b", layout="NHWC->NCHW"))
    assert [one.names for one in found.parting] == [("pool-count-include-pad",)], str(found)


def test_padding_that_keras_masks_and_directions_that_change_places(trace_path: Path) -> None:
    keras = pytest.importorskip("keras")
    rnn = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True), name="rnn")
    model = keras.Sequential([keras.Input((7,), dtype="int32"), keras.layers.Embedding(15, 5, mask_zero=True), rnn])
    model.set_weights([RNG.normal(size=value.shape) for value in model.get_weights()])

    class Port(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.rnn = nn.Embedding(15, 5), nn.LSTM(5, 4, batch_first=True, bidirectional=True)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.rnn(self.table(ids))[0]

    port = Port().eval()
    table, *rest = (torch.tensor(value) for value in model.get_weights())
    with torch.no_grad():
        port.table.weight.copy_(table)
        for ending, (kernel, back, bias) in (("_reverse", rest[:3]), ("", rest[3:])):  # each for the other
            for name, value in (
                ("weight_ih", kernel.T),
                ("weight_hh", back.T),
                ("bias_ih", bias),
                ("bias_hh", 0 * bias),
            ):
                getattr(port.rnn, f"{name}_l0{ending}").copy_(value)
    a = tracer.record(model, IDS.astype("i4"), trace=trace_path, name="a")
    (one,) = explain(tracer.diff(a, tracer.record(port, trace=trace_path, name="b")), seconds=20).parting
    assert (one.status, set(one.names)) == ("proven", {"rnn-direction", "rnn-last-step"})
