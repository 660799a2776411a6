"""A Celery app of yours in a test: tasks run at once, or wait for a fake worker; no broker, no server."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..backend import Backend, connect
from .memory import memory_backend

__all__ = ["in_memory"]

#: What of its configuration an app has made something of, by the time that a test changes it.
_MADE = ("_backend_cache", "_pool")
#: They would take precedence over what the test sets.
_VARIABLES = (
    "CELERY_BROKER_READ_URL",
    "CELERY_BROKER_URL",
    "CELERY_BROKER_WRITE_URL",
    "CELERY_RESULT_BACKEND",
)


@contextmanager
def in_memory(app: Any, *, eager: bool = True, url: str | None = None, **options: Any) -> Generator[Backend]:
    """Have the tasks of an app need neither broker nor server, inside the block. Then it is as it was before.

    ::

        with in_memory(app) as backend:
            result = add.delay(2, 3)
            assert await backend.result(result.id) == 5

    Args:
        app: The app, as the application has it.
        eager: Tasks run at once, where they are sent from. Otherwise they are sent into the void, and a
            :class:`FakeWorker` says what becomes of them.
        url: Of a :func:`memory_backend`, to share its records. None makes a new one.
        options: Of the backend, as for ``connect(app)``: ``exceptions=[…]``.

    Returns:
        ``connect(app)``, which is the current backend inside the block.
    """
    app = getattr(app, "_get_current_object", lambda: app)()  # celery.current_app is a proxy
    with ExitStack() as stack:
        if url is None:
            url = str(stack.enter_context(memory_backend()))
        stack.enter_context(_configured(app, f"asyncresult+{url}", eager))
        backend = connect(app, **options)
        backend._enter()
        try:
            yield backend
        finally:
            backend._leave()
            backend._closed = True  # its event loops are those of the records' backend, which ends its waits


@contextmanager
def _configured(app: Any, result_backend: str, eager: bool) -> Generator[None]:
    tasks = dict(app.tasks)  # finalizes it
    changes = app.conf.changes
    settings, backend_cls, local = dict(changes), app.backend_cls, app._local
    attributes: dict[str, Any] = vars(app)
    made = {name: attributes.pop(name) for name in list(attributes) if name.startswith("_asyncresult_")}
    made |= {name: attributes.get(name) for name in _MADE}  # of the class, at first
    stored = {task: vars(task).get("store_eager_result") for task in tasks.values()}
    producers = app.amqp._producer_pool
    variables = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        attributes.update(dict.fromkeys(_MADE))
        app.amqp._producer_pool = None
        app._local = threading.local()  # the backend of each thread
        app.backend_cls = result_backend
        app.conf.update(
            broker_url="memory://",
            broker_read_url=None,
            broker_write_url=None,
            result_backend=result_backend,
            task_always_eager=eager,
        )
        yield
        if not eager:
            app.control.purge()  # kombu's memory is one for the process: another test's worker would find them
    finally:
        changes.clear()
        changes.update(settings)
        for name in [name for name in attributes if name.startswith("_asyncresult_")]:
            del attributes[name]
        attributes.update(made)
        app.backend_cls, app._local, app.amqp._producer_pool = backend_cls, local, producers
        for task, value in stored.items():
            if value is None:
                vars(task).pop("store_eager_result", None)
            else:
                task.store_eager_result = value
        os.environ.update(variables)
