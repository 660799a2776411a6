"""TLS, mutual TLS and unix sockets, on both connections."""

from __future__ import annotations

import asyncio
import ssl
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

import asyncresult
from asyncresult import Backend, BackendUnavailable
from asyncresult._redis.urls import parse
from tests.tools.certificates import Certificates
from tests.tools.certificates import certificates as make_certificates
from tests.tools.servers import Flavour, RedisServer

from .stock import new_ids, stock_store
from .waiting import waits_for

pytestmark = pytest.mark.topology


@pytest.fixture(scope="module", params=["redis", "valkey"])
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


@pytest.fixture(scope="module")
def tls_server(certificates: Certificates, flavour: Flavour) -> Iterator[RedisServer]:
    # Also at an address that is not in the certificate.
    elsewhere = {"bind": "127.0.0.1 -127.0.0.2"}
    with RedisServer(flavour=flavour, tls=certificates, password="pä ss", options=elsewhere) as server:
        yield server


async def assert_works(backend: Backend, server: RedisServer) -> None:
    """Both connections: a wait that is woken, a store, a read."""
    theirs, ours = new_ids(2)
    waiting = asyncio.ensure_future(backend.result(theirs).get(timeout=20))
    await waits_for(backend, 1)
    stock_store(server, backend, {theirs: 1})
    assert await waiting == 1
    await backend.mark_as_done(ours, 2)
    assert await backend.result(ours) == 2


@pytest.mark.parametrize("required", [{}, {"ssl_cert_reqs": "required"}, {"ssl_cert_reqs": "CERT_REQUIRED"}])
async def test_a_certificate_that_the_authority_signed(tls_server: RedisServer, required: dict[str, Any]) -> None:
    async with asyncresult.connect(tls_server.url(2, **required)) as backend:
        await assert_works(backend, tls_server)


async def test_a_reply_of_many_tls_records(
    tls_server: RedisServer, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(100)]
    async with asyncresult.connect(tls_server.url(ssl_ca_certs=str(certificates.ca_cert))) as backend:
        await backend.store_many((id, id * 200) for id in ids)  # 7 kB each: a TLS record holds 16
        assert [meta.result for meta in await backend.get_many(ids)] == [id * 200 for id in ids]
    assert caplog.text == "", "it was not read a second time, over another connection"


async def test_options_as_objects(tls_server: RedisServer, certificates: Certificates) -> None:
    url = f"rediss://:{quote('pä ss')}@localhost:{tls_server.port}"
    options = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_data": certificates.ca_cert.read_text()}
    async with asyncresult.connect(url, **options) as backend:
        await assert_works(backend, tls_server)


@pytest.mark.parametrize("none", ["none", "CERT_NONE"])
async def test_verification_is_switched_off_by_name_only(tls_server: RedisServer, none: str) -> None:
    url = f"rediss://:{quote('pä ss')}@127.0.0.1:{tls_server.port}"
    async with asyncresult.connect(f"{url}?ssl_cert_reqs={none}") as backend:
        await assert_works(backend, tls_server)
    async with asyncresult.connect(url, retry=0.1) as backend:  # the system's authorities did not sign it
        with pytest.raises(BackendUnavailable, match="certificate"):
            await backend.result("x").get(timeout=20)
        with pytest.raises(BackendUnavailable, match="certificate"):
            await backend.mark_as_started("x")


async def test_another_authority_does_not_convince(tls_server: RedisServer) -> None:
    strangers = make_certificates()
    async with asyncresult.connect(tls_server.url(ssl_ca_certs=str(strangers.ca_cert)), retry=0.1) as backend:
        with pytest.raises(BackendUnavailable, match=r"certificate|authority"):
            await backend.result("x").get(timeout=20)
        with pytest.raises(BackendUnavailable, match="certificate"):
            await backend.mark_as_started("x")


async def test_a_certificate_of_another_host(tls_server: RedisServer) -> None:
    """The name in the URL must stand in the certificate, unless that is switched off."""
    url = tls_server.url().replace("@127.0.0.1:", "@127.0.0.2:")
    async with asyncresult.connect(url, retry=0.1) as backend:
        with pytest.raises(BackendUnavailable, match=r"not valid for '127\.0\.0\.2'"):
            await backend.result("x").get(timeout=20)
        with pytest.raises(BackendUnavailable, match=r"not valid for '127\.0\.0\.2'"):
            await backend.mark_as_started("x")
    async with asyncresult.connect(f"{url}&ssl_check_hostname=false") as backend:
        await assert_works(backend, tls_server)


async def test_mutual_tls(certificates: Certificates, flavour: Flavour) -> None:
    with RedisServer(flavour=flavour, tls=certificates, mutual_tls=True) as server:
        async with asyncresult.connect(server.url()) as backend:
            await assert_works(backend, server)
        nameless = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={quote(str(certificates.ca_cert))}"
        async with asyncresult.connect(nameless, retry=0.1) as backend:
            for _ in range(2):  # a mistake in the settings, at once; a reset may come before the alert
                with pytest.raises(BackendUnavailable, match="see ssl_certfile="):
                    await backend.result("x").get(timeout=20)


async def test_plain_text_to_a_tls_port_is_an_outage(tls_server: RedisServer) -> None:
    async with asyncresult.connect(f"redis://127.0.0.1:{tls_server.port}", retry=0.1) as backend:
        with pytest.raises(BackendUnavailable):
            await backend.mark_as_started("x")


@pytest.mark.parametrize("scheme", ["unix", "redis+socket", "valkey+unix"])
async def test_unix_sockets(tls_server: RedisServer, scheme: str) -> None:
    async with asyncresult.connect(tls_server.url(2, unix=True, scheme=scheme)) as backend:
        await assert_works(backend, tls_server)
        assert {client["addr"].partition(":")[0] for client in tls_server.clients()} == {str(tls_server.unix_path)}


@pytest.mark.parametrize("required", ["required", "optional", "CERT_OPTIONAL"])
def test_whoever_verifies_the_certificate_checks_the_name_in_it(required: str) -> None:
    _, options = parse(f"rediss://h?ssl_cert_reqs={required}&ssl_check_hostname=true&ssl_min_version=TLSv1.3", {})
    context = options.ssl_context()
    assert context is not None and context.check_hostname and context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_a_missing_file_is_an_error_now(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match=r"ssl_ca_certs=/no/such/file"):
        parse("rediss://h?ssl_ca_certs=/no/such/file", {})
    with pytest.raises(ValueError, match="none, optional, required"):
        parse("rediss://h?ssl_cert_reqs=maybe", {})
