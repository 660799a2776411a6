"""Results in a notebook: a display that keeps up with its task.

A notebook can ``await`` at the top level, and shows a handle with what it has learned. :func:`show` goes on from there.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Generator
from typing import Any

from .._handles.base import ResultBase, as_result

__all__ = ["Display", "show"]

#: Seconds between two changes of a display: a notebook draws each, and keeps each in its file.
INTERVAL = 0.2


def show(result: Any) -> Display:
    """Show a result, or a set of them, and keep what is shown up to date until all is over. Does not wait.

    Needs IPython, which every notebook has.

    Args:
        result: A handle, a set or group, or what has a handle: a result of a connected Celery app, a task of taskiq.

    Returns:
        The display. ``await show(handle)`` waits until it is over; ``show(handle).stop()`` leaves it as it is.

    Raises:
        TypeError: It is no result.
        RuntimeError: No event loop runs, as in a script.
    """
    return Display(as_result(result))


class Display:
    """What :func:`show` has put into the notebook."""

    def __init__(self, result: ResultBase[Any]) -> None:
        self._result: Any = result
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._shown = importlib.import_module("IPython.display").display(result, display_id=True)
        self._task = self._loop.create_task(self._follow(), name="asyncresult jupyter")

    def __await__(self) -> Generator[Any, None, None]:
        return asyncio.shield(self._task).__await__()

    def _ipython_display_(self) -> None:
        """As the last value of a cell it would be shown itself."""

    def stop(self) -> None:
        """Leave it as it is."""
        self._task.cancel()

    async def _follow(self) -> None:
        try:
            async with self._result.updates() as updates:
                async for _ in updates:
                    if self._timer is None:
                        self._timer = self._loop.call_later(INTERVAL, self._draw)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._draw()

    def _draw(self) -> None:
        self._timer = None
        self._shown.update(self._result)
