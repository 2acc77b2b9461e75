"""A plan as a Python script that one could have written by hand: it needs the frameworks and numpy, not tracer."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tracer.alignment.owned import Key, described
from tracer.alignment.patterns import fold
from tracer.alignment.relayout import Steps
from tracer.errors import InputError
from tracer.names import display
from tracer.store import Recording
from tracer.weighing.carrying import Carried
from tracer.weighing.expressions import Expression, inverse
from tracer.weighing.loops import loops
from tracer.weighing.plan import Absorb, Copy, Fill, Norm, Plan
from tracer.weighing.scripts import Glue, glue

_HELPERS = {
    "blocks": """
def blocks(values, axis, order):
    \"\"\"Equal blocks along an axis (gates, heads) in another order.\"\"\"
    parts = np.split(values, len(order), axis)
    return np.concatenate([parts[i] for i in order], axis)
""",
    "runs": """
def runs(values, axis, lengths, order):
    \"\"\"Stretches of these lengths along an axis in another order.\"\"\"
    parts = np.split(values, np.cumsum(lengths)[:-1], axis)
    return np.concatenate([parts[i] for i in order], axis)
""",
    "suffix": """
def suffix(number):
    return f"_{number}" if number else ""
""",
}


@dataclass(frozen=True)
class Block:
    """Statements that belong together, with ``\\0``-marked places for the names of both sides.

    Attributes:
        lines: what is done; ``\\0s3\\0`` stands for the third name of the source, ``\\0t0\\0`` for the target's first.
        source, target: the names.
    """

    lines: tuple[str, ...]
    source: tuple[str, ...]
    target: tuple[str, ...]


def script(plan: Plan, carried: Carried, source: Recording, target: Recording) -> str:
    """The transfer as Python code, loops over repeated blocks.

    Raises InputError where a side is of a framework whose models a script cannot read or write.
    """
    ours, theirs = _glue(source, "source"), _glue(target, "target")
    writer = _Writer(plan, carried, _Model(source, ours), _Model(target, theirs))
    blocks = writer.blocks()
    items = [(block.source or block.target, block.target) for block in blocks]
    body = loops(blocks, fold(items, [block.lines for block in blocks]))
    return _file(body, ours, theirs, _about(source, target, carried))


def _glue(recording: Recording, side: str) -> Glue:
    found = glue(recording)
    if found is None:
        raise InputError(
            f"a script has no way to the weights of '{display(recording.name)}' ({side}): it knows Keras and PyTorch"
        )
    return found


class _Model:
    """One side: how its parameters are named in the script."""

    def __init__(self, recording: Recording, glue: Glue) -> None:
        self.glue = glue
        self.shapes = {key: tuple(stored.shape) for key, stored in recording.weights.items()}
        listed = dict.fromkeys((*described(recording.structure), *recording.weights))
        self.by_owner: dict[str, list[Key]] = {}
        for key in listed:
            if key in self.shapes:
                self.by_owner.setdefault(key[0], []).append(key)

    def name(self, key: Key) -> str:
        """What the script calls it: a layer's path, or the parameter's own name where it is found by that."""
        return key[0] if self.glue.by_layer else self.glue.join.join(filter(None, key))

    def own(self, owner: str) -> bool:
        """Whether layers below this one have weights of their own."""
        return any(other.startswith(f"{owner}/" if owner else "") and other != owner for other in self.by_owner)


@dataclass
class _Names:
    """The names of one side that a block uses, as places in its lines."""

    letter: str
    found: list[str] = field(default_factory=list)

    def place(self, name: str) -> str:
        if name not in self.found:
            self.found.append(name)
        return f"\0{self.letter}{self.found.index(name)}\0"


class _Writer:
    def __init__(self, plan: Plan, carried: Carried, source: _Model, target: _Model) -> None:
        self.source, self.target = source, target
        self.made: dict[Key, list[Copy]] = {}
        self.fills: dict[Key, Fill] = {}
        self.absorbed: dict[Key, list[Absorb]] = {}
        for operation in plan.operations:
            if isinstance(operation, Copy):
                for key in operation.target:
                    self.made.setdefault(key, []).append(operation)
            elif isinstance(operation, Fill):
                self.fills[operation.target] = operation
            elif operation.source not in carried.left_over:
                self.absorbed.setdefault(operation.into, []).append(operation)
        self.keys = [key for key in (*self.made, *self.fills) if key in carried.values]

    def blocks(self) -> list[Block]:
        return [self._block(keys) for keys in self._groups()]

    def _groups(self) -> Iterator[list[Key]]:
        """Parameters of the target that share a layer of either side, in running order."""
        leader: dict[str, str] = {}

        def find(name: str) -> str:
            while leader.setdefault(name, name) != name:
                name = leader[name]
            return name

        for key in self.keys:
            ours = [f"s{own[0]}" for made in self.made.get(key, ()) for own in made.source]
            ours += [f"s{made.folded.owner}" for made in self.made.get(key, ()) if made.folded is not None]
            ours += [f"s{one.source[0]}" for one in self.absorbed.get(key, ())]
            theirs = [f"t{other[0]}" for made in self.made.get(key, ()) for other in made.target] or [f"t{key[0]}"]
            for name in (*ours, *theirs):
                leader[find(name)] = find(theirs[0])
        groups: dict[str, list[Key]] = {}
        for key in self.keys:
            groups.setdefault(find(f"t{key[0]}"), []).append(key)
        yield from groups.values()

    def _block(self, keys: Sequence[Key]) -> Block:
        ours, theirs = _Names("s"), _Names("t")
        scope = _Scope(self.source, ours)
        values = {key: self._value(key, scope) for key in keys}
        lines = [*scope.reads(), *self._writes(values, theirs)]
        return Block(tuple(lines), tuple(ours.found), tuple(theirs.found))

    def _writes(self, values: dict[Key, str], names: _Names) -> Iterator[str]:
        if not self.target.glue.by_layer:
            for key, value in values.items():
                yield f"state[{names.place(self.target.name(key))}] = {value}"
            return
        for owner in dict.fromkeys(key[0] for key in values):
            given = [values.get(key, "None") for key in self.target.by_owner[owner]]
            own = ", own=True" if self.target.own(owner) else ""
            if len(given) < 3:
                yield f"put({names.place(owner)}, [{', '.join(given)}]{own})"
            else:
                yield f"put({names.place(owner)}, ["
                yield from (f"    {one}," for one in given)
                yield f"]{own})"

    # -- one value ---------------------------------------------------------------------------------------------------

    def _value(self, key: Key, scope: _Scope) -> str:
        shape = self.target.shapes[key]
        if key in self.fills and key not in self.made:
            return _constant(self.fills[key].value, shape)
        made = self.made[key]
        if any(step[0] == "sum" for step in made[0].target_steps) and key != made[0].target[0]:
            return _constant(0.0, shape)
        found = self._put_back(made, key, scope)
        absorbed = self.absorbed.get(key, ())
        for one in absorbed:
            other = Expression.of(scope(one.source), self.source.shapes[one.source]).result(shape)
            if one.epsilon is None:
                found = f"{found} - {other}"
            else:
                found = f"({found} + {one.epsilon!r}) / {other} ** 2 - {one.epsilon!r}"
        return found

    def _put_back(self, made: Sequence[Copy], key: Key, scope: _Scope) -> str:
        """The source's values in the target's layout."""
        first = made[0]
        shape = self.target.shapes[key]
        steps = tuple(step for step in first.target_steps if step[0] != "sum")
        if any(step[0] == "fold" for step in steps):
            raise InputError("a script cannot write two biases of one array of which only the sum is known")
        cut = next((at for at, step in enumerate(steps) if step[0] == "part"), None)
        if cut is None:
            found = self._joined(first, key, scope)
            for step in inverse(steps, shape):
                found.then(step)
            return found.result(shape)
        axis = int(steps[cut][1])
        whole = _shape_after(steps[:cut], shape)
        parts: dict[int, str] = {}
        for one in made:
            own = tuple(step for step in one.target_steps if step[0] != "sum")
            index, count = (int(n) for n in own[cut][2:])
            part = self._joined(one, key, scope)
            size = (*whole[:axis], whole[axis] // count, *whole[axis + 1 :])
            for step in inverse(own[cut + 1 :], size):
                part.then(step)
            parts[index] = part.result(size)
        joined = Expression.of(f"np.concatenate([{', '.join(parts[index] for index in sorted(parts))}], {axis})", whole)
        for step in inverse(steps[:cut], shape):
            joined.then(step)
        return joined.result(shape)

    def _joined(self, made: Copy, key: Key, scope: _Scope) -> Expression:
        """What ``made`` gives for ``key`` in the common layout."""
        found = self._read(made, scope)
        number = made.target.index(key)
        summed = any(step[0] == "sum" for step in made.target_steps)
        count = 1 if summed else len(made.target)
        common = _shape_after(
            tuple(s for s in made.target_steps if s[0] not in ("sum", "part")), self.target.shapes[key]
        )
        if len(found) == count:
            return found[number]
        if len(found) == 1 and found[0].shape[:1] == (count,):
            text = found[0].operand()
            return Expression.of(f"{text}[{number}]", found[0].shape[1:])
        if count == 1 and common[:1] == (len(found),):
            return Expression.of(f"np.stack([{', '.join(one.result() for one in found)}])", common)
        raise InputError(f"a script cannot say how {display('.'.join(key))} is made")

    def _read(self, made: Copy, scope: _Scope) -> list[Expression]:
        norm = made.folded
        if not made.source:
            assert norm is not None
            return [scope.shift(norm, self.source.shapes[norm.mean])]
        found = [Expression.of(scope(key), self.source.shapes[key]) for key in made.source]
        for step in made.source_steps:
            if step[0] == "sum":
                if len(found) > 1:
                    found = [_summed(found)]
            else:
                for one in found:
                    one.then(step)
        if norm is not None:
            for one in found:
                scale = scope.scale(norm)
                text = f"{one.operand()} * {scale}"
                if made.shifts:
                    text = f"{text} + {scope.shift(norm, one.shape).text}"
                one.becomes(text)
        return found


class _Scope:
    """What a block reads of the source, each parameter under a name of its own."""

    def __init__(self, model: _Model, names: _Names) -> None:
        self._model, self._names = model, names
        self._variables: dict[Key, str] = {}
        self._norms: dict[str, str] = {}
        self._reads: list[str] = []

    def __call__(self, key: Key) -> str:
        """The expression for a parameter."""
        if not self._model.glue.by_layer:
            return f"w[{self._names.place(self._model.name(key))}]"
        if key not in self._variables:
            self._unpack(key[0])
        return self._variables[key]

    def _unpack(self, owner: str) -> None:
        keys = self._model.by_owner[owner]
        taken = set(self._variables.values())
        names = [_identifier(key[1]) for key in keys]
        while taken & set(names) or len(set(names)) < len(names):
            number = len(taken) + 1
            names = [f"{name}_{number}" if name in taken or names.count(name) > 1 else name for name in names]
            names = [f"{name}{at}" if names.count(name) > 1 else name for at, name in enumerate(names)]
        self._variables.update(zip(keys, names, strict=True))
        own = ", own=True" if self._model.own(owner) else ""
        left = ", ".join(names) if len(names) > 1 else f"({names[0]},)"
        self._reads.append(f"{left} = get({self._names.place(owner)}{own})")

    def scale(self, norm: Norm) -> str:
        """The name of a BatchNorm's scale."""
        if norm.owner not in self._norms:
            name = f"scale{len(self._norms) + 1 if self._norms else ''}"
            gamma = "1" if norm.gamma is None else self(norm.gamma)
            line = f"{name} = {gamma} / np.sqrt({self(norm.variance)} + {norm.epsilon!r})"
            self._norms[norm.owner] = name
            self._reads.append(line)
        return self._norms[norm.owner]

    def shift(self, norm: Norm, shape: tuple[int, ...]) -> Expression:
        scale = self.scale(norm)
        less = f"{self(norm.mean)} * {scale}"
        found = Expression.of("", shape)
        found.becomes(f"{self(norm.beta)} - {less}" if norm.beta is not None else f"-{less}")
        return found

    def reads(self) -> list[str]:
        return self._reads


