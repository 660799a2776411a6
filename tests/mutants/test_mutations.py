"""The mutations themselves: where they are, and that they come into effect in functions that are there already."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from .mutations import codes, mutations
from .trials import functions_of, put_in

SOURCE = """
import functools

class Base:
    def __init__(self) -> None:
        self.base = "set"

class Child(Base):
    def __init__(self, limit: int = 3) -> None:
        super().__init__()
        self.limit = limit

    @functools.cache
    def fits(self, number: int) -> bool:
        return (
            number
            <= self.limit
        )

def pairs(numbers):
    return [number for number in numbers if number % 2 == 0]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Any]:
    path = tmp_path / "mutated_module.py"
    path.write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mutated_module")
    del sys.modules["mutated_module"]


def test_all_are_found_in_the_bodies_of_functions_and_change_their_code(module: Any) -> None:
    path = Path(module.__file__)
    found = mutations(path)
    assert [(mutation.name, mutation.lines) for mutation in found] == [
        ("taken out", (6,)),
        ("taken out", (10,)),
        ("taken out", (11,)),
        ("returns None", (15, 16, 17, 18)),
        ("another comparison", (15, 16, 17, 18)),
        ("returns None", (21,)),
        ("another comparison", (21,)),
        ("another constant", (21,)),
        ("another constant", (21,)),
    ]
    unchanged = list(codes(compile(SOURCE, str(path), "exec")))
    assert all(list(codes(mutation.code())) != unchanged for mutation in found)


def test_functions_that_are_there_get_the_code_of_a_mutation(module: Any) -> None:
    functions = functions_of([module.__name__])
    child = module.Child()
    assert child.base == "set" and child.fits(3) and module.pairs([1, 2]) == [2]
    by_place = {(mutation.name, mutation.lines[0]): mutation for mutation in mutations(Path(module.__file__))}

    put_in(by_place["taken out", 10], functions)  # a closure over __class__, which it still has
    assert not hasattr(module.Child(), "base")

    put_in(by_place["another comparison", 15], functions)  # behind a decorator
    assert not module.Child().fits(3)
    assert module.Child().base == "set"  # one at a time

    put_in(by_place["another comparison", 21], functions)  # inside the function's own code
    assert module.pairs([1, 2]) == [1]
