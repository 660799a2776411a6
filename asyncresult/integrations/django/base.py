"""What the backends for Django's tasks framework have in common: results are in a store of ours."""

from __future__ import annotations

import asyncio
import uuid
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.core import checks
from django.db import transaction
from django.utils import timezone
from django.utils.asyncio import async_unsafe

from ..._portal import run
from ...backend import Backend
from .documents import NAME, describe, restore
from .framework import TaskResultDoesNotExist, base, signals

if TYPE_CHECKING:
    from .._untyped import Untyped as BaseTaskBackend
else:
    from .framework import BaseTaskBackend

__all__ = ["StoringBackend"]


class StoringBackend(BaseTaskBackend):
    """A backend whose results are in the store of :attr:`store`. How a task gets to run is said by :meth:`deliver`."""

    supports_async_task = True
    supports_get_result = True

    #: The keys of ``OPTIONS`` that it knows.
    known_options: tuple[str, ...] = ("TASK_MODULES", "ENQUEUE_ON_COMMIT")

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self.modules: tuple[str, ...] = tuple(self.options.get("TASK_MODULES", ("tasks",)))
        self.on_commit: bool = bool(self.options.get("ENQUEUE_ON_COMMIT", False))

    @property
    @abstractmethod
    def store(self) -> Backend:
        """Where its results are."""

    @abstractmethod
    def deliver(self, result: Any, document: dict[str, Any]) -> None:
        """Have the task of ``result`` run. It may block."""

    @abstractmethod
    async def adeliver(self, result: Any, document: dict[str, Any]) -> None:
        """The same, without blocking the event loop."""

    # -- enqueuing --------------------------------------------------------------------------------------

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Send a task. Raises, as everything that blocks does, SynchronousOnlyOperation in a coroutine."""
        return self._enqueue(task, args, kwargs)

    @async_unsafe("in a coroutine, await aenqueue()")  # type: ignore[untyped-decorator]
    def _enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        result, document = self._make(task, args, kwargs)

        def send() -> None:
            run(self._announce, result, document)
            self.deliver(result, document)
            signals.task_enqueued.send(type(self), task_result=result)

        if self.on_commit:
            transaction.on_commit(send)
        else:
            send()
        return result

    async def aenqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Send a task, without blocking the event loop."""
        if self.on_commit:  # transactions belong to the thread of the synchronous code
            return await sync_to_async(self.enqueue)(task, args, kwargs)
        result, document = self._make(task, args, kwargs)
        await self._announce(result, document)
        await self.adeliver(result, document)
        await signals.task_enqueued.asend(type(self), task_result=result)
        return result

    def _make(self, task: Any, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self.validate_task(task)
        result = base.TaskResult(
            task=task,
            id=str(uuid.uuid4()),
            status=base.TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        return result, describe(result)

    async def _announce(self, result: Any, document: Any) -> None:
        """Before it is sent: an id that is not announced is unknown."""
        after = result.task.run_after
        delay = max(0.0, after.timestamp() - timezone.now().timestamp()) if after is not None else 0.0
        expires = self.store.expires
        await self.store.put_beside(result.id, NAME, document, expires=expires + delay if expires else None)

    # -- results ----------------------------------------------------------------------------------------

    @async_unsafe("in a coroutine, await aget_result()")  # type: ignore[untyped-decorator]
    def get_result(self, result_id: str) -> Any:
        """The result of this id. Raises TaskResultDoesNotExist: no task was sent with it."""
        return run(self.aget_result, result_id)

    async def aget_result(self, result_id: str) -> Any:
        """The result of this id. Raises TaskResultDoesNotExist: no task was sent with it."""
        try:
            document, meta = await asyncio.gather(
                self.store.get_beside(result_id, NAME), self.store.get_meta(result_id)
            )
        except ValueError:  # it cannot be an id
            raise TaskResultDoesNotExist(result_id) from None
        return restore(self.alias, result_id, document, meta, self.modules)

    def save(self, result: Any) -> None:
        """Keep what Django wants beside the record."""
        run(self.store.put_beside, result.id, NAME, describe(result))

    # -- checks -----------------------------------------------------------------------------------------

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """The system checks of this backend."""
        found: list[checks.CheckMessage] = [*super().check(**kwargs)]  # type: ignore[misc]
        for name in sorted(set(self.options) - set(self.known_options)):
            known = ", ".join(self.known_options)
            found.append(
                checks.Error(
                    f"TASKS[{self.alias!r}]['OPTIONS'] has an unknown key {name!r}.",
                    hint=f"Known are {known}.",
                    id="asyncresult.E007",
                )
            )
        return found + self._checked(lambda: self.store, "asyncresult.E008")

    def _checked(self, use: Callable[[], object], id: str) -> list[checks.CheckMessage]:
        try:
            use()
        except Exception as error:  # whatever the modules of the project raise when they are imported
            text = f"TASKS[{self.alias!r}]: {type(error).__name__}: {error}"
            return [checks.Error(text, id=id)]
        return []
