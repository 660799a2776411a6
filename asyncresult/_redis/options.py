"""URLs and options of the Redis backends: what is known, what it means, and what is a mistake.

The table of options is in :mod:`.._storage.options`. A secret never leaves this module but in the fields of
:class:`Options`, whose repr leaves them out.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from .._storage.options import (
    BACKEND_OPTIONS,
    CLUSTER_OPTIONS,
    CONNECTION_OPTIONS,
    SENTINEL_OPTIONS,
    split_options,
    unknown_option,
)
from .address import Address

__all__ = [
    "BACKEND_OPTIONS",
    "Options",
    "cert_reqs",
    "hide_password",
    "parse",
    "parse_cluster",
    "parse_sentinel",
]

DEFAULT_PORT, DEFAULT_SENTINEL_PORT = 6379, 26379

_CERT_REQS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
    "cert_none": ssl.CERT_NONE,
    "cert_optional": ssl.CERT_OPTIONAL,
    "cert_required": ssl.CERT_REQUIRED,
}


@dataclass(frozen=True)
class Options:
    """Everything about the connections of a backend.

    Attributes:
        addresses: Where to connect; one for a single server, several for sentinels and nodes of a cluster.
        db: The database's number.
        tls: Whether to speak TLS.
        protocol: 3, or 2 to not even try RESP3.
        retry: Seconds during which a failed command is tried again before it is an error.
        socket_timeout: Seconds for one round trip; None: twice the heartbeat.
        connect_timeout: Seconds for dialling and handshake.
        service: What the sentinels call the primary.
        min_other_sentinels: How many others a sentinel must know for its word to count.
        sentinels: How to reach the sentinels themselves.
        sharded: Use the shard channels of a cluster.
    """

    addresses: tuple[Address, ...]
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    credential_provider: Any = field(default=None, repr=False)
    tls: bool = False
    ssl_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    client_name: str | None = None
    protocol: int = 3
    retry: Any = 5.0
    socket_timeout: float | None = None
    connect_timeout: float = 5.0
    service: str = ""
    min_other_sentinels: int = 0
    sentinels: Options | None = None
    sharded: bool = False

    def ssl_context(self) -> ssl.SSLContext | None:
        """The context for both connections: verification is on unless switched off by name.

        Raises:
            ValueError: A file cannot be loaded, or ``ssl_cert_reqs`` is no known word.
        """
        if not self.tls:
            return None
        given = self.ssl_options
        try:
            context = ssl.create_default_context(
                cafile=given.get("ssl_ca_certs"), capath=given.get("ssl_ca_path"), cadata=given.get("ssl_ca_data")
            )
            required = cert_reqs(given.get("ssl_cert_reqs", "required"))
            # A server always sends its certificate, so "optional" verifies as "required" does, the name included.
            if required is ssl.CERT_NONE or not given.get("ssl_check_hostname", True):
                context.check_hostname = False
            context.verify_mode = required
            if given.get("ssl_certfile"):
                context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"), given.get("ssl_password"))
            if given.get("ssl_ciphers"):
                context.set_ciphers(given["ssl_ciphers"])
        except OSError as error:
            files = ", ".join(f"{k}={v}" for k, v in given.items() if k.endswith(("certs", "file", "path")))
            raise ValueError(f"TLS files cannot be loaded ({error}): {files}") from error
        return context


def cert_reqs(value: Any) -> ssl.VerifyMode:
    """Celery's and redis-py's spellings of ``ssl_cert_reqs``.

    Raises:
        ValueError: None of them.
    """
    if value is None:
        return ssl.CERT_NONE  # redis-py's Python spelling of "none"
    if isinstance(value, int):
        return ssl.VerifyMode(value)
    try:
        return _CERT_REQS[str(value).lower()]
    except KeyError:
        raise ValueError(f"ssl_cert_reqs is one of none, optional, required; not {value!r}") from None


def parse(url: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
    """Read a ``redis``, ``rediss``, ``unix``, ``valkey`` or ``valkeys`` URL.

    Returns:
        The options of the backend, and those of its connections.

    Raises:
        ValueError: The URL makes no sense; the message holds no secret.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise ValueError(f"{hide_password(url)}: {error}") from None
    socket = parts.scheme in ("unix", "valkey+unix", "redis+socket")
    extra: dict[str, Callable[[str], Any]] = {"virtual_host": int} if socket else {}
    backend, values = split_options(parts, given, extra)
    tls = parts.scheme in ("rediss", "valkeys")
    if socket:
        path = unquote(parts.path)
        if parts.hostname:
            raise ValueError(f"a socket URL has three slashes, unix:///run/redis.sock: {hide_password(url)}")
        address = Address(path=path)
        db = values.pop("virtual_host", 0)
    else:
        address = Address(parts.hostname or "localhost", port)
        db = _database(parts.path, url)
    return backend, _located(parts, values, tls=tls, addresses=(address,), db=db)


