"""completion, in the shells themselves."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from asyncresult.cli.completion import script_for

CASES = [
    ("asyncresult do", "doctor"),
    ("asyncresult --url redis://host doct", "doctor"),
    ("asyncresult tree --format mer", "mermaid"),
    ("asyncresult watch --ex", "--exit-status"),
    ("asyncresult completion zs", "zsh"),
    ("asyncresult --vers", "--version"),
]


def shell(name: str) -> str:
    return shutil.which(name) or pytest.skip(f"no {name} on this machine")


@pytest.fixture(params=["bash", "zsh", "fish"])
def script(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    path = tmp_path / f"completion.{request.param}"
    path.write_text(script_for(request.param))
    return shell(request.param), path


def test_each_shell_completes(script: tuple[str, Path]) -> None:
    program, path = script
    complete = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}[path.suffix[1:]]
    assert complete(program, path, [typed for typed, _ in CASES]) == [expected for _, expected in CASES]


def in_bash(program: str, path: Path, typed: list[str]) -> list[str]:
    lines = [f"source {path}"]
    for words in typed:
        # Bash takes ":" and "//" of a URL for words of their own.
        split = words.replace("://", " : // ").split()
        lines += [
            f"COMP_WORDS=({' '.join(split)}); COMP_CWORD={len(split) - 1}",
            "_asyncresult; echo ${COMPREPLY[@]}",
        ]
    done = subprocess.run([program, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def in_fish(program: str, path: Path, typed: list[str]) -> list[str]:
    lines = [f"source {path}", *(f"complete -C '{words}'; echo" for words in typed)]
    done = subprocess.run(
        [program, "--no-config", "-c", "\n".join(lines)], capture_output=True, text=True, check=True, cwd=path.parent
    )
    return [answer.partition("\t")[0] for answer in done.stdout.strip().split("\n\n")]


def in_zsh(program: str, path: Path, typed: list[str]) -> list[str]:
    """Typed at a terminal: only its line editor completes. What has become of the line is then printed."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "HOME": str(path.parent)}
    process = subprocess.Popen(
        [program, "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        prepare = f"autoload -Uz compinit; compinit -u -d {path.parent}/dump; source {path}; print RE''ADY\n"
        os.write(ours, prepare.encode())
        read_until(ours, b"READY\r\n")
        found: list[str] = []
        for words in typed:
            before, _, last = words.rpartition(" ")
            os.write(ours, f"{words}\t".encode())
            read_until(ours, last[:2].encode())
            os.write(ours, b"\x01print -r -- '<\x05>'\n")  # the keys of its editor for begin and end of line
            seen = read_until(ours, b">\r\n").decode(errors="replace")
            line = seen[seen.rindex("\n<") + 2 if "\n<" in seen else seen.rindex("<") + 1 :].partition(">")[0]
            found.append(line.removeprefix(f"{before} ").strip())
        return found
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, what: bytes, seconds: float = 30.0) -> bytes:
    seen, end = b"", time.monotonic() + seconds
    while what not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            seen += os.read(terminal, 65536)
    assert what in seen, seen
    return seen
