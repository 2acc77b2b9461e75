"""Models of PyTorch that are hard to watch, each beside a program of its own."""
# mypy: disable-error-code="no-untyped-call, no-any-return, operator, index, call-overload, misc"

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class Scene:
    """A model, how its owner's program stands around its calls, and how often it calls it.

    ``fails`` names what the model raises at its last call; ``trained`` says that a backward pass follows each call,
    ``threads`` in how many threads it is called at once.
    """

    build: Build
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    trained: bool = False
    threads: int = 1
    fails: bool = False


SCENES: dict[str, Scene] = {}


def _scene(name: str, **more: Any) -> Callable[[Build], Build]:
    def keep(build: Build) -> Build:
        SCENES[name] = Scene(build, **more)
        return build

    return keep


def net() -> nn.Sequential:
    """A layer, a normalisation with buffers, something drawn, a layer."""
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3))


class _Around(nn.Module):
    """Runs the usual net, and something before or behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


# -- exceptions ------------------------------------------------------------------------------------------------------


class _Raises(nn.Module):
    """Raises when it is called the second time."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.called = 0

    def forward(self, x: Tensor) -> Tensor:
        self.called += 1
        if self.called > 1:
            raise self.error
        return x * 2


@_scene("raises in the first layer", fails=True)
def _() -> nn.Module:
    return nn.Sequential(_Raises(ValueError("first")), net())


@_scene("raises deep inside", fails=True)
def _() -> nn.Module:
    model: nn.Module = nn.Sequential(net()[0], _Raises(RuntimeError("deep")))
    for _ in range(20):
        model = nn.Sequential(model, nn.Identity())
    return model


@_scene("raises StopIteration", fails=True)
def _() -> nn.Module:
    return nn.Sequential(net(), _Raises(StopIteration("end")))


@_scene("raises what cannot be printed", fails=True)
def _() -> nn.Module:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    return nn.Sequential(net(), _Raises(Mute()))


@_scene("raises in a thread of its own", fails=True)
def _() -> nn.Module:
    class Threaded(_Around):
        def __init__(self) -> None:
            super().__init__()
            self.raises = _Raises(KeyError("thread"))

        def forward(self, x: Tensor) -> Tensor:
            caught: list[BaseException] = []

            def work() -> None:
                try:
                    self.raises(x)
                except KeyError as error:
                    caught.append(error)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            if caught:
                raise caught[0]
            return self.inner(x)

    return Threaded()


@_scene("catches what its layer raises")
def _() -> nn.Module:
    class Catching(_Around):
        def __init__(self) -> None:
            super().__init__()
            self.raises = _Raises(ValueError("caught"))
            self.raises.called = 1

        def forward(self, x: Tensor) -> Tensor:
            try:
                self.raises(x)
            except ValueError:
                x = x + 1
            return self.inner(x)

    return Catching()


