"""The contract between the core and a framework, and how adapters are found.

An adapter is a class registered under the entry-point group ``tracer.adapters``; its entry-point name is the word
typed after ``tracer record`` (``tf``, ``pt``). Importing the adapter's package must not import the framework: that
happens in :meth:`Adapter.load` and later.
"""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tracer import kinds as vocabulary
from tracer.errors import AdapterError, InputError, MissingFrameworkError, ReplayError
from tracer.graph import Layout, Param, Structure
from tracer.plugins import points
from tracer.text import described

Array = NDArray[Any]


@dataclass(frozen=True)
class LoadRequest:
    """What the user said about the model file.

    Attributes:
        path: the model file or directory; None when ``arch`` alone makes the model.
        weights: a separate weights file.
        arch: ``pkg.mod:callable`` or ``path/file.py:callable`` that builds the model.
        arch_args: positional list or keyword mapping for ``arch``.
        imports: modules (``pkg.mod``) or files (``path/file.py``) whose classes may be used.
        allow: fully qualified classes a pickle may name.
        trust: the user's consent to run code from the file.
        inputs: names of the tensors that a bare graph is fed, where it does not say them itself.
        outputs: names of the tensors it is run up to; what they do not need is left out.
    """

    path: Path | None
    weights: Path | None = None
    arch: str | None = None
    arch_args: Sequence[Any] | Mapping[str, Any] = ()
    imports: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    trust: bool = False
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


Mode = Literal["eval", "train"]


@dataclass(frozen=True)
class Run:
    """How a model is run while it is recorded.

    Attributes:
        mode: ``eval``, or ``train``: dropout draws, batch normalisation uses the batch's statistics.
        loss: the scalar whose gradients are recorded; None records none. ``sum``, ``mean`` and ``square`` (half the
            sum of squares) are taken over all elements of all floating outputs together; ``pkg.mod:callable`` or
            ``path/file.py:callable`` is called with what the model returned and gives a scalar of the framework.
    """

    mode: Mode = "eval"
    loss: str | None = None


LOSSES = ("sum", "mean", "square")
"""The values of :attr:`Run.loss` that every adapter with gradients knows."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the model as its signature states it.

    ``shape`` includes the batch; None is a free dimension, and a ``shape`` of None a free rank. ``maximum`` is the
    largest legal value of an integer input (vocabulary size − 1). ``layout`` says where channels are expected.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str = "float32"
    maximum: int | None = None
    layout: Layout | None = None


@dataclass(frozen=True)
class NotRecorded:
    """Stands in for a tensor that cannot be stored; the reason is shown to the user."""

    reason: str


class Sink(Protocol):
    """Takes activations while the model runs, and gradients where :attr:`Run.loss` asks for them."""

    def wants(self, name: str) -> bool:
        """Whether the tensor of node ``name`` is to be handed over; others cost nothing when they are not copied."""

    def __call__(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        """Store ``value`` as node ``name``.

        The array is copied before the call returns, unless ``owned`` says that nothing will change it later.
        Never raises for a fault of the writer: that would break the user's forward pass.
        """

    def gradient(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        """Store the loss's gradient with respect to the tensor of node ``name``, in any order, after all values.

        It has the tensor's shape. NotRecorded where the loss does not depend on it or it cannot be differentiated.
        """

    def weight_gradient(self, owner: str, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        """The same for a trainable parameter, by its owner and name as in :meth:`LoadedModel.parameters`."""


class Exchange(Protocol):
    """Stands between a node and what reads it while a model is run again: see :meth:`LoadedModel.replay`."""

    def wants(self, name: str) -> bool:
        """Whether the tensor of node ``name`` is to be handed over; others are left as they are, at no cost."""

    def __call__(self, name: str, value: Array) -> Array | None:
        """What everything that reads node ``name`` gets instead of the ``value`` it computed; None leaves the value.

        The array may have another shape; it is cast to the type that the node computes in. ``value`` is the model's own
        memory: it is read or copied before the call returns. What this raises ends the replay and is passed on.
        """


class Watcher(Protocol):
    """Takes what a model computes while its owner's program runs it: see :meth:`LoadedModel.watch`.

    One call of the model is one step: :meth:`due` begins it, :meth:`finish` or :meth:`lost` ends it. None of these
    raises, and arrays are copied before they return unless ``owned``.

    Attributes:
        gradients: whether gradients of the owner's own loss are wanted, of activations and weights.
        weights: whether parameters are wanted, as they were in the call.
    """

    gradients: bool
    weights: bool

    def due(self, mode: Mode) -> bool:
        """The model is called in this mode: whether this call is to be recorded."""

    def soon(self, mode: Mode, count: int) -> bool:
        """Whether one of the next ``count`` calls in this mode will be due, where several are begun together."""

    def structure(self, structure: Structure) -> None:
        """The graph, as the first call that is recorded shows it; told once, before that call's tensors."""

    def wants(self, name: str) -> bool:
        """Whether node ``name`` is wanted; asked after :meth:`structure`."""

    def __call__(self, name: str, value: Array | NotRecorded, owned: bool = False) -> None:
        """Node ``name``'s tensor."""

    def gradient(self, name: str, value: Array | NotRecorded, owned: bool = False) -> None:
        """The gradient with respect to it."""

    def weight(self, owner: str, param: Param, value: Array | NotRecorded, owned: bool = False) -> None:
        """A parameter or buffer, as :meth:`LoadedModel.parameters` names it."""

    def weight_gradient(self, owner: str, name: str, value: Array | NotRecorded, owned: bool = False) -> None:
        """The gradient with respect to a parameter."""

    def finish(self) -> None:
        """The step is whole."""

    def lost(self, why: str) -> None:
        """The step is given up: the model raised, or a fault of the adapter's."""


