"""A backend from the configuration of a Celery app.

Celery reads its settings itself: its own backend is made, which connects nothing, and what it made of the
URL and of some thirty settings is translated. So every spelling that Celery understands is understood, and
means the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from celery.app.backends import by_url
from celery.app.defaults import DEFAULTS
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.backends.rpc import RPCBackend
from redis import SSLConnection

from ..._storage.options import CONNECTION_OPTIONS
from ...backend import Backend
from ...backend import connect as connect_url
from ...codec.serializers import known_serializer
from .control import CeleryController
from .kinds import backend_class, is_polled
from .rpc import RpcBackend, is_rpc, replies_of

__all__ = ["backend_of", "make_backend", "once"]

#: Parameters of Celery's connections that ours do without, because the two connections of a backend keep
#: themselves alive (heartbeat), are never more than two, reconnect and retry by rules of their own, and
#: carry bytes.
_NOT_NEEDED = frozenset(
    {
        *("connection_class", "decode_responses", "driver_info", "encoding", "health_check_interval", "hosts"),
        *("lib_name", "lib_version", "max_connections", "retry_on_timeout", "socket_keepalive"),
        *("socket_keepalive_options", "timeout"),
    }
)
_ADDRESS = frozenset({"host", "port", "path", "db"})

_CHOICES = (
    "set result_backend to redis://, rediss://, redis+socket:// or sentinel:// (or to the same with asyncresult+"
    " in front), where any process can read the results of any other"
)

_making = threading.Lock()


def backend_of(app: Any, **options: Any) -> Backend:
    """What :func:`.results.connect` gives."""
    if options:
        app._asyncresult_backend = make_backend(app, **options)
    backend: Backend = once(app, "_asyncresult_backend", lambda: make_backend(app))
    return backend


def once(app: Any, name: str, make: Callable[[], Any]) -> Any:
    """An attribute of the app that is made at its first use, by one of the threads that want it."""
    with _making:
        if not hasattr(app, name):
            setattr(app, name, make())
        return getattr(app, name)


def make_backend(app: Any, **options: Any) -> Backend:
    """A backend of its own, from the configuration of ``app``. Raises: as :func:`.results.connect`."""
    if is_rpc(app):
        return _make_rpc_backend(app, options)
    cls, url = backend_class(app)
    if is_polled(cls):
        return _make_polled_backend(app, cls, url, options)
    celery_backend = _celery_backend(app)
    try:
        url, settings = _translate(app, celery_backend)
        backend = connect_url(url, **{**settings, **options})
    except ValueError as error:
        raise ValueError(f"{app!r} cannot be connected: {error}") from None
    backend.controllers.append(CeleryController(app))
    return backend


def _make_rpc_backend(app: Any, options: Mapping[str, Any]) -> Backend:
    try:
        settings = _records(app.conf, RPCBackend(app=app), {})
        backend = RpcBackend(replies_of(app, make_backend), **{**settings, **options})
    except ValueError as error:
        raise ValueError(f"{app!r} cannot be connected: {error}") from None
    if options:
        backend.replies.rules = backend
    backend.controllers.append(CeleryController(app))
    return backend


def _make_polled_backend(app: Any, cls: Any, url: str | None, options: dict[str, Any]) -> Backend:
    from .polled import expires_of, make_driver  # not before it is needed: databases bring their own packages

    conf = app.conf
    try:
        bson = cls.__module__ == "celery.backends.mongodb" and conf.result_serializer == "bson"
        settings = {
            "serializer": "json" if bson else _known("result_serializer", [conf.result_serializer])[0],
            "accept": _accepted(conf),
            "compression": conf.get("result_compression"),
            "expires": expires_of(app),
            "result_extended": bool(conf.result_extended),
        }
        backend = Backend(make_driver(app, cls, url, options), **{**settings, **options})
    except ValueError as error:
        raise ValueError(f"{app!r} cannot be connected: {error}") from None
    backend.controllers.append(CeleryController(app))
    return backend


def _celery_backend(app: Any) -> Any:
    chosen = app.backend_cls or app.conf.result_backend
    try:
        cls, url = by_url(chosen, app.loader)
    except ImportError:  # a backend that needs a package which is not installed: none of ours does
        cls = url = None
    # Ours is a function, which looks at the URL first.
    if cls is not None and (not isinstance(cls, type) or issubclass(cls, RedisBackend)):
        try:
            backend = cls(app=app, url=url)
        except ValueError:  # its text may quote a part of the password
            raise ValueError(
                f"{app!r} cannot be connected: its result_backend cannot be read as a URL: percent-encode special"
                " characters in user and password"
            ) from None
        if isinstance(backend, RedisBackend):
            return backend
    kind = str(chosen).partition("://")[0] if chosen else "none"
    why = {
        "none": "it has no result_backend",
        "disabled": "its result_backend is disabled",
    }.get(kind, f"its result_backend ({kind}) is not Redis")
    raise ValueError(f"{app!r} cannot be connected: {why}; {_CHOICES}")


def _translate(app: Any, parsed: Any) -> tuple[str, dict[str, Any]]:
    """URL and options of our backend, from Celery's."""
    conf, params, transport = app.conf, dict(parsed.connparams), parsed._transport_options
    settings = _records(conf, parsed, transport)
    tls = issubclass(params.get("connection_class") or object, SSLConnection)
    if params.get("socket_timeout") == DEFAULTS["redis_socket_timeout"]:
        del params["socket_timeout"]  # nobody asked for the two minutes that a blocking client may wait
    for name, value in params.items():
        if name in _ADDRESS or name in _NOT_NEEDED or value is None:
            continue
        if name == "credential_provider":
            settings[name] = value
        elif name in CONNECTION_OPTIONS:  # redis-py 6.4 leaves some numbers of the URL as text
            settings[name] = CONNECTION_OPTIONS[name](value) if isinstance(value, str) else value
        else:
            raise ValueError(f"it sets {name!r} for its connections to Redis, which asyncresult's do not know")
    settings["db"] = params["db"]
    if isinstance(parsed, SentinelBackend):
        # Celery asks its sentinels without TLS unless sentinel_kwargs says otherwise.
        settings["sentinel_kwargs"] = {"ssl": False, **transport.get("sentinel_kwargs", {})}
        settings["min_other_sentinels"] = transport.get("min_other_sentinels", 0)
        settings["master_name"] = transport.get("master_name")
        hosts = ",".join(_host(host["host"], host["port"]) for host in params["hosts"])
        return f"{'sentinels' if tls else 'sentinel'}://{hosts}", settings
    if "path" in params:
        return f"unix://{quote(params['path'])}", settings
    return f"{'rediss' if tls else 'redis'}://{_host(params['host'], params['port'])}", settings


def _host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _records(conf: Any, parsed: Any, transport: Mapping[str, Any]) -> dict[str, Any]:
    """What the app's settings say about the records themselves."""
    return {
        "serializer": _known("result_serializer", [conf.result_serializer])[0],
        "accept": _accepted(conf),
        "compression": conf.get("result_compression"),  # new in 5.7
        "expires": parsed.expires,
        "failure_expires": None if conf.get("result_failure_expires") is None else parsed.failure_expires,
        "key_prefix": transport.get("global_keyprefix", ""),
        "result_extended": bool(conf.result_extended),
    }


def _accepted(conf: Any) -> list[str]:
    if conf.result_accept_content is not None:
        return _known("result_accept_content", conf.result_accept_content)
    # accept_content is about messages first: what is not for us there is no mistake.
    readable: list[str] = []
    for name in conf.accept_content:
        try:
            readable.append(known_serializer(name))
        except ValueError:
            pass
    return readable


def _known(setting: str, names: Iterable[str]) -> list[str]:
    """Serializers by their short names; an error says which setting they stand in."""
    try:
        return [known_serializer(name) for name in names]
    except ValueError as error:
        raise ValueError(f"its setting {setting}: {error}") from None