@_scene("asks for too much memory", fails=True)
def _() -> nn.Module:
    class Greedy(_Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + torch.ones(1 << 44)

    return Greedy()


@_scene("raises MemoryError", fails=True)
def _() -> nn.Module:
    return nn.Sequential(net(), _Raises(MemoryError()))


# -- hooks of other tools --------------------------------------------------------------------------------------------


@_scene("hooks that change inputs and outputs", trained=True)
def _() -> nn.Module:
    model = net()
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[0].register_forward_hook(lambda module, args, output: output + 1)
    model[4].register_forward_hook(lambda module, args, kwargs, output: output * 3, with_kwargs=True, always_call=True)
    model.register_forward_pre_hook(lambda module, args, kwargs: (args, kwargs), with_kwargs=True, prepend=True)
    return model


@_scene("hooks that remove themselves")
def _() -> nn.Module:
    model = net()

    def once(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        handle.remove()
        return output + 5

    handle = model[1].register_forward_hook(once)
    return model


@_scene("hooks that add hooks")
def _() -> nn.Module:
    model = net()

    def grow(module: nn.Module, args: Any) -> None:
        model[4].register_forward_hook(lambda module, args, output: output * 2)

    model[0].register_forward_pre_hook(grow)
    return model


@_scene("a hook that raises", fails=True)
def _() -> nn.Module:
    model = net()

    def refuse(module: nn.Module, args: Any, output: Tensor) -> None:
        raise LookupError("hook")

    model[2].register_forward_hook(refuse)
    return model


@_scene("a hook that changes its output in place", trained=True)
def _() -> nn.Module:
    model = net()

    def change(module: nn.Module, args: Any, output: Tensor) -> None:
        with torch.no_grad():
            output.mul_(2)

    model[0].register_forward_hook(change)
    return model


@_scene("backward hooks", trained=True)
def _() -> nn.Module:
    model = net()
    model[0].register_full_backward_hook(lambda module, given, got: (None,))
    model[4].register_full_backward_pre_hook(lambda module, got: (got[0] * 2,))
    model[4].weight.register_hook(lambda gradient: gradient * 3)
    model[1].weight.register_post_accumulate_grad_hook(lambda parameter: None)
    return model


@contextlib.contextmanager
def _global_hooks() -> Iterator[None]:
    handles = [
        nn.modules.module.register_module_forward_pre_hook(lambda module, args: None),
        nn.modules.module.register_module_forward_hook(
            lambda module, args, output: output * 2 if isinstance(module, nn.Linear) else None
        ),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@_scene("hooks on all modules there are", around=_global_hooks)
def _() -> nn.Module:
    return net()


@_scene("hooks of loading and saving")
def _() -> nn.Module:
    model = net()
    model.register_state_dict_pre_hook(lambda module, prefix, keep: None)
    model.register_load_state_dict_post_hook(lambda module, keys: None)
    return model


# -- weights that are made -------------------------------------------------------------------------------------------


@_scene("weight norm, spectral norm, orthogonal", trained=True)
def _() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 4)), parametrizations.spectral_norm(nn.Linear(4, 4)),
        parametrizations.orthogonal(nn.Linear(4, 4)),
    )  # fmt: skip


@_scene("the weight norm of earlier versions", trained=True)
def _() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.ReLU())


@_scene("parametrized twice, and cached", around=lambda: parametrize.cached())
def _() -> nn.Module:
    class Shifted(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight + 1

    model = net()
    for _ in range(2):
        parametrize.register_parametrization(model[0], "weight", Shifted())
    return model


@_scene("pruned", trained=True)
def _() -> nn.Module:
    model = net()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


# -- classes that are odd --------------------------------------------------------------------------------------------


@_scene("modules with slots and attributes of their own making")
def _() -> nn.Module:
    class Slotted(_Around):
        __slots__ = ("extra",)

        def __init__(self) -> None:
            super().__init__()
            object.__setattr__(self, "extra", 3.0)

        def __getattr__(self, name: str) -> Any:
            return 7.0 if name.startswith("magic") else super().__getattr__(name)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * self.extra + self.magic_number

    return Slotted()


@_scene("a call of its own", trained=True)
def _() -> nn.Module:
    class Calling(_Around):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x) + 1

    return nn.Sequential(Calling(), nn.Linear(3, 3))


@_scene("false, empty, equal to nothing")
def _() -> nn.Module:
    class Odd(_Around):
        def __bool__(self) -> bool:
            raise RuntimeError("neither")

        def __len__(self) -> int:
            return 0

        def __repr__(self) -> str:
            raise RuntimeError("no name")

    return nn.Sequential(Odd(), nn.Linear(3, 3))


@_scene("properties that raise")
def _() -> nn.Module:
    class Guarded(_Around):
        @property
        def stride(self) -> int:
            raise ValueError("not to be read")

        @property
        def in_features(self) -> int:
            raise AttributeError("nor this")

    return Guarded()


@_scene("forward as an attribute, and bound elsewhere")
def _() -> nn.Module:
    model, other = net(), net()
    model[2].forward = other[0].forward
    return model


