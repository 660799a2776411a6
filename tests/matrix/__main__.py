"""``python3 dev matrix``: the core tests over the versions of Python, redis-py and Celery that users have.

Not the full product: each version of each appears with an old and a new one of the others. A combination gets a virtual
environment in ``.venvs``, which is used again as long as the requirements stay the same. The table goes into
docs/reference/compatibility.md.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "compatibility.md"
VENVS = ROOT / ".venvs"
#: For the tests of one combination.
SECONDS = 400
PYTEST = ["-q", "-rs", "-m", "not slow", "-p", "no:cacheprovider"]

#: What depends on the versions: the wire, redis-py, Celery and its workers, every kind of server.
CORE = [
    "tests/test_wire.py",
    "tests/test_subscriber.py",
    "tests/test_celery_conformance.py",
    "tests/backends/test_contract.py",
    "tests/backends/test_redis.py",
    "tests/backends/test_pump.py",
    "tests/backends/test_versions.py",
    "tests/backends/test_acl.py",
    "tests/backends/test_tls.py",
    "tests/backends/test_sentinel.py",
    "tests/backends/test_cluster.py",
    "tests/integrations",
]


@dataclass(frozen=True)
class Combination:
    python: str
    redis: str
    """As in a requirement: ``==6.4.*``; empty for the newest."""
    celery: str

    @property
    def name(self) -> str:
        short = (self.redis or "newest", self.celery or "newest")
        return (
            "-".join(("py" + self.python, "redis" + short[0], "celery" + short[1])).replace("==", "").replace(".*", "")
        )


COMBINATIONS = [
    Combination("3.11", "==6.4.*", "==5.5.*"),  # everything as old as it may be
    Combination("3.11", "", ""),
    Combination("3.12", "==6.4.*", ""),
    Combination("3.12", "", "==5.6.*"),
    Combination("3.13", "==7.*", "==5.5.*"),
    Combination("3.13", "", ""),
    Combination("3.14", "", ""),
]


@dataclass
class Outcome:
    combination: Combination
    versions: dict[str, str]
    summary: str
    passed: bool


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev matrix", description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="combinations whose name contains it; writes no table"
    )
    parser.add_argument("tests", nargs="*", help="instead of the core tests; writes no table")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    for combination in COMBINATIONS:
        if arguments.only not in combination.name:
            continue
        outcome = run(combination, arguments.tests or CORE)
        print(f"{combination.name}: {outcome.summary}", flush=True)
        outcomes.append(outcome)
    if not arguments.only and not arguments.tests:
        write_table(outcomes)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def run(combination: Combination, tests: list[str]) -> Outcome:
    python = find_python(combination.python)
    if python is None:
        return Outcome(combination, {"python": combination.python}, "skipped: no such Python here", True)
    try:
        venv = prepare(combination, python)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        return Outcome(combination, {"python": combination.python}, f"could not be installed: {''.join(last)}", False)
    log = venv / "tests.log"
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        try:
            status = subprocess.call(
                [
                    venv / "bin" / "python",
                    "-m",
                    "pytest",
                    "-q",
                    "-rs",
                    "-m",
                    "not slow",
                    "-p",
                    "no:cacheprovider",
                    *tests,
                ],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            status = -1
    last_line = re.sub(r" in [\d.]+s.*|=", "", (log.read_text(encoding="utf-8").splitlines() or [""])[-1]).strip()
    summary = last_line if status >= 0 else f"did not end within {SECONDS} s"
    if status:
        summary += f" (see {log.relative_to(ROOT)})"
    print(f"  {time.monotonic() - start:.0f} s", file=sys.stderr)
    return Outcome(combination, installed(venv), summary, status == 0)


def find_python(version: str) -> str | None:
    """The interpreter, on PATH or of pyenv."""
    places = [
        shutil.which(f"python{version}"),
        *glob.glob(os.path.expanduser(f"~/.pyenv/versions/{version}.*/bin/python")),
    ]
    for place in places:
        if place and subprocess.run([place, "-c", ""], capture_output=True).returncode == 0:
            return place
    return None


def prepare(combination: Combination, python: str) -> Path:
    """A virtual environment with the project and these versions."""
    venv = VENVS / combination.name
    requirements = [
        f"redis[hiredis]{combination.redis}",
        f"celery{combination.celery}",
        # taskiq-redis wants a redis-py of its own, and its tests are skipped without it.
        *(each for each in test_requirements() if not (combination.redis and each.startswith("taskiq-redis"))),
    ]
    stamp, wanted = venv / "stamp", hashlib.sha256("\n".join(requirements).encode()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        print(f"{combination.name}: installing", file=sys.stderr, flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        quiet = {"check": True, "capture_output": True, "text": True, "cwd": ROOT}
        subprocess.run([python, "-m", "venv", venv], **quiet)  # type: ignore[call-overload]
        pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, "--editable", ROOT, *requirements], **quiet)  # type: ignore[call-overload]
        stamp.write_text(wanted)
    return venv


def test_requirements() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        groups = tomllib.load(file)["dependency-groups"]
    return [
        requirement for requirement in groups["test"] if isinstance(requirement, str) and "celery" not in requirement
    ]


def installed(venv: Path) -> dict[str, str]:
    ask = "import platform, importlib.metadata as m; print(platform.python_version(), *map(m.version, "
    ask += "['redis', 'celery', 'kombu', 'hiredis']))"
    words = subprocess.check_output([venv / "bin" / "python", "-c", ask], text=True).split()
    return dict(zip(("python", "redis", "celery", "kombu", "hiredis"), words, strict=True))


def write_table(outcomes: list[Outcome]) -> None:
    """Replace what stands between the two marks of the page."""
    columns = ("python", "redis", "celery", "kombu", "hiredis")
    lines = ["| Python | redis-py | Celery | kombu | hiredis | core tests |", "| --- | --- | --- | --- | --- | --- |"]
    for outcome in outcomes:
        cells = [outcome.versions.get(column, "") for column in columns]
        lines.append(f"| {' | '.join(cells)} | {outcome.summary} |")
    page = PAGE.read_text(encoding="utf-8")
    start, end = "<!-- matrix -->\n", "<!-- end of matrix -->"
    head, tail = page.split(start)[0], page.split(end)[1]
    PAGE.write_text(f"{head}{start}\n{chr(10).join(lines)}\n\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
