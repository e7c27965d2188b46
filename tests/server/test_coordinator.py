"""The coordinator decides a round from events and times alone: no clients, no clock, no bytes."""

from __future__ import annotations

import torch

from headway.protocol.messages import Answer, Ask, Message, Train
from headway.protocol.quorum import Quorum
from headway.protocol.reports import ClientReport
from headway.server.coordinator import Coordinator


def ask(round_, *clients):
    return Ask(Train(Message(torch.full((2,), float(round_))), round_), clients)


def answered(counting):
    return Answer(reports=[ClientReport(client, "counted") for client in counting.cohort])


def test_the_first_to_answer_count_and_the_others_are_lost() -> None:
    coordinator = Coordinator(Quorum(count=2))
    tickets = {ticket.client: ticket for ticket in coordinator.begin(ask(0, "a", "b", "c"), 10.0)}
    for now, client in ((12.0, "c"), (15.0, "a")):
        assert coordinator.pool.arrived(tickets[client], now) == "accepted"
    assert coordinator.pool.done
    counting, closed = coordinator.close(ask(0, "a", "b", "c"))
    assert counting.cohort == ("a", "c")
    answer = coordinator.answer(answered(counting), closed, population=5)
    assert [(each.client, each.status) for each in answer.reports] == [
        ("a", "counted"),
        ("b", "dropped"),
        ("c", "counted"),
    ]
    assert answer.reports[2].metrics == {"asked_s": 10.0, "ended_s": 12.0, "age": 0.0}
    assert answer.reports[1].bytes_down == coordinator.bytes_down > 0
    assert answer.clock == {"begun_s": 10.0, "ended_s": 15.0, "wasted_s": 5.0, "population": 5.0}
    assert not answer.flying


def test_a_late_update_counts_later_with_the_message_and_the_steps_that_it_was_asked_with() -> None:
    coordinator = Coordinator(Quorum(count=1, late="keep"))
    first = {ticket.client: ticket for ticket in coordinator.begin(ask(0, "a", "b"), 0.0)}
    coordinator.limit_steps(first["b"], 3)
    coordinator.pool.arrived(first["a"], 1.0)
    counting, closed = coordinator.close(ask(0, "a", "b"))
    assert (counting.cohort, counting.earlier, counting.steps) == (("a",), {}, {})
    assert coordinator.answer(answered(counting), closed, 2).flying == {"b": 0.0}
    other = Coordinator(coordinator.pool.quorum)
    other.from_state(*coordinator.to_state())  # as a run that is resumed
    for each in (coordinator, other):
        each.begin(ask(1, "a"), 2.0)
        assert each.message_for(first["b"]).params.tolist() == [0.0, 0.0]
        each.pool.arrived(first["b"], 3.0)
        counting, closed = each.close(ask(1, "a"))
        assert (counting.cohort, counting.steps) == (("b",), {"b": 3})
        assert counting.asked_in("b") == 0
        assert counting.broadcast_for("b").params.tolist() == [0.0, 0.0]
        assert counting.request_for("b").steps == 3
        assert each.answer(answered(counting), closed, 2).reports[0].metrics["age"] == 1.0


def test_every_loss_of_a_client_is_reported_and_the_last_one_first() -> None:
    coordinator = Coordinator(Quorum(retries=1))
    (ticket,) = coordinator.begin(ask(0, "a"), 0.0)
    (again,) = coordinator.pool.failed(ticket, 1.0, "it crashed")
    assert coordinator.pool.failed(again, 2.0, "it went away") == ()
    counting, closed = coordinator.close(ask(0, "a"))
    answer = coordinator.answer(answered(counting), closed, 1)
    assert [(each.client, each.reason) for each in answer.reports] == [("a", "it went away")]
    assert [each.reason for each in answer.earlier] == ["it crashed"]
