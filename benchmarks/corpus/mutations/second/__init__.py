"""A second set of defects that the engine that names causes was not made with, by another hand than the first.

Each is a mistake that ports between Keras and PyTorch have had. ``RIGHT`` says what it may be called, ``VAGUE``
what is true of it though too general, ``PLANS`` which ports it is built into: those with recurrent layers, large
networks for images, transformers, and small custom ones. Apart from the other kinds: benchmarks.causes takes them
with ``--second``.
"""

from __future__ import annotations

from torch import nn

from benchmarks.corpus.mutations.layers import _BATCH, Site, of
from benchmarks.corpus.mutations.second import images, sequences  # noqa: F401
from benchmarks.corpus.mutations.second.registry import KINDS, PLANS, RIGHT, TOGETHER, VAGUE, together
from benchmarks.corpus.mutations.subject import Work, kind

__all__ = ["KINDS", "PLANS", "RIGHT", "TOGETHER", "VAGUE"]


@kind("bn-eps-one", of(_BATCH), into=KINDS)
@kind("ln-eps-one", of(nn.LayerNorm), into=KINDS)
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    layer.eps = 1e-5 if layer.eps > 1e-4 else 1e-3


for _name, _whose in (("bn-eps-one", "bn-eps"), ("ln-eps-one", "ln-eps")):
    RIGHT[_name] = frozenset({_whose})

together("kernel-flip", "bias-zero", "custom/classifier zoo/ecg_pathology_lbbb")
together("dense-transpose", "bias-missing", "custom/lstm_text transformers/bert")
together("bn-eps-one", "bn-gain-as-variance", "vision/resnet50 custom/unet")
together("ln-eps-one", "std-ddof", "transformers/bert custom/gru_text")
together("lstm-gate-order", "rnn-bias", "custom/bilstm_text")
together("lstm-forget-one", "rnn-recurrent-transposed", "custom/lstm_text")
together("gru-gate-order", "gru-bias-merged", "custom/gru_text custom/crnn")
together("attention-scale", "qkv-order", "custom/attention_text")
together("scores-of-all", "mask-causal-fused", "transformers/bert-sdpa transformers/vit-sdpa")
together("channel-order", "input-normalisation", "vision/resnet50 vision/mobilenet_v2")
together("embedding-offset", "embedding-scale", "custom/lstm_text transformers/gpt2")
together("kernel-layout", "pad-mode", "custom/unet vision/mobilenet_v2")
