"""tree: text, JSON, DOT and Mermaid."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.tools.command_line import asyncresult, in_process

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

DOT = """\
digraph dependencies {
    node [shape=box style="rounded,filled"]
    n0 [label="top proj.top SUCCESS" fillcolor="#d5f0d9"]
    n0 -> n1
    n0 -> n3
    n1 [label="left SUCCESS" fillcolor="#d5f0d9"]
    n1 -> n2
    n2 [label="leaf PENDING" fillcolor="#f2f2f2"]
    n3 [label="right FAILURE" fillcolor="#f8d4d4"]
}
"""

MERMAID = """\
flowchart TD
    n0["top proj.top SUCCESS"]
    n1["left SUCCESS"]
    n2["leaf PENDING"]
    n3["right FAILURE"]
    n0 --> n1
    n0 --> n3
    n1 --> n2
    classDef c0 fill:#d5f0d9,color:#000
    class n0,n1 c0
    classDef c1 fill:#f2f2f2,color:#000
    class n2 c1
    classDef c2 fill:#f8d4d4,color:#000
    class n3 c2
"""


def test_tree(family: str) -> None:
    assert in_process("tree", "top", "--url", family) == (0, TREE, "")
    shallow = in_process("tree", "top", "--depth", "1", "--url", family)
    assert shallow.out == "top proj.top SUCCESS\n└─ …\n"


def test_tree_in_ascii_where_the_terminal_has_no_boxes(family: str) -> None:
    outcome = asyncresult("tree", "top", "--url", family, env={"PYTHONIOENCODING": "ascii"})
    assert outcome.out == TREE.replace("├─", "|-").replace("└─", "`-").replace("│", "|")


def test_tree_for_programs(family: str) -> None:
    top = json.loads(in_process("tree", "top", "--format", "json", "--url", family).out)
    assert [child["id"] for child in top["children"]] == ["left", "right"]
    assert in_process("tree", "top", "--format", "dot", "--url", family).out == DOT
    assert in_process("tree", "top", "--format", "mermaid", "--url", family).out == MERMAID
    assert in_process("tree", "none", "--url", family).status == 4
