"""Mistakes that a program drew, each of which was once given a wrong name; and the drawing itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_causes_smallest import ROWS, filled, named, said
from torch import nn
from torch.nn import functional as F

from benchmarks.causes.fuzzing import OPERATORS, told
from benchmarks.causes.fuzzing.running import _plant
from benchmarks.corpus.mutations import KINDS, Subject
from tests.test_causes import story

MAPS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))


def dense() -> dict[str, nn.Module]:
    return {"one": nn.Linear(8, 8), "two": nn.Linear(8, 5)}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_numbers_that_are_brought_to_a_coarser_type_and_back(trace_path: Path, kind: torch.dtype) -> None:
    def run(x, one, two, to=torch.float32):
        return two(F.relu(one(x)).to(to).to(torch.float32))

    found = said(trace_path, run, lambda x, one, two: run(x, one, two, kind), ROWS, dense)
    assert named(found) == {"dtype"}, str(found)


def test_a_factor_on_one_of_two_that_are_multiplied(trace_path: Path) -> None:
    def product(by: float):
        def run(x, one, two):
            x = one(x)
            return two((x * (x * by if by != 1 else x)).mean(1))

        return run

    found = said(trace_path, product(1), product(0.3), ROWS, dense)
    assert named(found) == {"scale"}, str(found)


def test_a_norm_that_stands_twice_is_not_one_that_stands_elsewhere(trace_path: Path) -> None:
    def levelled(times: int):
        def run(x, conv, norm):
            y = conv(x)
            for _ in range(times):
                y = norm(y)
            return F.relu(x + y)

        return run

    def layers() -> dict[str, nn.Module]:
        return {"conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.GroupNorm(2, 4)}

    found = said(trace_path, levelled(1), levelled(2), MAPS, layers)
    assert named(found) == {"block-extra"}, str(found)


def test_a_layer_behind_one_of_several_terms(trace_path: Path) -> None:
    def joined(more: bool):
        def run(x, first, second, more_):
            one = first(x)
            return torch.relu((more_(one) if more else one) + second(x) + x)

        return run

    def layers() -> dict[str, nn.Module]:
        return {name: nn.Conv2d(4, 4, 1) for name in ("first", "second", "more_")}

    found = said(trace_path, joined(False), joined(True), MAPS, layers)
    assert named(found) == {"block-extra"}, str(found)


def test_outputs_that_are_all_zeros_were_never_loaded(trace_path: Path) -> None:
    first, second = (nn.Sequential(filled(nn.Linear(8, 8)), nn.Tanh()) for _ in range(2))
    second[0].weight.data[:3] = 0
    found = story(trace_path, first, second, ROWS)
    assert named(found) == {"weights-not-loaded"}, str(found)


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_what_the_weights_of_a_recurrent_layer_read_backwards(trace_path: Path, name: str) -> None:
    first, second = (filled(nn.LSTM(8, 5, batch_first=True)) for _ in range(2))
    value = getattr(second, name).data
    value.copy_(value.flip(1))
    found = story(trace_path, first, second, ROWS)
    assert named(found) == {"channel-order"}, str(found)


def test_features_that_run_backwards_are_not_shifted(trace_path: Path) -> None:
    class Backwards(nn.Linear):
        def forward(self, x):
            return torch.from_numpy(super().forward(x).detach().numpy()[..., ::-1].copy())

    first, second = (nn.Sequential(filled(kind(8, 6)), nn.Tanh()) for kind in (nn.Linear, Backwards))
    found = story(trace_path, first, second, ROWS)
    assert named(found) == {"channel-order"}, str(found)


def test_a_map_of_another_size_is_raised_as_many_times(trace_path: Path) -> None:
    def raised(stride: int):
        def run(x, first, down, up):
            first.stride = (stride, stride)
            return up(F.interpolate(down(first(x)), scale_factor=2)).mean((2, 3))

        return run

    def layers() -> dict[str, nn.Module]:
        return {"first": nn.Conv2d(4, 4, 3, padding=1), "down": nn.Conv2d(4, 4, 3, padding=1, stride=2),
                "up": nn.Conv2d(4, 4, 1)}  # fmt: skip

    found = said(trace_path, raised(1), raised(2), MAPS, layers)
    assert named(found) == {"stride-position"}, str(found)


def test_attention_in_one_layer_and_written_out_with_rows_that_fit_nowhere(trace_path: Path) -> None:
    """Of what the one computes in place of the other nothing is known but that the weights may be others."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attend(x, x, x, need_weights=False)[0]

    class Parts(nn.Module):
        def __init__(self, whole: Whole, order: list[int]) -> None:
            super().__init__()
            self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))
            own = whole.attend
            for layer, weight, bias in zip((self.query, self.key, self.value), own.in_proj_weight.chunk(3),
                                           own.in_proj_bias.chunk(3), strict=True):  # fmt: skip
                layer.weight.data, layer.bias.data = weight.data.clone(), bias.data.clone()
            self.query.weight.data = self.query.weight.data[order]
            self.out.load_state_dict(own.out_proj.state_dict())

        def forward(self, x):
            q, k, v = (layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
            mixed = torch.softmax(q @ k.mT / 2, -1) @ v
            return self.out(mixed.transpose(1, 2).flatten(2))

    whole = filled(Whole())
    assert not story(trace_path, whole, Parts(whole, list(range(8))), ROWS).parting
    found = story(trace_path.with_name("other.zarr"), whole, Parts(whole, [5, 2, 7, 0, 3, 6, 1, 4]), ROWS)
    assert found.parting
    told_ = {name for one in found.parting for name in one.names}
    assert not told_ & {"block-missing", "block-extra", "operation-kind"}, str(found)


def test_every_operator_has_a_name_of_its_own() -> None:
    names = [one.name for one in OPERATORS]
    assert len(names) > 50
    assert len(set(names)) == len(names)
    assert told("scale shift | block-extra") == ({"scale", "shift"}, {"block-extra"})


def test_drawn_defects_change_what_a_port_gives_and_are_the_same_again() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    subject, kinds = Subject(model.eval(), {"input": ROWS}), dict(KINDS)
    try:
        drawn = [_plant(subject, np.random.default_rng(seed), 1, ["*"]) for seed in (1, 2, 3, 1)]
    finally:
        KINDS.clear()
        KINDS.update(kinds)
    assert all(one is not None for one in drawn)
    given = [one.model(torch.from_numpy(ROWS)).detach() for one in drawn if one is not None]
    right = subject.outputs[0]
    assert all(not torch.allclose(found, right, atol=1e-6) for found in given)
    assert drawn[0].kinds == drawn[3].kinds
    assert torch.equal(given[0], given[3])
    assert all(one.places[0] or one.gone[0] for one in drawn)
