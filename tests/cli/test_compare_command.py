"""Comparing methods: the same start for all, numbers that do not depend on workers, and an honest sentence."""

import json
import math
import re

import pytest

from headway.experiment.comparison import Limits, gather, interval
from headway.experiment.runfile import load_runfile
from headway.experiment.trials import Trial, run_trials

SMALL = ["model.hidden=[4]", "algorithm.trainer.epochs=1", "run.rounds=3"]


def trial(method, seed, values, **more):
    rounds = tuple(range(1, len(values) + 1))
    totals = tuple(100 * r for r in rounds)
    return Trial(method, seed, rounds, tuple(values), (0.0,) * len(values), totals, {"a": min(values)}, **more)


def compare(finals, target=None):
    """A comparison in which a method's value at a seed is the same in all rounds."""
    runfiles = {method: load_runfile("hospitals", SMALL) for method in finals}
    trials = [trial(method, seed, [v] * 12) for method, values in finals.items() for seed, v in enumerate(values)]
    return gather("name", runfiles, trials, Limits(target))


def test_the_interval_is_students():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)


def test_final_values_are_means_of_the_last_ten_rounds():
    one = trial("a", 0, [0.0] * 5 + [0.5, 0.7] * 5)
    assert one.final == pytest.approx(0.6)
    assert one.spread == pytest.approx(0.1054, abs=1e-4)
    assert one.reached(0.6, False, one.rounds) == 7
    assert one.reached(0.6, False, one.bytes_total) == 700
    assert one.reached(0.9, False, one.rounds) == math.inf


def test_the_sentence_uses_differences_paired_by_seed():
    """Seeds differ more than methods do, but at every seed the same method is ahead."""
    paired = compare({"a": [0.5, 0.7, 0.9], "b": [0.49, 0.688, 0.891]})
    assert "a is highest" in paired.sentence()
    assert "ahead of every other method" in paired.sentence()
    crossed = compare({"a": [0.5, 0.7, 0.9], "b": [0.52, 0.69, 0.88]})
    assert "do not tell it apart from b" in crossed.sentence()


def test_differences_are_paired_with_the_first_method():
    first, second = compare({"a": [0.5, 0.7, 0.9], "b": [0.52, 0.73, 0.91]}).summaries()
    assert math.isnan(first.difference)
    assert second.difference == pytest.approx(0.02)
    assert second.difference_half == pytest.approx(4.302653 * 0.01 / 3**0.5, rel=1e-5)


def test_the_sentence_claims_nothing_from_one_seed():
    assert "nothing of chance" in compare({"a": [0.9], "b": [0.1]}).sentence()


def test_the_target_is_a_share_of_the_best_mean_unless_given():
    assert compare({"a": [0.8, 0.8], "b": [0.4, 0.4]}).target == pytest.approx(0.76)
    given = compare({"a": [0.8, 0.8], "b": [0.4, 0.4]}, target=0.5)
    first, second = given.summaries()
    assert (first.rounds_to_target, first.bytes_to_target) == (1, 100)
    assert (second.rounds_to_target, second.bytes_to_target) == (None, None)


def test_trials_do_not_depend_on_workers(tmp_path):
    runfiles = {method: load_runfile("hospitals", SMALL, method=method) for method in ("fedavg", "scaffold+ecgr")}
    alone, together = (
        sorted(
            (
                step
                for step in run_trials(runfiles, range(2), workers, tmp_path / str(workers))
                if isinstance(step, Trial)
            ),
            key=str,
        )
        for workers in (1, 2)
    )
    assert len(alone) == 4
    assert alone == together


def settings():
    return [part for change in SMALL for part in ("--set", change)]


def test_compare_writes_numbers_table_and_picture(headway, tmp_path):
    code, out, err = headway("compare", "hospitals", "--seeds", "2", "--workers", "1", *settings())
    assert (code, err) == (0, "")
    folder = tmp_path / "comparisons" / "hospitals"
    results = json.loads((folder / "results.json").read_text())
    assert len(results["comparison"]["trials"]) == 8
    assert results["sentence"] in out
    assert results["sentence"] in (folder / "table.md").read_text()
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    for word in ("fedavg+ecgr", "worst client", "rounds to target", "untuned", "comparison.png"):
        assert word in out
    assert not re.search("[\x1b\r]", out)


def test_compare_as_json(headway):
    options = ["--methods", "fedavg,fedprox", "--seeds", "1", "--workers", "1", "--json", *settings()]
    code, out, _ = headway("compare", "hospitals", *options)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [record["event"] for record in records] == ["trial", "trial", "method", "method", "done"]


def test_a_method_that_diverges_is_named_and_not_ranked(headway, tmp_path):
    (tmp_path / "mine.toml").write_text(
        '[run]\nrounds = 2\n[data]\nsource = "hospitals"\n[model]\nname = "mlp"\n[algorithm.trainer]\nlr = 0.05\n'
        '[methods.wild]\nrecipe = "fedavg"\ntrainer = { lr = 1e20 }\n'
    )
    code, out, _ = headway("compare", "mine.toml", "--methods", "fedavg,wild", "--seeds", "2", "--workers", "1")
    assert code == 1
    assert "wild (2 failed)" in out
    assert "wild failed at 2 of 2 seeds, and is not ranked: the run diverged in round 1" in out
    assert "fedavg is highest" in out


def test_files_that_differ_in_their_data_are_refused(headway, tmp_path):
    plain = '[run]\nrounds = 1\n[data]\nsource = "hospitals"\ntest_share = 0.2\n[model]\nname = "logistic"\n'
    (tmp_path / "a.toml").write_text(plain)
    (tmp_path / "b.toml").write_text(plain.replace("0.2", "0.3"))
    code, _, err = headway("compare", "a.toml", "b.toml")
    assert code == 1
    assert re.match(r"error: .*\[data\] of 'b' differs from that of 'a'.*0\.3.*0\.2", err)


def test_trials_of_one_seed_share_their_data(tmp_path, monkeypatch):
    """Loaded once a seed and not once a run; the numbers are those of runs that load their own."""
    from headway.experiment import resolved_runfile, runfile
    from headway.experiment.trials import run_trials

    loads, load = [], resolved_runfile.load
    monkeypatch.setattr(resolved_runfile, "load", lambda *a, **k: loads.append(k["key"]) or load(*a, **k))
    files = {name: runfile.load_runfile("hospitals", SMALL, method=name, rounds=1) for name in ("fedavg", "scaffold")}
    trials = [step for step in run_trials(files, range(2), 1, tmp_path / "shared") if not isinstance(step, tuple)]
    assert loads == [0, 1]
    for trial in trials:
        run = files[trial.method].with_seed(trial.seed).start()
        reports = list(run)
        run.close()
        assert trial.values == tuple(report.headline("balanced_accuracy") for report in reports)
    again = [step for step in run_trials(files, range(2), 1, tmp_path / "shared") if not isinstance(step, tuple)]
    assert again == trials


def test_data_are_loaded_again_where_the_section_differs():
    from headway.experiment.runfile import LastData, load_runfile

    last = LastData()
    plain, other = load_runfile("hospitals"), load_runfile("hospitals", ["data.test_share=0.4"])
    first = plain.load_data(last)
    assert plain.load_data(last) is first
    assert len(other.load_data(last).test[first.clients[0]]) > len(first.test[first.clients[0]])
    assert plain.with_seed(7).load_data(last) is not first
