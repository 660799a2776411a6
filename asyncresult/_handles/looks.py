"""One look at many results: what is stored now, without a wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from .._checks import LOOK_ONCE_TIMEOUT
from .._storage.rounds import AT_ONCE
from .._storage.store import Store
from ..errors import AsyncResultError, copy_error
from ..meta import TaskMeta
from .handle import ancestors, learn, read_record
from .joins import Group, Handle
from .known import give_up, has_failed, is_ready, is_settled, needs_cause, set_cause

__all__ = ["LOOKS_AT_ONCE", "look_at_all", "look_once"]

#: Looks that are begun between two turns of the loop.
LOOKS_AT_ONCE = 500


async def look_at_all(leaves: list[Handle]) -> list[TaskMeta]:
    """The records of all leaves; one series of reads for each backend among them."""
    unknown: dict[Store, list[Handle]] = {}
    metas: dict[int, TaskMeta] = {}
    for leaf in leaves:
        if not is_ready(leaf):
            unknown.setdefault(leaf.backend, []).append(leaf)
    for backend, some in unknown.items():
        for start in range(0, len(some), 5 * AT_ONCE):
            part = some[start : start + 5 * AT_ONCE]
            for leaf, meta in zip(part, await backend.get_many(leaf.id for leaf in part), strict=True):
                learn(leaf, meta)
                metas[id(leaf)] = meta
    return [_latest(leaf, metas) for leaf in leaves]


def _latest(leaf: Handle, metas: dict[int, TaskMeta]) -> TaskMeta:
    known = leaf.snapshot
    return known if known is not None and (is_ready(leaf) or id(leaf) not in metas) else metas[id(leaf)]


async def look_once(leaves: Iterable[Handle], groups: Iterable[Group]) -> None:
    """Have the handles learn what is stored now about them, and about the tasks before them, as far as that can be
    had in the time of a look."""
    waited_for = [leaf for leaf in leaves if not leaf.ignored and not is_settled(leaf)]
    above = {id(leaf): ancestors(leaf) for leaf in waited_for if leaf.parent is not None}
    groups = list(groups)
    tasks: dict[int, Any] = {id(leaf): leaf for leaf in waited_for}
    for some in (*above.values(), *(group.tasks for group in groups)):
        tasks.update((id(task), task) for task in some if not task.ignored and not is_ready(task))
    looks: dict[int, asyncio.Future[TaskMeta]] = {}
    for i, (key, task) in enumerate(tasks.items(), 1):
        looks[key] = read_record(task)
        if i % LOOKS_AT_ONCE == 0:
            await asyncio.sleep(0)
    if looks:
        await asyncio.wait(looks.values(), timeout=LOOK_ONCE_TIMEOUT)
    for leaf in waited_for:
        if needs_cause(leaf):
            set_cause(leaf, above[id(leaf)])
    for group in groups:
        above.update((id(leaf), above.get(id(leaf), []) + group.tasks) for leaf in group.leaves)
    for leaf in waited_for:
        if is_ready(leaf):
            continue
        look = looks[id(leaf)]
        error = look.exception() if look.done() and not look.cancelled() else None
        if isinstance(error, AsyncResultError):
            give_up(leaf, copy_error(error))
        elif (failed := next((task for task in above.get(id(leaf), ()) if has_failed(task)), None)) is not None:
            give_up(leaf, failed)
