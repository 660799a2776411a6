"""Functions in worker processes."""

from __future__ import annotations

import asyncio
import multiprocessing.process
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncresult
from asyncresult import Backend, Executor, TaskFailed, TaskRevoked
from tests.backends.waiting import until
from tests.tools import jobs

TOOLS = Path(__file__).parent / "tools"


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with asyncresult.connect("memory://") as backend:
        yield backend


@pytest.fixture
async def executor(backend: Backend) -> AsyncIterator[Executor]:
    async with Executor() as executor:
        yield executor


async def test_in_another_process(executor: Executor) -> None:
    assert await executor.options(process=True).submit(jobs.own_pid).get(timeout=30) != os.getpid()


async def test_failure(executor: Executor) -> None:
    handle = executor.options(process=True).submit(jobs.fail)
    with pytest.raises(ValueError, match="the effect"):
        await handle.get(timeout=30)
    text = await handle.traceback() or ""
    assert "KeyError: 'the cause'" in text
    assert "in fail" in text


async def test_an_exception_that_cannot_be_pickled(executor: Executor) -> None:
    handle = executor.options(process=True).submit(jobs.fail_oddly)
    with pytest.raises(jobs.OddError, match="odd"):
        await handle.get(timeout=30)


async def test_its_death(executor: Executor) -> None:
    handle = executor.options(process=True).submit(jobs.die)
    with pytest.raises(anyio.BrokenWorkerProcess):
        await handle.get(timeout=30)


@pytest.mark.parametrize("end", ["terminate", "timeout"])
async def test_killed(executor: Executor, tmp_path: Path, end: str) -> None:
    file = tmp_path / "pid"
    await executor.options(process=True).submit(jobs.own_pid).get(timeout=30)  # there is a process now
    options = executor.options(process=True, timeout=1 if end == "timeout" else None)
    handle = options.submit(jobs.touch_and_sleep, str(file), 600)
    await until(file.exists, timeout=30)
    if end == "terminate":
        (reply,) = await handle.revoke(wait=True, timeout=20)
        assert not reply.ok
        assert "terminate" in reply.detail
        assert await handle.state() == "STARTED"
        (reply,) = await handle.revoke(terminate=True, wait=True, timeout=20)
        assert reply.ok
    with pytest.raises(TimeoutError if end == "timeout" else TaskRevoked):
        await handle.get(timeout=10)
    await until(lambda: not Path(f"/proc/{file.read_text()}").exists())


async def test_a_coroutine_function_cannot(executor: Executor) -> None:
    with pytest.raises(TypeError, match="plain function"):
        executor.options(process=True).submit(asyncio.sleep, 1)


async def test_sys_exit_ends_the_task_only(executor: Executor) -> None:
    in_process = executor.options(process=True)
    pid = await in_process.submit(jobs.own_pid).get(timeout=30)
    with pytest.raises(TaskFailed) as raised:
        await in_process.submit(sys.exit, 3).get(timeout=30)
    assert raised.value.exc_type == "SystemExit"
    assert await in_process.submit(jobs.own_pid).get(timeout=30) == pid, "the process is used again"


@pytest.fixture
def our_input() -> Iterator[None]:
    """Something on our own standard input, which worker processes inherit."""
    before, (reading, writing) = os.dup(0), os.pipe()
    os.write(writing, b"ours")
    os.close(writing)
    os.dup2(reading, 0)
    os.close(reading)
    yield
    os.dup2(before, 0)
    os.close(before)


async def test_programs_have_their_streams(
    our_input: None, executor: Executor, capfd: pytest.CaptureFixture[str]
) -> None:
    """They may print, and find nothing on their standard input: neither our pipes nor the caller's terminal."""
    in_process = executor.options(process=True)
    assert await in_process.submit(jobs.run_program, "print('from a program')").get(timeout=30) == 0
    await in_process.submit(print, "from the function").get(timeout=30)
    assert await in_process.submit(jobs.run_program, "import sys; sys.exit(len(sys.stdin.read()))").get(timeout=30) == 0
    assert capfd.readouterr().out.splitlines() == ["from a program", "from the function"]


async def test_what_cannot_be_sent(executor: Executor) -> None:
    in_process = executor.options(process=True)
    with pytest.raises(Exception, match="pickle"):
        await in_process.submit(lambda: 1).get(timeout=30)
    with pytest.raises(Exception, match="pickle"):
        await in_process.submit(jobs.give_a_lambda).get(timeout=30)
    assert await in_process.submit(jobs.own_pid).get(timeout=30), "it did no harm"


