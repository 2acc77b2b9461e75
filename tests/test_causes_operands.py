"""Operands that come from elsewhere, constants that differ, and tensors that are computed twice."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from test_causes_smallest import ROWS, Function, Written, filled, named, said, story
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


def _exponent(y: torch.Tensor, *, squeezed: bool) -> torch.Tensor:
    return torch.exp(-2 + 1.25 * (torch.tanh(y) + 1) if squeezed else y.clamp(-2, 0.5))


def _spread(y: torch.Tensor, eps: float) -> torch.Tensor:
    return y * torch.sqrt(y.var(1, keepdim=True) + eps)


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        (lambda y: y - y.mean(1, keepdim=True), lambda y: y - y.amax(1, keepdim=True), "pool-kind"),
        (lambda y: y.flip(1), lambda y: y.roll(4, 1), "channel-order"),
        (partial(_exponent, squeezed=False), partial(_exponent, squeezed=True), "activation-kind"),
        (partial(_spread, eps=1e-2), partial(_spread, eps=1e-5), "ln-eps"),
    ],
)  # fmt: skip
def test_what_is_said_of_features(trace_path: Path, right: Function, wrong: Function, name: str) -> None:
    told = said(
        trace_path, lambda x, one, two, last: last(right(one(x))), lambda x, one, two, last: last(wrong(one(x))),
        STEPS[:, 0], dense,
    )  # fmt: skip
    assert named(told) == {name}, str(told)


def test_a_number_that_one_side_adds_is_a_bias_too(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one, two, last: last(one(x).square() + 1.5),
        lambda x, one, two, last: last(one(x).square()), ROWS, dense,
    )  # fmt: skip
    (finding,) = told.findings
    assert {*finding.names, *(other.id for other in finding.candidates)} == {"shift", "bias-missing"}, str(told)


def test_a_product_that_is_not_transposed_is_no_matter_of_heads(trace_path: Path) -> None:
    def turned(x: torch.Tensor, one: nn.Module, last: nn.Module, *, back: bool) -> torch.Tensor:
        y = one(x).unflatten(1, (8, 8))
        return last((y if back else y.transpose(1, 2)) @ x[:, :, None])

    told = said(
        trace_path, lambda x, one, last: turned(x, one, last, back=False),
        lambda x, one, last: turned(x, one, last, back=True), STEPS[:, 0],
        lambda: {"one": nn.Linear(8, 64), "last": nn.Linear(1, 3)},
    )  # fmt: skip
    assert named(told) == {"axis-permutation"}, str(told)


def test_no_padding_at_all_is_another_padding(trace_path: Path) -> None:
    told = said(
        trace_path, lambda x, one: one(x).mean(2), lambda x, one: one(F.pad(x, (0, 1))).mean(2), STEPS,
        lambda: {"one": nn.Conv1d(5, 4, 2)},
    )  # fmt: skip
    assert named(told) == {"pad-mode"}, str(told)


def test_rows_of_zeros_are_those_of_an_id_for_padding(trace_path: Path) -> None:
    reference, candidate = (filled(nn.Embedding(9, 8)) for _ in range(2))
    with torch.no_grad():
        candidate.weight[0] = 0
    told = story(trace_path, reference, candidate, torch.arange(9)[None])
    assert named(told) == {"embedding-offset"}, str(told)


def test_a_token_at_the_other_end_that_is_taken_from_there_is_no_defect(trace_path: Path) -> None:
    def read(x: torch.Tensor, behind: bool, layers: list[nn.Module]) -> torch.Tensor:
        token = x.mean(1, keepdim=True)
        x = torch.cat([x, token] if behind else [token, x], 1)
        for layer in layers:
            x = torch.tanh(layer(x) + x.mean(1, keepdim=True))
        return x[:, -1 if behind else 0]

    told = said(
        trace_path, lambda x, **layers: read(x, False, [*layers.values()]),
        lambda x, **layers: read(x, True, [*layers.values()]), STEPS,
        lambda: {f"layer{k}": nn.Linear(8, 8) for k in range(6)},
    )  # fmt: skip
    assert named(told) == set(), str(told)


def test_weights_exchanged_below_layers_that_have_their_own(trace_path: Path) -> None:
    def layers() -> dict[str, nn.Module]:
        return {name: nn.Linear(8, 8) for name in ("value1", "gain1", "value2", "gain2")}

    def forward(x, value1, gain1, value2, gain2):
        return value2(F.relu(value1(x))) * gain2(F.relu(gain1(x)))

    reference, candidate = (filled(Written(forward, **layers())) for _ in range(2))
    its = candidate.layers
    state = {name: its[name].state_dict() for name in ("value1", "gain1")}
    swapped = {name: {k: v.clone() for k, v in values.items()} for name, values in state.items()}
    its["value1"].load_state_dict(swapped["gain1"])
    its["gain1"].load_state_dict(swapped["value1"])
    told = story(trace_path, reference, candidate, ROWS)
    assert named(told) == {"weights-swapped"}, str(told)


@pytest.mark.filterwarnings("error")
def test_complex_results_are_read_without_a_warning(trace_path: Path) -> None:
    def of(scale: float) -> Function:
        def forward(x, one, two, last):
            y = one(x)
            return last(torch.complex(y, y * scale).abs())

        return forward

    told = said(trace_path, of(1.0), of(1.3), ROWS, dense)
    assert named(told) == {"scale"}, str(told)
