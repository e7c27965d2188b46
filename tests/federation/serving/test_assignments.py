"""The requests that clients have not answered, and the decisions about their replies."""

import asyncio
from pathlib import Path

import pytest

from headway.federation.http_api import Assignment, Receipt
from headway.federation.serving.assignments import Assignments, ReplyArrived
from headway.federation.serving.refusals import Refused

ASSIGNMENT = Assignment(assignment="a-1", job="job", kind="train", round=0, message="0" * 64, size=1, limit=10)


def reply(digest="1" * 64, client="client"):
    return ReplyArrived(client, ASSIGNMENT, Path("reply"), digest, 1, "0" * 64)


def receipt(arrived, verdict="accepted"):
    own = {"job": "job", "client": arrived.client, "round": 0, "attempt": 0, "assignment": "a-1"}
    return Receipt(**own, digest=arrived.digest, size=1, verdict=verdict)


def opened():
    board = Assignments()
    board.open("client", ASSIGNMENT)
    return board


def test_a_reply_that_is_sooner_than_the_run_waits_for_it_is_kept():
    """A client may answer while the run still asks the others."""
    board, soon = opened(), reply()
    assert not board.arrived(soon).done()
    assert board.events.get_nowait() is soon


def test_a_reply_that_no_run_has_asked_for_yet_is_let_go_of():
    """It is of the run before a restart: its client hands it over again when the run has come so far."""
    board = Assignments()
    with pytest.raises(Refused) as caught:
        board.arrived(reply()).result(0)
    assert caught.value.problem.kind == "busy"
    board.listen()
    assert not board.arrived(reply()).done()


def test_a_reply_whose_end_is_sent_twice_is_decided_about_once():
    """A second call that was on its way while the first was decided about gets that decision, and is no late update."""
    board, first, second, third = opened(), reply(), reply(), reply()
    assert board.arrived(first) is board.arrived(second)
    board.answer(first, receipt(first))
    assert board.arrived(third).result(0).verdict == "accepted"
    assert board.events.get_nowait() is first
    assert board.events.empty()
    assert board.receipt("client", "a-1").verdict == "accepted"


def test_other_bytes_under_a_name_that_was_answered_are_for_the_run_to_refuse():
    board, first, other = opened(), reply(), reply("2" * 64)
    board.arrived(first)
    board.answer(first, receipt(first))
    assert not board.arrived(other).done()
    assert [board.events.get_nowait(), board.events.get_nowait()] == [first, other]


@pytest.mark.parametrize(("state", "kind"), [("finished", "late"), ("failed", "busy"), ("stopped", "busy")])
def test_replies_of_a_run_that_has_ended_are_let_go_of_at_once(state, kind):
    """The connection of a client does not stay open for a decision that nobody will make."""
    board, before, after = opened(), reply(), reply()
    waiting = board.arrived(before)
    board.set_state(state)
    for verdict in (waiting, board.arrived(after)):
        with pytest.raises(Refused) as caught:
            verdict.result(0)
        assert caught.value.problem.kind == kind
    assert not board.undecided()


def test_equal_replies_of_two_clients_to_one_exchange_are_two():
    """Its requests have one name, and replies such as that of a client that declines may have the same bytes."""
    board, one, other = opened(), reply(), reply(client="other")
    board.open("other", ASSIGNMENT)
    assert board.arrived(one) is not board.arrived(other)
    assert [board.events.get_nowait(), board.events.get_nowait()] == [one, other]
    board.answer(one, receipt(one))
    assert not other.verdict.done()
    assert board.undecided() == {other.digest}
    board.answer(other, receipt(other))
    assert [board.receipt(client, "a-1").client for client in ("client", "other")] == ["client", "other"]


def test_the_end_of_a_run_lets_go_of_every_client_of_an_exchange():
    board, several = opened(), [reply(client=client) for client in ("client", "other", "third")]
    for each in several:
        board.arrived(each)
    board.end()
    for each in several:
        with pytest.raises(Refused, match="no run is waiting"):
            each.verdict.result(0)


def test_requests_are_taken_back_by_name_from_whoever_has_them():
    board = opened()
    board.open("other", ASSIGNMENT.model_copy(update={"assignment": "a-2"}))
    board.withdraw_named({"a-1", "a-3"})
    assert (board.of("client"), board.of("other").assignment) == (None, "a-2")


@pytest.mark.parametrize("state", ["finished", "failed", "stopped"])
def test_who_asks_after_the_end_is_told_at_once_though_it_was_told_before(state):
    """Its connection broke, or it had ended the heartbeat that would have brought it."""
    board = Assignments()
    board.set_state(state)
    assert board.show_state("client") == (state, "")
    asyncio.run(asyncio.wait_for(board.news("client", (), 3600.0), 60.0))
