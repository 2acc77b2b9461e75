"""Networks of HuggingFace transformers: its TensorFlow models against its PyTorch modules.

Both sides are transformers' own (4.57 is the last release with the TensorFlow models), from small configurations, and
so is the way in which weights are carried over. Which parameter went where is asked of that conversion itself: every
parameter of the PyTorch side is given a number of its own, converted, and looked for on the TensorFlow side.

Not here: OpenAI GPT, whose two sides use different approximations of GELU (outputs 3e-4 apart); ESM has no attention
mask, which its two sides treat differently (0.2 apart).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from benchmarks.corpus.port import Built, Parameter, Port

AGREEMENT = 1e-4
"""How far the outputs of both sides may be apart, relative to the largest value."""

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator], dict[str, Array]]


@dataclass(frozen=True)
class Twin:
    """One architecture.

    Attributes:
        model: class of the PyTorch module; the TensorFlow one has ``TF`` before it.
        config: class of the configuration.
        options: what differs from its defaults.
        inputs: draws the inputs.
        attention: how the PyTorch module computes attention; ``eager`` is what the TensorFlow side does.
        unused: ends of the names of weights that only one side has and does not use.
    """

    model: str
    config: str
    options: Mapping[str, Any]
    inputs: Draw
    attention: str = "eager"
    unused: tuple[str, ...] = ()

    def build(self) -> Built:
        """Both models, with random weights. Raises ValueError when a weight is left over or the outputs differ."""
        from tests import torchvision_ops

        torchvision_ops.register()
        import torch
        import transformers

        with torch.random.fork_rng(devices=[]), _quiet(), _fresh_names():
            torch.manual_seed(0)
            rng = np.random.default_rng(0)
            config = getattr(transformers, self.config)(**self.options)
            inputs = self.inputs(rng)
            config._attn_implementation = self.attention
            candidate = getattr(transformers, self.model)(config).eval()
            fill(candidate, rng)
            calibrate(candidate, self.inputs(rng))
            reference = getattr(transformers, f"TF{self.model}")(config)
            parameters = convert(candidate, reference, inputs, self.unused)
        apart = distance(reference, candidate, inputs)
        if apart > AGREEMENT:
            raise ValueError(f"{self.model}: the outputs differ by {apart:.1e}")
        # Images are channels first on both sides: the TensorFlow models turn them themselves.
        return Built(reference, candidate, inputs, None, parameters, ({"layout": "same"}, {"layout": "same"}))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' advice on weights that were loaded."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


@contextmanager
def _fresh_names() -> Iterator[None]:
    """Keras numbers layers without a name over the whole process; here from the start, for the same names each time."""
    from tracer_keras.flavour import TF_KERAS

    with TF_KERAS.fresh_names():
        yield


def fill(module: Any, rng: np.random.Generator) -> None:
    """Draw every parameter so that activations keep their size and no tensor is constant.

    transformers' own start (a deviation of 0.02, biases of zero, scales of one) leaves attention uniform and biases
    and norms without effect.
    """
    import torch

    with torch.no_grad():
        for parent in module.modules():
            for name, value in parent.named_parameters(recurse=False):
                shape = tuple(value.shape)
                if value.ndim >= 2 and (isinstance(parent, torch.nn.Embedding) or name != "weight"):
                    drawn = rng.normal(0, 0.5, shape)
                elif value.ndim >= 2:
                    inputs = shape[0] if type(parent).__name__ == "Conv1D" else int(np.prod(shape[1:]))
                    drawn = rng.normal(0, 1.2 / inputs**0.5, shape)
                elif name.endswith("bias"):
                    drawn = rng.normal(0, 0.2, shape)
                else:
                    drawn = rng.uniform(0.6, 1.4, shape)
                value.copy_(torch.from_numpy(np.asarray(drawn)))


def calibrate(module: Any, inputs: Mapping[str, Array]) -> None:
    """Give batch normalisations the statistics of ``inputs``, as training would."""
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all that it sees, without the start
        norm.train()
    if norms:
        with torch.no_grad():
            module(**_tensors(inputs))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _tensors(inputs: Mapping[str, Array]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(a.astype(np.int64) if a.dtype.kind == "i" else a) for name, a in inputs.items()}


def convert(
    candidate: Any, reference: Any, inputs: Mapping[str, Array], unused: tuple[str, ...] = ()
) -> dict[Parameter, Parameter]:
    """Carry the PyTorch module's weights over to the TensorFlow model, and say which parameter went where.

    Raises ValueError when a trainable weight of either side has no twin, but for those ``unused``.
    """
    import torch

    state = candidate.state_dict()
    numbers = dict(enumerate(key for key, value in state.items() if value.is_floating_point()))
    load(reference, state, inputs)
    ours = [weight for weight in reference.weights if weight.dtype.is_floating]
    for weight in ours:
        weight.assign(np.full(weight.shape, -1.0))
    load(reference, {**state, **{key: torch.full(state[key].shape, float(n)) for n, key in numbers.items()}}, inputs)
    went = {id(weight): numbers.get(int(weight.numpy().flat[0])) for weight in ours}
    load(reference, state, inputs)

    everything = named(candidate)
    first = {id(value): name for name, value in reversed(everything.items())}
    owners = {id(weight): key for key, weight in weights(reference).items()}
    left = [w.name for w in ours if went[id(w)] is None or id(w) not in owners]
    found = {}
    for weight in ours:
        key, owner = went[id(weight)], owners.get(id(weight))
        if key is not None and owner is not None:
            module, _, name = first[id(everything[key])].rpartition(".")
            found[owner] = module, name
    there = set(found.values())
    left += [key for key, _ in candidate.named_parameters() if (*key.rpartition(".")[::2],) not in there]
    if left := [name for name in left if not name.endswith(unused)]:
        raise ValueError(f"without a twin: {', '.join(left)}")
    # A parametrised weight is recorded as the module computes it, not as the parameters that it is made of.
    return {ours: theirs for ours, theirs in found.items() if ".parametrizations." not in theirs[0]}


def load(reference: Any, state: Mapping[str, Any], inputs: Mapping[str, Array]) -> None:
    """transformers' conversion, as its ``from_pretrained(from_pt=True)`` does it."""
    from transformers.modeling_tf_pytorch_utils import load_pytorch_weights_in_tf2_model

    load_pytorch_weights_in_tf2_model(
        reference, dict(state), dict(inputs), allow_missing_keys=True,
        tf_to_pt_weight_rename=getattr(reference, "tf_to_pt_weight_rename", None),
    )  # fmt: skip


