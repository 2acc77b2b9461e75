"""Recurrent cells that somebody wrote out of layers: which block of which layer makes which gate, as the graph says.

An LSTM's state becomes ``f·c + i·g`` and its output ``o·tanh(c)``; a GRU's becomes ``z·h + (1 − z)·n``, with ``r`` on
the state before or after ``n``'s own product; a plain cell's is ``tanh(Wx + Uh)``. The layers that make these gates,
dense ones or convolutions, apart or in one, are one atom, as if they were a framework's own recurrent layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from tracer import kinds
from tracer.alignment.atoms import Atom, Slot
from tracer.alignment.owned import Key, listed
from tracer.alignment.relayout import Steps
from tracer.graph import Node, Structure

Role = Literal["kernel", "recurrent_kernel"]
_SIGMOIDS = frozenset({"sigmoid", "hard_sigmoid"})
_PASSES = kinds.UNCHANGED | {"permute", "squeeze", "expand_dims"}
_ORDER = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}
_MOST = 4
"""Layers that are added up in one gate."""
_STEPS = 4
"""Steps that are looked at: the first may read constants in the state's place."""


class _Term(NamedTuple):
    """One of the equal blocks of what a layer gives, in one call of it."""

    node: str
    part: int = 0
    parts: int = 1


_Terms = tuple[_Term, ...]


class _Squashed(NamedTuple):
    """A tensor behind a sigmoid or tanh: what it is the sigmoid of, and the blocks of layers added up in that."""

    sigmoid: bool
    before: str
    terms: _Terms


class _Block(NamedTuple):
    """A block of the weights of an atom, and the rows of its kernel that are meant, None for all."""

    atom: int
    part: int
    parts: int
    rows: tuple[int, int] | None


@dataclass(frozen=True)
class _Cell:
    """By gate the blocks that are added up in it; ``one``: whether its two biases are only ever added up."""

    kind: str
    gates: Mapping[str, _Terms]
    one: bool = True


def written_out(atoms: Sequence[Atom], structure: Structure) -> list[Atom]:
    """Atoms with one for each cell that is written out of layers, in place of those of these layers."""
    graph = _Graph(atoms, structure)
    made: list[Atom] = []
    spent: set[int] = set()
    tried: Counter[frozenset[int]] = Counter()
    for cell in sorted(graph.cells(), key=lambda cell: cell.kind == "rnn"):  # which a gate of another may look like
        parts = frozenset(graph.layers[term.node] for terms in cell.gates.values() for term in terms)
        tried[parts] += 1
        if tried[parts] > _STEPS or parts & spent or not parts & graph.again:
            continue
        atom = graph.atom(cell)
        if atom is not None:
            made.append(atom)
            spent |= parts
    return [atom for number, atom in enumerate(atoms) if number not in spent] + made


