"""The worker runs the tasks, and they end as they say."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import celery
import pytest
from celery.result import AsyncResult

from .celery_app import TYPED_VALUES, CustomError, close_app, make_app
from .celery_worker import CeleryWorker
from .processes import wait_until
from .servers import RedisServer

if TYPE_CHECKING:
    from celery import Celery

pytestmark = pytest.mark.celery


@contextmanager
def closing(app: Celery) -> Generator[Celery]:
    try:
        yield app
    finally:
        close_app(app)


def run(app: Celery, name: str, *args: Any, **kwargs: Any) -> AsyncResult:
    return app.tasks[f"tests.{name}"].delay(*args, **kwargs)


def test_values(celery_app: Celery) -> None:
    assert run(celery_app, "add", 2, 3).get(timeout=10) == 5
    assert run(celery_app, "echo", {"a": [1]}).get(timeout=10) == {"a": [1]}
    assert run(celery_app, "typed_values").get(timeout=10) == TYPED_VALUES
    assert run(celery_app, "big", 100_000).get(timeout=10) == "x" * 100_000
    assert run(celery_app, "slow", 0.01, "value").get(timeout=10) == "value"


def test_failures(celery_app: Celery) -> None:
    with pytest.raises(ValueError, match="boom"):
        run(celery_app, "fail").get(timeout=10)
    with pytest.raises(CustomError):
        run(celery_app, "fail", "custom").get(timeout=10)
    with pytest.raises(Exception, match="you cannot have this class") as caught:
        run(celery_app, "fail", "unimportable").get(timeout=10)
    assert type(caught.value).__name__ == "UnimportableError"
    with pytest.raises(ZeroDivisionError):
        run(celery_app, "fail", "ZeroDivisionError", "args").get(timeout=10)
    chained = run(celery_app, "fail", "chained")
    with pytest.raises(ValueError, match="the effect"):
        chained.get(timeout=10)
    assert "the cause" in chained.traceback


def test_other_ends(celery_app: Celery, celery_worker: CeleryWorker) -> None:
    assert run(celery_app, "progress").get(timeout=10) == "done"
    assert run(celery_app, "retry", 2).get(timeout=10) == 2
    if celery.VERSION >= (5, 7):  # before, nothing is stored
        with pytest.raises(Exception, match="unwanted"):
            run(celery_app, "reject").get(timeout=10)
    ignored = [run(celery_app, "ignore"), run(celery_app, "ignore_result")]
    parent = run(celery_app, "spawn", 2)
    assert parent.get(timeout=10) == [0, 1]
    assert len(parent.children) == 3
    assert [result.state for result in ignored] == ["PENDING", "PENDING"]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_of_ones_own(pool: Any) -> None:
    config = {
        "result_extended": True,
        "result_compression": "gzip",
        "result_backend_transport_options": {"global_keyprefix": "mine"},
    }
    with (
        RedisServer() as server,
        CeleryWorker(broker=server.url(), config=config, pool=pool, queues=["one", "two"]) as worker,
        closing(make_app(**worker.config)) as app,
    ):
        sent = app.tasks["tests.add"].apply_async((2, 3), queue="two")
        assert sent.get(timeout=10) == 5
        assert sent.name == "tests.add"
        raw = server.cli("GET", f"mine_celery-task-meta-{sent.id}")
        assert raw.startswith(b"\x00celery-compressed\x00" if celery.VERSION >= (5, 7) else b"{")
        worker.stop()
        assert not worker.running
        later = app.tasks["tests.add"].apply_async((3, 4), queue="one")
        worker.start()
        assert later.get(timeout=10) == 7


def test_a_killed_worker_takes_its_pool_along() -> None:
    with RedisServer() as server:
        worker = CeleryWorker(broker=server.url(), pool="prefork", concurrency=2).start()
        worker.kill()
        wait_until(lambda: not server.clients(), "nobody is connected any more")


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(RuntimeError, match="no_such_module"):
        CeleryWorker(broker="redis://127.0.0.1:1", app="no_such_module:app").start()


def test_the_record_is_celerys(celery_app: Celery, celery_worker: CeleryWorker) -> None:
    """The backend's URL is the one to read from."""
    import redis

    sent = run(celery_app, "add", 2, 3)
    sent.get(timeout=10)
    with redis.Redis.from_url(celery_worker.backend) as client:
        raw = client.get(f"celery-task-meta-{sent.id}")
        assert isinstance(raw, bytes)
        assert json.loads(raw)["result"] == 5
        client.connection_pool.disconnect()
