"""Operands that come from elsewhere, constants that differ, and tensors that are computed twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_causes_smallest import ROWS, Written, filled, named, said, story
from torch import nn
from torch.nn import functional as F

from tracer.causes.repeated import repeated

PLACES = torch.sin(torch.arange(40.0).reshape(5, 8) * 0.37)
STEPS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(5))
EIGHTS = {"one": (8, 8), "two": (8, 8), "last": (8, 3)}


def dense() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    return {name: nn.Linear(*size) for name, size in EIGHTS.items()}


def test_what_is_computed_twice_is_one_tensor(trace_path: Path) -> None:
    def right(x, one, two, last):
        y = one(x)
        return last(x * two(y) + y)

    def wrong(x, one, two, last):
        y = one(x)
        return last(one(x) * two(y) + y)

    told = said(trace_path, right, wrong, ROWS, dense)
    assert named(told) == {"wiring"}, str(told)
    again = repeated(told.diff.candidate)
    assert len(again.groups) == 2
    assert named(said(trace_path.with_name("b.zarr"), right, lambda x, one, two, last: last(x * two(one(x)) + one(x)),
                      ROWS, dense)) == set()  # fmt: skip


def test_terms_of_a_sum(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two, last: last(x + one(x) + two(x)),
        lambda x, one, two, last: last(one(x) + two(x)), ROWS, dense,
    )  # fmt: skip
    assert named(told) == {"residual-missing"}, str(told)


def test_another_half_of_a_gate(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two, last: last(one(x) + torch.exp(two(x)) * x),
        lambda x, one, two, last: last(two(x) + torch.exp(one(x)) * x), ROWS, dense,
    )  # fmt: skip
    assert named(told) <= {"wiring", "weights-swapped", "operand-order"}, str(told)
    assert told.parting


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (PLACES.roll(-1, 0), "embedding-offset"),
        (PLACES[:, [0, 2, 4, 6, 1, 3, 5, 7]], "channel-order"),
        (PLACES * 2, "scale"),
    ],
)
def test_a_table_of_the_graph_is_named_by_what_it_is_to_the_other(
    trace_path: Path, table: torch.Tensor, name: str
) -> None:
    told = said(
        trace_path, lambda x, one, two, last: last(two(one(x)) + PLACES),
        lambda x, one, two, last: last(two(one(x)) + table), STEPS, dense,
    )  # fmt: skip
    assert named(told) == {name}, str(told)


def test_gains_of_one_and_more_add_the_tensor_itself(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two, last: last(one(x) * torch.sigmoid(two(x))),
        lambda x, one, two, last: last(one(x) * (torch.sigmoid(two(x)) + 1)), ROWS, dense,
    )  # fmt: skip
    assert named(told) == {"residual-extra"}, str(told)


def test_ids_that_are_shifted(trace_path: Path) -> None:
    ids = torch.randint(1, 9, (3, 4), generator=torch.Generator().manual_seed(1))
    told = said(
        trace_path, lambda x, table: table(x), lambda x, table: table(x - 1), ids, lambda: {"table": nn.Embedding(9, 4)}
    )
    assert named(told) == {"embedding-offset"}, str(told)


def test_another_norm_of_a_vector(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one: F.normalize(one(x), dim=-1), lambda x, one: F.normalize(one(x), p=1, dim=-1), ROWS,
        lambda: {"one": nn.Linear(8, 8)},
    )  # fmt: skip
    assert named(told) == {"norm-axis"}, str(told)


def test_one_of_a_sequence_and_its_mean(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one: one(x[:, 0]), lambda x, one: one(x[:, 1:].mean(1)), STEPS,
        lambda: {"one": nn.Linear(8, 3)},
    )  # fmt: skip
    assert named(told) == {"rnn-last-step"}, str(told)


def test_a_deviation_over_n_with_a_factor_behind_is_the_other(trace_path: Path) -> None:
    def level(x: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / (deviation + 1e-5)

    told = said(
        trace_path, lambda x, one: one(level(x, x.std(-1, keepdim=True))),
        lambda x, one: one(level(x, x.std(-1, correction=0, keepdim=True) * (8 / 7) ** 0.5)), ROWS,
        lambda: {"one": nn.Linear(8, 3)},
    )  # fmt: skip
    assert not told.findings, str(told)


def test_what_is_left_out_is_no_term_where_there_is_no_sum(trace_path: Path) -> None:
    def level(x: torch.Tensor, power: float) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / x.var(-1, keepdim=True).pow(power)

    told = said(
        trace_path, lambda x, one: one(level(x, 0.5)), lambda x, one: one(x), ROWS, lambda: {"one": nn.Linear(8, 3)}
    )
    assert named(told), str(told)
    assert not any(name.startswith("residual") for name in named(told)), str(told)


def test_probabilities_of_probabilities_are_an_activation_too_many(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one: torch.sigmoid(one(x)), lambda x, one: torch.sigmoid(torch.sigmoid(one(x))), STEPS[0],
        lambda: {"one": nn.Linear(8, 3)},
    )  # fmt: skip
    assert named(told) == {"activation-extra"}, str(told)


def test_weights_exchanged_between_layers_whose_names_are_those_of_others_too(trace_path: Path) -> None:
    gates = ("first", "second")

    def layers() -> dict[str, nn.Module]:
        return {**dense(), **{g: nn.ModuleDict({part: nn.Linear(8, 8) for part in ("ask", "look")}) for g in gates}}

    def forward(x, one, two, last, first, second):
        a, b = one(x), two(x)
        a = F.relu(first["ask"](a) + first["look"](b))
        return last(F.relu(second["ask"](a) + second["look"](b)))

    reference, candidate = (filled(Written(forward, **layers())) for _ in range(2))
    second = candidate.layers["second"]
    second["ask"].weight, second["look"].weight = second["look"].weight, second["ask"].weight
    second["ask"].bias, second["look"].bias = second["look"].bias, second["ask"].bias
    told = story(trace_path, reference, candidate, ROWS)
    assert "weights-swapped" in named(told), str(told)
    assert not any(name.startswith("block") for name in named(told)), str(told)
