"""What our settings are called as arguments of functions, and as attributes of ONNX."""

from __future__ import annotations

CALLED = {
    "epsilon": "eps", "axis": "dim", "strides": "stride", "pool_size": "kernel_size", "min_value": "min_val",
    "max_value": "max_val",
}  # fmt: skip
"""Arguments of PyTorch's functions that are called otherwise than our settings."""
OURS = frozenset({"merge_mode", "order", "permutation", "index", "form", "start", "stop", "given", "use_form",
                  "use_axes", "use_ddof", "use_epsilon", "use_root", "use_centred"})  # fmt: skip
"""Settings that are no argument of any function."""
INTERPOLATIONS = {("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
ARGUMENTS = frozenset({"epsilon", "axis", "negative_slope", "alpha", "approximate", "count_include_pad", "min_value",
                        "max_value", "align_corners"})  # fmt: skip
"""Settings that are arguments of PyTorch's functions, of the same meaning in every one."""
ATTRIBUTES = {
    "epsilon": "epsilon", "negative_slope": "alpha", "alpha": "alpha", "axis": "axis", "strides": "strides",
    "dilation": "dilations", "padding": "pads", "pool_size": "kernel_shape", "count_include_pad": "count_include_pad",
    "groups": "group", "approximate": "approximate", "momentum": "momentum", "permutation": "perm",
}  # fmt: skip
VERBS = {"mul": "multiply by", "div": "divide by", "add": "add", "sub": "subtract"}
"""What is done with a number, as a sentence begins."""
