"""Watching a Keras model that its owner's program runs: in ``fit`` and ``predict``, or called by a loop of its own.

Keras runs its steps as compiled functions, into which nobody sees: a step that is recorded runs the same
``train_step`` eagerly instead, which may round otherwise in the last bits (and tf_keras's dropout draws other numbers
there than in a compiled step).
"""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from tracer.adapter import Array, Mode, NotRecorded, Watcher
from tracer.graph import Structure
from tracer.text import described
from tracer_keras import describe, runner
from tracer_keras.events import Event, flatten
from tracer_keras.flavour import Flavour, tensorflow
from tracer_keras.recorder import Recorder
from tracer_keras.tree import Paths

Conclude = Callable[[Recorder, Any], tuple[Structure, dict[runner.Key, str]]]
_UNDER = "_tracer_under"
_FUNCTIONS: dict[str, Mode] = {"train": "train", "test": "eval", "predict": "eval"}


class Tap:
    """Follows ``root`` and hands the calls that ``watcher`` wants over to it, until :meth:`close`.

    ``names`` are those of the inputs; ``conclude`` makes the structure of the first call that is recorded.
    """

    def __init__(self, root: Any, flavour: Flavour, names: tuple[str, ...], watcher: Watcher, conclude: Conclude):
        self._root = root
        self._flavour = flavour
        self._inputs = names
        self._watcher = watcher
        self._conclude = conclude
        self._names: dict[runner.Key, str] | None = None
        self._owners: dict[int, tuple[str, str]] = {}
        self._seen: list[tuple[runner.Key, Any]] = []
        self._open = False
        self._asked = 0
        """The thread whose next call was asked about already; 0 for none."""
        self._busy = False
        self._lock = threading.Lock()
        """Held while it is decided whether a call is recorded: a server may call the model from several threads."""
        self._said = False
        self._paths: Paths | None = None
        self._undo: list[Callable[[], None]] = []
        self._watch_calls()
        for kind in _FUNCTIONS:
            self._watch_function(kind)
        if watcher.gradients:
            self._watch_tapes()

    def close(self) -> None:
        """Leave the model and Keras as they were."""
        while self._undo:
            self._undo.pop()()
        self._finish()

    # -- compiled steps ----------------------------------------------------------------------------------------

    def _watch_function(self, kind: str) -> None:
        root, made, make = self._root, f"{kind}_function", f"make_{kind}_function"
        if not hasattr(root, make):
            return
        if kind == "predict" and int(getattr(root, "steps_per_execution", 1) or 1) > 1:
            return  # what it returns is joined inside
        laid: list[Callable[[], None]] = []

        def wrap() -> None:
            if getattr(root, made, None) is not None:
                laid[:] = [_over(root, made, self._step(kind, getattr(root, made)))]

        def remake(*args: Any, **kwargs: Any) -> Any:
            # It keeps what it finds; what others laid over it they lay anew, for each of them has a part in this call.
            function = getattr(root, made, None)
            while (under := getattr(function, _UNDER, None)) is not None:
                function = under
            object.__setattr__(root, made, function)
            getattr(remake, _UNDER)(*args, **kwargs)
            wrap()
            return getattr(root, made)

        self._undo.append(_over(root, make, remake))
        wrap()
        self._undo.append(lambda: laid[0]() if laid else None)

    def _step(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def step(data: Any) -> Any:
            count = int(getattr(self._root, "steps_per_execution", 1) or 1)
            mode = _FUNCTIONS[kind]
            if not self._watcher.soon(mode, count):
                for _ in range(count):
                    self._due(mode)
                self._busy = True  # another tap may run it eagerly: it is counted already
                try:
                    return getattr(step, _UNDER)(data)
                finally:
                    self._busy = False
            outputs: Any = None
            one = getattr(self._root, f"{kind}_step")
            batches = iter(data)  # predict gives a list
            for _ in range(count):
                self._asked = threading.get_ident() if self._due(mode) else 0
                self._busy = not self._asked
                try:
                    outputs = one(next(batches))
                finally:
                    self._asked, self._busy = 0, False
                self._finish()
            return outputs

        return step

    def _due(self, mode: Mode) -> bool:
        try:
            self._finish()
            return self._watcher.due(mode)
        except Exception as error:
            self._lost(error)
            return False

    # -- a call ------------------------------------------------------------------------------------------------

    def _watch_calls(self) -> None:
        cls = self._flavour.layer_class

        @functools.wraps(cls.__call__)
        def call(instance: Any, *args: Any, **kwargs: Any) -> Any:
            under = getattr(call, _UNDER)
            if instance is not self._root or self._busy or self._asked not in (0, threading.get_ident()):
                return under(instance, *args, **kwargs)
            if _symbolic(args, kwargs):
                return under(instance, *args, **kwargs)
            if not tensorflow().executing_eagerly():
                self._say_unseen()
                return under(instance, *args, **kwargs)
            return self._call(functools.partial(under, instance), args, kwargs)

        call.autograph_info__ = {}  # type: ignore[attr-defined]
        self._undo.append(_over(cls, "__call__", call))

    def _say_unseen(self) -> None:
        if not self._said:
            self._said = True
            with contextlib.suppress(RuntimeWarning):  # where warnings are errors it would end the program
                warnings.warn(
                    "tracer: the model is called in a tf.function of the program's, into which nobody sees: such calls "
                    "are not recorded (tf.config.run_functions_eagerly(True) would show them)",
                    RuntimeWarning, stacklevel=3,
                )  # fmt: skip

    def _call(self, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if not self._begun("train" if kwargs.get("training") else "eval"):
            return original(*args, **kwargs)
        seen = _Call(self._root, self._flavour, self._watcher, self._names)
        try:
            self._prepare(seen, args, kwargs)
            try:
                with seen.recorder:
                    outputs = self._root(*args, **kwargs)
            except BaseException:
                self._open = False
                self._watcher.lost("the model raised")
                raise
            self._conclude_call(seen, outputs)
            return outputs
        finally:
            self._busy = False

    def _begun(self, mode: Mode) -> bool:
        """Whether a call is recorded; of calls at the same time one is, and the others are not counted."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            asked, self._asked = self._asked, 0
            if self._busy or (not asked and not self._due(mode)):
                return False
            self._open = self._busy = True
            return True
        finally:
            self._lock.release()

    def _prepare(self, seen: _Call, args: Any, kwargs: Any) -> None:
        try:
            for name, tensor in _named(self._inputs, args, kwargs).items():
                seen.recorder.paths.reserve(name)
                seen.recorder.append(Event(name, "input", "Input", "input", tensor, owner=name))
        except Exception as error:
            seen.recorder.notes.append(f"the inputs could not be recorded: {type(error).__name__}")

    def _conclude_call(self, seen: _Call, outputs: Any) -> None:
        try:
            if self._names is None:
                structure, self._names = self._conclude(seen.recorder, outputs)
                paths = seen.recorder.paths
                for owner, param, weight in describe.weights(paths):
                    for handle in (weight, getattr(weight, "value", weight), getattr(weight, "_value", weight)):
                        self._owners[id(handle)] = owner, param.name
                self._paths = paths
                self._watcher.structure(structure)
                seen.hand_over(self._names)
            if self._watcher.gradients:
                self._seen = seen.tensors
            if self._watcher.weights and self._paths is not None:
                for owner, param, weight in describe.weights(self._paths):
                    self._watcher.weight(owner, param, runner.array(weight))
            if not self._watcher.gradients:
                self._finish()
        except Exception as error:
            self._lost(error)

    def _finish(self) -> None:
        if self._open:
            self._open = False
            self._seen = []
            self._watcher.finish()

    def _lost(self, error: Exception) -> None:
        self._open = False
        self._seen = []
        self._watcher.lost(described(error, 160))

    # -- gradients ---------------------------------------------------------------------------------------------

    def _watch_tapes(self) -> None:
        cls = tensorflow().GradientTape

        @functools.wraps(cls.gradient)
        def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            original = getattr(gradient, _UNDER)
            if not self._open or not tensorflow().executing_eagerly():
                return original(tape, target, sources, *args, **kwargs)
            seen, self._seen = self._seen, []
            try:
                found, inner = original(tape, target, [sources, [tensor for _, tensor in seen]], *args, **kwargs)
            except TypeError:  # targets and sources of another kind than were foreseen
                return original(tape, target, sources, *args, **kwargs)
            self._differentiated(sources, found, [key for key, _ in seen], inner)
            return found

        self._undo.append(_over(cls, "gradient", gradient))

    def _differentiated(self, sources: Any, found: Any, keys: list[runner.Key], inner: list[Any]) -> None:
        try:
            tf = tensorflow()
            for key, value in zip(keys, inner, strict=True):
                name = (self._names or {}).get(key)
                if value is not None and name is not None and self._watcher.wants(name):
                    self._watcher.gradient(name, runner.array(tf.convert_to_tensor(value)), True)
            for source, value in zip(tf.nest.flatten(sources), tf.nest.flatten(found), strict=True):
                of = self._owners.get(id(source))
                if value is not None and of is not None:
                    self._watcher.weight_gradient(*of, runner.array(tf.convert_to_tensor(value)), True)
        except Exception as error:
            self._lost(error)


class _Call:
    """One call that is recorded. ``names`` of its events are known but in the first, which keeps values till then."""

    def __init__(self, root: Any, flavour: Flavour, watcher: Watcher, names: Mapping[runner.Key, str] | None) -> None:
        self._watcher = watcher
        self._names = names
        self._waiting: list[tuple[runner.Key, Array | NotRecorded]] = []
        self.tensors: list[tuple[runner.Key, Any]] = []
        self.recorder = Recorder(root, flavour, Paths(root, flavour), None, self._emit)

    def hand_over(self, names: Mapping[runner.Key, str]) -> None:
        """What waited for its names."""
        for key, value in self._waiting:
            name = names.get(key)
            if name is not None and self._watcher.wants(name):
                self._watcher(name, value, True)
        self._waiting.clear()

    def _emit(self, event: Event) -> None:
        if event.alias is not None:
            return
        key, name = event.key(), None
        if self._names is not None:
            name = self._names.get(key)
            if name is None or not self._watcher.wants(name):
                return
        why = runner.reason(event.value)
        value: Array | NotRecorded = NotRecorded(why) if why is not None else runner.array(event.value)
        if self._watcher.gradients and why is None and event.value.dtype.is_floating:
            self.tensors.append((key, event.value))
        if name is None:
            self._waiting.append((key, value))
        else:
            self._watcher(name, value, True)


def _over(owner: Any, name: str, wrapper: Any) -> Callable[[], None]:
    """Lay ``wrapper`` over ``owner``'s function ``name``, which it finds as its ``_UNDER``; gives what takes it away,
    in whatever order the taps of several models end."""
    put = setattr if isinstance(owner, type) else object.__setattr__
    setattr(wrapper, _UNDER, getattr(owner, name))
    put(owner, name, wrapper)

    def remove() -> None:
        top, under = vars(owner).get(name), getattr(wrapper, _UNDER)
        if top is wrapper:
            put(owner, name, under)
        while top is not None and top is not wrapper:
            below = getattr(top, _UNDER, None)
            if below is wrapper:
                setattr(top, _UNDER, under)
            top = below
        if (method := _method(owner, name)) is not None and vars(owner).get(name) == method:
            object.__delattr__(owner, name)

    return remove


def _method(owner: Any, name: str) -> Any:
    """What an instance's class has under this name, bound to it."""
    found = None if isinstance(owner, type) else getattr(type(owner), name, None)
    return None if found is None else found.__get__(owner)


def _symbolic(*values: Any) -> bool:
    return any(type(leaf).__name__.endswith("KerasTensor") for _, leaf in flatten(values))


def _named(names: tuple[str, ...], args: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a call by the names of the inputs."""
    given = args[0] if args else next(iter(kwargs.values()), None)
    if isinstance(given, Mapping):
        return {str(key): value for key, value in given.items()}
    leaves = [leaf for _, leaf in flatten(given)]
    stems = names if len(names) == len(leaves) else tuple(f"input_{index}" for index in range(len(leaves)))
    return dict(zip(stems, leaves, strict=True))