class LoadedModel(ABC):
    """A model ready to run."""

    framework: ClassVar[str]
    """``tensorflow`` or ``pytorch`` …: shown to the user."""
    loader: str
    """What loaded it, with version: ``keras 3.15.1``, ``torch 2.13.0 weights_only``."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about how it was loaded."""
    run: Run = Run()
    """How it runs; set before :meth:`structure` is first called, within what :class:`Adapter` says it can do."""
    ahead: int = 0
    """Bytes of tensors at most that :meth:`structure` may keep of its own run, if it has one, for a :meth:`capture` of
    the very same inputs that follows it and then need not run the model again."""

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of everything that computes, by package name."""

    @abstractmethod
    def signature(self) -> tuple[InputSpec, ...]:
        """The inputs in call order, as far as the model states them."""

    def optional(self) -> tuple[InputSpec, ...]:
        """Further inputs that it takes where they are given by name, in call order."""
        return ()

    @abstractmethod
    def structure(self, inputs: Mapping[str, Array]) -> Structure:
        """The graph for these inputs (keys: names of :meth:`signature` and :meth:`optional`), without storing values.

        It may be asked for several inputs in turn. Raises InputError when the model does not take them, in one line
        that says why; a fault of the model's own ends the structure and stands in its ``fault``.
        """

    @abstractmethod
    def capture(self, inputs: Mapping[str, Array], sink: Sink) -> None:
        """Run once as :attr:`run` says and hand every stored node's tensor that ``sink`` wants to it, in order.

        :meth:`structure` was called with inputs of these shapes and types before. Raises ModelError when the model
        raises; whatever ran before was handed over. The model is left as it was found: parameters, buffers, modes,
        hooks, attributes, random state.
        """

    def live(self) -> object:
        """The framework's own object, for one who means to change it. Raises ReplayError where there is none."""
        raise ReplayError(f"models of {self.framework} loaded by {self.loader} cannot be changed in memory")

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Follow the live model while its owner's program calls it; what is returned ends that.

        What the model computes stays as it is (where a compiled step must run uncompiled to be seen, but for rounding),
        and a fault of the adapter's or the watcher's never reaches its owner. Raises ReplayError where models of this
        kind cannot be followed.
        """
        raise ReplayError(f"models of {self.framework} loaded by {self.loader} cannot be watched while they run")

    def rank(self) -> int | None:
        """Which process of a distributed run this is; None where there is one alone."""
        return None

    def replay(self, inputs: Mapping[str, Array], exchange: Exchange, *, double: bool = False) -> None:
        """Run once more as :attr:`run` says, with tensors exchanged on the way; no gradients.

        Every stored node that ``exchange`` wants is handed over by the name it has in :meth:`structure`, the inputs
        among them, each as soon as it exists, and what ``exchange`` returns takes its place for all that runs after it
        (for what shares its memory, too, where the model changes it in place; never for what ran before). So each node
        can be fed another model's activations.

        With ``double`` weights, inputs and everything between are float64 where the model computes in a narrower
        floating type (a cast to such a type on the way is one to float64), so that what remains of rounding is
        negligible; nodes that cannot be computed so are run in their own type. The model itself is left as it was.

        Raises ReplayError, in one line that says why, where the model cannot be run so, and ModelError when it raises.
        """
        raise ReplayError(f"models of {self.framework} loaded by {self.loader} cannot be run again node by node")

    def replay_rest(
        self, inputs: Mapping[str, Array], exchange: Exchange, known: Mapping[str, Array], *, double: bool = False
    ) -> None:
        """As :meth:`replay`, where some nodes need not be computed: everything that reads them gets ``known`` of them.

        That saves time where an adapter can leave out what only they need; each that it computes all the same it hands
        to ``exchange``, which returns ``known`` of it. Arrays are taken from ``known`` only where something reads them.
        Raises as :meth:`replay`.
        """
        self.replay(inputs, exchange, double=double)

    @abstractmethod
    def parameters(self) -> Iterable[tuple[str, Param, Array]]:
        """Every parameter and buffer once: owner (as :attr:`Node.owner`), its description, its value."""

    def assign(self, values: Mapping[tuple[str, str], Array]) -> None:
        """Put ``values`` into parameters and buffers, by owner and name as :meth:`parameters` gives them; others stay.

        Each is cast to the parameter's own type. A parameter that several layers share has one key and is changed for
        all of them. Everything is checked before anything is changed (:func:`tracer.weighing.fitting.fitted` does it):
        raises InputError, in one line, for a key that :meth:`parameters` does not give, another shape, or values that
        the parameter's type cannot hold; ReplayError where the model's weights cannot be changed. The model is then as
        it was.
        """
        raise ReplayError(f"the weights of models of {self.framework} loaded by {self.loader} cannot be changed")

    def save_weights(self, path: Path) -> None:
        """Write the model's weights to ``path``, whose name ends as one of :attr:`Adapter.weight_files` does.

        Raises InputError, in one line, where the model cannot be written in that format, OSError where the disk fails.
        """
        raise ReplayError(f"the weights of models of {self.framework} loaded by {self.loader} cannot be saved")


class Adapter(ABC):
    """A framework's way in."""

    framework: ClassVar[str]
    requires: ClassVar[tuple[str, ...]]
    """Import names that must be importable (``torch``)."""
    late: ClassVar[tuple[str, ...]] = ()
    """Those of ``requires`` that start threads when imported: a confined worker imports them once it is confined."""
    extra: ClassVar[str] = ""
    """The extra of its distribution that installs them; empty where the distribution itself requires them."""
    settings_files: ClassVar[tuple[str, ...]] = ()
    """The framework's own settings, which a confined worker may read (``~`` stands for the home folder)."""
    formats: ClassVar[str]
    """What ``load`` takes, in words, for error messages."""
    modes: ClassVar[tuple[Mode, ...]] = ("eval",)
    """The modes of :class:`Run` that its models can run in."""
    gradients: ClassVar[bool] = False
    """Whether its models can give gradients."""
    weight_files: ClassVar[tuple[str, ...]] = ()
    """What the names of the files end in that its models' weights can be written to, the usual one first."""
    kinds: ClassVar[Mapping[str, Iterable[str]]] = {}
    """Words of its own for operations that :mod:`tracer.kinds` does not list, each with the listed words that it
    resembles (none where it is like nothing else). They are kept with every recording that uses them."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Add :attr:`kinds` to the vocabulary. Raises ValueError for words that cannot be added."""
        super().__init_subclass__(**kwargs)
        vocabulary.declare(cls.kinds)

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether ``path`` looks like one of its files, by name or a cheap look; imports no framework."""
        return False

    def runs_code(self, request: LoadRequest) -> tuple[str, ...]:
        """What in the files would run code on loading, a sentence each; found without loading them.

        Raises InputError when they cannot be read.
        """
        return ()

    def files(self, request: LoadRequest) -> tuple[Path, ...]:
        """Files besides those of the request that the model is made of, for a confined worker to read.

        Found without loading anything, and only where they lie in the model's own folder or below.
        """
        return ()

    def tensors(self, request: LoadRequest) -> tuple[Param, ...]:
        """The tensors that lie open in the files, by their names there: what can be said where :meth:`load` cannot.

        At least those of files of weights alone. Nothing of the files runs; ``trainable`` says nothing. Raises
        InputError or RefusedError.
        """
        return ()

    @classmethod
    @abstractmethod
    def owns(cls, model: object) -> bool:
        """Whether ``model`` is a live object of this framework; must not import the framework."""

    def environment(self, request: LoadRequest) -> dict[str, str]:
        """Variables that the framework must find when it is imported for these files; found without importing it."""
        return {}

    @abstractmethod
    def preflight(self, request: LoadRequest) -> None:
        """Cheap checks without importing the framework. Raises InputError or RefusedError."""

    @abstractmethod
    def load(self, request: LoadRequest) -> LoadedModel:
        """Load from files under the trust rules.

        Raises InputError or RefusedError, in one line; NoModelError where the files hold weights without a network.
        """

    def constant(self, request: LoadRequest) -> str:
        """What a model is whose weights cannot be changed, in words (``a frozen graph``); empty where they can.

        A cheap look at the files, which imports no framework. Raises InputError where they cannot be read.
        """
        return ""

    def filled(self, request: LoadRequest, path: Path) -> LoadRequest:
        """How to load the model of ``request`` with the weights that its :meth:`LoadedModel.save_weights` wrote."""
        return replace(request, weights=path)

    @abstractmethod
    def wrap(self, model: object) -> LoadedModel:
        """Take a live model object for which :meth:`owns` is true."""


GROUP = "tracer.adapters"
OURS = "tracer-nn"
"""The distribution whose adapters keep their names, whatever else is installed."""


def names() -> tuple[str, ...]:
    """The names of all installed adapters; imports none of them."""
    return tuple(sorted({point.name for point in points(GROUP)}))


def distribution(point: EntryPoint) -> str:
    """The distribution that an entry point belongs to."""
    return point.dist.name if point.dist is not None else point.module


def shadowed() -> dict[str, str]:
    """Sentences about adapters that cannot be had because another has their name, by that distribution."""
    ours = {point.name for point in points(GROUP) if distribution(point) == OURS}
    return {
        distribution(point): f"its adapter '{point.name}' is not used: tracer has one of that name"
        for point in points(GROUP)
        if point.name in ours and distribution(point) != OURS
    }


def entry_point(name: str) -> EntryPoint:
    """Raises InputError when there is none, AdapterError when several distributions use the name."""
    found = [point for point in points(GROUP) if point.name == name]
    found = [point for point in found if distribution(point) == OURS] or found
    if not found:
        raise InputError(f"no adapter named '{name}'; installed: {', '.join(names()) or 'none'}")
    homes = sorted({distribution(point) for point in found})
    if len(homes) > 1:
        raise AdapterError(f"{' and '.join(homes)} both have an adapter named '{name}': uninstall one of them")
    return found[0]


def _class(name: str) -> tuple[type[Adapter], str]:
    """The adapter class and its distribution. Raises InputError, AdapterError."""
    point = entry_point(name)
    home = distribution(point)
    try:
        found = point.load()
    except (Exception, SystemExit) as error:
        raise AdapterError(f"adapter '{name}' of {home} cannot be imported: {described(error)}") from error
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise AdapterError(f"adapter '{name}' of {home} is broken: {point.value} is no subclass of Adapter")
    lacking = [key for key in ("framework", "requires", "formats") if not hasattr(found, key)]
    lacking += sorted(found.__abstractmethods__)
    if lacking:
        raise AdapterError(f"adapter '{name}' of {home} is broken: {point.value} does not say {', '.join(lacking)}")
    return found, home


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    try:
        return module in sys.modules or find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing, or is no package
        return False


def get(name: str, *, check: bool = True) -> Adapter:
    """The adapter ``name``.

    Raises InputError if there is none, AdapterError if it is broken, MissingFrameworkError if ``check`` and its
    framework is not installed.
    """
    cls, home = _class(name)
    missing = [module for module in cls.requires if check and not _installed(module)]
    if missing:
        extra = f"[{cls.extra}]" if cls.extra else ""
        install = f"'{home}{extra}'" if extra else home
        raise MissingFrameworkError(f"'{name}' needs {', '.join(missing)}: pip install {install}", tuple(missing))
    try:
        return cls()
    except Exception as error:
        raise AdapterError(f"adapter '{name}' of {home} is broken: {described(error)}") from error


def for_object(model: object) -> tuple[str, Adapter]:
    """The adapter that owns a live model object.

    Raises InputError when none does; adapters that are broken are passed over, and named then.
    """
    broken = []
    for name in names():
        try:
            owns = _class(name)[0].owns(model)
        except Exception as error:
            broken.append(str(error) if isinstance(error, AdapterError) else f"adapter '{name}': {described(error)}")
            continue
        if owns:
            return name, get(name)
    besides = f" ({'; '.join(broken)})" if broken else ""
    raise InputError(f"no adapter knows objects of type {type(model).__module__}.{type(model).__qualname__}{besides}")


def claiming(path: Path) -> tuple[str, ...]:
    """The names of the adapters that claim a file; those that are broken are passed over."""
    found = []
    for name in names():
        with contextlib.suppress(Exception):
            if _class(name)[0].claims(path):
                found.append(name)
    return tuple(found)


@dataclass
class MemorySink:
    """A sink that keeps everything, or only the nodes in ``only``: for tests and small models."""

    values: dict[str, Array | NotRecorded] = field(default_factory=dict)
    gradients: dict[str, Array | NotRecorded] = field(default_factory=dict)
    weight_gradients: dict[tuple[str, str], Array | NotRecorded] = field(default_factory=dict)
    only: frozenset[str] | None = None

    def wants(self, name: str) -> bool:
        return self.only is None or name in self.only

    def gradient(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        self.gradients[name] = np.array(value) if isinstance(value, np.ndarray) else value

    def weight_gradient(self, owner: str, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        self.weight_gradients[owner, name] = np.array(value) if isinstance(value, np.ndarray) else value

    def __call__(self, name: str, value: Array | NotRecorded, *, owned: bool = False) -> None:
        self.values[name] = np.array(value) if isinstance(value, np.ndarray) else value
