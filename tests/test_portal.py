"""The event loop behind blocking calls: hand-over, Ctrl-C, fork, and the end of the process."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from asyncresult import _portal
from asyncresult._portal import Post, run, run_future, run_with_callbacks, start
from tests.tools.processes import wait_until
from tests.tools.servers import RedisServer

ROOT = Path(__file__).parents[1]
THREADS = 8

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
def portal(no_leaks: None) -> Generator[None]:
    yield
    _portal.stop()


async def running_loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


async def echo(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


def test_calls_of_many_threads_share_a_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the loop is busy; and the next call wakes it again."""
    loop = run(running_loop)
    wake, wake_ups = loop.call_soon_threadsafe, list[object]()

    def counted(fn: Any, *args: Any) -> asyncio.Handle:
        wake_ups.append(fn)
        return wake(fn, *args)

    busy, go_on = threading.Event(), threading.Event()
    wake(lambda: (busy.set(), go_on.wait(60)))
    busy.wait(60)
    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    with ThreadPoolExecutor(THREADS) as threads:
        answers = [threads.submit(run, echo, number) for number in range(THREADS)]
        wait_until(lambda: len(_portal._the_portal().calls) == THREADS, "all have called")
        go_on.set()
        assert [answer.result(60) for answer in answers] == list(range(THREADS))
    assert len(wake_ups) == 1
    assert run(echo, "next") == "next" and len(wake_ups) == 2


async def fail(error: BaseException) -> NoReturn:
    raise error


