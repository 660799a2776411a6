"""Fixtures for all tests, and two options: ``--flavour`` chooses the server, ``--loop`` the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import hypothesis
import pytest

from tests.tools.certificates import Certificates
from tests.tools.certificates import certificates as make_certificates
from tests.tools.processes import ServerMissing
from tests.tools.proxy import FaultProxy
from tests.tools.servers import Flavour, RedisServer

if TYPE_CHECKING:
    from celery import Celery

    from tests.tools.celery_worker import CeleryWorker

pytest_plugins = ["pytester", "tests.tools.leaks"]

# A busy machine may take seconds for an example, which says nothing about the code. And the same tree gives the same
# verdict: fresh examples are for those who ask for them, with ASYNCRESULT_LONG_TESTS=1.
hypothesis.settings.register_profile(
    "asyncresult",
    deadline=None,
    derandomize=os.environ.get("ASYNCRESULT_LONG_TESTS") != "1",
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("asyncresult")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--flavour", choices=["redis", "valkey"], help="server of the fixtures; default: what there is")
    parser.addoption("--quick", action="store_true", help="half a minute: only what needs no server and no long walk")
    parser.addoption("--loop", choices=["asyncio", "uvloop", "both"], default="asyncio", help="event loop of the tests")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts background jobs with SIGINT ignored, and Python then leaves it so: no Ctrl-C for those tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if (loop := config.getoption("--loop")) != "asyncio":
        config.pluginmanager.register(_Loops(str(loop)))


#: What a quick run does not even collect: folders whose tests are about servers, programs and faults, and files of
#: long walks, whole programs and type checkers.
_NOT_QUICK_FOLDERS = {"backends", "cli", "codec", "faults", "integrations", "packaging", "tools", "web"}
_NOT_QUICK_FILES = {
    "test_celery_conformance.py",
    "test_costs.py",
    "test_docs.py",
    "test_docs_types.py",
    "test_examples.py",
    "test_executor_processes.py",
    "test_exports.py",
    "test_graph.py",
    "test_import.py",
    "test_layers.py",
    "test_private_names.py",
    "test_processes.py",
    "test_promise_model.py",
    "test_pytest_plugin.py",
    "test_sets_model.py",
    "test_celery.py",
    "test_waiters.py",
    "test_wire.py",
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not config.getoption("--quick"):
        return None
    left_out = _NOT_QUICK_FOLDERS if collection_path.is_dir() else _NOT_QUICK_FILES
    return collection_path.name in left_out or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        left_out = [item for item in items if _wants_a_server(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _wants_a_server(item)]


def _wants_a_server(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    names = [*getattr(item, "fixturenames", ()), *(value for value in parameters.values() if isinstance(value, str))]
    return any("server" in name or "redis" in name for name in names)


class _Loops:
    """Registered on demand only: with it, the loop is among the parameters of each test."""

    def __init__(self, loop: str) -> None:
        import uvloop

        factories = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
        self.factories = factories if loop == "both" else {loop: factories[loop]}

    def pytest_asyncio_loop_factories(self) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
        return self.factories


def pytest_sessionstart(session: pytest.Session) -> None:
    if terminal := session.config.pluginmanager.get_plugin("terminalreporter"):
        session.config.pluginmanager.register(_Failures(terminal))


class _Failures:
    """Names a failure at once: a run that is ended from outside prints no summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self.terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.write_line(f"\nfailed: {report.nodeid} ({report.when})")


@pytest.fixture(autouse=True)
def no_current_celery_app() -> Generator[None]:
    """Celery makes every new app its current one, which then says where results are: no test has another one's."""
    _forget_current_celery_app()
    yield
    _forget_current_celery_app()


def _forget_current_celery_app() -> None:
    state: Any = sys.modules.get("celery._state")
    if state is not None:
        state._tls.current_app = state.default_app = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Skip a test, by name, that asks for a server which this machine has not."""
    try:
        return (yield)
    except ServerMissing as missing:
        pytest.skip(str(missing))


pytest_runtest_call = pytest_runtest_setup


@pytest.fixture(scope="session")
def shared_redis_server(request: pytest.FixtureRequest) -> Generator[RedisServer]:
    """One server for the session; for fixtures of a wider scope than a test. Nothing in it lasts."""
    flavour = cast("Flavour | None", request.config.getoption("--flavour"))
    with RedisServer(flavour=flavour) as server:
        yield server


@pytest.fixture
def redis_server(shared_redis_server: RedisServer) -> Generator[RedisServer]:
    """An empty server with default settings, for this test. It may be paused, killed, reconfigured."""
    server = shared_redis_server
    server.reset()
    defaults = server.settings()
    yield server
    if server.paused:
        server.resume()
    if not server.running or server.settings() != defaults:
        server.restart()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url()


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncGenerator[FaultProxy]:
    """A transparent proxy in front of ``redis_server``, in the loop of the test; ``proxy.url()`` leads through it."""
    async with FaultProxy(redis_server) as started:
        yield started


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """An authority, a server's and a client's certificate."""
    return make_certificates()


@pytest.fixture(scope="session")
def celery_worker() -> Generator[CeleryWorker]:
    """A stock worker with a server of its own, for the session. Results are at ``celery_worker.backend``."""
    from tests.tools.celery_worker import CeleryWorker

    with RedisServer() as server, CeleryWorker(broker=server.url(0), backend=server.url(1)) as worker:
        yield worker


@pytest.fixture
def celery_app(celery_worker: CeleryWorker) -> Generator[Celery]:
    """The client's side of ``celery_worker``: ``celery_app.tasks["tests.add"].delay(2, 3)``."""
    from tests.tools.celery_app import close_app, make_app

    app = make_app(**celery_worker.config)
    yield app
    close_app(app)
