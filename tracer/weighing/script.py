"""A plan as a Python script that one could have written by hand: it needs the frameworks and numpy, not tracer."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tracer.alignment.owned import Key, described
from tracer.alignment.patterns import fold
from tracer.alignment.relayout import Step, Steps
from tracer.errors import InputError
from tracer.graph import Node
from tracer.names import display
from tracer.store import Recording
from tracer.weighing.carrying import Carried
from tracer.weighing.expressions import Expression, inverse
from tracer.weighing.loops import loops
from tracer.weighing.plan import Absorb, Copy, Fill, Norm, Plan
from tracer.weighing.scripts import Glue, glue

_JOINING = ("sum", "normed")
"""Steps that make one array of several, of which the first then holds all or what the others follow from."""
_WIDE = 96
"""Characters from which on a statement is written over several lines."""
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
    "normed": """
def normed(direction, given, axis):
    \"\"\"A weight-normalised kernel: a direction with the given lengths along an axis (None: one for all).\"\"\"
    own = lengths(direction, axis)
    return direction * (given.reshape(own.shape) / own)
""",
    "lengths": """
def lengths(kernel, axis):
    \"\"\"Euclid's length of a kernel at each place along an axis.\"\"\"
    others = tuple(other for other in range(kernel.ndim) if other != axis)
    return np.sqrt((kernel * kernel).sum(others, keepdims=True))
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
    body = min(_body(blocks), _with_letters(blocks), key=len)
    return _file(body, ours, theirs, _about(source, target, carried))


def _body(blocks: Sequence[Block]) -> list[str]:
    items = [(block.source or block.target, block.target) for block in blocks]
    return loops(blocks, fold(items, [block.lines for block in blocks]))


_LETTER = re.compile(r"(?<=[0-9])[a-z](?=[_/.]|$)")
_COUNTED = re.compile(r"<<(?:([0-9]+)|\{([a-z0-9 +*-]+)\})>>")


