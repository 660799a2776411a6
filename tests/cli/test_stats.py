"""stats."""

from __future__ import annotations

import json

from tests.tools.command_line import in_process


def test_stats(url: str) -> None:
    facts = json.loads(in_process("stats", "--json", "--url", url).out)
    assert facts["role"] == "master"
    assert facts["subscribed_tasks"] == 0
    assert "secret" not in in_process("stats", "--url", url).out
