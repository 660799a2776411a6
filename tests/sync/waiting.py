"""Acting while another thread waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

from asyncresult.sync import Backend
from tests.tools.processes import wait_until

FOREVER = 20.0  # seconds: more than any of these waits takes


def when_waiting(backend: Backend, act: Callable[[], object], count: int = 1) -> threading.Thread:
    """A thread that acts when ``count`` tasks are waited for."""

    def run() -> None:
        wait_until(lambda: backend.stats().subscribed >= count, "somebody waits", interval=0.001)
        act()

    thread = threading.Thread(target=run)
    thread.start()
    return thread