def named(module: Any) -> dict[str, Any]:
    """All parameters and buffers by all their names."""
    everything = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    return {name: value for tensors in everything for name, value in tensors}


def weights(model: Any) -> dict[Parameter, Any]:
    """A TensorFlow model's weights by owner and name, as recordings have them."""
    from tracer_keras.flavour import TF_KERAS
    from tracer_keras.tree import Paths, weights_of

    found: dict[Parameter, Any] = {}
    seen: set[int] = set()
    for path, layer in Paths(model, TF_KERAS).layers():
        for name, weight in weights_of(layer, TF_KERAS):
            if id(weight) not in seen:
                seen.add(id(weight))
                found[path, name] = weight
    return found


def distance(reference: Any, candidate: Any, inputs: Mapping[str, Array]) -> float:
    """The largest difference between outputs of the same name, relative to the largest value of each."""
    import tensorflow
    import torch

    ours = reference(dict(inputs), training=False)
    with torch.no_grad():
        theirs = candidate(**_tensors(inputs))
    apart = []
    for name in [key for key, value in ours.items() if tensorflow.is_tensor(value)]:
        a, b = ours[name].numpy(), theirs[name].numpy()
        if a.shape != b.shape:
            raise ValueError(f"{name}: {a.shape} against {b.shape}")
        apart.append(float(np.abs(a - b).max() / np.abs(a).max()))
    return max(apart)


def _ids(batch: int, length: int, below: int) -> Draw:
    """Token ids; small ones are padding and other marks."""
    return lambda rng: {"input_ids": rng.integers(5, below, (batch, length)).astype(np.int32)}