def _summed(found: Sequence[Expression]) -> Expression:
    joined = Expression.of("", found[0].shape)
    joined.becomes(" + ".join(one.operand() for one in found))
    return joined


def _shape_after(steps: Steps, shape: tuple[int, ...]) -> tuple[int, ...]:
    found = Expression.of("", shape)
    for step in steps:
        found.then(step)
    return found.shape


def _constant(value: float, shape: tuple[int, ...]) -> str:
    lengths = str(shape[0]) if len(shape) == 1 else str(shape)
    word = {0.0: "np.zeros({})", 1.0: "np.ones({})"}.get(value, f"np.full({{}}, {value!r})")
    return word.format(lengths)


def _identifier(name: str) -> str:
    found = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "value"
    return f"{found}_" if keyword.iskeyword(found) or found[0].isdigit() or found in ("np", "w", "get") else found


def _about(source: Recording, target: Recording, carried: Carried) -> list[str]:
    """What a reader should know, as lines of comment."""
    lines = [f"Weights of {display(source.name)} ({display(source.framework)}) for {display(target.name)} "
             f"({display(target.framework)}), written by tracer."]  # fmt: skip
    for words, keys in (("not filled", carried.missing), ("left over", carried.left_over)):
        lines += [f"{words}: {display('.'.join(filter(None, key)))}: {display(why)}" for key, why in keys.items()]
    return lines


