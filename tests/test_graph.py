"""DependencyGraph: the nouns of Celery, orders, circles, DOT and Mermaid."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import Any, cast

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from asyncresult.errors import CycleError
from asyncresult.graph import DependencyGraph

LONG = 100_000


def diamond() -> DependencyGraph[str]:
    return DependencyGraph([("top", ["left", "right"]), ("left", ["bottom"]), ("right", ["bottom"]), ("bottom", [])])


def chain(length: int) -> DependencyGraph[int]:
    return DependencyGraph((i, [i + 1]) for i in range(length - 1))


@st.composite
def acyclic(draw: st.DrawFn) -> DependencyGraph[int]:
    """Every edge points to a smaller number; nodes and edges come in any order."""
    size = draw(st.integers(0, 12))
    pairs = [(a, b) for a in range(size) for b in range(a)]
    edges = draw(st.lists(st.sampled_from(pairs), max_size=30)) if pairs else []
    graph: DependencyGraph[int] = DependencyGraph()
    for node in draw(st.permutations(range(size))):
        graph.add_arc(node)
    for a, b in edges:
        graph.add_edge(a, b)
    return graph


any_graph = st.lists(st.tuples(st.integers(0, 8), st.lists(st.integers(0, 8), max_size=4)), max_size=12).map(
    DependencyGraph
)


# -- Nodes and edges


def test_nodes_and_edges_keep_the_order_of_insertion() -> None:
    graph: DependencyGraph[str] = DependencyGraph()
    graph.add_arc("b")
    graph.add_edge("a", "b")
    graph.add_edge("c", "d")
    graph.add_edge("a", "e")
    graph.add_arc("a")
    assert list(graph) == ["b", "a", "c", "d", "e"]
    assert graph["a"] == ["b", "e"]
    assert graph["b"] == []
    assert len(graph) == 5
    assert "d" in graph
    assert "x" not in graph
    assert list(graph.edges()) == ["a", "c"]
    assert dict(graph.items()) == dict(graph.iteritems()) == graph.adjacent
    with pytest.raises(KeyError):
        graph["x"]


def test_update_adds_the_nodes_before_their_dependencies() -> None:
    graph = DependencyGraph([("a", ["c", "x"]), ("b", []), ("c", ["b"])])
    assert list(graph) == ["a", "b", "c", "x"]
    graph.update((node, iter(dependencies)) for node, dependencies in [("b", ["y"])])
    assert graph["b"] == ["y"]


def test_connect_joins_two_graphs() -> None:
    graph = DependencyGraph([("a", ["b"])])
    other = DependencyGraph([("b", ["c"]), ("a", ["d"])])
    graph.connect(other)
    assert dict(graph.items()) == {"a": ["b", "d"], "b": ["c"], "c": [], "d": []}
    graph.add_edge("b", "e")
    assert other["b"] == ["c"]
    graph.connect(graph)
    assert graph["b"] == ["c", "e", "c", "e"]


def test_format_is_the_label() -> None:
    class Formatter:
        """A part of Celery's class."""

        def label(self, obj: str) -> str:
            return f"<{obj}>"

        head = tail = node = terminal_node = edge = label

    assert DependencyGraph([("a", [])]).format("a") == "a"
    assert DependencyGraph([("a", [])], formatter=str.upper).format("a") == "A"
    assert DependencyGraph([("a", [])], formatter=cast(Any, Formatter())).format("a") == "<a>"


def test_repr_is_short() -> None:
    assert repr(chain(LONG)) == "<DependencyGraph: 100000 nodes, 99999 edges>"


# -- Orders


def test_topsort_puts_dependencies_first() -> None:
    assert diamond().topsort() == ["bottom", "left", "right", "top"]
    assert DependencyGraph[str]().topsort() == []


@given(acyclic())
def test_topsort_is_an_order_of_all_nodes(graph: DependencyGraph[int]) -> None:
    order = graph.topsort()
    position = {node: index for index, node in enumerate(order)}
    assert len(order) == len(position) == len(graph)
    assert all(position[b] < position[a] for a in graph for b in graph[a])
    assert graph.topsort() == order


def test_a_long_chain_has_an_order_and_valencies() -> None:
    graph = chain(LONG)
    assert graph.topsort() == list(range(LONG))[::-1]
    assert graph.valency_of(0) == LONG - 1


def test_a_long_circle_is_found() -> None:
    graph = chain(LONG)
    graph.add_edge(LONG - 1, 0)
    for call in (graph.topsort, lambda: graph.valency_of(5)):
        with pytest.raises(CycleError, match=r"circle: .* -> ... 99990 more -> ") as caught:
            call()
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("graph", "circle"),
    [
        (DependencyGraph([("a", ["a"])]), "a -> a"),
        (DependencyGraph([("a", ["b"]), ("b", ["a"])]), "a -> b -> a"),
        (DependencyGraph([("x", ["y", "a"]), ("a", ["b", "y"]), ("b", ["c"]), ("c", ["a"])]), "a -> b -> c -> a"),
    ],
)
def test_the_error_names_the_circle(graph: DependencyGraph[str], circle: str) -> None:
    with pytest.raises(CycleError, match=f": {circle}$"):
        graph.topsort()


