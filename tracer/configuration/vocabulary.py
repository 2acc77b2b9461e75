"""The words in which settings are told, whatever framework they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Pairs = tuple[tuple[int, int], ...]
"""(before, after) along each axis."""


class Settings(Mapping[str, Any]):
    """The settings of a node: canonical values by the words of :data:`WORDS`, and of words that only its adapter knows.

    Only what is known is there: a word that is missing may have any value.

    Attributes:
        stated: by word, how the framework says it, where that is not the canonical value: ``same`` for a padding of
            ((0, 1), (0, 1)), 0.1 for a momentum of 0.9.
    """

    __slots__ = ("_values", "stated")

    def __init__(self, values: Mapping[str, Any] | None = None, stated: Mapping[str, Any] | None = None) -> None:
        self._values = dict(values or {})
        self.stated = dict(stated or {})

    def __getitem__(self, word: str) -> Any:
        return self._values[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Settings({self._values}, {self.stated})"

    def but(self, **values: Any) -> Settings:
        """The same with these words instead; None takes a word out."""
        merged = {word: value for word, value in {**self._values, **values}.items() if value is not None}
        return Settings(merged, {word: said for word, said in self.stated.items() if word not in values})


@dataclass(frozen=True)
class Word:
    """What a word stands for.

    Attributes:
        value: what its canonical value is.
        means: what a difference does, in words; empty where that is plain.
        training: whether it makes a difference only while a model is trained.
        along: which axes of the node's tensor the entries of the value belong to: ``axes`` of numbers of axes,
            ``spatial`` of one entry a spatial axis, ``all`` of one entry an axis; they are compared through the pair's
            axes.
        told: whether two right ports agree in it; of the others each framework has its own convention.
    """

    value: str
    means: str = ""
    training: bool = False
    along: Literal["", "axes", "spatial", "all"] = ""
    told: bool = field(default=True)


_SHOWS_IN_TRAINING = "will differ in training"
_OTHER_VALUES = "other values throughout"

WORDS: Mapping[str, Word] = {
    # Convolutions and pools
    "kernel_size": Word("lengths of the window", along="spatial"),
    "strides": Word("steps of the window", "the window steps otherwise: other places are looked at", along="spatial"),
    "dilation": Word("distances of a window's elements", "the window reaches otherwise", along="spatial"),
    "padding": Word(
        "of a convolution or pool, (before, after) along each spatial axis, as far as its windows reach; of a "
        "transposed convolution what is cut off its full output (negative: added)",
        along="spatial",
    ),
    "paddings": Word("of a pad, (before, after) along each axis of its tensor", "", along="all"),
    "padding_mode": Word("constant, reflect, symmetric, replicate or circular", "the border differs"),
    "value": Word("what a pad or a threshold puts in"),
    "groups": Word("groups of channels that do not mix; of a depthwise convolution as many as channels"),
    "filters": Word("channels that a convolution gives"),
    "ceil_mode": Word("whether an incomplete last window counts", "inputs of other lengths give another length"),
    "count_include_pad": Word("whether an average counts padded zeros", "averages at the border differ"),
    "fill": Word("what lies around a maximum's input, 0 or -inf", "shows where a window at the border is all negative"),
    "divisor_override": Word("what sums of a window are divided by"),
    "bias": Word("whether it adds learned numbers"),
    # Normalisations
    "epsilon": Word("added to the variance", "shows where the variance is small"),
    "momentum": Word(
        "how much of the running statistics stays at each step, or the word 'cumulative'", _SHOWS_IN_TRAINING, True
    ),
    "scale": Word("whether a norm multiplies by learned numbers", _SHOWS_IN_TRAINING, True),
    "center": Word("whether a norm adds learned numbers", _SHOWS_IN_TRAINING, True),
    "running": Word("whether a batch norm uses running statistics in evaluation", "one depends on the whole batch"),
    "training": Word("whether the call is in training mode"),
    "axis": Word("the axes that an operation goes over, from 0", "it goes over another axis", along="axes"),
    "ddof": Word("what is taken off the count in a variance or deviation", "a constant ratio"),
    "p": Word("which norm"),
    # Activations
    "approximate": Word("erf, tanh or sigmoid: how a GELU is computed", "at most 4.7e-4 apart, 2e-2 for sigmoid"),
    "negative_slope": Word("the slope below zero", "shows where the input is negative"),
    "alpha": Word("ELU's or CELU's scale", "shows where the input is negative"),
    "slope": Word("of a hard sigmoid, its slope at zero", _OTHER_VALUES),
    "threshold": Word("where an activation changes"),
    "beta": Word("softplus's sharpness, or a power"),
    "max_value": Word("the greatest value let through", "shows above the smaller of them"),
    "min_value": Word("the least value let through", "shows below the greater of them"),
    # Dropout
    "rate": Word("share that is dropped", _SHOWS_IN_TRAINING, True),
    "drops": Word("what is dropped: elements, channels, samples, alpha or gaussian", _SHOWS_IN_TRAINING, True),
    "dropout": Word("share that is dropped of a recurrent layer's inputs or of attention", _SHOWS_IN_TRAINING, True),
    "recurrent_dropout": Word("share that is dropped of a recurrent layer's state", _SHOWS_IN_TRAINING, True),
    "dropout_between": Word("share that is dropped between stacked recurrent layers", _SHOWS_IN_TRAINING, True),
    # Recurrent layers and attention
    "units": Word("features that come out"),
    "activation": Word("of a recurrent layer's candidate state", _OTHER_VALUES),
    "recurrent_activation": Word("of a recurrent layer's gates", _OTHER_VALUES),
    "reset_after": Word("whether a GRU's reset gate acts on the product", "close, but nowhere the same"),
    "gate_order": Word("how the weights' rows are ordered, by the letters i f c o (LSTM) and z r h (GRU)", told=False),
    "bidirectional": Word("whether it runs both ways"),
    "merge_mode": Word("how the two ways are joined", _OTHER_VALUES),
    "go_backwards": Word("whether the sequence is read from its end", "the steps come in the other order"),
    "num_layers": Word("recurrent layers in one"),
    "num_heads": Word("heads of an attention", _OTHER_VALUES),
    "key_dim": Word("features of one head", _OTHER_VALUES),
    "causal": Word("whether later steps are hidden"),
    # Resizing
    "interpolation": Word("nearest, linear, cubic, area …", _OTHER_VALUES),
    "coordinates": Word(
        "half_pixel, align_corners or asymmetric: where the places of the output lie in the input", _OTHER_VALUES
    ),
    "cubic": Word("the coefficient of a cubic interpolation", "small differences everywhere"),
    "antialias": Word("whether making smaller averages", "shows where it is made smaller"),
    "factor": Word("of a pixel shuffle"),
    # Others
    "input_dim": Word("rows of an embedding"),
    "output_dim": Word("columns of an embedding"),
    "size": Word("of a local response norm, the channels that it sums"),
    "offset": Word("added by a rescaling"),
    "ratio": Word("multiplied by in a rescaling"),
    "dtype": Word("the type of the values", "each rounds otherwise"),
}
