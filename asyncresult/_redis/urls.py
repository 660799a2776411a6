"""URLs of the Redis backends: where the servers are, and the login.

Read here and not by ``urllib``: what is shown of a mistake must not hold any part of a password, and a password that is
not percent-encoded turns up in whatever part of a URL its characters open. So nothing of a URL is quoted
but the names and values of its query, and these only when no login can be among them: an ``@`` behind the first
``/``, ``?`` or ``#`` is refused before anything else is looked at.

Source: RFC 3986, section 3.2 (authority); redis-py's ``from_url`` and Celery 5.7's ``celery/backends/redis.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from .._checks import check_count, check_flag, check_text
from .._storage.options import CLUSTER_OPTIONS, CONNECTION_OPTIONS, SENTINEL_OPTIONS, split_options, unknown_option
from .address import Address, is_ipv6, is_name
from .options import Options, make_options

__all__ = ["parse", "parse_cluster", "parse_sentinel"]

DEFAULT_PORT, DEFAULT_SENTINEL_PORT = 6379, 26379

_ENCODE = "percent-encode special characters in user and password, and @ and # anywhere else (%40, %23)"
#: A name or an address; IPv6 in brackets, with a zone.
_HOST = re.compile(r"\[(?P<v6>[0-9A-Za-z:.%_-]+)\]|(?P<name>[^\s:@/?#\[\]\\\"'<>|^`{}]*)")
#: Bytes of a unix socket's path (sun_path in sys/un.h has 108 with the NUL, and 104 on some systems).
MAX_SOCKET_PATH = 107


class _Parts(NamedTuple):
    """A URL, taken apart; nothing in it is percent-encoded any more but the query."""

    scheme: str
    username: str | None
    password: str | None
    hosts: str
    path: str
    query: str


def parse(url: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
    """Read a ``redis``, ``rediss``, ``unix``, ``valkey`` or ``valkeys`` URL.

    Returns:
        The options of the backend, and those of its connections.

    Raises:
        ValueError: The URL is invalid; the message holds no secret.
    """
    scheme, _, rest = url.partition("://")
    parts = _split(scheme, rest)
    is_socket = scheme in ("unix", "valkey+unix", "redis+socket")
    if is_socket:
        if parts.hosts:
            raise ValueError(f"a socket URL has three slashes: {scheme}:///run/redis.sock")
        if not parts.path.strip("/") or "\0" in parts.path or len(os.fsencode(parts.path)) > MAX_SOCKET_PATH:
            raise ValueError(
                f"a socket URL names a file, in at most {MAX_SOCKET_PATH} bytes: {scheme}:///run/redis.sock"
            )
        address = Address(path=parts.path)
    else:
        address = _address(parts.hosts, DEFAULT_PORT)
    extra: dict[str, Callable[[str], Any]] = {"virtual_host": int} if is_socket else {}
    backend, values = split_options(parts.query, given, extra)
    db = values.pop("virtual_host", 0) if is_socket else _database(parts.path)
    return backend, _options(parts, values, tls=scheme in ("rediss", "valkeys"), addresses=(address,), db=db)


def parse_sentinel(url: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
    """Read a ``sentinel`` or ``sentinels`` URL, in its short form or in Celery's, which repeats the scheme.

    User, password and database are the data servers'; the sentinels' own come with ``sentinel_username`` and
    ``sentinel_password``, or in Celery's ``sentinel_kwargs``. ``sentinels://`` is TLS to both; ``sentinel_ssl``
    decides about the sentinels alone.

    Returns, raises: as :func:`parse`.
    """
    parts, addresses = _several(url, DEFAULT_SENTINEL_PORT)
    backend, values = split_options(parts.query, given, SENTINEL_OPTIONS)
    service, named = values.pop("service", None), values.pop("master_name", None)
    if not (service or named):
        raise ValueError("a sentinel URL needs ?service=<name>: what the sentinels call the primary")
    texts = {name: values.get(name) for name in ("sentinel_username", "sentinel_password")}
    for name, text in {**texts, "service": service, "master_name": named}.items():
        check_text(name, text)
    others = values.pop("min_other_sentinels", 0)
    check_count("min_other_sentinels", others, least=0)
    tls = parts.scheme == "sentinels"
    # The sentinels share the options of the data servers, but not their users.
    own: dict[str, Any] = {name: value for name, value in values.items() if name.startswith(("ssl_", "socket_"))}
    own |= {name: values.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    own["ssl"] = values.pop("sentinel_ssl", tls)
    check_flag("sentinel_ssl", own["ssl"])
    kwargs = values.pop("sentinel_kwargs", {})
    if not isinstance(kwargs, Mapping):
        raise ValueError(f"sentinel_kwargs must be a dictionary, not {type(kwargs).__name__}")
    if unknown := sorted(kwargs.keys() - {"ssl", *CONNECTION_OPTIONS}):
        raise unknown_option(unknown[0], CONNECTION_OPTIONS)
    own |= kwargs
    sentinels = make_options(
        own, addresses=addresses, tls=own["ssl"], username=own["username"], password=own["password"]
    )
    if sentinels.tls and not tls:
        values = {name: value for name, value in values.items() if not name.startswith("ssl_")}
    return backend, _options(
        parts,
        values,
        tls=tls,
        addresses=(),
        db=_database(parts.path),
        service=service or named,
        min_other_sentinels=others,
        sentinels=sentinels,
    )


def parse_cluster(url: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], Options]:
    """Read a ``redis+cluster``, ``rediss+cluster``, ``valkey+cluster`` or ``valkeys+cluster`` URL.

    Returns, raises: as :func:`parse`.
    """
    parts, addresses = _several(url, DEFAULT_PORT)
    backend, values = split_options(parts.query, given, CLUSTER_OPTIONS)
    tls = parts.scheme in ("rediss+cluster", "valkeys+cluster")
    sharded = values.pop("sharded", False)
    check_flag("sharded", sharded)
    made = _options(parts, values, tls=tls, addresses=addresses, db=_database(parts.path), sharded=sharded)
    if made.db:
        raise ValueError("a cluster has database 0 only")
    return backend, made


# -- the parts of a URL -----------------------------------------------------------------------------------------------


def _split(scheme: str, rest: str) -> _Parts:
    """Take a URL apart, as RFC 3986 says, and more strictly: see the top of this module."""
    end = next((i for i, char in enumerate(rest) if char in "/?#"), len(rest))
    authority, tail = rest[:end], rest[end:]
    if "@" in tail or "#" in tail:
        raise ValueError(f"the backend's URL has an @ or # after the first /, ? or #: {_ENCODE}")
    login, at, hosts = authority.rpartition("@")
    path, _, query = tail.partition("?")
    username, _, password = login.partition(":") if at else ("", "", "")
    return _Parts(scheme, _decoded(username), _decoded(password), hosts, unquote(path), query)


def _several(url: str, default_port: int) -> tuple[_Parts, tuple[Address, ...]]:
    """A URL with several hosts, behind ``;`` or ``,``, or in Celery's form behind ``;`` and the scheme again.

    Returns:
        Its parts, with the first login and path that are in it; and the addresses.
    """
    scheme, _, rest = url.partition("://")
    places = [_split(scheme, place) for place in rest.split(f";{scheme}://")]
    first = places[0]
    hosts = [host for parts in places for host in re.split("[;,]", parts.hosts)]
    if len(hosts) > 1 and not all(hosts):
        raise ValueError("the backend's URL has a host too few between or behind its commas and semicolons")
    addresses = [_address(host, default_port) for host in hosts]
    username = next((parts.username for parts in places if parts.username is not None), None)
    password = next((parts.password for parts in places if parts.password is not None), None)
    if any("@" in (text or "") and re.search("[;,]", text or "") for text in (first.username, first.password)):
        # A login in front of each host, or a password with these characters: nobody can know.
        raise ValueError(f"the login of the backend's URL can be read in two ways: {_ENCODE}")
    path = next((parts.path for parts in places if parts.path.strip("/")), "")
    query = "&".join(parts.query for parts in places if parts.query)
    return _Parts(scheme, username, password, "", path, query), tuple(addresses)


def _address(text: str, default_port: int) -> Address:
    match = _HOST.match(text)
    assert match is not None  # it matches nothing, too
    host, port = unquote(match["v6"] or match["name"] or "") or "localhost", text[match.end() :]
    is_host = is_ipv6(host) if match["v6"] else is_name(host)
    number = port[1:] or str(default_port)
    is_port = port[:1] in ("", ":") and number.isascii() and number.isdigit() and 0 < int(number[:6]) <= 65535
    if not (is_host and is_port):
        # What is there may be half a password.
        raise ValueError(
            f"the backend's URL has no host and port (a number from 1 to 65535) where they belong; {_ENCODE}"
        )
    return Address(host, int(number))


def _database(path: str) -> int:
    text = path.strip("/")
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 10:
        raise ValueError(f"the path of a Redis URL is the number of a database; {_ENCODE}")
    return int(text)


def _decoded(text: str) -> str | None:
    # surrogateescape: a password given as undecodable bytes arrives as it was meant.
    return unquote(text, errors="surrogateescape") or None


def _options(parts: _Parts, values: dict[str, Any], *, tls: bool, db: int, **fields: Any) -> Options:
    """Options from the parts of a URL and sorted connection values, which win."""
    if not tls and (wrong := sorted(name for name in values if name.startswith("ssl_"))):
        scheme, plus, kind = parts.scheme.partition("+")
        raise ValueError(f"{wrong[0]} needs TLS: write {scheme}s{plus}{kind}:// instead of {parts.scheme}://")
    username, password = values.pop("username", None), values.pop("password", None)
    return make_options(
        values,
        tls=tls,
        db=values.pop("db", db),
        username=username if username is not None else parts.username,
        password=password if password is not None else parts.password,
        **fields,
    )