def reaches(graph: DependencyGraph[int], start: int) -> set[int]:
    found: set[int] = set()
    todo = list(graph[start])
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo += graph[node]
    return found


@given(any_graph)
def test_circles_are_found_and_only_circles(graph: DependencyGraph[int]) -> None:
    in_circles = {node for node in graph if node in reaches(graph, node)}
    if not in_circles:
        assert len(graph.topsort()) == len(graph)
    else:
        with pytest.raises(CycleError) as caught:
            graph.topsort()
        nodes = [int(name) for name in str(caught.value).rpartition(": ")[2].split(" -> ")]
        assert nodes[0] == nodes[-1]
        assert all(b in graph[a] for a, b in pairwise(nodes))
    for node in graph:
        if in_circles & (reaches(graph, node) | {node}):
            with pytest.raises(CycleError):
                graph.valency_of(node)
        else:
            graph.valency_of(node)


def test_valency_counts_the_edges_of_every_path() -> None:
    graph = diamond()
    assert [graph.valency_of(node) for node in graph] == [4, 1, 1, 0]
    assert graph.valency_of("unknown") == 0
    graph.add_edge("left", "bottom")
    assert graph.valency_of("left") == 2
    assert graph.valency_of("top") == 5


@given(acyclic())
def test_valency_is_that_of_celery(graph: DependencyGraph[int]) -> None:
    def valency(node: int) -> int:
        return len(graph[node]) + sum(valency(other) for other in graph[node])

    assert [graph.valency_of(node) for node in graph] == [valency(node) for node in graph]


def test_valency_of_many_diamonds_takes_no_time() -> None:
    """2 ** 1000 paths."""
    graph = DependencyGraph((i, [i + 1, i + 1]) for i in range(1000))
    assert graph.valency_of(0) == 2**1001 - 2


def test_repr_node_draws_a_tree() -> None:
    graph = diamond()
    graph.add_edge("bottom", "ground")
    assert graph.repr_node("top") == "\n".join(
        [
            "top(6)",
            "     left(2)",
            "          bottom(1)",
            "               ground(0)",
            "     right(2)",
            "          bottom(1)",
        ]
    )
    assert graph.repr_node("bottom", level=2, fmt="{0}={1}") == "bottom=1\n          ground=0"
    assert graph.repr_node("unknown") == "unknown(0)"
    graph.add_edge("ground", "top")
    with pytest.raises(CycleError):
        graph.repr_node("left")


# -- DOT


