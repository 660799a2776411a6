"""The examples are typed as they claim: every block of Python in README.md and docs/, under mypy --strict and pyright.

A block with a title is a program, and a module of its own. Each other block of a page is a coroutine function, in one
module for the page, below the names that the page takes for granted: ``GIVEN``. All code stands on the line on which it
stands in the page, so an error names the page's line.

A block that shows what is wrong is left out by a comment in front of it: ``<!-- not type-checked: why -->``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
#: Its queues are not installed where the tests run, as their requirements exclude each other. ``python3 dev package``
#: runs its programs, each in an environment of its own.
ELSEWHERE = ROOT / "docs" / "howto" / "other-queues.md"
PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {ELSEWHERE})]
#: How many blocks are left out, all pages together.
LEFT_OUT = 12

#: Names that the text of a page introduces, that an earlier block has brought, or that its reader has.
GIVEN = {
    "README.md": """
        from collections.abc import Callable
        task_id: str
        ids: list[str]
        resize: Callable[[object], int]
        upload: Callable[[int], None]
    """,
    "docs/index.md": """
        import asyncresult
        from asyncresult import AsyncResult, ResultSet
        task_id: str
        ids: list[str]
    """,
    "docs/howto/background-work.md": """
        import json
        from asyncresult import AsyncResult
        from fastapi import Request
        id: str
        request: Request
    """,
    "docs/howto/celery.md": """
        import asyncio
        import asyncresult
        from celery import Celery
        from asyncresult import AsyncResult
        from asyncresult.integrations.celery import task
        class ReportError(Exception):
            code: int
        app = Celery()
        handle: AsyncResult[int]
        @task(app)
        def add(x: int, y: int) -> int: return x + y
        @task(app)
        def make_report(number: int) -> str: return str(number)
    """,
    "docs/howto/django.md": """
        from functools import partial
        from typing import Any, TypeAlias
        HttpRequest: TypeAlias = Any  # Django has no types
        transaction: Any
        resize: Any
    """,
    "docs/howto/migrate.md": """
        import asyncio
        import asyncresult
        import celery
        import celery.result
        from typing import Any
        app = celery.Celery()
        task_id: str
    """,
    "docs/howto/operate.md": """
        import asyncresult
        from asyncresult import Backend
        backend: Backend
    """,
    "docs/howto/other-stores.md": """
        import asyncresult
        from celery import Celery
        from asyncresult import AsyncResult
        app = Celery()
        task_id: str
    """,
    "docs/howto/your-own-queue.md": """
        import json
        from typing import Any
        import redis.asyncio as redis
        from asyncresult import Backend
        backend: Backend
        job: dict[str, Any]
        queue: redis.Redis
        async def fetch() -> str: return ""
    """,
}

#: Functions of pytest need no annotations. What has none is checked in any case.
UNTYPED = """\
# mypy: allow-untyped-defs, allow-incomplete-defs
# pyright: reportFunctionMemberAccess=false
"""

_BLOCK = re.compile(
    r"^(?P<comment><!-- *not type-checked:(?P<reason>[^\n]*)-->\n)?"
    r'(?P<indent> *)```(?:python|py)(?: title="(?P<title>[^"\n]*)")?\n(?P<code>.*?)^ *```$',
    re.DOTALL | re.MULTILINE,
)
#: In whatever form a fence may be written.
_PYTHON = re.compile(r"^ *[`~:]{3,} *(?:\{code-block\} *)?i?py", re.MULTILINE)


class Block(NamedTuple):
    line: int  # of the page, from 1
    title: str | None
    code: str
    left_out: str | None


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in _BLOCK.finditer(text):
        code = textwrap.dedent(match["code"])
        reason = match["reason"]
        yield Block(text.count("\n", 0, match.start("code")) + 1, match["title"], code, reason and reason.strip())


def write_modules(page: Path, directory: Path) -> None:
    """Write the blocks of a page as modules, whose names begin with that of the page: pages have titles in common."""
    name = re.sub(r"\W", "_", str(page.relative_to(ROOT).with_suffix("")))
    found = [block for block in blocks(page) if block.left_out is None]
    programs = {Path(block.title).stem for block in found if block.title}
    lines = [""] * (page.read_text(encoding="utf-8").count("\n") + 1)
    for block in found:
        if block.title:
            code = block.code
            for program in programs:
                code = re.sub(rf"^(from|import) {program}\b", rf"\1 {name}__{program}", code, flags=re.MULTILINE)
            program = Path(block.title).stem
            top = UNTYPED if program.startswith(("test_", "conftest")) else ""
            (directory / f"{name}__{program}.py").write_text(top + "\n" * (block.line - 1 - top.count("\n")) + code)
        else:
            lines[block.line - 2] = f"async def block_{block.line}() -> Any:"  # on the line of the fence
            for number, line in enumerate(block.code.splitlines(), block.line):
                lines[number - 1] = f"    {line}" if line else ""
    if any(lines):
        (directory / f"{name}__given.py").write_text(textwrap.dedent(GIVEN.get(page.relative_to(ROOT).as_posix(), "")))
        lines[0] = f"from {name}__given import *; from typing import Any"
        (directory / f"{name}.py").write_text("\n".join([*lines, ""]))


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all blocks as modules."""
    directory = tmp_path_factory.mktemp("blocks")
    for page in PAGES:
        write_modules(page, directory)
    assert len(list(directory.iterdir())) > 20
    return directory


def test_mypy(modules: Path) -> None:
    pytest.importorskip("mypy")
    done = subprocess.run(
        # Celery's decorators have no types, and its users know.
        [sys.executable, "-m", "mypy", "--strict", "--allow-untyped-decorators", "--implicit-reexport", modules],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(modules)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright(modules: Path) -> None:
    pytest.importorskip("pyright")
    # Celery has no types; what pyright infers from its code knows nothing of what it adds to classes.
    stub = modules / "typings" / "celery" / "__init__.pyi"
    stub.parent.mkdir(parents=True)
    stub.write_text("from typing import Any\ndef __getattr__(name: str) -> Any: ...\n")
    settings = {"typeCheckingMode": "standard", "extraPaths": [str(ROOT)], "exclude": ["typings"]}
    (modules / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", modules],
        cwd=modules,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_blocks_that_are_left_out_say_why() -> None:
    reasons = [block.left_out for page in PAGES for block in blocks(page) if block.left_out is not None]
    assert len(reasons) == LEFT_OUT
    assert all(reasons)


def test_no_block_of_python_escapes() -> None:
    """One in another form would not be found. One that is left out is a program, and the tests of its page run that."""
    for page in PAGES:
        found = list(blocks(page))
        fences = _PYTHON.findall(page.read_text(encoding="utf-8"))
        assert len(found) == len(fences), page
        assert all(block.title for block in found if block.left_out is not None), page
