"""HuggingFace transformers from small random configurations: PyTorch modules, and subclassed tf_keras models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.families.family import Array, Family, floats, tokens

_TEXT = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_IMAGE = {"image_size": 32, "patch_size": 8}
_GPT2 = {"vocab_size": 99, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
_T5 = {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_WHISPER = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_mel_bins": 16,
    "max_source_positions": 20, "max_target_positions": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip


def _model(name: str, config: str, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        from tests import torchvision_ops

        torchvision_ops.register()
        import transformers

        settings = getattr(transformers, config)(**options)
        return getattr(transformers, name)(settings)

    return build


def _clip() -> Any:
    from tests import torchvision_ops

    torchvision_ops.register()
    from transformers import CLIPConfig, CLIPModel

    text = {**_TEXT, "max_position_embeddings": 16, "eos_token_id": 98, "projection_dim": 16}
    vision = {**_TEXT, **_IMAGE, "projection_dim": 16}
    del vision["vocab_size"]
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def _words() -> dict[str, Array]:
    mask = np.ones((2, 9), np.int64)
    mask[1, 6:] = 0
    return {"input_ids": tokens(2, 9, below=99), "attention_mask": mask}


def _pixels() -> dict[str, Array]:
    return {"pixel_values": floats(2, 3, 32, 32)}


def _pairs() -> dict[str, Array]:
    return {**_words(), "decoder_input_ids": tokens(2, 5, below=99)}


def _speech() -> dict[str, Array]:
    return {"input_features": floats(2, 16, 40), "decoder_input_ids": tokens(2, 5, below=99)}


def _int32(inputs: Callable[[], dict[str, Array]]) -> Callable[[], dict[str, Array]]:
    """TensorFlow's twins want their tokens as int32."""
    return lambda: {name: a.astype(np.int32) if a.dtype == np.int64 else a for name, a in inputs().items()}


def _both() -> dict[str, Array]:
    return {**_words(), **_pixels()}


_TORCH: tuple[tuple[str, Callable[[], Any], Callable[[], dict[str, Array]], bool, str], ...] = (
    ("BertModel", _model("BertModel", "BertConfig", **_TEXT), _words, True, "attention masks, fused attention"),
    ("GPT2LMHeadModel", _model("GPT2LMHeadModel", "GPT2Config", **_GPT2), _words, True,
     "Conv1D of bare parameters, tied embedding, cache objects"),
    ("T5Model", _model("T5Model", "T5Config", **_T5), _pairs, True, "relative position buckets, RMS norm by hand"),
    ("ViTModel", _model("ViTModel", "ViTConfig", **{k: v for k, v in _TEXT.items() if k != "vocab_size"}, **_IMAGE),
     _pixels, False, "class token"),
    ("WhisperModel", _model("WhisperModel", "WhisperConfig", **_WHISPER), _speech, True,
     "encoder of sound, decoder with cross attention"),
    ("CLIPModel", _clip, _both, True, "two towers, normalised products, a dataclass of dataclasses"),
    ("DistilBertModel", _model("DistilBertModel", "DistilBertConfig", vocab_size=99, dim=32, n_layers=2, n_heads=4,
                               hidden_dim=48), _words, False, "attention by hand"),
    ("LlamaModel", _model("LlamaModel", "LlamaConfig", **_TEXT), _words, False, "rotary positions, SwiGLU"),
    ("Wav2Vec2Model", _model("Wav2Vec2Model", "Wav2Vec2Config", **_TEXT, conv_dim=(16, 16), conv_stride=(5, 2),
                             conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embedding_groups=2,
                             num_conv_pos_embeddings=8),
     lambda: {"input_values": floats(2, 800)}, False, "weight-normalised convolution"),
    ("ConvNextModel", _model("ConvNextModel", "ConvNextConfig", hidden_sizes=(8, 16, 24, 32), depths=(1, 1, 2, 1)),
     _pixels, False, "LayerNorm over channels"),
    ("ResNetModel", _model("ResNetModel", "ResNetConfig", embedding_size=8, hidden_sizes=(8, 16, 24, 32),
                           depths=(1, 1, 2, 1)), _pixels, False, "bottlenecks"),
    ("MambaModel", _model("MambaModel", "MambaConfig", vocab_size=99, hidden_size=32, num_hidden_layers=2,
                          state_size=8), lambda: {"input_ids": tokens(2, 9, below=99)}, False,
     "a scan written as a loop"),
)  # fmt: skip
_KERAS: tuple[tuple[str, Callable[[], Any], Callable[[], dict[str, Array]], bool, str], ...] = (
    ("TFBertModel", _model("TFBertModel", "BertConfig", **_TEXT), _words, True, "operations of tf"),
    ("TFGPT2LMHeadModel", _model("TFGPT2LMHeadModel", "GPT2Config", **_GPT2), _words, False, "tied embedding"),
    ("TFT5Model", _model("TFT5Model", "T5Config", **_T5), _pairs, False, "relative position buckets"),
    ("TFViTModel",
     _model("TFViTModel", "ViTConfig", **{k: v for k, v in _TEXT.items() if k != "vocab_size"}, **_IMAGE),
     _pixels, False, "class token, a permutation of the image"),
    ("TFWhisperModel", _model("TFWhisperModel", "WhisperConfig", **_WHISPER), _speech, False, "cross attention"),
)  # fmt: skip

_NEEDED = ("transformers", "tokenizers", "torchvision")

FAMILIES = (
    *(Family(f"transformers/{name}", "torch", build, inputs, _NEEDED, tested, peculiar)
      for name, build, inputs, tested, peculiar in _TORCH),
    *(Family(f"transformers/{name}", "keras", build, _int32(inputs), (*_NEEDED, "tf_keras"), tested, peculiar)
      for name, build, inputs, tested, peculiar in _KERAS),
)  # fmt: skip
