"""Changes of a live model as Python: a line to paste, and the whole patch as a file."""

from __future__ import annotations

import keyword
import math
from collections.abc import Iterable, Mapping, Sequence

from tracer.causes.change import Change, Scalar, Value
from tracer.causes.finding import Cause, Finding
from tracer.names import display

_SHORT = 12
"""Numbers of an order that are written out for a person."""

TORCH_MODULES = {
    "relu": ("ReLU", ()), "relu6": ("ReLU6", ()), "leaky_relu": ("LeakyReLU", ("negative_slope",)),
    "elu": ("ELU", ("alpha",)), "celu": ("CELU", ("alpha",)), "selu": ("SELU", ()), "gelu": ("GELU", ("approximate",)),
    "silu": ("SiLU", ()), "mish": ("Mish", ()), "sigmoid": ("Sigmoid", ()), "hard_sigmoid": ("Hardsigmoid", ()),
    "hard_silu": ("Hardswish", ()), "tanh": ("Tanh", ()), "softplus": ("Softplus", ("beta", "threshold")),
    "softsign": ("Softsign", ()), "log_sigmoid": ("LogSigmoid", ()), "tanh_shrink": ("Tanhshrink", ()),
    "identity": ("Identity", ()), "softmax": ("Softmax", ("dim",)), "log_softmax": ("LogSoftmax", ("dim",)),
}  # fmt: skip
"""Modules that stand for an activation, with the settings that they take by name."""
TORCH_POOLS = {
    f"{kind}_pool{rank}d": f"{name}Pool{rank}d" for kind, name in (("max", "Max"), ("avg", "Avg")) for rank in (1, 2, 3)
}
"""Modules that pool, which take ``kernel_size``, ``stride``, ``padding`` and, of means, ``count_include_pad``."""
_POOLING = ("kernel_size", "stride", "padding", "count_include_pad")
KERAS_ACTIVATIONS = {
    "relu": "relu", "relu6": "relu6", "leaky_relu": "leaky_relu", "elu": "elu", "celu": "celu", "selu": "selu",
    "gelu": "gelu", "silu": "silu", "mish": "mish", "sigmoid": "sigmoid", "hard_sigmoid": "hard_sigmoid",
    "hard_silu": "hard_silu", "tanh": "tanh", "softplus": "softplus", "softsign": "softsign",
    "log_sigmoid": "log_sigmoid", "tanh_shrink": "tanh_shrink", "softmax": "softmax", "log_softmax": "log_softmax",
    "exponential": "exponential", "identity": "linear",
}  # fmt: skip


def written(value: Value) -> str:
    """A value as Python."""
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))}{',' * (len(value) == 1)})"
    if isinstance(value, float):
        return (
            f'float("{value}")' if not math.isfinite(value) else f"{value:.12g}" if value != int(value) else repr(value)
        )
    return repr(value)


# --- a line to paste -------------------------------------------------------------------------------------------------


def line(change: Change) -> str:
    """A change as a line of the candidate's framework, as a person would write it."""
    at = module(change.owner) if change.library == "torch" else layer(change.owner)
    if change.what == "set":
        return f"{at}.{change.name} = {written(change.value)}"
    if change.what == "eval":
        return f"{at}.eval()"
    if change.what == "module":
        return f"{at} = {_torch_activation(change.value)}"
    if change.what == "behind":
        return f"behind {at}: x = {_torch_activation(change.value)}(x)"
    if change.what == "activation":
        return f"{at}.activation = {_keras_activation(change.value)}"
    if change.what == "pad":
        return f"before {at}: x = {_padded('x', change)}"
    if change.what == "affine":
        return f"before {at}: x = {_scaled('x', change)}"
    if change.what == "call":
        return f"in {at}: {change.name}(…) with {_arguments(change)}"
    return _weight_line(
        change, f"{at}.{change.name}" if change.name.isidentifier() else f"{at}: {display(change.name)}"
    )


def module(owner: str) -> str:
    """``features.0.conv`` as ``model.features[0].conv``."""
    out = "model"
    for part in owner.split(".") if owner else ():
        if part.isdigit():
            out += f"[{part}]"
        elif part.isidentifier() and not keyword.iskeyword(part):
            out += f".{part}"
        else:
            return f"model.get_submodule({owner!r})"
    return out


