"""A run keeps its budget: what it spends is written first, stays spent whatever happens, and is refused in time."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import ConfigError, RunFolderError
from headway.observe.journal import Journal
from headway.privacy.accountant import epsilon
from headway.privacy.ledger_file import LEDGER, read_entries
from headway.privacy.options import PrivacyOptions
from headway.privacy.spends import Spend
from headway.protocol.messages import Train

ROUNDS = 4
ROOT = Path(__file__).parents[2]


def budget(rounds, z=2.0, rate=1.0):
    """The epsilon of so many rounds."""
    return epsilon({Spend(z, rate=rate): rounds}, 1e-5)


def make(folder=None, rounds=ROUNDS, stages=None, sampler=None, **options):
    chain = stages or (hw.Clip(norm=1.0), hw.Mean(over="expected"), hw.GaussianNoise(2.0))
    algorithm = hw.Algorithm(hw.chain(*chain), hw.LocalSGD(lr=0.1, batch_size=4), sampler or hw.All())
    made = {"privacy": PrivacyOptions(delta=1e-5), "checkpoint_every": 1, **options}
    return hw.Run(algorithm, blobs((7, 12, 5)), linear_task(), rounds=rounds, folder=folder, **made)


def limited(rounds, **options):
    return PrivacyOptions(epsilon=budget(rounds), delta=1e-5, **options)


def asked_rounds(run):
    """The rounds for which clients are asked to train, as the list grows."""
    original, found = run.engine.ask, []

    def ask(ask):
        if isinstance(ask.request, Train):
            found.append(ask.request.round + 1)
        return original(ask)

    run.engine.ask = ask
    return found


def test_each_report_and_the_journal_have_what_is_spent(tmp_path):
    run = make(tmp_path / "run")
    reports = list(run)
    assert [report.privacy for report in reports] == [{"client": budget(n), "delta": 1e-5} for n in (1, 2, 3, 4)]
    assert run.ledger.spent().epsilons == {"client": budget(4)}
    run.close()
    journal = Journal(tmp_path / "run" / "journal.sqlite")
    assert journal.series("privacy", "client") == [(n, budget(n)) for n in (1, 2, 3, 4)]
    journal.close()
    entries = read_entries(tmp_path / "run" / LEDGER)
    assert [entry.get("round") for entry in entries] == [None, 1, 2, 3, 4]


def test_sampling_that_was_executed_decides():
    poisson = make(sampler=hw.Poisson(rate=0.5))
    list(poisson)
    assert poisson.ledger.spent().epsilons == {"client": budget(4, rate=0.5)}
    fixed = make(sampler=hw.Uniform(count=1))
    list(fixed)
    assert fixed.ledger.spent().epsilons == {"client": budget(4)}


def test_the_run_ends_before_the_round_that_would_pass_the_budget(tmp_path):
    run = make(tmp_path / "run", rounds=9, privacy=limited(2), evaluate_every=5)
    asked = asked_rounds(run)
    reports = list(run)
    assert asked == [1, 2]
    assert [report.round for report in reports] == [1, 2]
    assert run.finished
    assert "allows no round 3" in run.stopped_because
    assert "the run ends with this round" in reports[-1].notes[-1]
    assert run.ledger.spent().epsilons == {"client": budget(2)}
    run.close()
    resumed = make(tmp_path / "run", rounds=9, privacy=limited(2), evaluate_every=5, resume=True)
    assert resumed.finished
    assert "allows no round 3" in resumed.stopped_because
    asked = asked_rounds(resumed)
    assert list(resumed) == []
    assert asked == []
    assert resumed.state.round == 2
    resumed.close()


def test_a_larger_budget_goes_on(tmp_path):
    run = make(tmp_path / "run", privacy=limited(2))
    list(run)
    run.close()
    resumed = make(tmp_path / "run", privacy=limited(3), resume=True)
    assert [report.round for report in resumed] == [3]
    assert resumed.ledger.spent().epsilons == {"client": budget(3)}
    resumed.close()


def test_a_budget_that_allows_no_round_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="The privacy budget allows no round 1"):
        make(tmp_path / "run", privacy=PrivacyOptions(epsilon=0.1, delta=1e-5))


def test_a_budget_without_noise_is_refused():
    with pytest.raises(ConfigError, match="no stage of the chain adds noise"):
        make(stages=(hw.Mean(),), privacy=limited(2))


def test_a_run_without_noise_has_no_ledger(tmp_path):
    run = make(tmp_path / "run", stages=(hw.Mean(),), privacy=PrivacyOptions())
    assert all(report.privacy == {} for report in run)
    assert run.ledger is None
    run.close()
    assert not (tmp_path / "run" / LEDGER).exists()


def test_a_round_that_came_to_nothing_stays_spent(tmp_path):
    """The noise was drawn, and the run was cut before the round counted."""
    run = make(tmp_path / "run")
    steps = iter(run)
    next(steps)

    class Cut(Exception):
        pass

    def cut(trained):
        raise Cut

    run._driver.settle = cut
    with pytest.raises(Cut):
        next(steps)
    run.close()
    (replayed,) = (tmp_path / "run" / "replay").glob("round-000001*")
    replayed.unlink()  # the release is not kept either
    resumed = make(tmp_path / "run", resume=True)
    assert resumed.ledger.spent().epsilons == {"client": budget(2)}
    assert [report.privacy["client"] for report in resumed] == [budget(3), budget(4), budget(5)]
    resumed.close()


def test_a_release_that_is_kept_is_used_again_and_costs_nothing_more(tmp_path):
    expected = make(tmp_path / "whole", checkpoint_every=10)
    list(expected)
    run = make(tmp_path / "run", checkpoint_every=10, privacy=limited(ROUNDS))
    steps = iter(run)
    next(steps), next(steps), next(steps)
    run._checkpointer.close(), run.engine.close()  # as a crash leaves it: the checkpoint is of the start
    resumed = make(tmp_path / "run", checkpoint_every=10, privacy=limited(ROUNDS), resume=True)
    assert resumed.state.round == 0
    assert [report.privacy["client"] for report in resumed] == [budget(n) for n in (1, 2, 3, 4)]
    assert torch.equal(resumed.state.params, expected.state.params)
    assert resumed.ledger.spent().epsilons == {"client": budget(ROUNDS)}


def secure(noise, mode="real"):
    """A chain with a secure sum, and noise at the clients or at the server."""
    masked = hw.SecureSum(min_cohort=3, min_survivors=3, mode=mode)
    if noise == "clients":
        noisy = hw.Quantize(bits=16), hw.Skellam(2.0, survivors=3)
        return hw.Clip(1.0), *noisy, masked, hw.Mean("expected")
    return hw.Clip(1.0), hw.Quantize(bits=16), masked, hw.Mean("expected"), hw.GaussianNoise(2.0)


@pytest.mark.parametrize("mode", ["real", "ideal"])
@pytest.mark.parametrize("noise", ["clients", "server"])
def test_the_release_of_a_secure_sum_is_used_again_and_costs_nothing_more(tmp_path, noise, mode):
    """Rounds after the last checkpoint are gone through again without a client."""
    chain = secure(noise, mode)
    expected = make(stages=chain)
    list(expected)
    run = make(tmp_path / "run", stages=chain, checkpoint_every=10)
    steps = iter(run)
    next(steps), next(steps)
    run._checkpointer.close(), run.engine.close()  # as a crash leaves it
    resumed = make(tmp_path / "run", stages=chain, checkpoint_every=10, resume=True)
    asked = asked_rounds(resumed)
    assert resumed.state.round == 0
    reports = list(resumed)
    assert [len(report.clients.with_status("counted")) for report in reports] == [3] * ROUNDS
    assert asked == [3, 4]
    assert torch.equal(resumed.state.params, expected.state.params)
    assert resumed.ledger.spent() == expected.ledger.spent()
    resumed.close()


def test_noise_of_the_operating_system_is_not_drawn_again(tmp_path):
    options = {"privacy": PrivacyOptions(delta=1e-5, randomness="system"), "checkpoint_every": 10}
    run = make(tmp_path / "run", stages=secure("server"), **options)
    steps = iter(run)
    next(steps)
    (kept,) = (tmp_path / "run" / "replay").glob("*")
    held, released = kept.read_bytes(), run.state.params
    run._checkpointer.close(), run.engine.close()
    resumed = make(tmp_path / "run", stages=secure("server"), resume=True, **options)
    assert kept.read_bytes() == held
    next(iter(resumed))
    assert torch.equal(resumed.state.params, released)
    resumed.close()


def test_a_round_of_a_secure_sum_that_has_no_release_is_begun_again(tmp_path, monkeypatch):
    """A part of its exchanges is not kept, however long they took: the clients' secrets are gone."""
    monkeypatch.setattr("headway.experiment.replay.KEEP_AFTER_S", 0.0)
    run = make(tmp_path / "run", stages=secure("server"))
    run._driver.reserve = lambda *given: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(run)
    run.close()
    assert not list((tmp_path / "run").glob("replay/*"))


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from headway.core import fault_points
from experiment.test_run_ledger import make, secure
passed = []
def hook(place):
    passed.append(place)
    if passed.count(sys.argv[2]) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
