"""Image networks of timm and torchvision, and facenet-pytorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.families.family import Array, Family, floats


def _timm(name: str, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        from tests import torchvision_ops

        torchvision_ops.register()
        import timm

        return timm.create_model(name, pretrained=False, **options)

    return build


def _torchvision(name: str, **options: Any) -> Callable[[], Any]:
    def build() -> Any:
        from tests import torchvision_ops

        torchvision_ops.register()
        import torchvision

        return getattr(torchvision.models, name)(weights=None, **options)

    return build


def _image(size: int, channels: int = 3) -> Callable[[], dict[str, Array]]:
    return lambda: {"x": floats(2, channels, size, size)}


def _facenet() -> Any:
    from tests import torchvision_ops

    torchvision_ops.register()
    from facenet_pytorch import InceptionResnetV1

    return InceptionResnetV1(pretrained=None, classify=False)


# (model, image size, options, tested, what is peculiar)
_TIMM: tuple[tuple[str, int, dict[str, Any], bool, str], ...] = (
    ("resnet10t", 64, {}, False, "anti-aliased shortcut"),
    ("convnext_atto", 64, {"depths": (1, 1, 2, 1)}, True, "LayerNorm over channels, a scale as a bare parameter"),
    ("vit_tiny_patch16_224", 64, {"img_size": 64, "depth": 2}, True, "class token, fused attention"),
    ("deit_tiny_distilled_patch16_224", 64, {"img_size": 64, "depth": 2}, False, "two class tokens"),
    ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 2, "depths": (2, 2), "embed_dim": 24,
                                          "num_heads": (2, 4)}, True, "roll, window partition, masks"),
    ("efficientnet_b0", 64, {}, False, "squeeze and excitation"),
    ("tf_efficientnetv2_b0", 65, {}, False, "SAME padding computed from the size"),
    ("mobilenetv3_small_050", 64, {}, False, "hard swish, squeeze and excitation"),
    ("densenet121", 64, {}, False, "concatenation of all that came before"),
    ("regnetx_002", 64, {}, False, "grouped convolutions"),
    ("regnety_002", 64, {}, False, "grouped convolutions, squeeze and excitation"),
    ("inception_v3", 96, {"aux_logits": False}, False, "branches, rectangular kernels"),
    ("vgg11", 64, {}, False, "a head of convolutions"),
    ("mixer_s32_224", 64, {"img_size": 64}, False, "transposed dense layers"),
    ("resmlp_12_224", 64, {"img_size": 64}, False, "affine layers of bare parameters"),
    ("maxvit_pico_rw_256", 64, {"img_size": 64}, False, "window and grid attention, relative positions"),
    ("coatnet_pico_rw_224", 64, {"img_size": 64}, False, "convolutions, then relative attention"),
    ("cait_xxs24_224", 64, {"img_size": 64, "depth": 2}, False, "talking heads, class attention"),
    ("xcit_nano_12_p16_224", 64, {"img_size": 64, "depth": 2}, False, "attention over channels"),
    ("levit_128s", 64, {"img_size": 64}, False, "attention with biases by position, batch norm on tokens"),
    ("pvt_v2_b0", 64, {}, False, "spatial reduction attention"),
    ("poolformer_s12", 64, {}, False, "pooling in place of attention"),
    ("edgenext_xx_small", 64, {}, False, "split channels, Fourier positions"),
    ("mobilevit_xxs", 64, {}, False, "unfold, attention, fold"),
    ("efficientformer_l1", 224, {}, False, "attention biases by position"),
    ("ghostnet_050", 64, {}, False, "cheap linear operations concatenated"),
    ("hrnet_w18_small", 64, {}, False, "parallel resolutions summed"),
    ("dla34", 64, {}, False, "trees of aggregation"),
    ("nf_resnet26", 64, {}, False, "weights standardised in forward"),
    ("res2net50_26w_4s", 64, {}, False, "chunks in a chain"),
    ("selecsls42", 64, {}, False, "cross-module concatenation"),
    ("beit_base_patch16_224", 64, {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 4}, False,
     "a bias put together from parameters and zeros"),
    ("volo_d1_224", 64, {"img_size": 64}, False, "outlook attention, fold"),
    ("twins_svt_small", 64, {"img_size": 64}, False, "local windows, position by convolution"),
    ("crossvit_tiny_240", 240, {}, False, "two scales of patches"),
    ("focalnet_tiny_srf", 64, {}, False, "gated focal modulation"),
    ("visformer_tiny", 64, {"img_size": 64}, False, "attention in convolution layout"),
    ("convmixer_768_32", 64, {}, False, "residual by module"),
    ("repvgg_a0", 64, {}, False, "three branches summed"),
    ("fastvit_t8", 64, {}, False, "re-parametrised branches"),
    ("hiera_tiny_224", 64, {"img_size": (64, 64)}, False, "unrolled mask units"),
    ("eva02_tiny_patch14_224", 56, {"img_size": 56, "depth": 2}, False, "rotary positions, SwiGLU"),
    ("davit_tiny", 64, {"depths": (1, 1, 1, 1)}, False, "channel and window attention"),
)  # fmt: skip
_TORCHVISION: tuple[tuple[str, int, dict[str, Any], bool, str], ...] = (
    ("resnet18", 64, {}, False, "in-place activations, additions"),
    ("googlenet", 64, {"init_weights": False, "aux_logits": False, "transform_input": True}, False,
     "branches, channel-wise input transform"),
    ("shufflenet_v2_x0_5", 64, {}, True, "chunk, channel shuffle by view and transpose"),
    ("squeezenet1_1", 64, {}, False, "two kernels concatenated"),
    ("mnasnet0_5", 64, {}, False, "inverted residuals"),
    ("mobilenet_v2", 64, {}, False, "ReLU6"),
    ("efficientnet_b0", 64, {}, False, "stochastic depth"),
    ("alexnet", 64, {}, False, "adaptive pooling, flatten"),
    ("densenet121", 64, {}, False, "torch.cat of lists"),
    ("inception_v3", 96, {"init_weights": False, "aux_logits": False}, False, "named tuple of outputs"),
    ("convnext_tiny", 64, {}, False, "Permute modules"),
    ("vit_b_32", 64, {"image_size": 64}, False, "nn.MultiheadAttention"),
    ("swin_t", 64, {}, False, "window attention as one function"),
    ("swin_v2_t", 64, {}, False, "cosine attention with learnt temperature"),
    ("maxvit_t", 224, {}, False, "partition by modules"),
    ("regnet_y_400mf", 64, {}, False, "grouped convolutions"),
)  # fmt: skip

FAMILIES = tuple(
    [
        Family(f"timm/{name}", "torch", _timm(name, **options), _image(size), ("timm", "torchvision"), tested, peculiar)
        for name, size, options, tested, peculiar in _TIMM
    ]
    + [
        Family(f"torchvision/{name}", "torch", _torchvision(name, **options), _image(size), ("torchvision",), tested,
               peculiar)
        for name, size, options, tested, peculiar in _TORCHVISION
    ]
    + [
        Family("facenet-pytorch/InceptionResnetV1", "torch", _facenet, _image(96), ("facenet_pytorch",), False,
               "scaled residual branches, normalised embedding"),
    ]
)  # fmt: skip
