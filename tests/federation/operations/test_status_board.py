"""The status of a run: what is counted, what is kept, and that its memory is bounded."""

import math
from itertools import pairwise

import pytest
from boards import rounds_of

from headway.federation.operations.status_board import MOST_CLIENTS, MOST_EVENTS, StatusBoard
from headway.federation.operations.status_history import MOST_ROUNDS, StatusHistory
from headway.federation.operations.status_snapshot import ChainStatus, RoundStatus, StatusSnapshot
from headway.observe.round_report import Alarm, RoundReport
from headway.protocol.reports import Reports


def simulation(rounds=10, **clocks):
    return StatusBoard("simulation", "mine", rounds, **clocks)


def test_a_round_is_on_the_board_with_every_client():
    board = simulation()
    board.describe("accuracy", ChainStatus(), 3)
    board.set_state("running")
    for report in rounds_of(2):
        board.add_round(report)
    status = board.snapshot()
    assert (status.round, status.rounds, status.state, status.population) == (2, 10, "running", 3)
    assert status.metrics == {"accuracy": 0.5, "loss": None}  # a NaN is no number for JSON
    north, south, west = status.clients
    assert (north.counted, north.loss, north.bytes_up) == (2, 0.25, 200)
    assert (south.refused, south.reason) == (2, "not finite")
    assert (west.lost, west.reason) == (2, "the deadline passed")
    assert status.totals.counted == 2
    assert status.totals.bytes_up == 2 * 300
    newest = status.events[0]
    assert (newest.round, newest.sort, newest.text) == (2, "note", "a remark")
    assert {each.sort for each in status.events} == {"refused", "lost", "alarm", "note"}


def test_it_goes_through_json_unchanged():
    board = simulation()
    for report in rounds_of(3):
        board.add_round(report)
    status = board.snapshot()
    assert StatusSnapshot.model_validate_json(status.model_dump_json()) == status
    newer = status.model_dump_json()[:-1] + ', "added_later": 1}'
    assert StatusSnapshot.model_validate_json(newer) == status


def test_the_time_to_the_end_is_that_of_the_last_rounds():
    now = [0.0]
    board = simulation(rounds=20, pace=lambda: now[0])
    board.describe("", ChainStatus(), 0)
    board.set_state("running")
    assert board.snapshot().eta_s is None
    for round_, seconds in enumerate([100.0, *[2.0] * 10], 1):  # the first, with all preparations, takes long
        now[0] += seconds
        board.add_round(RoundReport(round_, None, Reports(), 0.1, 0, 0))
    status = board.snapshot()
    assert (status.round_seconds, status.eta_s) == (2.0, 18.0)
    board.set_state("finished")
    assert board.snapshot().eta_s is None


def test_memory_is_bounded_over_many_rounds_and_clients():
    board = simulation(rounds=5000)
    for round_ in range(1, 3001):
        names = [f"client-{round_}-{each}" for each in range(9)]
        reports = Reports(names, "rejected", reasons="x" * 5000)
        board.add_round(RoundReport(round_, 1.0, reports, 0.1, 1, 1, notes=("y" * 5000,) * 30))
    status = board.snapshot()
    assert len(status.history) <= MOST_ROUNDS + 1
    assert status.history[-1].round == 3000
    assert len(status.clients) == MOST_CLIENTS
    assert len(status.events) == MOST_EVENTS
    assert status.totals.rejected == 27_000  # of all rounds, kept or not
    assert len(status.model_dump_json()) < 2_000_000
    assert "and 4 more in this round" in {each.text for each in status.events}
    assert "and 25 more in this round" in {each.text for each in status.events}


def test_a_large_cohort_keeps_the_clients_that_there_is_room_for():
    board = simulation()
    board.describe("", ChainStatus(), 5000)
    board.add_round(RoundReport(1, 1.0, Reports(map(str, range(5000)), "counted", bytes_up=1), 0.1, 5000, 0))
    status = board.snapshot()
    assert len(status.clients) == MOST_CLIENTS
    assert status.population == 5000
    assert status.totals.bytes_up == 5000


def test_rounds_are_thinned_evenly():
    history = StatusHistory(most=50)
    for round_ in range(1, 1000):
        history.add(RoundStatus(round=round_, counted=1))
    kept = [each.round for each in history.rounds()]
    assert kept[-1] == 999
    gaps = {after - before for before, after in pairwise(kept[:-1])}
    assert len(gaps) == 1
    assert history.totals.counted == 999


def test_the_phase_keeps_its_beginning_until_it_is_another_one():
    now = [50.0]
    board = simulation(wall=lambda: now[0])
    board.set_state("running")
    board.set_phase("training", waiting_for=["a", "b"])
    now[0] = 60.0
    board.set_phase("training", waiting_for=["b"])
    assert (board.snapshot().phase.since, board.snapshot().phase.waiting) == (50.0, 1)
    board.set_phase("evaluating")
    assert board.snapshot().phase.since == 60.0
    board.set_state("failed", "no disk")
    assert board.snapshot().phase.phase == ""


@pytest.mark.parametrize("loss", [math.nan, math.inf, None])
def test_a_round_without_a_loss(loss):
    board = simulation()
    board.add_round(RoundReport(1, loss, Reports(), 0.0, 0, 0, alarms=(Alarm("above", ("a",), "far"),)))
    assert board.snapshot().history[0].train_loss is None
