"""Options and places that cannot be meant are a ValueError at ``connect()``, which names them: nothing is dialled."""

from __future__ import annotations

import math
from typing import Any

import pytest

from asyncresult import connect

FLAGS: list[Any] = ["false", None, 2, 1.5]
TEXTS: list[Any] = [5, b"x", True, ["x"]]

#: By URL: values of each option that are none.
NONSENSE: dict[str, dict[str, list[Any]]] = {
    "redis://host": {
        "username": TEXTS,
        "password": TEXTS,
        "client_name": [*TEXTS, "a b", "a\nb", "é"],
        "credential_provider": [5, object],
    },
    "rediss://host": {
        "ssl_cert_reqs": [5, -1, 10**400, "", b"none"],
        "ssl_ca_certs": [5, ["x"], object()],
        "ssl_ca_path": [5, ["x"], object()],
        "ssl_certfile": [5, ["x"], object()],
        "ssl_keyfile": [5, "/without/a/certificate"],
        "ssl_ca_data": [5, "no certificate"],
        "ssl_password": [5, ["x"]],
        "ssl_check_hostname": FLAGS,
        "ssl_ciphers": [5, b"HIGH", "no cipher"],
        "ssl_min_version": [5, math.inf, object()],
        "ssl_include_verify_flags": [5, "x", True],
        "ssl_exclude_verify_flags": [5, "x", True],
    },
    "sentinel://host?service=main": {
        "service": TEXTS,
        "master_name": TEXTS,
        "sentinel_username": TEXTS,
        "sentinel_password": TEXTS,
        "min_other_sentinels": [-1, 1.5, True, "1"],
        "sentinel_ssl": FLAGS,
        "sentinel_kwargs": [5, "x", None, []],
    },
    "redis+cluster://host": {"sharded": FLAGS},
    **{
        url: {
            "key_prefix": TEXTS,
            "serializer": [*TEXTS, None],
            "compression": TEXTS,
            "exceptions": [5, None],
            "accept": [5, None],
            "verify_key": FLAGS,
            "result_extended": FLAGS,
            "register": FLAGS,
        }
        for url in ("memory://", "valkey://host", "valkey+cluster://host")
    },
}


@pytest.mark.parametrize(
    ("url", "name", "value"),
    [(url, name, value) for url, options in NONSENSE.items() for name, values in options.items() for value in values],
)
def test_an_option_that_cannot_be_meant(url: str, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        connect(url, **{name: value})
    if "password" in name:
        assert repr(value) not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".",
        ".org",
        f"{'a' * 64}.org",
        f"{'é' * 64}.org",
        "h:0",
        "h:65536",
        "[nonsense]",
        "[::1",
        "h,i",
        "%00h",
        "h%2f",
    ],
)
def test_a_host_that_is_none(host: str) -> None:
    """Each would be an error, and none of the network's, at every attempt to connect."""
    for url in (f"redis://{host}/0", f"sentinel://127.0.0.1;{host}?service=main"):
        if "," not in host or url.startswith("redis"):
            with pytest.raises(ValueError, match="no host and port"):
                connect(url)


@pytest.mark.parametrize("url", ["redis+cluster://host,,other", "sentinel://host;?service=main"])
def test_a_host_too_few(url: str) -> None:
    with pytest.raises(ValueError, match="a host too few"):
        connect(url)


@pytest.mark.parametrize("path", ["", "/", "/x%00y", f"/{'x' * 110}"])
def test_a_socket_that_is_none(path: str) -> None:
    with pytest.raises(ValueError, match="names a file"):
        connect(f"unix://{path}")


def test_a_database_with_very_many_digits() -> None:
    with pytest.raises(ValueError, match="the number of a database"):
        connect(f"redis://host/{'9' * 5000}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://[fe80::1%25eth0]", "redis://fe80::1%eth0:6379/0"),
        ("redis://bücher.example.org.", "redis://bücher.example.org.:6379/0"),
        ("redis://my_server-1", "redis://my_server-1:6379/0"),
    ],
)
def test_hosts_that_are_some(url: str, shown: str) -> None:
    assert str(connect(url)) == shown
