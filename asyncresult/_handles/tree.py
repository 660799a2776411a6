"""Walks over a tree of tasks.

A retried task is among its own children, and shared children are common, so every walk keeps the ids
it has met: it gives each edge once and goes below each node once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from .._checks import check_timeout
from ..errors import NotReady, ResultDecodeError
from ..graph import DependencyGraph
from ..meta import TaskMeta
from .base import Node
from .handle import Handle

__all__ = ["build_graph", "children_of", "collect", "iterdeps"]


def children_of(handle: Handle[Any], meta: TaskMeta) -> list[Node[Any]] | None:
    """The children that a record names, as handles."""
    if meta.children is None:
        return None
    try:
        return [handle.backend._revive(child) for child in meta.children]
    except (TypeError, ValueError) as error:
        raise ResultDecodeError(
            f"the children of task {handle.id} are not in Celery's form: {error}", task_id=handle.id
        ) from error


async def iterdeps(root: Node[Any], intermediate: bool) -> AsyncIterator[tuple[Node[Any] | None, Node[Any]]]:
    """See :meth:`AsyncResult.iterdeps`."""
    met: set[str] = set()
    queue: deque[tuple[Node[Any] | None, Node[Any]]] = deque([(None, root)])
    while queue:
        parent, node = queue.popleft()
        yield parent, node
        if node.id in met:
            continue  # another way to a node that was walked: an edge, but nothing new below
        met.add(node.id)
        if not intermediate and not await node.ready():
            raise NotReady(f"the tree below {root.id} is not complete: {node.id} still runs")
        queue.extend((node, child) for child in await node._below() if child.id != node.id)


async def collect(root: Node[Any], intermediate: bool, timeout: float | None) -> AsyncIterator[tuple[Node[Any], Any]]:
    """See :meth:`AsyncResult.collect`."""
    check_timeout(timeout)
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    met = {root.id}
    queue = deque([root])
    while queue:
        node = queue.popleft()
        left = None if deadline is None else max(0.0, deadline - loop.time())
        yield node, await node.get(left)
        for child in await node._below():
            if child.id not in met:
                met.add(child.id)
                queue.append(child)


async def build_graph(root: Node[Any], intermediate: bool, formatter: Any) -> DependencyGraph[Any]:
    """See :meth:`AsyncResult.build_graph`."""
    graph: DependencyGraph[Any] = DependencyGraph(formatter=formatter)
    async for parent, node in iterdeps(root, intermediate):
        graph.add_arc(node)
        if parent is not None:
            graph.add_edge(parent, node)
    return graph
