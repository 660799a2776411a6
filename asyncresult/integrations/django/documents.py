"""What Django wants to know about a task besides Celery's record, as it is kept beside that record."""

from __future__ import annotations

import sys
from datetime import datetime
from types import ModuleType
from typing import Any

from django.utils.module_loading import autodiscover_modules

from ...codec.exceptions import printable
from ...errors import ResultDecodeError
from ...meta import TaskMeta
from ...states import PENDING, RECEIVED, RETRY, SUCCESS
from .framework import TaskResultDoesNotExist, base

__all__ = ["NAME", "describe", "find_task", "restore"]

#: Of what is kept beside a record (:meth:`asyncresult.Backend.put_beside`).
NAME = "django"

_WAITING = frozenset({PENDING, RECEIVED, RETRY})
_FAILED = frozenset({"FAILURE", "REVOKED", "REJECTED", "IGNORED"})


def describe(result: Any) -> dict[str, Any]:
    """A task result as plain JSON: all but its status and value, which the record has."""
    task = result.task
    return {
        "task": task.module_path,
        "priority": task.priority,
        "queue_name": task.queue_name,
        "run_after": _text(task.run_after),
        "args": result.args,
        "kwargs": result.kwargs,
        "enqueued_at": _text(result.enqueued_at),
        "started_at": _text(result.started_at),
        "last_attempted_at": _text(result.last_attempted_at),
        "finished_at": _text(result.finished_at),
        "worker_ids": result.worker_ids,
        "errors": [[error.exception_class_path, error.traceback] for error in result.errors],
    }


def restore(alias: str, id: str, document: Any, meta: TaskMeta, modules: tuple[str, ...]) -> Any:
    """The task result of a document, with the status and value of its record.

    Raises:
        TaskResultDoesNotExist: There is no such document, it is none of ours, or no such task is in this project.
        ResultDecodeError: The record says when the task ended, but that is no time.
    """
    if not isinstance(document, dict):
        raise TaskResultDoesNotExist(id)
    task = find_task(document.get("task"), modules)
    try:
        return _restored(task, alias, id, document, meta)
    except ResultDecodeError:
        raise
    except Exception as error:  # what is in it is anybody's
        problem = type(error).__name__
    raise TaskResultDoesNotExist(f"what is kept beside the record of task {id!r} cannot be read: {problem}")


def _restored(task: Any, alias: str, id: str, document: dict[str, Any], meta: TaskMeta) -> Any:
    task = task.using(
        priority=document["priority"],
        queue_name=document["queue_name"],
        run_after=_time(document["run_after"]),
        backend=alias,
    )
    status = _status(meta, document)
    errors = [base.TaskError(exception_class_path=path, traceback=text) for path, text in document["errors"]]
    finished = status in (base.TaskResultStatus.SUCCESSFUL, base.TaskResultStatus.FAILED)
    if status == base.TaskResultStatus.FAILED and not errors:  # the worker could not say: it was killed, or revoked
        errors.append(base.TaskError(exception_class_path=_exception_path(meta), traceback=meta.traceback or ""))
    result = base.TaskResult(
        task=task,
        id=id,
        status=status,
        enqueued_at=_time(document["enqueued_at"]),
        started_at=_time(document["started_at"]),
        last_attempted_at=_time(document["last_attempted_at"]),
        finished_at=(_time(document["finished_at"]) or meta.date_done) if finished else None,
        args=document["args"],
        kwargs=document["kwargs"],
        backend=alias,
        errors=errors if finished else [],
        worker_ids=document["worker_ids"],
    )
    if status == base.TaskResultStatus.SUCCESSFUL:
        object.__setattr__(result, "_return_value", meta.result)
    return result


def find_task(path: Any, modules: tuple[str, ...]) -> Any:
    """The task of this path. What is stored names a task and imports nothing: the modules ``modules`` of the installed
    apps are imported, as Celery's ``autodiscover_tasks()`` does, and others must have been.

    Raises:
        TaskResultDoesNotExist: There is none.
    """
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    if module and module not in sys.modules:
        autodiscover_modules(*modules)
    found = sys.modules.get(module)
    # Not getattr(): modules that load their parts lazily would import one.
    task = vars(found).get(name) if issubclass(type(found), ModuleType) else None
    if not isinstance(task, base.Task):
        raise TaskResultDoesNotExist(
            f"{printable(path)} is not a task of this process: import its module when Django starts, or name it in"
            " TASK_MODULES"
        )
    return task


def _status(meta: TaskMeta, document: dict[str, Any]) -> Any:
    status = base.TaskResultStatus
    if meta.status == SUCCESS:
        return status.SUCCESSFUL
    if meta.status in _FAILED:
        return status.FAILED
    return status.READY if meta.status in _WAITING and not document["worker_ids"] else status.RUNNING


def _exception_path(meta: TaskMeta) -> str:
    form = meta.result if isinstance(meta.result, dict) else {}
    return f"{form.get('exc_module', 'builtins')}.{form.get('exc_type', 'Exception')}"


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time is not None else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text is not None else None
