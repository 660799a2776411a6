"""The Executor of the blocking face."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from asyncresult import TaskRevoked, _portal
from asyncresult.sync import Backend, Executor, gather
from tests.sync.waiting import FOREVER


class TestExecutor:
    def test_submit_and_map(self, backend: Backend) -> None:
        async def double(number: int) -> int:
            return 2 * number

        def where(number: int) -> str:
            return f"{number} in {threading.current_thread().name}"

        with Executor(backend, max_pending=2) as executor:
            assert executor.backend == backend
            doubled = executor.submit(double, executor.submit(double, 2))  # type: ignore[call-overload]
            assert (doubled.get(timeout=FOREVER), doubled.parent.get()) == (8, 4)
            assert executor.map(double, range(20)).get(timeout=FOREVER) == list(range(0, 40, 2))
            assert "MainThread" not in executor.options(name="named").submit(where, 1).get(timeout=FOREVER)
            # More than may wait: submitting waits for room.
            assert gather(*[executor.submit(double, n) for n in range(20)]) == tuple(range(0, 40, 2))
        assert (executor.pending, executor.running) == (0, 0)

    def test_a_block_that_fails_cancels(self, memory: Backend) -> None:
        with pytest.raises(LookupError), Executor(memory) as executor:
            result = executor.submit(asyncio.sleep, 60)
            result.until("STARTED", timeout=FOREVER)
            raise LookupError
        with pytest.raises(TaskRevoked):
            result.get(timeout=FOREVER)

    def test_ctrl_c_while_it_waits_for_them(self, memory: Backend) -> None:
        """The block does not end before they do: behind it the backend may be closed."""
        portal, at_its_end, ended = _portal._the_portal(), threading.Event(), threading.Event()

        async def interrupt() -> None:
            try:
                while not (at_its_end.is_set() and portal.calls):
                    await asyncio.sleep(0.001)
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.Event().wait()
            finally:
                for _ in range(1000):
                    await asyncio.sleep(0)
                ended.set()

        with pytest.raises(KeyboardInterrupt), Executor(memory) as executor:
            result = executor.submit(interrupt)
            at_its_end.set()
        assert ended.is_set()
        assert result.state == "REVOKED"

    def test_revoke(self, memory: Backend) -> None:
        with Executor(memory) as executor:
            result = executor.submit(asyncio.sleep, 60)
            result.until("STARTED", timeout=FOREVER)
            result.revoke(terminate=True)
            with pytest.raises(TaskRevoked):
                result.get(timeout=FOREVER)
