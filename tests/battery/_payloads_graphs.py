"""Graphs of TensorFlow, as a frozen .pb and as SavedModels, whose operations touch files, run Python or never end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tests.battery._attack import Case, Command, Place, loading

GROUP = "graphs"
_Tensor = Any


def _read(at: Place, x: _Tensor) -> _Tensor:
    held = tf.cast(tf.io.decode_raw(tf.io.read_file(str(at.secret)), tf.uint8), tf.float32)
    return x + (held + 0 * tf.reduce_sum(x))[:3]  # what hangs on the input is recorded


def _written(at: Place, x: _Tensor) -> _Tensor:
    with tf.control_dependencies([tf.io.write_file(str(at.marker), "x")]):
        return tf.identity(x)


def _python(at: Place, x: _Tensor) -> _Tensor:
    def evil(value: Any) -> Any:
        at.marker.touch()
        return value

    result = tf.py_function(evil, [x], tf.float32)
    result.set_shape(x.shape)
    return result


def _numpy(at: Place, x: _Tensor) -> _Tensor:
    result = tf.numpy_function(lambda value: (at.marker.touch(), value)[1], [x], tf.float32)
    result.set_shape(x.shape)
    return result


def _printed(at: Place, x: _Tensor) -> _Tensor:
    with tf.control_dependencies([tf.print(x, output_stream=f"file://{at.marker}")]):
        return tf.identity(x)


def _summary(at: Place, x: _Tensor) -> _Tensor:
    writer = tf.raw_ops.SummaryWriter(shared_name="w", container="")
    made = tf.raw_ops.CreateSummaryFileWriter(
        writer=writer, logdir=str(at.outside), max_queue=1, flush_millis=1, filename_suffix="x"
    )
    with tf.control_dependencies([made]):
        return tf.identity(x)


def _matching(at: Place, x: _Tensor) -> _Tensor:
    return x + tf.cast(tf.size(tf.io.matching_files(str(at.outside / "*"))), tf.float32)


def _constant(at: Place, x: _Tensor) -> _Tensor:
    values = tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[3], memory_region_name=str(at.secret))
    return x + tf.cast(values, tf.float32)


def _dataset(at: Place, x: _Tensor) -> _Tensor:
    lines = tf.data.TextLineDataset(str(at.secret))
    return x + tf.cast(lines.reduce(tf.constant(0, tf.int64), lambda total, _: total + 1), tf.float32)


def _saves(at: Place, x: _Tensor) -> _Tensor:
    saved = tf.raw_ops.SaveV2(prefix=str(at.marker), tensor_names=["x"], shape_and_slices=[""], tensors=[x])
    with tf.control_dependencies([saved]):
        return tf.identity(x)


def _restores(at: Place, x: _Tensor) -> _Tensor:
    (found,) = tf.raw_ops.RestoreV2(
        prefix=str(at.outside / "none"), tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
    )
    return x + tf.reshape(found, [-1])[:3]


def _table(at: Place, x: _Tensor) -> _Tensor:
    table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="t")
    filled = tf.raw_ops.InitializeTableFromTextFileV2(
        table_handle=table, filename=str(at.secret), key_index=-2, value_index=-1
    )
    with tf.control_dependencies([filled]):
        return tf.identity(x)


def _filled(at: Place, x: _Tensor) -> _Tensor:
    return x + tf.reduce_sum(tf.fill([1 << 20, 1 << 20], x[0, 0]))


def _server(at: Place, x: _Tensor) -> _Tensor:
    made = tf.raw_ops.DataServiceDatasetV2(
        dataset_id=0, processing_mode="p", address=f"127.0.0.1:{at.port}", protocol="grpc", job_name="",
        consumer_index=0, num_consumers=1, max_outstanding_requests=1,
        iteration_counter=tf.raw_ops.DummyIterationCounter(), output_types=[tf.float32], output_shapes=[[1]],
    )  # fmt: skip
    with tf.control_dependencies([made]):
        return tf.identity(x)


def _debug(at: Place, x: _Tensor) -> _Tensor:
    return tf.raw_ops.DebugIdentityV2(input=x, debug_urls=[f"file://{at.outside}"])


_EVIL: dict[str, Callable[[Place, _Tensor], _Tensor]] = {
    "ReadFile": _read, "WriteFile": _written, "EagerPyFunc": _python, "PyFunc": _numpy, "PrintV2": _printed,
    "summary": _summary, "MatchingFiles": _matching, "ImmutableConst": _constant, "TextLineDataset": _dataset,
    "SaveV2": _saves, "RestoreV2": _restores, "a table from a file": _table, "DataService": _server, "Debug": _debug,
    "Fill of terabytes": _filled,
}  # fmt: skip
_ALLOWED = {"PrintV2", "SaveV2", "Fill of terabytes"}
"""What belongs to reporting and saving may be in a file, for it is not run; great tensors may be looked at."""


class _Evil(tf.Module):  # type: ignore[misc]
    def __init__(self, function: Callable[[_Tensor], _Tensor]) -> None:
        super().__init__()
        self.w = tf.Variable(tf.ones((3, 3)), name="w")
        self.function = function

    @tf.function(input_signature=[tf.TensorSpec((2, 3), tf.float32, name="x")])
    def __call__(self, x: _Tensor) -> _Tensor:
        return self.function(x) @ self.w


def _cases(name: str, function: Callable[[Place, _Tensor], _Tensor]) -> Iterator[Case]:
    def frozen(at: Place) -> Sequence[Command]:
        module = _Evil(partial(function, at))
        concrete = convert_variables_to_constants_v2(module.__call__.get_concrete_function())
        (at.work / "m.pb").write_bytes(concrete.graph.as_graph_def().SerializeToString())
        return loading("tf", "m.pb")

    def saved_model(at: Place) -> Sequence[Command]:
        module = _Evil(partial(function, at))
        tf.saved_model.save(module, str(at.work / "m"), signatures=module.__call__)
        return loading("tf", "m")

    yield Case(GROUP, f"{name} in a .pb", frozen, name not in _ALLOWED)
    yield Case(GROUP, f"{name} in a SavedModel", saved_model, name not in _ALLOWED)


def _on_loading(at: Place) -> Sequence[Command]:
    """An initializer that TensorFlow runs as it loads a SavedModel."""
    from tensorflow.core.protobuf import saved_model_pb2

    module = _Evil(lambda x: x)
    tf.saved_model.save(module, str(at.work / "m"), signatures=module.__call__)
    path = at.work / "m" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    graph = tf.Graph()
    with graph.as_default():
        tf.raw_ops.WriteFile(filename=str(at.marker), contents="x", name="evil")
    (meta,) = model.meta_graphs
    meta.graph_def.node.extend(graph.as_graph_def().node)
    meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "evil"
    path.write_bytes(model.SerializeToString())
    return loading("tf", "m")


def cases() -> Iterator[Case]:
    """Every attack by a graph."""
    for name, function in _EVIL.items():
        yield from _cases(name, function)
    yield Case(GROUP, "WriteFile as initializer", _on_loading)