@_scene("calls the forward of its parts itself")
def _() -> nn.Module:
    class Direct(_Around):
        def forward(self, x: Tensor) -> Tensor:
            return self.inner[4].forward(self.inner[0].forward(x))

    return Direct()


@_scene("recursion")
def _() -> nn.Module:
    class Recursive(_Around):
        def forward(self, x: Tensor, depth: int = 3) -> Tensor:
            y = self.inner[0](x)
            return self(y, depth - 1) if depth else y

    return Recursive()


@_scene("generators between its layers", trained=True)
def _() -> nn.Module:
    class Generating(_Around):
        def steps(self, x: Tensor) -> Iterator[Tensor]:
            for layer in self.inner:
                x = layer(x)
                yield x

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([y.sum(1) for y in self.steps(x)], 1)

    return Generating()


@_scene("returns a generator")
def _() -> nn.Module:
    class Lazily(_Around):
        def forward(self, x: Tensor) -> Any:
            return (layer(x) for layer in (self.inner[0],))

    return Lazily()


@_scene("a layer that is used twice, under two names")
def _() -> nn.Module:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    model.add_module("again", layer)
    return model


@_scene("changes its input in place")
def _() -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.ReLU(inplace=True), nn.Linear(4, 3), nn.ReLU(inplace=True))


@_scene("grows while it runs")
def _() -> nn.Module:
    class Growing(_Around):
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "late"):
                self.late = nn.Linear(3, 3)
                self.register_buffer("made", torch.ones(3))
            return self.late(self.inner(x)) + self.made

    return Growing()


@_scene("compiled")
def _() -> nn.Module:
    model: Any = torch.compile(net(), backend="eager")
    return model


@_scene("a part that is compiled", trained=True)
def _() -> nn.Module:
    return nn.Sequential(torch.compile(net(), backend="eager"), nn.Linear(3, 3))


@_scene("data parallel")
def _() -> nn.Module:
    return nn.DataParallel(net())


@_scene("a custom function of autograd", trained=True)
def _() -> nn.Module:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 2

    class Custom(_Around):
        def forward(self, x: Tensor) -> Tensor:
            return Twice.apply(self.inner(x))

    return Custom()


@_scene("checkpointed", trained=True)
def _() -> nn.Module:
    class Checkpointed(_Around):
        def forward(self, x: Tensor) -> Tensor:
            from torch.utils.checkpoint import checkpoint

            return checkpoint(self.inner, x, use_reentrant=False)

    return Checkpointed()


@_scene("vmap and jvp inside")
def _() -> nn.Module:
    class Mapped(_Around):
        def forward(self, x: Tensor) -> Tensor:
            each = torch.vmap(lambda row: row.sin() * row.sum())(x)
            _, slope = torch.func.jvp(torch.tanh, (x,), (torch.ones_like(x),))
            return self.inner(each + slope)

    return Mapped()


@_scene("draws of all generators", trained=True)
def _() -> nn.Module:
    class Drawing(_Around):
        def __init__(self) -> None:
            super().__init__()
            self.own = torch.Generator().manual_seed(5)

        def forward(self, x: Tensor) -> Tensor:
            drawn = torch.rand(3) + random.random() + float(np.random.rand()) + torch.rand(3, generator=self.own)
            return self.inner(x) + drawn

    return Drawing()


# -- programs that are odd -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autograd.set_detect_anomaly(True, check_nan=False):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


_CONTEXTS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a default of float64, anomalies looked for": _settings,
    "a default device": lambda: torch.device("cpu"),
}
for _name, _context in _CONTEXTS.items():
    SCENES[f"inside {_name}"] = Scene(net, around=_context)


@_scene("frozen parts, mixed modes", trained=True)
def _() -> nn.Module:
    model = net()
    model[0].requires_grad_(False)
    model[1].eval()
    return model


@_scene("in evaluation")
def _() -> nn.Module:
    return net().eval()


for _threads in (2, 4):
    SCENES[f"called by {_threads} threads"] = Scene(lambda: net().eval(), threads=_threads)
