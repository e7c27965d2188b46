"""A rule for the whole cohort gets as many updates as it needs, or the round is skipped and that is said."""

from dataclasses import dataclass

import pytest
import torch
from toys import blobs, linear_task

import headway as hw


@dataclass(frozen=True)
class Trimmed(hw.Aggregator):
    """The mean without the largest and the smallest number of each coordinate; NaN of fewer than three."""

    whole_cohort = True
    trim: int = 1

    def connect(self, flow):
        return super().connect(flow).set(self, min_updates=2 * self.trim + 1)

    def reduce(self, rows, state, ctx):
        kept = rows.joined().double().sort(dim=0).values[self.trim : len(rows.names) - self.trim]
        return rows.update(kept.mean(0)), state


def algorithm(sampler, quorum=None, trainer=None):
    trainer = trainer or hw.LocalSGD(lr=0.1, batch_size=4)
    return hw.Algorithm(hw.chain(hw.Scaffold(), Trimmed()), trainer, sampler, quorum or hw.Quorum())


def run(sampler, sizes=(9, 12, 5, 7), **options):
    made = hw.Run(algorithm(sampler, options.pop("quorum", None), options.pop("trainer", None)), blobs(sizes),
                  linear_task(), **{"rounds": 6, **options})  # fmt: skip
    return made, list(made)


@pytest.mark.parametrize(
    ("sampler", "sizes"),
    [
        (hw.Uniform(count=2), (9, 12, 5, 7)),
        (hw.Fixed(clients=("client-0", "client-1")), (9, 12, 5, 7)),
        (hw.Poisson(rate=0.5), (9, 12, 5, 7)),
        (hw.All(), (9, 12)),
        (hw.RoundRobin(count=1), (9, 12, 5, 7)),
    ],
    ids=repr,
)
def test_an_algorithm_that_never_has_enough_is_refused(sampler, sizes) -> None:
    with pytest.raises(hw.ChainRefused, match=r"at least 3 updates in a round \(Trimmed depends on it\)"):
        run(sampler, sizes)


def test_a_quorum_that_ends_rounds_too_early_is_refused() -> None:
    with pytest.raises(hw.ChainRefused, match="at least 3 updates"):
        algorithm(hw.All(), hw.Quorum(count=2, deadline_s=10.0))


def test_a_short_round_is_skipped_said_and_commits_no_memory() -> None:
    made, reports = run(hw.Poisson(rate=0.8), rounds=12, seed=3)
    short = [report for report in reports if report.notes]
    assert short, "no round of fewer than three: choose another seed"
    for report in short:
        assert any("skipped, since Trimmed needs at least 3 updates" in note for note in report.notes)
        assert report.count("counted") == 0
        assert all("skipped" in each.reason for each in report.clients)
    assert any(report.count("counted") >= 3 for report in reports)
    assert bool(torch.isfinite(made.state.params).all())


def test_the_model_of_a_skipped_round_is_the_one_before() -> None:
    made = hw.Run(algorithm(hw.Poisson(rate=0.8)), blobs((9, 12, 5, 7)), linear_task(), rounds=12, seed=3)
    before = made.state.params
    for report in made:
        skipped = not report.count("counted")
        assert torch.equal(made.state.params, before) == skipped
        before = made.state.params
