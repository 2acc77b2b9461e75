"""Memory that is used again: never while somebody still looks at it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tracer.store.buffers import Buffers


def where(values: np.ndarray) -> int:
    return values.__array_interface__["data"][0]


def test_memory_comes_back_only_when_nothing_refers_to_it() -> None:
    buffers = Buffers(1 << 30)
    first = buffers.copy(np.arange(1 << 16, dtype=np.float32).reshape(256, 256))
    place = where(first)
    seen = first[1:].reshape(-1).view(np.uint8)[:8].data
    del first
    other = buffers.copy(np.zeros((256, 256), np.float32))
    assert where(other) != place
    assert np.frombuffer(seen, np.float32).tolist() == [256, 257]
    del seen
    assert where(buffers.copy(np.ones((256, 256), np.float32))) == place


@pytest.mark.parametrize("values", [
    np.float64(3).reshape(()),
    np.empty((0, 3), np.float32),
    np.arange(1 << 16).reshape(256, 256).T,
    np.arange(1 << 17).astype(ml_dtypes.bfloat16),
], ids=["scalar", "empty", "transposed", "bfloat16"])  # fmt: skip
def test_a_copy_is_one(values: np.ndarray) -> None:
    copied = Buffers(1 << 20).copy(values)
    assert (copied.shape, copied.dtype) == (values.shape, values.dtype)
    assert copied.flags.c_contiguous
    assert np.array_equal(copied, values)
    assert not np.shares_memory(copied, values)


def test_what_is_kept_for_later_is_bounded() -> None:
    buffers = Buffers(1 << 20)
    for size in range(1 << 16, 1 << 20, 1 << 16):  # each of another size, and let go at once
        buffers.array(size)
    assert buffers.held <= 1 << 20
    given = [buffers.array(1 << 19) for _ in range(4)]
    assert buffers.held == 4 << 19  # more is in use: that is given out all the same
    del given
    buffers.array(1 << 18)
    assert buffers.held <= 1 << 20
