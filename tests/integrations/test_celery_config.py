"""An app's configuration as a backend: what is honoured, and what is an error that names the setting."""

from __future__ import annotations

import math
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import celery
import pytest
import redis
from celery.backends.base import BaseBackend
from celery.backends.cache import CacheBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend
from celery.exceptions import ImproperlyConfigured

import asyncresult
from asyncresult import Backend, BackendError, TaskMeta
from asyncresult._redis.driver import RedisDriver
from asyncresult._redis.sentinel import SentinelDriver
from asyncresult.integrations.celery import CeleryController, connect
from asyncresult.integrations.celery.config import backend_for
from asyncresult.integrations.celery.memory import memory_url
from asyncresult.integrations.celery.polled import make_driver
from tests.integrations.celery_project import client
from tests.tools.certificates import Certificates
from tests.tools.servers import RedisServer
from tests.tools.topologies import Sentinels


class Provider(redis.CredentialProvider):
    def get_credentials(self) -> tuple[str, str]:
        return "user", "secret"


def connected(**config: Any) -> Backend:
    app = celery.Celery("configured", set_as_current=False)
    app.conf.update(broker_url="memory://", **config)
    return asyncresult.connect(app)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://", "redis://localhost:6379/0"),
        ("redis://host:6380/3", "redis://host:6380/3"),
        ("redis://host//3", "redis://host:6379/3"),
        ("redis://host/3?db=5", "redis://host:6379/5"),
        ("redis://:p%40ss@host/1", "redis://host:6379/1"),
        ("rediss://host/1?ssl_cert_reqs=required", "rediss://host:6379/1"),
        ("rediss://host/1?ssl_cert_reqs=CERT_NONE", "rediss://host:6379/1"),
        ("redis+socket:///run/redis.sock?virtual_host=2", "unix:///run/redis.sock?db=2"),
        ("asyncresult+redis+socket:///run/redis.sock?virtual_host=2", "unix:///run/redis.sock?db=2"),
        ("asyncresult+redis://host:6380/3", "redis://host:6380/3"),
        ("redis://host/0?socket_timeout=5&health_check_interval=10&socket_keepalive=true&max_connections=7&protocol=3",
         "redis://host:6379/0"),
    ],
)  # fmt: skip
def test_urls(url: str, shown: str) -> None:
    assert str(connected(result_backend=url)) == shown


def test_settings() -> None:
    backend = connected(
        result_backend="redis://user:p%40ss@host/1?client_name=me&socket_timeout=7",
        result_expires=timedelta(minutes=5),
        result_extended=True,
        result_backend_transport_options={"global_keyprefix": "shop"},
    )
    assert isinstance(backend.driver, RedisDriver)
    options = backend.driver.options
    assert (options.username, options.password, options.client_name, options.socket_timeout) == (
        "user",
        "p@ss",
        "me",
        7,
    )
    assert (backend.expires, backend.result_extended) == (300, True)
    assert backend.task_key("x") == b"shop_celery-task-meta-x"
    assert connected(result_backend="redis://host", result_expires=None).expires is None
    assert connected(result_backend="redis://host", redis_socket_timeout=3.0).driver.options.socket_timeout == 3.0  # type: ignore[attr-defined]
    assert connected(result_backend="redis://host").driver.options.socket_timeout is None  # type: ignore[attr-defined]
    spelled_out = connected(result_backend="redis", redis_host="there", redis_port=7000, redis_db=4)
    assert str(spelled_out) == "redis://there:7000/4"


