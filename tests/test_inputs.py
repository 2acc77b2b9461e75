"""Where the input comes from, and how its axes find their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracer
from tracer.adapter import InputSpec
from tracer.errors import InputError
from tracer.inputs import generate, identity_of, parse_shapes, read_file


@given(
    st.lists(
        st.lists(st.integers(1, 9), min_size=1, max_size=3).map(lambda dims: (None, *dims)), min_size=1, max_size=3
    ),
    st.integers(0, 5),
)
def test_a_generated_batch_is_unlike_every_other_dimension(shapes: list[tuple[int | None, ...]], seed: int) -> None:
    specs = [InputSpec(f"x{i}", shape) for i, shape in enumerate(shapes)]
    inputs = generate(specs, {}, seed)
    batches = {values.shape[0] for values in inputs.values()}
    (batch,) = batches
    assert batch >= 2
    assert all(batch not in values.shape[1:] for values in inputs.values())
    again = generate(specs, {}, seed)
    assert identity_of(inputs) == identity_of(again)
    assert identity_of(inputs) != identity_of(generate(specs, {}, seed + 1))


def test_integers_fit_the_embedding() -> None:
    (values,) = generate([InputSpec("ids", (None, 500), "int32", maximum=7)], {}, 0).values()
    assert values.dtype == np.int32
    assert set(np.unique(values)) == set(range(8))


def test_an_open_length_is_asked_for() -> None:
    with pytest.raises(InputError, match="--input-shape 2,LENGTH,4"):
        generate([InputSpec("dna", (None, None, 4))], {}, 0)
    with pytest.raises(InputError, match="--input-shape b=2,LENGTH"):
        generate([InputSpec("a", (None, 3)), InputSpec("b", (None, None))], {}, 0)
    with pytest.raises(InputError, match="does not say what shape"):
        generate([InputSpec("x", None)], {}, 0)
    (values,) = generate([InputSpec("dna", (None, None, 4))], parse_shapes(["3,20,4"]), 0).values()
    assert values.shape == (3, 20, 4)


@pytest.mark.parametrize("text", ["", "a", "2,-1", "2,,x", "x=", "0,3"])
def test_bad_shapes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="whole numbers"):
        parse_shapes([text])


def test_shapes_go_by_name_or_place() -> None:
    assert parse_shapes(["2,3", "b=4x5"]) == {"0": (2, 3), "b": (4, 5)}


def test_files(tmp_path: Path) -> None:
    x = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    assert read_file(tmp_path / "x.npy")[""].dtype == np.float32
    np.savez(tmp_path / "x.npz", a=x, b=x.astype("i4"))
    assert list(read_file(tmp_path / "x.npz")) == ["a", "b"]
    raw = (tmp_path / "x.npy").read_bytes()
    for cut in range(0, len(raw), 7):
        (tmp_path / "cut.npy").write_bytes(raw[:cut])
        with pytest.raises(InputError, match=r"cut\.npy"):
            read_file(tmp_path / "cut.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="objects"):
        read_file(tmp_path / "objects.npy")
    with pytest.raises(InputError, match=r"\.npy, \.npz or seed:N"):
        read_file(tmp_path / "x.txt")


def recorded(module: object, trace: Path, x: np.ndarray | None = None, **more: object) -> tuple[int, ...]:
    recording = tracer.record(module, x, trace=trace, **more)  # type: ignore[arg-type]
    return next(node.shape for node in recording.structure.inputs if node.shape is not None)


def test_axes_move_only_where_the_model_wants_it(tmp_path: Path) -> None:
    import keras
    from torch import nn

    convolution = keras.Sequential([keras.Input((10, 4)), keras.layers.Conv1D(3, 3)])
    assert recorded(convolution, tmp_path / "a.zarr") == (2, 10, 4)
    assert recorded(nn.Sequential(nn.Conv1d(4, 3, 3)), tmp_path / "a.zarr") == (2, 4, 10)
    dense = keras.Sequential([keras.Input((10, 4)), keras.layers.Dense(3)])
    assert recorded(dense, tmp_path / "b.zarr") == (2, 10, 4)
    assert recorded(nn.Sequential(nn.Linear(4, 3)), tmp_path / "b.zarr") == (2, 10, 4)
    square = keras.Sequential([keras.Input((3, 3, 3)), keras.layers.Conv2D(3, 2)])
    assert recorded(square, tmp_path / "c.zarr") == (2, 3, 3, 3)
    trace = tracer.open(tmp_path / "c.zarr")
    tracer.record(nn.Sequential(nn.Conv2d(3, 3, 2)), trace=tmp_path / "c.zarr")
    assert trace.recording("pt").attributes["input_axes"] == {"input": [0, 3, 1, 2]}
    tracer.record(nn.Sequential(nn.Conv2d(3, 3, 2)), trace=tmp_path / "c.zarr", layout="same", name="same")
    assert trace.recording("same").attributes["input_axes"] == {"input": [0, 1, 2, 3]}


def test_an_input_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    from torch import nn

    with pytest.raises(InputError, match=r"5"):
        tracer.record(nn.Sequential(nn.Linear(4, 3)), np.ones((2, 5), "f4"), trace=tmp_path / "t.zarr")
    with pytest.raises(InputError, match="2 arrays"):
        tracer.record(nn.Sequential(nn.Linear(4, 3)), [np.ones((2, 4))] * 2, trace=tmp_path / "t.zarr")
    assert not (tmp_path / "t.zarr").exists()


def test_float64_given_to_a_float32_model_is_cast(tmp_path: Path) -> None:
    from torch import nn

    recording = tracer.record(nn.Sequential(nn.Linear(4, 3)), np.ones((2, 4)), trace=tmp_path / "t.zarr")
    assert recording.structure.inputs[0].dtype == "float32"


def test_what_a_bfloat16_model_is_given_becomes_bfloat16(tmp_path: Path) -> None:
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(4, 3)).bfloat16()
    half = torch.ones(2, 4, dtype=torch.bfloat16) / 3
    for name, values in [("own", half), ("single", half.float().numpy())]:
        recording = tracer.record(net, values, trace=tmp_path / "t.zarr", name=name)
        assert recording.structure.by_name["0"].dtype == "bfloat16"
        np.testing.assert_array_equal(recording.read("input").astype("f4"), half.float())
    # And a model of single precision takes what a bfloat16 one recorded.
    recording = tracer.record(nn.Sequential(nn.Linear(4, 3)), trace=tmp_path / "t.zarr", name="wide")
    assert recording.structure.by_name["0"].dtype == "float32"


def test_a_model_without_inputs_is_recorded(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Prompt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)
            self.learned = nn.Parameter(torch.ones(4, 3))

        def forward(self) -> torch.Tensor:
            return torch.relu(self.fc(self.learned))

    net = Prompt()
    trace = tmp_path / "t.zarr"
    first, second = tracer.record(net, trace=trace), tracer.record(net, trace=trace)
    np.testing.assert_array_equal(second.read("relu"), net().detach().numpy())
    assert tracer.diff(first, second)
    for more, says in [({"samples": 2}, "takes no input"), ({"inputs": np.ones(3)}, "takes nothing")]:
        with pytest.raises(InputError, match=says):
            tracer.record(net, trace=trace, **more)  # type: ignore[arg-type]


def test_several_inputs_find_their_places_whatever_their_names_and_order(tmp_path: Path) -> None:
    import keras
    import torch
    from torch import nn

    image, table = keras.Input((8, 6, 3), name="image"), keras.Input((5,), name="table")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    model = keras.Model([image, table], keras.layers.Concatenate()([x, keras.layers.Dense(4)(table)]))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(5, 4)

        def forward(self, tab: torch.Tensor, img: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.conv(img).mean((2, 3)), self.fc(tab)], 1)

    tracer.record(model, trace=tmp_path / "t.zarr")
    recording = tracer.record(Net(), trace=tmp_path / "t.zarr")
    assert {node.name: node.shape for node in recording.structure.inputs} == {"tab": (2, 5), "img": (2, 3, 8, 6)}
    found = {
        p.aligned: p.candidate[0]
        for p in tracer.align(tracer.open(tmp_path / "t.zarr").recording("tf"), recording).pairs
    }
    assert found["image"] == "img"
    assert found["table"] == "tab"
    with pytest.raises(InputError, match="another --trace"):
        tracer.record(nn.Sequential(nn.Linear(7, 2)), trace=tmp_path / "t.zarr")


def test_a_fault_of_the_model_for_one_order_of_the_axes_is_no_verdict_on_the_others(tmp_path: Path) -> None:
    import keras
    import torch
    from torch import nn

    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc(x)
            assert x.shape[1] == 3, "three channels"
            return x

    tracer.record(keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(2, 3)]), trace=tmp_path / "t.zarr")
    recording = tracer.record(Picky(), trace=tmp_path / "t.zarr")
    assert recording.state == "complete"
    assert recording.structure.inputs[0].shape == (2, 3, 6, 6)
    with pytest.raises(tracer.ModelError, match="three channels"):
        tracer.record(Picky(), np.zeros((2, 6, 6, 6), "f4"), trace=tmp_path / "u.zarr")
    assert tracer.open(tmp_path / "u.zarr").recording("pt").state == "failed"


def test_a_model_that_moves_the_axes_itself_is_fed_what_it_takes(tmp_path: Path) -> None:
    """Its first layer is a convolution over channels that come first, but it is called with channels last."""
    import torch
    from torch import nn

    class Permuting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(8, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.transpose(1, 2))

    recording = tracer.record(Permuting(), np.ones((3, 6, 8), "f4"), trace=tmp_path / "t.zarr")
    assert recording.structure.inputs[0].shape == (3, 6, 8)


def test_an_input_without_elements_is_refused(tmp_path: Path) -> None:
    """Every layer would agree about nothing."""
    from torch import nn

    with pytest.raises(InputError, match=r"no elements \(0×4\)"):
        tracer.record(nn.Linear(4, 2), np.zeros((0, 4), "f4"), trace=tmp_path / "t.zarr")


def test_an_input_that_cannot_be_recorded_is_named() -> None:
    with pytest.raises(InputError, match="input 'words' is of type string, which cannot be recorded"):
        generate([InputSpec("x", (None, 3)), InputSpec("words", (None,), "string")], {}, 0)
