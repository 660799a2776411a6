"""Files out of packages of npm and PyPI that tests need and no dependency brings: scripts for a browser.

They are fetched once by the ordinary clients, checked against their digest, and kept in pytest's cache. Without npm, or
without a network, the test is skipped and says so.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

__all__ = ["Package", "fetch"]


class Package(NamedTuple):
    """One version of a package.

    Attributes:
        client: ``npm`` or ``pip``.
        sha256: Of the archive.
    """

    client: str
    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def fetch(package: Package, cache: Path) -> dict[str, bytes]:
    """The files of a package by their paths in it."""
    archive = cache / f"{package.name.replace('/', '-')}-{package.version}"
    if not archive.exists():
        _download(package, archive)
    content = archive.read_bytes()
    assert hashlib.sha256(content).hexdigest() == package.sha256, f"{package} is not what it was"
    if package.client == "pip":
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(member.name, tar.extractfile(member)) for member in tar if member.isfile()]
        return {name.removeprefix("package/"): file.read() for name, file in members if file is not None}


def _download(package: Package, archive: Path) -> None:
    name, version = package.name, package.version
    if package.client == "npm" and shutil.which("npm") is None:
        pytest.skip(f"no npm on this machine to fetch {package}")
    with tempfile.TemporaryDirectory(dir=archive.parent) as directory:
        command = {
            "npm": ["npm", "pack", "--silent", f"{name}@{version}"],
            "pip": [
                *(sys.executable, "-m", "pip", "download", "-q", "--no-deps"),
                *("--only-binary=:all:", "--python-version", "3.14"),  # for its scripts, whatever Python it is for
                f"{name}=={version}",
            ],
        }[package.client]
        try:
            subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)
            (found,) = Path(directory).iterdir()
        except (OSError, ValueError, subprocess.SubprocessError):
            pytest.skip(f"{package} cannot be fetched with {package.client}")
        os.replace(found, archive)  # whole, or not there: several processes may fetch at once
