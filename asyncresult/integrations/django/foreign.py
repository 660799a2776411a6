"""Results of backends that are not ours, read by their own ``get_result`` on a thread, at a measured pace.

See :mod:`asyncresult._storage.polled`: one reader serves all that wait for results of a backend.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.core.signals import setting_changed
from django.db import connections
from django.dispatch import receiver

from ..._locks import ProcessLock
from ..._storage.polled import PolledDriver
from ...backend import Backend
from ...codec.codec import Codec
from ...errors import BackendError
from ...meta import TaskMeta
from ...result import AsyncResult, EagerResult
from ...states import FAILURE, STARTED, SUCCESS
from .framework import BaseTaskBackend, TaskResultDoesNotExist, base, task_backends

__all__ = ["backend_over", "finished_handle"]

#: What ``get_result`` raises because of one result, and would raise again: its task is gone, its row is broken.
_OF_ONE_RESULT = (ImportError, AttributeError, LookupError, TypeError, ValueError)

_by_alias: dict[str, Backend] = {}
_by_instance: weakref.WeakKeyDictionary[Any, Backend] = weakref.WeakKeyDictionary()
_making = ProcessLock()


def backend_over(theirs: Any) -> Backend:
    """A backend of ours that reads the results of ``theirs``, a backend for Django's tasks.

    Raises:
        NotImplementedError: It gives no results by their id.
    """
    if type(theirs).get_result is BaseTaskBackend.get_result:
        raise NotImplementedError(
            f"{type(theirs).__name__} has no get_result(): its results can be neither refreshed nor waited for"
        )
    # One that can be called from any thread is made anew by the thread that calls. Another, as DummyBackend, is its
    # instance.
    anew = bool(theirs.supports_get_result)
    with _making():
        backend = _by_alias.get(theirs.alias) if anew else _by_instance.get(theirs)
        if backend is None or backend.closed:
            if anew:
                find: Callable[[], Any] = functools.partial(task_backends.__getitem__, theirs.alias)
            else:
                find = weakref.ref(theirs)
            address = f"Django's task backend {theirs.alias!r} ({type(theirs).__name__})"
            driver = PolledDriver(functools.partial(_Records, find), address)
            backend = Backend(driver, exceptions=[TaskResultDoesNotExist])
            if anew:
                _by_alias[theirs.alias] = backend
            else:
                _by_instance[theirs] = backend
        return backend


def finished_handle(result: Any) -> AsyncResult[Any]:
    """The handle of a task result that is finished: there is nothing to be read."""
    meta = _meta_of(result)
    assert meta is not None
    value = meta.result if meta.status == SUCCESS else Codec().exception(meta)
    made: AsyncResult[Any] = EagerResult(result.id, value, meta.status, meta.traceback)
    return made


class _Records:
    """What :class:`asyncresult._storage.polled.Records` expects, on one thread."""

    batch = 1

    def __init__(self, find: Callable[[], Any], codec: Codec) -> None:
        self._find = find
        self._codec = codec

    def read(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        return {id: record for id in ids if (record := self._read(id)) is not None}

    def _read(self, id: str) -> bytes | None:
        backend = self._find()
        if backend is None:
            raise BackendError("the backend for Django's tasks whose results were waited for is gone")
        try:
            result = backend.get_result(id)
            meta = _meta_of(result)
            return self._codec.encode(meta) if meta is not None else None
        except (TaskResultDoesNotExist, *_OF_ONE_RESULT) as error:
            return self._codec.encode(TaskMeta(task_id=id, status=FAILURE, result=self._codec.encode_exception(error)))
        except Exception:
            connections.close_all()  # the server may have closed one that was idle
            raise

    def read_group(self, group_id: str) -> bytes | None:
        return None

    def write(self, *_: object) -> None:
        raise BackendError("results of Django's tasks are written by the backend that runs them")

    delete = write_group = delete_group = write

    def close(self) -> None:
        connections.close_all()


def _meta_of(result: Any) -> TaskMeta | None:
    """The record of a task result; None for one whose task has not begun."""
    status = base.TaskResultStatus
    if result.status == status.READY:
        return None
    if result.status == status.RUNNING:
        return TaskMeta(task_id=result.id, status=STARTED)
    done = result.finished_at.isoformat() if result.finished_at is not None else None
    if result.status == status.SUCCESSFUL:
        return TaskMeta(task_id=result.id, status=SUCCESS, result=result.return_value, _date_done=done)
    error = result.errors[-1] if result.errors else None
    text = error.traceback if error is not None else None
    return TaskMeta(task_id=result.id, status=FAILURE, result=_exception_form(error), traceback=text, _date_done=done)


def _exception_form(error: Any) -> dict[str, Any]:
    """As records have it. A task error holds the class and the traceback, whose last line has the text."""
    if error is None:
        return {"exc_type": "Exception", "exc_message": ["the backend says no more"], "exc_module": "builtins"}
    module, _, name = error.exception_class_path.rpartition(".")
    last = (error.traceback or "").rstrip().rpartition("\n")[2]
    text = last.partition(": ")[2]
    return {"exc_type": name, "exc_message": [text] if text else [], "exc_module": module or "builtins"}


@receiver(setting_changed, dispatch_uid="asyncresult.tasks")  # type: ignore[untyped-decorator]
def _forget(*, setting: str, **_: Any) -> None:
    """Tests override settings."""
    if setting == "TASKS":
        with _making():
            _by_alias.clear()
