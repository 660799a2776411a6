"""Plain English: the words that the package, its documentation and the names of tests do without.

They personify code, or take the place of a technical term that every reader has. What is listed as right says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: The words, and what to write.
BANNED = {
    r"hears?|heard|ears?|deaf": "receive, subscribe, listen",
    r"rooms?|doors?|homeless|tongue": "module, folder, capacity, entry point, integration",
    r"asks?|asked|asking": "request, query, read, poll, send",
    r"tells?|told": "report, say, distinguish, notify",
    r"stands?|stood": "is, is established, is given, represents",
    r"signs? of life": "heartbeat, answer",
    r"makes? no sense": "is invalid, cannot be decoded",
    r"lives": "runs, is open, is stored",
    r"for ever": "forever, without end, no expiry",
}
PATTERN = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)

#: What is no such word: the protocol's ASK and ASKING, also as a name, and a program's file.
NAMES = re.compile(r"\bASK(ING)?\b|\+asking\b|\b_?asking\b(?=[:=]|,|\)| else| = asking)|if self\._asking|\bask\.py\b")

#: Lines that are right as they are: (file, part of the line): why.
ALLOWED = {
    ("asyncresult/_redis/scattered.py", "asking"): "whether the protocol's ASKING goes ahead",
    ("tests/backends/test_slots.py", "ask redirection"): "the protocol's word",
    ("asyncresult/_storage/polling.py", "room"): "a number: how much more fits into a request",
    ("asyncresult/executor.py", "room = wait_for_capacity"): "the older public name",
    ("asyncresult/_jobs.py", "asked to stop: it runs in a thread"): "a reply that users read: it may be ignored",
    ("asyncresult/cli/parser.py", "do not ask for confirmation"): "of a person: the usual words",
    ("asyncresult/cli/results.py", "forget asks for confirmation"): "of a person: the usual words",
    ("docs/reference/acl.md", "+asking"): "a command",
    ("docs/reference/cli.md", "do not ask for confirmation"): "of a person: the usual words",
}

#: Not read: what is a record of its time.
SKIPPED = (
    "docs/changelog.md",
    "docs/decisions/",
)


def lines() -> Iterator[tuple[str, int, str]]:
    paths = [
        *ROOT.glob("asyncresult/**/*.py"),
        *ROOT.glob("asyncresult/**/*.js"),
        *ROOT.glob("docs/**/*.md"),
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
    ]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(SKIPPED):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                yield name, number, line
    for path in ROOT.glob("tests/**/test_*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if found := re.match(r"\s*(?:async )?def (test_\w+)", line):
                yield path.relative_to(ROOT).as_posix(), number, found[1].replace("_", " ")


def banned_in(line: str) -> str | None:
    found = PATTERN.search(NAMES.sub("", line))
    return found[0] if found else None


def test_no_banned_word() -> None:
    found = [
        f"{name}:{number}: {word!r} in {line.strip()}"
        for name, number, line in lines()
        if (word := banned_in(line)) and not any(name == file and part in line for file, part in ALLOWED)
    ]
    assert found == []


def test_every_exception_is_needed() -> None:
    used = {(file, part) for file, part in ALLOWED for name, _, line in lines() if name == file and part in line}
    assert ALLOWED.keys() - used == set()


def test_a_banned_word_is_found() -> None:
    assert banned_in("Whoever waits is told so") == "told"
    assert banned_in("an ASK redirection, sent after ASKING; understand and task stay") is None