fault_points.install(hook)
list(make(Path(sys.argv[1]), stages=secure(sys.argv[3]) if sys.argv[3] else None))
"""


def killed(folder, place, noise=""):
    """A run that was killed when it came to a place for the third time."""
    paths = [str(ROOT / "tests"), str(ROOT / "tests" / "engines"), *sys.path]
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), place, noise, *paths],
        env={**os.environ, "PYTHONPATH": str(Path(hw.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=600,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="another system")
@pytest.mark.parametrize("noise", ["", "server"], ids=["plain", "secure sum"])
def test_a_kill_between_ledger_and_noise_counts_as_spent(tmp_path, noise):
    folder = tmp_path / "run"
    killed(folder, "after a reservation is on disk", noise)
    stages = secure(noise) if noise else None
    assert [entry.get("round") for entry in read_entries(folder / LEDGER)] == [None, 1, 2, 3]
    resumed = make(folder, stages=stages, resume=True)
    assert resumed.state.round == 2
    assert resumed.ledger.spent().epsilons == {"client": budget(3)}
    assert [report.privacy["client"] for report in resumed] == [budget(4), budget(5)]
    resumed.close()
    rounds = [entry.get("round") for entry in read_entries(folder / LEDGER)]
    assert rounds == [None, 1, 2, 3, 3, 4]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="another system")
def test_a_kill_between_the_release_of_a_secure_sum_and_its_checkpoint_changes_nothing(tmp_path):
    folder = tmp_path / "run"
    killed(folder, "after the effects of a round are on disk", "clients")
    expected, resumed = make(stages=secure("clients")), make(folder, stages=secure("clients"), resume=True)
    list(expected)
    assert resumed.state.round == 2
    asked = asked_rounds(resumed)
    list(resumed)
    assert asked == [4]
    assert torch.equal(resumed.state.params, expected.state.params)
    resumed.close()
    assert [entry.get("round") for entry in read_entries(folder / LEDGER)] == [None, 1, 2, 3, 4]


def stopped(folder):
    run = make(folder)
    steps = iter(run)
    next(steps), next(steps)
    steps.close()
    run.close()
    return folder / LEDGER


@pytest.mark.parametrize("what", ["changed", "cut", "gone"])
def test_resume_refuses_a_ledger_that_is_not_whole(tmp_path, what):
    path = stopped(tmp_path / "run")
    lines = path.read_text().splitlines()
    if what == "changed":
        entry = json.loads(lines[1])
        entry["events"][0]["noise_multiplier"] = 100.0
        path.write_text("\n".join([lines[0], json.dumps(entry), *lines[2:]]) + "\n")
    elif what == "cut":
        path.write_text("\n".join(lines[:-1]) + "\n")
    else:
        path.unlink()
    message = {"changed": "line 2: .* digest", "cut": "has 2 lines, and had 3", "gone": "is gone"}[what]
    with pytest.raises(RunFolderError, match=message):
        make(tmp_path / "run", resume=True)


def test_a_run_that_has_released_makes_no_way_for_another(tmp_path):
    """Its first round may have been seen, though it came to nothing."""
    run = make(tmp_path / "run")
    run._driver.settle = lambda trained: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(run)
    run.close()
    with pytest.raises(RunFolderError, match="holds a run"):
        make(tmp_path / "run")


def test_single_clients_are_not_evaluated_where_they_are_protected():
    run = make()
    reports = list(run)
    assert all(report.metrics == {} and report.evaluation == {} for report in reports)
    assert any("none is evaluated on its own test part" in notice for notice in run.notices)
    released = make(privacy=PrivacyOptions(delta=1e-5, client_metrics="released"))
    assert "accuracy" in list(released)[-1].metrics
    others = [each["what"] for each in released.ledger.terms.other]
    assert "mean metrics on the clients' own test parts" in others


def test_clients_without_protection_are_evaluated_as_before():
    run = make(stages=(hw.Mean(),), privacy=PrivacyOptions())
    assert "accuracy" in list(run)[-1].metrics
