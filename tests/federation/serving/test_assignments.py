"""The requests that clients have not answered, and the decisions about their replies."""

from pathlib import Path

import pytest

from headway.federation.http_api import Assignment, Receipt
from headway.federation.serving.assignments import Assignments, ReplyArrived
from headway.federation.serving.refusals import Refused

ASSIGNMENT = Assignment(assignment="a-1", job="job", kind="train", round=0, message="0" * 64, size=1, limit=10)


def reply(digest="1" * 64):
    return ReplyArrived("client", ASSIGNMENT, Path("reply"), digest, 1, "0" * 64)


def receipt(arrived, verdict="accepted"):
    own = {"job": "job", "client": "client", "round": 0, "attempt": 0, "assignment": "a-1"}
    return Receipt(**own, digest=arrived.digest, size=1, verdict=verdict)


def opened():
    board = Assignments()
    board.open("client", ASSIGNMENT)
    board.listen()
    return board


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


def test_requests_are_taken_back_by_name_from_whoever_has_them():
    board = opened()
    board.open("other", ASSIGNMENT.model_copy(update={"assignment": "a-2"}))
    board.withdraw_named({"a-1", "a-3"})
    assert (board.of("client"), board.of("other").assignment) == (None, "a-2")
