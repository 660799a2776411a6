"""A graph of who depends on whom, with Celery's nouns, and as text for Graphviz and Mermaid.

Nothing here recurses: a chain of any length will do. What needs an order raises CycleError where there
is none. The rest works on circles too.

Source: celery/utils/graph.py (5.7).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, ItemsView, Iterable, Iterator
from typing import Any, Generic, Protocol, TextIO, TypeAlias, TypeVar, runtime_checkable

from .errors import CycleError

__all__ = ["DependencyGraph", "GraphFormatter"]

N = TypeVar("N", bound=Hashable)

#: How many nodes of a circle its error names.
NAMED_IN_CYCLE = 10


@runtime_checkable
class GraphFormatter(Protocol):
    """What :meth:`DependencyGraph.to_dot` needs of a formatter object; Celery's class of this name has it.

    Every method returns a line of DOT, as text or as UTF-8 bytes; ``label`` distinguishes nodes.
    """

    def head(self) -> str | bytes: ...
    def tail(self) -> str | bytes: ...
    def label(self, obj: Any) -> Any: ...
    def node(self, obj: Any) -> str | bytes: ...
    def terminal_node(self, obj: Any) -> str | bytes: ...
    def edge(self, a: Any, b: Any) -> str | bytes: ...


Formatter: TypeAlias = GraphFormatter | Callable[[Any], object]


class DependencyGraph(Generic[N]):
    """Nodes and the nodes they depend on, in order of insertion.

    An edge that is added twice counts twice, as in Celery.

    Args:
        it: Pairs ``(node, dependencies)`` to begin with, see :meth:`update`.
        formatter: How nodes are labelled where the graph is drawn: a function from node to label, or an
            object as Celery's ``GraphFormatter``. By default ``str``.
    """

    def __init__(self, it: Iterable[tuple[N, Iterable[N]]] | None = None, formatter: Formatter | None = None) -> None:
        self.formatter = formatter
        self.adjacent: dict[N, list[N]] = {}
        if it is not None:
            self.update(it)

    def add_arc(self, obj: N) -> None:
        """Add a node, unless it is there."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: N, B: N) -> None:
        """Note that ``A`` depends on ``B``. Either is added if it is new (in Celery ``A`` is a KeyError)."""
        self.add_arc(A)
        self.add_arc(B)
        self.adjacent[A].append(B)

    def connect(self, graph: DependencyGraph[N]) -> None:
        """Add the nodes and edges of another graph. A node of both keeps its edges (in Celery it loses them)."""
        for node, dependencies in graph.items():
            self.add_arc(node)
            for dependency in dependencies.copy():
                self.add_edge(node, dependency)

    def update(self, it: Iterable[tuple[N, Iterable[N]]]) -> None:
        """Add pairs ``(node, dependencies)``: first all the nodes, then their edges."""
        pairs = [(node, list(dependencies)) for node, dependencies in it]
        for node, _ in pairs:
            self.add_arc(node)
        for node, dependencies in pairs:
            for dependency in dependencies:
                self.add_edge(node, dependency)

    def topsort(self) -> list[N]:
        """Return all nodes so that each comes after everything it depends on.

        The nodes are taken in order of insertion, each right after what it depends on; so the order is the
        same at every call.

        Raises:
            CycleError: There is no such order. The message names the nodes of a circle.
        """
        return self._postorder(self.adjacent)

    def valency_of(self, obj: N) -> int:
        """Count the edges below ``obj``, one that is reached on several paths once for each path.

        For a node that is not in the graph it is 0.

        Raises:
            CycleError: ``obj`` reaches a circle, on which paths have no end.
        """
        return self._valencies(obj).get(obj, 0)

    def edges(self) -> Iterator[N]:
        """Iterate over the nodes that depend on something."""
        return (node for node, dependencies in self.items() if dependencies)

    def items(self) -> ItemsView[N, list[N]]:
        """Return a view of the pairs ``(node, dependencies)``."""
        return self.adjacent.items()

    iteritems = items

    def __iter__(self) -> Iterator[N]:
        return iter(self.adjacent)

    def __getitem__(self, node: N) -> list[N]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: object) -> bool:
        return obj in self.adjacent

    def __repr__(self) -> str:
        edges = sum(map(len, self.adjacent.values()))
        return f"<{type(self).__name__}: {len(self)} nodes, {edges} edges>"

    def repr_node(self, obj: N, level: int = 1, fmt: str = "{0}({1})") -> str:
        """Draw what ``obj`` depends on as an indented tree of ``node(valency)`` lines.

        A node that is met again is not drawn out again (in Celery it is, once for each path).

        Raises:
            CycleError: ``obj`` reaches a circle.
        """
        valencies = self._valencies(obj)
        lines: list[str] = []
        drawn: set[N] = set()
        stack = [(obj, 0)]
        while stack:
            node, depth = stack.pop()
            indent = " " * 5 * (level + depth - 1) if depth else ""
            lines.append(indent + fmt.format(node, valencies.get(node, 0)))
            if node not in drawn:
                drawn.add(node)
                stack.extend((dependency, depth + 1) for dependency in reversed(self.adjacent.get(node, [])))
        return "\n".join(lines)

    def format(self, obj: N) -> object:
        """Return the label of a node: what the formatter makes of it, by default the node itself."""
        if isinstance(self.formatter, GraphFormatter):
            return self.formatter.label(obj)
        return self.formatter(obj) if self.formatter is not None else obj

    def to_dot(self, fh: TextIO | None = None, formatter: Formatter | None = None) -> str:
        """Return the graph in DOT, the language of Graphviz, and write it to ``fh`` if given.

        Nodes are named by their labels; where two have the same, the name gets a number. Quotes, line breaks
        and backslashes in a label are drawn as such.

        Args:
            fh: A text file.
            formatter: Used instead of the graph's own. An object as Celery's draws by itself, and
                answers for its own escaping.
        """
        formatter = formatter if formatter is not None else self.formatter
        draw = self._drawn_by(formatter) if isinstance(formatter, GraphFormatter) else self._dot(formatter)
        text = "".join(f"{line}\n" for line in draw)
        if fh is not None:
            fh.write(text)
        return text

    def to_mermaid(self, formatter: Callable[[Any], object] | None = None) -> str:
        """Return the graph as a Mermaid flowchart.

        Args:
            formatter: A function from node to label, used instead of the graph's own.
        """
        label = formatter if formatter is not None else self.format
        names = {node: f"n{index}" for index, node in enumerate(self)}
        lines = ["flowchart TD"]
        lines += [f'    {name}["{_mermaid_label(str(label(node)))}"]' for node, name in names.items()]
        lines += [f"    {names[node]} --> {names[other]}" for node, others in self.items() for other in others]
        return "".join(f"{line}\n" for line in lines)

    def _dot(self, label: Callable[[N], object] | None) -> Iterator[str]:
        names: dict[N, str] = {}
        taken: set[str] = set()
        yield "digraph dependencies {"
        for node in self:
            text = _dot_label(str(node if label is None else label(node)))
            name, number = text, 1
            while name in taken or name.startswith("%"):  # "%..." is Graphviz' own, for nodes without a name
                number += 1
                name = f"#{number} {text}"
            names[node] = name
            taken.add(name)
            yield f'    "{name}"' if name == text else f'    "{name}" [label="{text}"]'
        for node, dependencies in self.items():
            for dependency in dependencies:
                yield f'    "{names[node]}" -> "{names[dependency]}"'
        yield "}"

    def _drawn_by(self, formatter: GraphFormatter) -> Iterator[str]:
        """The lines in the order in which Celery yields them."""
        seen: set[object] = set()
        yield _text(formatter.head())
        for node, dependencies in self.items():
            if formatter.label(node) not in seen:
                seen.add(formatter.label(node))
                yield _text(formatter.node(node) if dependencies else formatter.terminal_node(node))
            for dependency in dependencies:
                yield _text(formatter.edge(node, dependency))
        yield _text(formatter.tail())

    def _valencies(self, root: N) -> dict[N, int]:
        valencies: dict[N, int] = {}
        for node in self._postorder([root]) if root in self else ():
            dependencies = self.adjacent[node]
            valencies[node] = len(dependencies) + sum(valencies[dependency] for dependency in dependencies)
        return valencies

    def _postorder(self, roots: Iterable[N]) -> list[N]:
        """What the roots reach, dependencies first: a depth-first walk with a stack of its own."""
        order: list[N] = []
        done: set[N] = set()
        on_path: set[N] = set()
        for root in roots:
            if root in done:
                continue
            on_path.add(root)
            stack = [(root, iter(self.adjacent[root]))]
            while stack:
                node, dependencies = stack[-1]
                for dependency in dependencies:
                    if dependency in on_path:
                        raise CycleError(_describe_cycle([node for node, _ in stack], dependency))
                    if dependency not in done:
                        on_path.add(dependency)
                        stack.append((dependency, iter(self.adjacent[dependency])))
                        break
                else:
                    stack.pop()
                    on_path.remove(node)
                    done.add(node)
                    order.append(node)
        return order


