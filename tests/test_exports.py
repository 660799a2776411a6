"""What users see: every public name with its signature, as a file, and that type checkers know the type of each."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import asyncresult
from tests.tools import exports

PACKAGE = Path(asyncresult.__file__).parent


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the file is written by the oldest supported Python")
def test_the_list_of_public_names_is_up_to_date() -> None:
    assert exports.PAGE.read_text(encoding="utf-8") == exports.exports(), "run python3 -m tests.tools.exports"


def test_a_changed_signature_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def current_backend(default: int = 0) -> int:
        return default

    monkeypatch.setattr(asyncresult, "current_backend", current_backend)
    assert "current_backend(default: int = 0) -> int\n" in exports.exports()


@pytest.mark.parametrize("module", exports.MODULES)
def test_every_module_says_what_is_public(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in found.__all__ if not hasattr(found, name)] == []


def test_every_public_type_is_known(tmp_path: Path) -> None:
    """For users' type checkers: no public name is without a type, or has one that must be guessed."""
    pytest.importorskip("pyright")
    # As it is installed, beside what it needs: pyright does not see an editable installation as a package.
    for site in filter(os.path.isdir, sys.path):
        if site.endswith("site-packages"):
            for entry in Path(site).iterdir():
                if entry.name != "asyncresult" and not (tmp_path / entry.name).exists():
                    (tmp_path / entry.name).symlink_to(entry)
    shutil.copytree(PACKAGE, tmp_path / "asyncresult", ignore=shutil.ignore_patterns("__pycache__"))
    answer = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "asyncresult", "--ignoreexternal", "--outputjson"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    symbols = json.loads(answer.stdout)["typeCompleteness"]["symbols"]
    assert len(symbols) > 500
    unknown = [symbol["name"] for symbol in symbols if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]]
    assert unknown == []