def test_settings_of_connections() -> None:
    """Every setting that Celery knows of them, at once, and the options that redis-py's connections take for TLS."""
    backend = connected(
        result_backend="rediss://host/1",
        redis_backend_use_ssl={
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_check_hostname": False,
            "ssl_min_version": ssl.TLSVersion.TLSv1_3,
            "ssl_ciphers": "HIGH",
            "ssl_exclude_verify_flags": [ssl.VERIFY_X509_TRUSTED_FIRST],
            "health_check_interval": 10,
        },
        redis_max_connections=20,
        redis_socket_timeout=7.0,
        redis_socket_connect_timeout=2.0,
        redis_retry_on_timeout=True,
        redis_socket_keepalive=True,
        redis_client_name="me",
        redis_backend_health_check_interval=25,
        redis_username="user",
        redis_password="hush",
        result_backend_transport_options={"retry_policy": {"timeout": 5.0}, "visibility_timeout": 60},
    )
    assert isinstance(backend.driver, RedisDriver)
    options = backend.driver.options
    client_name = "me" if celery.VERSION >= (5, 6) else None  # before, there is no such setting
    assert (options.socket_timeout, options.connect_timeout, options.client_name) == (7.0, 2.0, client_name)
    context = options.ssl_context()
    assert context is not None
    assert (context.check_hostname, context.minimum_version) == (False, ssl.TLSVersion.TLSv1_3)
    assert not context.verify_flags & ssl.VERIFY_X509_TRUSTED_FIRST
    with pytest.raises(ValueError, match="'ssl_validate_ocsp' of redis-py is not taken"):
        connected(result_backend="rediss://host", redis_backend_use_ssl={"ssl_validate_ocsp": True, "ssl_cert_reqs": 2})


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="new in Celery 5.7")
def test_settings_of_celery_57() -> None:
    backend = connected(result_backend="redis://host", result_failure_expires=0, result_compression="gzip")
    assert backend.failure_expires == 0
    assert backend.codec.encode(TaskMeta(task_id="x", status="SUCCESS")).startswith(b"\0celery-compressed\0")
    with pytest.raises(ImproperlyConfigured, match="result_compression"):
        connected(result_backend="redis://host", result_compression="snappy")


@pytest.mark.skipif(celery.VERSION < (5, 6), reason="new in Celery 5.6")
def test_credential_provider() -> None:
    backend = connected(result_backend="redis://host", redis_backend_credential_provider=Provider())
    assert isinstance(backend.driver, RedisDriver)
    assert isinstance(backend.driver.options.credential_provider, Provider)
    assert (backend.driver.options.username, backend.driver.options.password) == (None, None)


def test_sentinels_as_celery_spells_them() -> None:
    backend = connected(
        result_backend="sentinel://:pw@h1:26379/2;sentinel://:pw@h2:26380/2",
        result_backend_transport_options={"master_name": "main", "sentinel_kwargs": {"password": "other"}},
    )
    assert isinstance(backend.driver, SentinelDriver)
    assert (backend.driver.options.service, backend.driver.options.password, backend.driver.options.db) == (
        "main",
        "pw",
        2,
    )
    assert backend.driver.options.sentinels is not None
    assert [str(address) for address in backend.driver.options.sentinels.addresses] == ["h1:26379", "h2:26380"]
    assert backend.driver.options.sentinels.password == "other"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"result_backend": "rpc://", "result_serializer": "pickle"}, "result_serializer: .*pickles"),
        ({"result_backend": None}, "has no result_backend"),
        ({"result_backend": "disabled://"}, "disabled"),
        ({"result_backend": "no.such.module:Backend"}, "result_backend"),
        ({"result_backend": "db+sqlite:///x", "result_serializer": "pickle"}, "result_serializer: .*pickles"),
        ({"result_backend": "redis://host/0?nonsense=1"}, "'nonsense'"),
        ({"result_backend": "redis://host", "result_serializer": "pickle"}, "result_serializer: .*pickles"),
        ({"result_backend": "redis://host", "result_accept_content": ["json", "pickle"]}, "result_accept_content: "),
        ({"result_backend": "sentinel://host"}, "needs .service="),
        ({"result_backend": "redis://host", "result_serializer": "nonsense"}, "result_serializer: unknown"),
        ({"result_backend": "redis://host", "result_expires": "soon"}, r"result_expires.*\(ValueError\)"),
        ({"result_backend": "redis://host", "result_expires": math.inf}, r"result_expires.*\(OverflowError\)"),
        ({"result_backend": "redis://host", "redis_socket_timeout": object()}, r"redis_.*\(TypeError\)"),
        ({"result_backend": "redis://host", "result_backend_transport_options": 5}, r"transport_options.*\(Attr"),
    ],
)
def test_what_cannot_be_honoured_is_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        connected(**config)
    assert "<Celery configured at" in str(caught.value)


