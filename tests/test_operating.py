"""What an operator sees of the whole package: each line of the log has its fields, each task and thread a name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "asyncresult").rglob("*.py"))
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
EVENT = re.compile(r"(?:\"event\": |\bevent(?:: str )?=\s?|_log\(\s*logging\.\w+,\s*|_about\()\"([a-z ]+)\"")
FIELDS = {"event", "backend", "task_id"}


def calls(path: Path) -> Iterator[tuple[str, str, ast.Call, ast.AST]]:
    """Method calls: where, the object's name, the call, the function that it is in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    owner = node.func.value
                    name = owner.id if isinstance(owner, ast.Name) else ""
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", name, node, function


def texts(node: ast.AST | None) -> set[str]:
    return (
        {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)} if node else set()
    )


def fields_of(call: ast.Call, function: ast.AST) -> ast.AST | None:
    """What is given as ``extra``, where a local name stands for it its value."""
    given = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    if isinstance(given, ast.Name):
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [given.id]:
                return node.value
    return given


def is_log_call(owner: str, call: ast.Call) -> bool:
    return owner.strip("_") == "logger" and isinstance(call.func, ast.Attribute) and call.func.attr in LEVELS


def test_each_line_of_the_log_has_its_fields() -> None:
    checked = 0
    for path in MODULES:
        for where, owner, call, function in calls(path):
            if not is_log_call(owner, call):
                continue
            checked += 1
            fields = fields_of(call, function)
            assert fields is not None, f"{where}: no extra fields"
            if isinstance(fields, ast.Dict):
                keys = {key.value for key in fields.keys if isinstance(key, ast.Constant)}
                assert "event" in keys and keys <= FIELDS, where
                if re.search(r"\btask %s", " ".join(texts(call.args[0]))):
                    assert keys == FIELDS, f"{where}: it names a task"
            else:
                assert ast.unparse(fields).startswith("self._about(") or "def log_failure(" in ast.unparse(function), (
                    where
                )
    assert checked > 30


def test_each_logger_outlasts_what_a_filter_raises() -> None:
    plain = {path.name for path in MODULES if "logging.getLogger(" in path.read_text(encoding="utf-8")}
    assert plain <= {"_log.py", "source.py"}, "get_logger() is for those who must go on"


def test_each_event_is_documented() -> None:
    page = (ROOT / "docs/howto/operate.md").read_text(encoding="utf-8")
    rows = page[page.index("| `event` | level") :].partition("\n\n")[0].splitlines()[2:]
    table = {event for row in rows for event in re.findall(r"`([a-z ]+)`", row.split("|")[1])}
    events = {event for path in MODULES for event in EVENT.findall(path.read_text(encoding="utf-8"))}
    assert events == table


@pytest.mark.parametrize("made", ["create_task", "Thread"])
def test_each_task_and_thread_has_a_name(made: str) -> None:
    found = 0
    for path in MODULES:
        for where, _, call, _ in calls(path):
            if isinstance(call.func, ast.Attribute) and call.func.attr == made:
                found += 1
                assert any(keyword.arg == "name" for keyword in call.keywords), where
            assert ast.unparse(call.func) != "asyncio.ensure_future", f"{where}: create_task(…, name=…)"
    assert found > 3
