"""The small changes that are possible in a module, and the code of the module with one of them."""

from __future__ import annotations

import ast
import copy
import difflib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutation", "codes", "mutations"]

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
#: They show objects to developers: the wording is no promise.
_LEFT_OUT = ("__repr__", "__str__")


@dataclass(frozen=True)
class Mutation:
    """One change: the ``choice``-th that is possible at a place of the walk through the module's tree."""

    path: Path
    source: str  # as it was when the walk began
    place: int
    choice: int
    name: str
    line: int
    lines: tuple[int, ...]  # those of the statement, or of the head of a compound one; no change is seen without them

    def tree(self) -> ast.Module:
        changed = _Replace(self.place, self.choice).visit(ast.parse(self.source))
        assert isinstance(changed, ast.Module)
        return ast.fix_missing_locations(changed)

    def code(self) -> types.CodeType:
        return compile(self.tree(), str(self.path), "exec", dont_inherit=True)

    def difference(self) -> list[str]:
        before, after = (ast.unparse(tree).splitlines() for tree in (ast.parse(self.source), self.tree()))
        changed = difflib.unified_diff(before, after, lineterm="", n=1)
        return [line for line in changed if not line.startswith(("---", "+++", "@@"))]


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code of each function in a module's code, however deep."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from codes(constant)


def mutations(path: Path) -> list[Mutation]:
    """All that are possible in the bodies of the module's functions."""
    source = path.read_text(encoding="utf-8")
    found: list[Mutation] = []
    place = -1

    def walk(node: ast.AST, statement: ast.stmt | None) -> None:
        nonlocal place
        place += 1
        if statement is not None:  # inside a function
            statement = node if isinstance(node, ast.stmt) else statement
            for choice, (name, _) in enumerate(_replacements(node)):
                line = getattr(node, "lineno", statement.lineno)
                found.append(Mutation(path, source, place, choice, name, line, _lines(statement, node)))
        function = node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
        for field, child in _children(node):
            if field in ("annotation", "returns"):
                place += sum(1 for _ in ast.walk(child))
            elif function is not None and field == "body" and function.name not in _LEFT_OUT:
                walk(child, function)
            else:  # decorators and defaults run when the function is made
                walk(child, statement)

    walk(ast.parse(source), None)
    return found


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """In the order of :class:`ast.NodeTransformer`."""
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield field, child


def _lines(statement: ast.stmt, node: ast.AST) -> tuple[int, ...]:
    body = getattr(statement, "body", None) or getattr(statement, "cases", None)
    if body is None:
        last = statement.end_lineno or statement.lineno
    else:
        first = body[0].pattern if isinstance(body[0], ast.match_case) else body[0]
        last = max(statement.lineno, first.lineno - 1)
    lines = set(range(statement.lineno, last + 1))
    if isinstance(node, ast.expr):  # the guard of a case is not in the head
        lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return tuple(sorted(lines))


def _replacements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What a node may be replaced with, and a name for that.

    What is taken out stays in a branch that never runs: the function then closes over the same names, and its new code
    fits the function that is there already.
    """
    if _can_be_taken_out(node):
        assert isinstance(node, ast.stmt)
        yield "taken out", ast.If(ast.Constant(False), [node], [])
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield "condition turned round", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield "another comparison", _with(node, ops=[_COMPARISONS[type(node.ops[0])]()])
    elif isinstance(node, ast.BoolOp):
        yield "and for or", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "returns None", ast.Return(ast.IfExp(ast.Constant(True), ast.Constant(None), node.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int):
        yield "another constant", ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _can_be_taken_out(node: ast.AST) -> bool:
    """Whether the rest makes sense without a statement."""
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
            _, replacement = list(_replacements(node))[self._choice]
            return ast.copy_location(replacement, node)
        return self.generic_visit(node)
