"""``tree``: the tasks below one, with their states."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from typing import Any

from .. import AsyncResult, GroupResult
from .._checks import check_task_id
from ..backend import Backend
from ..errors import ResultDecodeError
from ..graph import DependencyGraph
from ..states import FAILURE, PENDING, RETRY, REVOKED, SUCCESS
from .output import coloured, escaped, shortened, state_text, to_json, write
from .source import connected, read_ids, run
from .status import CommandError, Status

__all__ = ["tree"]

#: Nodes shown: a tree that refers to itself, or has a million members, ends somewhere.
MAX_NODES = 10_000


@dataclass
class Node:
    """One task, or a group of tasks (which has no state)."""

    id: str
    state: str | None
    name: str | None = None
    children: list[Node] = field(default_factory=list)
    more: bool = False
    """Whether there are children that are not shown."""


def tree(arguments: argparse.Namespace) -> int:
    """Print the tree below a task or a saved group."""
    return run(_tree(arguments))


async def _tree(arguments: argparse.Namespace) -> int:
    (id,) = read_ids([arguments.id], check_task_id)
    async with connected(arguments) as backend:
        root = await _root(backend, id)
        node = await _walk(root, arguments.depth)
    write(_FORMATS[arguments.format](node))
    return Status.SUCCESS


async def _root(backend: Backend, id: str) -> AsyncResult[Any] | GroupResult[Any]:
    handle = backend.result(id)
    if not await handle.exists():
        group = await GroupResult.restore(id, backend=backend)
        if group is None:
            raise CommandError(f"nothing is stored for {shortened(id)}", Status.UNKNOWN)
        return group
    return handle


async def _walk(root: Any, depth: int | None) -> Node:
    """Breadth first, each id once; the tree may be as deep as it likes."""
    top = await _node(root)
    met = {top.id}
    level = [(root, top)]
    count = 1
    while level:
        below: list[tuple[Any, Node]] = []
        for handle, node in level:
            children = await _children(handle)
            if depth is not None and depth <= 1:
                node.more = bool(children)
                continue
            for child in children:
                if child.id in met:
                    continue  # a retried task is among its own children
                if count >= MAX_NODES:
                    node.more = True
                    break
                met.add(child.id)
                count += 1
                made = await _node(child)
                node.children.append(made)
                below.append((child, made))
        level = below
        depth = None if depth is None else depth - 1
    return top


async def _node(handle: Any) -> Node:
    if isinstance(handle, GroupResult):
        return Node(str(handle.id), None)
    try:
        meta = await handle.meta()
    except ResultDecodeError:
        return Node(handle.id, "unreadable")
    return Node(handle.id, meta.status or PENDING, meta.name)


async def _children(handle: Any) -> list[Any]:
    if isinstance(handle, GroupResult):
        return list(handle.results)
    try:
        return await handle.children() or []
    except ResultDecodeError:
        return []


def _as_text(root: Node) -> str:
    colours = coloured(sys.stdout)
    boxes = (sys.stdout.encoding or "").lower().startswith("utf")
    fork, end, line, more = ("├─ ", "└─ ", "│  ", "└─ …") if boxes else ("|- ", "`- ", "|  ", "`- ...")
    lines: list[str] = []
    # An explicit stack: a chain may be longer than Python's.
    stack: list[tuple[Node, str, str]] = [(root, "", "")]
    while stack:
        node, lead, rest = stack.pop()
        lines.append(lead + _label(node, colours))
        if node.more:
            lines.append(rest + more)
        last = len(node.children) - 1
        stack.extend(
            (child, rest + (end if index == last else fork), rest + ("   " if index == last else line))
            for index, child in reversed(list(enumerate(node.children)))
        )
    return "\n".join(lines)


def _label(node: Node, colours: bool) -> str:
    if node.state is None:
        return f"group {escaped(node.id)} ({len(node.children)})"
    named = f" {escaped(node.name)}" if node.name else ""
    return f"{escaped(node.id)}{named} {state_text(node.state, colours=colours)}"


def _as_json(root: Node) -> str:
    flat: dict[int, dict[str, Any]] = {}
    order = _preorder(root)
    for node in reversed(order):
        flat[id(node)] = {
            "id": node.id,
            "state": node.state,
            "name": node.name,
            "children": [flat[id(child)] for child in node.children],
        }
    return to_json(flat[id(root)])


def _preorder(root: Node) -> list[Node]:
    order, stack = [], [root]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(reversed(node.children))
    return order


#: How states are filled where a tree is drawn. What runs, or reports a state of its own, is blue.
_FILLS = {
    SUCCESS: "#d5f0d9",
    FAILURE: "#f8d4d4",
    REVOKED: "#ead7f7",
    RETRY: "#fbeec0",
    PENDING: "#f2f2f2",
    None: "#ffffff",  # a group
}
_OTHER_FILL = "#d4e8fb"


def _graph(nodes: list[Node]) -> DependencyGraph[str]:
    graph: DependencyGraph[str] = DependencyGraph()
    for node in nodes:  # all of them first: that is the order in which they are drawn
        graph.add_arc(node.id)
    for node in nodes:
        for child in node.children:
            graph.add_edge(node.id, child.id)
    return graph


class _Coloured:
    """Draws a tree in DOT, each task in the colour of its state. See :class:`..graph.GraphFormatter`."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = {node.id: (f"n{number}", node) for number, node in enumerate(nodes)}

    def head(self) -> str:
        return 'digraph dependencies {\n    node [shape=box style="rounded,filled"]'

    def tail(self) -> str:
        return "}"

    def label(self, obj: str) -> str:
        return obj

    def node(self, obj: str) -> str:
        name, node = self._nodes[obj]
        label = _label(node, colours=False).replace("\\", "\\\\").replace('"', '\\"')
        return f'    {name} [label="{label}" fillcolor="{_FILLS.get(node.state, _OTHER_FILL)}"]'

    terminal_node = node

    def edge(self, a: str, b: str) -> str:
        return f"    {self._nodes[a][0]} -> {self._nodes[b][0]}"


def _as_dot(root: Node) -> str:
    nodes = _preorder(root)
    return _graph(nodes).to_dot(formatter=_Coloured(nodes)).rstrip()


def _as_mermaid(root: Node) -> str:
    nodes = {node.id: node for node in _preorder(root)}
    graph = _graph(list(nodes.values()))
    text = graph.to_mermaid(lambda id: _label(nodes[id], colours=False))
    of_fill: dict[str, list[str]] = {}
    for number, id in enumerate(graph):  # which is how they are named
        of_fill.setdefault(_FILLS.get(nodes[id].state, _OTHER_FILL), []).append(f"n{number}")
    for number, (fill, names) in enumerate(of_fill.items()):
        text += f"    classDef c{number} fill:{fill},color:#000\n    class {','.join(names)} c{number}\n"
    return text.rstrip()


_FORMATS = {"text": _as_text, "dot": _as_dot, "mermaid": _as_mermaid, "json": _as_json}
