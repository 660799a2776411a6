"""``python3 dev matrix``: the core tests over the versions of Python, redis-py, Celery and servers that users have.

Not the full product: each version of each appears with an old and a new one of the others. A combination gets a virtual
environment in ``.venvs``, which is used again as long as the requirements stay the same.

The tests are run in parts, and what came of each is kept beside the environment, so that a machine with little time
runs a few at once (``--only py3.12 --part celery``). The table in docs/reference/compatibility.md is written from what
is kept: a part that was not run for this version of the package says so.
"""

from __future__ import annotations

import argparse
import datetime
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from asyncresult import __version__

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "compatibility.md"
VENVS = ROOT / ".venvs"
SECONDS = 900
"""For one part of the tests, in one combination."""

PARTS = {
    "wire": [
        "tests/test_wire.py",
        "tests/test_subscriber.py",
        "tests/backends/test_address.py",
        "tests/backends/test_redis.py",
        "tests/backends/test_versions.py",
        "tests/backends/test_writes.py",
    ],
    "contract": sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("tests/backends/test_contract*.py")),
    "topologies": [
        "tests/backends/test_acl.py",
        "tests/backends/test_cluster.py",
        "tests/backends/test_pump.py",
        "tests/backends/test_sentinel.py",
        "tests/backends/test_tls.py",
    ],
    "celery": [
        "tests/test_celery_conformance.py",
        "tests/integrations/test_celery_awaitable.py",
        "tests/integrations/test_celery_backend.py",
        "tests/integrations/test_celery_config.py",
        "tests/integrations/test_celery_coroutines.py",
        "tests/integrations/test_celery_results.py",
        "tests/integrations/test_celery_sending.py",
        "tests/integrations/test_celery_tasks.py",
        "tests/integrations/test_celery_templates.py",
    ],
    "rpc": [
        "tests/integrations/test_celery_amqp.py",
        "tests/integrations/test_celery_replies.py",
        "tests/integrations/test_celery_rpc.py",
    ],
}
"""What depends on the versions: the wire, every kind of server, redis-py, Celery and its workers."""


@dataclass(frozen=True)
class Combination:
    python: str
    redis: str
    """As in a requirement: ``==6.4.*``; empty for the newest."""
    celery: str
    server: str
    """``redis`` or ``valkey``."""

    @property
    def name(self) -> str:
        short = [each.replace("==", "").replace(".*", "") or "newest" for each in (self.redis, self.celery)]
        return f"py{self.python}-redis{short[0]}-celery{short[1]}-{self.server}"


COMBINATIONS = [
    Combination("3.11", "==6.4.*", "==5.5.*", "redis"),  # everything as old as it may be
    Combination("3.11", "", "", "valkey"),
    Combination("3.12", "==6.4.*", "", "valkey"),
    Combination("3.12", "", "==5.6.*", "redis"),
    Combination("3.13", "==7.*", "==5.5.*", "valkey"),
    Combination("3.13", "", "", "redis"),
    Combination("3.14", "", "", "redis"),
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev matrix", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--only", metavar="TEXT", default="", help="combinations whose name contains it")
    parser.add_argument("--part", choices=PARTS, action="append", help="of the tests (may be repeated; all)")
    arguments = parser.parse_args()
    failed = False
    for combination in COMBINATIONS:
        if arguments.only in combination.name:
            for part in arguments.part or PARTS:
                outcome = run(combination, part)
                print(f"{combination.name}, {part}: {outcome}", flush=True)
                failed |= any(word in outcome for word in ("failed", "error", "no tests ran"))
                write_table()
    return int(failed)