def _with_letters(blocks: Sequence[Block]) -> list[str]:
    """The lines of the blocks where letters behind a number count (``block2a``, ``block2b``) as numbers do."""
    if any("<<" in name for block in blocks for name in (*block.source, *block.target)):
        return _body(blocks)

    def counted(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(_LETTER.sub(lambda letter: f"<<{ord(letter[0]) - ord('a')}>>", name) for name in names)

    def letter(found: re.Match[str]) -> str:
        return chr(ord("a") + int(found[1])) if found[1] else f"{{chr({ord('a')} + {found[2]})}}"

    lines = _body([replace(block, source=counted(block.source), target=counted(block.target)) for block in blocks])
    found = [_COUNTED.sub(letter, line) for line in lines]
    return _body(blocks) if any("<<" in line for line in found) else found


def _glue(recording: Recording, side: str) -> Glue:
    found = glue(recording)
    if found is None:
        raise InputError(
            f"a script has no way to the weights of '{display(recording.name)}' ({side}): it knows Keras and PyTorch"
        )
    return found


@dataclass(frozen=True)
class Normed:
    """A weight that its framework computes: what its file holds instead, and the axis of the lengths (None: none)."""

    axis: int | None
    lengths: Key
    direction: Key


def _normed(node: Node) -> Iterator[tuple[Key, Normed]]:
    """The weights of a node that its framework computes, as far as the recording says so in the known form."""
    held = node.config.get("weight_norm")
    for one in held if isinstance(held, list | tuple) else ():
        match one:
            case [str(name), int() | None as axis, str(lengths), str(direction)]:
                yield (node.owner, name), Normed(axis, (node.owner, lengths), (node.owner, direction))


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
        self.normed = dict(found for node in recording.structure for found in _normed(node))

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

    def filled(self, text: str) -> str:
        """A line with the names in their places, all numbers of one digit: lines of a loop are broken alike."""
        for at, name in enumerate(self.found):
            text = text.replace(f"\0{self.letter}{at}\0", repr(re.sub(r"\d+", "0", name)))
        return text


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
        lines = [*scope.reads(), *self._writes(values, theirs, ours)]
        return Block(tuple(lines), tuple(ours.found), tuple(theirs.found))

    def _writes(self, values: dict[Key, str], names: _Names, read: _Names) -> Iterator[str]:
        if not self.target.glue.by_layer:
            for key, value in values.items():
                normed = self.target.normed.get(key)
                place = names.place(self.target.name(normed.direction if normed else key))
                yield f"state[{place}] = {value}"
                if normed is not None:
                    shape = "" if normed.axis is not None else ".reshape(())"
                    lengths = names.place(self.target.name(normed.lengths))
                    yield f"state[{lengths}] = lengths(state[{place}], {normed.axis}){shape}"
            return
        for owner in dict.fromkeys(key[0] for key in values):
            given = [values.get(key, "None") for key in self.target.by_owner[owner]]
            own = ", own=True" if self.target.own(owner) else ""
            line = f"put({names.place(owner)}, [{', '.join(given)}]{own})"
            if len(given) < 3 and len(names.filled(read.filled(line))) < _WIDE:
                yield line
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
        if any(step[0] == "sum" for step in made[0].target_steps) and _placed(made[0], key)[0]:
            return _constant(0.0, shape)
        normed = next((step for step in made[0].target_steps if step[0] == "normed"), None)
        if normed is not None and key != made[0].target[0]:
            lengths = ", ".join(map(str, shape)) if len(shape) > 1 else "-1"
            return f"lengths({self._put_back(made, made[0].target[0], scope)}, {_axis(normed)}).reshape({lengths})"
        found = self._put_back(made, key, scope)
        absorbed = self.absorbed.get(key, ())
        for one in absorbed:
            other = Expression.of(scope(one.source), self.source.shapes[one.source]).result(shape)
            if one.epsilon is None:
                found = f"{found} - {other}"
            elif one.norm is not None:
                gamma = "1" if one.norm.gamma is None else scope(one.norm.gamma)
                found = f"{found} - {other} * np.sqrt({scope(one.norm.variance)} + {one.epsilon!r}) / {gamma}"
            else:
                found = f"({found} + {one.epsilon!r}) / {other} ** 2 - {one.epsilon!r}"
        return found

    def _put_back(self, made: Sequence[Copy], key: Key, scope: _Scope) -> str:
        """The source's values in the target's layout."""
        first = made[0]
        shape = self.target.shapes[key]
        steps = tuple(step for step in first.target_steps if step[0] not in _JOINING)
        if any(step[0] == "fold" for step in steps):
            raise InputError("a script cannot write two biases of one array of which only the sum is known")
        cut = next((at for at, step in enumerate(steps) if step[0] in ("part", "cut")), None)
        if cut is None:
            return self._apart(first, key, scope, steps, shape).result(shape)
        axis = int(steps[cut][1])
        whole = _shape_after(steps[:cut], shape)
        parts: dict[int, str] = {}
        for one in made:
            own = tuple(step for step in one.target_steps if step[0] not in _JOINING)
            size = _shape_after(own[cut : cut + 1], whole)
            parts[int(own[cut][2])] = self._apart(one, key, scope, own[cut + 1 :], size).result(size)
        joined = Expression.of(f"np.concatenate([{', '.join(parts[index] for index in sorted(parts))}], {axis})", whole)
        for step in inverse(steps[:cut], shape):
            joined.then(step)
        return joined.result(shape)

    def _apart(self, made: Copy, key: Key, scope: _Scope, steps: Steps, shape: tuple[int, ...]) -> Expression:
        """What ``made`` gives for ``key`` before ``steps``, when it has ``shape``, out of what is joined there."""
        join = next((at for at, step in enumerate(steps) if step[0] == "join"), None)
        found = self._joined(made, key, scope)
        if join is None:
            for step in inverse(steps, shape):
                found.then(step)
            return found
        group, place = _placed(made, key)
        axis, *counts = (int(n) for n in steps[join][1:])
        size = _shape_after(steps[:join], shape)
        first = sum(counts[:group])
        before = [step for step in made.target_steps if step[0] not in _JOINING]
        before = before[: before.index(steps[join])]
        ends = [0]
        for other in made.target[first : first + counts[group]]:
            ends.append(ends[-1] + _shape_after(tuple(before), self.target.shapes[other])[axis])
        for step in inverse(steps[join + 1 :], (*size[:axis], ends[-1], *size[axis + 1 :])):
            found.then(step)
        found.then(("cut", axis, ends[place], ends[place + 1]))
        for step in inverse(steps[:join], shape):
            found.then(step)
        return found

    def _joined(self, made: Copy, key: Key, scope: _Scope) -> Expression:
        """What ``made`` gives for ``key`` in the common layout, and for those that are joined with it."""
        found = self._read(made, scope)
        number, _ = _placed(made, key)
        groups = next((len(step) - 2 for step in made.target_steps if step[0] == "join"), len(made.target))
        count = 1 if any(step[0] in _JOINING for step in made.target_steps) else groups
        common = _shape_after(
            tuple(s for s in made.target_steps if s[0] not in ("sum", "part", "cut", "join", "normed")),
            self.target.shapes[key],
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
            elif step[0] == "normed":
                direction, lengths = found
                text = f"normed({direction.result()}, {lengths.result()}, {_axis(step)})"
                found = [Expression.of(text, direction.shape)]
            elif step[0] == "join":
                found = list(_concatenated(found, *(int(n) for n in step[1:])))
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
        normed = self._model.normed.get(key)
        if normed is not None:
            return f"normed({self(normed.direction)}, {self(normed.lengths)}, {normed.axis})"
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


def _axis(step: Step) -> int | None:
    """Of the lengths that a ``normed`` step reads; None where there is one for all."""
    return int(step[1]) if len(step) > 1 else None


def _placed(made: Copy, key: Key) -> tuple[int, int]:
    """In which of the arrays that ``made`` gives a parameter is, and its place among those that are joined there."""
    number = made.target.index(key)
    counts = next((step[2:] for step in made.target_steps if step[0] == "join"), (1,) * len(made.target))
    for group, count in enumerate(counts):
        if number < int(count):
            return group, number
        number -= int(count)
    raise ValueError(f"{key} has no place")


def _concatenated(found: Sequence[Expression], axis: int, *counts: int) -> Iterator[Expression]:
    left = list(found)
    for count in counts:
        some, left = left[:count], left[count:]
        width = sum(one.shape[axis] for one in some)
        shape = (*some[0].shape[:axis], width, *some[0].shape[axis + 1 :])
        texts = ", ".join(one.result() for one in some)
        yield Expression.of(f"np.concatenate([{texts}], {axis})" if count > 1 else texts, shape)


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
    taken = keyword.iskeyword(found) or found in ("np", "w", "get", *_HELPERS)
    return f"{found}_" if taken or found[0].isdigit() else found


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
        *(text.rstrip("\n") + "\n" for name, text in _HELPERS.items()
          if f"{name}(" in code or (name == "lengths" and "normed(" in code)),
        "", f"def carry({given}):", f'    """The other model\'s weights, {into}; ``{given}`` {reads}."""',
        *(f"    {line}".rstrip() for line in (*head, *body)),
        f"    return {'values' if target.by_layer else 'state'}", "",
        *(text.rstrip("\n") + "\n" for text in dict.fromkeys(functions) if text),
        "", 'if __name__ == "__main__":', f"    argv = sys.argv[1:]  # source {target.usage}",
        f"    values = carry(read({source.load}))", *(f"    {line}" for line in target.save),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
