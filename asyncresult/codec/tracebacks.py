"""The traceback text of a failure, as it is stored."""

from __future__ import annotations

import traceback as tracebacks
from types import TracebackType

__all__ = ["traceback_text"]


def traceback_text(exc: BaseException) -> str:
    """The traceback as Celery stores it, with causes, groups and notes, without the frames that lead to the task."""
    tb = exc.__traceback__
    while tb is not None and tb.tb_next is not None and _leads_to_task(tb):
        tb = tb.tb_next
    return "".join(tracebacks.format_exception(type(exc), exc, tb))


def _leads_to_task(tb: TracebackType) -> bool:
    module: str = tb.tb_frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in ("asyncresult", "anyio")
