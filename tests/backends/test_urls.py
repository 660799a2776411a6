"""URLs of every scheme: a login arrives when it is percent-encoded, and is never shown, however badly it is not."""

from __future__ import annotations

import inspect
import logging
import re
import ssl
import traceback
from urllib.parse import quote

import pytest
import redis.asyncio.connection
import redis.connection
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncresult import Backend, connect
from asyncresult._redis import urls

#: Where user and password go.
URLS = [
    "redis://{}@127.0.0.1:6379/0",
    "rediss://{}@host/1?heartbeat=3",
    "valkey://{}@[::1]:6379/0",
    "unix://{}@/tmp/x.sock?db=1",
    "redis+socket://{}@/tmp/x.sock?virtual_host=1",
    "sentinel://{}@127.0.0.1:26379/0?service=m",
    "sentinel://{0}@h1:1/0;sentinel://{0}@h2:2/0?service=m",
    "sentinels://{}@h1;h2,h3/2?service=m",
    "redis+cluster://{}@h1,h2",
    "redis+cluster://h1,{}@h2",
    "memory://{}@name",
    "http://{}@host/",
]
#: What must never be seen. Of a password between them nothing else can be told from the words of a message.
HEAD, TAIL = "hush", "tell"
SPECIAL = "/?#,;@:%&=+[] \\\"'<>|^`~!$*()\t\n\0€\udc80"

logins = st.text(st.one_of(st.sampled_from(SPECIAL), st.characters(codec="utf-8")), max_size=8)


def texts(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error.__context__)


@pytest.mark.parametrize("url", URLS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(before=st.sampled_from(["", "12", "12/", "12?", "x@", "user:", "://"]), middle=logins)
@example(before="", middle="?db=")
@example(before="", middle="&password=")
@example(before="12/", middle="")
@example(before="", middle="]")
@example(before="", middle="@h1;x:")
def test_no_part_of_a_password_is_ever_shown(
    url: str, before: str, middle: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    login = f":{before}{HEAD}{middle}{TAIL}"
    try:
        backend = connect(url.format(login))
        shown = f"{backend!r} {backend} {backend.options!r} {backend.result('x')!r}"
    except ValueError as error:
        shown = texts(error)
    assert HEAD not in shown and TAIL not in shown
    assert HEAD not in caplog.text and TAIL not in caplog.text


@pytest.mark.parametrize("url", [url for url in URLS if not url.startswith(("memory", "http", "redis+cluster://h1"))])
@settings(deadline=None, max_examples=20)
@given(username=logins, password=logins)
def test_a_login_arrives_when_it_is_encoded(url: str, username: str, password: str) -> None:
    encoded = ":".join(quote(text, safe="", errors="surrogateescape") for text in (username, password))
    backend: Backend = connect(url.format(encoded))
    assert (backend.options.username or "", backend.options.password or "") == (username, password)


# -- options of redis-py --------------------------------------------------------------------------------------------

#: What redis-py hands from one of its classes to another; no user gives these.
INTERNAL = {
    "self",
    "kwargs",
    "parser",
    "connection_kwargs",
    "himport_registry",
    "maintenance_state",
    "maintenance_notification_hash",
}
#: A value for each option that is not text, as it may stand in a URL of redis-py.
SAMPLES = {
    **dict.fromkeys(
        ("db", "socket_timeout", "socket_connect_timeout", "health_check_interval", "timeout", "retry"), "3"
    ),
    **dict.fromkeys(("max_connections", "socket_read_size"), "65536"),
    **dict.fromkeys(("socket_keepalive", "retry_on_timeout", "ssl_check_hostname", "legacy_responses"), "True"),
    "protocol": "2",
    "ssl_cert_reqs": "optional",
    "ssl_min_version": "771",
    "ssl_include_verify_flags": "[VERIFY_X509_STRICT, VERIFY_X509_TRUSTED_FIRST]",
    "ssl_exclude_verify_flags": "VERIFY_X509_STRICT",
    "ssl_ciphers": "HIGH",
    "ssl_ca_path": "/",
}
#: Taken as an object only, or naming a file or certificate that would have to be there.
NOT_HERE = {"credential_provider", "ssl_ca_certs", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password"}


def parameters_of_redis() -> set[str]:
    """What the classes of redis-py's connections and pools take."""
    names: set[str] = set()
    for module in (redis.connection, redis.asyncio.connection):
        for name in (
            "Connection",
            "SSLConnection",
            "UnixDomainSocketConnection",
            "ConnectionPool",
            "BlockingConnectionPool",
        ):
            for cls in getattr(module, name).__mro__[:-1]:
                names |= inspect.signature(cls.__init__).parameters.keys() if "__init__" in vars(cls) else set()
    return (
        {name for name in names if not name.startswith(("orig_", "maint_notifications_pool", "oss_cluster"))}
        - INTERNAL
        - {"args"}
    )


@pytest.mark.parametrize("name", sorted(redis.connection.URL_QUERY_ARGUMENT_PARSERS))
def test_a_url_of_redis_may_stay_as_it_is(name: str) -> None:
    """Each option that redis-py reads from a URL is taken."""
    value = SAMPLES.get(name, "3")
    redis.connection.parse_url(f"rediss://localhost/0?{name}={value}")
    connect(f"rediss://localhost/0?{name}={value}")


@pytest.mark.parametrize("name", sorted(parameters_of_redis() - NOT_HERE))
def test_each_option_of_redis_is_taken_or_refused_with_a_reason(name: str) -> None:
    refused = ""
    try:
        connect(f"rediss://localhost/0?{name}={SAMPLES.get(name, 'x')}")
    except ValueError as error:
        refused = str(error)
    assert not refused or re.match(rf"option '{name}' of redis-py is not taken: \w+", refused)


def test_flags_to_verify_certificates() -> None:
    plain, more, less = (
        urls.parse(f"rediss://h/{query}", {})[1].ssl_context()
        for query in (
            "",
            "?ssl_include_verify_flags=VERIFY_CRL_CHECK_LEAF",
            "?ssl_exclude_verify_flags=VERIFY_X509_TRUSTED_FIRST",
        )
    )
    assert plain and more and less
    assert more.verify_flags == plain.verify_flags | ssl.VERIFY_CRL_CHECK_LEAF
    assert less.verify_flags == plain.verify_flags & ~ssl.VERIFY_X509_TRUSTED_FIRST
    with pytest.raises(ValueError, match=r"VERIFY_X509_STRICT.*not 'STRICT'"):
        connect("rediss://h/?ssl_include_verify_flags=STRICT")