def run(combination: Combination, part: str) -> str:
    """How the part ended; kept, if it was run."""
    python = find_python(combination.python)
    if python is None:
        return "no such Python here"
    venv = VENVS / combination.name
    try:
        prepare(venv, combination, python)
    except subprocess.CalledProcessError as error:
        return f"error: could not be installed: {''.join((error.stderr or '').strip().splitlines()[-1:])}"
    log = venv / f"{part}.log"
    options = ["-q", "-rfEs", "-m", "not slow", "-n", "2", "-p", "no:cacheprovider", "--flavour", combination.server]
    with log.open("w", encoding="utf-8") as output:
        try:
            subprocess.call(
                [venv / "bin" / "python", "-m", "pytest", *options, *PARTS[part]],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
            )
            outcome = summary(log.read_text(encoding="utf-8"))
        except subprocess.TimeoutExpired:
            outcome = f"failed: did not end within {SECONDS} s"
    keep(venv, part, outcome)
    return outcome


def summary(log: str) -> str:
    """The last line of pytest, without the time, and the names of what failed, if they are few."""
    lines = log.splitlines() or [""]
    text = re.sub(r" in [\d.]+s.*|=", "", lines[-1]).strip()
    names = [line.split(" ")[1].rpartition("::")[2] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return f"{text}: {', '.join(f'`{name}`' for name in names)}" if 0 < len(names) <= 5 else text


def keep(venv: Path, part: str, outcome: str) -> None:
    path = venv / "outcomes.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    kept[part] = {"outcome": outcome, "version": __version__, "date": date}
    path.write_text(json.dumps(kept, indent=1), encoding="utf-8")


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


def prepare(venv: Path, combination: Combination, python: str) -> None:
    """A virtual environment with the project and these versions."""
    requirements = [
        f"redis[hiredis]{combination.redis}",
        f"celery{combination.celery}",
        # taskiq-redis wants a redis-py of its own, and its tests are skipped without it.
        *(each for each in test_requirements() if not (combination.redis and each.startswith("taskiq-redis"))),
    ]
    stamp, wanted = venv / "stamp", hashlib.sha256("\n".join(requirements).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"{combination.name}: installing", file=sys.stderr, flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([python, "-m", "venv", venv], check=True, capture_output=True, text=True)
    install: list[str | Path] = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    if uv := shutil.which("uv"):  # minutes less
        install = [uv, "pip", "install", "-q", "--python", venv / "bin" / "python"]
    subprocess.run([*install, "--editable", ROOT, *requirements], check=True, capture_output=True, text=True, cwd=ROOT)
    stamp.write_text(wanted)


def test_requirements() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        groups = tomllib.load(file)["dependency-groups"]
    return [each for each in groups["test"] if isinstance(each, str) and not each.startswith("celery")]


def installed(venv: Path) -> list[str]:
    """The versions of Python, redis-py, Celery and kombu."""
    code = "import platform, importlib.metadata as m; print(platform.python_version(), *map(m.version, "
    code += "['redis', 'celery', 'kombu']))"
    return subprocess.check_output([venv / "bin" / "python", "-c", code], text=True).split()


def write_table() -> None:
    """Replace what is between the two marks of the page."""
    start, end = "<!-- matrix -->\n", "<!-- end of matrix -->"
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.split(start)[0], page.split(end)[1]
    PAGE.write_text("\n".join([head + start, *table(), "", end]) + tail, encoding="utf-8")


def table() -> Iterator[str]:
    yield f"| Python | redis-py | Celery | kombu | server | {' | '.join(PARTS)} |"
    yield "| --- " * (len(PARTS) + 5) + "|"
    dates = set()
    for combination in COMBINATIONS:
        venv = VENVS / combination.name
        path = venv / "outcomes.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        kept = {part: each for part, each in kept.items() if each["version"] == __version__}
        dates |= {each["date"] for each in kept.values()}
        versions = installed(venv) if kept else [combination.python, combination.redis, combination.celery, ""]
        cells = [kept[part]["outcome"] if part in kept else "not run" for part in PARTS]
        yield f"| {' | '.join([*versions, combination.server, *cells])} |"
    yield f"\nRun with asyncresult {__version__}: {', '.join(sorted(dates)) or 'not yet'}."


if __name__ == "__main__":
    sys.exit(main())
