"""The shared words for operations: how alike they are, what several compute, and that adapters use the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from tracer import kinds
from tracer.adapter import Adapter, MemorySink
from tracer.graph import Node, Structure


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ("dense", "dense", 1.0),
        ("upsample", "resize", 0.9),
        ("dense", "matmul", 0.8),
        ("embedding", "gather", 0.8),
        ("add", "mul", 0.6),
        ("attention", "matmul", 0.6),
        ("gelu", "mul", 0.4),
        ("conv2d", "relu", 0.0),
        ("other:LayerScale", "other:layer_scale", 1.0),
        ("other:TFLayerScale", "other:LayerScale", 1.0),
        ("other:One", "other:Another", 0.3),
        ("other:Mine", "relu", 0.3),
        ("other:Mine", "input", 0.0),
        ("other:RMSNorm", "rmsnorm", 0.8),
        ("other:Input", "input", 0.0),
        # Words of traces that an earlier version recorded.
        ("other:gather", "gather", 1.0),
        ("other:eq", "equal", 1.0),
        ("other:repeat_vector", "tile", 1.0),
    ],
)
def test_how_alike_two_words_are(a: str, b: str, wanted: float) -> None:
    assert kinds.similarity(a, b) == kinds.similarity(b, a) == pytest.approx(wanted)


def test_every_pair_of_words_is_alike_in_both_directions_and_itself_only_fully() -> None:
    known = sorted(kinds.KNOWN)
    table = np.array([[kinds.similarity(a, b) for b in known] for a in known])
    assert (table == table.T).all()
    assert ((table == 1) == np.eye(len(known), dtype=bool)).all()
    assert not table[known.index("input"), [i for i, word in enumerate(known) if word != "input"]].any()


@pytest.mark.parametrize(
    ("parts", "weighted", "wanted"),
    [
        ("reshape matmul add reshape", True, "dense"),
        ("matmul add", False, None),
        ("matmul", True, "dense"),
        ("mul", True, "mul"),
        ("square mean add rsqrt mul mul", True, "rmsnorm"),
        ("cast square mean rsqrt mul cast mul", True, "rmsnorm"),
        ("mean sub square mean add sqrt div mul add", True, "layernorm"),
        ("mean sub var add rsqrt mul mul add", True, "layernorm"),
        ("sub add sqrt div mul add", True, "batchnorm"),
        ("mul neg mul erfc mul", False, "gelu"),
        ("mul power mul add mul tanh add mul", False, "gelu"),
        ("sigmoid mul", False, "silu"),
        ("mul sigmoid mul", False, "gelu"),
        ("softplus tanh mul", False, "mish"),
        ("add relu6 mul div", False, "hard_silu"),
        ("add relu6 div", False, "hard_sigmoid"),
        ("square sum sqrt div", False, "l2_normalize"),
        ("matmul div add softmax dropout matmul", False, "attention"),
        ("amax sub exponential sum div", False, "softmax"),
        ("pad conv1d", False, None),
        ("relu add", False, None),
        ("tanh mul", False, None),
        ("slice mul", False, None),
        ("permute reshape", False, None),
        ("", True, None),
    ],
)
def test_what_operations_compute_together(parts: str, weighted: bool, wanted: str | None) -> None:
    assert kinds.composed(parts.split(), weighted=weighted) == wanted


def test_roles_of_parameters_are_the_same() -> None:
    twins = {
        "dense": [("kernel", "weight")],
        "embedding": [("embeddings", "weight")],
        "depthwise_conv2d": [("depthwise_kernel", "weight"), ("kernel", "weight")],
        "layernorm": [("gamma", "weight"), ("beta", "bias")],
        "rmsnorm": [("scale", "weight")],
        "batchnorm": [("moving_mean", "running_mean"), ("moving_variance", "running_var")],
        "lstm": [("kernel", "weight_ih_l0"), ("recurrent_kernel", "weight_hh_l0")],
        "gru_cell": [("recurrent_kernel", "weight_hh")],
        "prelu": [("alpha", "weight")],
    }
    for kind, names in twins.items():
        for keras, torch in names:
            assert kinds.parameter_role(kind, keras) == kinds.parameter_role(kind, torch)


def test_the_adapters_tables_keep_to_the_vocabulary() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    from tracer_keras import vocabulary as keras
    from tracer_onnx import vocabulary as onnx
    from tracer_torch import functions, layers

    tables = (keras.LAYER_KINDS, keras.OP_KINDS, keras.ACTIVATION_KINDS, onnx._KINDS, functions._KINDS, layers._KINDS)
    for table in tables:
        assert [word for word in table.values() if not kinds.is_legal(word)] == []


# -- words of an adapter's own ----------------------------------------------------------------------------------------


def test_an_adapter_adds_words_that_are_kept_with_its_recordings() -> None:
    class Spectral(Adapter):
        kinds: ClassVar[Mapping[str, Iterable[str]]] = {"spectral_conv": {"conv1d", "conv2d"}, "gossip": ()}

    assert kinds.is_legal("spectral_conv")
    assert kinds.similarity("spectral_conv", "spectral_conv") == 1
    assert kinds.similarity("spectral_conv", "conv2d") == 0.8
    assert 0 < kinds.similarity("spectral_conv", "dense") < 0.6
    assert kinds.similarity("spectral_conv", "relu") == kinds.similarity("gossip", "relu") == 0
    stored = Structure((Node("a", "spectral_conv", "Spectral"), Node("b", "relu", "ReLU", parents=("a",)))).to_json()
    assert stored["kinds"] == {"spectral_conv": ["conv1d", "conv2d"]}
    # Another process, which never saw the adapter.
    code = (
        "import json, sys\nfrom tracer import kinds\nfrom tracer.graph import Structure\n"
        "assert kinds.similarity('spectral_conv', 'conv2d') == 0\n"
        "again = Structure.from_json(json.loads(sys.argv[1])).to_json()\n"
        "print(json.dumps([kinds.similarity('spectral_conv', 'conv2d'), again['kinds']]))"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(stored)], capture_output=True, text=True)
    assert json.loads(done.stdout or "null") == [0.8, stored["kinds"]], done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"conv2d": ()}, "a word of tracer.kinds already"),
        ({"Conv9": ()}, "a word of a-z"),
        ({"other:x": ()}, "a word of a-z"),
        ({"fresh": {"no_such"}}, "'fresh' resembles 'no_such'"),
        ({"fresh": "conv2d"}, "a set of words"),
    ],
)
def test_words_that_cannot_be_added_are_refused(words: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        type("Wrong", (Adapter,), {"kinds": words})
    assert not kinds.is_legal("fresh")


@pytest.mark.parametrize("raw", [["x"], {"x": 3}, {"x": [3]}, {"X!": []}])
def test_a_damaged_vocabulary_of_a_trace_is_an_error_of_the_file(raw: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Structure.from_json({"nodes": [], "kinds": raw})


# -- the same operation, the same word --------------------------------------------------------------------------------


def classes(models: Mapping[str, Any], inputs: Mapping[str, np.ndarray]) -> list[dict[str, list[Node]]]:
    """Nodes of each model by the tensor they hold: those of one entry hold the same values in some order."""
    from tracer.adapter import for_object

    found: list[tuple[np.ndarray, dict[str, list[Node]]]] = []
    for side, model in models.items():
        loaded = for_object(model)[1].wrap(model)
        given = {spec.name: inputs[spec.name] for spec in loaded.signature()}
        structure, sink = loaded.structure(given), MemorySink()
        assert not structure.fault
        loaded.capture(given, sink)
        for node in structure:
            value = sink.values.get(node.alias_of or node.name)
            assert isinstance(value, np.ndarray), (node.name, value)
            if node.role == "container":
                continue
            flat = np.sort(value.astype(np.float64), axis=None)
            same = (
                entry for other, entry in found if other.shape == flat.shape and np.allclose(other, flat, atol=1e-5)
            )
            entry = next(same, None)
            if entry is None:
                entry = {}
                found.append((flat, entry))
            entry.setdefault(side, []).append(node)
    return [entry for _, entry in found]


def keras_twin() -> Any:
    keras = pytest.importorskip("keras")
    tf = pytest.importorskip("tensorflow")

    class Norm(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(shape=(shape[-1],), initializer="random_normal", name="scale")

        def call(self, x: Any) -> Any:
            return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-6) * self.scale

    class Project(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(shape[-1], 6), initializer="random_normal", name="kernel")
            self.bias = self.add_weight(shape=(6,), initializer="random_normal", name="bias")

        def call(self, x: Any) -> Any:
            return tf.matmul(x, self.kernel) + self.bias

    class DropPath(keras.layers.Layer):  # type: ignore[misc, name-defined]
        def call(self, x: Any, training: bool = False) -> Any:
            return tf.nn.dropout(x, 0.5) if training else x

    class Text(keras.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words = self.add_weight(shape=(9, 8), initializer="random_normal", name="words")
            self.places = self.add_weight(shape=(5, 8), initializer="random_normal", name="places")
            self.norm, self.project, self.drop = Norm(name="norm"), Project(name="project"), DropPath(name="drop")

        def call(self, ids: Any) -> Any:
            x = tf.gather(self.words, tf.cast(ids, "int32")) + tf.gather(self.places, tf.range(5))
            x = self.norm(x)
            heads = tf.transpose(tf.reshape(tf.nn.gelu(x), (-1, 5, 2, 4)), (0, 2, 1, 3))
            mixed = tf.matmul(tf.nn.softmax(tf.matmul(heads, heads, transpose_b=True)), heads)
            x = x + tf.nn.silu(tf.reshape(tf.transpose(mixed, (0, 2, 1, 3)), (-1, 5, 8)))
            kept = tf.where(x > 0.0, x, tf.math.erf(x) - 1.0)
            ends = tf.reduce_sum(tf.abs(self.drop(kept)) ** 0.5, axis=1)
            logits = tf.matmul(kept, [self.words.value], transpose_b=True)
            return self.project(kept), logits, tf.clip_by_value(ends, 0.5, 1.5), tf.nn.l2_normalize(kept, -1)

    model = Text()
    model(np.zeros((2, 5), "int32"))
    model.words.assign(np.random.default_rng(1).normal(size=(9, 8)))
    model.places.assign(np.random.default_rng(2).normal(size=(5, 8)))
    return model


def torch_twin(weights: Mapping[str, np.ndarray]) -> Any:
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional

    def parameter(name: str) -> Any:
        return nn.Parameter(torch.from_numpy(np.array(weights[name])))

    class Norm(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weight = parameter("scale")

        def forward(self, x: Any) -> Any:
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight

    class DropPath(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return functional.dropout(x, 0.5) if self.training else x

    class Text(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(9, 8), nn.Embedding(5, 8)
            self.words.weight, self.places.weight = parameter("words"), parameter("places")
            self.norm, self.drop, self.project = Norm(), DropPath(), nn.Linear(8, 6)
            self.project.weight, self.project.bias = nn.Parameter(parameter("kernel").T), parameter("bias")

        def forward(self, ids: Any) -> Any:
            x = self.words(ids) + self.places(torch.arange(5))
            x = self.norm(x)
            heads = functional.gelu(x).view(-1, 5, 2, 4).transpose(1, 2)
            mixed = torch.softmax(heads @ heads.mT, -1) @ heads
            x = x + functional.silu(mixed.transpose(1, 2).reshape(-1, 5, 8))
            kept = torch.where(x > 0, x, torch.erf(x) - 1.0)
            ends = (self.drop(kept).abs() ** 0.5).sum(dim=1)
            logits = functional.linear(kept, self.words.weight)
            return self.project(kept), logits, ends.clamp(0.5, 1.5), functional.normalize(kept, dim=-1)

    return Text().eval()


def test_the_same_tensor_has_the_same_word_in_both_frameworks() -> None:
    keras = keras_twin()
    weights = {weight.name: np.asarray(weight) for weight in keras.weights}
    ids = np.random.default_rng(0).integers(0, 9, (3, 5))
    entries = classes({"keras": keras, "torch": torch_twin(weights)}, {"ids": ids})
    shared = [entry for entry in entries if len(entry) == 2]
    seen: set[str] = set()
    for entry in shared:
        words = [{node.kind for node in nodes if node.kind not in kinds.LAYOUT_ONLY} for nodes in entry.values()]
        seen |= words[0]
        if words != [{"rmsnorm"}, {"mul"}]:  # one layer there, its last operation here
            assert words[0] == words[1], {side: [node.name for node in nodes] for side, nodes in entry.items()}
    assert seen == {
        "abs", "add", "clip", "dense", "embedding", "erf", "gelu", "l2_normalize", "matmul", "rmsnorm", "silu",
        "softmax", "sqrt", "sub", "sum", "where",
    }  # fmt: skip
    left = [node.kind for entry in entries if len(entry) == 1 for nodes in entry.values() for node in nodes]
    assert sorted(left) == ["add", "mean", "mul", "rsqrt", "square"]  # what the norm is made of
    everything = [node for entry in entries for nodes in entry.values() for node in nodes]
    assert not [node.name for node in everything if kinds.is_unknown(node.kind)]
    assert {p.name for node in everything if node.kind == "embedding" for p in node.params} == {
        "words", "places", "weight"
    }  # fmt: skip


def test_a_module_of_operations_is_what_they_compute() -> None:
    torch = pytest.importorskip("torch")
    from tracer_torch.adapter import TorchAdapter

    class Tanhed(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            return 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * x**3)))

    class Outer(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.act = Tanhed()

        def forward(self, x: Any) -> Any:
            empty = x.new_empty((0, 4))
            return torch.cat([empty, self.act(x)]).tanh()

    structure = TorchAdapter().wrap(Outer().eval()).structure({"x": np.ones((3, 4), "f4")})
    found = {node.name: (node.kind, node.role) for node in structure}
    assert found["act"] == ("gelu", "container")
    assert found["cat"] == ("identity", "op")
