"""Running a task of Django's: its times and errors, its signals, its value."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

from django.utils import timezone

from ..._extensions import loaded
from ..._portal import start
from ...states import PROGRESS
from ...worker import current_task
from .framework import base, normalize_json, signals

__all__ = ["perform", "report_progress"]


def perform(sender: type, result: Any, worker: str, save: Callable[[Any], None]) -> Any:
    """Run the task of ``result`` in this thread.

    Args:
        sender: Of the signals.
        save: Called with the result when the task begins, and before its final state is stored.

    Returns:
        Its value, as JSON has it.

    Raises:
        Exception: What the task raises. A SystemExit, which would end a worker, is a RuntimeError.
    """
    now = timezone.now()
    result.worker_ids.append(worker)
    _set(result, status=base.TaskResultStatus.RUNNING, started_at=result.started_at or now, last_attempted_at=now)
    save(result)
    signals.task_started.send(sender=sender, task_result=result)
    context = (base.TaskContext(task_result=result),) if result.task.takes_context else ()
    try:
        value = normalize_json(result.task.call(*context, *result.args, **result.kwargs))
    except (Exception, SystemExit) as error:
        path = f"{type(error).__module__}.{type(error).__qualname__}"
        text = "".join(traceback.format_exception(error))
        result.errors.append(base.TaskError(exception_class_path=path, traceback=text))
        _set(result, status=base.TaskResultStatus.FAILED, finished_at=timezone.now())
        save(result)
        signals.task_finished.send(sender=sender, task_result=result)
        if isinstance(error, SystemExit):
            raise RuntimeError(f"the task raised SystemExit({error.code!r})") from error
        raise
    _set(result, status=base.TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)
    save(result)
    signals.task_finished.send(sender=sender, task_result=result)
    return value


def report_progress(current: float | None = None, total: float | None = None, **info: Any) -> None:
    """Report how far the running task is, for ``updates()``, the pages and ``{% task_progress %}``.

    Call it in a task's own code, a coroutine function's too. It does nothing where no task runs that one of our
    backends has sent, as in tests over Django's ``ImmediateBackend``.

    Args:
        current, total: Of whatever it counts.
        info: More to be shown: ``note="what it does"``.

    Raises:
        asyncio.CancelledError: The task was revoked while a thread of this process runs it. It is to end the task.
        BackendError, ResultEncodeError: It could not be stored.
    """
    task = current_task()
    if task is not None:  # an executor's, whose loop is the portal's
        if task.revoked is not None:
            raise asyncio.CancelledError(task.revoked)
        start(task.progress, current, total, **info).result()
        return
    celerys = loaded("celery", "current_task")
    if celerys and celerys.request.id is not None:
        counts = {"current": current, "total": total}
        meta = {name: number for name, number in counts.items() if number is not None} | info
        celerys.update_state(state=PROGRESS, meta=meta)


def _set(result: Any, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(result, name, value)  # it is frozen for applications