def _both(batch: int, length: int, decoded: int, below: int) -> Draw:
    def draw(rng: np.random.Generator) -> dict[str, Array]:
        lengths = {"input_ids": length, "decoder_input_ids": decoded}
        return {name: rng.integers(5, below, (batch, n)).astype(np.int32) for name, n in lengths.items()}

    return draw


def _pixels(batch: int, height: int, width: int) -> Draw:
    return lambda rng: {"pixel_values": rng.normal(size=(batch, 3, height, width)).astype(np.float32)}


def _masked(inner: Draw) -> Draw:
    """The last sample is two tokens shorter."""

    def draw(rng: np.random.Generator) -> dict[str, Array]:
        inputs = inner(rng)
        mask = np.ones_like(inputs["input_ids"])
        mask[-1, -2:] = 0
        return {**inputs, "attention_mask": mask}

    return draw


def _sound(rng: np.random.Generator) -> dict[str, Array]:
    return {"input_values": rng.normal(size=(3, 800)).astype(np.float32)}


def _image_and_text(rng: np.random.Generator) -> dict[str, Array]:
    ids = rng.integers(5, 98, (3, 7))
    ids[:, -1] = 98
    return {"input_ids": ids.astype(np.int32), **_pixels(2, 32, 32)(rng)}


_BERT = {
    "vocab_size": 99, "hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 28,
    "max_position_embeddings": 16,
}  # fmt: skip
_VIT = {
    "image_size": 32, "patch_size": 8, "hidden_size": 42, "num_hidden_layers": 3, "num_attention_heads": 6,
    "intermediate_size": 48,
}  # fmt: skip
_BART = {
    "vocab_size": 99, "d_model": 20, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 28, "decoder_ffn_dim": 32, "max_position_embeddings": 16,
    "use_cache": False,
}  # fmt: skip
_SOUND = {
    "vocab_size": 32, "hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 28,
    "conv_dim": (10, 10), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "apply_spec_augment": False,
}  # fmt: skip
_CLIP = {
    "text_config": {**_BERT, "eos_token_id": 98, "projection_dim": 18},
    "vision_config": {**_VIT, "projection_dim": 18},
    "projection_dim": 18,
}

TWINS: dict[str, Twin] = {
    "bert": (bert := Twin("BertModel", "BertConfig", _BERT, _ids(3, 7, 99))),
    "bert-sdpa": replace(bert, attention="sdpa"),
    "gpt2": Twin(
        "GPT2LMHeadModel", "GPT2Config",
        {"vocab_size": 99, "n_positions": 16, "n_embd": 20, "n_layer": 3, "n_head": 4, "n_inner": 28},
        _ids(3, 7, 99),
    ),
    "vit": (vit := Twin("ViTModel", "ViTConfig", _VIT, _pixels(2, 32, 32))),
    "resnet": Twin(
        "ResNetModel", "ResNetConfig",
        {"embedding_size": 10, "hidden_sizes": (20, 28, 32, 40), "depths": (1, 3, 2, 1)}, _pixels(2, 104, 72),
    ),
    "t5": Twin(
        "T5Model", "T5Config",
        {"vocab_size": 99, "d_model": 22, "d_kv": 5, "d_ff": 28, "num_layers": 3, "num_heads": 4,
         "use_cache": False}, _both(3, 9, 7, 99),
    ),
}  # fmt: skip

