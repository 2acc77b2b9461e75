"""Defects of recurrent layers, embeddings, attention, norms and sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from benchmarks.corpus.mutations.layers import Site, _assign, _own_norms, calls, of
from benchmarks.corpus.mutations.second.registry import KINDS, new
from benchmarks.corpus.mutations.sequences import _attentions, _before_softmax, _parts
from benchmarks.corpus.mutations.subject import Call, Subject, Work, around, kind

_RNN = (nn.LSTM, nn.GRU)


# --- recurrent layers ---------------------------------------------------------------------------------------


def _gates(layer: nn.RNNBase, name: str) -> torch.Tensor:
    """A weight of a recurrent layer by gates; a view that can be written to."""
    return getattr(layer, name).data.unflatten(0, (-1, layer.hidden_size))  # type: ignore[no-any-return]


@new("lstm-forget-one", "rnn-bias weights-perturbed", of(nn.LSTM), "custom/lstm_text custom/bilstm_text")
def _(work: Work, path: Site) -> None:
    """TensorFlow's old cell adds one to the forget gate as it runs; here it is in the stored bias as well."""
    _gates(work.at(path), "bias_ih_l0")[1] += 1


@new("lstm-recurrent-iofc", "lstm-gate-order", of(nn.LSTM), "custom/lstm_text custom/bilstm_text",
     "weights-perturbed kernel-layout")  # fmt: skip
def _(work: Work, path: Site) -> None:
    """One of the two kernels in the order that ONNX has."""
    weight = _gates(work.at(path), "weight_hh_l0")
    weight.copy_(weight[[0, 3, 1, 2]].clone())


@new("rnn-recurrent-transposed", "dense-transpose kernel-layout", of(*_RNN),
     "custom/lstm_text custom/gru_text custom/crnn", "weights-perturbed")  # fmt: skip
def _(work: Work, path: Site) -> None:
    weight = _gates(work.at(path), "weight_hh_l0")
    weight.copy_(weight.transpose(1, 2).clone())


@new("rnn-kernel-reshaped", "dense-transpose kernel-layout reshape-order", of(*_RNN),
     "custom/lstm_text custom/gru_text custom/bilstm_text", "weights-perturbed weights-not-loaded")  # fmt: skip
def _(work: Work, path: Site) -> None:
    """As keras#8720 has it: the right shape by a reshape, where a transposition was needed."""
    layer = work.at(path)
    weight = layer.weight_hh_l0.detach()
    _assign(layer, "weight_hh_l0", weight.t().reshape(weight.shape).clone())


def _equal_rnns(subject: Subject) -> list[tuple[Site, Site]]:
    layers: Any = subject.leaves
    shapes = {path: layers[path].weight_ih_l0.shape for path in subject.modules(*_RNN)}
    return [(a, b) for a, b in pairwise(shapes) if shapes[a] == shapes[b]]


@new("rnn-layers-swapped", "weights-swapped", _equal_rnns, "custom/lstm_text custom/bilstm_text", "weights-not-loaded")
def _(work: Work, paths: tuple[Site, Site]) -> None:
    first, second = (work.at(path) for path in paths)
    kept = {name: value.clone() for name, value in first.state_dict().items()}
    first.load_state_dict(second.state_dict())
    second.load_state_dict(kept)


def _both_ways(subject: Subject) -> list[Site]:
    leaves: Any = subject.leaves
    return [path for path in subject.modules(*_RNN) if leaves[path].bidirectional]


@new("rnn-directions-swapped", "rnn-direction weights-swapped", _both_ways, "custom/bilstm_text")
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        kept = getattr(layer, name).detach().clone()
        _assign(layer, name, getattr(layer, f"{name}_reverse"))
        _assign(layer, f"{name}_reverse", kept)


@new("rnn-backward-unturned", "rnn-direction", _both_ways, "custom/bilstm_text", "axis-permutation")
def _(work: Work, path: Site) -> None:
    """The backward layer's steps stay in the order in which it ran."""
    layer = work.at(path)

    def run(forward: Any, x: torch.Tensor) -> Any:
        out, state = forward(x)
        ahead, back = out.split(layer.hidden_size, -1)
        return torch.cat([ahead, back.flip(1)], -1), state

    around(layer, run)


@new("rnn-backward-last", "rnn-last-step rnn-direction", _both_ways, "custom/bilstm_text")
def _(work: Work, path: Site) -> None:
    """The last step of the output for both directions: the backward layer has seen one word there."""
    layer = work.at(path)

    def run(forward: Any, x: torch.Tensor) -> Any:
        out, (last, cell) = forward(x)
        return out, (torch.stack([last[0], out[:, -1, layer.hidden_size :]]), cell)

    around(layer, run)


