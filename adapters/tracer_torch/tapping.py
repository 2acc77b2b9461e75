"""Watching a model that its owner's program runs: a training step, a request that is served."""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import optimizer as optimizers

from tracer.adapter import Array, Mode, NotRecorded, Run, Watcher
from tracer.forked import ends_with_process
from tracer.text import described
from tracer_torch import layers
from tracer_torch.engine import FunctionWatch, Recorder
from tracer_torch.events import Event, Key
from tracer_torch.running import eager, hooked
from tracer_torch.tensors import taken, walk

Conclude = Callable[[Recorder, Run], tuple[Any, dict[Key, str]]]


class Tap:
    """Follows every call of ``root`` and hands those that ``watcher`` wants over to it, until :meth:`close`.

    A call that is not wanted costs two hooks and one question. One that is runs under the recorder, as a recording of
    its own would; what it computes is not changed, and a fault of ours never reaches it. ``called`` is the module that
    the program calls: ``root``, or what ``torch.compile`` made of it.
    """

    def __init__(self, root: nn.Module, called: nn.Module, watcher: Watcher, conclude: Conclude) -> None:
        self._root = root
        self._watcher = watcher
        self._conclude = conclude
        self._names: dict[Key, str] | None = None
        self._run: _Run | None = None
        self._open = False
        self._lock = threading.RLock()
        ends_with_process(self)
        self._listening: list[Any] = []
        self._gradients: dict[int, torch.Tensor] = {}
        """Of the step's weights, by the parameter's id: they may be cleared before the step is seen to be over."""
        self._mine = {id(parameter) for parameter in root.parameters()}
        self._handles: list[Any] = [
            root.register_forward_pre_hook(_Hook(self._enter, self._compiling), with_kwargs=True),
            root.register_forward_hook(_Hook(self._leave), with_kwargs=True, always_call=True),
        ]
        self._compiled: list[tuple[nn.Module, str, Callable[..., Any], Callable[..., Any]]] = []
        self._in_compiled: set[int] = set()
        self._warned = False
        self._put_aside(root, "_compiled_call_impl", root._call_impl)
        if called is not root:
            self._put_aside(called, "forward", root)
        if watcher.gradients:
            seen = weakref.ref(self)  # torch keeps these hooks for all optimisers there are

            def about_to_step(optimizer: Any, args: Any, kwargs: Any) -> None:
                tap = seen()
                if tap is not None:
                    tap._stepping(optimizer)

            self._handles.append(optimizers.register_optimizer_step_pre_hook(about_to_step))

    def forked(self) -> None:
        self._lock = threading.RLock()

    def close(self) -> None:
        """Leave the model as it was; what was begun is handed over."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if not self._compiled and not self._warned and any(True for _ in self._wrappers()):
            self._warn("torch.compile took what it had made of another model, and its calls of this one were not seen")
        for module, name, ours, compiled in self._compiled:
            if getattr(module, name) is ours:
                setattr(module, name, compiled)
        self._compiled.clear()
        with self._lock:
            self._finish()

    def _compiling(self) -> None:
        """``torch.compile`` came after us, and looks into the model's call: what it makes of it passes no hook of ours,
        but can be put aside from the next call on; not so in a function of the program's."""
        root = self._root
        if torch.compiler.is_exporting() or self._compiled:
            return
        self._put_aside(root, "_compiled_call_impl", root._call_impl)
        for wrapper in self._wrappers():
            self._put_aside(wrapper, "forward", root)
        if not self._compiled and not self._warned:
            self._warn("the model is compiled as a part of something else, where its calls are not seen")

    def _wrappers(self) -> Iterator[nn.Module]:
        """What ``torch.compile`` made of the model; nothing leads there from a module.

        Not by ``gc.get_objects``: all that it lists is held on to meanwhile, and a tuple that another thread is just
        building cannot be finished then.
        """
        if "torch._dynamo" not in sys.modules:
            return
        seen: set[int] = set()
        for parts in gc.get_referrers(self._root):
            if not isinstance(parts, dict) or parts.get("_orig_mod") is not self._root:
                continue
            for holder in gc.get_referrers(parts):
                for thing in gc.get_referrers(holder) if isinstance(holder, dict) else (holder,):
                    known = issubclass(type(thing), nn.Module) and layers.is_compiled(thing)
                    if known and thing._modules is parts and id(thing) not in seen:
                        seen.add(id(thing))
                        yield thing

    def _warn(self, what: str) -> None:
        self._warned = True
        with contextlib.suppress(RuntimeWarning):  # where warnings are errors it would end the program
            said = f"tracer: {what} (give tracer.attach what torch.compile makes of the model itself)"
            warnings.warn(said, RuntimeWarning, stacklevel=2)

    def _put_aside(self, module: nn.Module, name: str, plain: Callable[..., Any]) -> None:
        """Have what is recorded run ``plain``, and all else the compiled code that is the attribute ``name`` of
        ``module``, in which no hook is called."""
        compiled = getattr(module, name)
        if compiled is None:
            return

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._run is None and self._watcher.soon(self._mode, 1):
                return plain(*args, **kwargs)
            thread = threading.get_ident()
            if self._run is None and thread not in self._in_compiled:
                with self._lock:
                    self._watcher.due(self._mode)
            self._in_compiled.add(thread)
            try:
                return compiled(*args, **kwargs)
            finally:
                self._in_compiled.discard(thread)

        setattr(module, name, call)
        self._compiled.append((module, name, call, compiled))

    # -- a call ------------------------------------------------------------------------------------------------

    @property
    def _mode(self) -> Mode:
        return "train" if self._root.training else "eval"

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._run is not None:  # it calls itself, or another thread does
            return
        if threading.get_ident() in self._in_compiled:  # which runs its Python where it was compiled too often
            return
        with self._lock:
            if self._run is not None:
                return
            try:
                self._finish()
                if not self._watcher.due(self._mode):
                    return
                self._open = True
                self._run = _Run(self._root, self._names, self._watcher, _named(self._root, args, kwargs))
            except Exception as error:
                self._lost(error)

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        run = self._run
        if run is not None and run.thread == threading.get_ident():
            with self._lock:
                try:
                    self._close(run, output)
                finally:
                    self._run = None  # not before: another thread may begin a step from here on

    def _close(self, run: _Run, output: Any) -> None:
        try:
            run.close(output)
            if sys.exception() is not run.outside:  # torch calls this where the model raises, too
                self._open = False
                self._watcher.lost("the model raised")
                return
            if self._names is None:
                structure, self._names = self._conclude(run.recorder, Run(self._mode))
                self._watcher.structure(structure)
                run.hand_over(self._names)
            if self._watcher.weights and not self._watcher.gradients:
                self._weights()
            if not self._watcher.gradients or not torch.is_grad_enabled():
                self._finish()
            else:
                self._listen()
        except Exception as error:
            self._run = None  # it is closed
            self._lost(error)
        finally:
            run.recorder.failed = None  # its traceback holds every tensor of the call

    def _stepping(self, optimizer: Any) -> None:
        if not self._open or self._run is not None:
            return
        if any(id(p) in self._mine for group in optimizer.param_groups for p in group["params"]):
            with self._lock:
                self._finish()

    def _listen(self) -> None:
        """Keep hold of what the backward pass leaves at the parameters, until the step is over."""

        def accumulated(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:
                self._gradients[id(parameter)] = parameter.grad

        for parameter in self._root.parameters():
            if parameter.requires_grad and parameter.is_leaf:
                self._listening.append(parameter.register_post_accumulate_grad_hook(accumulated))  # type: ignore[no-untyped-call]

    def _heard(self) -> dict[int, torch.Tensor]:
        """What :meth:`_listen` kept hold of, which ends with it."""
        gradients, self._gradients = self._gradients, {}
        for handle in self._listening:
            handle.remove()
        self._listening.clear()
        return gradients

    def _finish(self) -> None:
        """The step has all it will get."""
        if not self._open:
            return
        self._open = False
        gradients = self._heard()
        try:
            if self._watcher.gradients:
                for owner, name, parameter in layers.owned(self._root):
                    gradient = gradients.get(id(parameter)) if parameter.grad is None else parameter.grad
                    if gradient is not None:
                        self._watcher.weight_gradient(owner, name, *taken(gradient))
                if self._watcher.weights:
                    self._weights()
            self._watcher.finish()
        except Exception as error:
            self._lost(error)

    def _weights(self) -> None:
        with torch.no_grad():
            for owner, name, tensor in layers.owned(self._root):
                if not layers.is_uninitialized(tensor):
                    self._watcher.weight(owner, layers.param(name, tensor), *taken(tensor))

    def _lost(self, error: Exception) -> None:
        run, self._run, self._open = self._run, None, False
        self._heard()
        if run is not None:
            run.close(None)
        self._watcher.lost(described(error, 160))


class _Hook:
    """A hook that a copy of the model, on disk or in memory, does not have: there it is one that does nothing, which
    needs no tracer to be loaded. Nor has the code that ``torch.compile`` and ``torch.export`` make of the model."""

    def __init__(self, action: Callable[..., None], compiling: Callable[[], None] = lambda: None) -> None:
        self._action = action
        self._compiling = compiling

    def __call__(self, *args: Any) -> None:
        if torch.compiler.is_compiling():
            self._noticed()
        else:
            self._action(*args)

    def _noticed(self) -> None:
        with contextlib.suppress(Exception):  # the compiler's run is none of ours
            self._compiling()

    # Called while the model is compiled, and no part of what comes of that: torch.compiler.assume_constant_result sets
    # just this, and takes a second of loading for it.
    _noticed._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")


class _Run:
    """One call that is recorded. ``names`` of its events are known but in the first, which keeps copies till then."""

    def __init__(
        self, root: nn.Module, names: Mapping[Key, str] | None, watcher: Watcher, inputs: Mapping[str, torch.Tensor]
    ) -> None:
        self.thread = threading.get_ident()
        self.outside = sys.exception()
        self._names = names
        self._watcher = watcher
        self._waiting: list[tuple[Key, Array | NotRecorded]] = []
        self._gone: set[str] = set()
        self.recorder = Recorder(root, describe=names is None, emit=self._emit)
        with contextlib.ExitStack() as stack:
            stack.enter_context(eager())
            stack.enter_context(_unseen(self.recorder))
            self.recorder.begin(inputs)
            stack.enter_context(hooked(self.recorder, root=False))
            if layers.is_leaf(root):  # whose own call has begun already
                self.recorder.enter(root, tuple(inputs.values()), {})
            stack.enter_context(FunctionWatch(self.recorder))
            self._stack = stack.pop_all()

    def close(self, output: object) -> None:
        self._stack.close()
        with _unseen(self.recorder):
            if layers.is_leaf(self.recorder.root):
                self.recorder.leave(self.recorder.root, output)
            if output is not None:
                self.recorder.finish(output)

    def hand_over(self, names: Mapping[Key, str]) -> None:
        """What waited for its names."""
        self._names = names
        for key, value in self._waiting:
            name = names.get(key)
            if name is not None and self._watcher.wants(name):
                self._watcher(name, value, owned=True)
        self._waiting.clear()

    def _emit(self, event: Event, tensor: torch.Tensor) -> None:
        if event.alias is not None:
            return
        key = event.key
        if self._names is not None:
            name = self._names.get(key)
            if name is None or name in self._gone or not self._watcher.wants(name):
                return
            self._gone.add(name)
            self._watcher(name, *taken(tensor))
        else:
            self._waiting.append((key, _copied(tensor)))
        if self._watcher.gradients and tensor.requires_grad:
            tensor.register_hook(partial(self._gradient, key))  # type: ignore[no-untyped-call]

    def _gradient(self, key: Key, gradient: torch.Tensor) -> None:
        try:
            name = None if self._names is None else self._names.get(key)
            if name is not None and self._watcher.wants(name):
                self._watcher.gradient(name, *taken(gradient.detach()))
        except Exception as error:
            self._watcher.lost(described(error, 160))


@contextlib.contextmanager
def _unseen(recorder: Recorder) -> Iterator[None]:
    """Our own torch calls are no operations of the model's."""
    recorder.busy = True
    try:
        yield
    finally:
        recorder.busy = False


def _copied(tensor: torch.Tensor) -> Array | NotRecorded:
    """What no later change of ``tensor`` reaches."""
    value, owned = taken(tensor)
    try:
        return value if owned or isinstance(value, NotRecorded) else value.copy()
    except MemoryError as error:  # an expanded tensor is larger than its memory
        return NotRecorded(described(error, 120))


def _named(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors that a call is given, by the names that ``forward`` has for them."""
    try:
        signature = inspect.signature(module.forward)
        given: dict[str, Any] = {}
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                given |= value
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                given |= {"input" if not i else f"input_{i}": item for i, item in enumerate(value)}
            else:
                given[name] = value
    except (TypeError, ValueError):
        given = {"input" if not i else f"input_{i}": value for i, value in enumerate(args)} | dict(kwargs)
    return {name + path: tensor for name, value in given.items() for path, tensor in walk(value)}
