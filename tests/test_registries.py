"""A package from outside the tree adds a thing of every kind by an entry point; so does a module of one's own."""

import json
import os
import subprocess
import sys

import pytest

MODULE = '''
"""One thing of each kind."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from headway import recipes
from headway.core.algorithm import Algorithm
from headway.data import (
    ExamplePool, Partitioner, Shift, register_partition, register_shift, register_source
)
from headway.data.shift.shifting import Move
from headway.engines import DeviceFleet, register_fleet
from headway.model.losses import register_loss
from headway.model.metrics import register_metric
from headway.recipes import register


@register_source("blobs")
def blobs(*, key, rows: int = 40) -> ExamplePool:
    """Two clouds of points."""
    targets = torch.arange(rows) % 2
    return ExamplePool("blobs", key.uniform(rows * 3).reshape(rows, 3).float() + targets.unsqueeze(1), targets, 2)


@register_partition
@dataclass(frozen=True)
class Turns(Partitioner):
    """`turns`: the clients take the examples in turns."""

    kind: ClassVar[str] = "turns"
    order: str = "up"

    def assign(self, labels, clients, key):
        return [torch.arange(len(labels))[client::clients] for client in range(clients)]


@register_shift
@dataclass(frozen=True)
class Doubled(Shift):
    """`doubled`: every client's inputs are times two."""

    kind: ClassVar[str] = "doubled"

    def check(self):
        pass

    def moves(self, data, key):
        return {client: Move("doubled", lambda x: 2 * x) for client in data.clients}


@register_loss("hinge")
def hinge(outputs, targets):
    """The margin loss of two classes."""
    return (1 - (2 * targets - 1) * (outputs[:, 1] - outputs[:, 0])).clamp_min(0)


@register_metric("share_of_ones")
def share_of_ones(outputs, targets):
    """How many answers are class 1."""
    return float((outputs[:, 1] > outputs[:, 0]).double().mean())


@register("slow")
def slow(*, server_lr: float = 0.5, trainer=None) -> Algorithm:
    """FedAvg with small steps at the server."""
    return recipes.fedavg(server_lr=server_lr, trainer=trainer)


register_fleet("tablets")(DeviceFleet(examples_per_s=50.0))
tablets = DeviceFleet(examples_per_s=50.0)
'''
POINTS = """
[headway.sources]
blobs = outside:blobs
[headway.partitions]
turns = outside:Turns
[headway.shifts]
doubled = outside:Doubled
[headway.losses]
hinge = outside:hinge
[headway.metrics]
share_of_ones = outside
[headway.recipes]
slow = outside:slow
broken = nowhere:broken
fedavg = outside:slow
[headway.fleets]
tablets = outside
"""
RUN = """
[run]
rounds = 2
{imports}
[data]
source = "blobs"
rows = 60
clients = 3
partition = {{ kind = "turns", order = "down" }}
shift = {{ kind = "doubled" }}
[model]
name = "logistic"
[task]
loss = "hinge"
metrics = ["share_of_ones", "accuracy", "pooled_share_of_ones"]
[algorithm]
recipe = "slow"
server_lr = 0.25
[algorithm.trainer]
batch_size = 8
[clock]
preset = "tablets"
"""


COMMANDS = """
import contextlib, io, json, sys
from headway.cli import main as cli
found = []
for sys.argv in json.loads(sys.argv[1]):
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    found.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(found))
"""


@pytest.fixture
def outside(tmp_path):
    """A folder that holds the package, as pip would install it, and a function that runs commands beside it.

    The commands run one after another in one process of their own, which finds what is installed when it begins.
    """
    info = tmp_path / "site" / "outside-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")

    def run(*commands):
        paths = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, json.dumps(commands)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=600,
        )
        return json.loads(done.stdout)

    return tmp_path, info, run


def test_a_package_adds_a_thing_of_every_kind(outside):
    folder, info, run = outside
    (info / "entry_points.txt").write_text(POINTS)
    (folder / "site" / "outside.py").write_text(MODULE)
    (folder / "mine.toml").write_text(RUN.format(imports=""))

    wrong = ["headway", "run", "mine.toml", "--out", "other", "--set"]
    listed, trained, refused, broken = run(
        ["headway", "list"],
        ["headway", "run", "mine.toml", "--out", "run"],
        [*wrong, "data.rows=many"],
        [*wrong, "algorithm.recipe=broken"],
    )
    code, out, err = listed
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for name in ("blobs", "turns", "doubled", "hinge", "share_of_ones", "slow", "tablets"):
        assert any(line.split()[:1] == [name] and "(of the package outside)" in line for line in lines), name
    assert "warning: the recipe 'broken' of the package outside cannot be loaded (nowhere:broken)" in out
    assert "No module named 'nowhere'" in out
    assert "fedavg " in out

    code, out, err = trained
    assert (code, err) == (0, ""), err
    assert "share_of_ones" in out
    code, out, err = refused
    assert (code, err) == (1, "error: data: the option 'rows' of 'blobs' must be a whole number, found 'many'.\n")
    code, out, err = broken
    assert code == 1
    assert "there is no recipe named 'broken'" in err
    assert "the package outside cannot be loaded" in err


def test_a_module_of_ones_own_adds_them_by_decorators(outside):
    folder, _, run = outside
    (folder / "outside.py").write_text(MODULE)
    (folder / "mine.toml").write_text(RUN.format(imports='imports = ["outside"]'))
    compared = ["compare", "mine.toml", "--methods", "slow,fedavg", "--seeds", "1", "--workers", "1"]
    first, again = run(["headway", "run", "mine.toml", "--out", "run"], ["headway", *compared])
    assert (first[0], first[2]) == (0, ""), first[2]
    assert (again[0], again[2]) == (0, ""), again[2]
    assert "slow" in again[1]
