"""Checks do not drown the idea of a stage: they are under a fifth of its code."""

import ast
import inspect
import textwrap
from pathlib import Path

import pytest

import headway.stages as own
from headway.core.stage import stages

OURS = [name for name in own.__all__ if name != "register"]
CHECKS = {"require", "refuse"}


def code_lines(tree: ast.AST, source: list[str]) -> set[int]:
    """The lines that hold code, but for docstrings, decorators and what is blank or a comment."""
    lines = set(range(tree.lineno, tree.end_lineno + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return {line for line in lines if source[line - 1].strip() and not source[line - 1].strip().startswith("#")}


def is_check(node: ast.AST) -> bool:
    """A condition that leads to a refusal, the call of one, or a method or function that has no other purpose."""
    if isinstance(node, ast.FunctionDef):
        return node.name == "__post_init__" or node.name.lstrip("_").startswith("check")
    if isinstance(node, ast.If):
        return any(isinstance(part, ast.Raise) or calls_a_check(part) for part in node.body)
    return isinstance(node, (ast.Raise, ast.Assert)) or (isinstance(node, ast.stmt) and calls_a_check(node))


def calls_a_check(node: ast.AST) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If)):
        return False
    calls = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr in CHECKS for call in calls)


def shares(name: str) -> tuple[int, int]:
    """How many lines of checks a stage has, the checking functions of its module included, and how many of code."""
    kind = stages.get(name)
    text = Path(inspect.getsourcefile(kind)).read_text()
    module, source = ast.parse(text), text.splitlines()
    tree = next(node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    helpers = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name in used]
    code = [line for part in (tree, *helpers) for line in code_lines(part, source)]
    checks = {
        line
        for part in (tree, *helpers)
        for node in ast.walk(part)
        if is_check(node)
        for line in code_lines(node, source)
    }
    return len(checks), len(code)


@pytest.mark.parametrize("name", OURS)
def test_checks_are_under_a_fifth_of_a_stage(name):
    checks, code = shares(name)
    assert 5 * checks < code, f"{name}: {checks} of {code} lines check"


def test_checks_are_counted():
    source = textwrap.dedent(
        """
        class Some:
            '''A docstring.'''

            def connect(self, flow):
                '''Another.'''
                if flow.late:
                    flow.refuse(self, "late")
                flow = flow.require(self, memory=True)
                return flow.set(self, late=False)

            def __post_init__(self):
                self.other()
        """
    )
    tree = ast.parse(source).body[0]
    lines = source.splitlines()
    checks = {line for node in ast.walk(tree) if is_check(node) for line in code_lines(node, lines)}
    assert (len(checks), len(code_lines(tree, lines))) == (5, 8)
