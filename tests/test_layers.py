"""Imports point down, from experiments over engines to numbers; stages know neither data nor engines."""

import ast
from pathlib import Path

import pytest

import headway

ROOT = Path(headway.__file__).parent
RANK = {"numerics": 0, "core": 1, "protocol": 1}
RANK |= dict.fromkeys(("stages", "samplers", "data", "client_state"), 2)
RANK |= {
    "model": 3,
    "training": 4,
    "vectorized": 5,
    "client": 6,
    "server": 7,
    "engines": 7,
    "observe": 7,
    "attacks": 7,
    "privacy": 7,
    "experiment": 8,
}
APART = [{"stages", room} for room in ("engines", "training", "vectorized", "client", "data", "model", "privacy")]
ALLOWED_HEAVY = {"mlxtend", "pandas", "matplotlib", "pyarrow", "sklearn", "scipy", "ray", "grpc", "dp_accounting"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
FILES = sorted(ROOT.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def rank(name: str) -> int:
    return RANK.get(name, 9)


def imports(tree: ast.AST):
    """Every imported module, and whether the import stands at the top of the file."""
    top = {id(node) for node in getattr(tree, "body", [])}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, id(node) in top


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file(path):
    source = path.read_text()
    tree = ast.parse(source)
    mine = part(path)
    for name, at_top in imports(tree):
        if name.startswith("headway.") and mine != "__init__":
            other = name.split(".")[1]
            assert rank(other) <= rank(mine) or name == "headway.core.errors", (
                f"{mine} imports {other}, which is above it"
            )
            assert {mine, other} not in APART, f"{mine} and {other} must not know each other"
        assert name.split(".")[0] not in FORBIDDEN_MODULES, f"{name} deserialises objects"
        assert not (at_top and name.split(".")[0] in ALLOWED_HEAVY), f"{name} must be imported where it is used"
        if mine == "core":
            assert name.split(".")[0] in {"headway", "torch", "__future__"} | set(__import__("sys").stdlib_module_names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_NAMES, f"line {node.lineno} calls {node.func.id}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "load"), f"line {node.lineno} calls torch.load"
        if isinstance(node, ast.keyword):
            assert node.arg != "allow_pickle" or node.value.value is False
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 75, f"{node.name} is too long"
    assert source.count("\n") <= 420, "a file should stay below about 400 lines"
