"""What the states of running tasks say about how far these are."""

from __future__ import annotations

from typing import Any

import pytest

from asyncresult import TaskMeta
from asyncresult._progress import progress_of


class NoTruth:
    def __repr__(self) -> str:
        return "no truth"

    def __bool__(self) -> bool:
        raise ValueError("as arrays do")


def reported(result: Any, status: str = "PROGRESS") -> Any:
    return progress_of(TaskMeta(task_id="t", status=status, result=result))


@pytest.mark.parametrize(
    ("more", "note"),
    [
        ({}, ""),
        ({"note": "nearly"}, "nearly"),
        ({"description": "half"}, "half"),
        ({"note": "", "description": "half"}, "half"),
        ({"note": 7, "description": "half"}, "half"),
        ({"note": NoTruth()}, ""),
    ],
)
def test_progress(more: dict[str, Any], note: str) -> None:
    assert reported({"current": 1, "total": 2.5, **more}) == (1, 2.5, note)


@pytest.mark.parametrize(
    "result",
    [
        None,
        [1, 2],
        {"current": 1},
        {"current": -1, "total": 2},
        {"current": 3, "total": 2},
        {"current": 0, "total": 0},
        {"current": True, "total": 2},
        {"current": float("nan"), "total": 2},
        {"current": 1, "total": float("inf")},
        {"current": 1, "total": 10**400},
        {"current": NoTruth(), "total": 2},
    ],
    ids=repr,
)
def test_what_is_none(result: Any) -> None:
    assert reported(result) is None


def test_a_task_that_has_ended_has_none() -> None:
    assert reported({"current": 1, "total": 2}, "SUCCESS") is None