def _file(body: Sequence[str], source: Glue, target: Glue, about: Sequence[str]) -> str:
    code = "\n".join(body)
    given = "get" if source.by_layer else "w"
    reads = "gives a layer's weights in Keras's order" if source.by_layer else "holds arrays by name"
    into = "lists of arrays by layer" if target.by_layer else "arrays by name"
    start = ["values = {}", "", "def put(path, given, own=False):", "    values[path, own] = given", ""]
    functions = (source.shared, target.shared, source.read, target.write)
    head = start if target.by_layer else ["state = {}"]
    lines = [
        *(f"# {line}" for line in about), "", "import sys", "",
        *sorted({*source.imports, *target.imports, "import numpy as np"}), "",
        *(text.rstrip("\n") + "\n" for name, text in _HELPERS.items() if f"{name}(" in code),
        "", f"def carry({given}):", f'    """The other model\'s weights, {into}; ``{given}`` {reads}."""',
        *(f"    {line}".rstrip() for line in (*head, *body)),
        f"    return {'values' if target.by_layer else 'state'}", "",
        *(text.rstrip("\n") + "\n" for text in dict.fromkeys(functions) if text),
        "", 'if __name__ == "__main__":', f"    argv = sys.argv[1:]  # source {target.usage}",
        f"    values = carry(read({source.load}))", *(f"    {line}" for line in target.save),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
