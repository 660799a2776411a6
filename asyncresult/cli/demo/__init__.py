"""``demo``: the main job, shown. Results of a real Celery worker are awaited, beside the code that awaits them."""

from __future__ import annotations

import argparse
import asyncio
import time

from ..status import CommandError, Status

__all__ = ["demo"]


def demo(arguments: argparse.Namespace) -> int:
    """Run the demo; with ``--memory`` in this process alone."""
    from . import scenes

    if arguments.memory:
        asyncio.run(scenes.in_memory())
        scenes.where_to_go_next()
        return Status.SUCCESS
    try:
        import celery  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise CommandError(
            "the demo runs a Celery worker: pip install 'asyncresult[demo]', or see it with --memory"
        ) from None
    from .processes import private_server, worker

    begin = time.perf_counter()
    with private_server() as url:
        scenes.say(f"a private server: {url}")
        with worker(broker=f"{url}/0", backend=f"{url}/1") as process:
            scenes.say(f"a stock Celery worker: process {process.pid}")
            asyncio.run(scenes.with_celery(f"{url}/1"))
    scenes.say(f"\nall stopped after {time.perf_counter() - begin:.0f} s")
    scenes.where_to_go_next()
    return Status.SUCCESS
