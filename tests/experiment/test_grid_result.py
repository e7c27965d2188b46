"""The result of a grid: worst cases, costs, and sentences."""

import math

import pytest
from experiment.grid_results import grid_facts, grid_result, grid_trial

from headway.experiment.attack_grid_section import MEAN, NO_ATTACK
from headway.experiment.grid_result import Cell, GridResult, backdoor_sentence, grid_sentence
from headway.experiment.trials import failed_trial
from headway.reports.attack_picture import attack_picture

VALUES = {
    (MEAN, NO_ATTACK, "iid"): 0.9,
    (MEAN, "Backdoor", "iid"): 0.1,
    ("Krum", NO_ATTACK, "iid"): 0.85,
    ("Krum", "Backdoor", "iid"): 0.8,
    ("Median", NO_ATTACK, "iid"): 0.9,
    ("Median", "Backdoor", "iid"): 0.7,
}


def test_the_worst_case_and_the_cost_of_a_rule():
    found = grid_result(VALUES)
    assert found.worst(MEAN) == (0.1, "Backdoor")
    assert found.best_rule() == "Krum"
    assert found.costs("Krum") == [pytest.approx(0.05)]
    assert grid_sentence(found, grid_facts()) == (
        "Switch on Krum: with 2 of 7 clients attacking, the accuracy is at least 80.0 % in every case tried here "
        "(worst: Backdoor), where averaging falls to 10.0 % (Backdoor), and it costs 5.0 percentage points of accuracy "
        "when nobody attacks."
    )
    assert attack_picture(found, "accuracy").startswith(b"\x89PNG")
    assert found.seconds_of("Krum") == 0.25


def test_where_lower_is_better_the_worst_is_the_largest():
    values = {(MEAN, NO_ATTACK, "p"): 1.0, (MEAN, "ALIE", "p"): 9.0, ("Krum", NO_ATTACK, "p"): 1.5}
    found = grid_result({**values, ("Krum", "ALIE", "p"): 2.0}, higher=False)
    assert found.worst("Krum") == (2.0, "ALIE")
    assert found.best_rule() == "Krum"
    sentence = grid_sentence(found, grid_facts("mean_absolute_error"))
    assert "is at most 2.000" in sentence
    assert "averaging rises to 9.000" in sentence
    assert "it costs 0.500 of mean absolute error when" in sentence


def test_of_a_metric_that_may_be_negative_a_run_that_diverged_is_no_better_than_others():
    values = {(MEAN, NO_ATTACK, "p"): 0.5, (MEAN, "ALIE", "p"): 0.5, ("Krum", NO_ATTACK, "p"): -0.1}
    values |= {("Krum", "ALIE", "p"): -0.25}
    found = grid_result(values, failed=[Cell(MEAN, "ALIE", "p")])
    assert found.worst(MEAN) == (-0.25, "ALIE")
    assert found.best_rule() == "Krum"
    sentence = grid_sentence(found, grid_facts("r_squared"))
    assert sentence.startswith("Switch on Krum: ")
    assert "is at least -0.250 in every case" in sentence
    assert "where averaging diverges (ALIE)" in sentence


def test_a_seed_that_diverged_is_not_hidden_in_the_mean_of_the_seeds():
    cells = [Cell(rule, attack, "p") for rule in (MEAN, "Krum") for attack in (NO_ATTACK, "ALIE")]
    trials = [grid_trial(cell, 0.5 if cell.rule == MEAN else 0.9, seed) for cell in cells for seed in range(3)]
    trials[-1] = failed_trial(cells[-1].method, 2, "diverged")
    found = GridResult.of(cells, trials, True)
    assert found.worst("Krum")[0] == pytest.approx(0.6)
    assert found.best_rule() == MEAN
    alone = GridResult.of(cells[2:], trials[6:], True)
    assert grid_sentence(alone, grid_facts()).startswith("No rule of the grid withstands these attacks")


def test_a_run_that_diverged_counts_as_the_worst_and_is_named():
    cell = Cell(MEAN, "ALIE", "p")
    values = {(MEAN, NO_ATTACK, "p"): 0.9, (MEAN, "ALIE", "p"): 0.5}
    found = grid_result(values, failed=[cell])
    assert found.worst(MEAN) == (0.0, "ALIE")
    assert found.failures[cell] == "diverged"
    assert grid_sentence(found, grid_facts()).startswith("No rule of the grid withstands these attacks")
    assert grid_result({(MEAN, "ALIE", "p"): 0.5}, higher=False, failed=[cell]).worst(MEAN)[0] == math.inf


def test_the_mean_is_kept_where_no_rule_does_better():
    values = {(MEAN, NO_ATTACK, "p"): 0.9, (MEAN, "Mimic", "p"): 0.8, ("Krum", NO_ATTACK, "p"): 0.5}
    found = grid_result({**values, ("Krum", "Mimic", "p"): 0.6})
    assert grid_sentence(found, grid_facts()).startswith("Stay with averaging: with 2 of 7")
    assert grid_sentence(grid_result({}), grid_facts()) == "No rule of the grid came to a value under every attack."


def test_a_rule_that_was_not_run_in_every_cell_is_not_recommended():
    """Its worst case is that of fewer attacks."""
    found = grid_result({key: value for key, value in VALUES.items() if key != ("Krum", "Backdoor", "iid")})
    assert found.worst("Krum") == (0.85, NO_ATTACK)
    assert found.best_rule() == "Median"


def test_the_cost_is_that_of_the_setting_where_it_is_highest():
    values = {(MEAN, NO_ATTACK, "q"): 0.9, (MEAN, "Backdoor", "q"): 0.1}
    values |= {("Krum", NO_ATTACK, "q"): 0.6, ("Krum", "Backdoor", "q"): 0.6}
    found = grid_result({key: value for key, value in VALUES.items() if key[0] != "Median"} | values)
    assert "it costs up to 30.0 percentage points of accuracy when nobody" in grid_sentence(found, grid_facts())
    free = grid_result(VALUES | {("Krum", NO_ATTACK, "iid"): 0.95})
    assert "and it costs nothing here when nobody attacks" in grid_sentence(free, grid_facts())


def test_the_success_of_a_backdoor_is_a_sentence_of_its_own():
    figures = {(MEAN, "Backdoor", "iid"): {"Backdoor": 0.97}, ("Krum", "Backdoor", "iid"): {"Backdoor": 0.02}}
    found = grid_result(VALUES, figures=figures)
    assert backdoor_sentence(found, grid_facts()) == (
        "Planted in the model, Backdoor succeeds 97 % of the time with averaging and 2 % of the time with Krum."
    )
    assert backdoor_sentence(grid_result(VALUES), grid_facts()) == ""
