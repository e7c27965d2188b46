"""Comparisons at equal simulated time: what the value within a time is, what is said of it, and what is refused."""

import json
import re

import pytest

from headway.core.errors import ConfigError
from headway.experiment.comparison import Limits, gather
from headway.experiment.runfile import load_runfile
from headway.experiment.trials import Trial
from headway.numerics.units import seconds_of

FILE = """
[run]
rounds = 3
[data]
source = "hospitals"
[model]
name = "logistic"
[algorithm.quorum]
count = 3
[clock]
preset = "hospitals"
examples_per_s = 50
[compare]
methods = ["fedavg", "slow"]
seeds = 2
[methods.slow]
recipe = "fedavg"
trainer = { epochs = 4 }
"""


def trial(method, seed, values, seconds, failure=None):
    """A run that is evaluated in every round, sends 10 bytes a round, and ends its rounds at these seconds."""
    rounds = tuple(range(1, len(values) + 1))
    spent = tuple(10 * r for r in rounds)
    return Trial(method, seed, rounds, tuple(values), (0.0,) * len(values), spent, {}, failure, tuple(seconds))


def compare(trials, **more):
    return gather("name", {t.method: load_runfile("hospitals") for t in trials}, trials, Limits(**more))


def swift_and_sure(seeds=3):
    """One that learns slowly in quick rounds of 10 s, and one that is best in the end, in rounds of 100 s."""
    seconds = {"swift": [10.0 * r for r in range(1, 13)], "sure": [100.0 * r for r in range(1, 13)]}
    values = {"swift": [0.5] * 2 + [0.7] * 10, "sure": [0.4] * 2 + [0.9] * 10}
    return [
        trial(
            method, seed, [v + (seed if method == "swift" else 2 - seed) / 1e3 for v in values[method]], seconds[method]
        )
        for method in seconds
        for seed in range(seeds)
    ]


def test_the_value_within_a_time_is_the_final_one_of_a_run_that_had_ended_then():
    one = trial("a", 0, [0.1 * r for r in range(1, 13)], [7.0 * r for r in range(1, 13)])
    assert one.within(7.0, one.simulated_s) == pytest.approx(0.1)  # a round that ends at the budget is in it
    assert one.within(6.9, one.simulated_s) != one.within(6.9, one.simulated_s)  # NaN before the first
    assert one.within(27.9, one.simulated_s) == pytest.approx(0.2)  # rounds 1 to 3
    assert one.within(1e9, one.simulated_s) == pytest.approx(one.final)  # the last ten of twelve
    assert one.within(30, one.bytes_total) == one.within(27.9, one.simulated_s)


def test_equal_time_asks_another_question():
    """The best by rounds is behind where the other's last round has ended, at 120 s: it has ended but one."""
    found = compare(swift_and_sure())
    swift, sure = found.summaries()
    assert found.time_budget == 120.0
    assert swift.at_time == pytest.approx(swift.mean) == pytest.approx(0.701)
    assert sure.at_time == pytest.approx(0.401)
    assert "sure is highest" in found.sentence()
    assert found.time_sentence().startswith("swift is highest with 0.7010 (95 % interval 0.6985 to 0.7035, 3 seeds)")
    assert "ahead of every other method (paired by seed" in found.time_sentence()
    assert found.budget_sentence() is None  # all send alike
    late = compare(swift_and_sure(), time_budget=1200.0)
    assert next(s.at_time for s in late.summaries() if s.method == "sure") == pytest.approx(0.901)
    assert "sure is highest" in late.time_sentence()
    assert late.time_sentence().endswith("The runs of swift end a round or more before it.")


def test_the_time_to_the_target_is_a_median_over_seeds():
    found = compare(swift_and_sure())
    assert found.target == pytest.approx(0.95 * 0.901)
    swift, sure = found.summaries()
    assert (swift.rounds_to_target, swift.seconds_to_target) == (None, None)
    assert (sure.rounds_to_target, sure.seconds_to_target) == (3, 300.0)
    assert sure.seconds_a_round == pytest.approx(100.0)


def test_differences_at_equal_time_are_paired_by_seed():
    """Seeds differ more than methods do; without pairing no method could be told from the other."""
    seconds = [10.0, 20.0]
    finals = {"a": [0.5, 0.7, 0.9], "b": [0.49, 0.688, 0.891]}
    trials = [trial(m, s, [v] * 2, seconds) for m, values in finals.items() for s, v in enumerate(values)]
    assert "ahead of every other method" in compare(trials, time_budget=15.0).time_sentence()
    finals["b"][1] = 0.8
    trials = [trial(m, s, [v] * 2, seconds) for m, values in finals.items() for s, v in enumerate(values)]
    assert "do not tell it apart" in compare(trials, time_budget=15.0).time_sentence()


