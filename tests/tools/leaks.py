"""What outlives a test fails it: tasks, threads, sockets, subscriptions, current backends, another level of logging,
errors reported to the loop.

A pytest plugin (``pytest_plugins = ["tests.tools.leaks"]``), and :class:`LeakCheck` for use by hand. Every test is
checked, after its fixtures are gone: in its event loop, before pytest-asyncio cancels what is left there; and once more
after the loop is closed, for threads. What is on its way out gets a short grace.

``@pytest.mark.allow_leaks("threads", "sockets")`` leaves kinds out; without arguments, all. A test that provokes errors
in the loop takes the fixture ``loop_errors``, looks at them, and clears it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import stat
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Collection, Generator
from typing import Any

import pytest

from asyncresult._storage import current

from .servers import Control, RedisServer, running_servers

__all__ = ["KINDS", "LeakCheck", "LoopErrors", "garbage"]

KINDS = frozenset({"backends", "logging", "loop_errors", "sockets", "subscriptions", "tasks", "threads"})
GRACE = 3.0  # seconds for what is on its way out
LOOKS = 10  # as often it is looked at, at least: a machine may stand still for longer than the grace
INTERVAL = 0.005


class LoopErrors(list[dict[str, Any]]):
    """The contexts with which ``loop.call_exception_handler`` was called."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        loop.set_exception_handler(lambda loop, context: self.append(context))

    def describe(self) -> list[str]:
        descriptions: list[str] = []
        for context in self:
            error = context.get("exception")
            details = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else f"{context}"
            descriptions.append(f"error reported to the loop: {context.get('message')}\n{details}")
        return descriptions


class LeakCheck:
    """Takes note of what there is when it is made, and finds what came since.

    Args:
        kinds: What to look for. Tasks are those of the running loop.
        loop_errors: Where the loop's errors are collected.
    """

    def __init__(self, kinds: Collection[str] = KINDS, *, loop_errors: LoopErrors | None = None) -> None:
        self.kinds = kinds
        self.loop_errors = loop_errors
        self._backends = list(current._entered)
        self._tasks = asyncio.all_tasks() if "tasks" in kinds else set[asyncio.Task[Any]]()
        self._threads = set(threading.enumerate())
        self._sockets = _sockets() if "sockets" in kinds else {}
        self._logging = _logging()
        self._subscriptions = _subscriptions() if "subscriptions" in kinds else set[tuple[int, str]]()

    def found(self) -> list[str]:
        """What is there that was not, each as a line."""
        leaks: list[str] = []
        if "backends" in self.kinds:
            for store in current._entered:
                if store not in self._backends:
                    leaks.append(f"current backend {store!r}")
        if "tasks" in self.kinds:
            for task in asyncio.all_tasks() - self._tasks - {asyncio.current_task()}:
                leaks.append(f"task {task!r}")
        if "threads" in self.kinds:
            for thread in set(threading.enumerate()) - self._threads:
                leaks.append(f"thread {thread.name}")
        if "sockets" in self.kinds:
            for inode, fd in _sockets().items():
                if inode not in self._sockets and (ends := _ends(fd)) != "'' to ''":  # not a loop's pair to itself
                    leaks.append(f"socket {fd}: {ends}")
        if "subscriptions" in self.kinds:
            for port, channel in sorted(_subscriptions() - self._subscriptions):
                leaks.append(f"subscription to {channel!r} on the server at port {port}")
        if "logging" in self.kinds and self._logging != _logging():
            leaks.append(
                f"another level of logging, {_logging()}, or loggers that are disabled: it was {self._logging}"
            )
        if "loop_errors" in self.kinds and self.loop_errors:
            leaks += self.loop_errors.describe()
        return leaks

    def wait(self, grace: float | None = None) -> list[str]:
        """What is still there after a grace, by default :data:`GRACE`."""
        patience = _Patience(grace)
        while (leaks := self.found()) and not patience.ended():
            gc.collect()  # a connection attempt of psycopg that is cancelled leaves its socket in a cycle
            time.sleep(INTERVAL)
        return leaks

    def forget_backends(self) -> None:
        """Have those that came since be current no more, whoever forgot them: the next test must not get one."""
        current._entered[:] = [store for store in current._entered if store in self._backends]

    async def wait_in_loop(self, grace: float | None = None) -> list[str]:
        """As :meth:`wait`, while the loop goes on."""
        gc.collect()  # exceptions that nobody looked at are reported by the garbage collector
        await asyncio.sleep(0)  # what was closed just now is really closed in the next round of the loop
        patience = _Patience(grace)
        while (leaks := self.found()) and not patience.ended():
            await asyncio.sleep(INTERVAL)
        return leaks


