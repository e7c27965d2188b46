"""Rounds of a protocol at a server: its exchanges, attempts after a restart, dropouts in each of them."""

import pytest
import torch
from crashing_log import Crash, CrashingLog
from network import Network
from secure_chain import TRAINER, secure
from toys import blobs, linear_task

import headway as hw
from headway.experiment.privacy_check import check_ledger
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.privacy.options import PrivacyOptions

DATA, TASK = blobs((7, 12, 5)), linear_task(dtype="float64")
EVENTS = 1 + (1 + 3 + 1) + (1 + 3 + 1) + (1 + 3 + 1)  # of a round: begun, advertise, train, unmask


def expected(rounds=2, algorithm=None):
    run = hw.Run(algorithm or secure(), DATA, TASK, rounds=rounds)
    list(run)
    return run.state.params


def serve(folder, log, before=None, resume=False, algorithm=None, rounds=2, others=(), **options):
    """A run to its end, or to the end of its server; its randomness follows from the seed, so that it repeats."""
    algorithm = algorithm or secure()
    network = Network.of(
        algorithm,
        TASK,
        Spool(folder / "spool"),
        log,
        rounds,
        before=before,
        expected=frozenset(DATA.clients),
        **options,
    )
    network.join(algorithm, TASK, DATA, [client for client in DATA.clients if client not in others])
    run, crashed = None, False
    try:
        run = hw.Run(
            algorithm,
            DATA,
            TASK,
            rounds=rounds,
            engine=network.engine,
            folder=folder / "run",
            resume=resume,
            checkpoint_every=1,
            evaluate_every=None,
            privacy=PrivacyOptions(randomness="derived"),
        )
        reports = list(run)
    except Crash:
        crashed, reports = True, []
    finally:
        if run is not None:
            run.close()
        network.close("stopped" if crashed else "finished")
    return network, run, reports, crashed


def kinds(folder, round_):
    log = EventLog(folder)
    try:
        return [(event.attempt, event.kind) for event in log.events(round_)]
    finally:
        log.close()


def test_the_weights_are_those_of_the_local_engine(tmp_path):
    _, run, reports, _ = serve(tmp_path, EventLog(tmp_path))
    assert torch.equal(run.state.params, expected())
    assert [report.count("counted") for report in reports] == [3, 3]
    assert not any(report.notes for report in reports)
    assert len(kinds(tmp_path, 0)) == EVENTS


VERDICTS = ("before 0", "after 0", "before 1", "after 1")
FEW = (1, 3, 6, 8, 11, 13, 16, EVENTS + 2)


@pytest.mark.parametrize("place", FEW)
def test_a_server_that_ends_after_an_event_comes_to_the_same_weights(tmp_path, place):
    check_crash(tmp_path, place)


@pytest.mark.parametrize("place", VERDICTS[:2])
def test_a_server_that_ends_beside_the_verdicts_comes_to_the_same_weights(tmp_path, place):
    check_crash(tmp_path, place)


@pytest.mark.soak
@pytest.mark.parametrize("place", [*range(1, 2 * EVENTS + 1), *VERDICTS])
def test_a_server_that_ends_after_any_event_comes_to_the_same_weights(tmp_path, place):
    check_crash(tmp_path, place)


def check_crash(folder, place):
    """Before the training of an attempt is closed a new one begins; after it, the attempt is gone on with."""
    log = CrashingLog(folder)
    log.crash_at = place
    network, _, _, crashed = serve(folder, log)
    assert crashed
    _, run, reports, _ = serve(folder, EventLog(folder), network, resume=True)
    assert torch.equal(run.state.params, expected())
    verdicts = isinstance(place, str)
    own = kinds(folder, int(place[-1]) if verdicts else (place - 1) // EVENTS)
    trained = verdicts or (place - 1) % EVENTS >= EVENTS - 6  # the training was closed
    assert {attempt for attempt, _ in own} == ({0} if trained else {0, 1})
    assert sum(kind == "closed" for _, kind in own) == 1
    assert any("begun again" in note for report in reports for note in report.notes) != trained


def private():
    secure_sum = hw.SecureSum(min_cohort=3, min_survivors=3)
    chain = hw.chain(hw.Clip(1.0), hw.Quantize(16), secure_sum, hw.Mean("expected"), hw.GaussianNoise(2.0))
    return hw.Algorithm(chain, TRAINER, hw.All())


@pytest.mark.parametrize("place", [3, 20, "before 0"], ids=["among the keys", "after training", "after the release"])
def test_a_crash_makes_no_second_release_and_the_ledger_agrees_with_the_journal(tmp_path, place):
    """A round has its reservation where it comes to its release, and none more where that was on disk."""
    log = CrashingLog(tmp_path)
    log.crash_at = place
    network, _, _, crashed = serve(tmp_path, log, algorithm=private(), population=3)
    assert crashed
    _, run, reports, _ = serve(tmp_path, EventLog(tmp_path), network, resume=True, algorithm=private(), population=3)
    assert run.state.round == 2
    assert all(report.count("counted") == 3 for report in reports)
    result = check_ledger(tmp_path / "run")
    assert not result.differences
    assert result.lines == 1 + 2  # the terms, and each round once
    assert torch.equal(run.state.params, expected(algorithm=private()))
    assert kinds(tmp_path, 0)[-1][0] == (1 if place == 3 else 0)
