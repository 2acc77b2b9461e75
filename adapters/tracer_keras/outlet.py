"""Hands tensors out of a traced function while it runs, one after the other, so that memory stays bounded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from tracer.adapter import Array
from tracer_keras.flavour import tensorflow

Take = Callable[[Any, Array], None]
"""Called with what names a tensor and with its value, whose memory is the tensor's own."""


class Outlet:
    """The operations through which tensors leave one function.

    They run in a fixed order, and whatever reads a tensor waits until that tensor has left. A slow taker therefore
    makes the model wait, and no more tensors exist at a time than the model itself needs.
    """

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self._take: Take | None = None
        self._raised: BaseException | None = None
        self._last: Any = None
        self.leaving: dict[str, Any] = {}
        """The operations through which tensors leave, with what they are called with."""

    def add(self, wanted: Sequence[tuple[Hashable, Any]]) -> None:
        """Let these tensors leave, in this order where their computation allows it, after those added before.

        To be called while the function is traced, when everything that reads them is there.
        """
        tf = tensorflow()
        places = {operation.name: place for place, operation in enumerate(self.graph.get_operations())}
        order = list(wanted)
        if not self._computable([tensor for _, tensor in order]):
            order.sort(key=lambda item: places[item[1].op.name])
        for key, tensor in order:
            readers = [reader for reader in tensor.consumers() if reader.name not in self.leaving]
            with tf.control_dependencies([] if self._last is None else [self._last]):
                leave = tf.numpy_function(functools.partial(self._leave, key), [tensor], [], name="recorded")
            for reader in readers:
                reader._add_control_input(leave)
            self.leaving[leave.name] = key
            self._last = leave

    def _computable(self, tensors: list[Any]) -> bool:
        """Whether none of the tensors needs one that stands behind it."""
        place = {tensor.name: number for number, tensor in enumerate(tensors)}
        needed: dict[str, int] = {}
        pending = [tensor.op for tensor in reversed(tensors)]
        while pending:
            operation = pending[-1]
            before = [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
            missing = [other for other in before if other.name not in needed]
            if missing:
                pending.extend(missing)
                continue
            pending.pop()
            last = [place.get(tensor.name, -1) for tensor in operation.inputs]
            needed[operation.name] = max([*last, *(needed.get(other.name, -1) for other in before)], default=-1)
        return all(needed[tensor.op.name] < number for number, tensor in enumerate(tensors))

    def _leave(self, key: Hashable, value: Array) -> None:
        assert self._take is not None
        try:
            self._take(key, np.asarray(value))  # TensorFlow hands a scalar over as one
        except BaseException as error:
            self._raised = error
            raise

    def run(self, function: Any, tensors: Sequence[Any], take: Take) -> None:
        """Call ``function`` and let ``take`` have its tensors. Raises what it raises, and what ``take`` raises."""
        self._take, self._raised = take, None
        try:
            function(*tensors)
        except Exception:
            if self._raised is not None:
                raise self._raised from None
            raise
        finally:
            self._take = None