def run_script(script: str, *, timeout: float = 20.0) -> str:
    """What a script prints, run as strictly as Python can; it must end well and complain of nothing."""
    ended = subprocess.run(
        # From Python 3.12 on, a fork in a process with threads is warned of in general.
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-X", "dev", "-c", script],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    # That a step of a loop has taken long says something about the machine.
    complaints = [line for line in ended.stderr.splitlines() if not line.startswith("Executing ")]
    assert (ended.returncode, complaints) == (0, [])
    return ended.stdout


class TestRun:
    def test_value_and_arguments(self) -> None:
        async def collect(*args: int, **kwargs: int) -> Any:
            return args, kwargs

        assert run(collect, 1, 2, three=3) == ((1, 2), {"three": 3})

    @pytest.mark.parametrize("error", [ValueError("no"), StopAsyncIteration(), SystemExit(3)])
    def test_what_the_coroutine_raises(self, error: BaseException) -> None:
        """Also what would end the loop, or mean something else on the way."""
        with pytest.raises(type(error)) as caught:
            run(fail, error)
        assert caught.value is error
        assert run(echo, "goes on") == "goes on"

    def test_what_calling_it_raises(self) -> None:
        def broken() -> NoReturn:
            raise ValueError("no coroutine")

        with pytest.raises(ValueError, match="no coroutine"):
            run(broken)

    def test_a_function_that_returns_a_future(self) -> None:
        def answered(value: Any) -> asyncio.Future[Any]:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(value) if isinstance(value, Exception) else future.set_result(value)
            return future

        def cancelled() -> asyncio.Future[Any]:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            return future

        def broken() -> NoReturn:
            raise ValueError("no future")

        assert run_future(answered, 5) == 5
        for fn, error in ((broken, "no future"), (lambda: answered(ValueError("failed")), "failed")):
            with pytest.raises(ValueError, match=error):
                run_future(fn)
        with pytest.raises(RuntimeError, match="was stopped during this call"):
            run_future(cancelled)

    def test_context_variables_of_the_caller(self) -> None:
        async def look_and_set() -> str:
            seen = variable.get()
            variable.set("inside")
            return seen

        variable.set("outside")
        assert run(look_and_set) == "outside"
        assert variable.get() == "outside"

    def test_one_thread_for_all(self) -> None:
        async def loop_and_thread() -> tuple[int, int]:
            return id(asyncio.get_running_loop()), threading.get_ident()

        barrier = threading.Barrier(THREADS)

        def together() -> tuple[int, int]:
            barrier.wait()
            return run(loop_and_thread)

        with ThreadPoolExecutor(THREADS) as pool:
            places = {future.result() for future in [pool.submit(together) for _ in range(THREADS)]}
        assert len(places) == 1
        assert threading.get_ident() not in {thread for _, thread in places}

    def test_error_holds_no_cycle(self) -> None:
        """An exception that was raised keeps nothing of the call alive once it is dropped."""

        class Marked(Exception):
            pass

        async def raise_one() -> NoReturn:
            raise Marked

        gc.disable()
        try:
            try:
                run(raise_one)
            except Marked as error:
                gone = weakref.ref(error)
            run(echo, None)  # the loop has let go of the task
            assert gone() is None
        finally:
            gc.enable()


class TestRunningLoop:
    async def test_refused_at_once(self) -> None:
        with pytest.raises(RuntimeError, match=r"echo\(\) would block the event loop.*[Aa]wait"):
            run(echo, 1)
        assert await asyncio.to_thread(run, echo, 1) == 1

    def test_refused_on_the_loop_of_the_portal(self) -> None:
        async def nested() -> Any:
            return run(echo, 1)

        with pytest.raises(RuntimeError, match="would block the event loop"):
            run(nested)

    def test_threads_that_are_greenlets(self) -> None:
        """Under gevent all run on one thread of the system, so that asyncio sees the portal's loop run everywhere."""
        loop = run(running_loop)
        asyncio._set_running_loop(loop)
        try:
            assert run(echo, 1) == 1
        finally:
            asyncio._set_running_loop(None)

    async def test_starting_something_is_allowed(self) -> None:
        assert await asyncio.wrap_future(start(echo, 1)) == 1


class TestInterrupt:
    def test_ctrl_c_raises_at_once_and_cancels(self) -> None:
        cancelled = threading.Event()

        async def interrupted() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        with pytest.raises(KeyboardInterrupt):
            run(interrupted)
        assert cancelled.wait(30)
        assert run(echo, 1) == 1

    def test_it_does_not_wait_for_a_coroutine_that_resists(self) -> None:
        let_go = asyncio.Event()

        async def stubborn() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    pass

        with pytest.raises(KeyboardInterrupt):
            run(stubborn)

        async def release() -> None:
            let_go.set()

        run(release)

    def test_before_the_coroutine_began_it_never_begins(self) -> None:
        blocked, let_go = threading.Event(), threading.Event()
        begun: list[bool] = []

        async def block_the_loop() -> None:
            blocked.set()
            let_go.wait(30)

        async def begin() -> None:
            begun.append(True)

        start(block_the_loop)
        assert blocked.wait(30)
        portal = _portal._the_portal()

        def interrupt() -> None:
            wait_until(lambda: portal.calls, "the call waits")
            os.kill(os.getpid(), signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            run(begin)
        interrupter.join()
        let_go.set()
        run(echo, 1)
        assert begun == []

    def test_whatever_a_signal_handler_raises(self) -> None:
        """A time limit in a Celery worker, say."""

        class SoftTimeLimit(Exception):
            pass

        def over(*_: object) -> NoReturn:
            raise SoftTimeLimit

        async def wait() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(60)

        before = signal.signal(signal.SIGUSR1, over)
        try:
            with pytest.raises(SoftTimeLimit):
                run(wait)
        finally:
            signal.signal(signal.SIGUSR1, before)


class TestCallbacks:
    def test_posted_ones_run_here_in_order(self) -> None:
        seen: list[tuple[int, int]] = []

        async def count(post: Post) -> str:
            for number in range(3):
                post(lambda n: seen.append((n, threading.get_ident())), number)
                await asyncio.sleep(0)
            return "done"

        assert run_with_callbacks(count) == "done"
        here = threading.get_ident()
        assert seen == [(0, here), (1, here), (2, here)]

    def test_what_one_raises_ends_the_wait(self) -> None:
        cancelled = threading.Event()

        async def wait(post: Post) -> None:
            post(int, "not a number")
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        with pytest.raises(ValueError, match="not a number"):
            run_with_callbacks(wait)
        assert cancelled.wait(30)

    def test_on_interval(self) -> None:
        ticks: list[int] = []
        enough = asyncio.Event()

        def tick() -> None:
            ticks.append(threading.get_ident())
            if len(ticks) == 3:
                start(release)

        async def release() -> None:
            enough.set()

        async def wait(post: Post) -> None:
            await enough.wait()

        run_with_callbacks(wait, interval=0.001, on_interval=tick)
        assert len(ticks) >= 3
        assert set(ticks) == {threading.get_ident()}

    def test_callbacks_may_block(self) -> None:
        """They run where the caller is, not on the loop."""
        seen: list[Any] = []

        async def wait(post: Post) -> None:
            post(lambda: seen.append(run(echo, "nested")))

        run_with_callbacks(wait)
        assert seen == ["nested"]


class TestStart:
    def test_future(self) -> None:
        assert start(echo, 1).result(30) == 1
        with pytest.raises(ValueError, match="no"):
            start(fail, ValueError("no")).result(30)

    def test_cancelling_it_cancels_the_coroutine(self) -> None:
        began, cancelled = threading.Event(), threading.Event()

        async def wait() -> None:
            began.set()
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        future = start(wait)
        assert began.wait(30)
        assert future.cancel()
        assert cancelled.wait(30)

    def test_on_the_loop_itself(self) -> None:
        async def nested() -> Any:
            return await asyncio.wrap_future(start(echo, 1))

        assert run(nested) == 1

    def test_system_exit_does_not_end_the_loop(self) -> None:
        with pytest.raises(RuntimeError, match="SystemExit"):
            start(fail, SystemExit(3)).result(30)
        assert run(echo, 1) == 1


class TestStop:
    def test_waits_end_with_an_error_and_the_next_call_starts_anew(self) -> None:
        began = threading.Event()

        async def wait() -> None:
            began.set()
            await asyncio.sleep(60)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(run, wait)
            assert began.wait(30)
            _portal.stop()
            with pytest.raises(RuntimeError, match="was stopped during this call"):
                waiting.result(30)
        assert run(echo, 1) == 1

    def test_a_call_that_comes_too_late(self) -> None:
        """It found the portal, but the loop was closed before the call reached it; so did another one."""

        def hangs() -> None:
            raise AssertionError

        run(echo, 1)
        late = _portal._the_portal()
        _portal.stop()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="was stopped during this call"):
                _portal._Call(echo, 1).wait(late, 5.0, hangs)

    def test_a_call_that_was_not_begun(self) -> None:
        """It reached the loop, but the loop stopped before it came to it."""
        run(echo, 1)
        portal = _portal._the_portal()
        waiting = _portal._Call(echo, 1)
        portal.calls.add(waiting)
        _portal.stop()
        assert waiting._inbox.get(timeout=20) is None

    def test_a_loop_that_is_blocked_does_not_hold_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_portal, "STOP_TIMEOUT", 0.01)
        blocked, let_go = threading.Event(), threading.Event()

        async def block_the_loop() -> None:
            blocked.set()
            let_go.wait(30)

        start(block_the_loop)
        assert blocked.wait(30)
        thread = _portal._the_portal()._thread
        _portal.stop()
        assert thread.is_alive()
        let_go.set()
        thread.join(30)
        assert not thread.is_alive()

    def test_without_a_portal(self) -> None:
        _portal.stop()
        _portal.stop()
        assert "asyncresult" not in {thread.name for thread in threading.enumerate()}


