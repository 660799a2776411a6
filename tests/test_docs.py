"""The documentation is true: its code runs, its links lead somewhere, its tables are those of the code.

How code is run. Programs, which have a title, are written to files; a block of text whose title is a command line is
what that prints. The README's blocks are run as they stand, with the names that they take for granted. Both talk to
the server of the test instead of to ``redis://localhost:6379``. The programs of docs/howto have tests of their own.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncresult
import asyncresult.sync
from asyncresult import Backend
from asyncresult._redis import urls
from asyncresult._storage import options as store_options
from asyncresult.backend import KNOWN_SCHEMES
from asyncresult.cli.demo import scenes
from asyncresult.cli.parser import build_parser, commands_of
from asyncresult.codec import Codec
from tests.tools import exports, llms, record_vectors
from tests.tools.celery_worker import CeleryWorker
from tests.tools.servers import RedisServer

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
SERVER = "redis://localhost:6379"


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def each_page() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", PAGES, ids=names(PAGES))


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Title (or nothing) and text of each block of a language."""
    found = re.findall(
        rf'^( *)```{language}(?: title="([^"\n]*)")?\n(.*?)^ *```$',
        page.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    return [(title, textwrap.dedent(indent + code)) for indent, title, code in found]


# --- code ------------------------------------------------------------------------------------------


@pytest.fixture
def tutorial(tmp_path: Path, redis_server: RedisServer) -> Path:
    """A directory with the programs of the tutorial."""
    for title, code in blocks(DOCS / "tutorial.md", "python"):
        (tmp_path / title).write_text(code.replace(SERVER, redis_server.url().removesuffix("/0")), encoding="utf-8")
    return tmp_path


OUTPUTS = blocks(DOCS / "tutorial.md", "text")


@pytest.mark.parametrize(("command", "output"), OUTPUTS, ids=[command for command, _ in OUTPUTS])
def test_tutorial(command: str, output: str, tutorial: Path, redis_server: RedisServer) -> None:
    if command == "python ask.py":
        server = redis_server.url()
        with CeleryWorker(broker=server, app="tasks:app", env={"PYTHONPATH": f"{tutorial}{os.pathsep}{ROOT}"}):
            assert run(command, tutorial) == output
    else:
        assert run(command, tutorial) == output


def run(command: str, directory: Path) -> str:
    """What a command line prints, errors included."""
    script = f'python() {{ "{sys.executable}" -W error::DeprecationWarning:__main__ "$@"; }}\n{command}'
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.stdout


COMMANDS = commands_of(build_parser())
DEV = (ROOT / "dev").read_text(encoding="utf-8")
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])
README = [code for _, code in blocks(ROOT / "README.md", "python")]