def read_dot(text: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """A reader of the DOT written here: labels by name, and edges. Quotes and escapes as Graphviz has them."""
    head, *lines, tail = text.splitlines()
    assert head == "digraph dependencies {"
    assert tail == "}"
    labels: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    quoted = r'"((?:[^"\\]|\\.)*)"'
    for line in lines:
        if found := re.fullmatch(rf"    {quoted}(?: \[label={quoted}\])?", line):
            assert found[1] not in labels
            assert not found[1].startswith("%")  # Graphviz shows such a name as if there were none
            labels[found[1]] = unescape(found[1] if found[2] is None else found[2])
        else:
            found = re.fullmatch(rf"    {quoted} -> {quoted}", line)
            assert found, line
            edges.append((found[1], found[2]))
    return labels, edges


def unescape(text: str) -> str:
    text = re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
    return re.sub(r"&(\w+|#\w+);", lambda found: {"amp": "&"}[found[1]], text)


def test_dot() -> None:
    file = io.StringIO()
    text = diamond().to_dot(file)
    assert file.getvalue() == text
    assert text == (
        "digraph dependencies {\n"
        '    "top"\n    "left"\n    "right"\n    "bottom"\n'
        '    "top" -> "left"\n    "top" -> "right"\n    "left" -> "bottom"\n    "right" -> "bottom"\n'
        "}\n"
    )
    assert DependencyGraph[str]().to_dot() == "digraph dependencies {\n}\n"


nasty = st.text(st.sampled_from("ab \"'\\\n&#;<>{}[]|%`:é日😀") | st.characters(codec="utf-8"), max_size=12)


def expected_label(text: str) -> str:
    return re.sub(
        "[\x00-\x08\x0e-\x1f\x7f-\x9f]", "\ufffd", "\n".join(re.split("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", text))
    )


@given(st.lists(st.tuples(nasty, st.lists(nasty, max_size=3)), max_size=6))
@example([('say "hi"', ["back\\slash", "ends in \\", "two\nlines", "&lt;", "a & b"])])
@example([("x", ["#2 x", "%1", "#2 %1"]), ("\r", ["\n"])])
def test_dot_can_be_read_back(pairs: list[tuple[str, list[str]]]) -> None:
    graph = DependencyGraph(pairs)
    text = graph.to_dot()
    text.encode()
    labels, edges = read_dot(text)
    assert list(labels.values()) == [expected_label(node) for node in graph]
    names = dict(zip(graph, labels, strict=True))
    assert edges == [(names[a], names[b]) for a in graph for b in graph[a]]


def test_nodes_of_the_same_label_stay_apart() -> None:
    graph = DependencyGraph([(1, [2, 3]), (2, [3])], formatter=lambda node: "resize")
    assert graph.to_dot() == (
        "digraph dependencies {\n"
        '    "resize"\n    "#2 resize" [label="resize"]\n    "#3 resize" [label="resize"]\n'
        '    "resize" -> "#2 resize"\n    "resize" -> "#3 resize"\n    "#2 resize" -> "#3 resize"\n'
        "}\n"
    )
    assert '"node 1"' in graph.to_dot(formatter=lambda node: f"node {node}")


def test_surrogates_can_be_written() -> None:
    for text in (DependencyGraph([("a\ud800b", ["c"])]).to_dot(), DependencyGraph([("a\ud800b", ["c"])]).to_mermaid()):
        assert "a\ufffdb" in text
        text.encode()


def test_a_formatter_of_celery_draws_by_itself() -> None:
    from celery.utils.graph import DependencyGraph as CelerysGraph
    from celery.utils.graph import GraphFormatter

    pairs: list[tuple[Any, list[Any]]] = [("tree", ["leaf", "twig"]), ("twig", ["leaf"]), ("leaf", [])]

    class ByType(GraphFormatter):  # type: ignore[misc]
        """One node for all twigs."""

        def label(self, obj: Any) -> str:
            return str(obj).rstrip("0123456789")

    pairs += [("twig1", []), ("twig2", ["leaf1"])]
    formatter = ByType(root="tree", shape="oval")
    file = io.StringIO()
    CelerysGraph(pairs, formatter=formatter).to_dot(file)
    assert DependencyGraph(pairs, formatter=formatter).to_dot() == file.getvalue()
    assert DependencyGraph(pairs).to_dot(formatter=formatter) == file.getvalue()
    assert '["tree"]' in DependencyGraph(pairs, formatter=formatter).to_mermaid()


# -- Mermaid


def read_mermaid(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    head, *lines = text.removesuffix("\n").split("\n")
    assert head == "flowchart TD"
    labels: list[str] = []
    edges: list[tuple[int, int]] = []
    for line in lines:
        if found := re.fullmatch(r'    n(\d+)\["([^"]+)"\]', line):
            assert int(found[1]) == len(labels)
            label = "\n".join(found[2].split("<br>"))
            labels.append(re.sub(r"#(\d+);", lambda code: chr(int(code[1])), label))
            # Nothing that Mermaid reads is left but its own entities and line breaks.
            assert not re.search('["&<>`\\\\%{}:;#]', re.sub(r"#\d+;|<br>", "", found[2]))
        else:
            found = re.fullmatch(r"    n(\d+) --> n(\d+)", line)
            assert found, line
            edges.append((int(found[1]), int(found[2])))
    return labels, edges


def test_mermaid() -> None:
    assert diamond().to_mermaid() == (
        "flowchart TD\n"
        '    n0["top"]\n    n1["left"]\n    n2["right"]\n    n3["bottom"]\n'
        "    n0 --> n1\n    n0 --> n2\n    n1 --> n3\n    n2 --> n3\n"
    )
    assert 'n0["TOP"]' in diamond().to_mermaid(str.upper)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("tasks.add_all(1)", "tasks.add_all(1)"),
        ("a->b: 'c'", "a-#62;b#58; 'c'"),
        ("__init__ *x*", "#95;#95;init#95;#95; #42;x#42;"),
        ("12. list", "#49;2. list"),
        ("- list", "#45; list"),
        ("-1.5", "-1.5"),
        ("", " "),
    ],
)
def test_mermaid_labels(label: str, text: str) -> None:
    assert f'n0["{text}"]\n' in DependencyGraph([(label, [])]).to_mermaid()


@given(st.lists(st.tuples(nasty, st.lists(nasty, max_size=3)), max_size=6))
@example([('say "hi"', ["#quot;", "a\nb", "`code`", "<b>", "%%{init}%%", "style:#f;", "end", ""])])
def test_mermaid_can_be_read_back(pairs: list[tuple[str, list[str]]]) -> None:
    graph = DependencyGraph(pairs)
    labels, edges = read_mermaid(graph.to_mermaid())
    assert labels == [expected_label(node) or " " for node in graph]
    numbers = {node: number for number, node in enumerate(graph)}
    assert edges == [(numbers[a], numbers[b]) for a in graph for b in graph[a]]
