"""Keras class, function and operation names in the shared vocabulary of :mod:`tracer.kinds`."""

from __future__ import annotations

import re

from tracer.kinds import ELEMENTWISE, INDEXING, LOGICAL, MAKING, RARE, REDUCTIONS


def words(text: str) -> frozenset[str]:
    """The words of ``text``."""
    return frozenset(text.split())


_RANKED = {
    "Conv{}D": "conv{}d",
    "Convolution{}D": "conv{}d",
    "Conv{}DTranspose": "conv_transpose{}d",
    "DepthwiseConv{}D": "depthwise_conv{}d",
    "SeparableConv{}D": "separable_conv{}d",
    "MaxPooling{}D": "max_pool{}d",
    "MaxPool{}D": "max_pool{}d",
    "AveragePooling{}D": "avg_pool{}d",
    "AvgPool{}D": "avg_pool{}d",
    "GlobalAveragePooling{}D": "global_avg_pool",
    "GlobalMaxPooling{}D": "global_max_pool",
    "AdaptiveAveragePooling{}D": "adaptive_avg_pool",
    "AdaptiveMaxPooling{}D": "adaptive_max_pool",
    "ZeroPadding{}D": "pad",
    "Cropping{}D": "crop",
    "UpSampling{}D": "upsample",
    "SpatialDropout{}D": "dropout",
}
LAYER_KINDS: dict[str, str] = {
    name.format(rank): kind.format(rank) for name, kind in _RANKED.items() for rank in (1, 2, 3)
}
LAYER_KINDS |= {
    "Dense": "dense",
    "EinsumDense": "dense",
    "Embedding": "embedding",
    "ReversibleEmbedding": "embedding",
    "LSTM": "lstm",
    "CuDNNLSTM": "lstm",
    "GRU": "gru",
    "CuDNNGRU": "gru",
    "SimpleRNN": "rnn",
    "LSTMCell": "lstm_cell",
    "GRUCell": "gru_cell",
    "SimpleRNNCell": "rnn_cell",
    "MultiHeadAttention": "attention",
    "GroupQueryAttention": "attention",
    "GroupedQueryAttention": "attention",
    "Attention": "attention",
    "AdditiveAttention": "attention",
    "BatchNormalization": "batchnorm",
    "BatchNormalizationV1": "batchnorm",
    "SyncBatchNormalization": "batchnorm",
    "LayerNormalization": "layernorm",
    "GroupNormalization": "groupnorm",
    "RMSNormalization": "rmsnorm",
    "UnitNormalization": "l2_normalize",
    "ReLU": "relu",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "ELU": "elu",
    "Softmax": "softmax",
    "ThresholdedReLU": "threshold",
    "Flatten": "flatten",
    "Reshape": "reshape",
    "Permute": "permute",
    "RepeatVector": "tile",
    "Identity": "identity",
    "InputLayer": "input",
    "Add": "add",
    "Subtract": "sub",
    "Multiply": "mul",
    "Average": "average",
    "Maximum": "maximum",
    "Minimum": "minimum",
    "Concatenate": "concat",
    "Dot": "dot",
    "Dropout": "dropout",
    "AlphaDropout": "dropout",
    "GaussianDropout": "dropout",
    "GaussianNoise": "dropout",
    "StochasticDepth": "dropout",
    "DropPath": "dropout",
    "FixedDropout": "dropout",
    "LayerScale": "mul",
    "ActivityRegularization": "identity",
    "Resizing": "resize",
    "CenterCrop": "crop",
    "Normalization": "normalization",
    "Rescaling": "rescaling",
    "Masking": "masking",
    "RandomFlip": "dropout",
    "RandomRotation": "dropout",
    "RandomTranslation": "dropout",
    "RandomZoom": "dropout",
    "RandomContrast": "dropout",
    "RandomBrightness": "dropout",
}

ACTIVATION_KINDS: dict[str, str] = {
    "swish": "silu",
    "silu": "silu",
    "exp": "exponential",
    "hard_swish": "hard_silu",
    "quick_gelu": "gelu",
    "gelu_new": "gelu",
    "approximate_gelu_wrap": "gelu",
    "linear": "identity",
    "leakyrelu": "leaky_relu",
} | {
    name: name
    for name in words(
        "relu relu6 leaky_relu elu selu celu gelu mish sigmoid hard_sigmoid hard_silu tanh hard_tanh softmax "
        "log_softmax softplus softsign exponential log_sigmoid threshold glu prelu hard_shrink soft_shrink tanh_shrink"
    )
}

