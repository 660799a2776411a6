"""The tree of tasks below one, as far as the client may see it."""

from __future__ import annotations

from collections import deque
from typing import Any

from starlette.requests import Request

from .._handles.base import Node
from ..errors import ResultDecodeError
from ..result import AsyncResult
from .problems import Problem
from .settings import Settings
from .streams import Followed

__all__ = ["tree_document"]

MAX_NODES = 500
"""Tasks that one answer shows."""


async def tree_document(request: Request, task: Followed, settings: Settings) -> dict[str, Any]:
    """``{id, state, children, more?}``, the children of the same form; ``state`` is null for a group.

    Each child is authorised as if it had been requested. One that may not be seen is left out, with all below it. What
    is there twice has its children where it is met first. ``more`` is there where the tree was too large to be shown.
    The state of one whose record cannot be read is "unreadable".

    Raises:
        ResultDecodeError: That of the task itself cannot be read.
    """
    root: dict[str, Any] = {"id": task.name, "state": None, "children": []}
    met = {task.handle.id}
    queue: deque[tuple[Node[Any], dict[str, Any]]] = deque([(task.handle, root)])
    shown = 1
    while queue:
        node, document = queue.popleft()
        try:
            if isinstance(node, AsyncResult):
                document["state"] = (await node.meta()).status
            children = await node._below()
        except ResultDecodeError:
            if document is root:
                raise
            document["state"] = document["state"] or "unreadable"  # which hides no other
            continue
        for child in children:
            if child.id in met:
                continue
            met.add(child.id)
            if shown >= MAX_NODES:
                root["more"] = True
                return root
            is_task = isinstance(child, AsyncResult)
            if is_task and not await _allowed(request, settings, child.id):
                continue
            shown += 1
            name = settings.name_of(request, child.id) if is_task else child.id
            below: dict[str, Any] = {"id": name, "state": None, "children": []}
            document["children"].append(below)
            queue.append((child, below))
    return root


async def _allowed(request: Request, settings: Settings, id: str) -> bool:
    try:
        await settings.check(request, id)
    except Problem:
        return False
    return True
