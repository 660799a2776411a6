"""A backend from Celery's Redis backend, in place of it: the same server, keys, expiries and serializers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from celery.app.defaults import DEFAULTS
from celery.backends.redis import SentinelBackend
from redis import SSLConnection

from ..._storage.options import CONNECTION_OPTIONS, WITHOUT_EFFECT, unknown_option
from ...backend import Backend
from ...backend import connect as connect_url
from .settings import record_settings

__all__ = ["connection_url", "make_redis", "place_of_redis"]

#: Parameters of Celery's connections that ours do without.
_NOT_NEEDED = WITHOUT_EFFECT | {"connection_class", "hosts"}
_ADDRESS = frozenset({"host", "port", "path", "db"})


def make_redis(app: Any, theirs: Any, options: Mapping[str, Any]) -> Backend:
    """The backend that reads and writes what a ``RedisBackend`` of Celery's does.

    Raises:
        ValueError: One of its settings cannot be honoured; it is named.
    """
    url, settings = _translate(app, theirs)
    backend = connect_url(url, **{**settings, **options})
    if "key_prefix" not in options:
        _check_keys(theirs, backend)
    return backend


def place_of_redis(theirs: Any) -> Hashable:
    """What is equal for two of Celery's backends that keep results in the same place, under the same keys."""
    where = sorted((name, repr(value)) for name, value in theirs.connparams.items() if name not in _NOT_NEEDED)
    hosts = repr(theirs.connparams.get("hosts"))
    master = theirs._transport_options.get("master_name")
    return theirs.get_key_for_task("<id>"), theirs.get_key_for_group("<id>"), hosts, master, tuple(where)


def _check_keys(theirs: Any, backend: Backend) -> None:
    """Refuse a class whose keys are not those that we would wait for.

    Raises:
        ValueError: With the class and both keys.
    """
    for what, their_key, our_key in (
        ("task_keyprefix", theirs.get_key_for_task("<id>"), backend.task_key("<id>")),
        ("group_keyprefix", theirs.get_key_for_group("<id>"), backend.group_key("<id>")),
    ):
        their_key = their_key.encode() if isinstance(their_key, str) else their_key
        if their_key != our_key:
            cls = type(theirs)
            raise ValueError(
                f"its result backend class {cls.__module__}.{cls.__qualname__} has a {what} (or keys) of its own: it"
                f" stores under {their_key.decode()!r}, where asyncresult would wait for {our_key.decode()!r}. Keep"
                " apps apart by result_backend_transport_options = {'global_keyprefix': …} instead"
            )


def _translate(app: Any, parsed: Any) -> tuple[str, dict[str, Any]]:
    """URL and options of our backend, from Celery's."""
    params, transport = dict(parsed.connparams), parsed._transport_options
    settings = record_settings(app.conf, parsed, transport)
    if params.get("socket_timeout") == DEFAULTS["redis_socket_timeout"]:
        del params["socket_timeout"]  # two minutes: what a blocking client may wait
    hosts = params.get("hosts") if isinstance(parsed, SentinelBackend) else None
    return connection_url(params, transport, settings, hosts)


def connection_url(
    params: Mapping[str, Any],
    transport: Mapping[str, Any],
    settings: dict[str, Any],
    sentinels: Iterable[Mapping[str, Any]] | None,
) -> tuple[str, dict[str, Any]]:
    """URL and options of our connections, from parameters of redis-py's.

    Args:
        transport: The transport options of Celery or kombu.
        settings: Options that are known already.
        sentinels: Host and port of each, if it is Sentinel.

    Raises:
        ValueError: One is not known; it is named.
    """
    tls = issubclass(params.get("connection_class") or object, SSLConnection)
    for name, value in params.items():
        if name in _ADDRESS or name in _NOT_NEEDED or value is None:
            continue
        if name == "credential_provider":
            settings[name] = value
        elif name in CONNECTION_OPTIONS:  # redis-py 6.4 leaves some numbers of the URL as text
            settings[name] = CONNECTION_OPTIONS[name](value) if isinstance(value, str) else value
        else:
            raise unknown_option(name, CONNECTION_OPTIONS)
    settings["db"] = params["db"]
    if sentinels is not None:
        # Celery queries its sentinels without TLS unless sentinel_kwargs says otherwise.
        settings["sentinel_kwargs"] = {"ssl": False, **transport.get("sentinel_kwargs", {})}
        settings["min_other_sentinels"] = transport.get("min_other_sentinels", 0)
        settings["master_name"] = transport.get("master_name")
        hosts = ",".join(_host(host["host"], host["port"]) for host in sentinels)
        return f"{'sentinels' if tls else 'sentinel'}://{hosts}", settings
    if "path" in params:
        return f"unix://{quote(params['path'])}", settings
    return f"{'rediss' if tls else 'redis'}://{_host(params['host'], params['port'])}", settings


def _host(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
