"""The requests that clients have not answered, and the decisions about their replies."""

from pathlib import Path

from headway.federation.http_api import Assignment, Receipt
from headway.federation.serving.assignments import Assignments, ReplyArrived

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