def _describe_cycle(path: list[N], again: N) -> str:
    cycle = path[path.index(again) :]
    names = [str(node) for node in cycle[:NAMED_IN_CYCLE]]
    if len(cycle) > NAMED_IN_CYCLE:
        names.append(f"... {len(cycle) - NAMED_IN_CYCLE} more")
    return f"dependencies run in a circle: {' -> '.join([*names, str(again)])}"


def _text(line: str | bytes) -> str:
    return line.decode() if isinstance(line, bytes) else line


# Line breaks become one sign; other control characters, and surrogates that no encoding takes, are replaced.
_LINE_BREAK = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# What looks like an HTML entity is drawn as one by Graphviz.
_ENTITY = re.compile(r"&(?=#?\w+;)")
# Mermaid reads these even within quotes, as entities, HTML, Markdown (lists and emphasis; not the underscores
# inside of words), directives, and as the "style...:...#...;" that its preprocessor shortens.
_MERMAID_SPECIAL = re.compile(
    r"""["#&<>`\\%{}:;*~$] | (?<![^\W_])_ | _(?![^\W_]) | ^[-+](?=\s) | ^\d(?=\d*[.)])""", re.VERBOSE
)


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", _LINE_BREAK.sub("\n", text))


def _dot_label(text: str) -> str:
    text = _ENTITY.sub("&amp;", _printable(text))
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _mermaid_label(text: str) -> str:
    escaped = _MERMAID_SPECIAL.sub(lambda found: f"#{ord(found[0])};", _printable(text))
    return escaped.replace("\n", "<br>") or " "  # an empty pair of quotes is a syntax error