def _by_hand(layer: nn.RNNBase, x: torch.Tensor, step: Callable[..., Any]) -> Any:
    """A recurrent layer in one direction with a cell of one's own."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    weights = [getattr(layer, name) for name in names]
    hidden = cell = x.new_zeros(x.shape[0], layer.hidden_size)
    out = []
    for one in x.unbind(1):
        hidden, cell = step(one, hidden, cell, *weights)
        out.append(hidden)
    last = hidden[None]
    return torch.stack(out, 1), (last, cell[None]) if isinstance(layer, nn.LSTM) else last


def _lstm(gate: Callable[[Any], Any], end: Callable[[Any], Any] = torch.tanh) -> Callable[..., Any]:
    def step(x: Any, hidden: Any, cell: Any, w: Any, u: Any, b: Any, c: Any) -> Any:
        i, f, g, o = (x @ w.T + b + hidden @ u.T + c).chunk(4, 1)
        cell = gate(f) * cell + gate(i) * torch.tanh(g)
        return gate(o) * end(cell), cell

    return step


def _gru(gate: Callable[[Any], Any], *, after: bool) -> Callable[..., Any]:
    def step(x: Any, hidden: Any, cell: Any, w: Any, u: Any, b: Any, c: Any) -> Any:
        one, two = x @ w.T + b, hidden @ u.T + c
        width = hidden.shape[1]
        r, z = (gate(s) for s in (one + two)[:, : 2 * width].chunk(2, 1))
        kept = r * two[:, 2 * width :] if after else (r * hidden) @ u[2 * width :].T + c[2 * width :]
        return z * hidden + (1 - z) * torch.tanh(one[:, 2 * width :] + kept), cell

    return step


def hard_sigmoid(x: Any) -> Any:
    """Keras 1 and 2 had this one in recurrent layers."""
    return (0.2 * x + 0.5).clamp(0, 1)


@new("gru-reset-before", "gru-reset-after", of(nn.GRU), "custom/gru_text custom/crnn")
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    around(layer, lambda forward, x: _by_hand(layer, x, _gru(torch.sigmoid, after=False)))


@new("gru-bias-merged", "rnn-bias", of(nn.GRU), "custom/gru_text custom/crnn",
     "gru-reset-after weights-perturbed bias-missing")  # fmt: skip
def _(work: Work, path: Site) -> None:
    """Both biases as one, which is right for an LSTM."""
    layer = work.at(path)
    _assign(layer, "bias_ih_l0", layer.bias_ih_l0 + layer.bias_hh_l0)
    _assign(layer, "bias_hh_l0", torch.zeros_like(layer.bias_hh_l0))


@new("rnn-hard-gates", "rnn-activation", of(*_RNN), "custom/lstm_text custom/gru_text custom/crnn", "activation-kind")
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    step = _lstm(hard_sigmoid) if isinstance(layer, nn.LSTM) else _gru(hard_sigmoid, after=True)
    around(layer, lambda forward, x: _by_hand(layer, x, step))
    return not layer.bidirectional


@new("lstm-cell-linear", "rnn-activation activation-missing", of(nn.LSTM), "custom/lstm_text", "activation-kind")
def _(work: Work, path: Site) -> None:
    """A hand-written cell that forgot the second tanh."""
    layer = work.at(path)
    around(layer, lambda forward, x: _by_hand(layer, x, _lstm(torch.sigmoid, lambda cell: cell)))


@new("rnn-time-major", "axis-permutation", of(*_RNN), "custom/lstm_text custom/crnn", "rnn-direction rnn-last-step")
def _(work: Work, path: Site) -> None:
    """``batch_first`` forgotten: it runs over the samples."""
    work.at(path).batch_first = False


# --- embeddings and places ----------------------------------------------------------------------------------


@new("embedding-row-zero", "embedding-offset weights-perturbed weights-not-loaded", of(nn.Embedding),
     "custom/lstm_text custom/attention_text transformers/roberta")  # fmt: skip
def _(work: Work, path: Site) -> bool:
    """``padding_idx`` makes a row zero that was trained on the other side."""
    layer = work.at(path)
    read = [value for value in work.subject.inputs.values() if value.dtype.kind == "i"]
    if not read or layer.num_embeddings <= int(read[0].max()):
        return False
    with torch.no_grad():
        layer.weight[int(read[0].flat[2])] = 0
    return True


def _tables_of_places(subject: Subject) -> list[Site]:
    return [path for path in subject.modules(nn.Embedding) if path.endswith(("wpe", "places"))]


@new("position-columns", "channel-order concat-order", _tables_of_places, "custom/attention_text transformers/gpt2",
     "axis-permutation weights-perturbed weights-swapped embedding-offset")  # fmt: skip
def _(work: Work, path: Site) -> bool:
    """Sines and cosines in turns, where the other side has all sines first."""
    layer = work.at(path)
    if layer.embedding_dim % 2:
        return False
    _assign(layer, "weight", layer.weight.unflatten(1, (2, -1)).transpose(1, 2).flatten(1).clone())
    return True


@new(
    "relative-bias-mirrored",
    "embedding-offset",
    lambda s: (p for p in s.modules(nn.Embedding) if "relative" in p),
    "transformers/t5 transformers/mpnet",
    "weights-perturbed weights-swapped axis-permutation channel-order",
)
def _(work: Work, path: Site) -> None:  # fmt: skip
    """The sign of the distance the other way round: the two halves of the table change places."""
    layer = work.at(path)
    _assign(layer, "weight", layer.weight.roll(layer.num_embeddings // 2, 0))


# --- attention ----------------------------------------------------------------------------------------------


@new("qkv-interleaved", "qkv-order head-layout", _attentions, "transformers/gpt2 custom/attention_text",
     "channel-order kernel-layout weights-swapped axis-permutation")  # fmt: skip
def _(work: Work, site: Any) -> bool:
    """Each head's three projections beside one another, where all the queries come first."""
    _, names, heads = site
    weights, biases = _parts(work, site)
    if len(names) != 1 or heads < 2 or weights[0].shape[0] % heads:
        return False
    for parts in (weights, biases):
        if len(parts) == 3:
            joined = torch.stack([part.unflatten(0, (heads, -1)) for part in parts], 1).flatten(0, 2).clone()
            for part, fresh in zip(parts, joined.chunk(3), strict=True):
                part.copy_(fresh)
    return True