def test_a_method_that_cannot_finish_a_round_refuses_the_time():
    with pytest.raises(
        ConfigError, match=r"sure cannot finish a round in 50 s of .*seed 0 its first .* after 1 min 40 s"
    ):
        compare(swift_and_sure(), time_budget=50.0)


def test_a_method_that_failed_has_no_value_and_refuses_nothing():
    failed = [trial("wild", seed, [0.1], [500.0], failure="diverged") for seed in range(3)]
    found = compare([*swift_and_sure(), *failed], time_budget=110.0)
    assert found.summaries()[2].at_time != found.summaries()[2].at_time
    assert "wild" not in found.time_sentence()


def test_without_a_clock_nothing_is_said_of_time():
    plain = [Trial(m, 0, (1,), (0.5,), (0.0,), (10,), {}) for m in ("a", "b")]
    found = compare(plain)
    assert (found.clocked, found.time_sentence(), found.time_budget) == (False, None, float("inf"))
    mixed = compare([*plain[:1], trial("b", 0, [0.5], [3.0])])
    assert (mixed.clocked, mixed.time_sentence()) == (False, None)
    alike = compare([trial(m, 0, [0.5], [3.0]) for m in ("a", "b")])
    assert (alike.clocked, alike.time_sentence()) == (True, None)  # the same question as equal rounds


@pytest.fixture
def headway(headway, tmp_path):
    """In a folder with a run file that has a clock, and one that has none."""
    (tmp_path / "mine.toml").write_text(FILE)
    (tmp_path / "plain.toml").write_text(re.sub(r"\[algorithm.quorum\].*(?=\[compare\])", "", FILE, flags=re.DOTALL))
    return headway


def test_a_comparison_by_a_clock_says_time_in_table_files_and_page(headway, tmp_path):
    words = ["compare", "mine.toml", "--workers", "1", "--out", "here"]
    code, out, err = headway(*words, "--budget-time", "40s")
    assert (code, err) == (0, "")
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    (said,) = [s for s in results["sentences"] if s.startswith("At equal simulated time, 40 s each: ")]
    table = (tmp_path / "here" / "table.md").read_text()
    for word in (said, "time to target", "time a round", "at 40 s"):
        assert word in out
        assert word in table
    for one in results["comparison"]["trials"]:
        folder = tmp_path / "here" / "runs" / f"{one['method']}-s{one['seed']}"
        assert len(one["simulated_s"]) == 3
        assert (folder / "journal.sqlite").is_file()
    within = [
        [v for v, s in zip(t["values"], t["simulated_s"], strict=True) if s <= 40.0]
        for t in results["comparison"]["trials"]
        if t["method"] == "slow"
    ]
    at_time = {s["method"]: s["at_time"] for s in results["summaries"]}
    assert at_time["slow"] == pytest.approx(sum(sum(v) / len(v) for v in within) / 2)
    assert headway("report", "here")[0] == 0
    page = (tmp_path / "here" / "report.html").read_text()
    assert said in page
    assert "over simulated time" in page
    assert "at\u00a040\u00a0s" in page
    code, _, err = headway(*words, "--budget-time", "0.1s")  # the runs are there, and none is trained again
    assert code == 1
    assert re.match(r"error: (slow|fedavg) cannot finish a round in 0\.1 s of simulated time", err)
    assert json.loads((tmp_path / "here" / "results.json").read_text()) == results


@pytest.mark.parametrize(
    ("file", "budget", "sentence"),
    [
        ("plain.toml", "2h", "fedavg and slow would run without a clock: give the run file a"),
        ("mine.toml", "0", "--budget-time must be a time above 0"),
        ("mine.toml", "-3h", "--budget-time must be a time above 0"),
        ("mine.toml", "2 weeks", "found '2 weeks'"),
    ],
)
def test_a_budget_that_cannot_be_is_a_sentence(headway, tmp_path, file, budget, sentence):
    code, out, err = headway("compare", file, "--budget-time", budget)
    assert (code, out) == (1, "")
    assert sentence in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "comparisons").exists()  # said before anything is trained


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("45", 45), ("2h", 7200), ("30min", 1800), ("1d", 86_400), ("1 h 2 min", 3720), ("0.5 s", 0.5)],
)
def test_times_in_words(said, seconds):
    assert seconds_of(said, "it") == seconds


@pytest.mark.parametrize("said", ["", "h", "1h 30", "1x", "1 h, 2 min", "1e3", "nan", "inf", "9" * 400, "0.0d"])
def test_what_is_no_time(said):
    with pytest.raises(ConfigError, match="it must be a time above 0"):
        seconds_of(said, "it")
