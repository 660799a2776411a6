"""URLs of every scheme: a login arrives when it is percent-encoded, and is never shown, however badly it is not."""

from __future__ import annotations

import logging
import traceback
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asyncresult import Backend, connect

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