class _Graph:
    """The structure, looked at through what only hands tensors on."""

    def __init__(self, atoms: Sequence[Atom], structure: Structure) -> None:
        self.atoms, self.nodes = atoms, structure.by_name
        self.layers: dict[str, int] = {}
        """By node the atom of a layer that is nothing but a kernel and its bias, in each call of it."""
        self.again: set[int] = set()
        """Atoms of layers that are called several times."""
        self._source: dict[str, str] = {}
        self._terms: dict[str, _Terms] = {}
        self._squashed: dict[str, _Squashed] = {}
        self._readers: dict[str, list[Node]] = {}
        self._number_layers(structure)
        if self.again:
            for node in structure:
                self._look(node)

    def _number_layers(self, structure: Structure) -> None:
        of_node: dict[int, list[int]] = {}
        for number, atom in enumerate(self.atoms):
            of_node.setdefault(atom.node, []).append(number)
        place = {node.name: at for at, node in enumerate(structure)}
        seen: set[int] = set()
        for name, lister in listed(structure).items():
            own = of_node.get(place[lister.name], []) if lister is not None else []
            if len(own) == 1 and self.atoms[own[0]].kind in ("dense", "conv") and self.nodes[name].role != "container":
                self.layers[name] = own[0]
                (self.again if own[0] in seen else seen).add(own[0])

    def _look(self, node: Node) -> None:
        """Note what a node is, those before it having been looked at."""
        name, parents = node.name, node.parents
        for parent in parents:
            self._readers.setdefault(self.source(parent), []).append(node)
        above = node.alias_of or (parents[0] if node.kind in _PASSES and parents else None)
        if name in self.layers:
            self._terms[name] = (_Term(name),)
        elif above is not None:
            self._source[name] = self.source(above)
        elif (node.kind in _SIGMOIDS or node.kind == "tanh") and parents:
            self._squashed[name] = _Squashed(node.kind != "tanh", parents[0], self.terms(parents[0]))
        elif node.kind == "add" and len(parents) == 2:
            both = [self.terms(parent) for parent in parents]
            if all(both) and len(both[0]) + len(both[1]) <= _MOST:
                self._terms[name] = both[0] + both[1]
        elif (part := self._part(node)) is not None:
            whole, *cut = part
            self._terms[name] = self._cut(self.terms(whole), *cut)
            found = self.squashed(whole)
            if found is not None:
                self._squashed[name] = found._replace(terms=self._cut(found.terms, *cut))

    def _part(self, node: Node) -> tuple[str, int, int, int] | None:
        """The tensor that a node is one of several equal parts of, its length there, which part, and of how many.

        One step of a sequence is all of what it is taken of: the length is none then, and the part the only one.
        """
        split = self.nodes.get(node.parents[0]) if node.kind == "item" and node.parents else node
        if split is None or split.kind not in ("split", "slice") or not split.parents:
            return None
        whole, number = self.nodes.get(split.parents[0]), node.name.rpartition("[")[2].rstrip("]")
        index = 0 if node is split else int(number) if number.isdecimal() else -1
        if whole is None or not whole.shape or not node.shape:
            return None
        if len(node.shape) < len(whole.shape):
            return (whole.name, 0, 0, 1) if whole.shape[-1] == node.shape[-1] else None
        if split.kind == "slice" or len(node.shape) > len(whole.shape):
            return None
        cut = [(a, b) for a, b in zip(whole.shape, node.shape, strict=True) if a != b]
        if len(cut) != 1 or not cut[0][1] or cut[0][0] % cut[0][1]:
            return None
        count = cut[0][0] // cut[0][1]
        return (whole.name, cut[0][0], index, count) if 0 <= index < count else None

    def _cut(self, terms: _Terms, width: int, part: int, parts: int) -> _Terms:
        """One of ``parts`` equal parts of blocks of this width; none where they are no whole layers, or cut across."""
        mains = [self.atoms[self.layers[term.node]].main.shape for term in terms]
        if not width:
            return terms if all(len(shape) == 2 for shape in mains) else ()
        if any(term.parts > 1 for term in terms) or any(shape[-1] != width for shape in mains):
            return ()
        return tuple(term._replace(part=part, parts=parts) for term in terms)

    def source(self, name: str) -> str:
        return self._source.get(name, name)

    def terms(self, name: str) -> _Terms:
        return self._terms.get(self.source(name), ())

    def squashed(self, name: str) -> _Squashed | None:
        return self._squashed.get(self.source(name))

    # -- what the gates are -------------------------------------------------------------------------------------------

    def cells(self) -> Iterator[_Cell]:
        """What may be a step of a cell, in running order."""
        for node in self.nodes.values() if self.again else ():
            if node.kind == "add" and len(node.parents) == 2:
                for first, second in (node.parents, node.parents[::-1]):
                    yield from self._lstm(node, first, second)
                    yield from self._gru(first, second)
            elif node.kind == "tanh" and (found := self.squashed(node.name)) is not None and found.terms:
                yield _Cell("rnn", {"h": found.terms})

    def _lstm(self, state: Node, kept: str, new: str) -> Iterator[_Cell]:
        """``f·c + i·g``, read as ``o·tanh(c)``."""
        held, given = self._gated(kept), self._gated(new)
        if held is None or given is None or self.squashed(held[1]) is not None:
            return
        i, g = given[0], self.squashed(given[1])
        if g is None or g.sigmoid:
            return
        for reader in self._readers.get(state.name, ()):
            for product in self._readers.get(reader.name, ()) if reader.kind == "tanh" else ():
                out = self._gated(product.name)
                if out is not None and self.source(out[1]) == reader.name:
                    yield _Cell("lstm", {"i": i.terms, "f": held[0].terms, "g": g.terms, "o": out[0].terms})

    def _gru(self, kept: str, new: str) -> Iterator[_Cell]:
        """``z·h + (1 − z)·n``."""
        held, node = self._gated(kept), self.nodes.get(self.source(new))
        if held is None or node is None or node.kind != "mul" or len(node.parents) != 2:
            return
        for factor, other in (node.parents, node.parents[::-1]):
            rest, n = self.nodes.get(self.source(factor)), self.squashed(other)
            if n is None or n.sigmoid or rest is None or rest.kind != "sub" or not rest.parents:
                continue
            if self.squashed(rest.parents[-1]) != held[0]:
                continue
            reset, terms, after = self._reset(n)
            if reset is not None:
                yield _Cell("gru", {"r": reset.terms, "z": held[0].terms, "n": terms}, one=not after)

    def _reset(self, n: _Squashed) -> tuple[_Squashed | None, _Terms, bool]:
        """What resets, the blocks of layers in ``n``, and whether the state's product is made before it is reset."""
        for term in n.terms:
            read = self._given(term)
            names = () if read is None else (read.name, *(read.parents if read.kind == "concat" else ()))
            found = next(filter(None, map(self._gated, names)), None)
            if found is not None:
                return found[0], n.terms, False
        node = self.nodes.get(self.source(n.before))
        if node is not None and node.kind == "add" and len(node.parents) == 2:
            for given, state in (node.parents, node.parents[::-1]):
                found = self._gated(state)
                if found is not None and self.terms(given) and self.terms(found[1]):
                    return found[0], self.terms(given) + self.terms(found[1]), True
        return None, (), False

    def _gated(self, name: str) -> tuple[_Squashed, str] | None:
        """A sigmoid made of layers, and the other factor of a product; the first of two sigmoids is meant."""
        node = self.nodes.get(self.source(name))
        if node is None or node.kind != "mul" or len(node.parents) != 2:
            return None
        for factor, other in (node.parents, node.parents[::-1]):
            found = self.squashed(factor)
            if found is not None and found.sigmoid and found.terms:
                return found, other
        return None

    # -- the atom -----------------------------------------------------------------------------------------------------

    def atom(self, cell: _Cell) -> Atom | None:
        """The cell as an atom; None where a gate is not made of what is read and of the state, or by other layers."""
        own = {self.layers[term.node] for terms in cell.gates.values() for term in terms}
        blocks: dict[Role, dict[str, _Block]] = {"kernel": {}, "recurrent_kernel": {}}
        for gate, terms in cell.gates.items():
            for term in terms:
                for role, rows in self._read(term, own):
                    if gate in blocks[role]:
                        return None
                    blocks[role][gate] = _Block(self.layers[term.node], term.part, term.parts, rows)
        order = _ORDER[cell.kind]
        if any(found.keys() != set(order) for found in blocks.values()):
            return None
        try:
            sides = [_Held(self.atoms, [blocks[role][gate] for gate in order]) for role in blocks]
            kernels = [side.kernel(role, cell.kind) for role, side in zip(blocks, sides, strict=True)]
            biases = _biases(sides, cell)
        except ValueError:
            return None
        first = min((self.atoms[number] for number in own), key=lambda atom: atom.order)
        return replace(first, kind=cell.kind, slots=(*kernels, *biases))

    def _read(self, term: _Term, own: set[int]) -> list[tuple[Role, tuple[int, int] | None]]:
        """Whether a layer reads the cell's state, or what comes from elsewhere, or a concatenation of both: which rows
        of its kernel then read which."""
        read = self._given(term)
        if read is None:
            return []
        joined = read.parents if read.kind == "concat" else ()
        parts = [self.nodes[name] for name in joined if name in self.nodes]
        of_state = [self._is_state(part.name, own) for part in parts]
        if len(set(of_state)) < 2:
            return [("recurrent_kernel" if self._is_state(read.name, own) else "kernel", None)]
        found: list[tuple[Role, tuple[int, int] | None]] = []
        at = 0
        for part, state in zip(parts, of_state, strict=True):
            cut = [b for a, b in zip(read.shape or (), part.shape or (), strict=False) if a != b]
            width = cut[0] if len(cut) == 1 else 0
            found.append(("recurrent_kernel" if state else "kernel", (at, at + width)))
            at += width
        return found

    def _given(self, term: _Term) -> Node | None:
        """What a layer reads; None for a constant, such as the state before the first step."""
        above = self.nodes[term.node].parents[:1]
        return self.nodes.get(self.source(above[0])) if above else None

    def _is_state(self, name: str, own: set[int]) -> bool:
        """Whether a tensor is made of what the cell gave before."""
        queue, seen = [name], set[str]()
        while queue:
            node = self.nodes.get(self.source(queue.pop()))
            if node is None or node.name in seen:
                continue
            if self.layers.get(node.name) in own:
                return True
            seen.add(node.name)
            queue += node.parents
        return False


