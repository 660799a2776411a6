"""Walks over a tree of tasks.

A retried task is among its own children, and shared children are common, so every walk keeps the ids
it has met: it gives each edge once and goes below each node once.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

from .._checks import check_timeout
from ..codec.exceptions import error_text, printable
from ..errors import NotReady, ResultDecodeError
from ..graph import DependencyGraph
from ..meta import TaskMeta
from .base import Node
from .feeds import ItemT, Stream
from .handle import Handle

__all__ = ["Collected", "Dependencies", "build_graph", "children_of"]

T = TypeVar("T")


def children_of(handle: Handle[Any], meta: TaskMeta) -> list[Node[Any]] | None:
    """The children that a record names, as handles."""
    forms = meta.children
    if forms is None:
        return None
    try:
        if not isinstance(forms, list):
            raise TypeError(f"a list is expected, not {type(forms).__name__}")
        return [handle.backend._revive(child) for child in forms]
    except Exception as error:  # values of registered types may raise anything
        raise ResultDecodeError(
            f"the children of task {printable(handle.id)} are not in Celery's form: {error_text(error)}",
            task_id=handle.id,
        ) from error


class _Walk(Stream[ItemT]):
    """A walk over a tree, breadth first. What a cancelled ``anext()`` had not finished is done by the next one."""

    def __init__(self) -> None:
        super().__init__()
        self._given: Node[Any] | None = None  # what is below it is not queued yet

    async def _next_item(self) -> ItemT:
        if self._waits_for is not None:
            raise RuntimeError("a stream has one reader at a time")
        try:
            if self._given is not None:
                await self._go_below(self._given)
                self._given = None
            return await self._next_node()
        except Exception:  # of a task, too: its exceptions are none of ours
            self._end()
            raise

    async def _outcome(self, work: Coroutine[Any, Any, T]) -> T:
        """That of a wait or a read, which ends when the walk is ended."""
        task = asyncio.get_running_loop().create_task(work, name="asyncresult walk")
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # with its reader, who has a say of its own
        try:
            await self._wait_for(task)
            return task.result()
        finally:
            del task  # what it raises holds this frame, which would hold it

    @abstractmethod
    async def _go_below(self, node: Node[Any]) -> None:
        """Queue the children of ``node``: all, or none if it is cancelled."""

    @abstractmethod
    async def _next_node(self) -> ItemT:
        """Take the next from the queue, and set ``_given``. StopAsyncIteration when there is none."""


class Dependencies(_Walk[tuple[Node[Any] | None, Node[Any]]]):
    """See :meth:`AsyncResult.iterdeps`."""

    def __init__(self, root: Node[Any], intermediate: bool) -> None:
        super().__init__()
        self._root = root
        self._intermediate = intermediate
        self._met: set[str] = set()
        self._queue: deque[tuple[Node[Any] | None, Node[Any]]] = deque([(None, root)])

    async def _go_below(self, node: Node[Any]) -> None:
        if not self._intermediate and not await self._outcome(node.ready()):
            raise NotReady(
                f"the tree below {printable(self._root.id)} is not complete: {printable(node.id)} still runs"
            )
        self._queue.extend([(node, child) for child in await self._outcome(node._below()) if child.id != node.id])

    async def _next_node(self) -> tuple[Node[Any] | None, Node[Any]]:
        if self._over or not self._queue:
            raise StopAsyncIteration
        parent, node = self._queue.popleft()
        if node.id not in self._met:  # else another way to a node that was walked: an edge, but nothing new below
            self._met.add(node.id)
            self._given = node
        return parent, node


class Collected(_Walk[tuple[Node[Any], Any]]):
    """See :meth:`AsyncResult.collect`."""

    def __init__(self, root: Node[Any], timeout: float | None) -> None:
        check_timeout(timeout)
        super().__init__()
        self._timeout = timeout
        self._deadline: float | None = None
        self._met = {root.id}
        self._queue = deque([root])

    async def _go_below(self, node: Node[Any]) -> None:
        for child in await self._outcome(node._below()):
            if child.id not in self._met:
                self._met.add(child.id)
                self._queue.append(child)

    async def _next_node(self) -> tuple[Node[Any], Any]:
        if self._over or not self._queue:
            raise StopAsyncIteration
        node = self._queue[0]
        value = await self._outcome(node.get(self._left()))
        self._given = self._queue.popleft()
        return node, value

    def _left(self) -> float | None:
        """What is left of the budget, which begins with the first wait."""
        if self._timeout is None:
            return None
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._timeout
        return max(0.0, self._deadline - now)


async def build_graph(root: Node[Any], intermediate: bool, formatter: Any) -> DependencyGraph[Any]:
    """See :meth:`AsyncResult.build_graph`."""
    graph: DependencyGraph[Any] = DependencyGraph(formatter=formatter)
    async for parent, node in Dependencies(root, intermediate):
        graph.add_arc(node)
        if parent is not None:
            graph.add_edge(parent, node)
    return graph
