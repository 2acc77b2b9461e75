"""What a script needs of each framework: reading a model's weights by name, and writing them."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.store import Recording


@dataclass(frozen=True)
class Glue:
    """A framework's part of a script.

    Attributes:
        by_layer: whether weights are read and written a layer at a time, by its path, or each by its name.
        join: between a layer's and a parameter's name, where each has a name of its own.
        imports: what is imported, besides numpy.
        shared: functions that reading and writing both need.
        read: the function ``read(path)``, whose result ``carry`` takes.
        write: the function ``write(model, values)``, which takes what ``carry`` gives; empty where a script cannot.
        save: lines that end the script: ``values`` into a file; ``argv`` are the paths behind the source's.
        usage: the paths behind the source's.
        load: what loads the source from the first path, an expression.
    """

    by_layer: bool
    join: str
    imports: tuple[str, ...]
    read: str
    load: str
    shared: str = ""
    write: str = ""
    save: tuple[str, ...] = ()
    usage: str = ""


_KERAS_SHARED = '''
def children(layer):
    return layer._flatten_layers(include_self=False, recursive=False)


def weights(layer, path, own=False):
    """The weights of the layer at a path of names, in its order; with ``own`` without those of layers inside it."""
    for name in path.split("/") if path else ():
        name, _, number = name.partition("~")  # name~2 is the second of that name
        layer = [child for child in children(layer) if child.name == name][int(number or 1) - 1]
    inside = {id(weight) for child in children(layer) for weight in child.weights} if own else ()
    return [weight for weight in layer.weights if id(weight) not in inside]
'''

_KERAS_READ = '''
def read(model):
    """What ``carry`` reads: the weights of a layer, by its path."""
    return lambda path, own=False: [np.asarray(weight) for weight in weights(model, path, own)]
'''

_KERAS_WRITE = '''
def write(model, values):
    """Put what ``carry`` gives into a Keras model."""
    for (path, own), given in values.items():
        for weight, value in zip(weights(model, path, own), given, strict=True):
            if value is not None:
                weight.assign(np.asarray(value).astype(np.asarray(weight).dtype))
'''

_TORCH_READ = '''
def read(state):
    """What ``carry`` reads: a state dict as arrays."""
    return {name: value.detach().cpu().float().numpy() for name, value in state.items() if value.is_floating_point()}
'''

_TORCH_WRITE = '''
def write(module, values):
    """Put what ``carry`` gives into a PyTorch module."""
    state = module.state_dict()
    for name, value in values.items():
        state[name].copy_(torch.from_numpy(np.array(value)))
'''


def _keras(module: str) -> Glue:
    return Glue(
        by_layer=True, join="/", imports=(f"import {module}" + " as keras" * (module != "keras"),),
        shared=_KERAS_SHARED, read=_KERAS_READ, write=_KERAS_WRITE,
        load="keras.models.load_model(argv.pop(0), compile=False)",
        save=("model = keras.models.load_model(argv[0], compile=False)", "write(model, values)", "model.save(argv[1])"),
        usage="target.keras out.keras",
    )  # fmt: skip


_TORCH = Glue(
    by_layer=False, join=".", imports=("import torch",), read=_TORCH_READ, write=_TORCH_WRITE,
    load='torch.load(argv.pop(0), map_location="cpu", weights_only=True)',
    save=("state = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in values.items()}",
          "torch.save(state, argv[0])  # for load_state_dict(…, strict=False): counters are not in it"),
    usage="out.pt",
)  # fmt: skip


def glue(recording: Recording) -> Glue | None:
    """How a script reads and writes the models of a recording's kind; None where it does not know them."""
    if recording.framework == "pytorch":
        return _TORCH
    loader = str(recording.attributes.get("loader", "")).split()
    if recording.framework == "tensorflow" and loader and loader[0] in ("keras", "tf_keras"):
        return _keras(loader[0])
    return None