class _Held:
    """The layers that hold one kernel of a cell, gate by gate in the common order."""

    def __init__(self, atoms: Sequence[Atom], blocks: Sequence[_Block]) -> None:
        """Raises ValueError where they are not one behind the other, whole."""
        numbers = [*dict.fromkeys(block.atom for block in blocks)]
        self.atoms, self.rows = [atoms[number] for number in numbers], {block.rows for block in blocks}
        starts, total = dict[int, int](), 0
        for number in numbers:
            starts[number] = total
            total += next(block.parts for block in blocks if block.atom == number)
        self.order = tuple(starts[block.atom] + block.part for block in blocks)
        if sorted(self.order) != list(range(total)) or len(self.rows) != 1:
            raise ValueError("not whole")

    def kernel(self, role: Role, kind: str) -> Slot:
        """Raises ValueError where the layers keep their kernels otherwise than each other."""
        mains = [atom.main for atom in self.atoms]
        layouts = {_moves(slot) for slot in mains}
        (*rest, rows, _), (cut,) = mains[0].shape, self.rows
        if len(layouts) != 1 or any(slot.shape[:-1] != mains[0].shape[:-1] for slot in mains):
            raise ValueError("kept otherwise")
        axis, steps = len(rest) + 1, layouts.pop()
        if cut is not None:
            steps, rows = (*steps, ("cut", axis - 1, *cut)), cut[1] - cut[0]
        keys = tuple(key for slot in mains for key in slot.keys)
        shape = (*rest, rows, sum(slot.shape[-1] for slot in mains))
        labels = mains[0].labels if cut is None and len(keys) == 1 else None
        return Slot(role, shape, keys, (*steps, *self._gates(axis, (len(keys),))), labels, self.letters(kind),
                    whole=mains[0].whole)  # fmt: skip

    def letters(self, kind: str) -> str:
        names = _ORDER[kind]
        return "".join(names[self.order.index(at)] for at in range(len(names))) if len(names) > 1 else ""

    def _gates(self, axis: int, groups: Sequence[int]) -> Steps:
        """Steps that put kernels, or biases, of each group of layers side by side, in the common order."""
        joined: Steps = (("join", axis, *groups),) if any(count > 1 for count in groups) else ()
        moved: Steps = (("blocks", axis, *self.order),) if list(self.order) != sorted(self.order) else ()
        return (*joined, *moved)

    @property
    def biases(self) -> tuple[Key, ...]:
        """Raises ValueError where some of the layers have a bias and others none."""
        found = [slot for atom in self.atoms for slot in atom.slots if slot.role == "bias"]
        if found and (len(found) < len(self.atoms) or any(len(slot.keys) != 1 for slot in found)):
            raise ValueError("some biases")
        return tuple(key for slot in found for key in slot.keys)


def _moves(slot: Slot) -> Steps:
    """How a kernel is read, without the reshape that changes nothing."""
    if slot.labels is None:
        raise ValueError("more than axes move")
    return tuple(step for step in slot.steps if step[0] != "shape" or None in slot.labels)


def _biases(sides: Sequence[_Held], cell: _Cell) -> list[Slot]:
    """Raises ValueError where the biases of both kernels stand in different orders."""
    found = {side.biases: side for side in sides if side.biases}
    if not found:
        return []
    if len({side.order for side in found.values()}) != 1:
        raise ValueError("in other orders")
    keys, side = tuple(key for some in found for key in some), next(iter(found.values()))
    width = sum(atom.main.shape[-1] for atom in side.atoms)
    added: Steps = (("sum",),) if len(found) > 1 and cell.one else ()
    steps = (*side._gates(0, [len(some) for some in found]), *added)
    return [Slot("bias", (width,), keys, steps, None, side.letters(cell.kind), whole=(width // len(side.atoms),))]
