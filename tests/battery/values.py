"""Values: every element type of the frameworks, odd memory and containers: recorded to the last bit, or said not to be.

A model holds many cases, one layer each. Group ``… bits``: what was recorded is what the case was made of; ``… told``:
what cannot be recorded has a reason, what is no tensor stands in a note; ``… compared``: against a second recording
each is the same, against one with a changed bit it is not. ``… live``: the first two of a model that is attached to.
"""

from __future__ import annotations

import dataclasses
import random
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import tracer
from tests.battery import Tally
from tests.cli import run as command
from tracer.adapter import Array
from tracer.compare.verdict import Verdict
from tracer.store import Recording

_X = np.arange(12, dtype=np.float32).reshape(4, 3)
_SIZE = 64
"""Bytes of a tensor of random bits: of any element type some numbers."""
_NATIVE = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]


@dataclasses.dataclass(frozen=True)
class Case:
    """``make`` gives the value from the layer's input; ``bits`` is what must be recorded, None where a reason may be
    given instead, ``tensor`` whether there is one at all; ``flipped`` gives the same with one bit changed.
    """

    make: Callable[[Any], Any]
    bits: bytes | None = None
    tensor: bool = True
    flipped: Callable[[Any], Any] | None = None


def run(seed: int, cases: int | None) -> Tally:
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(folder)
        for side in (_torch, _tensorflow):
            _sides(root, side.__name__[1:], side(random.Random(seed)), random.Random(seed), cases, tally)
        _onnx(root, tally)
        _exit_codes(root, tally)
    return tally


def _sides(
    root: Path, side: str, known: Mapping[str, Case], draw: random.Random, cases: int | None, tally: Tally
) -> None:
    kept = set(known) if cases is None or cases >= len(known) else set(draw.sample(sorted(known), cases))
    chosen = {name: case for name, case in known.items() if name in kept}
    build = _torch_model if side == "torch" else _keras_model

    def recorded(name: str, makes: Mapping[str, Callable[[Any], Any]]) -> Recording:
        return tracer.record(build(makes), _X, name=name, trace=root / side)

    plain = {name: case.make for name, case in chosen.items()}
    one, same = recorded("one", plain), recorded("same", plain)
    _checked(tally, side, one, chosen)
    changed = {name: case.flipped for name, case in chosen.items() if case.flipped is not None}
    _compared(tally, side, one, same, recorded("other", {**plain, **changed}), changed)
    model = build(plain)
    with tracer.attach(model, to=root / side, name="live") as attached:
        model(_X if side == "tensorflow" else _as_torch(_X))
    if attached.fault is not None:
        tally.breaks(f"{side} live", "attached", attached.fault)
        return
    _checked(tally, f"{side} live", tracer.open(root / side).recording("live").at(0), chosen)


def _checked(tally: Tally, side: str, recording: Recording, cases: Mapping[str, Case]) -> None:
    """Each case is the node of its name."""
    none = [name for name, case in cases.items() if not case.tensor]
    told = _told(recording)
    for number, name in enumerate(none):
        if number < told:
            tally.add(f"{side} told", "no tensor: in a note")
        else:
            tally.breaks(f"{side} told", name, "not mentioned")
    for name, case in cases.items():
        if not case.tensor:
            continue
        if name not in recording.structure.by_name:
            tally.breaks(f"{side} bits", name, "silently dropped")
        elif recording.stored(name) is not None:
            found = np.ascontiguousarray(recording.read(name)).tobytes()
            if case.bits is None or found == case.bits:
                tally.add(f"{side} bits", "recorded exactly")
            else:
                tally.breaks(f"{side} bits", name, "other bits were recorded")
        elif case.bits is not None:
            tally.breaks(f"{side} bits", name, f"not recorded: {recording.why_missing(name)}")
        elif not recording.skipped.get(recording.resolve(name)):
            tally.breaks(f"{side} told", name, "no reason is given")
        else:
            tally.add(f"{side} told", "not recorded, with a reason")


def _told(recording: Recording) -> int:
    """Of how many layers a note says that they returned no tensor; it names three of them."""
    for note in recording.attributes["notes"]:
        if found := re.fullmatch(r"returned no tensor: (.*?)(?: and (\d+) more)?", note):
            return found[1].count(" (") + int(found[2] or 0)
    return 0