_HELD_OUT: dict[str, Twin] = {
    "vit-sdpa": replace(vit, attention="sdpa"),
    "distilbert": Twin(
        "DistilBertModel", "DistilBertConfig",
        {"vocab_size": 99, "dim": 20, "n_layers": 3, "n_heads": 4, "hidden_dim": 28, "max_position_embeddings": 16},
        _masked(_ids(3, 7, 99)),
    ),
    "deit": Twin("DeiTModel", "DeiTConfig", _VIT, _pixels(2, 32, 32)),
    "convnext": Twin(
        "ConvNextModel", "ConvNextConfig", {"hidden_sizes": (10, 16, 24, 36), "depths": (1, 3, 2, 1)},
        _pixels(5, 96, 64),
    ),
    "convnextv2": Twin(
        "ConvNextV2Model", "ConvNextV2Config", {"hidden_sizes": (10, 16, 24, 36), "depths": (1, 3, 2, 1)},
        _pixels(5, 96, 64),
    ),
    "whisper": Twin(
        "WhisperModel", "WhisperConfig",
        {"vocab_size": 99, "d_model": 20, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 28, "decoder_ffn_dim": 32, "num_mel_bins": 12,
         "max_source_positions": 17, "max_target_positions": 15, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2, "decoder_start_token_id": 1, "use_cache": False},
        lambda rng: {
            "input_features": rng.normal(size=(3, 12, 34)).astype(np.float32),
            "decoder_input_ids": rng.integers(5, 99, (3, 7)).astype(np.int32),
        },
    ),
    "roberta": Twin("RobertaModel", "RobertaConfig", _BERT, _ids(3, 7, 99)),
    "electra": Twin("ElectraModel", "ElectraConfig", {**_BERT, "embedding_size": 14}, _masked(_ids(3, 7, 99))),
    "albert": Twin("AlbertModel", "AlbertConfig", {**_BERT, "embedding_size": 14}, _ids(3, 7, 99)),
    "rembert": Twin("RemBertModel", "RemBertConfig", {**_BERT, "input_embedding_size": 14}, _ids(3, 7, 99)),
    "mobilebert": Twin(
        "MobileBertModel", "MobileBertConfig",
        {**_BERT, "embedding_size": 14, "intra_bottleneck_size": 12, "num_feedforward_networks": 2}, _ids(3, 7, 99),
    ),
    "mpnet": Twin("MPNetModel", "MPNetConfig", _BERT, _ids(3, 7, 99)),
    "convbert": Twin(
        "ConvBertModel", "ConvBertConfig", {**_BERT, "embedding_size": 14, "conv_kernel_size": 3}, _ids(3, 7, 99)
    ),
    "esm": Twin(
        "EsmModel", "EsmConfig",
        {**_BERT, "pad_token_id": 1, "mask_token_id": 2, "position_embedding_type": "rotary",
         "num_attention_heads": 2}, _ids(3, 7, 99), unused=("position_embeddings/embeddings:0",),
    ),
    "roformer": Twin("RoFormerModel", "RoFormerConfig", {**_BERT, "num_attention_heads": 2}, _ids(3, 7, 99)),
    "layoutlm": Twin("LayoutLMModel", "LayoutLMConfig", _BERT, _ids(3, 7, 99)),
    "deberta-v2": Twin(
        "DebertaV2Model", "DebertaV2Config",
        {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False,
         "share_att_key": True},
        _ids(3, 7, 99),
    ),
    "funnel": Twin(
        "FunnelModel", "FunnelConfig",
        {"vocab_size": 99, "block_sizes": [2, 2, 2], "num_decoder_layers": 2, "d_model": 20, "n_head": 4, "d_head": 6,
         "d_inner": 28}, _ids(3, 13, 99),
    ),
    "xlnet": Twin(
        "XLNetModel", "XLNetConfig",
        {"vocab_size": 99, "d_model": 20, "n_layer": 3, "n_head": 4, "d_inner": 28}, _ids(3, 7, 99),
    ),
    "gptj": Twin(
        "GPTJModel", "GPTJConfig",
        {"vocab_size": 99, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 2, "n_inner": 28, "rotary_dim": 4,
         "use_cache": False}, _ids(3, 7, 99),
    ),
    "opt": Twin(
        "OPTModel", "OPTConfig",
        {"vocab_size": 99, "hidden_size": 20, "num_hidden_layers": 3, "ffn_dim": 28, "num_attention_heads": 4,
         "max_position_embeddings": 16, "word_embed_proj_dim": 20, "use_cache": False}, _ids(3, 7, 99),
    ),
    "xglm": Twin(
        "XGLMModel", "XGLMConfig",
        {"vocab_size": 99, "d_model": 20, "num_layers": 3, "ffn_dim": 28, "attention_heads": 4,
         "max_position_embeddings": 16, "use_cache": False}, _ids(3, 7, 99),
    ),
    "bart": Twin("BartModel", "BartConfig", _BART, _both(3, 9, 7, 99)),
    "marian": Twin(
        "MarianModel", "MarianConfig", {**_BART, "pad_token_id": 1, "decoder_start_token_id": 1}, _both(3, 9, 7, 99)
    ),
    "wav2vec2": Twin("Wav2Vec2Model", "Wav2Vec2Config", _SOUND, _sound),
    "hubert": Twin("HubertModel", "HubertConfig", _SOUND, _sound),
    "swin": Twin(
        "SwinModel", "SwinConfig",
        {"image_size": 64, "patch_size": 4, "embed_dim": 12, "depths": [2, 3], "num_heads": [2, 4], "window_size": 4},
        _pixels(5, 64, 64),
    ),
    "segformer": Twin(
        "SegformerModel", "SegformerConfig",
        {"depths": [2, 3], "num_encoder_blocks": 2, "sr_ratios": [4, 2], "hidden_sizes": [14, 24],
         "num_attention_heads": [2, 4], "mlp_ratios": [3, 2], "patch_sizes": [7, 3], "strides": [4, 2]},
        _pixels(5, 64, 48),
    ),
    "regnet": Twin(
        "RegNetModel", "RegNetConfig",
        {"embedding_size": 32, "hidden_sizes": [18, 24, 30, 36], "depths": [1, 3, 2, 1], "groups_width": 6},
        _pixels(5, 88, 56),
    ),
    "mobilevit": Twin(
        "MobileViTModel", "MobileViTConfig",
        {"image_size": 128, "hidden_sizes": [12, 20, 28], "neck_hidden_sizes": [6, 8, 10, 14, 18, 22, 26],
         "num_attention_heads": 4, "expand_ratio": 2.0}, _pixels(2, 128, 128),
    ),
    "cvt": Twin(
        "CvtModel", "CvtConfig",
        {"image_size": 64, "embed_dim": [12, 20, 36], "num_heads": [1, 2, 4], "depth": [1, 2, 3],
         "mlp_ratio": [3.0, 3.0, 3.0]},
        _pixels(5, 64, 56),
    ),
    "swiftformer": Twin(
        "SwiftFormerModel", "SwiftFormerConfig",
        {"depths": [1, 3, 2, 1], "embed_dims": [10, 14, 20, 28], "mlp_ratio": 2}, _pixels(5, 96, 64),
    ),
    "data2vec-vision": Twin("Data2VecVisionModel", "Data2VecVisionConfig",
                            {**_VIT, "use_relative_position_bias": True}, _pixels(2, 32, 32)),
    "speech-to-text": Twin(
        "Speech2TextModel", "Speech2TextConfig",
        {**_BART, "vocab_size": 99, "input_feat_per_channel": 12, "conv_channels": 26, "max_source_positions": 40,
         "max_target_positions": 15, "pad_token_id": 1},
        lambda rng: {
            "input_features": rng.normal(size=(3, 37, 12)).astype(np.float32),
            "decoder_input_ids": rng.integers(5, 99, (3, 7)).astype(np.int32),
        },
    ),
    "xlm": Twin("XLMModel", "XLMConfig", {"vocab_size": 99, "emb_dim": 20, "n_layers": 3, "n_heads": 4,
                                          "max_position_embeddings": 16, "n_langs": 2}, _ids(3, 7, 99)),
    "ctrl": Twin("CTRLModel", "CTRLConfig", {"vocab_size": 99, "n_positions": 16, "n_embd": 20, "dff": 28,
                                             "n_layer": 3, "n_head": 4, "use_cache": False}, _ids(3, 7, 99)),
    "clip": Twin("CLIPModel", "CLIPConfig", _CLIP, _image_and_text),
}  # fmt: skip

_SOURCE = "transformers 4.57: its TensorFlow model, PyTorch module, and conversion of weights"

_SEEN = frozenset(
    "distilbert albert roberta mobilevit swin regnet segformer whisper layoutlm bart funnel xlnet".split()  # noqa: SIM905
)
"""Kept aside at first, then looked at while the vocabulary and the engine were mended: they count as tuned on."""

PORTS: tuple[Port, ...] = (
    *(Port(f"transformers/{name}", twin.build, _SOURCE) for name, twin in TWINS.items()),
    *(
        Port(f"transformers/{name}", twin.build, _SOURCE, held_out=name not in _SEEN)
        for name, twin in _HELD_OUT.items()
    ),
)
