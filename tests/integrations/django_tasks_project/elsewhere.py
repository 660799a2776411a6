"""A backend as others write them: results in a place of its own, read by ``get_result``, and no way to wait."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import replace
from typing import Any, ClassVar

from django.utils import timezone

from asyncresult.integrations.django.framework import BaseTaskBackend, TaskResultDoesNotExist, base


class ElsewhereBackend(BaseTaskBackend):  # type: ignore[misc]
    """Its results are those of the process, and are given an end by :meth:`end`."""

    supports_get_result = True
    results: ClassVar[dict[str, Any]] = {}
    reads: ClassVar[list[tuple[str, float]]] = []
    """The thread of each read, and its time."""
    outage = False

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
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
        self.results[result.id] = result
        return replace(result)

    def get_result(self, result_id: str) -> Any:
        self.reads.append((threading.current_thread().name, time.monotonic()))
        if ElsewhereBackend.outage:
            raise OSError("the place cannot be reached")
        if result_id not in self.results:
            raise TaskResultDoesNotExist(result_id)
        return self.results[result_id]

    @classmethod
    def end(cls, id: str, value: Any = None, error: str | None = None) -> None:
        status = base.TaskResultStatus
        ended = replace(cls.results[id], status=status.FAILED if error else status.SUCCESSFUL)
        object.__setattr__(ended, "finished_at", timezone.now())
        object.__setattr__(ended, "_return_value", value)
        if error:
            path, text = "builtins.KeyError", f"Traceback\n{error}"
            object.__setattr__(ended, "errors", [base.TaskError(exception_class_path=path, traceback=text)])
        cls.results[id] = ended