def _compared(
    tally: Tally, side: str, one: Recording, same: Recording, other: Recording, changed: Collection[str]
) -> None:
    for pair in tracer.diff(one, same, causes=False).pairs:
        if not pair.saved and pair.verdict is Verdict.NOT_COMPARABLE:
            tally.add(f"{side} compared", "not recorded: not comparable")
        elif pair.verdict is Verdict.MATCH:
            tally.add(f"{side} compared", "the same as itself")
        else:
            tally.breaks(f"{side} compared", pair.aligned, f"{pair.verdict.value} against itself")
    told = {
        pair.aligned
        for pair in tracer.diff(one, other, causes=False).pairs
        if pair.verdict is not Verdict.MATCH or (pair.stats is not None and pair.stats.max_abs != 0)
    }
    for name in changed:
        if name in told:
            tally.add(f"{side} compared", "a changed bit is told")
        else:
            tally.breaks(f"{side} compared", name, "a changed bit is not told")


def _drawn(draw: random.Random, dtype: np.dtype[Any]) -> Array:
    """Random bits as numbers, with those among them that conversions lose: NaN with a payload, infinities, -0.0,
    denormal numbers, the largest."""
    raw = np.frombuffer(draw.randbytes(_SIZE), np.uint8).copy()
    if dtype.kind == "b":
        return (raw & 1).view(bool)
    values = raw.view(dtype)
    if dtype.kind == "f":
        whole, largest = values.view(f"u{dtype.itemsize}"), ml_dtypes.finfo(dtype).max
        special = [np.asarray(odd, dtype).view(whole.dtype) for odd in (np.inf, -np.inf, -0.0, largest)]
        odd = [*special, special[0] | whole.dtype.type(5), whole.dtype.type(1)]
        whole[: len(odd)] = odd[: len(whole)]
    return values


def _flipped(values: Array) -> Array:
    """The same with the lowest bit of one ordinary number changed."""
    raw = values.copy()
    wide = raw.astype(np.complex128 if raw.dtype.kind == "c" else np.float64)
    [place, *_] = np.flatnonzero(np.isfinite(wide) & (wide != 0))
    raw.view(np.uint8).reshape(-1)[int(place) * raw.itemsize] ^= 1
    return raw


def _as_torch(values: Array) -> Any:
    import torch

    return torch.from_numpy(values)


# -- torch -----------------------------------------------------------------------------------------------------------


