"""Fixtures for pytest: installed with the package, imported at the start of every run, so everything else is imported
when a test uses a fixture.

They are plain fixtures: they go with pytest-asyncio in either mode, with anyio's plugin, and with tests that block.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .backend import Backend
    from .testing import FakeWorker, PrivateServer


#: Of celery.contrib.pytest.
_CELERYS_APPS = ("celery_app", "celery_session_app")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any) -> Generator[None, Any, Any]:
    """Have Celery's own fixtures make the result backend of their app before its first task runs: that an eager task is
    to be stored must be known by then, and Celery makes the backend when it stores."""
    made = yield
    if fixturedef.argname in _CELERYS_APPS:
        conf = getattr(made, "conf", None)
        if str(getattr(conf, "result_backend", None)).startswith("asyncresult+memory:"):
            _ = made.backend
    return made


@pytest.fixture(scope="session")
def asyncresult_options() -> dict[str, Any]:
    """Options of the backend of ``asyncresult_backend``. Redefine this fixture to give some: ``exceptions``, say."""
    return {}


@pytest.fixture
def asyncresult_backend(asyncresult_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """A backend without a server. In this test it is the current one, and ``$ASYNCRESULT_URL`` is its address."""
    from .testing import memory_backend

    with memory_backend(**asyncresult_options) as backend:
        monkeypatch.setenv("ASYNCRESULT_URL", str(backend))
        yield backend


@pytest.fixture
def fake_worker(asyncresult_backend: Backend) -> Iterator[FakeWorker]:
    """Does to tasks in ``asyncresult_backend`` what the test says; see :class:`asyncresult.testing.FakeWorker`."""
    from .testing import FakeWorker

    worker = FakeWorker(asyncresult_backend)
    yield worker
    worker.close()


@pytest.fixture
def asyncresult_celery(
    asyncresult_backend: Backend, fake_worker: FakeWorker, asyncresult_options: dict[str, Any]
) -> Iterator[Callable[..., Backend]]:
    """A function that makes a Celery app need neither broker nor server until the end of the test: ``f(app)``.

    Its tasks run at once; with ``f(app, eager=False)`` they wait for ``fake_worker``. Returns the app's backend, the
    current one from then on. See :func:`asyncresult.testing.celery.in_memory`.
    """
    from contextlib import ExitStack

    from .testing.celery import in_memory

    with ExitStack() as stack:

        def start(app: Any, *, eager: bool = True, **options: Any) -> Backend:
            # In threads and tasks that are in no block the app's is meant from now on, whose keys may have a prefix.
            asyncresult_backend._leave()
            given = {**asyncresult_options, **options}
            backend = stack.enter_context(in_memory(app, eager=eager, url=str(asyncresult_backend), **given))
            fake_worker.use(backend)
            return backend

        yield start


@pytest.fixture(scope="session")
def asyncresult_redis_server() -> Iterator[PrivateServer]:
    """A Redis or Valkey server of the session, on a free loopback port; a test may stop and start it."""
    from .testing import ServerMissing, private_server

    try:
        started = private_server()
        server = started.__enter__()
    except ServerMissing as missing:
        pytest.skip(str(missing))
    try:
        yield server
    finally:
        started.__exit__(None, None, None)


@pytest.fixture
def asyncresult_redis_url(asyncresult_redis_server: PrivateServer) -> str:
    """The address of that server, which holds nothing."""
    asyncresult_redis_server.flush()
    return asyncresult_redis_server.url
