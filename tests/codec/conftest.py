"""Fixtures of the codec's tests."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator

import pytest

from tests.codec.records import DATA


@pytest.fixture
def vexc() -> Iterator[types.ModuleType]:
    """The module of the workers' exceptions, imported by the reader."""
    spec = importlib.util.spec_from_file_location("vexc", DATA / "vexc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["vexc"] = module
    yield module
    del sys.modules["vexc"]
