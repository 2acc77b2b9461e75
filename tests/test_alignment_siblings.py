"""Branches that stand side by side: what they compute, their names and places say which is which, not when they run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tracer.alignment import align
from tracer.alignment.mapping import Mapping, load
from tracer.alignment.parameters import parameter_map
from tracer.alignment.result import Pair
from tracer.graph import Node, Param, Structure

SURE = 0.9
WIDE = (3, 7, 8)


def op(name: str, kind: str, *parents: str, shape: tuple[int, ...] = WIDE) -> Node:
    return Node(name, kind, kind, "layer", parents, shape, owner=name)


def dense(name: str, parent: str, wide: int = 8, out: int = 8) -> Node:
    params = (Param("kernel", (wide, out), "float32"), Param("bias", (out,), "float32"))
    return replace(op(name, "dense", parent, shape=(*WIDE[:2], out)), params=params, config={"units": out})


def conv(name: str, parent: str, dilation: int) -> Node:
    params = (Param("kernel", (3, 8, 8), "float32"), Param("bias", (8,), "float32"))
    config = {"filters": 8, "kernel_size": [3], "strides": [1], "dilation": [dilation], "groups": 1}
    return replace(op(name, "conv", parent), params=params, config=config)


def model(*nodes: Node, returned: tuple[str, ...] = ()) -> Structure:
    """A model of these nodes on one input ``x``, which returns its last node or several in a tuple."""
    outputs = returned or (nodes[-1].name,)
    places = tuple((f"[{k}]" if returned else "", name) for k, name in enumerate(outputs))
    return Structure((replace(op("x", "input"), role="input"), *nodes), outputs, returned=places)


def found(ours: Structure, theirs: Structure, mapping: Mapping | None = None) -> dict[str, tuple[str, float]]:
    return {pair.aligned: (pair.candidate[-1], pair.confidence) for pair in align(ours, theirs, mapping).pairs}


def surely(pairs: dict[str, tuple[str, float]], wanted: dict[str, str]) -> None:
    assert {name: pairs.get(name, ("",))[0] for name in wanted} == wanted
    assert all(pairs[name][1] >= SURE for name in wanted), pairs


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_heads_with_other_activations(named: bool, deep: bool) -> None:
    def side(first: str, second: str, order: tuple[int, int], swap: bool = False) -> Structure:
        heads = []
        for name, kind in ((first, "softmax"), (second, "tanh")):
            inner = [dense(f"{name}_in", "x"), op(f"{name}_relu", "relu", f"{name}_in")] if deep else []
            last = inner[-1].name if inner else "x"
            heads.append([*inner, dense(name, last), op(f"{kind}_{name}", kind, name)])
        ends = tuple(head[-1].name for head in heads)
        return model(*(n for k in order for n in heads[k]), returned=ends[::-1] if swap else ends)

    names = ("policy", "value") if named else ("p", "q")
    ours = side("policy", "value", (0, 1))
    wanted = {"policy": names[0], "value": names[1], "softmax_policy": f"softmax_{names[0]}"}
    surely(found(ours, side(*names, (1, 0))), wanted)
    assert not any(o.moved for o in align(ours, side(*names, (1, 0))).outputs)
    swapped = align(ours, side(*names, (1, 0), swap=True))
    assert [output.moved for output in swapped.outputs] == [True, True], "they are returned in another order"


@pytest.mark.parametrize("factors", [("f", "g"), ("g", "f")])
def test_gates(factors: tuple[str, str]) -> None:
    def side(order: str, read: tuple[str, str]) -> Structure:
        kinds = {"f": "tanh", "g": "sigmoid"}
        gates = [n for k in order for n in (dense(f"layer_{k}", "x"), op(k, kinds[k], f"layer_{k}"))]
        return model(*gates, op("m", "mul", *read), dense("out", "m"))

    surely(found(side("fg", ("f", "g")), side("gf", factors)), {"layer_f": "layer_f", "layer_g": "layer_g", "g": "g"})


def test_settings_tell_parallel_layers_apart() -> None:
    def side(names: str, dilations: tuple[int, ...]) -> Structure:
        layers = [conv(name, "x", dilation) for name, dilation in zip(names, dilations, strict=True)]
        return model(*layers, op("sum", "add", *names), dense("out", "sum"))

    surely(found(side("abc", (1, 2, 4)), side("pqr", (4, 1, 2))), {"a": "q", "b": "r", "c": "p"})


def test_names_and_places_tell_equal_heads_apart() -> None:
    words = ("policy", "value", "aux")

    def side(order: tuple[int, ...], names: tuple[str, ...] = words) -> Structure:
        return model(dense("trunk", "x"), *(dense(names[k], "trunk", 8, 4) for k in order), returned=names)

    ours = side((0, 1, 2))
    for order in ((2, 1, 0), (1, 2, 0)):
        surely(found(ours, side(order)), {word: word for word in words})
    # What only the places say is no proof: authors need not agree on them.
    placed = found(ours, side((1, 2, 0), ("r", "s", "t")))
    assert {word: placed[word][0] for word in words} == dict(zip(words, "rst", strict=True))
    assert all(placed[word][1] < SURE for word in words)


def attention(order: str, x: str, y: str, names: dict[str, str]) -> list[Node]:
    """Scores of what reads ``x`` against what reads ``y``; the projections run in this order."""
    heads = [dense(names[k], x if k == "q" else y) for k in order]
    return [
        *heads,
        op("turned", "permute", names["k"], shape=(3, 8, 7)),
        op("scores", "matmul", names["q"], "turned", shape=(3, 7, 7)),
        replace(op("soft", "softmax", "scores", shape=(3, 7, 7)), config={"axis": -1}),
        op("mixed", "matmul", "soft", names["v"]),
        dense("out", "mixed"),
    ]


@pytest.mark.parametrize("order", ["vkq", "kvq", "vqk"])
def test_roles_in_attention_come_from_the_graph(order: str) -> None:
    names = {"q": "a", "k": "b", "v": "c"}
    ours = model(*attention("qkv", "x", "x", {"q": "query", "k": "key", "v": "value"}))
    theirs = model(*attention(order, "x", "x", names))
    surely(found(ours, theirs), {"query": "a", "key": "b", "value": "c", "soft": "soft"})
    params = tuple(Param(f"{name}/kernel", (8, 2, 4), "float32") for name in ("query", "key", "value"))
    params += (Param("attention_output/kernel", (2, 4, 8), "float32"),)
    layer = model(replace(op("mha", "attention", "x"), params=params))
    mapped = {p.reference[0][1]: p.candidate[0][0] for p in align(layer, theirs).parameters.pairs}
    assert [mapped[f"{name}/kernel"] for name in ("query", "key", "value")] == ["a", "b", "c"]


@pytest.mark.parametrize("product", ["matmul", "einsum"])
def test_roles_that_rest_on_the_order_are_in_doubt(product: str) -> None:
    """Which operand of an einsum the queries are its graph does not say; what is multiplied last are the values."""
    split = [
        node
        for name in "cba"
        for node in (
            dense(name, "x"),
            op(f"{name}_heads", "reshape", name, shape=(3, 7, 2, 4)),
            op(f"{name}_first", "permute", f"{name}_heads", shape=(3, 2, 7, 4)),
        )
    ]
    theirs = model(
        *split,
        op("b_turned", "permute", "b_first", shape=(3, 2, 4, 7)),
        op("scores", product, "a_first", "b_turned", shape=(3, 2, 7, 7)),
        op("scaled", "div", "scores", shape=(3, 2, 7, 7)),
        replace(op("soft", "softmax", "scaled", shape=(3, 2, 7, 7)), config={"axis": -1}),
        op("mixed", "matmul", "soft", "c_first", shape=(3, 2, 7, 4)),
        op("back", "permute", "mixed", shape=(3, 7, 2, 4)),
        op("merged", "reshape", "back"),
        dense("out", "merged"),
    )
    parts = ("query", "key", "value")
    params = [Param(f"{n}/{k}", s, "float32") for n in parts for k, s in (("kernel", (8, 2, 4)), ("bias", (2, 4)))]
    params += [Param("attention_output/kernel", (2, 4, 8), "float32"), Param("attention_output/bias", (8,), "float32")]
    ours = model(replace(op("mha", "attention", "x"), params=tuple(params)))
    pair = Pair(("mha",), tuple(node.name for node in theirs if node.role != "input"), None, 1.0, {})
    mapped = parameter_map(ours, theirs, [pair], None, None).pairs
    found = {p.reference[0][1]: (p.candidate[0][0], p.confidence) for p in mapped}
    sure = {name for name in parts if found[f"{name}/kernel"][1] >= SURE}
    assert sure == ({*parts} if product == "matmul" else {"value"})
    assert [found[f"{name}/kernel"][0] for name in parts if name in sure] == [*("abc" if len(sure) > 1 else "c")]


def test_parts_of_a_split_go_by_their_places_whichever_runs_first() -> None:
    def side(whole: str, order: tuple[int, ...]) -> Structure:
        items = [
            node
            for k in order
            for node in (
                replace(op(f"{whole}[{k}]", "item", whole), role="item"),
                op(f"{whole}_bent_{k}", "tanh", f"{whole}[{k}]"),
            )
        ]
        sums = [op("sum", "add", whole, *(f"{whole}_bent_{k}" for k in order)), dense("out", "sum")]
        return model(dense("wide", "x", 8, 24), op(whole, "split", "wide"), *items, *sums)

    pairs = found(side("split", (1, 2)), side("chunk", (2, 1)))
    wanted = {f"split{part}": f"chunk{part}" for part in ("[1]", "[2]", "_bent_1", "_bent_2")}
    assert {name: pairs[name][0] for name in wanted} == wanted


def blocks(names: list[str], separator: str) -> Structure:
    nodes = [dense("stem", "x")]
    for at, name in enumerate(names):
        last = nodes[-1].name
        nodes += [
            replace(op(f"{name}{separator}norm", "layernorm", last), params=(Param("gamma", (8,), "float32"),)),
            dense(f"{name}{separator}up", f"{name}{separator}norm", 8, 16),
            op(f"relu_{at}", "relu", f"{name}{separator}up", shape=(3, 7, 16)),
            dense(f"{name}{separator}down", f"relu_{at}", 16, 8),
            op(f"add_{at}", "add", last, f"{name}{separator}down"),
        ]
    return model(*nodes, dense("out", nodes[-1].name, 8, 3))


def test_numbers_with_a_gap_say_which_block_is_missing() -> None:
    ours = blocks([f"block_{k}" for k in range(5)], "_")
    pairs = found(ours, blocks([f"block_{k}" for k in (0, 1, 3, 4)], "."))
    for k in (0, 1, 3, 4):
        assert pairs[f"block_{k}_down"][0] == f"block_{k}.down"
    assert "block_2_down" not in pairs
    assert not align(ours, blocks([f"block_{k}" for k in (0, 1, 3, 4)], ".")).ambiguous


def test_an_ignored_block_settles_the_rest(tmp_path: Path) -> None:
    ours, theirs = blocks([f"part{'abcde'[k]}" for k in range(5)], "_"), blocks([f"h.{k}" for k in range(4)], ".")
    assert align(ours, theirs).ambiguous, "which block is missing is not known"
    file = tmp_path / "m.yaml"
    file.write_text('ignore: {reference: ["partc_*", relu_2, add_2]}\n')
    pairs = found(ours, theirs, load(file))
    surely(pairs, {f"part{ours_}_down": f"h.{k}.down" for k, ours_ in enumerate("abde")})


def test_a_shortcut_that_runs_before_the_main_branch() -> None:
    """An activation at one branch's end does not stay with its like while what it reads goes to the other branch."""

    def side(pre: str, shortcut_first: bool) -> Structure:
        main = [dense(f"{pre}1", f"{pre}0"), op(f"{pre}2", "layernorm", f"{pre}1"), op(f"{pre}3", "relu", f"{pre}2")]
        shortcut = [dense(f"{pre}4", f"{pre}0"), op(f"{pre}5", "layernorm", f"{pre}4")]
        branches = [*shortcut, *main] if shortcut_first else [*main, *shortcut]
        names = {node.name: f"{pre}{chr(97 + at)}" for at, node in enumerate(branches)} if shortcut_first else {}
        inner = [
            replace(n, name=names.get(n.name, n.name), parents=tuple(names.get(p, p) for p in n.parents))
            for n in branches
        ]
        ends = (names.get(f"{pre}3", f"{pre}3"), names.get(f"{pre}5", f"{pre}5"))
        return model(dense(f"{pre}0", "x"), *inner, op(f"{pre}sum", "add", *ends), op(f"{pre}end", "tanh", f"{pre}sum"))

    surely(found(side("p", False), side("q", True)), {"p1": "qc", "p2": "qd", "p3": "qe", "p4": "qa", "p5": "qb"})
