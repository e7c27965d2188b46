"""The grid of rules, attacks and partitions."""

import dataclasses
import math

import pytest

import headway as hw
from headway.attacks import SignFlip
from headway.core.errors import ConfigError
from headway.experiment.robust_grid import (
    ATTACKS,
    MEAN,
    NO_ATTACK,
    RULES,
    Cell,
    GridResult,
    grid_cells,
    grid_file,
    partition_of,
    rule_of,
)
from headway.experiment.runfile import load_runfile
from headway.experiment.trials import Trial, failed_trial
from headway.reports.attack_picture import attack_picture

FILE = """
[run]
rounds = 2
[data]
source = "hospitals"
[model]
name = "logistic"
[algorithm]
chain = [{ stage = "Mean", over = "clients" }]
trainer = { trainer = "LocalSGD", lr = 0.1 }
sampler = { sampler = "All" }
"""


def trial(cell, value, seed=0):
    return Trial(cell.method, seed, (1,), (value,), (0.0,), (0,), {})


def result(values, higher=True, failed=()):
    cells = [Cell(*key) for key in values]
    trials = [
        failed_trial(cell.method, 0, "diverged") if cell in failed else trial(cell, value)
        for cell, value in zip(cells, values.values(), strict=True)
    ]
    return GridResult.of(cells, trials, higher)


def test_a_rule_is_made_from_its_name():
    assert rule_of("Krum", 3) == hw.Krum(3)
    assert rule_of("NNM+TrimmedMean", 2) == hw.NNM(2, hw.TrimmedMean(2))
    assert rule_of("NNM+AdaptiveRobustClipping+Median", 1) == hw.NNM(1, hw.AdaptiveRobustClipping(1, hw.Median(1)))
    assert all(rule_of(name, 1).whole_cohort for name in RULES if name != MEAN)
    with pytest.raises(ConfigError, match=r"no robust rule named 'Krumm'.*Krum"):
        rule_of("Krumm", 1)
    with pytest.raises(ConfigError, match="no robust rule named 'Mean'"):
        rule_of("Mean", 1)
    with pytest.raises(ConfigError, match="Median cannot stand before another rule"):
        rule_of("Median+Krum", 1)


def test_a_partition_is_read_from_the_command_line():
    assert partition_of("iid") == {"kind": "iid"}
    assert partition_of("shards:per_client=2") == {"kind": "shards", "per_client": 2}
    with pytest.raises(ConfigError, match="alpha needs a number, found 'small'"):
        partition_of("dirichlet-niid:alpha=small")


def test_a_cell_changes_the_rule_the_attack_and_the_partition(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    base = load_runfile(str(path))
    made = grid_file(base, Cell("NNM+Krum", "SignFlip", "x"), {"kind": "iid"}, 2, "attackers")
    assert made.algorithm.chain.aggregator == hw.NNM(2, hw.Krum(2))
    plan = made.sections.attack.plan()
    assert (plan.attack, plan.count, plan.knows) == (SignFlip(), 2, "attackers")
    assert made.sections.data.partition == {"kind": "iid"}
    plain = grid_file(base, Cell(MEAN, NO_ATTACK, "x"), None, 2, "everyone")
    assert dataclasses.replace(plain, sections=base.sections) == base
    assert plain.sections.attack is None
    with pytest.raises(ConfigError, match="attack named 'SignFlp'"):
        grid_file(base, Cell(MEAN, "SignFlp", "x"), None, 2, "everyone")


def test_the_worst_case_and_the_cost_of_a_rule():
    found = result(
        {
            (MEAN, NO_ATTACK, "iid"): 0.9,
            (MEAN, "SignFlip", "iid"): 0.1,
            ("Krum", NO_ATTACK, "iid"): 0.85,
            ("Krum", "SignFlip", "iid"): 0.8,
            ("Median", NO_ATTACK, "iid"): 0.9,
            ("Median", "SignFlip", "iid"): 0.7,
        }
    )
    assert found.worst(MEAN) == (0.1, "SignFlip")
    assert found.best_rule() == "Krum"
    assert found.cost("Krum") == pytest.approx(0.05)
    assert found.sentence("accuracy") == (
        "Switch on Krum: in its worst case here (SignFlip) the accuracy is 0.800, where the mean falls to 0.100 "
        "(SignFlip). Where nobody attacks it costs 0.050 of accuracy."
    )
    assert attack_picture(found, "accuracy").startswith(b"\x89PNG")


def test_where_lower_is_better_the_worst_is_the_largest():
    values = {(MEAN, NO_ATTACK, "p"): 1.0, (MEAN, "ALIE", "p"): 9.0, ("Krum", NO_ATTACK, "p"): 1.5}
    found = result({**values, ("Krum", "ALIE", "p"): 2.0}, higher=False)
    assert found.worst("Krum") == (2.0, "ALIE")
    assert found.best_rule() == "Krum"
    assert found.cost("Krum") == pytest.approx(0.5)


def test_a_run_that_diverged_counts_as_the_worst_and_is_named():
    cell = Cell(MEAN, "ALIE", "p")
    values = {(MEAN, NO_ATTACK, "p"): 0.9, (MEAN, "ALIE", "p"): 0.5}
    found = result(values, failed=[cell])
    assert found.worst(MEAN) == (0.0, "ALIE")
    assert found.failures[cell] == "diverged"
    assert result({(MEAN, "ALIE", "p"): 0.5}, higher=False, failed=[cell]).worst(MEAN)[0] == math.inf


def test_the_mean_is_kept_where_no_rule_does_better():
    found = result({(MEAN, NO_ATTACK, "p"): 0.9, (MEAN, "Mimic", "p"): 0.8, ("Krum", NO_ATTACK, "p"): 0.5})
    assert found.sentence("accuracy").startswith("Stay with the mean")
    assert result({}).sentence("accuracy") == "No run of the grid came to a value."


def test_the_grid_is_whole():
    assert len(grid_cells(RULES, ATTACKS, ["iid", "x"])) == 2 * len(RULES) * len(ATTACKS)
    assert len({cell.method for cell in grid_cells(RULES, ATTACKS, ["iid", "x"])}) == 2 * len(RULES) * len(ATTACKS)