def parse_sentinel(url: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
    """Read a ``sentinel`` or ``sentinels`` URL, in its short form or in Celery's, which repeats the scheme.

    User, password and database are the data servers'; the sentinels' own come with ``sentinel_username`` and
    ``sentinel_password``, or in Celery's ``sentinel_kwargs``. ``sentinels://`` is TLS to both; ``sentinel_ssl``
    decides about the sentinels alone.

    Returns, raises: as :func:`parse`.
    """
    parts, addresses = _several(url, DEFAULT_SENTINEL_PORT)
    backend, values = split_options(parts, given, SENTINEL_OPTIONS)
    service, named = values.pop("service", None), values.pop("master_name", None)
    if not (service or named):
        raise ValueError(f"which service do the sentinels watch? {hide_password(url)} lacks ?service=name")
    others = values.pop("min_other_sentinels", 0)
    tls = parts.scheme == "sentinels"
    # The sentinels share the options of the data servers, but not their users.
    own: dict[str, Any] = {name: value for name, value in values.items() if name.startswith(("ssl_", "socket_"))}
    own |= {name: values.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    own["ssl"] = values.pop("sentinel_ssl", tls)
    kwargs = values.pop("sentinel_kwargs", {})
    if unknown := sorted(kwargs.keys() - {"ssl", *CONNECTION_OPTIONS}):
        raise unknown_option(unknown[0], CONNECTION_OPTIONS)
    own |= kwargs
    sentinels = options(own, addresses=addresses, tls=own["ssl"], username=own["username"], password=own["password"])
    if sentinels.tls and not tls:
        values = {name: value for name, value in values.items() if not name.startswith("ssl_")}
    return backend, _located(
        parts,
        values,
        tls=tls,
        addresses=(),
        db=_database(parts.path, url),
        service=service or named,
        min_other_sentinels=others,
        sentinels=sentinels,
    )


def parse_cluster(url: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
    """Read a ``redis+cluster``, ``rediss+cluster``, ``valkey+cluster`` or ``valkeys+cluster`` URL.

    Returns, raises: as :func:`parse`.
    """
    parts, addresses = _several(url, DEFAULT_PORT)
    backend, values = split_options(parts, given, CLUSTER_OPTIONS)
    tls = parts.scheme in ("rediss+cluster", "valkeys+cluster")
    sharded = values.pop("sharded", False)
    made = _located(parts, values, tls=tls, addresses=addresses, db=_database(parts.path, url), sharded=sharded)
    if made.db:
        raise ValueError(f"a cluster has database 0 only: {hide_password(url)}")
    return backend, made


def _several(url: str, default_port: int) -> tuple[SplitResult, tuple[Address, ...]]:
    """Read a URL with several hosts, behind ``;`` or ``,``.

    Returns:
        Its parts, with the first login and path that stand in it; and the addresses.
    """
    scheme, _, rest = url.partition("://")
    places, _, query = rest.replace(f";{scheme}://", ";").partition("?")
    login = path = ""
    addresses: list[Address] = []
    try:
        for place in re.split("[;,]", places):
            parts = urlsplit(f"{scheme}://{place}")
            addresses.append(Address(parts.hostname or "localhost", parts.port or default_port))
            login = login or parts.netloc.rpartition("@")[0]
            path = path or parts.path.strip("/")
    except ValueError as error:
        raise ValueError(f"{hide_password(url)}: {error}") from None
    return SplitResult(scheme, f"{login}@" if login else "", path, query, ""), tuple(addresses)


def _located(parts: SplitResult, values: dict[str, Any], *, tls: bool, db: int, **fields: Any) -> Options:
    """Options from the parts of a URL and sorted connection values, which win."""
    if not tls and (wrong := sorted(name for name in values if name.startswith("ssl_"))):
        scheme, plus, kind = parts.scheme.partition("+")
        raise ValueError(f"{wrong[0]} needs TLS: write {scheme}s{plus}{kind}:// instead of {parts.scheme}://")
    return options(
        values,
        tls=tls,
        db=values.pop("db", db),
        username=_part(values, "username", parts.username),
        password=_part(values, "password", parts.password),
        **fields,
    )


def options(values: dict[str, Any], **fields: Any) -> Options:
    """Options from sorted connection values; ``fields`` come from the URL itself."""
    protocol = values.get("protocol", 3)
    if protocol not in (2, 3):
        raise ValueError(f"protocol is 2 or 3, not {protocol!r}")
    made = Options(
        **fields,
        credential_provider=values.get("credential_provider"),
        ssl_options={k: v for k, v in values.items() if k.startswith("ssl_")},
        client_name=values.get("client_name"),
        protocol=protocol,
        retry=values.get("retry", 5.0),
        socket_timeout=values.get("socket_timeout"),
        connect_timeout=values.get("socket_connect_timeout", 5.0),
    )
    if made.credential_provider is not None and (made.username or made.password):
        raise ValueError("give either credential_provider= or a user and password, not both")
    made.ssl_context()  # a missing file is an error now, not at the first reconnect
    return made


def _part(values: dict[str, Any], name: str, in_url: str | None) -> str | None:
    value = values.pop(name, None)
    return value if value is not None else (unquote(in_url) or None if in_url else None)


def _database(path: str, url: str) -> int:
    text = path.strip("/")
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"the path of a Redis URL is the number of a database, not {text!r}: {hide_password(url)}")
    return int(text)


def hide_password(url: str) -> str:
    """The URL with nothing secret in it: no password, no query."""
    head, separator, rest = url.partition("://")
    rest = rest.split("?", 1)[0]
    credentials, at, place = rest.rpartition("@")
    user = credentials.partition(":")[0]
    return f"{head}{separator}{user + ':**@' if at else ''}{place}"
