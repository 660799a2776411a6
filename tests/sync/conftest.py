"""Fixtures for the blocking face: a backend, and no portal that is left over."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from asyncresult import _portal
from asyncresult.sync import Backend, connect


@pytest.fixture(autouse=True)
def portal(no_leaks: None) -> Generator[None]:
    yield
    _portal.stop()


@pytest.fixture(params=["memory", "redis"])
def backend(request: pytest.FixtureRequest, portal: None) -> Generator[Backend]:
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_url")
    with connect(url) as entered:
        yield entered


@pytest.fixture
def memory(portal: None) -> Generator[Backend]:
    with connect("memory://") as entered:
        yield entered