def _torch_model(makes: Mapping[str, Callable[[Any], Any]]) -> Any:
    import torch
    from torch import nn

    class Gives(nn.Module):
        def __init__(self, make: Callable[[Any], Any]) -> None:
            super().__init__()
            self.make = make

        def forward(self, x: torch.Tensor) -> Any:
            return self.make(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, make in makes.items():
                self.add_module(name, Gives(make))

        def forward(self, x: torch.Tensor) -> Any:
            return [x * 2, *(module(x) for module in self.children())]

    return Net()


def _torch(draw: random.Random) -> dict[str, Case]:
    import torch
    from torch import nn

    def of_bits(values: Array, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
        raw = values.view(np.uint8)
        return lambda x: torch.from_numpy(raw.copy()).view(dtype)

    found = {}
    for dtype in sorted({d for d in vars(torch).values() if isinstance(d, torch.dtype)}, key=str):
        name = str(dtype).removeprefix("torch.")
        if name in _NATIVE or (hasattr(ml_dtypes, name) and name.startswith(("bfloat16", "float8"))):
            values = _drawn(draw, np.dtype(name if name in _NATIVE else getattr(ml_dtypes, name)))
            make, flipped = of_bits(values, dtype), of_bits(_flipped(values), dtype)
            found[f"{name}_bits"] = Case(make, values.tobytes(), flipped=flipped)
        else:
            found[f"{name}_bits"] = Case(of_bits(np.frombuffer(draw.randbytes(_SIZE), np.uint8), dtype))

    class Kin(torch.Tensor):
        pass

    class Wrapped(torch.Tensor):
        @staticmethod
        def __new__(cls, inside: torch.Tensor) -> Wrapped:
            make: Any = torch.Tensor._make_wrapper_subclass
            return make(cls, inside.shape, dtype=inside.dtype)  # type: ignore[no-any-return]

        @classmethod
        def __torch_dispatch__(cls, *_: Any) -> Any:
            raise NotImplementedError("no")

    @dataclasses.dataclass
    class Held:
        value: torch.Tensor
        number: float = 1.0

    ones: Callable[..., torch.Tensor] = torch.ones
    strided: dict[str, Callable[[torch.Tensor], Any]] = {
        "conj": lambda x: torch.complex(x, x + 1).conj(),
        "neg": lambda x: torch.complex(x, x + 1).conj().imag,
        "transposed": lambda x: x.t(),
        "channels_last": lambda x: (ones(2, 3, 4, 5) * x[0, 1]).contiguous(memory_format=torch.channels_last),
        "expanded": lambda x: x[:1].expand(5, 3),
        "every_other": lambda x: x.reshape(-1)[::2],
        "overlapping": lambda x: x.reshape(-1).unfold(0, 4, 1),
        "no_dimension": lambda x: x.sum(),
        "empty": lambda x: x[:0],
        "empty_and_wide": lambda x: torch.empty(0, 1 << 40),
        "dimensions_33": lambda x: x.reshape([1] * 31 + [4, 3]),
        "dimensions_64": lambda x: x.reshape([1] * 62 + [4, 3]),
        "subclass": lambda x: (x + 1).as_subclass(Kin),
        "quantized": lambda x: torch.quantize_per_tensor(x, 0.5, 3, torch.quint8),
        "quantized_axis": lambda x: torch.quantize_per_channel(x, x[0] + 0.1, torch.zeros(3), 1, torch.qint8),
        "in_dict": lambda x: {"a": x * 3, "b": None, "c": 3.0},
        "in_dataclass": lambda x: Held(x * 4),
        "in_tuple": lambda x: ((x * 5, [x * 6]), "text"),
    }
    x = torch.from_numpy(_X)
    for name, make in strided.items():
        value = make(x)
        value = value if isinstance(value, torch.Tensor) else _first(value)
        value = value.dequantize() if value.is_quantized else value.resolve_conj().resolve_neg()
        found[name] = Case(make, value.as_subclass(torch.Tensor).contiguous().numpy().tobytes())
    told: dict[str, Callable[[torch.Tensor], Any]] = {
        "coo": lambda x: x.to_sparse(),
        "csr": lambda x: x.to_sparse_csr(),
        "bsr": lambda x: ones(4, 4).to_sparse_bsr((2, 2)),
        "nested": lambda x: torch.nested.nested_tensor([x[:1], x]),
        "jagged": lambda x: torch.nested.nested_tensor([x[:1], x], layout=torch.jagged),
        "meta": lambda x: x.to("meta"),
        "mkldnn": lambda x: x.to_mkldnn(),
        "masked": lambda x: torch.masked.masked_tensor(x, x > 0),
        "wrapped": Wrapped,
        "terabytes": lambda x: ones(1).expand(1 << 40),
        "terabytes_square": lambda x: ones(1, 1).expand(1 << 20, 1 << 20),
        "dimensions_65": lambda x: x.reshape([1] * 63 + [4, 3]),
        "packed": lambda x: nn.utils.rnn.pack_padded_sequence(x[None], [4], batch_first=True),
    }
    found |= {name: Case(make) for name, make in told.items()}
    none: dict[str, Callable[[torch.Tensor], Any]] = {
        "a_float": lambda x: 3.5,
        "a_text": lambda x: "text",
        "an_array": lambda x: x.detach().numpy() * 2,
        "a_scalar": lambda x: np.float32(3),
        "a_set": lambda x: {x * 2},
        "a_generator": lambda x: (y for y in [x * 2]),
    }
    return found | {name: Case(make, tensor=False) for name, make in none.items()}


def _first(value: Any) -> Any:
    """The first tensor in nested containers."""
    if dataclasses.is_dataclass(value):
        return next(iter(vars(value).values()))
    while isinstance(value, dict | tuple | list):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value


# -- TensorFlow ------------------------------------------------------------------------------------------------------


def _keras_model(makes: Mapping[str, Callable[[Any], Any]]) -> Any:
    import keras

    class Gives(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, name: str, make: Callable[[Any], Any]) -> None:
            super().__init__(name=name)
            self.make = make

        def call(self, x: Any) -> Any:
            return self.make(x)

    class Net(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.gives = [Gives(name, make) for name, make in makes.items()]

        def call(self, x: Any) -> Any:
            return [x * 2, *(layer(x) for layer in self.gives)]

    return Net()


def _tensorflow(draw: random.Random) -> dict[str, Case]:
    import tensorflow as tf

    def constant(values: Array) -> Callable[[Any], Any]:
        return lambda x: tf.constant(values)

    found = {}
    for name in (*_NATIVE, "bfloat16", "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz"):
        values = _drawn(draw, np.dtype(name if name in _NATIVE else getattr(ml_dtypes, name)))
        found[name] = Case(constant(values), values.tobytes(), flipped=constant(_flipped(values)))
    for name in ("int4", "uint4"):
        found[name] = Case(constant(_X[:2].astype(getattr(ml_dtypes, name))))
    for name, bits in {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}.items():
        values = _drawn(draw, np.dtype(bits))
        found[name] = Case(lambda x, v=values, n=name: tf.bitcast(tf.constant(v), n), values.tobytes())  # type: ignore[misc]

    @dataclasses.dataclass
    class Held:
        value: Any
        number: float = 1.0

    plain: dict[str, Callable[[Any], Any]] = {
        "no_dimension": lambda x: tf.reduce_sum(x),
        "empty": lambda x: x[:0],
        "empty_and_wide": lambda x: tf.zeros((0, 1 << 40)),
        "dimensions_33": lambda x: tf.reshape(x, [1] * 31 + [4, 3]),
        "in_dict": lambda x: {"a": x * 3, "b": None, "c": 3.0},
        "in_dataclass": lambda x: Held(x * 4),
    }
    for name, make in plain.items():
        found[name] = Case(make, np.asarray(_first(make(tf.constant(_X)))).tobytes())
    told: dict[str, Callable[[Any], Any]] = {
        "string": lambda x: tf.strings.as_string(x),
        "ragged": lambda x: tf.RaggedTensor.from_tensor(x, lengths=[1, 2, 3, 1]),
        "sparse": lambda x: tf.sparse.from_dense(x),
        "slices": lambda x: tf.IndexedSlices(x + 1, tf.range(4)),
        "variant": lambda x: tf.raw_ops.TensorListReserve(element_shape=[3], num_elements=2, element_dtype=tf.float32),
        "dimensions_100": lambda x: tf.reshape(x, [1] * 98 + [4, 3]),
    }
    found |= {name: Case(make) for name, make in told.items()}
    none: dict[str, Callable[[Any], Any]] = {
        "a_float": lambda x: 3.5,
        "a_text": lambda x: "text",
        "an_array": lambda x: np.ones(3, np.float32),
        "tensor_array": lambda x: tf.TensorArray(tf.float32, 4).unstack(x),
        "optional": lambda x: tf.experimental.Optional.from_value(x),
    }
    return found | {name: Case(make, tensor=False) for name, make in none.items()}


# -- ONNX, and the command -------------------------------------------------------------------------------------------


def _onnx(root: Path, tally: Tally) -> None:
    """Each element type that numbers can be cast to, a text, a sequence and an optional."""
    from onnx import TensorProto

    from tests.onnx_graphs import floats, model, node

    x = _X[:2] % 8
    kinds = (
        "FLOAT FLOAT16 DOUBLE BFLOAT16 FLOAT8E4M3FN FLOAT8E5M2 BOOL INT8 UINT8 INT16 UINT16 INT32 UINT32 INT64 UINT64"
    )
    names = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT8E4M3FN": "float8_e4m3fn", "FLOAT8E5M2": "float8_e5m2",
             "INT4": "int8", "UINT4": "uint8"}  # fmt: skip
    cases, nodes = {}, []
    for kind in (*kinds.split(), "INT4", "UINT4"):
        name = names.get(kind, kind.lower())
        values = x.astype(name if name in _NATIVE else getattr(ml_dtypes, name))
        cases[kind] = Case(lambda x: x, values.tobytes())
        nodes.append(node("Cast", "x", kind, to=getattr(TensorProto, kind)))
    nodes += [node("Cast", "x", "STRING", to=TensorProto.STRING), node("SequenceConstruct", "x x", "SEQUENCE"),
              node("Optional", "x", "OPTIONAL")]  # fmt: skip
    told = ("STRING", "SEQUENCE", "OPTIONAL")
    outputs = " ".join((*cases, *told))
    recording = tracer.record(model(nodes, [floats("x", 2, 3)], outputs), {"x": x}, trace=root / "onnx")
    _checked(tally, "onnx", recording, {**cases, **{name: Case(lambda x: x) for name in told}})


_NETS = """
import torch
class Whole(torch.nn.Module):
    def forward(self, x):
        return x * 2
class Partial(torch.nn.Module):
    def forward(self, x):
        return x * 2, [(x + i).to_sparse() for i in range(7)]
"""


def _exit_codes(root: Path, tally: Tally) -> None:
    (root / "nets.py").write_text(_NETS)
    np.save(root / "x.npy", _X)
    for name, code, said in (("Whole", 0, ""), ("Partial", 3, "2 more were")):
        done = command(
            "record", "pt", "--arch", f"nets.py:{name}", "--input", "x.npy", "--name", name, cwd=root, code=None
        )
        if done.returncode == code and said in done.stderr and "Traceback" not in done.stderr:
            tally.add("exit code", f"{code}: {'some tensors are' if code else 'nothing is'} missing")
        else:
            tally.breaks("exit code", name, f"{done.returncode} in place of {code}: {done.stderr[-300:]}")
