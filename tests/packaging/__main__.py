"""What users install: the built wheel, with each extra alone, in an environment that holds nothing else.

The environment of the tests brings packages that users lack, so it cannot show that an extra names too few. For each
extra of pyproject.toml, and for none, there is a program in ``programs/`` named after it. It runs in an empty
environment with the wheel and that extra, in an empty directory, with ``$REDIS_URL`` of a private server. ``$DOCS``
holds the programs of the tutorial, and of the pages about other queues and notebooks, written out. A program fails by
raising.

What is used beside other packages, without an extra, has a program too: other queues, pytest's fixtures, notebooks.
These are tried where they are named, or with ``all``: together they bring half of the package index along.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

from tests.tools.servers import RedisServer

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
CORE = "core"
BESIDE = {
    "saq": "saq[redis]",
    "dramatiq": "dramatiq[redis]",
    "rq": "rq",
    "streaq": "streaq",
    "futures": "dask[distributed]",
    "fixtures": "pytest",
    "jupyter": "nbclient ipykernel",
    "foreign_django": "django-tasks-db django-tasks-rq",
    "celery_traces": "opentelemetry-instrumentation-celery opentelemetry-sdk celery[redis]",
}
"""Programs that take the package without an extra, and what they need beside it."""

SECONDS = 120
"""That one program may take."""


def extras() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(settings["project"]["optional-dependencies"])


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: str | Path, **options: object) -> None:
    done = subprocess.run([str(part) for part in command], **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"failed with status {done.returncode}: {' '.join(map(str, command))}")


def build(directory: Path) -> tuple[Path, Path]:
    """Wheel and sdist, from a copy of the tree: the wheel is made from the sdist, as the package index would."""
    run(sys.executable, "-m", "build", "--installer=uv", "--outdir", directory, ROOT, stdout=subprocess.DEVNULL)
    run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *directory.iterdir())
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        message = Parser().parsestr(archive.read(metadata).decode())
    assert "asyncresult/py.typed" in names, "the wheel lacks py.typed"
    foreign = [name for name in names if not name.startswith(("asyncresult/", "asyncresult-"))]
    assert not foreign, f"the wheel has more than the package: {foreign[:3]}"
    for field in ("Project-URL", "Classifier", "License-Expression", "Requires-Python", "Summary"):
        assert message.get_all(field), f"the metadata lack {field}"
    with tarfile.open(sdist) as archive:
        inner = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in ("tests/conftest.py", "docs/index.md", "README.md", "LICENSE", "pyproject.toml"):
        assert wanted in inner, f"the sdist lacks {wanted}"


def write_programs(directory: Path, server: RedisServer) -> None:
    """The programs of the tutorial, talking to the private server, and of other pages."""
    for page in ("tutorial.md", "howto/other-queues.md", "howto/jupyter.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for title, code in re.findall(r'```python title="(\S+)"\n(.*?)```', text, re.DOTALL):
            code = code.replace("redis://localhost:6379", server.url().removesuffix("/0"))
            (directory / title).write_text(code, encoding="utf-8")


def try_extra(extra: str, wheel: Path, server: RedisServer, scratch: Path) -> None:
    program = PROGRAMS / f"{extra}.py"
    if not program.exists():
        raise SystemExit(f"no program for the extra {extra!r}: write {program.relative_to(ROOT)}")
    home = scratch / extra
    home.mkdir()
    run(sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, home / "venv")
    python = home / "venv" / "bin" / "python"
    plain = extra == CORE or extra in BESIDE
    wanted = [str(wheel) if plain else f"{wheel}[{extra}]", *BESIDE.get(extra, "").split()]
    run(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, *wanted)
    docs = home / "docs"
    docs.mkdir()
    write_programs(docs, server)
    shutil.copy(program, home / "program.py")
    shutil.copy(PROGRAMS / "support.py", home / "support.py")
    environment = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "REDIS_URL": server.url(),
        "DOCS": str(docs),
        "PYTHONUNBUFFERED": "1",
    }
    run(python, "program.py", cwd=home, env=environment, timeout=SECONDS)
    say(f"ok: {extra if plain else f'asyncresult[{extra}]'}")


def main() -> None:
    # The certificates of the system, as pip may have been told to take: uv has authorities of its own otherwise. (The
    # variable's name in older and in newer versions of uv.)
    os.environ.update(UV_NATIVE_TLS="true", UV_SYSTEM_CERTS="true")
    parser = argparse.ArgumentParser(prog="python3 dev package", description=__doc__)
    parser.add_argument("extra", nargs="*", help=f"these (core: none; all), also {', '.join(BESIDE)}; else each extra")
    chosen = parser.parse_args().extra or [CORE, *extras()]
    if chosen == ["all"]:
        chosen = [CORE, *extras(), *BESIDE]
    with tempfile.TemporaryDirectory(prefix="asyncresult-package-") as name, RedisServer() as server:
        scratch = Path(name)
        wheel, sdist = build(scratch / "dist")
        check_contents(wheel, sdist)
        for extra in chosen:
            server.reset()
            try_extra(extra, wheel, server, scratch)


if __name__ == "__main__":
    main()