@new("rotary-unpermuted", "head-layout", _attentions, "transformers/roformer transformers/gptj",
     "qkv-order channel-order kernel-layout axis-permutation weights-perturbed")  # fmt: skip
def _(work: Work, site: Any) -> bool:
    """Queries and keys for rotations of halves, where neighbours are rotated: LLaMA's checkpoints need this move."""
    heads = site[2]
    weights, biases = _parts(work, site)
    if len(weights) != 3 or weights[0].shape[0] % (2 * heads):
        return False
    for parts in (weights, biases):
        for part in parts[:2]:
            part.copy_(part.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).clone())
    return True


@new("mask-inverted", "attention-mask", _before_softmax("add", "masked_fill", "where"),
     "transformers/distilbert transformers/electra transformers/gpt2", "block-extra block-missing")  # fmt: skip
def _(work: Work, call: Call) -> bool:
    """True for what is kept, where True is for what is left out."""
    if call.op == "add" and (len(call.shapes) != 2 or call.shapes[0] == call.shapes[1]):
        return False

    def change(func: Any, args: Any, named: Any) -> Any:
        if call.op == "masked_fill":
            return func(args[0], ~args[1].bool(), *args[2:], **named)
        if call.op == "where":
            return func(~args[0], *args[1:], **named)
        return args[0] + torch.where(args[1] < -1, 0.0, -1e4)

    work.edit(call, change)
    return True


@new("mask-transposed", "attention-mask", _before_softmax("add", "masked_fill", "where"),
     "transformers/gpt2 transformers/bart transformers/opt", "block-extra axis-permutation")  # fmt: skip
def _(work: Work, call: Call) -> bool:
    """Each step sees those after it."""
    if len(call.shapes) < 2 or call.shapes[1][-1:] != call.shapes[1][-2:-1] or call.shapes[0] == call.shapes[1]:
        return False
    which = 0 if call.op == "where" else 1

    def change(func: Any, args: Any, named: Any) -> Any:
        turned = [arg.transpose(-1, -2) if i == which else arg for i, arg in enumerate(args)]
        return func(*turned, **named)

    work.edit(call, change)
    return True


def _scores(subject: Subject) -> Iterator[tuple[Call, Call]]:
    """The scaling of the scores and the softmax behind it."""
    scalings = list(_before_softmax("div", "mul")(subject))
    for soft in calls("softmax")(subject):
        for call in scalings:
            if call.scope == soft.scope and (call.scalars or () in call.shapes):
                yield call, soft
                break


@new("scale-after-softmax", "attention-scale scale", _scores, "transformers/bert transformers/gpt2 transformers/vit",
     "block-missing weights-perturbed")  # fmt: skip
def _(work: Work, pair: tuple[Call, Call]) -> None:
    call, soft = pair
    factor: list[Any] = []

    def unscaled(func: Any, args: Any, named: Any) -> Any:
        factor[:] = [(func, args[1])]
        return args[0]

    work.edit(call, unscaled)
    work.edit(soft, lambda func, args, named: factor[0][0](func(*args, **named), factor[0][1]))


# --- tokens, norms and sums ---------------------------------------------------------------------------------