class _Patience:
    """It ends when the time is over and there were some looks."""

    def __init__(self, grace: float | None) -> None:
        self._deadline = time.monotonic() + (GRACE if grace is None else grace)
        self._looks = 0

    def ended(self) -> bool:
        self._looks += 1
        return self._looks >= LOOKS and time.monotonic() >= self._deadline


@contextlib.contextmanager
def garbage() -> Generator[list[object]]:
    """What of this package's own is in cycles of references when the block ends; the list is filled then."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += [thing for thing in gc.garbage if type(thing).__module__.startswith("asyncresult.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _sockets() -> dict[int, int]:
    """The sockets of this process but for those by which servers are looked into: inode to file descriptor."""
    found: dict[int, int] = {}
    ours = {control.fileno() for control in _controls.values()}
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # the descriptor of the listing itself
            continue
        if stat.S_ISSOCK(status.st_mode) and int(name) not in ours:
            found[status.st_ino] = int(name)
    return found


def _ends(fd: int) -> str:
    try:
        with socket.socket(fileno=os.dup(fd)) as duplicate:
            return f"{duplicate.getsockname()!r} to {duplicate.getpeername()!r}"
    except OSError:
        return "not connected"


def _logging() -> tuple[int, int, bool]:
    """What decides whether a test that looks at log records gets any: of the root, of all, of ours."""
    return logging.root.level, logging.root.manager.disable, logging.getLogger("asyncresult").disabled


#: Connections that stay open: there are several looks for each test, and up to a dozen servers.
_controls: dict[RedisServer, Control] = {}


def _subscriptions() -> set[tuple[int, str]]:
    running = running_servers()
    for server in _controls.keys() - set(running):
        _controls.pop(server).close()
    return {(server.port, channel) for server in running for channel in _channels(server)}


def _channels(server: RedisServer) -> set[str]:
    if control := _controls.get(server):
        try:
            return server.subscribed(control)
        except OSError:  # the server was restarted since, or the test has closed the connections of all
            control.close()
    _controls[server] = server.control()
    return server.subscribed(_controls[server])


# --- the plugin


def pytest_unconfigure() -> None:
    while _controls:
        _controls.popitem()[1].close()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what is there now stays: the collection after each test need not go through it


def _kinds(request: pytest.FixtureRequest) -> frozenset[str]:
    marker = request.node.get_closest_marker("allow_leaks")
    if marker is None:
        return KINDS
    assert KINDS.issuperset(marker.args), f"allow_leaks: known are {sorted(KINDS)}"
    return KINDS.difference(marker.args) if marker.args else frozenset()


def _fail(leaks: list[str]) -> None:
    if leaks:
        pytest.fail("outlived the test:\n" + "\n".join(f"- {leak}" for leak in leaks), pytrace=False)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Generator[None]:
    """Around everything else, the event loop included."""
    in_loop = {"subscriptions"} if request.node.get_closest_marker("asyncio") else set[str]()  # asking servers costs
    check = LeakCheck(_kinds(request) - {"tasks", "loop_errors"} - in_loop)
    yield
    leaks = check.wait()
    check.forget_backends()
    _fail(leaks)


@pytest.fixture(autouse=True)
def no_leaks_in_loop(request: pytest.FixtureRequest, no_leaks: None) -> None:
    """For tests that have a loop: around everything else in it."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("_no_leaks_in_loop")


@pytest.fixture
async def _no_leaks_in_loop(request: pytest.FixtureRequest, loop_errors: LoopErrors) -> AsyncGenerator[None]:  # pyright: ignore[reportUnusedFunction]
    check = LeakCheck(_kinds(request) - {"threads", "backends", "logging"}, loop_errors=loop_errors)
    yield
    _fail(await check.wait_in_loop())


@pytest.fixture
async def loop_errors() -> LoopErrors:
    """What was reported to the event loop of this test; must be empty in the end."""
    return LoopErrors(asyncio.get_running_loop())