def layer(owner: str) -> str:
    """``block/conv`` as ``model.get_layer("block").get_layer("conv")``."""
    return "model" + "".join(f'.get_layer("{_quoted(part)}")' for part in owner.split("/") if owner)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _settings(value: Value) -> tuple[str, dict[str, Value]]:
    """A kind and its settings from ``(kind, name, value, …)``."""
    if not isinstance(value, tuple):
        return str(value), {}
    return str(value[0]), {str(key): one for key, one in zip(value[1::2], value[2::2], strict=False)}


def _torch_activation(value: Value) -> str:
    kind, settings = _settings(value)
    name, takes = (TORCH_POOLS[kind], _POOLING) if kind in TORCH_POOLS else TORCH_MODULES[kind]
    given = ", ".join(f"{key}={written(settings[key])}" for key in takes if key in settings)
    return f"torch.nn.{name}({given})"


def _keras_activation(value: Value) -> str:
    kind, settings = _settings(value)
    function = f"keras.activations.{KERAS_ACTIVATIONS[kind]}"
    takes = {"leaky_relu": ("negative_slope",), "elu": ("alpha",), "celu": ("alpha",), "gelu": ("approximate",)}
    given = {key: settings[key] for key in takes.get(kind, ()) if key in settings}
    if kind == "gelu" and "approximate" in given:
        given["approximate"] = given["approximate"] == "tanh"
    if not given:
        return function
    return f"lambda x: {function}(x, {', '.join(f'{key}={written(one)}' for key, one in given.items())})"


def _padded(x: str, change: Change) -> str:
    assert isinstance(change.value, tuple)
    amounts = written(change.value)
    if change.name == "-inf":
        return f'torch.nn.functional.pad({x}, {amounts}, value=float("-inf"))'
    mode = "" if change.name == "constant" else f", mode={change.name!r}"
    return f"torch.nn.functional.pad({x}, {amounts}{mode})"


def _scaled(x: str, change: Change) -> str:
    """Raises ValueError where the numbers do not go together."""
    numbers = change.value if isinstance(change.value, tuple) else ()
    if len(numbers) < 4 or len(numbers) % 2 or not all(isinstance(one, int | float) for one in numbers):
        raise ValueError("not a scale and an offset")
    (axis, rank), rest = (int(one) for one in numbers[:2]), numbers[2:]
    half = len(rest) // 2
    shape = tuple(-1 if at == axis % rank else 1 for at in range(rank))

    def factor(values: tuple[Scalar, ...]) -> str:
        if len(values) == 1:
            return written(values[0])
        return f"{x}.new_tensor({written(values)}).reshape({written(shape)})"

    scales, offsets = rest[:half], rest[half:]
    scaled = f"{x} * {factor(scales)}"
    return scaled if not any(offsets) else f"{scaled} + {factor(offsets)}"


def _arguments(change: Change) -> str:
    """Raises ValueError for anything but names with their values."""
    given = change.value if isinstance(change.value, tuple) else ()
    names = [str(name) for name in given[::2]]
    if not given or len(given) % 2 or not all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
        raise ValueError("not arguments")
    return ", ".join(f"{name}={written(value)}" for name, value in zip(names, given[1::2], strict=True))


def _weight_line(change: Change, at: str) -> str:
    torch = change.library == "torch"
    long = any(len(numbers) > _SHORT for _, numbers in change.moves)
    if change.source is None and torch:
        value = f"{at}.data"
        for move, numbers in change.moves:
            value = _torch_moved(value, move, numbers)
        return f"{at}.data = {value}" if not long else f"put {at} into the reference's order (--patch writes which)"
    if change.source is None:
        value = moved(f"{at}.numpy()", change.moves)
        return f"{at}.assign({value})" if not long else f"put {at} into the reference's order (--patch writes which)"
    owner, name = change.source
    where = "  # reference: the weights of its recording"
    if torch and change.name == "bias" and not change.moves:
        return f"{at} = torch.nn.Parameter(torch.tensor(reference[{owner!r}, {name!r}])){where}"
    value = moved(f"reference[{', '.join((repr(owner), repr(name)))}]", change.moves if not long else ())
    if long:
        return f"load {at} from {value}, put into its own order (--patch writes which)"
    return f"{at}.data = torch.tensor({value}){where}" if torch else f"{at}.assign({value}){where}"


