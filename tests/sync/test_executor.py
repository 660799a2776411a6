"""The Executor of the blocking face."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncresult import TaskRevoked
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

    def test_revoke(self, memory: Backend) -> None:
        with Executor(memory) as executor:
            result = executor.submit(asyncio.sleep, 60)
            result.until("STARTED", timeout=FOREVER)
            result.revoke(terminate=True)
            with pytest.raises(TaskRevoked):
                result.get(timeout=FOREVER)
