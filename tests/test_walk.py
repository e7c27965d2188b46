"""The path of one client through the package stays short: what is known of a round or a group is not found out again
for each client."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "walk.py"
MOST = {"calls": 64, "functions": 50, "files": 16, "changes": 20}  # of one client more


@pytest.fixture(scope="module")
def walk():
    spec = importlib.util.spec_from_file_location("benchmark_walk", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.measured()


@pytest.mark.parametrize("figure", MOST)
def test_one_client_more_costs_at_most(walk, figure):
    assert getattr(walk, figure) <= MOST[figure], str(walk)


def test_the_walk_is_that_of_a_client_who_trains_and_sends(walk):
    names = {function.name: count for function, count in walk.each.items()}
    assert names["Scaffold.send"] == 1
    assert names["Scaffold.step"] >= 2
