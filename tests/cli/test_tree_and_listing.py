"""tree, ls, stats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.tools.command_line import asyncresult

from .conftest import Store


def link(id: str) -> list[Any]:
    return [[id, None], None]


@pytest.fixture
def family(url: str, store: Store) -> str:
    store("top", children=[link("left"), link("right")], name="proj.top")
    store("left", children=[link("leaf")])
    store("right", "FAILURE", {"exc_type": "E", "exc_message": [], "exc_module": "x"})
    return url


TREE = """\
top proj.top SUCCESS
├─ left SUCCESS
│  └─ leaf PENDING
└─ right FAILURE
"""


def test_tree(family: str) -> None:
    assert asyncresult("tree", "top", "--url", family) == (0, TREE, "")
    shallow = asyncresult("tree", "top", "--depth", "1", "--url", family)
    assert shallow.out == "top proj.top SUCCESS\n└─ …\n"


def test_tree_in_ascii_where_the_terminal_has_no_boxes(family: str) -> None:
    outcome = asyncresult("tree", "top", "--url", family, env={"PYTHONIOENCODING": "ascii"})
    assert outcome.out == TREE.replace("├─", "|-").replace("└─", "`-").replace("│", "|")


def test_tree_for_programs(family: str) -> None:
    top = json.loads(asyncresult("tree", "top", "--format", "json", "--url", family).out)
    assert [child["id"] for child in top["children"]] == ["left", "right"]
    assert "digraph" in asyncresult("tree", "top", "--format", "dot", "--url", family).out
    assert asyncresult("tree", "top", "--format", "mermaid", "--url", family).out.count("-->") == 3
    assert asyncresult("tree", "none", "--url", family).status == 4


def test_ls_is_bounded_and_chooses_by_state(url: str, store: Store) -> None:
    for number in range(120):
        store(f"n{number}")
    assert len(asyncresult("ls", "--url", url).out.splitlines()) == 100
    assert len(asyncresult("ls", "--limit", "7", "--url", url).out.splitlines()) == 7
    assert asyncresult("ls", "--state", "FAILURE", "--url", url).out == "bad FAILURE\n"
    shown = [json.loads(line) for line in asyncresult("ls", "--limit", "999", "--json", "--url", url).out.splitlines()]
    assert {"id": "ok", "state": "SUCCESS", "name": "proj.add"} in shown
    assert {"id": "junk", "state": "unreadable", "name": None} in shown
    assert len(shown) == 126


def test_stats(url: str) -> None:
    facts = json.loads(asyncresult("stats", "--json", "--url", url).out)
    assert facts["role"] == "master"
    assert facts["subscribed_tasks"] == 0
    assert "secret" not in asyncresult("stats", "--url", url).out
