"""Celery, as if it had been made for asyncio: ``value = await add.delay(2, 3)``.

* :func:`connect` (also ``asyncresult.connect(app)``): a backend from the configuration of an app.
* :func:`from_celery`, :func:`to_celery`: Celery's results as handles, and back.
* :class:`Task`, :func:`install`: tasks whose results can be awaited, and that are sent without blocking the event loop.
* :class:`AwaitableResult`: what ``delay()`` returns, Celery's own result.
* :func:`chain`, :func:`group`, :func:`chord`: Celery's own, with types.
* :func:`result_backend`: ``result_backend = "asyncresult+redis://…"`` in Celery's settings.
* :class:`Reader`, :func:`register_reader`: reading results from a backend that Celery does not bring along.
* :func:`asend_task`: ``app.send_task()`` without blocking the event loop; :func:`send_many`: thousands of tasks.
* :func:`trigger_sql`, :func:`trigger_sql_of`, :func:`install_trigger`: results in PostgreSQL, announced when they are
  stored.

Importing this module gives every signature ``adelay()`` and ``aapply_async()``.
"""

from __future__ import annotations

from ..._extensions import without_extra

try:
    from .app import connect
except ModuleNotFoundError as _error:
    raise without_extra("celery", _error) from None

from .awaitable import AwaitableResult
from .backend import ResultBackend, SentinelResultBackend, result_backend
from .canvas import GroupSignature, TypedSignature, chain, chord, group
from .control import CeleryController
from .postgres import install_trigger, trigger_sql, trigger_sql_of
from .publisher import SendUnconfirmed
from .readers import Reader, register_reader
from .results import CeleryAsyncResult, CeleryGroupResult, from_celery, to_celery
from .rpc import RpcBackend
from .sending import asend_task, send_many
from .tasks import Task, install, shared_task, task

__all__ = [
    "AwaitableResult",
    "CeleryAsyncResult",
    "CeleryController",
    "CeleryGroupResult",
    "GroupSignature",
    "Reader",
    "ResultBackend",
    "RpcBackend",
    "SendUnconfirmed",
    "SentinelResultBackend",
    "Task",
    "TypedSignature",
    "asend_task",
    "chain",
    "chord",
    "connect",
    "from_celery",
    "group",
    "install",
    "install_trigger",
    "register_reader",
    "result_backend",
    "send_many",
    "shared_task",
    "task",
    "to_celery",
    "trigger_sql",
    "trigger_sql_of",
]
