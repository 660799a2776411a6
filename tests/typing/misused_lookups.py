"""That type checkers warn of what is not awaited, before it is run. Each mark must be needed: mypy says so if not."""

from __future__ import annotations

from asyncresult import AsyncResult


async def tested(handle: AsyncResult[int]) -> bool:
    return True if handle.ready() else False  # type: ignore[truthy-bool]  # noqa: SIM210


async def compared(handle: AsyncResult[int]) -> bool:
    return handle.state() == "SUCCESS"  # type: ignore[comparison-overlap]


async def forgotten(handle: AsyncResult[int]) -> None:
    handle.exists()  # type: ignore[unused-coroutine]