class TestProcess:
    def test_exit_leaves_nothing(self) -> None:
        """Tasks that wait, a daemon thread that waits, and calls while the interpreter ends."""
        script = """
import asyncio, atexit, threading
atexit.register(lambda: print("asyncresult" in {thread.name for thread in threading.enumerate()}))  # the last one
from asyncresult._portal import run, start
async def echo(value): return value
began = threading.Event()
async def wait():
    began.set()
    await asyncio.sleep(60)
start(wait)
threading.Thread(target=run, args=(wait,), daemon=True).start()
assert began.wait(30)
atexit.register(lambda: print(run(echo, "at exit")))
last = threading.Thread(target=lambda: (threading.main_thread().join(), print(run(echo, "after main"))))
last.start()
"""
        assert run_script(script).split("\n") == ["after main", "at exit", "False", ""]

    def test_fork(self) -> None:
        """Both sides go on, in a middle of use; the child at first while the parent stands still."""
        script = """
import asyncio, os, sys, threading
from asyncresult._portal import run, start
async def echo(value): return value
async def loop(): return id(asyncio.get_running_loop())
async def wait(): await asyncio.sleep(60)
start(wait)
before = run(loop)
if (child := os.fork()) == 0:
    assert [run(echo, n) for n in range(100)] == list(range(100))
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert [run(echo, n) for n in range(100)] == list(range(100))
assert run(loop) == before
print("both")
"""
        assert run_script(script) == "both\n"

    def test_fork_while_it_starts(self) -> None:
        """The lock that another thread held belongs to the parent."""
        script = """
import os, sys
from asyncresult import _portal
async def echo(value): return value
_portal._starting.acquire()
if (child := os.fork()) == 0:
    sys.exit(_portal.run(echo, 7))
_portal._starting.release()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
        run_script(script)

    def test_ctrl_c_in_a_script(self) -> None:
        script = """
