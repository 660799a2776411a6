"""Break the waiting core, and the web part, in small ways, and see whether the tests notice: ``python3 dev mutants``.

A mutant is one of the modules below with one change: a statement taken out, a condition turned round, a comparison,
an operator or a constant replaced. A sample of all that are possible is tried, each in a copy of the project with the
tests of its module, which stop at the first failure. A mutant that all tests pass with has survived: either a test is
missing, or the change makes no difference (a shortcut for speed, a message, a number that is a matter of taste).
Those have to be read one by one. The sample is the same for the same seed and sources.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

Tests = tuple[str, ...]  # arguments of pytest

_FAST: Tests = tuple(f"tests/test_{name}.py" for name in ("endings", "feeds", "joins", "streams", "updates", "futures"))
_WALK: Tests = ("tests/test_waiters.py",)
_WIRE: Tests = ("tests/test_wire.py",)
# The memory backend starts at once; what is common to all is the same with it.
_CONTRACT: Tests = (
    "-k",
    "memory",
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/backends/test_contract*.py"))),
)
_WEB: Tests = ("tests/web/test_streams.py", "tests/web/test_status.py", "tests/web/test_health.py")
#: Module, and the tests that are to notice, run after run, the quick ones first.
MODULES = {
    "asyncresult/_storage/waiters.py": [_FAST, _WALK],
    "asyncresult/_handles/joins.py": [_FAST, _CONTRACT],
    "asyncresult/_handles/handle.py": [_FAST, _CONTRACT],
    "asyncresult/_handles/known.py": [_FAST, _CONTRACT],
    "asyncresult/_handles/waiting.py": [_FAST, _CONTRACT],
    "asyncresult/_handles/feeds.py": [_FAST, _CONTRACT],
    "asyncresult/_handles/streams.py": [_FAST, _CONTRACT],
    "asyncresult/_redis/wire.py": [_WIRE, _WALK],
    "asyncresult/web/documents.py": [_WEB],
    "asyncresult/web/endpoints.py": [_WEB],
    "asyncresult/web/settings.py": [_WEB],
    "asyncresult/web/streams.py": [_WEB],
    "asyncresult/web/tokens.py": [_WEB],
}
#: A run that takes so many times as long as without a change, and so many seconds more, hangs; that is noticed, too.
PATIENCE, MORE = 5, 60.0
#: So does a test that takes so many seconds: none of these takes a third of it.
LONGEST_TEST = 40.0

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


def mutations(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What a node may be replaced with, and a name for that."""
    if _is_a_deed(node):
        yield "taken out", ast.Pass()
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        turned = copy.copy(node)
        turned.test = ast.UnaryOp(ast.Not(), node.test)
        yield "condition turned round", turned
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        other = copy.copy(node)
        other.ops = [_COMPARISONS[type(node.ops[0])]()]
        yield "another comparison", other
    elif isinstance(node, ast.BoolOp):
        other_op = copy.copy(node)
        other_op.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and for or", other_op
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "returns None", ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        yield "another constant", ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)


def _is_a_deed(node: ast.AST) -> bool:
    """Whether a statement can be taken out, and the rest makes sense without it."""
    if isinstance(node, ast.Assign | ast.AugAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return isinstance(target, ast.Attribute | ast.Subscript)
    return isinstance(node, ast.Continue | ast.Break) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)
    )


class _Replace(ast.NodeTransformer):
    """Replaces the node at one place of the walk."""

    def __init__(self, place: int, choice: int) -> None:
        self._place = place
        self._choice = choice
        self._seen = -1

    def visit(self, node: ast.AST) -> ast.AST:
        self._seen += 1
        if self._seen == self._place:
            return ast.copy_location(list(mutations(node))[self._choice][1], node)
        return self.generic_visit(node)


def places(tree: ast.AST) -> Iterator[tuple[int, int, str, int]]:
    """Place, choice, name and line of all mutations inside functions."""
    seen = -1

    def walk(node: ast.AST, in_function: bool) -> Iterator[tuple[int, int, str, int]]:
        nonlocal seen
        seen += 1
        if in_function:
            for choice, (name, _) in enumerate(mutations(node)):
                yield seen, choice, name, getattr(node, "lineno", 0)
        here = in_function or (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in ("__repr__", "__str__")
        )
        for child in ast.iter_child_nodes(node):
            yield from walk(child, here)

    yield from walk(tree, False)


def run(tests: Tests, module: str | None, source: str, timeout: float | None) -> str:
    """How the tests end in a copy of the project in which ``module`` has this source: passed, failed or hangs."""
    with tempfile.TemporaryDirectory(prefix="asyncresult-mutant-") as folder:
        place = Path(folder)
        for name in ("asyncresult", "tests"):
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
        if module is not None:
            (place / module).write_text(source, encoding="utf-8")
        limits = ["-o", f"faulthandler_timeout={LONGEST_TEST}", "-o", "faulthandler_exit_on_timeout=true"]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *limits, *tests]
        process = subprocess.Popen(
            command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            return "failed" if process.wait(timeout) else "passed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the servers that the tests have started
            process.wait()
            return "hangs"


def try_one(module: str, mutated: str, seconds: dict[Tests, float]) -> str:
    """How the first of the module's test runs that notices ends, or ``survived``."""
    for tests in MODULES[module]:
        end = run(tests, module, mutated, PATIENCE * seconds[tests] + MORE)
        if end != "passed":
            return end
    return "survived"


def time_without_changes(modules: Iterable[str]) -> dict[Tests, float]:
    """Seconds of each test run. They must pass, or nothing that follows means anything."""
    seconds: dict[Tests, float] = {}
    for tests in {tests for module in modules for tests in MODULES[module]}:
        began = time.monotonic()
        if run(tests, None, "", None) != "passed":
            raise SystemExit(f"the tests fail without any change: {' '.join(tests)}")
        seconds[tests] = time.monotonic() - began
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no other after so many")
    parser.add_argument("--module", action="append", choices=list(MODULES), help="only this one; may be repeated")
    options = parser.parse_args()
    every: list[tuple[str, int, int, str, int]] = []
    sources = {module: (ROOT / module).read_text(encoding="utf-8") for module in options.module or MODULES}
    for module, source in sources.items():
        every += [(module, *place) for place in places(ast.parse(source))]
    sample = random.Random(options.seed).sample(every, min(options.count, len(every)))
    seconds = time_without_changes(sources)
    outcomes: dict[str, int] = {}
    began = time.monotonic()
    for number, (module, place, choice, name, line) in enumerate(sample, 1):
        if time.monotonic() - began > 60 * options.minutes:
            break
        source = sources[module]
        plain = ast.unparse(ast.parse(source))
        mutated = ast.unparse(ast.fix_missing_locations(_Replace(place, choice).visit(ast.parse(source))))
        outcome = try_one(module, mutated, seconds)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        print(f"{number:4}/{len(sample)} {outcome:8} {module}:{line} {name}", flush=True)
        if outcome == "survived":
            for changed in difflib.unified_diff(plain.splitlines(), mutated.splitlines(), lineterm="", n=1):
                if not changed.startswith(("---", "+++", "@@")):
                    print("      " + changed, flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{sum(outcomes.values())} of {len(every)} mutants in {minutes:.0f} min: {outcomes}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
