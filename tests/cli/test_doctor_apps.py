"""doctor, and the commands, with a Celery app: databases, rpc://, other stores, brokers and workers."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.backends import stores
from tests.tools.celery_app import close_app, make_app
from tests.tools.celery_worker import CeleryWorker
from tests.tools.command_line import Outcome, in_process
from tests.tools.databases import PostgresServer, memcached
from tests.tools.processes import wait_until
from tests.tools.servers import RedisServer, free_port

from .test_doctor import findings

PROJECT = "doctors_project"
Named = Callable[[Any], None]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Iterator[Named]:
    """Have ``-A doctors_project`` find an app; it is closed at the end."""
    apps: list[Any] = []

    def name(app: Any) -> None:
        apps.append(app)
        module = types.ModuleType(PROJECT)
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, PROJECT, module)

    yield name
    for app in apps:
        if app.conf.result_backend.startswith(("redis:", "rpc:")):
            close_app(app)
        else:
            if (client := app.backend.__dict__.get("client")) is not None:
                client.close()  # that of memcached: Celery never closes it
            app.close()


def run(*words: str) -> Outcome:
    return in_process(*words, "-A", PROJECT)


def store(app: Any, *ids: str) -> None:
    for id in ids:
        app.backend.store_result(id, 5, "SUCCESS")


def check_commands(ids: list[str]) -> None:
    """Each command over records that are there."""
    assert run("get", ids[0]) == (0, "5\n", "")
    assert sorted(run("wait", *ids).out.splitlines()) == [f"{id} SUCCESS" for id in ids]
    assert run("watch", ids[0]).out == f"{ids[0]} SUCCESS 5\n"
    assert run("tree", ids[0]).out == f"{ids[0]} SUCCESS\n"
    assert json.loads(run("info", ids[0], "--json").out)["result"] == 5
    assert run("forget", ids[0], "--yes").err == "asyncresult: 1 of 1 deleted\n"
    assert run("get", ids[0], "--no-wait").status == 4


# -- databases ----------------------------------------------------------------------------------------------


def test_a_database_in_a_file(named: Named, tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    app = stores.app_storing_in(f"db+sqlite:///{path}", result_expires=timedelta(days=1))
    named(app)
    path.touch()
    severity, message, fix = findings("-A", PROJECT)["table"]
    assert (severity, fix) == ("error", "a worker makes it when it starts, or stores its first result")
    assert "no table celery_taskmeta" in message

    ids = [f"task-{number}" for number in range(3)]
    store(app, *ids)
    assert sorted(run("ls").out.splitlines()) == [f"{id} SUCCESS" for id in ids]
    assert run("ls", "--limit", "2").out.count("\n") == 2
    stats = json.loads(run("stats", "--json").out)
    assert (stats["kind"], stats["table"], stats["records"]) == ("sqlite", "celery_taskmeta", {"SUCCESS": 3})
    check_commands(ids)
    found = findings("-A", PROJECT)
    assert {found[name][0] for name in ("latency", "index", "rows", "notifications", "records")} == {"ok"}
    assert "0.05 to 1 s" in found["polling"][1]
    assert found["broker"][0] == "note"  # memory://
    assert "doctor" not in run("ls").out

    session = app.backend.ResultSession()
    with session, session.begin():
        execute = session.connection().exec_driver_sql
        execute("UPDATE celery_taskmeta SET date_done = '2020-01-02 03:04:05.000000' WHERE task_id = 'task-1'")
        execute("UPDATE celery_taskmeta SET result = ? WHERE task_id = 'task-2'", (pickle.dumps({"n": 1}),))
    found = findings("-A", PROJECT)
    assert found["rows"][0] == "warning"
    assert "1 of the 2 latest are pickles of plain values" in found["rows"][1]
    assert found["expiry"][0] == "warning"
    assert "there are results of 2020-01-02" in found["expiry"][1]
    with session, session.begin():
        session.connection().exec_driver_sql(
            "UPDATE celery_taskmeta SET result = ? WHERE task_id = 'task-2'", (pickle.dumps(Path("x")),)
        )
    severity, message, _ = findings("-A", PROJECT)["rows"]
    assert severity == "error"
    assert "e.g. task-2" in message


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def test_postgresql_that_announces_nothing(named: Named, postgres_server: PostgresServer) -> None:
    app = stores.app_storing_in(f"db+{postgres_server.url()}")
    named(app)
    store(app, "one", "two")
    check_commands(["one", "two"])
    found = findings("-A", PROJECT)
    assert {found[name][0] for name in ("index", "clock", "clients", "notifications")} == {"ok"}
    assert found["trigger"][0] == "warning"

    sql = run("install-trigger", "--sql")
    assert sql.status == 0
    assert "CREATE TRIGGER asyncresult_notify" in sql.out
    assert findings("-A", PROJECT)["trigger"][0] == "warning"  # printed, not installed
    refused = run("install-trigger", "--dsn", f"postgresql://tests@127.0.0.1:{free_port()}/postgres")
    assert (refused.status, refused.err.count("\n")) == (5, 1)
    assert run("install-trigger") == (0, "", "asyncresult: the trigger is installed\n")
    assert findings("-A", PROJECT)["trigger"][0] == "ok"

    postgres_server.cli("ALTER TABLE celery_taskmeta DISABLE TRIGGER asyncresult_notify")
    postgres_server.cli("ALTER TABLE celery_taskmeta DROP CONSTRAINT celery_taskmeta_task_id_key")
    found = findings("-A", PROJECT)
    assert found["trigger"][:2] == ("warning", "the trigger that announces results is disabled: they are polled")
    assert found["index"][0] == "error"
    for name in ("trigger", "index"):
        postgres_server.cli(found[name][2])  # the fix
    found = findings("-A", PROJECT)
    assert {found["trigger"][0], found["index"][0]} == {"ok"}


def test_a_role_that_may_not_look(named: Named, postgres_server: PostgresServer) -> None:
    store(stores.app_storing_in(f"db+{postgres_server.url()}"), "one")
    postgres_server.cli("CREATE ROLE blind LOGIN")
    named(stores.app_storing_in(f"db+{postgres_server.url().replace('tests@', 'blind@')}"))
    outcome = run("doctor")
    assert outcome.status == 5  # neither can the backend read
    assert "database: it cannot be looked into: " in outcome.out
    assert "GRANT SELECT ON celery_taskmeta" in outcome.out
    assert outcome.err.count("\n") == 1


def test_django_results(named: Named, tmp_path_factory: pytest.TempPathFactory) -> None:
    app = stores.django_app(tmp_path_factory.mktemp("django") / "results.sqlite")
    named(app)
    store(app, "one", "two")
    assert sorted(run("ls").out.splitlines()) == ["one SUCCESS", "two SUCCESS"]
    assert json.loads(run("stats", "--json").out)["records"] == {"SUCCESS": 2}
    found = findings("-A", PROJECT)
    assert {found[name][0] for name in ("latency", "index", "rows", "notifications", "records")} == {"ok"}
    check_commands(["one", "two"])


def test_a_database_that_does_not_answer(named: Named) -> None:
    named(stores.app_storing_in(f"db+postgresql+psycopg://u:secret@127.0.0.1:{free_port()}/none"))
    outcome = run("doctor")
    assert outcome.status == 5
    assert "the database of results cannot be reached" in outcome.err
    assert outcome.err.count("\n") == 1
    assert "secret" not in outcome.err
    assert run("get", "x").status == 5


def test_the_trigger_is_for_postgresql(named: Named, tmp_path: Path) -> None:
    assert in_process("install-trigger").status == 2
    named(stores.app_storing_in(f"db+sqlite:///{tmp_path}/results.sqlite"))
    outcome = run("install-trigger", "--sql")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "does not store its results in PostgreSQL" in outcome.err


# -- other stores -------------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_listed(named: Named) -> None:
    with memcached() as (host, port):
        app = stores.app_storing_in(f"cache+pymemcache://{host}:{port}/")
        named(app)
        store(app, "one")
        for words in (["ls"], ["stats"]):
            outcome = run(*words)
            assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        check_commands(["one"])
        found = findings("-A", PROJECT)
        assert found["notifications"][0] == "ok"
        assert found["polling"][0] == "note"


# -- rpc:// -------------------------------------------------------------------------------------------------


def test_replies_over_redis_come_to_their_process_only(named: Named, redis_server: RedisServer) -> None:
    named(make_app(broker_url=redis_server.url(), result_backend="rpc://"))
    found = findings("-A", PROJECT)
    assert found["reach"][0] == "note"
    assert found["broker"][0] == "ok"
    assert found["workers"][0] == "warning"
    for words in (["get", "x"], ["ls"], ["info", "x"], ["stats"], ["watch", "x"], ["forget", "x", "--yes"]):
        outcome = run(*words)
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert "to the process that sent the task" in outcome.err
    assert findings("x", "-A", PROJECT)["reason"][:2] == ("error", "nothing is stored, and no worker answers")
    assert run("revoke", "x").status == 0


# -- brokers and workers ------------------------------------------------------------------------------------


def test_settings_that_lose_results(named: Named, redis_server: RedisServer) -> None:
    named(
        make_app(
            broker_url=f"redis://:secret@127.0.0.1:{free_port()}/0",
            result_backend=redis_server.url(),
            task_ignore_result=True,
            result_serializer="msgpack",
            result_accept_content=["json"],
            result_expires=0,
        )
    )
    found = findings("-A", PROJECT, "--connect-timeout", "1")
    assert {found[name][0] for name in ("settings", "serializer", "broker")} == {"error"}
    assert found["expiry"][0] == "warning"
    assert found["serializer"][2] == "add 'msgpack' to result_accept_content"
    assert "secret" not in str(found)
    reason = findings("x", "-A", PROJECT, "--connect-timeout", "1")["reason"]
    assert "workers cannot be queried" in reason[1]


def test_a_task_that_waits_in_its_queue(named: Named, redis_server: RedisServer) -> None:
    app = make_app(broker_url=redis_server.url(0), result_backend=redis_server.url(1))
    named(app)
    other, sent = (app.send_task("tests.add", (1, 2)) for _ in range(2))
    severity, message, fix = findings(sent.id, "-A", PROJECT)["reason"]
    assert (severity, message) == ("warning", "the task waits in the queue 'celery', as number 2 of 2")
    assert fix.endswith("start a worker with -Q celery")
    revoked = in_process("revoke", sent.id, "-A", PROJECT, "--wait", "--timeout", "0.1")
    assert (revoked.status, revoked.out, revoked.err) == (0, "", "asyncresult: no worker has replied\n")
    other.forget()
    sent.forget()


@pytest.fixture(scope="module")
def worker() -> Iterator[CeleryWorker]:
    """One task at a time, in a process: the worker answers meanwhile."""
    with (
        RedisServer() as server,
        CeleryWorker(broker=server.url(0), backend=server.url(1), pool="prefork", concurrency=1) as started,
    ):
        yield started


@pytest.mark.celery
def test_what_workers_say_of_a_task(named: Named, worker: CeleryWorker) -> None:
    app = make_app(**worker.config)
    named(app)
    assert findings("-A", PROJECT)["workers"][0] == "ok"
    never = findings("never-sent", "-A", PROJECT)["reason"]
    assert never[0] == "warning"
    assert never[1].startswith("never seen: ")
    sent = app.send_task("tests.slow", (600.0,))
    wait_until(lambda: _runs(app, sent.id), "it runs")
    assert findings(sent.id, "-A", PROJECT)["reason"][1].endswith("has the task: it runs now")

    done = run("revoke", sent.id, "--terminate", "--signal", "SIGKILL", "--wait", "--timeout", "3")
    assert done.status == 0
    assert "ok: " in done.out
    assert run("get", sent.id, "--timeout", "60").status == 3
    assert run("revoke", "not-yet-sent", "--wait").status == 0
    run("forget", "not-yet-sent", "--yes")  # the worker has stored REVOKED
    assert "the task was revoked" in findings("not-yet-sent", "-A", PROJECT)["reason"][1]
    sent.forget()


def _runs(app: Any, id: str) -> bool:
    replies = app.control.inspect(timeout=1).query_task(id) or {}
    return any(tasks[id][0] == "active" for tasks in replies.values() if id in tasks)


@pytest.mark.celery
def test_workers_with_other_settings(named: Named, worker: CeleryWorker, redis_server: RedisServer) -> None:
    theirs = worker.config["result_backend"]
    assert theirs.endswith("/1")
    named(make_app(**{**worker.config, "result_backend": f"{theirs[:-1]}7", "result_serializer": "yaml"}))
    found = findings("-A", PROJECT)
    assert found["place"][0] == "error"
    assert f"stores in {theirs}, and results are read from {theirs[:-1]}7" in found["place"][1]
    assert "result_serializer is json at" in found["workers"][1]
    named(make_app(**worker.config))
    found = findings("-A", PROJECT, "--url", redis_server.url(3))
    assert found["place"][0] == "error"
    assert found["place"][1].startswith("the app stores in ")
