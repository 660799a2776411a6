"""Without an SDK: what is reported goes nowhere, and nothing fails."""

from __future__ import annotations

import asyncio

from support import absent

import asyncresult
from asyncresult.integrations.otel import instrument

absent("opentelemetry.sdk", "celery", "prometheus_client")


async def main() -> None:
    async with asyncresult.connect("memory://") as backend:
        instrumentation = instrument(backend, spans=True)
        async with backend.track("t", name="shop.buy") as task:
            task.set_result(5)
        assert await backend.result("t") == 5
        assert (await backend.get_meta("t")).traceparent is None
        instrumentation.uninstrument()


asyncio.run(main())
