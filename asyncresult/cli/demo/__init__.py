"""``demo``: the main job, shown. Results of a real Celery worker are awaited, beside the code that awaits them."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING

from ..status import CommandError, Status

if TYPE_CHECKING:
    from .stage import Stage

__all__ = ["demo"]


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo; with ``--memory`` in this process alone."""
    from . import scenes
    from .stage import Stage

    stage = Stage()
    if arguments.memory:
        stage.show("in this process alone: without a server, without Celery")
        asyncio.run(scenes.in_memory(stage))
    else:
        _with_celery(stage)
    scenes.where_to_go_next(stage)
    return Status.SUCCESS


def _with_celery(stage: Stage) -> None:
    try:
        import celery  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise CommandError(
            "the demo runs a Celery worker: pip install 'asyncresult[demo]', or see it with --memory"
        ) from None
    from . import scenes
    from .processes import private_server, worker

    begin = time.perf_counter()
    stage.show("starting a server and a Celery worker, both private …")
    with private_server() as url:
        stage.show(f"a private server: {url}")
        with worker(broker=f"{url}/0", backend=f"{url}/1") as process:
            stage.show(f"a stock Celery worker: process {process.pid}; its tasks: {scenes.tasks_file()}")
            asyncio.run(scenes.with_celery(stage))
    stage.show(f"\nserver and worker have ended, after {time.perf_counter() - begin:.0f} s")
