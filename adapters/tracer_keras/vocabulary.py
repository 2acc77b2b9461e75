"""Keras class, function and operation names in the shared vocabulary of :mod:`tracer.kinds`."""

from __future__ import annotations

import re


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
    "RepeatVector": "other:repeat_vector",
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
    "ActivityRegularization": "identity",
    "Resizing": "resize",
    "CenterCrop": "crop",
    "Normalization": "other:normalization",
    "Rescaling": "other:rescaling",
}

ACTIVATION_KINDS: dict[str, str] = {
    "swish": "silu",
    "silu": "silu",
    "exp": "exponential",
    "hard_swish": "hard_silu",
    "hard_silu": "hard_silu",
    "leakyrelu": "leaky_relu",
} | {
    name: name
    for name in words(
        "relu relu6 leaky_relu elu selu celu gelu mish sigmoid hard_sigmoid tanh hard_tanh softmax log_softmax "
        "softplus softsign exponential log_sigmoid threshold glu prelu"
    )
}

_OPERATIONS = {
    "add": "add addv2 biasadd bias_add addn add_n __add__ __radd__",
    "sub": "sub subtract __sub__ __rsub__",
    "mul": "mul multiply __mul__ __rmul__",
    "div": "div divide realdiv truediv true_divide divnonan divide_no_nan __truediv__ __rtruediv__",
    "maximum": "maximum",
    "minimum": "minimum",
    "clip": "clip clipbyvalue clip_by_value",
    "power": "pow power __pow__ __rpow__",
    "matmul": "matmul batchmatmul batchmatmulv2 batchmatmulv3 __matmul__ einsum tensordot",
    "concat": "concat concatv2 concatenate",
    "stack": "stack pack",
    "split": "split splitv unstack unpack",
    "slice": "slice stridedslice strided_slice getitem get_item __getitem__ gather gatherv2 gathernd take",
    "reshape": "reshape",
    "flatten": "ravel flatten",
    "permute": "transpose permute moveaxis swapaxes",
    "squeeze": "squeeze",
    "expand_dims": "expanddims expand_dims",
    "cast": "cast",
    "identity": "identity stopgradient stop_gradient",
    "pad": "pad padv2 mirrorpad",
    "mean": "mean reducemean reduce_mean",
    "amax": "max amax reduce_max reducemax",
    "dot": "dot",
    "average": "average",
    "l2_normalize": "l2_normalize normalize",
    "resize": "resize resizebilinear resizenearestneighbor resizebicubic resize_images",
    "layernorm": "layer_normalization layernormalization",
    "rmsnorm": "rms_normalization rmsnormalization",
    "attention": "dot_product_attention dotproductattention",
    "batchnorm": "batch_normalization batchnormalization fusedbatchnorm fusedbatchnormv3",
    "conv2d": "conv2d",
    "conv3d": "conv3d",
    "max_pool2d": "maxpool max_pool2d",
    "avg_pool2d": "avgpool avg_pool2d",
    "depthwise_conv2d": "depthwiseconv2dnative",
    "dropout": "dropout",
}
OP_KINDS: dict[str, str] = {word: kind for kind, text in _OPERATIONS.items() for word in words(text)}
OP_KINDS |= ACTIVATION_KINDS | {kind.replace("_", ""): kind for kind in set(ACTIVATION_KINDS.values())}


def snake(name: str) -> str:
    """``LeakyReLU`` → ``leaky_re_lu``: Keras's own way of making a layer name from a class."""
    step = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", step).lower()


def op_kind(name: str) -> str:
    """The kind of a function or operation: ``AddV2``, ``math.add``, ``tf.nn.relu``, ``Relu6``."""
    word = name.rsplit(".", 1)[-1]
    lower = word.lower()
    return OP_KINDS.get(lower) or OP_KINDS.get(snake(word)) or f"other:{lower}"


def activation_kind(name: str) -> str:
    """The kind of an activation function by its name."""
    return ACTIVATION_KINDS.get(name.lower(), f"other:{name}")
