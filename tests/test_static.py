"""Formatting, lint and strict types are tests like any other."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TREES = ("src", "tests", "benchmarks", "docs")


@pytest.mark.parametrize(
    "command",
    [("ruff", "format", "--check", *TREES), ("ruff", "check", *TREES), ("mypy",)],
    ids=["format", "lint", "types"],
)
def test_tool_has_nothing_to_say(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
