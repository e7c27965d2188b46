"""The package that docs/extending.md shows is installed as it stands there, and everything in it is used."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headway

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```(?:python|toml)\n# ([\w/]+\.\w+)\n(.*?)```", PAGE, re.DOTALL)
FILES = dict(BLOCKS)
SOURCES = str(Path(headway.__file__).parents[1])
RUN = """
[run]
name = "extended"
rounds = 2

[data]
source = "hospitals"

[model]
name = "mlp"
hidden = [4]

[task]
metrics = ["accuracy"]

[[algorithm.chain]]
stage = "Damp"
factor = 0.25

[[algorithm.chain]]
stage = "Mean"

[algorithm.trainer]
trainer = "FullBatch"

[algorithm.sampler]
sampler = "Rotating"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which pip has installed the package of the page."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name, text in FILES.items():
        file = source / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (source / "extras" / "__init__.py").touch()
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def python(installed, folder, *arguments):
    """Runs Python in a folder, with the installed package on its path; returns what it prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed), SOURCES])}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_file_is_short():
    lines = {name: len([line for line in text.splitlines() if line.strip()]) for name, text in BLOCKS}
    assert {name: count for name, count in lines.items() if count > 25 and name.endswith(".py")} == {}


def test_each_file_has_an_entry_point():
    named = set(re.findall(r'= "extras\.(\w+):\w+"', FILES["pyproject.toml"]))
    assert {f"extras/{name}.py" for name in named} == set(FILES) - {"pyproject.toml"}


def test_a_run_file_uses_all_of_it(installed, tmp_path):
    (tmp_path / "run.toml").write_text(RUN)
    lines = python(installed, tmp_path, "-m", "headway", "run", "run.toml", "--json").splitlines()
    rounds = [report for report in map(json.loads, lines) if report["event"] == "round"]
    assert len(rounds) == 2
    (config,) = (tmp_path / "runs").glob("*/run.toml")
    config = config.read_text()
    assert all(name in config for name in ("Damp", "FullBatch", "Rotating"))


def test_the_command_line_lists_it(installed, tmp_path):
    listed = python(installed, tmp_path, "-m", "headway", "list")
    assert "Damp" in listed
