"""Worker processes, without any: what ends them, and what they answer."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from asyncresult import _processes
from asyncresult._processes import WorkerProcess, refuse_while_main_is_imported


class Process:
    """One that lives until it is killed."""

    exitcode: int | None = None

    def join(self, timeout: float) -> None: ...

    def is_alive(self) -> bool:
        return self.exitcode is None

    def kill(self) -> None:
        self.exitcode = -signal.SIGKILL


def started() -> tuple[WorkerProcess, Process]:
    worker, process = WorkerProcess(), Process()
    worker._process = process  # type: ignore[assignment]
    _processes._running.add(worker)
    return worker, process


def test_how_a_process_has_ended_is_said() -> None:
    worker, process = started()
    assert worker.alive
    assert worker._ending() == "it does not answer"
    _processes._kill_all()
    assert not worker.alive
    assert worker._ending() == "killed by SIGKILL"
    process.exitcode = 3
    assert worker._ending() == "exit code 3"
    assert WorkerProcess()._ending() == "it could not be started"
    worker.close()
    assert worker not in _processes._running


def test_a_program_that_is_imported_by_its_worker_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_while_main_is_imported()
    monkeypatch.setattr(multiprocessing.current_process(), "name", _processes._STARTING)
    with pytest.raises(RuntimeError, match="if __name__ == '__main__':"):
        refuse_while_main_is_imported()


class Calls:
    """The worker's end of the pipe: calls come, then nothing."""

    def __init__(self, *calls: Any) -> None:
        self.calls = list(calls)
        self.answers: list[Any] = []

    def recv_bytes(self) -> bytes:
        if not self.calls:
            raise EOFError
        call = self.calls.pop(0)
        return call if isinstance(call, bytes) else pickle.dumps(call)

    def send(self, ready: bool) -> None:
        self.answers.append(ready)

    def send_bytes(self, answer: bytes) -> None:
        self.answers.append(pickle.loads(answer))

    def close(self) -> None: ...


@pytest.fixture
def in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker does to its process is not done to this one."""
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(_processes, "multiprocessing", SimpleNamespace(current_process=lambda: SimpleNamespace()))


@pytest.mark.usefixtures("in_a_worker")
def test_what_a_worker_answers() -> None:
    """Also to a call that it cannot import, after which it takes the next."""
    calls = Calls(functools.partial(divmod, 7, 2), b"cnowhere\nf\n.", functools.partial(divmod, 1, 0))
    _processes._serve(calls)  # type: ignore[arg-type]
    ready, value, unknown, failed = calls.answers
    assert (ready, value) == (True, ((3, 1), None))
    assert unknown[1].result["exc_type"] == "ModuleNotFoundError"
    assert "has to be able to import the function" in unknown[1].traceback
    assert failed[1].result["exc_type"] == "ZeroDivisionError"


@pytest.mark.usefixtures("in_a_worker")
def test_a_worker_ends_when_nobody_takes_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(functools.partial(divmod, 7, 2), functools.partial(divmod, 7, 2))

    def send_bytes(answer: bytes) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(calls, "send_bytes", send_bytes)
    _processes._serve(calls)  # type: ignore[arg-type]
    assert len(calls.calls) == 1
