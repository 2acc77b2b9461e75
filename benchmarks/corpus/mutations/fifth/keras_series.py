"""A port to Keras: what comes next in a series, by two recurrent layers. The network in PyTorch is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry_back, fill_torch
from benchmarks.corpus.mutations.fifth.registry import mistake, neighbours, network, one_layer, variant
from benchmarks.corpus.mutations.pairs import Pair

_STEPS, _AHEAD = 14, 4


class Demand(nn.Module):
    """Each series levelled by its own mean and deviation, and set back at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 5, padding=2, padding_mode="replicate")
        self.norm = nn.GroupNorm(2, 6)
        self.first, self.second = nn.LSTM(6, 7, batch_first=True), nn.LSTM(7, 6, batch_first=True)
        self.shops = nn.Embedding(5, 3)
        self.hidden, self.drop, self.head = nn.Linear(9, 10), nn.Dropout(0.1), nn.Linear(10, 12)

    def forward(self, series: torch.Tensor, shop: torch.Tensor) -> torch.Tensor:
        mean = series.mean(1, keepdim=True)
        deviation = (series.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        x = F.silu(self.norm(self.conv(((series - mean) / deviation).transpose(1, 2))))
        x = self.second(self.first(x.transpose(1, 2))[0])[0][:, -1]
        x = F.elu(self.hidden(torch.cat([x, self.shops(shop)], dim=-1)))
        return self.head(self.drop(x)).view(-1, _AHEAD, 3) * deviation + mean


def _hard_sigmoid_of_keras_2(x: Any) -> Any:
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def _demand(**wrong: Any) -> Any:
    keras.backend.clear_session()
    series, shop = layers.Input((_STEPS, 3), name="series"), layers.Input((), dtype="int32", name="shop")
    axes = wrong.get("axes", 1)
    mean = ops.mean(series, axis=axes, keepdims=True)
    variance = ops.var(series, axis=axes, keepdims=True)
    variance = variance * wrong["share"] if "share" in wrong else variance
    deviation = variance if wrong.get("rootless") else ops.sqrt(variance + 1e-5)
    x = series if wrong.get("unlevelled") else (series - mean) / deviation
    if wrong.get("same"):
        x = layers.Conv1D(6, 5, padding=wrong["same"], name="conv")(x)
    else:
        x = ops.concatenate([x[:, :1], x[:, :1], x, x[:, -1:], x[:, -1:]], axis=1)
        x = layers.Conv1D(6, 5, name="conv")(x)
    x = layers.GroupNormalization(wrong.get("groups", 2), epsilon=wrong.get("eps", 1e-5), name="norm")(x)
    x = x if wrong.get("act") == "lost" else layers.Activation(wrong.get("act", "silu"), name="norm_act")(x)
    own = {"recurrent_activation": _hard_sigmoid_of_keras_2 if wrong.get("hard") else "sigmoid"}
    x = layers.LSTM(7, return_sequences=True, name="first", **own)(x)
    if wrong.get("stepwise"):
        x = layers.LSTM(6, return_sequences=True, name="second", **own)(x)[:, wrong["stepwise"]]
    else:
        x = layers.LSTM(6, go_backwards=wrong.get("backwards", False), name="second",
                        activation=wrong.get("cell", "tanh"), **own)(x)  # fmt: skip
    both = [x, layers.Embedding(5, 3, name="shops")(shop)]
    x = layers.Concatenate(name="joined")(both[::-1] if wrong.get("shop_first") else both)
    x = layers.Dense(10, activation=wrong.get("hidden", "elu"), name="hidden")(x)
    x = layers.Dense(12, name="head")(layers.Dropout(0.1, name="drop")(x))
    if wrong.get("series_outside"):
        x = layers.Permute((2, 1), name="turned")(layers.Reshape((3, _AHEAD), name="ahead")(x))
    else:
        x = layers.Reshape((_AHEAD, 3), name="ahead")(x)
    x = x if wrong.get("not_set_back") else x * deviation
    return keras.Model([series, shop], x if wrong.get("mean_left") else x + mean)


@network
def demand() -> Pair:
    """A forecast of three series for a shop: levelled, smoothed, read by two LSTMs, set back."""
    model = Demand().eval()
    fill_torch(model)
    model.head.weight.data *= 1.5
    model.conv.weight.data *= 0.15
    model.conv.bias.data *= 0.1
    rng = np.random.default_rng(57)
    inputs = {"series": (rng.standard_normal((3, _STEPS, 3)).cumsum(1) * 2 + 3).astype(np.float32),
              "shop": rng.integers(0, 5, 3).astype(np.int32)}  # fmt: skip

    def make(**wrong: Any) -> Any:
        state = model.state_dict()
        for name in ("first", "second"):
            parts = [f"{name}.{part}_l0" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            if wrong.get("gates") == name:  # the cell's gate and the output's
                for part in parts:
                    state[part] = state[part].unflatten(0, (4, -1))[[0, 1, 3, 2]].flatten(0, 1)
            if wrong.get("one_bias") == name:
                state[parts[3]] = torch.zeros_like(state[parts[3]])
            if wrong.get("forgets") == name:
                wide = len(state[parts[2]]) // 4
                state[parts[2]] = state[parts[2]] + torch.eye(4)[1].repeat_interleave(wide)
            if wrong.get("unturned") == name:
                state[parts[1]] = state[parts[1]].unflatten(0, (4, -1)).transpose(1, 2).flatten(0, 1)
        if wrong.get("taps_turned"):
            state["conv.weight"] = state["conv.weight"].flip(2)
        if wrong.get("shops_from_one"):
            state["shops.weight"] = state["shops.weight"].roll(1, 0)
        return carry_back(SimpleNamespace(state_dict=lambda: state), _demand(**wrong))

    return Pair(model, inputs, make, "same")


_LEVEL = "mean var multiply sqrt sub subtract div true_divide add"
mistake("demand/deviation-of-pytorch", _LEVEL, "std-ddof", "input-normalisation", share=_STEPS / (_STEPS - 1))
mistake("demand/all-series-as-one", _LEVEL, "norm-axis input-normalisation", "operation-kind", axes=(1, 2))
mistake("demand/root-forgotten", _LEVEL, "input-normalisation activation-missing block-missing", "scale std-ddof "
        "operation-kind", rootless=True)  # fmt: skip
mistake("demand/unlevelled", f"{_LEVEL} conv", "input-normalisation block-missing", "input-scale wiring",
        unlevelled=True)  # fmt: skip
mistake("demand/edges-of-zeros", "conv concatenate", "pad-mode", "concat-order", same="same")
mistake("demand/causal", "conv concatenate", "pad-asymmetry pad-mode", "shift", same="causal")
mistake("demand/taps-turned", "conv", "kernel-flip", "weights-perturbed kernel-layout", taps_turned=True)
mistake("demand/one-group", "norm", "norm-axis", "groups operation-kind", groups=1)
mistake("demand/norm-eps-of-keras", "norm", "ln-eps", "bn-eps", eps=1e-3)
mistake("demand/act-lost", "norm_act silu norm", "activation-missing", "block-missing", act="lost")
mistake("demand/act-hard", "norm_act silu", "activation-kind", act="hard_silu")
mistake("demand/gates-as-named", "first", "lstm-gate-order", "weights-perturbed weights-swapped", gates="first")
mistake("demand/one-bias", "second", "rnn-bias", "weights-perturbed bias-missing", one_bias="second")
mistake("demand/forgets-less", "first", "rnn-bias", "weights-perturbed", forgets="first")
mistake("demand/recurrent-unturned", "second", "dense-transpose kernel-layout weights-perturbed", "weights-swapped",
        unturned="second")  # fmt: skip
mistake("demand/gates-of-keras-2", "first second", "rnn-activation", "activation-kind", hard=True)
mistake("demand/cell-rectified", "second", "rnn-activation activation-kind", cell="relu")
mistake("demand/backwards", "second", "rnn-direction", "axis-permutation", backwards=True)
mistake("demand/last-but-one", "second get_item_4 slice joined", "rnn-last-step",
        "shift operation-kind wiring", stepwise=-2)  # fmt: skip
mistake("demand/shop-first", "joined cat hidden", "concat-order", "operand-order dense-row-order", shop_first=True)
mistake("demand/shops-from-one", "shops", "embedding-offset", "weights-perturbed shift weights-swapped",
        shops_from_one=True)  # fmt: skip
mistake("demand/hidden-by-selu", "hidden elu", "activation-kind", hidden="selu")
mistake("demand/series-before-steps", "ahead view turned head", "reshape-order", "dense-row-order",
        series_outside=True)  # fmt: skip
mistake("demand/not-set-back", "multiply mul add_1 ahead view", "block-missing scale", "input-scale", not_set_back=True)
mistake(
    "demand/mean-left-out",
    "multiply mul add_1 ahead view",
    "block-missing residual-missing",
    "bias-missing wiring",
    mean_left=True,
)
variant("demand/last-of-all-steps", stepwise=-1)
one_layer("demand", "gates-as-named+forgets-less", "edges-of-zeros+taps-turned", "norm-eps-of-keras+one-group")
neighbours("demand", "shop-first+hidden-by-selu", "one-bias+gates-as-named", "series-before-steps+mean-left-out")
