"""A Celery application with a task for everything that a result can be.

Settings come as JSON in ``$TEST_CELERY_CONFIG``: any Celery settings, e.g.
``{"broker_url": …, "result_backend": …, "result_extended": true, "result_compression": "gzip"}``.
A worker runs ``app``; the client's side is :func:`make_app` and :func:`close_app`.
"""

# pyright: reportCallIssue=false
from __future__ import annotations

import builtins
import decimal
import json
import os
import sys
import time
import types
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as time_of_day
from typing import Any

import kombu.pools
from celery import Celery, Task, group, shared_task
from celery.exceptions import Ignore, Reject

__all__ = ["CONFIG_VARIABLE", "TYPED_VALUES", "CustomError", "app", "close_app", "make_app"]

CONFIG_VARIABLE = "TEST_CELERY_CONFIG"

TYPED_VALUES: dict[str, Any] = {
    "datetime": datetime(2024, 1, 2, 3, 4, 5, 678901),
    "datetime_utc": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
    "datetime_offset": datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    "date": date(2024, 1, 2),
    "time": time_of_day(3, 4, 5, 678901),
    "decimal": decimal.Decimal("1.50"),
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "bytes": b"hello",
    "bytes_not_text": b"\xff\xfe\x00",
    "big_integer": 2**100,
    "infinity": float("inf"),
    "text": "naïve \N{SNOWMAN} \N{PILE OF POO}",
    "surrogate": "\udc80",
    "nested": {"list": [1, 2.5, None, True, {"date": date(2024, 1, 2)}]},
}
"""What the task ``tests.typed_values`` returns: what kombu's JSON can hold, one of each."""


class CustomError(Exception):
    """An exception that the reader can import."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


def _unimportable() -> type[Exception]:
    """A class in a module that only this process has."""
    module = sys.modules.setdefault("only_in_the_worker", types.ModuleType("only_in_the_worker"))
    if not hasattr(module, "UnimportableError"):
        module.UnimportableError = type("UnimportableError", (Exception,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    error: type[Exception] = module.UnimportableError
    return error


@shared_task(name="tests.add")
def add(x: Any, y: Any) -> Any:
    return x + y


@shared_task(name="tests.echo")
def echo(value: Any = None) -> Any:
    return value


@shared_task(name="tests.typed_values")
def typed_values() -> dict[str, Any]:
    return TYPED_VALUES


@shared_task(name="tests.big")
def big(size: int) -> str:
    """A text of that many characters."""
    return "x" * size


@shared_task(name="tests.fail")
def fail(kind: str = "builtin", *args: Any) -> None:
    """Raise: builtin (ValueError), custom, unimportable, chained, or the name of a builtin exception with ``args``."""
    if kind == "builtin":
        raise ValueError("boom")
    if kind == "custom":
        raise CustomError("custom boom", 7)
    if kind == "unimportable":
        raise _unimportable()("you cannot have this class")
    if kind == "chained":
        try:
            raise KeyError("the cause")
        except KeyError as error:
            raise ValueError("the effect") from error
    raise getattr(builtins, kind)(*args)


@shared_task(name="tests.progress", bind=True)
def progress(self: Task, steps: int = 3, delay: float = 0.0) -> str:
    """Report PROGRESS with current and total, once a step."""
    for step in range(1, steps + 1):
        self.update_state(state="PROGRESS", meta={"current": step, "total": steps})
        time.sleep(delay)
    return "done"


@shared_task(name="tests.retry", bind=True, default_retry_delay=0)
def retry(self: Task, times: int = 1, *, with_error: bool = True) -> int:
    """Succeed after that many retries.

    Not at once: the message leaves before RETRY is stored, so another process could store SUCCESS in between, which
    RETRY would then replace.
    """
    if self.request.retries < times:
        raise self.retry(exc=ValueError("try again") if with_error else None, countdown=0.1, max_retries=times)
    return int(self.request.retries)


@shared_task(name="tests.ignore")
def ignore() -> None:
    raise Ignore


@shared_task(name="tests.reject")
def reject() -> None:
    raise Reject("unwanted", requeue=False)


@shared_task(name="tests.ignore_result", ignore_result=True)
def ignore_result() -> str:
    return "nobody will know"


@shared_task(name="tests.slow")
def slow(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


@shared_task(name="tests.wait_for_file")
def wait_for_file(path: str, value: Any = None) -> Any:
    """Run until there is such a file; then ``value``."""
    while not os.path.exists(path):
        time.sleep(0.01)
    return value


@shared_task(name="tests.spawn")
def spawn(count: int = 2) -> list[Any]:
    """Send that many children, and a group of two."""
    for number in range(count):
        add.delay(number, 1)
    group(add.s(10, 1), add.s(20, 1)).delay()
    return list(range(count))


def make_app(**config: Any) -> Celery:
    """An application with all these tasks, known as ``tests.<function>``. Settings: Celery's. Close with close_app."""
    made = Celery("tests", set_as_current=False)
    made.conf.update(broker_connection_retry_on_startup=True, broker_heartbeat=None, **config)
    return made


def close_app(closing: Celery) -> None:
    """Close every connection of a client's application, and see to it that it opens no more."""
    backend = closing.backend
    # A result object of Celery's unsubscribes when it is garbage, and would retry for 20 s if its server is gone.
    backend.remove_pending_result = _do_nothing
    consumer = getattr(backend, "result_consumer", None)
    # That of rpc:// cannot be stopped before it has begun.
    if consumer is not None and getattr(consumer, "_consumer", consumer) is not None:
        consumer.stop()
    if (client := backend.__dict__.get("client")) is not None:
        client.connection_pool.disconnect()
        for sentinel in getattr(getattr(client.connection_pool, "sentinel_manager", None), "sentinels", ()):
            sentinel.connection_pool.disconnect()
    kombu.pools.reset()  # those of all applications: kombu shares them by URL
    closing.close()


def _do_nothing(result: object) -> None:
    pass


app = make_app(**json.loads(os.environ.get(CONFIG_VARIABLE, "{}")))