@pytest.mark.parametrize("error", [None, SystemExit(1), ValueError("the child's")], ids=repr)
async def test_a_child_of_the_function_does_not_answer(executor: Executor, error: BaseException | None) -> None:
    """It would answer in the place of the next task."""
    in_process = executor.options(process=True)
    assert await in_process.submit(jobs.fork_and_go_on, error).get(timeout=30) == "parent"
    assert await in_process.submit(jobs.give, 1).get(timeout=30) == 1
    assert await in_process.submit(jobs.give, 2).get(timeout=30) == 2


async def test_a_child_of_the_function_outlives_it(executor: Executor, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    handle = executor.options(process=True).submit(jobs.fork_and_die, str(file))
    await until(file.exists, timeout=30)
    try:
        with pytest.raises(anyio.BrokenWorkerProcess, match="exit code 3"):
            await handle.get(timeout=30)
    finally:
        os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("function", [jobs.close_output, jobs.put_output_away])
async def test_without_an_output(executor: Executor, function: Callable[[], str]) -> None:
    in_process = executor.options(process=True)
    assert await in_process.submit(function).get(timeout=30) in ("closed", "put away")
    assert await in_process.submit(jobs.give, 1).get(timeout=30) == 1


@pytest.mark.parametrize(("call", "argument"), [(sys.exit, 3), (open, "/nowhere/at/all"), (eval, "1 / 0")], ids=str)
async def test_what_cannot_be_loaded(executor: Executor, call: Callable[[Any], Any], argument: Any) -> None:
    """What goes wrong then has nothing to do with the pipe."""
    in_process = executor.options(process=True)
    pid = await in_process.submit(jobs.own_pid).get(timeout=30)
    for function, arguments in ((jobs.give, (jobs.LoadedBy(call, argument),)), (jobs.LoadedBy, (call, argument))):
        with pytest.raises((FileNotFoundError, ZeroDivisionError, TaskFailed), match=r"3|No such file|zero"):
            await in_process.submit(function, *arguments).get(timeout=30)
        assert await in_process.submit(jobs.own_pid).get(timeout=30) == pid, "the process is used again"


async def test_the_process_ends_with_the_block(backend: Backend) -> None:
    async with Executor() as executor:
        pid = await executor.options(process=True).submit(jobs.own_pid).get(timeout=30)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_revoked_while_it_starts(executor: Executor) -> None:
    handle = executor.options(process=True).submit(jobs.own_pid)
    await handle.until("STARTED", timeout=20)
    await handle.revoke(terminate=True, wait=True, timeout=20)
    with pytest.raises(TaskRevoked):
        await handle.get(timeout=20)


async def test_revoked_before_it_runs(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request comes while the process is being made: it ends as soon as it can."""
    made, go = threading.Event(), threading.Event()
    start = multiprocessing.process.BaseProcess.start

    def slow_start(process: multiprocessing.process.BaseProcess) -> None:
        made.set()
        assert go.wait(20)
        start(process)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", slow_start)
    handle = executor.options(process=True).submit(jobs.own_pid)
    assert await asyncio.to_thread(made.wait, 20)
    try:
        replies = await handle.revoke(terminate=True, wait=True, timeout=20)
    finally:
        go.set()
    assert [reply.ok for reply in replies] == [True]
    with pytest.raises(TaskRevoked):
        await handle.get(timeout=20)


async def test_a_process_that_cannot_be_started(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: multiprocessing.process.BaseProcess) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    with pytest.raises(anyio.BrokenWorkerProcess, match="could not be started"):
        await executor.options(process=True).submit(jobs.own_pid).get(timeout=20)


def test_a_program_without_a_main_guard() -> None:
    """It would run once more in each worker process. It is told so, and how to mend it; nothing hangs."""
    done = subprocess.run([sys.executable, str(TOOLS / "unguarded.py")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "if __name__ == '__main__':" in done.stdout
    assert "if __name__ == '__main__':" in done.stderr


def test_a_program_that_ends_in_the_middle_of_a_job() -> None:
    """The interpreter does not wait for it."""
    subprocess.run([sys.executable, str(TOOLS / "leaves_at_once.py")], timeout=60, check=True)
