"""P14: faults at random against a live load. More of it: ``python3 dev chaos --seconds 60``."""

from __future__ import annotations

import pytest

from .chaos import KINDS, TO_THE_SERVER, TO_THE_WAY, run


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # connections end without a farewell here
async def test_p14_20_seconds_of_chaos() -> None:
    """0 lost, 0 wrong, 0 left over."""
    report = await run(20, 14)
    assert report.good, str(report)
    assert len(report.waits) == len(KINDS) and report.waits.total() > 500
    assert len(report.faults) == len(TO_THE_SERVER) + len(TO_THE_WAY), str(report)
