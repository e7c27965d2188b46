"""Every benchmark runs to its end, at a small size: HEADWAY_SMALL=1 (benchmarks/sizes.py)."""

from pathlib import Path

import forks
import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
NO_BENCHMARK = {"sizes", "simulated_agents"}
ARGUMENTS = {
    "golden_runs": ["--out", "golden.json"],
    "population": ["--examples", "4"],
    "two_checkouts": [
        *map(str, (ROOT, ROOT)),
        "--workloads",
        "W3",
        "--options",
        "lanes=1",
        "--rounds",
        "1",
        "--data",
        "data",
    ],
    "walk": ["--list"],
    "stages_cost": ["--rounds", "1", "--envs", "envs", "--cores", "1", "--workloads", "W3"],
    "peers/run": [
        "--workloads",
        "W3",
        "--rounds",
        "1",
        "--envs",
        "envs",
        "--cores",
        "1",
        "--only",
        "plain",
        "headway",
        "--out",
        "peers.md",
    ],
}
# they compile, start many processes, or import torch in several
SLOW = {"compiled", "aggregation", "large_model", "two_checkouts", "stages_cost"}
NAMES = [*sorted({path.stem for path in FOLDER.glob("*.py")} - NO_BENCHMARK), "peers/run"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.soak] * (n in SLOW)) for n in NAMES])
def test_a_benchmark_runs(name, tmp_path):
    code, output = forks.run_benchmark(FOLDER / f"{name}.py", ARGUMENTS.get(name, ()), tmp_path)
    assert code == 0, output
    assert len(output.splitlines()) > 1 or (tmp_path / "golden.json").exists()


def test_make_bench_names_benchmarks_that_exist():
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "benchmarks/" in line]
    named = {word for line in lines for word in line.split() if word.startswith("benchmarks/") and word.endswith(".py")}
    assert named
    assert all((ROOT / name).exists() for name in named)