import asyncio, os, signal
from asyncresult._portal import run
async def wait():
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(60)
try:
    run(wait)
except KeyboardInterrupt:
    print("interrupted")
"""
        assert run_script(script) == "interrupted\n"


class TestInterpreterExit:
    """In functions of atexit. The interpreter has stopped threads for good by then, some versions even before."""

    @pytest.mark.parametrize("used_before", [False, True])
    def test_a_host_name(self, redis_server: RedisServer, used_before: bool) -> None:
        script = f"""
import atexit
from asyncresult.sync import connect
def use(id):
    with connect("redis://localhost:{redis_server.port}/0") as backend:
        return backend.get_meta(id).status
if {used_before}:
    use("before")
atexit.register(lambda: print(use("at exit")))
"""
        assert run_script(script) == "PENDING\n"

    def test_no_thread_can_be_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with Python 3.12.1: the calls run the loop themselves."""

        def start_thread(thread: threading.Thread) -> NoReturn:
            raise RuntimeError("can't create new thread at interpreter shutdown")

        async def resolve(host: str) -> bool:
            return bool(await asyncio.get_running_loop().getaddrinfo(host, 80))

        async def talk(post: Post) -> str:
            post(said.append, "posted")
            while len(ticks) < 2:
                await asyncio.sleep(0.002)
            return "done"

        said: list[str] = []
        ticks: list[int] = []
        monkeypatch.setattr(threading.Thread, "start", start_thread)
        start(asyncio.sleep, 60)  # never ends
        begun = start(echo, "in the background")
        assert run(echo, "value") == "value"
        assert begun.result(timeout=0) == "in the background"
        assert run(resolve, "127.0.0.1")
        with pytest.raises(UnicodeError):
            run(resolve, "x" * 64)
        assert run_with_callbacks(talk, interval=0.001, on_interval=lambda: ticks.append(1)) == "done"
        assert said == ["posted"]
        with pytest.raises(ValueError, match="no"):
            run(fail, ValueError("no"))

    def test_but_at_any_other_time_that_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(thread: threading.Thread) -> NoReturn:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as context:
            context.setattr(threading.Thread, "start", start)
            with pytest.raises(RuntimeError, match="can't start"):
                run(echo, 1)
        assert run(echo, 1) == 1
