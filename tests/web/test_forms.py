"""A task's state as HTML: every text in it is text."""

from __future__ import annotations

from typing import Any

import pytest

from asyncresult.web.forms import fragment


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "ST&lt;ARTED"),
        ({"result": "a < b"}, "a &lt; b"),
        ({"result": {"a": "<"}}, "{&quot;a&quot;:&quot;&lt;&quot;}"),
        ({"error": {"title": "<Failed>"}}, "&lt;Failed&gt;"),
        ({"error": {"title": "Failed", "detail": "a & b"}}, "Failed: a &amp; b"),
    ],
)
def test_what_is_said_of_a_task(document: dict[str, Any], words: str) -> None:
    made = fragment({"id": "t", "state": "ST<ARTED", **document})
    assert f'<p role="status">{words}</p>' in made
    assert "<progress" not in made


def test_progress() -> None:
    progress = {"current": 3, "total": 4, "percent": 75, "description": "half & more"}
    made = fragment({"id": "t", "state": "PROGRESS", "progress": progress})
    assert '<progress max="4" value="3" aria-label="Progress">75 %</progress><span>half &amp; more</span>' in made
    del progress["description"]
    assert "<span></span>" in fragment({"id": "t", "state": "PROGRESS", "progress": progress})