_OPERATIONS = {
    "add": "add addv2 biasadd bias_add addn add_n accumulatenv2 __add__ __radd__",
    "sub": "sub subtract __sub__ __rsub__",
    "mul": "mul multiply __mul__ __rmul__",
    "div": "div divide realdiv truediv true_divide divnonan divide_no_nan __truediv__ __rtruediv__",
    "maximum": "maximum",
    "minimum": "minimum",
    "clip": "clip clipbyvalue clip_by_value",
    "power": "pow power __pow__ __rpow__",
    "matmul": "matmul batchmatmul batchmatmulv2 batchmatmulv3 sparsematmul __matmul__ einsum tensordot inner",
    "concat": "concat concatv2 concatenate hstack vstack dstack",
    "stack": "stack pack",
    "split": "split splitv unstack unpack array_split hsplit vsplit dsplit",
    "slice": "slice stridedslice strided_slice getitem get_item __getitem__",
    "gather": "gather gatherv2 gathernd gather_nd take take_along_axis boolean_mask",
    "scatter": "scatter scatternd scatter_nd tensorscatteradd segment_sum",
    "setitem": "__setitem__ setitem tensorscatterupdate scatter_update slice_update",
    "reshape": "reshape",
    "flatten": "ravel flatten",
    "permute": "transpose permute moveaxis swapaxes",
    "squeeze": "squeeze",
    "expand_dims": "expanddims expand_dims",
    "cast": "cast saturate_cast",
    "identity": "identity identityn stopgradient stop_gradient copy",
    "pad": "pad padv2 mirrorpad",
    "mean": "mean reducemean reduce_mean",
    "amax": "max amax reduce_max reducemax",
    "amin": "min amin reduce_min reducemin",
    "sum": "sum reduce_sum",
    "prod": "prod reduce_prod",
    "all": "all reduce_all",
    "any": "any reduce_any",
    "var": "var variance reduce_variance",
    "std": "std reduce_std",
    "norm": "norm euclideannorm",
    "tile": "tile repeat_elements",
    "repeat": "repeat",
    "expand": "broadcastto broadcast_to",
    "flip": "flip fliplr flipud reverse reversev2 __reversed__",
    "roll": "roll",
    "pixel_shuffle": "depthtospace depth_to_space",
    "pixel_unshuffle": "spacetodepth space_to_depth",
    "where": "where select selectv2",
    "floor_div": "floordiv floor_divide __floordiv__ __rfloordiv__",
    "mod": "floormod mod remainder __mod__ __rmod__",
    "neg": "neg negative __neg__",
    "abs": "abs absolute fabs __abs__",
    "sign": "sign",
    "reciprocal": "reciprocal",
    "inverse": "inv inverse matrixinverse matrix_inverse",
    "square": "square",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "atan2": "arctan2",
    "asinh": "arcsinh",
    "acosh": "arccosh",
    "atanh": "arctanh",
    "equal": "equal __eq__",
    "not_equal": "notequal not_equal __ne__",
    "less": "less __lt__",
    "less_equal": "lessequal less_equal __le__",
    "greater": "greater __gt__",
    "greater_equal": "greaterequal greater_equal __ge__",
    "logical_and": "logicaland logical_and __and__",
    "logical_or": "logicalor logical_or __or__",
    "logical_not": "logicalnot logical_not __invert__",
    "logical_xor": "logical_xor __xor__",
    "tril": "tril matrixbandpart",
    "triu": "triu",
    "topk": "topk topkv2 top_k",
    "one_hot": "onehot one_hot",
    "arange": "range arange linspace",
    "full": "fill full full_like",
    "random": "randomuniform randomstandardnormal truncatednormal statelessrandomuniformv2",
    "fft": "fft rfft ifft irfft fft2d ifft2d rfft2d fft2 ifft2 stft istft",
    "unfold": "extractimagepatches extract_patches",
    "dot": "dot",
    "average": "average",
    "l2_normalize": "l2_normalize normalize",
    "resize": "resize resizebilinear resizenearestneighbor resizebicubic resizearea resize_images",
    "layernorm": "layer_normalization layernormalization layer_norm",
    "rmsnorm": "rms_normalization rmsnormalization",
    "attention": "dot_product_attention dotproductattention",
    "batchnorm": (
        "batch_normalization batchnormalization fusedbatchnorm fusedbatchnormv2 fusedbatchnormv3 "
        "batchnormwithglobalnormalization"
    ),
    "conv1d": "conv1d",
    "conv2d": "conv2d",
    "conv3d": "conv3d",
    "conv_transpose2d": "conv2dbackpropinput conv2dbackpropinputv2 conv2d_transpose",
    "conv_transpose3d": "conv3dbackpropinput conv3dbackpropinputv2 conv3d_transpose",
    "separable_conv2d": "separable_conv2d",
    "max_pool2d": "maxpool maxpoolv2 max_pool2d",
    "avg_pool2d": "avgpool avg_pool2d",
    "max_pool3d": "maxpool3d",
    "avg_pool3d": "avgpool3d",
    "depthwise_conv2d": "depthwiseconv2dnative depthwise_conv2d",
    "dropout": "dropout",
}
OP_KINDS: dict[str, str] = {word: kind for kind, text in _OPERATIONS.items() for word in words(text)}
OP_KINDS |= ACTIVATION_KINDS | {kind.replace("_", ""): kind for kind in set(ACTIVATION_KINDS.values())}
OP_KINDS |= {
    word: kind
    for kind in ELEMENTWISE | LOGICAL | INDEXING | REDUCTIONS | MAKING | RARE
    for word in (kind, kind.replace("_", ""))
    if word not in OP_KINDS
}


def snake(name: str) -> str:
    """``LeakyReLU`` → ``leaky_re_lu``: Keras's own way of making a layer name from a class."""
    step = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", step).lower()


_SPATIAL = {
    stem.replace("_", "") if joined else stem: kind
    for stem, kind in (
        ("conv", "conv"),
        ("depthwise_conv", "depthwise_conv"),
        ("separable_conv", "separable_conv"),
        ("conv_transpose", "conv_transpose"),
        ("max_pool", "max_pool"),
        ("average_pool", "avg_pool"),
    )
    for joined in (False, True)
}
"""Functions of Keras that take pictures of any rank."""


def op_kind(name: str, rank: int | None = None) -> str:
    """The kind of a function or operation: ``AddV2``, ``math.add``, ``tf.nn.relu``, ``Relu6``.

    ``rank`` is that of its first tensor, where it is known.
    """
    word = name.rsplit(".", 1)[-1]
    lower = word.lower()
    if rank in (3, 4, 5) and lower in _SPATIAL:
        return f"{_SPATIAL[lower]}{rank - 2}d"
    return OP_KINDS.get(lower) or OP_KINDS.get(snake(word)) or f"other:{lower}"


def activation_kind(name: str) -> str:
    """The kind of an activation function by its name."""
    return ACTIVATION_KINDS.get(name.lower(), f"other:{name}")
