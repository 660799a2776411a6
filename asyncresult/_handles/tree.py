"""Trees of tasks: Celery's tuple form, children, and the walks over them.

A retried task stands among its own children, and shared children are common, so every walk keeps the ids
it has met: it gives each edge once and goes below each node once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from .._storage.store import Backend
from ..backend import current_backend
from ..errors import NotReady, ResultDecodeError
from ..graph import DependencyGraph
from ..meta import TaskMeta
from .handle import AsyncResult
from .sets import GroupResult

__all__ = ["build_graph", "children_of", "collect", "iterdeps", "restore_group", "result_from_tuple"]

Node = AsyncResult[Any] | GroupResult[Any]


def result_from_tuple(obj: Any, backend: Backend | None = None) -> Node:
    """A handle from Celery's portable form, as ``as_tuple()`` gives it.

    Args:
        obj: ``((id, parent), None)`` for a task, ``((id, parent), [members])`` for a group, with lists in
            place of tuples, a bare id in place of ``(id, parent)``, or a handle, which is given back.
        backend: Of all the handles; None is the current one at their first use.

    Raises:
        ValueError: Not of that form, or a chain of parents without end.

    Source: celery/result.py (5.7), result_from_tuple.
    """
    if isinstance(obj, (AsyncResult, GroupResult)):
        return obj
    try:
        head, members = obj
        id, parent = (head, None) if isinstance(head, str) else head
        above = result_from_tuple(parent, backend) if parent else None
        if members is None:
            return AsyncResult(id, backend=backend, parent=above)
        return GroupResult(
            id, [result_from_tuple(member, backend) for member in members], parent=above, backend=backend
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not the tuple form of a result: {obj!r:.200}") from error


def children_of(handle: AsyncResult[Any], meta: TaskMeta) -> list[Node] | None:
    """The children that a record names, as handles."""
    if meta.children is None:
        return None
    try:
        return [result_from_tuple(child, handle.backend) for child in meta.children]
    except (TypeError, ValueError) as error:
        raise ResultDecodeError(
            f"the children of task {handle.id} are not in Celery's form: {error}", task_id=handle.id
        ) from error


async def _below(node: Node) -> list[Node]:
    if isinstance(node, GroupResult):
        return list(node.results)
    return await node.children() or []


async def iterdeps(root: Node, intermediate: bool) -> AsyncIterator[tuple[Node | None, Node]]:
    """See :meth:`AsyncResult.iterdeps`."""
    met: set[str] = set()
    queue: deque[tuple[Node | None, Node]] = deque([(None, root)])
    while queue:
        parent, node = queue.popleft()
        yield parent, node
        if node.id in met:
            continue  # another way to a node that was walked: an edge, but nothing new below
        met.add(node.id)
        if not intermediate and not await node.ready():
            raise NotReady(f"the tree below {root.id} is not complete: {node.id} still runs")
        queue.extend((node, child) for child in await _below(node) if child.id != node.id)


async def collect(root: AsyncResult[Any], intermediate: bool, timeout: float | None) -> AsyncIterator[tuple[Node, Any]]:
    """See :meth:`AsyncResult.collect`."""
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else loop.time() + timeout
    met = {root.id}
    queue: deque[Node] = deque([root])
    while queue:
        node = queue.popleft()
        left = None if deadline is None else max(0.0, deadline - loop.time())
        yield node, await node.get(left)
        for child in await _below(node):
            if child.id not in met:
                met.add(child.id)
                queue.append(child)


async def build_graph(root: AsyncResult[Any], intermediate: bool, formatter: Any) -> DependencyGraph[Any]:
    """See :meth:`AsyncResult.build_graph`."""
    graph: DependencyGraph[Any] = DependencyGraph(formatter=formatter)
    async for parent, node in iterdeps(root, intermediate):
        graph.add_arc(node)
        if parent is not None:
            graph.add_edge(parent, node)
    return graph


async def restore_group(id: str, backend: Backend | None) -> GroupResult[Any] | None:
    """See :meth:`GroupResult.restore`."""
    backend = backend or current_backend()
    tree = await backend.restore_group(id)
    if tree is None:
        return None
    try:
        group = result_from_tuple(tree, backend)
    except ValueError as error:
        raise ResultDecodeError(f"the saved group {id} is not in Celery's form: {error}", task_id=id) from error
    if not isinstance(group, GroupResult):
        raise ResultDecodeError(f"what is saved as group {id} is a single result", task_id=id)
    return group
