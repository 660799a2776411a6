"""Worker processes for plain functions: started when needed, used again, killed when they must stop.

A process is driven from a worker thread, which waits in ``Connection.recv()``. Killing the process ends that wait, so
there is no other way to stop it, and no half-read answer to clean up after. What goes through the pipe is bytes: what
goes wrong when they are pickled or loaded is a failure of the task, not of the process.

The function sees the streams of a normal program: it may print, and start programs that do. Its standard input is
empty, since the caller's belongs to the caller.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import multiprocessing.process
import multiprocessing.util  # pyright: ignore[reportUnusedImport]  # see below
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from anyio import BrokenWorkerProcess

from .codec.codec import Codec
from .errors import add_note
from .meta import TaskMeta
from .states import FAILURE
from .worker import traceback_text

__all__ = ["WorkerProcess", "refuse_while_main_is_imported"]

#: What a worker process is called as long as it imports the program's main module.
_STARTING = "asyncresult worker, starting"
#: Seconds for a process to import the program's main module.
STARTUP_TIMEOUT = 60.0
#: Seconds for an idle process to end.
CLOSE_TIMEOUT = 2.0

Answer = tuple[Any, TaskMeta | None]
"""The value, or the failure as a record: an exception would lose its traceback on the way, or could not be sent."""

# pyright takes it for a method; it is a function of C, which is none.
_loads: Callable[[bytes], Any] = ForkingPickler.loads  # pyright: ignore[reportAttributeAccessIssue]


class WorkerProcess:
    """One process. :meth:`run` blocks; the other methods may be called from any thread meanwhile."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None
        self.killed = False

    @property
    def alive(self) -> bool:
        """Whether it can be used again."""
        return not self.killed and self._process is not None and self._process.is_alive()

    def run(self, call: Callable[[], Any]) -> Answer:
        """Run ``call`` there.

        Raises:
            BrokenWorkerProcess: The process has ended, or was killed, before it answered.
            Exception: ``call`` cannot be pickled, or its value cannot be loaded.
        """
        request = _pickled(call)
        try:
            if self._process is None:
                self._start()
            assert self._connection is not None
            self._connection.send_bytes(request)
            received = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            ending = self._ending()
            self.close()
            raise BrokenWorkerProcess(f"the worker process has ended ({ending})") from error
        answer: Answer = _loads(received)
        return answer

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), name=_STARTING, daemon=False)
        try:
            process.start()
        finally:
            theirs.close()
        self._process = process  # not before: one that does not run yet cannot be killed
        _running.add(self)
        if self.killed:  # meanwhile
            self.kill()
        try:
            ready = self._connection.poll(STARTUP_TIMEOUT) and self._connection.recv()
        except (EOFError, OSError):
            ready = False
        if not ready:
            ending = self._ending()
            self.close()
            raise BrokenWorkerProcess(
                f"a worker process could not import the program's main module ({ending}); its own output says why. If"
                " that module starts the program, it needs: if __name__ == '__main__':"
            )

    def _ending(self) -> str:
        if self._process is None:
            return "it could not be started"
        self._process.join(1.0)
        code = self._process.exitcode
        if code is None:
            return "it does not answer"
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def kill(self) -> None:
        """End it at once. Harmless when repeated, and before it has been started."""
        self.killed = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End it, if it does nothing, in its own time; what takes too long is killed."""
        _running.discard(self)
        if self._connection is not None:
            self._connection.close()  # that is what it waits for
        if self._process is not None:
            self._process.join(CLOSE_TIMEOUT)
            self.kill()


def refuse_while_main_is_imported() -> None:
    """Raise RuntimeError in a worker process that is about to run the program, because it imports its main module."""
    if multiprocessing.current_process().name == _STARTING:
        raise RuntimeError(
            "this program's main module runs the program when it is imported, as a worker process of the Executor has"
            " to do: put what starts the program under: if __name__ == '__main__':"
        )


# -- in the process ---------------------------------------------------------------------------------------------


def _serve(connection: Connection) -> None:
    multiprocessing.current_process().name = "asyncresult worker"
    # Ctrl-C in a terminal reaches every process of it; the executor decides what becomes of the task. Not SIG_IGN,
    # which the programs that a function starts would inherit.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    if hasattr(os, "register_at_fork"):
        # A child of the function has no part in the pipe: the executor learns by its end that this process is gone.
        os.register_at_fork(after_in_child=connection.close)
    connection.send(True)
    pid = os.getpid()
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):  # the executor is gone
            return
        answer = _answer(request)
        if os.getpid() != pid:  # a child that the function has forked, and that came back out of it
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # None, or closed by the function, or nobody reads it
                stream.flush()
        try:
            connection.send_bytes(answer)
        except OSError:
            return


def _answer(request: bytes) -> bytes:
    """What a call gives, as it is sent back. Never raises, except in a child that the function has forked."""
    pid = os.getpid()
    try:
        call: Callable[[], Any] = _loads(request)
    except BaseException as error:  # sys.exit() in a module that is imported now, too
        note = "asyncresult: a worker process has to be able to import the function and its arguments"
        return _failure(error, note)
    try:
        value = call()
    except BaseException as error:  # sys.exit(), too: it ends the task, not the process
        if os.getpid() != pid:
            raise
        return _failure(error)
    try:
        return _pickled((value, None))
    except BaseException as error:
        return _failure(error, "asyncresult: the result of a function in a worker process has to be picklable")


def _failure(error: BaseException, note: str | None = None) -> bytes:
    if note is not None:
        add_note(error, note)
    record = TaskMeta(status=FAILURE, result=Codec().encode_exception(error), traceback=traceback_text(error))
    return _pickled((None, record))


def _pickled(value: Any) -> bytes:
    """Not the view of a buffer that ``dumps()`` gives: Python complains where the two go together as garbage."""
    return bytes(ForkingPickler.dumps(value))


# -- at the end ---------------------------------------------------------------------------------------------------

_running: set[WorkerProcess] = set()


def _kill_all() -> None:
    for worker in list(_running):
        worker.kill()


def _after_fork_in_child() -> None:
    for worker in _running:  # the parent's, which they have to see go
        if worker._connection is not None:
            worker._connection.close()
    _running.clear()


# multiprocessing joins its processes when the interpreter ends: they must be gone by then. Hooks run latest first, and
# that of multiprocessing.util is registered when that is imported.
atexit.register(_kill_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