async def run_block(code: str, server: str, **given: Any) -> dict[str, Any]:
    """Run a block that may await, as ``python -m asyncio`` would; returns its names."""
    # Compiled alone: the flags of this module are not those of a reader's.
    compiled = compile(
        code.replace(f"{SERVER}/0", server), "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
    if (running := eval(compiled, given)) is not None:  # the block awaits
        await running
    return given


async def test_readme_waiting(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with asyncresult.connect(redis_url) as backend:
        for number in range(3):
            await backend.mark_as_done(f"task-{number}", number)
        uploaded = asyncio.get_running_loop().create_future()
        ids = [f"task-{number}" for number in range(3)]
        names = await run_block(
            README[0], redis_url, task_id="task-1", ids=ids, resize=lambda value: value * 10, upload=uploaded.set_result
        )
        assert (names["value"], names["values"]) == (1, [0, 1, 2])
        assert await uploaded == 10
        assert capsys.readouterr().out == "SUCCESS 1\n"


@each_page()
def test_code_is_python_and_imports_what_there_is(page: Path) -> None:
    for _, code in blocks(page, "python"):
        tree = compile(code, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "asyncresult":
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


LANGUAGES = {"", "bash", "console", "diff", "html", "lua", "python", "sh", "sql", "text", "toml", "yaml"}
SHELL = {"", "bash", "console", "sh"}
#: A call of the command: at the beginning, after a prompt, in a pipe, a substitution or a condition.
CALL = re.compile(r"(?:^|[|$(] ?|\bif |-m )asyncresult ([a-z][a-z-]+)(?![|.])([^|;&>)#]*)")


def every_block(page: Path) -> list[tuple[str, str]]:
    """Language (or nothing) and text of each block; a directive of Sphinx, ``{toctree}``, is one as well."""
    found = re.findall(r"^ *```(\S*)[^\n]*\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [(language, textwrap.dedent(code)) for language, code in found]


@each_page()
def test_blocks_are_in_languages_that_are_looked_at(page: Path) -> None:
    found = every_block(page)
    assert {language for language, _ in found if language[:1] != "{"} <= LANGUAGES
    for language, code in found:
        if language == "toml":
            tomllib.loads(code)
        elif language == "yaml":
            pytest.importorskip("yaml").safe_load(code)


@each_page()
def test_command_lines_name_what_there_is(page: Path) -> None:
    """Commands of ``asyncresult`` with their options, commands of ``python3 dev``, extras."""
    lines = re.findall(r"(?<!`)`([^`\n]+)`", page.read_text(encoding="utf-8"))
    for language, code in every_block(page):
        if language in SHELL:
            lines += code.splitlines()
    for line in lines:
        for command, rest in CALL.findall(line):
            assert command in COMMANDS, line
            assert set(re.findall(r"(?<=\s)--?[a-zA-Z][\w-]*", rest)) <= options_of(command), line
        for command in re.findall(r"\bpython3 dev ([a-z]+)", line):
            assert f'Command("{command}"' in DEV, line
        for extras in re.findall(r"\basyncresult\[([\w,]+)\]", line):
            assert set(extras.split(",")) <= EXTRAS, line


def test_every_extra_is_in_the_table_of_extras() -> None:
    _, _, page = (DOCS / "reference" / "compatibility.md").read_text(encoding="utf-8").partition("## Extras")
    assert set(re.findall(r"^\| `(\w+)` \|", page.partition("\n## ")[0], re.M)) == EXTRAS


def options_of(command: str) -> set[str]:
    return {option for action in COMMANDS[command]._actions for option in action.option_strings}


# --- links -----------------------------------------------------------------------------------------


def links(text: str) -> list[str]:
    without_code = re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", without_code)


def anchors(text: str) -> set[str]:
    """What GitHub and Sphinx make of the headings."""
    headings = re.findall(
        r"^#+ +(.*)$", re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@each_page()
def test_links(page: Path) -> None:
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            assert link.startswith("https://"), link
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: there is no such heading"


@each_page()
def test_no_path_of_a_machine(page: Path) -> None:
    found = re.search(r"(?<![\w.:/])/(?:work|root|tmp|home|Users|mnt|opt)/\S*", page.read_text(encoding="utf-8"))
    assert found is None, found


@pytest.mark.parametrize("front", [ROOT / "README.md", DOCS / "index.md"], ids=["readme", "site"])
def test_every_kind_of_reader_is_one_step_from_the_front_page(front: Path) -> None:
    found = {(front.parent / link.partition("#")[0]).resolve() for link in links(front.read_text(encoding="utf-8"))}
    pages = ("fastapi", "celery", "django", "scripts-and-threads", "operate", "your-own-queue", "troubleshooting")
    assert {DOCS / "howto" / f"{page}.md" for page in pages} <= found


def test_links_into_the_site_lead_to_its_pages() -> None:
    """Those of the package's metadata, and those that the demo prints."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8") + inspect.getsource(scenes)
    found = re.findall(rf'(?:{re.escape(scenes.DOCUMENTATION)}|{{DOCUMENTATION}})/([^"]+)"', text)
    assert len(found) >= 3
    assert [link for link in found if not (link.endswith(".html") and (DOCS / link).with_suffix(".md").is_file())] == []


# That every page is in the navigation is Sphinx' business: python3 dev docs is strict.


def test_every_decision_is_in_their_index() -> None:
    """In their order, and in one list."""
    text, _, rest = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8").partition("```{toctree}")
    assert [link for link in links(text) if link.startswith("0")] == sorted(
        path.name for path in (DOCS / "decisions").glob("0*.md")
    )
    assert links(rest) == []


def test_every_decision_has_the_form_that_their_index_names() -> None:
    """And the title by which the index lists it."""
    index = (DOCS / "decisions" / "README.md").read_text(encoding="utf-8")
    for path in (DOCS / "decisions").glob("0*.md"):
        title, *lines = path.read_text(encoding="utf-8").splitlines()
        headings = [line for line in lines if line.startswith("#")]
        assert headings == ["## Context", "## Options", "## Choice", "## Consequences"], path.name
        number, _, words = title.removeprefix("# ").partition(" ")
        assert number == path.name[:4]
        assert f"* {number} [{words}]({path.name})\n" in index, path.name


def test_every_page_is_in_the_file_for_language_models() -> None:
    """``python -m tests.tools.llms`` writes it."""
    assert llms.PATH.read_text(encoding="utf-8") == llms.text()
    named = set(re.findall(r"\(([\w/-]+)\.html\)", llms.text()))
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    assert {page for page in pages if not page.startswith("decisions/0")} - named == {"index"}


# --- reference -------------------------------------------------------------------------------------


#: Those whose every name is for users. Of the others the reference has what ``asyncresult`` exports.
PUBLIC = [
    "asyncresult",
    *(module for module in exports.MODULES if module.startswith(("asyncresult.integrations.", "asyncresult.web"))),
    "asyncresult.integrations.prometheus",
    "asyncresult.sync",
    "asyncresult.testing",
    "asyncresult.testing.celery",
]


@pytest.mark.parametrize("path", PUBLIC)
def test_every_public_name_is_in_the_reference(path: str) -> None:
    """By name, or as a member of a module that is there as a whole."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference" / "api").glob("*.md"))
    whole = re.findall(r"automodule:: (\S+)\n   :members:", text)
    shown = {
        name for module in whole for name in importlib.import_module(module).__all__ if module != "asyncresult.sync"
    }
    shown |= {name.rpartition(".")[2] for name in re.findall(r"auto(?:class|function|data|exception):: (\S+)", text)}
    shown |= set(re.findall(r"`(\w+)`", text))
    assert path in text
    names = [] if path in whole else importlib.import_module(path).__all__
    assert [name for name in names if name not in shown and name != "__version__"] == []


OPTIONS = (DOCS / "reference" / "options.md").read_text(encoding="utf-8")


def table(heading: str) -> Iterator[list[str]]:
    """The rows of the table below a heading."""
    section = re.split(r"^## ", OPTIONS, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    for row in re.findall(r"^\| (`.*) \|$", text, re.MULTILINE):
        yield [cell.strip() for cell in row.split(" | ")]


def listed(heading: str) -> dict[str, str]:
    """Options and defaults."""
    return {name.strip("`"): default.strip("`") for name, default, _ in table(heading)}


def objects(heading: str) -> set[str]:
    return {name.strip("`") for name, _, text in table(heading) if "*object*" in text}


def test_urls() -> None:
    schemes = {scheme for row in table("URLs") for scheme in re.findall(r"`(\S+)://`", row[0])}
    assert schemes == set(KNOWN_SCHEMES)


def test_options_of_every_backend() -> None:
    parameters = dict(inspect.signature(Backend).parameters)
    del parameters["driver"]  # what the URL says
    assert listed("Records") == {name: repr(parameter.default) for name, parameter in parameters.items()}
    in_urls = listed("Records").keys() - objects("Records")
    assert in_urls == store_options.BACKEND_OPTIONS.keys()


def test_options_of_connections() -> None:
    shown = listed("Connections")
    in_urls = shown.keys() - {"credential_provider"}
    assert in_urls == store_options.CONNECTION_OPTIONS.keys()
    assert objects("Records") | {"credential_provider"} == store_options.OBJECT_OPTIONS
    _, made = urls.parse("redis://", {})
    fields = {"socket_connect_timeout": "connect_timeout"}
    for name, default in shown.items():
        if not name.startswith("ssl_"):
            assert repr(getattr(made, fields.get(name, name))) == default, name


def test_options_of_sentinel_and_cluster() -> None:
    assert listed("Sentinel").keys() == store_options.SENTINEL_OPTIONS.keys()
    assert listed("Cluster").keys() == store_options.CLUSTER_OPTIONS.keys()


def test_the_records_to_test_with_are_those_of_the_tests() -> None:
    """``python -m tests.tools.record_vectors`` writes them."""
    assert record_vectors.PATH.read_text(encoding="utf-8") == record_vectors.text()
    codec = Codec()
    for vector in record_vectors.vectors():
        meta = codec.decode(vector["key"].removeprefix("celery-task-meta-"), vector["payload"].encode())
        assert (meta.status, meta.ready) == (vector["status"], vector["ready"])


#: What is in the first file that CONTRIBUTING.md names for a question, in the order of its table.
ANSWERS = [
    ("MOVED", r"read_redirection\("),
    ("ACL", r"def permission_error\("),
    ("key does a record", r"def (task_key|key_beside)\("),
    ("Who wakes me", r"^class Waiters\b"),
    ("read twice", r"^Theory of operation"),
    ("timeout=0", r"looks_once\(timeout\)"),
    ("Ten thousand", r"^class Join\b"),
    ("Which backend", r"def current_store\("),
    ("a URL say", r"def split_options\("),
    ("not rebuilt", r"def _can_be_raised\("),
    ("as tuples", r"def result_from_tuple\("),
    ("handle learned", r"^class Known\b"),
    ("may replace which", r"def precedes\("),
    ("has loaded Celery", r"def in_celerys_terms\("),
]


def test_the_files_that_answer_the_questions_are_those() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!question|---)(.*) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == len(ANSWERS)
    for (question, answer), (words, content) in zip(rows, ANSWERS, strict=True):
        files = [ROOT / "asyncresult" / name for name in re.findall(r"`([\w/]+\.py)`", answer)]
        assert words in question
        assert all(file.is_file() for file in files), answer
        assert re.search(content, files[0].read_text(encoding="utf-8"), re.MULTILINE), question


def test_every_logger_is_in_the_page_about_operating() -> None:
    used = {
        name
        for path in (ROOT / "asyncresult").rglob("*.py")
        for name in re.findall(r'get_?[Ll]ogger\("(\w[\w.]*)', path.read_text(encoding="utf-8"))
    }
    (said,) = re.findall(
        r"^The loggers are (.*)$", (DOCS / "howto" / "operate.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert used == set(re.findall(r"`([\w.]+)`", said))


# --- doctor ----------------------------------------------------------------------------------------


def shown(message: ast.expr, named: dict[str, str]) -> str:
    """What a message looks like, with … for what varies."""
    match message:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(shown(part, named) for part in parts)
        case ast.BinOp(left=left, op=ast.Add()):
            return f"{shown(left, named)}…"
        case ast.Name(id=name):
            return named.get(name, "…")
    return "…"


def lines_of_doctor() -> set[str]:
    """``check: message`` of everything that doctor may find."""
    lines: set[str] = set()
    for path in (ROOT / "asyncresult" / "cli" / "checks").glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            named: dict[str, str] = {}
            for node in ast.walk(function):
                match node:
                    case ast.Assign(targets=[ast.Name(id=name)], value=value):
                        named[name] = shown(value, {})
                    case ast.Call(func=ast.Name(id="Finding"), args=[ast.Constant(value=str(check)), _, message, *_]):
                        lines.add(f"{check}: {shown(message, named)}")
    return lines


def test_what_doctor_prints_is_what_the_page_about_troubles_quotes() -> None:
    """Whole, or the beginning of it and …"""
    page = (DOCS / "howto" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = [row.strip("| ").split(" | ") for row in re.findall(r"^\| (?!---|what you see).*$", page, re.MULTILINE)]
    assert len(rows) >= 20
    assert {len(row) for row in rows} == {4}
    lines = lines_of_doctor()
    quoted = [quote for row in rows for quote in re.findall(r"`([\w ]+: [^`]+)`", row[2])]
    assert len(quoted) >= 20
    assert [
        quote
        for quote in quoted
        if not any(line.startswith(quote.removesuffix("…")) if quote[-1] == "…" else line == quote for line in lines)
    ] == []
