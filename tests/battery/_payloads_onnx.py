"""ONNX files that read other files, want code of their own or fill the memory, where a loader lets them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.battery._attack import Case, Command, Place, loading
from tests.onnx_graphs import floats, model, node

GROUP = "onnx"


def small(*, initializers: Sequence[TensorProto] = (), weights: dict[str, Any] | None = None) -> Any:
    """A product with ``w``, of shape (3, 4), which is one of either."""
    return model([node("MatMul", "x w", "y")], [floats("x", None, 3)], "y", weights, initializers=initializers)


def good() -> bytes:
    """The same with its weights in it."""
    weights = {"w": np.arange(12, dtype="f4").reshape(3, 4), "b": np.ones(4, "f4")}
    nodes = [node("MatMul", "x w", "z"), node("Add", "z b", "a"), node("Relu", "a", "y")]
    return bytes(model(nodes, [floats("x", None, 3)], "y", weights).SerializeToString())


def _beside(location: str, dims: Sequence[int] = (3, 4), **entries: str) -> Any:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return small(initializers=[tensor])


def _protos() -> dict[str, Callable[[Place], Any]]:
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(3, 1 << 40), raw_data=b"1234")
    recursive = helper.make_function("my", "F", ["a"], ["b"], [node("F", "a", "b", domain="my")], [])
    doubling = [
        helper.make_function(
            "my", f"F{level}", ["a"], ["b"],
            [node(f"F{level + 1}", "a", "c", domain="my"), node(f"F{level + 1}", "c", "b", domain="my")],
            [helper.make_opsetid("my", 1)],
        )
        for level in range(60)
    ]  # fmt: skip
    indices = TensorProto(data_type=TensorProto.INT64, dims=(1,), int64_data=[0])
    sparse = helper.make_sparse_tensor(
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(1,), float_data=[1.0]), indices, (1 << 20, 1 << 20)
    )

    def with_sparse(_: Place) -> Any:
        made = small()
        made.graph.sparse_initializer.append(sparse)
        return made

    def deep(_: Place) -> Any:
        body = helper.make_graph([node("Identity", "x", "o")], "g", [], [])
        for _ in range(90):
            inner = helper.make_node("If", ["c"], ["o"], then_branch=body, else_branch=body)
            body = helper.make_graph([inner], "g", [], []) if body.ByteSize() < 1 << 24 else body
        return model([helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)], [floats("x", 3)], "y")

    x = [floats("x", None, 3)]
    return {
        "weights in the folder above": lambda _: _beside("../outside/secret", offset="0", length="48"),
        "weights at an absolute path": lambda at: _beside(str(at.secret), offset="0", length="48"),
        "weights through a link": lambda _: _beside("link", offset="0", length="48"),
        "weights through a linked folder": lambda _: _beside("folder/secret", offset="0", length="48"),
        "weights in a pipe": lambda _: _beside("pipe"),
        "weights in a device": lambda _: _beside("/dev/zero"),
        "weights with a NUL": lambda _: _beside("a\0b"),
        "weights in the file itself": lambda _: _beside("m.onnx"),
        "weights of terabytes beside": lambda _: _beside("sparse", (1 << 20, 1 << 18)),
        "a weight of terabytes": lambda _: small(initializers=[huge]),
        "a sparse weight of terabytes": with_sparse,
        "an operator of its own": lambda _: model(
            [node("Evil", "x", "y", domain="my.ops")], x, "y", domains=["my.ops"]
        ),
        "a Python operator": lambda _: model(
            [node("PythonOp", "x", "y", domain="com.microsoft")], x, "y", domains=["com.microsoft"]
        ),
        "functions that call themselves": lambda _: model(
            [node("F", "x", "y", domain="my")], x, "y", functions=[recursive], domains=["my"]
        ),
        "functions that double": lambda _: model(
            [node("F0", "x", "y", domain="my")], x, "y", functions=doubling, domains=["my"]
        ),
        "branches in branches": deep,
        "a constant of terabytes": lambda _: model(
            [node("ConstantOfShape", "s", "c"), node("Add", "x c", "y")], x, "y", {"s": np.array([1 << 20, 1 << 20])}
        ),
    }  # fmt: skip


def _made(proto: Callable[[Place], Any], at: Place) -> Sequence[Command]:
    (at.work / "link").symlink_to(at.secret)
    (at.work / "folder").symlink_to(at.outside)
    os.mkfifo(at.work / "pipe")
    with open(at.work / "sparse", "wb") as file:
        file.truncate(1 << 40)
    (at.work / "m.onnx").write_bytes(proto(at).SerializeToString())
    return loading("onnx", "m.onnx")


def cases() -> Iterator[Case]:
    """Every attack by an ONNX file."""
    for name, proto in _protos().items():
        yield Case(GROUP, name, partial(_made, proto), name != "a Python operator")  # which is listed, and not run