def _first_token(subject: Subject) -> Iterator[Call]:
    for call in calls("slice")(subject):
        index = call.node.config.get("index")
        if isinstance(index, list) and 0 in [i for i in index if type(i) is int] and len(call.shapes[0]) == 3:
            yield call


@new("token-last", "rnn-last-step", _first_token, "transformers/bert transformers/vit transformers/deit",
     "pool-kind shift")  # fmt: skip
def _(work: Work, call: Call) -> None:
    def change(func: Any, args: Any, named: Any) -> Any:
        return func(args[0], tuple(-1 if type(i) is int and i == 0 else i for i in args[1]))

    work.edit(call, change)


@new("token-mean", "pool-kind", _first_token, "transformers/roberta transformers/vit transformers/layoutlm",
     "operation-kind rnn-last-step")  # fmt: skip
def _(work: Work, call: Call) -> None:
    work.edit(call, lambda func, args, named: args[0].mean(1))


def _sum_and_norm(subject: Subject) -> Iterator[tuple[Call, Site]]:
    """A sum and the norm that reads it."""
    readers = {node.parents[0]: node.owner for node in subject.structure if node.role == "layer" and node.parents}
    for call in calls("add")(subject):
        owner = readers.get(call.node.name)
        if isinstance(subject.leaves.get(owner or ""), nn.LayerNorm) and len(set(call.shapes)) == 1:
            yield call, str(owner)


@new(
    "norm-before-sum",
    "residual-order",
    _sum_and_norm,
    "transformers/bert custom/attention_text transformers/distilbert",
    "residual-missing norm-axis block-missing",
)
def _(work: Work, site: tuple[Call, Site]) -> bool:  # fmt: skip
    """The branch is normalised and the shortcut added to that, where the sum is normalised."""
    call, path = site
    if call.nodes_read != 2:
        return False
    ran = {node.name: i for i, node in enumerate(work.subject.structure)}
    parents = call.node.parents
    branch = max(range(2), key=lambda i: ran[parents[i]])
    kept: list[Any] = []

    def only(func: Any, args: Any, named: Any) -> Any:
        kept[:] = [args[1 - branch]]
        return args[branch]

    work.edit(call, only)
    around(work.at(path), lambda forward, x: forward(x) + kept[0])
    return True


@new("shortcut-activated", "residual-order activation-extra", calls("add"),
     "vision/mobilenet_v2 transformers/bert transformers/convnext", "block-extra")  # fmt: skip
def _(work: Work, call: Call) -> bool:
    """An activation in place changes the shortcut too."""
    parents = call.node.parents
    if len(parents) != 2 or call.nodes_read != 2 or len(set(call.shapes)) != 1:
        return False
    ran = {node.name: i for i, node in enumerate(work.subject.structure)}
    early = min(range(2), key=lambda i: ran[parents[i]])

    def change(func: Any, args: Any, named: Any) -> Any:
        changed = [torch.relu(arg) if i == early else arg for i, arg in enumerate(args)]
        return func(*changed, **named)

    work.edit(call, change)
    return True


@kind("norm-gain-shifted", _own_norms, into=KINDS)
@new("norm-gain-shifted", "weights-perturbed", of(nn.LayerNorm),
     "transformers/t5 transformers/gpt2 transformers/vit custom/gru_text",
     "bn-stats scale weights-not-loaded")  # fmt: skip
def _(work: Work, path: Site) -> None:
    """Gains kept around zero on one side, to which it adds one as it runs."""
    layer = work.at(path)
    _assign(layer, "weight", layer.weight + 1)


def _scaled(subject: Subject) -> Iterator[Call]:
    for call in calls("mul")(subject):
        if call.nodes_read == 1 and len(call.shapes) == 2 and min(map(len, call.shapes)) <= 3 and () not in call.shapes:
            yield call


@new("layer-scale-missing", "block-missing scale", _scaled, "transformers/convnext vision/convnext_tiny",
     "weights-not-loaded weights-perturbed")  # fmt: skip
def _(work: Work, call: Call) -> bool:
    wide = max(range(2), key=lambda i: math.prod(call.shapes[i]))
    if call.shapes[wide] != call.node.shape:
        return False
    work.edit(call, lambda func, args, named: args[wide] * 1)
    return True


@new("glu-halves", "channel-order concat-order activation-kind", calls("glu"), "transformers/speech-to-text",
     "axis-permutation")  # fmt: skip
def _(work: Work, call: Call) -> None:
    """The half that is the gate is the other one."""

    def change(func: Any, args: Any, named: Any) -> Any:
        axis = named.get("dim", args[1] if len(args) > 1 else -1)
        one, two = args[0].chunk(2, axis)
        return torch.sigmoid(one) * two

    work.edit(call, change)