def _torch_moved(value: str, move: str, numbers: Sequence[int]) -> str:
    if move == "transpose":
        return f"{value}.permute{tuple(numbers)}.contiguous()"
    if move == "reshape":
        return f"{value}.reshape{_tuple(numbers)}"
    if move == "flip":
        return f"{value}.flip{_tuple(numbers)}"
    if move == "zeros":
        return f"torch.zeros_like({value})"
    axis, order = numbers[0], tuple(numbers[1:])
    if move == "blocks":
        return f"torch.cat([{value}.chunk({len(order)}, {axis})[i] for i in {order}], {axis})"
    return f"{value}.index_select({axis}, torch.tensor({list(order)}))"


def _tuple(numbers: Sequence[int]) -> str:
    return f"({', '.join(map(str, numbers))})"


def moved(value: str, moves: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """An expression of numpy that moves ``value``'s elements."""
    for move, numbers in moves:
        if move in ("transpose", "reshape"):
            value = f"{value}.{move}{_tuple(numbers)}"
        elif move == "flip":
            value = f"np.flip({value}, {tuple(numbers)})"
        elif move == "zeros":
            value = f"np.zeros_like({value})"
        else:
            axis, order = numbers[0], tuple(numbers[1:])
            if move == "blocks":
                value = f"np.concatenate([np.split({value}, {len(order)}, {axis})[i] for i in {order}], {axis})"
            else:
                value = f"np.take({value}, {list(order)}, {axis})"
    return value


# --- the patch -------------------------------------------------------------------------------------------------------

_HEAD = '''"""{title}

Use it as: from {module} import apply; apply(model)
"""

import numpy as np
{imports}

'''
_TORCH = {
    "_module": """
def _module(model, path):
    return model.get_submodule(path)
""",
    "_set": """
def _set(model, path, value):
    parent, _, last = path.rpartition(".")
    setattr(model.get_submodule(parent), last, value)
""",
    "_tensor": """
def _tensor(module, name):
    for part in name.split("."):
        module = getattr(module, part)
    return module
""",
    "_values": """
def _values(module, name):
    return _tensor(module, name).detach().cpu().numpy()
""",
    "_load": """
def _load(module, name, values):
    values = torch.tensor(np.ascontiguousarray(values))
    if _tensor(module, name) is None:
        setattr(module, name, torch.nn.Parameter(values))
    else:
        _tensor(module, name).data.copy_(values)
""",
    "_before": """
def _before(module, function):
    # whatever calls it, it is given what the function makes of its first input
    module.register_forward_pre_hook(lambda _, inputs: (function(inputs[0]), *inputs[1:]))
""",
    "_called": """
def _called(module, name, **arguments):
    # in its forward the function of this name is called with other arguments; those of functions written in C++ may
    # have been given by their place
    pool = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
    places = {f"avg_pool{rank}d": pool for rank in (1, 2, 3)}
    places["scaled_dot_product_attention"] = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")

    class Calls(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            args, kwargs = list(args), dict(kwargs or {})
            if getattr(function, "__name__", "") == name:
                kwargs |= arguments
                for place, argument in enumerate(places.get(name, ())[: len(args)]):
                    args[place] = kwargs.pop(argument, args[place])
            return function(*args, **kwargs)

    def forward(*args, _forward=module.forward, **kwargs):
        with Calls():
            return _forward(*args, **kwargs)

    module.forward = forward
""",
    "_put_behind": """
def _put_behind(module, function):
    # whatever calls it gets what the function makes of its result
    module.register_forward_hook(lambda _, inputs, output: function(output))
""",
}
_KERAS = {
    "_layer": """
def _layer(model, path):
    for part in path.split("/"):
        inside = getattr(model, "layers", None) or model._flatten_layers(include_self=False, recursive=False)
        model = next(layer for layer in inside if layer.name == part)
    return model
""",
    "_weight": """
def _weight(layer, name):
    named = {(getattr(weight, "path", None) or weight.name).split(":")[0]: weight for weight in layer.weights}
    return next(weight for path, weight in named.items() if path == name or path.endswith("/" + name))
""",
    "_values": """
def _values(layer, name):
    return np.array(_weight(layer, name))
""",
    "_load": """
def _load(layer, name, values):
    _weight(layer, name).assign(np.ascontiguousarray(values))
""",
}
_REFERENCE = """
_recording = tracer.open({trace!r}).recording({name!r})


def _reference(owner, name):
    return _recording.read_stored(_recording.weights[owner, name])

"""


def changes_of(findings: Iterable[Finding]) -> list[tuple[Cause, Finding]]:
    """The causes whose fix can be made in memory, in order; what differs only in training too."""
    return [(cause, one) for one in findings for cause in one.causes if cause.changes]


def patch(findings: Sequence[Finding], *, trace: str, reference: str, candidate: str, name: str = "patch") -> str:
    """The file of ``tracer explain --patch``: a function ``apply(model)`` that makes every change there is.

    ``findings`` are those of each pair for itself; ``trace`` and ``reference`` say where weights are read. Raises
    ValueError where there is nothing to write.
    """
    chosen = changes_of(findings)
    if not chosen:
        raise ValueError("none of the fixes can be made in memory")
    changes = [change for cause, _ in chosen for change in cause.changes]
    library = changes[0].library
    imports = ["import torch"] if library == "torch" else [f"import {library}{' as keras' * (library == 'tf_keras')}"]
    borrows = any(change.source is not None for change in changes)
    imports += ["import tracer"] if borrows else []
    title = f"Make {display(candidate)} compute what {display(reference)} does: written by tracer explain --patch."
    text = _HEAD.format(title=_comment(title), module=name, imports="\n".join(imports))
    body, done = [], set[str]()
    for cause, one in chosen:
        new = [statement for change in cause.changes for statement in statements(change) if statement not in done]
        if new:
            said = _comment(f"{one.pair}: {cause.id}: {cause.what}")
            body += [f"    # {said}", *(f"    {statement}" for statement in new)]
            done.update(new)
    for one in findings:
        if one.status != "latent" and not (one.causes and all(cause.changes for cause in one.causes)):
            why = "; ".join(one.fixes) or "unknown"
            body.append(f"    # {_comment(f'{one.pair}: {one.cause}: not to be done in memory: {why}')}")
    lines = "\n".join(body)
    text += "\n".join(_needed(_TORCH if library == "torch" else _KERAS, lines)) + "\n"
    text += _REFERENCE.format(trace=trace, name=reference) if borrows else ""
    return f'{text}\ndef apply(model):\n    """Change the model in place and return it."""\n{lines}\n    return model\n'


def _needed(parts: Mapping[str, str], lines: str) -> list[str]:
    """The functions that some lines call, and those that these call."""
    needed: list[str] = []
    for name, part in reversed(list(parts.items())):
        if any(f"{name}(" in text for text in (lines, *needed)):
            needed.insert(0, part)
    return needed


def _comment(text: str) -> str:
    return display(text).replace("\n", " ").replace('"""', "'''").replace("\\", "/")


def statements(change: Change) -> list[str]:
    """A change as statements of the patch."""
    torch = change.library == "torch"
    at = f"_module(model, {change.owner!r})" if torch else f"_layer(model, {change.owner!r})"
    if change.what == "set":
        if not change.name.isidentifier() or change.name.startswith("_"):
            raise ValueError(f"{change.name} is no attribute")
        return [f"{at}.{change.name} = {written(change.value)}"]
    if change.what == "eval":
        return [f"{at}.eval()"]
    if change.what == "module":
        return [f"_set(model, {change.owner!r}, {_torch_activation(change.value)})"]
    if change.what == "behind":
        return [f"_put_behind({at}, {_torch_activation(change.value)})"]
    if change.what == "activation":
        return [f"{at}.activation = {_keras_activation(change.value)}"]
    if change.what == "pad":
        return [f"_before({at}, lambda x: {_padded('x', change)})"]
    if change.what == "affine":
        return [f"_before({at}, lambda x: {_scaled('x', change)})"]
    if change.what == "call":
        if not change.name.isidentifier():
            raise ValueError(f"{change.name} is no function")
        return [f"_called({at}, {change.name!r}, {_arguments(change)})"]
    own = (
        f"_values({at}, {change.name!r})" if change.source is None else "_reference({!r}, {!r})".format(*change.source)
    )
    return [f"_load({at}, {change.name!r}, {moved(own, change.moves)})"]