def test_no_secret_in_an_error() -> None:
    with pytest.raises(ValueError, match="nonsense") as caught:
        connected(result_backend="redis://user:secret@host/0?nonsense=1")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_accept_content_is_about_messages_too() -> None:
    """An app whose workers take pickled messages may well store JSON results."""
    assert connected(result_backend="redis://host", accept_content=["json", "pickle"])


def test_one_backend_per_app() -> None:
    app = celery.Celery("configured", broker="memory://", backend="redis://host", set_as_current=False)
    backend = asyncresult.connect(app)
    assert asyncresult.connect(app) is backend is connect(app)
    assert [type(way) for way in backend.controllers] == [CeleryController]
    other = asyncresult.connect(app, heartbeat=1.0)
    assert other is not backend
    assert other.heartbeat == 1.0
    assert asyncresult.connect(app) is other


def test_what_is_no_app() -> None:
    with pytest.raises(TypeError, match=r"expected a URL as text, or an app: .*, not builtins\.int"):
        asyncresult.connect(5)


def test_the_core_imports_no_celery() -> None:
    """An app is recognised without any import of the integration by the user."""
    code = """
import sys, asyncresult
assert not {"celery", "kombu", "anyio", "redis"} & set(sys.modules)
import celery
app = celery.Celery(broker="memory://", backend="redis://host:1/2")
assert "asyncresult.integrations.celery" not in sys.modules
assert str(asyncresult.connect(app)) == "redis://host:1/2"
assert str(asyncresult.connect(celery.current_app)) == "redis://host:1/2"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_tls_and_a_password(certificates: Certificates) -> None:
    with RedisServer(tls=certificates, password="pass") as server:
        url = server.url(1).replace("?", "?ssl_cert_reqs=required&", 1) if "?" in server.url(1) else server.url(1)
        with client(broker_url="memory://", result_backend=url) as app:
            async with asyncresult.connect(app) as backend:
                await backend.store_result("tls", 5, "SUCCESS")
                assert await backend.result("tls") == 5
            assert app.AsyncResult("tls").state == "SUCCESS"


@pytest.mark.topology
async def test_sentinels() -> None:
    """The same sentinels and the same primary, for Celery and for us."""
    with Sentinels() as sentinels:
        hosts = ";".join(f"sentinel://127.0.0.1:{sentinel.port}/1" for sentinel in sentinels.sentinels)
        options = {"master_name": sentinels.service}
        for prefix in ("", "asyncresult+"):
            with client(
                broker_url="memory://", result_backend=prefix + hosts, result_backend_transport_options=options
            ) as app:
                async with asyncresult.connect(app) as backend:
                    await backend.store_result(f"s{prefix}", 5, "SUCCESS")
                    assert await backend.result(f"s{prefix}") == 5
                assert app.AsyncResult(f"s{prefix}").state == "SUCCESS"


def test_an_app_that_sends_while_it_is_configured() -> None:
    """Reading its configuration runs its own code, which comes back to us."""
    app = celery.Celery("sends", broker="memory://", task_cls="asyncresult.integrations.celery:Task")
    app.add_defaults(lambda: {"result_backend": "redis://127.0.0.1:1/0", "task_ignore_result": True})
    add = app.task(lambda: None, shared=False, name="sent")
    app.on_after_configure.connect(lambda sender, **_: add.delay(), weak=False)
    connecting = threading.Thread(target=asyncresult.connect, args=(app,), daemon=True)
    connecting.start()
    connecting.join(10)
    assert not connecting.is_alive()
    app.close()


# -- results that name a backend of their own -------------------------------------------------------------------


def app_with(url: str) -> celery.Celery:
    app = celery.Celery("elsewhere", set_as_current=False)
    app.conf.update(broker_url="memory://", result_backend=url)
    return app


def test_the_apps_own_backend_is_that_of_most_results() -> None:
    app = app_with("redis://host/1")
    own = asyncresult.connect(app)
    assert backend_for(app, None) is own
    assert backend_for(app, app.backend) is own
    assert backend_for(app, RedisBackend(app=app, url="redis://host/1")) is own  # the same place
    elsewhere = backend_for(app, RedisBackend(app=app, url="redis://host/2"))
    assert str(elsewhere) == "redis://host:6379/2"
    assert own.companions == [elsewhere]


def test_an_app_whose_own_results_are_not_served_may_have_some_that_are() -> None:
    app = app_with("disabled://")
    elsewhere = backend_for(app, RedisBackend(app=app, url="redis://host/2"))
    assert str(elsewhere) == "redis://host:6379/2"
    with pytest.raises(ValueError, match="its result_backend is disabled"):
        asyncresult.connect(app)


@pytest.mark.parametrize("make", [RPCBackend, lambda app: CacheBackend(app, url="memory://")])
def test_results_kept_elsewhere_than_in_redis_are_refused(make: Callable[[celery.Celery], Any]) -> None:
    app = app_with("redis://host/1")
    with pytest.raises(ValueError, match=r"a result backend of its own, a (RPC|Cache)Backend"):
        backend_for(app, make(app))


def test_what_is_no_result_backend_is_named() -> None:
    with pytest.raises(ValueError, match="a result names as its backend a dict, which is not a result backend"):
        backend_for(SimpleNamespace(backend=None), {})


def test_a_backend_whose_package_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"its result_backend cannot be imported: .*nowhere"):
        asyncresult.connect(app_with("nowhere.at.all:Backend://"))


@pytest.mark.parametrize(
    "options",
    [
        *({"min_interval": value} for value in (0, "x", None, math.nan)),
        *({"max_interval": value} for value in (0.01, "x", None, math.inf)),
        *({"share": value} for value in (0, 2, "x", None, math.nan)),
        *({"readers": value} for value in (0, 1.5, "x", None, math.inf)),
    ],
)
def test_a_pace_that_cannot_be_meant(tmp_path: Path, options: dict[str, Any]) -> None:
    app = celery.Celery("configured", broker="memory://", backend=f"file://{tmp_path}", set_as_current=False)
    with pytest.raises(ValueError, match=next(iter(options))):
        asyncresult.connect(app, **options)


def test_an_option_of_another_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="listen_dsn is for results in PostgreSQL"):
        asyncresult.connect(app_with(f"db+sqlite:///{tmp_path}/x"), listen_dsn="dbname=x")


async def test_a_store_that_celery_cannot_open() -> None:
    app = app_with("mongodb://host/x")
    backend = Backend(make_driver(app, BaseBackend, None, {}))
    with mock.patch.object(celery.Celery, "backend", mock.PropertyMock(side_effect=ImproperlyConfigured("pymongo"))):
        with pytest.raises(BackendError, match="Celery cannot open its result backend: pymongo"):
            await backend.result("t").get(timeout=5)
    await backend.aclose()


def test_celerys_half_of_results_in_memory() -> None:
    """Chords count in it."""
    app = app_with("asyncresult+memory://")
    theirs = app.backend
    theirs.set(b"k", "text")
    assert theirs.mget([b"k", b"none"]) == [b"text", None]
    assert [theirs.incr(b"n"), theirs.incr(b"n")] == [1, 2]
    theirs.expire(b"n", 60)
    assert 0 < theirs._records.lifetime(b"n") <= 60
    assert memory_url(theirs, None) == "memory://"
