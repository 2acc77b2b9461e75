"""The operations of :mod:`tracer.kinds` in float64 with numpy and scipy: what a layer computes, whoever wrote it.

Each module registers functions ``f(step, inputs) -> output`` for kinds. Settings and weights are in one convention:

======================  =============================================================================================
kinds                   settings; weights
======================  =============================================================================================
``dense``               ``contracted`` (how many axes are in, of a kernel of several); ``kernel`` (in, out), ``bias``
``conv*``,              ``strides``, ``dilation`` (one number each axis), ``padding`` ((before, after) each axis),
``depthwise_conv*``     ``padding_mode`` (zeros, reflect, symmetric, replicate, circular), ``groups``, ``channels``;
                        ``kernel`` (spatial…, in / groups, out) with the outputs of a group together, ``bias`` (out);
                        ``channels``, here and below, is their axis counted from the end
``conv_transpose*``     ``strides``, ``dilation``, ``crop`` ((before, after) cut off the full result; negative adds
                        zeros), ``groups``, ``channels``; ``kernel`` (spatial…, in, out / groups) not flipped, ``bias``
``separable_conv*``     as ``conv*``; ``depthwise_kernel`` (spatial…, 1, in × multiplier), ``kernel`` (…, out), ``bias``
all of these            ``activation`` (a kind) and ``activation_settings``: what the same node applies at its end
``bilinear``            ``kernel`` (out, in of the first, in of the second), ``bias``
``max_pool*``,          ``pool_size``, ``strides``, ``padding``, ``dilation``, ``count_include_pad``, ``channels``
``avg_pool*``           ``ceil`` (more padding after, which never counts), ``pad_value`` (of max_pool; else -inf)
                        ``divisor`` (of avg_pool, in place of the count)
``global_*_pool``       ``axes`` (spatial), ``keepdims``, ``mask`` (of an average: which places count, samples first)
``adaptive_*_pool``     ``output_size``, ``axes``
``batchnorm``           ``epsilon``, ``channels``, ``mode`` (eval, train), ``momentum`` (of the old value); ``gamma``,
                        ``beta``, ``running_mean``, ``running_var``
``layernorm``,          ``epsilon``, ``axes`` (normalised over), ``ddof``, ``form`` (divide by root: √(var + eps);
``rmsnorm``             deviation: √var + eps; variance: var + eps); ``gamma``, ``beta`` of these axes' shape
``groupnorm``           ``epsilon``, ``groups``, ``channels``, ``ddof``; ``gamma``, ``beta``
``instancenorm``        ``epsilon``, ``channels``, ``batch`` (its axis, -1 for none), ``mode`` (eval: with the
                        statistics that were tracked); ``gamma``, ``beta``
``lrn``                 ``window`` ((before, after) along ``channels``), ``alpha`` (of the sum), ``beta``, ``offset``
``l2_normalize``        ``epsilon``, ``axes``, ``order``, ``form`` (divide by max: max(norm, eps); maxsquare:
                        √max(norm², eps); add: norm + eps; addsquare: √(norm² + eps))
activations             ``negative_slope`` (leaky_relu), ``alpha`` (elu, celu), ``approximate`` (gelu: none, tanh,
                        sigmoid), ``axis`` (softmax, log_softmax, glu), ``max_value``, ``threshold``, ``value``,
                        ``min_value``, ``beta`` (softplus), ``slope`` and ``offset`` (of the line in hard_sigmoid and
                        hard_silu: .2, .5 in Keras 2; 1/6, .5 else), ``negated`` (softmin), ``masked`` (softmax, by a
                        second input: hidden, or zeros come out there as well); ``alpha`` (prelu, in a shape that
                        broadcasts)
sums, means, norms …    ``axes`` (None: all), ``keepdims``; ``ddof`` (var, std), ``epsilon`` and ``form``
                        (std, as of layernorm), ``order`` (norm)
comparisons             ``operand``, ``side``
``cast``                ``dtype``
``lstm`` ``gru`` ``rnn``  see :mod:`tracer.causes.operations.recurrent`
``attention``           see :mod:`tracer.causes.operations.attention`
``resize`` ``upsample``  see :mod:`tracer.causes.operations.resizing`
``add`` ``matmul`` …    see :mod:`tracer.causes.operations.arithmetic`
``lerp`` ``median`` …   see :mod:`tracer.causes.operations.compound`
``grid_sample`` ``fft`` …  see :mod:`tracer.causes.operations.sampling`
``cdist`` ``diff`` …    see :mod:`tracer.causes.operations.functions`
the others              see :mod:`tracer.causes.operations.arrangements`
all                     ``inferred``: the recording does not tell the settings; they are what gives its own values
======================  =============================================================================================
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from tracer.causes.step import Array, Step, Unknown, as_double

Operation = Callable[[Step, Sequence[Array]], Array]
_operations: dict[str, Operation] = {}
_MODULES = ("convolutions", "normalisations", "activations", "arithmetic", "arrangements", "recurrent", "attention",
            "resizing", "compound", "sampling", "functions")  # fmt: skip


def operation(*kinds: str) -> Callable[[Operation], Operation]:
    """Register a function for kinds."""

    def register(function: Operation) -> Operation:
        for kind in kinds:
            _operations[kind] = function
        return function

    return register


@cache
def _load() -> None:
    for name in _MODULES:
        importlib.import_module(f"{__name__}.{name}")


def known(kind: str) -> bool:
    """Whether steps of that kind can be computed."""
    _load()
    return kind in _operations


def run(step: Step, inputs: Sequence[Array]) -> Array:
    """What a step makes of its inputs, in float64. Raises Unknown where that cannot be computed."""
    _load()
    function = _operations.get(step.kind)
    if function is None:
        raise Unknown(f"{step.kind} is not known")
    try:
        with np.errstate(all="ignore"):
            return function(step, [as_double(values) for values in inputs])
    except (KeyError, IndexError, ValueError, TypeError, MemoryError) as error:
        raise Unknown(f"{step.kind}: {_said(error)}") from error


def _said(error: Exception) -> Any:
    return f"{error.args[0]} is not known" if isinstance(error, KeyError) else error
