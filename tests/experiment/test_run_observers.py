"""Observers of the user's see each round, add remarks, stop a run, refuse a round, and go on when a run is resumed."""

import pytest
import torch

import headway as hw
from headway.observe.journal import Journal
from headway.observe.run_folder import read_tensors

DATA = hw.data.load("hospitals", key=0)
TASK = hw.Task(model=lambda: torch.nn.Linear(35, 2))


class Counter(hw.Observer):
    """Ends the run after `most` rounds in all, resumed ones included."""

    def __init__(self, most=100):
        self.most, self.count, self.seen = most, 0, []

    def on_trained(self, trained):
        assert trained.after.round == trained.before.round + 1 == trained.report.round
        assert not torch.equal(trained.after.params, trained.before.params)
        return [f"{len(trained.cohort)} of {len(trained.available)} were asked"]

    def on_evaluated(self, evaluated):
        self.seen.append(evaluated.report.metrics["accuracy"])
        return ["evaluated"]

    def on_round(self, report):
        self.count += 1
        return f"{self.count} rounds are enough." if self.count >= self.most else None

    def to_state(self):
        return {"count": self.count}

    def from_state(self, kept):
        self.count = kept["count"]


def run(rounds=5, **options):
    return hw.Run(hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1)), DATA, TASK, rounds=rounds, **options)


def test_remarks_stand_in_the_report_and_the_journal(tmp_path):
    made = run(2, folder=tmp_path / "run", observers=[Counter()])
    first, _ = list(made)
    made.close()
    assert first.notes[-2:] == ("4 of 4 were asked", "evaluated")
    journal = Journal(tmp_path / "run" / "journal.sqlite")
    assert [row["text"] for row in journal.rows("notes")].count("4 of 4 were asked") == 2
    journal.close()


def test_a_sentence_ends_the_run_after_its_round_which_is_evaluated_and_kept(tmp_path):
    counter = Counter(most=3)
    made = run(9, folder=tmp_path / "run", observers=[counter], evaluate_every=5)
    reports = list(made)
    assert [report.round for report in reports] == [1, 2, 3]
    assert made.finished
    assert made.stopped_because == "3 rounds are enough."
    assert "the run ends with this round: 3 rounds are enough." in reports[-1].notes
    assert counter.seen == [reports[-1].metrics["accuracy"]]
    assert list(made) == []
    made.close()
    _, notes = read_tensors(tmp_path / "run" / "checkpoints" / "round-000003.safetensors")
    assert notes["observers"] == {"Counter": {"count": 3}}
    assert notes["best"]["round"] == 3


def test_a_run_with_observers_ends_as_one_without_and_goes_on_when_resumed(tmp_path):
    plain = run(4)
    list(plain)
    first = run(2, folder=tmp_path / "run", observers=[Counter(), Counter()])
    list(first)
    first.close()
    one, other = Counter(), Counter()
    second = run(4, folder=tmp_path / "run", resume=True, observers=[one, other])
    assert (one.count, other.count) == (2, 2)
    list(second)
    second.close()
    assert (one.count, other.count) == (4, 4)
    assert torch.equal(plain.state.params, second.state.params)
    third = run(5, folder=tmp_path / "run", resume=True)  # without them
    list(third)
    third.close()


def test_a_round_that_an_observer_refuses_does_not_count():
    class Strict(hw.Observer):
        def on_trained(self, trained):
            if trained.report.round == 2:
                raise hw.Diverged("round 2 is not wanted.")
            return ()

    made = run(observers=[Strict()])
    reports = iter(made)
    next(reports)
    before = made.state
    with pytest.raises(hw.Diverged, match="round 2 is not wanted"):
        next(reports)
    assert made.state is before


def test_what_is_no_observer_is_refused():
    with pytest.raises(hw.ConfigError, match=r"observers must be headway\.Observer objects, found <function"):
        run(observers=[print_round])


def print_round(report):
    print(report)
