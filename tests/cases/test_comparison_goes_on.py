"""A method that fails does not end a comparison, nor a dead run a report: they are listed with the reason."""

import json
import shutil

import pytest
from mk import toml

from headway.experiment.comparison import Comparison
from headway.experiment.trials import Trial

COMPARE = ("compare", "a.toml", "--seeds", "2", "--workers", "1", "--out", "c")


@pytest.fixture
def compare(headway, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toml(
        "a.toml", 'source = "hospitals"', rounds=2, more='[methods.wild]\ntrainer = { lr = 1e20 }\nrecipe = "fedavg"\n'
    )
    return lambda methods, *more: headway(*COMPARE, "--methods", methods, *more)


@pytest.mark.parametrize("first", [True, False])
def test_a_refused_method(headway, compare, tmp_path, first):
    """FedBuff needs a clock, which this file has not."""
    code, out, _ = compare("fedbuff,fedavg,fedprox" if first else "fedavg,fedprox,fedbuff")
    assert code == 1
    assert "fedavg" in out.partition("is highest")[0]
    assert "fedbuff (2 failed)" in out
    assert "fedbuff failed at 2 of 2 seeds, and is not ranked: " in out
    assert "fedbuff" in (tmp_path / "c" / "table.md").read_text()
    assert headway("report", "c")[0] == 0
    assert "failed at 2 of 2 seeds, and is not ranked" in (tmp_path / "c" / "report.html").read_text()


def test_a_method_that_diverges(headway, compare, tmp_path):
    code, out, _ = compare("wild,fedavg,fedprox")
    assert code == 1
    assert "wild failed at 2 of 2 seeds, and is not ranked: the run diverged" in out
    assert len(json.loads((tmp_path / "c" / "results.json").read_text())["comparison"]["trials"]) == 6


def test_a_method_whose_every_setting_diverges(compare, tmp_path):
    grid = '[methods.wild]\nrecipe = "fedavg"\ngrid = { "algorithm.trainer.lr" = [1e20, 1e21] }\n'
    toml("a.toml", 'source = "hospitals"', rounds=1, more=grid)
    code, out, _ = compare("wild,fedavg", "--seeds", "1")
    assert code == 1
    assert "every setting of its grid failed, the first like this" in out


def test_a_misspelt_method_is_still_a_mistake(compare, tmp_path):
    code, _, err = compare("fedavg,scafold")
    assert (code, "did you mean 'scaffold'" in err) == (1, True)
    assert not (tmp_path / "c").exists()


def test_a_dead_run_is_listed_and_the_others_reported(headway, tmp_path):
    toml("a.toml", 'source = "hospitals"', rounds=1)
    for seed in (0, 1, 2, 3):
        assert headway("run", "a.toml", "--seed", seed, "--out", f"r{seed}")[0] == 0
    (tmp_path / "r1" / "journal.sqlite").write_bytes(b"no journal")
    (tmp_path / "r2" / "journal.sqlite").unlink()
    code, out, _ = headway("report", "r0", "r1", "r2", "r3", "--out", "all.html")
    assert code == 0
    assert "Left out: r1/journal.sqlite is damaged" in out
    assert "Left out: r2/journal.sqlite is missing" in out
    assert "2 seeds" in out
    page = (tmp_path / "all.html").read_text()
    assert "Left out: r1/journal.sqlite is damaged" in page
    code, _, err = headway("report", "r1", "r2")
    assert (code, "is damaged" in err) == (1, True)
    assert "does not exist" in headway("report", "r0", "nowhere")[2]


def test_a_trial_without_its_journal_is_listed(headway, compare, tmp_path):
    assert compare("fedavg,fedprox")[0] == 0
    shutil.rmtree(tmp_path / "c" / "runs" / "fedprox-s1")
    (tmp_path / "c" / "runs" / "fedavg-s0" / "journal.sqlite").write_bytes(b"no journal")
    code, out, _ = headway("report", "c")
    assert (code, "Left out: c/runs/fedavg-s0/journal.sqlite is damaged" in out) == (0, True)


def trial(method, seed, value):
    return Trial(method, seed, (1,), (value,), (0.0,), (1,), {})


@pytest.mark.parametrize(
    ("values", "ahead"),
    [
        ([(0.75, 0.50), (0.75, 0.50), (0.75, 0.50)], False),  # all differ by the same: the chance is not known
        ([(0.75, 0.50), (0.76, 0.50), (0.74, 0.50)], True),
        ([(0.75, 0.75), (0.75, 0.75), (0.75, 0.75)], False),
        ([(float("nan"), 0.5), (0.75, 0.5), (0.75, 0.5)], False),
        ([(0.75, 0.50)], False),
    ],
)
def test_differences_without_variance_or_value_are_not_sure(values, ahead):
    trials = tuple(trial(name, s, v) for s, pair in enumerate(values) for name, v in zip("ab", pair, strict=True))
    found = Comparison("n", "accuracy", False, trials, ("a", "b"), len(values), 0.5, False)
    assert found.differs("a", "b") is ahead
