"""Recurrent layers whose products are convolutions."""

from __future__ import annotations

from tracer.causes.operations.recurrent import GATES
from tracer.causes.reading import Read, inferring, reader
from tracer.causes.reading.layers import padded_by
from tracer.causes.reading.recurrent import KERAS, functions_of, own_weights, settled, split_gates
from tracer.causes.step import Step, Unknown, numbers


@reader("other:ConvLSTM1D", "other:ConvLSTM2D", "other:ConvLSTM3D")
def convolving(node: Read) -> Step:
    """Keras's LSTM whose products are convolutions, as an ``lstm`` with kernels of more axes."""
    own, rank = {name.rpartition("/")[2]: value for name, value in own_weights(node).items()}, len(node.source()) - 3
    if not own.keys() >= {"kernel", "recurrent_kernel"} or node.config.get("data_format") == "channels_first":
        raise Unknown("its weights were not recorded, or its channels come first")
    window, lengths = own["kernel"].shape[:rank], node.source()[2:-1]
    strides, dilation = (numbers(node.config.get(word, 1), rank) for word in ("strides", "dilation"))
    settings = {
        "gates": GATES["lstm"],
        "reverse": bool(node.config.get("go_backwards")),
        "time": 1,
        "return_sequences": bool(node.config.get("return_sequences")),
        "conv_strides": strides,
        "conv_dilation": dilation,
        "conv_padding": padded_by(node, lengths, window, strides, dilation),
        "conv_padding_mode": "zeros",
        **functions_of(node, "lstm"),
    }
    weights = {name: split_gates(value, "lstm", KERAS["lstm"]) for name, value in own.items()}
    step = inferring.step_of(node, kind="lstm", **settings).weigh(**weights)
    return settled(node, step) if step.settings.get("doubtful") else step
