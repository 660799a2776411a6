"""ls."""

from __future__ import annotations

import json

from tests.tools.command_line import in_process

from .conftest import Store


def test_ls_is_bounded_and_chooses_by_state(url: str, store: Store) -> None:
    for number in range(120):
        store(f"n{number}")
    assert len(in_process("ls", "--url", url).out.splitlines()) == 100
    assert len(in_process("ls", "--limit", "7", "--url", url).out.splitlines()) == 7
    assert in_process("ls", "--state", "FAILURE", "--url", url).out == "bad FAILURE\n"
    shown = [json.loads(line) for line in in_process("ls", "--limit", "999", "--json", "--url", url).out.splitlines()]
    assert {"id": "ok", "state": "SUCCESS", "name": "proj.add"} in shown
    assert {"id": "junk", "state": "unreadable", "name": None} in shown
    assert len(shown) == 126
