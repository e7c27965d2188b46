import ast
import subprocess
import sys
from pathlib import Path

import headway
from headway.core import fault_points

PACKAGE = Path(headway.__file__).parent


def test_a_place_is_passed_to_the_hook_and_does_nothing_without_one():
    passed = []
    fault_points.install(passed.append)
    try:
        fault_points.at("one place")
    finally:
        fault_points.install(None)
    fault_points.at("another")
    assert passed == ["one place"]


def test_nothing_in_the_package_installs_a_hook():
    for path in PACKAGE.rglob("*.py"):
        if path.name == "fault_points.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            assert not (named and node.value.id == "fault_points" and node.attr != "at"), path


def test_the_environment_does_not_install_one(monkeypatch):
    monkeypatch.setenv("HEADWAY_FAULT", "anything kill")
    script = "from headway.core import fault_points; fault_points.at('anything'); print('alive')"
    path = str(PACKAGE.parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {script}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "alive\n"
