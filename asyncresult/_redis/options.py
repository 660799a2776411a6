"""Options of the connections, sorted and checked, and what TLS makes of them.

The table of options is in :mod:`.._storage.options`, URLs are read in :mod:`.urls`. A secret never leaves the fields of
:class:`Options`, whose repr leaves them out.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._checks import check_count, check_flag, check_seconds, check_several, check_text
from .address import Address

__all__ = ["Options", "cert_reqs", "make_options"]

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
            if given.get("ssl_min_version"):
                context.minimum_version = min_version(given["ssl_min_version"])
            for flag in given.get("ssl_include_verify_flags") or ():
                context.verify_flags |= verify_flag(flag)
            for flag in given.get("ssl_exclude_verify_flags") or ():
                context.verify_flags &= ~verify_flag(flag)
            if given.get("ssl_ciphers"):
                context.set_ciphers(given["ssl_ciphers"])
        except OSError as error:
            shown = ("certs", "file", "path", "data", "ciphers")
            files = ", ".join(k if k.endswith("data") else f"{k}={v}" for k, v in given.items() if k.endswith(shown))
            raise ValueError(f"TLS files cannot be loaded ({error}): {files}") from error
        return context


def cert_reqs(value: Any) -> ssl.VerifyMode:
    """Celery's and redis-py's spellings of ``ssl_cert_reqs``.

    Raises:
        ValueError: None of them.
    """
    if value is None:
        return ssl.CERT_NONE  # redis-py's Python spelling of "none"
    try:
        return ssl.VerifyMode(value) if isinstance(value, int) else _CERT_REQS[str(value).lower()]
    except (KeyError, ValueError):
        raise ValueError(f"ssl_cert_reqs is one of none, optional, required; not {value!r}") from None


def min_version(value: Any) -> ssl.TLSVersion:
    """``ssl_min_version``: as redis-py takes it, or "TLSv1.2".

    Raises:
        ValueError: No version of TLS.
    """
    try:
        if isinstance(value, str) and not value.isdigit():
            return ssl.TLSVersion[value.replace(".", "_")]
        return ssl.TLSVersion(int(value))
    except (KeyError, OverflowError, TypeError, ValueError):
        raise ValueError(f"ssl_min_version is TLSv1.2 or TLSv1.3, not {value!r}") from None


def verify_flag(value: Any) -> ssl.VerifyFlags:
    """One of ``ssl_include_verify_flags`` and ``ssl_exclude_verify_flags``: of the enumeration, or its name.

    Raises:
        ValueError: No such flag.
    """
    try:
        return value if isinstance(value, ssl.VerifyFlags) else ssl.VerifyFlags[value]
    except KeyError:
        known = ", ".join(ssl.VerifyFlags.__members__)
        names = "ssl_include_verify_flags and ssl_exclude_verify_flags"
        raise ValueError(f"flags to verify certificates ({names}) are {known}; not {value!r}") from None


def make_options(values: dict[str, Any], **fields: Any) -> Options:
    """Options from sorted connection values; ``fields`` come from the URL itself."""
    protocol = values.get("protocol", 3)
    if protocol not in (2, 3):
        raise ValueError(f"protocol is 2 or 3, not {protocol!r}")
    retry = values.get("retry", 5.0)
    if isinstance(retry, (int, float)):
        check_seconds("retry", retry, least=0.0)
    elif retry is not None and not hasattr(retry, "call_with_retry"):
        raise ValueError(f"retry is a number of seconds or a Retry of redis-py, not {type(retry).__name__}")
    for name in ("socket_timeout", "socket_connect_timeout"):
        if values.get(name) is not None:
            check_seconds(name, values[name])
    check_count("db", fields.get("db", 0), least=0)
    for name in ("username", "password", "service"):
        check_text(name, fields.get(name))
    for name in ("client_name", "ssl_ciphers"):
        check_text(name, values.get(name))
    for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"):
        if not isinstance(values.get(name, ""), str | bytes | os.PathLike | None):
            raise ValueError(f"{name} must be a path, not {type(values[name]).__name__}")
    for name in ("ssl_ca_data", "ssl_password"):
        if not isinstance(values.get(name, ""), str | bytes | None) and not callable(values[name]):
            raise ValueError(f"{name} must be text or bytes, not {type(values[name]).__name__}")
    if values.get("ssl_keyfile") and not values.get("ssl_certfile"):
        raise ValueError("ssl_keyfile is the key of a certificate: give ssl_certfile, too")
    for name in ("ssl_include_verify_flags", "ssl_exclude_verify_flags"):
        check_several(name, values.get(name) or ())
    check_flag("ssl_check_hostname", values.get("ssl_check_hostname", True))
    if any(not "!" <= char <= "~" for char in values.get("client_name") or ""):
        raise ValueError("client_name must be without spaces and special characters: no server takes those")
    provider = values.get("credential_provider")
    if provider is not None and (fields.get("username") or fields.get("password")):
        raise ValueError("give either credential_provider= or a user and password, not both")
    if provider is not None and not hasattr(provider, "get_credentials_async"):
        raise ValueError(f"credential_provider must be one of redis-py's, not {type(provider).__name__}")
    made = Options(
        **fields,
        credential_provider=provider,
        ssl_options={k: v for k, v in values.items() if k.startswith("ssl_")},
        client_name=values.get("client_name"),
        protocol=protocol,
        retry=retry,
        socket_timeout=values.get("socket_timeout"),
        connect_timeout=values.get("socket_connect_timeout") or 5.0,
    )
    made.ssl_context()  # a missing file is an error now, not at the first reconnect
    return made
