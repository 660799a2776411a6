"""The table of options: each name with its converter, the same in a URL's query and as a keyword of ``connect()``.

Source: redis-py's ``from_url`` and Celery 5.7's ``celery/backends/redis.py`` for the spellings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from .._checks import check_count, check_flag, check_lifetime, check_seconds, check_several, check_text

__all__ = [
    "BACKEND_OPTIONS",
    "CLUSTER_OPTIONS",
    "CONNECTION_OPTIONS",
    "OBJECT_OPTIONS",
    "SENTINEL_OPTIONS",
    "WITHOUT_EFFECT",
    "check_backend_options",
    "split_options",
    "unknown_option",
]


def _boolean(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "t", "yes", "y", "on"):
        return True
    if word in ("0", "false", "f", "no", "n", "off"):
        return False
    raise ValueError("expected true or false")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.strip("[]() ").split(",") if name.strip()]


def _seconds(text: str) -> float | None:
    return None if text.strip().lower() == "none" else float(text)


#: Options of :class:`asyncresult.Backend` that may be given in a URL.
BACKEND_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "expires": _seconds,
    "failure_expires": _seconds,
    "key_prefix": str,
    "safety_interval": float,
    "heartbeat": float,
    "max_result_bytes": int,
    "verify_key": _boolean,
    "serializer": str,
    "compression": str,
    "result_extended": _boolean,
    "register": _boolean,
}

_CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    "expires": check_lifetime,
    "failure_expires": check_lifetime,
    "safety_interval": check_seconds,
    "heartbeat": check_seconds,
    "max_result_bytes": check_count,
    **dict.fromkeys(("verify_key", "result_extended", "register"), check_flag),
    **dict.fromkeys(("key_prefix", "serializer", "compression"), check_text),
    **dict.fromkeys(("exceptions", "accept"), check_several),
}

#: Options of the connections.
CONNECTION_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "db": int,
    "username": str,
    "password": str,
    "client_name": str,
    "protocol": int,
    "retry": float,
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "ssl_cert_reqs": str,
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_ca_data": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_check_hostname": _boolean,
    "ssl_ciphers": str,
    "ssl_min_version": str,
    "ssl_include_verify_flags": _names,
    "ssl_exclude_verify_flags": _names,
}
#: Options of redis-py that a working URL or app may carry, and that have nothing to act on here: the two connections of
#: a backend keep themselves alive, reconnect and retry by rules of their own, are never more, and carry bytes.
WITHOUT_EFFECT = frozenset(
    {
        "auto_close_connection_pool",
        "decode_responses",
        "driver_info",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "legacy_responses",
        "lib_name",
        "lib_version",
        "max_connections",
        "retry_on_error",
        "retry_on_timeout",
        "single_connection_client",
        "socket_keepalive",
        "socket_keepalive_options",
        "socket_read_size",
        "timeout",
    }
)
#: Options of redis-py that would change what a connection is, with what to do instead.
_INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(
        ("host", "port", "path", "unix_socket_path"), "the place is in the URL: redis://host:port, unix:///path"
    ),
    "ssl": "TLS is the scheme: rediss://, valkeys://, sentinels:// …",
    **dict.fromkeys(
        ("ssl_validate_ocsp", "ssl_validate_ocsp_stapled", "ssl_ocsp_context", "ssl_ocsp_expected_cert"),
        "the revocation of certificates is not checked; ssl_ca_certs and ssl_certfile limit who is trusted",
    ),
    **dict.fromkeys(
        ("connection_class", "connection_pool", "queue_class", "parser_class", "encoder_class", "command_packer"),
        "a backend makes its own two connections; leave it out",
    ),
    "socket_type": "addresses of both families are tried; leave it out",
    "redis_connect_func": "a backend makes its own two connections; for credentials there is credential_provider=",
    **dict.fromkeys(("cache", "cache_config", "cache_factory"), "results are not cached; leave it out"),
    **dict.fromkeys(
        ("maint_notifications_config", "event_dispatcher"),
        "a backend reconnects by itself when its server goes away; leave it out",
    ),
}
#: Options of ``sentinel://``. ``master_name``, ``min_other_sentinels`` and ``sentinel_kwargs`` are Celery's names.
SENTINEL_OPTIONS: Mapping[str, Callable[..., Any]] = {
    "service": str,
    "master_name": str,
    "min_other_sentinels": int,
    "sentinel_username": str,
    "sentinel_password": str,
    "sentinel_ssl": _boolean,
    "sentinel_kwargs": dict,
}
CLUSTER_OPTIONS: Mapping[str, Callable[[str], Any]] = {"sharded": _boolean}
#: Options that only make sense as objects, so not in a URL.
OBJECT_OPTIONS = frozenset({"exceptions", "accept", "credential_provider"})


def split_options(
    query: str, given: Mapping[str, Any], extra: Mapping[str, Callable[[str], Any]] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sort query and keyword options into those of the backend and those of the connections.

    Args:
        query: That of a URL.
        extra: More options of the connections, for one scheme.

    Raises:
        ValueError: Unknown option, or a text that is no number, truth value … where one is expected.
    """
    connection = {**CONNECTION_OPTIONS, **(extra or {})}
    values: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in WITHOUT_EFFECT:
            continue
        convert = BACKEND_OPTIONS.get(name) or connection.get(name)
        if convert is None:
            raise unknown_option(name, connection)
        try:
            values[name] = convert(text)
        except ValueError as error:
            shown = "…" if "password" in name else repr(text)
            raise ValueError(f"option {name}={shown} in the backend's URL: {error}") from None
    for name, value in given.items():
        if name in WITHOUT_EFFECT:
            continue
        if name not in BACKEND_OPTIONS and name not in connection and name not in OBJECT_OPTIONS:
            raise unknown_option(name, connection)
        values[name] = value
    backend = {k: v for k, v in values.items() if k in BACKEND_OPTIONS or k in ("exceptions", "accept")}
    return backend, {k: v for k, v in values.items() if k not in backend}


def check_backend_options(values: Mapping[str, Any]) -> None:
    """Raise ValueError for the first of the backend's options among ``values`` that cannot be meant."""
    for name, check in _CHECKS.items():
        check(name, values[name])


def unknown_option(name: str, connection: Mapping[str, Any]) -> ValueError:
    """The error for an option that is none; it names those that are, or what to do instead of one of redis-py's."""
    if name in _INSTEAD:
        return ValueError(f"option {name!r} of redis-py is not taken: {_INSTEAD[name]}")
    known = ", ".join(sorted({*BACKEND_OPTIONS, *connection, *OBJECT_OPTIONS}))
    return ValueError(f"unknown backend option {name!r}; known are: {known}")
