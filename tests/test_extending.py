"""The package that docs/extending.md shows is installed as it stands there, and everything in it is used."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headway
from headway.experiment.registries import REGISTRIES

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
BLOCKS = re.findall(r"```(?:python|toml)\n# ([\w/]+\.\w+)\n(.*?)```", PAGE, re.DOTALL)
FILES = dict(BLOCKS)
SOURCES = str(Path(headway.__file__).parents[1])
RUN = """
[run]
name = "extended"
rounds = 2

[data]
source = "moons"
noise = 0.2
clients = 4
partition = { kind = "blocks" }

[model]
name = "mlp"
hidden = [4]

[task]
loss = "hinge"
metrics = ["margin"]

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
RECIPE = (
    RUN.partition("[[algorithm.chain]]")[0]
    + """
[algorithm]
recipe = "damped"
factor = 0.25
"""
)
IN_PYTHON = """
import torch
import headway as hw
from extras.counting import CountingEngine

engine = CountingEngine()
task = hw.Task(model=lambda: torch.nn.Linear(35, 2))
run = hw.Run(hw.recipes.fedavg(), hw.data.load("hospitals"), task, rounds=2, engine=engine)
list(run)
print(engine.asked)
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


def test_every_group_of_entry_points_is_on_the_page():
    groups = {registry.group for registry in REGISTRIES.values()}
    assert groups == set(re.findall(r"`(headway\.[a-z]+)`", PAGE))


def trained(installed, folder, text):
    """The reports of a run by the command line, and the run file that it keeps."""
    (folder / "run.toml").write_text(text)
    lines = python(installed, folder, "-m", "headway", "run", "run.toml", "--json").splitlines()
    (kept,) = (folder / "runs").glob("*/run.toml")
    return [report for report in map(json.loads, lines) if report["event"] == "round"], kept.read_text()


def test_a_run_file_uses_all_of_it(installed, tmp_path):
    rounds, config = trained(installed, tmp_path, RUN)
    assert len(rounds) == 2
    assert "margin" in rounds[-1]["metrics"]
    assert all(name in config for name in ("Damp", "FullBatch", "Rotating", "moons", "blocks", "hinge"))


def test_the_recipe_is_found_by_its_name(installed, tmp_path):
    rounds, config = trained(installed, tmp_path, RECIPE)
    assert len(rounds) == 2
    assert "0.25" in config


def test_the_engine_carries_the_requests_of_a_run(installed, tmp_path):
    assert int(python(installed, tmp_path, "-c", IN_PYTHON)) >= 8


def test_the_command_line_lists_it(installed, tmp_path):
    listed = python(installed, tmp_path, "-m", "headway", "list")
    names = ("Damp", "Rotating", "FullBatch", "damped", "moons", "blocks", "hinge", "margin", "counting")
    assert [name for name in names if name not in listed] == []
