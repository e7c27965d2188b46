"""The pool: every update counts once, no round waits for ever, and only events and times decide."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headway as hw
from headway.protocol.round_pool import RoundPool

NAMES = [f"c{n}" for n in range(8)]


def pool(**options):
    return RoundPool(hw.Quorum(**options))


def clients(arrivals):
    return [arrival.ticket.client for arrival in arrivals]


def test_a_round_of_all_ends_with_the_last_one():
    p = pool()
    a, b = p.open(0, ["a", "b"], 0.0)
    assert (a.client, b.client, a.round, a.asked, p.busy) == ("a", "b", 0, 0.0, {"a", "b"})
    assert p.arrived(b, 1.0) == "accepted"
    assert not p.done
    assert p.arrived(a, 2.0) == "accepted"
    assert p.done
    closed = p.close()
    assert (clients(closed.counted), closed.at, closed.losses) == (["b", "a"], 2.0, ())
    assert p.busy == set()


def test_over_selection_takes_the_first_and_cancels_the_others():
    p = pool(count=2)
    a, b, c = p.open(0, ["a", "b", "c"], 0.0)
    p.arrived(c, 1.0)
    p.arrived(a, 1.5)
    assert p.done
    closed = p.close()
    assert clients(closed.counted) == ["c", "a"]
    assert [(loss.ticket, loss.reason) for loss in closed.losses] == [(b, "the round was over before it answered")]
    (again,) = p.open(1, ["b"], 1.5)
    assert p.arrived(b, 2.0) == "late", "of the round before"
    assert p.arrived(again, 2.5) == "accepted"
    assert p.arrived(again, 2.5) == "late", "a second time"
    assert clients(p.close().counted) == ["b"]


def test_a_deadline_goes_on_with_what_has_come():
    p = pool(deadline_s=10.0)
    a, b, c = p.open(0, ["a", "b", "c"], 5.0)
    assert p.due() == 15.0
    p.arrived(a, 6.0)
    assert p.arrived(b, 15.0) == "accepted", "at the deadline itself"
    assert p.pass_time(15.0) == ()
    assert p.done
    assert p.arrived(c, 15.5) == "late"
    closed = p.close()
    assert (clients(closed.counted), closed.at) == (["a", "b"], 15.5)
    assert [loss.ticket.client for loss in closed.losses] == ["c"]


def test_nobody_comes_by_the_deadline():
    p = pool(deadline_s=1.0)
    p.open(0, ["a"], 0.0)
    p.pass_time(1.0)
    assert p.done
    assert p.close().counted == ()


def test_who_fails_is_asked_again_and_then_somebody_else():
    p = pool(retries=1, replace=True)
    (a,) = p.open(0, ["a"], 0.0, reserve=["b", "c"])
    (again,) = p.failed(a, 1.0, "it crashed")
    assert (again.client, again.attempt, again.asked) == ("a", 1, 1.0)
    assert p.failed(a, 1.5, "told twice") == ()
    (b,) = p.failed(again, 2.0, "it crashed")
    assert (b.client, b.attempt) == ("b", 0)
    (again,) = p.failed(b, 2.5, "it crashed")
    (c,) = p.failed(again, 3.0, "it crashed")
    p.arrived(c, 4.0)
    closed = p.close()
    assert clients(closed.counted) == ["c"]
    assert [loss.at for loss in closed.losses] == [1.0, 2.0, 2.5, 3.0]


def test_when_all_fail_and_nobody_is_left_the_round_is_over():
    p = pool(replace=True)
    a, b = p.open(0, ["a", "b"], 0.0)
    assert p.failed(a, 1.0, "x") == p.failed(b, 2.0, "y") == ()
    assert p.done
    assert [loss.reason for loss in p.close().losses] == ["x", "y"]


def test_who_does_not_answer_is_lost():
    p = pool(lost_after_s=60.0, replace=True)
    a, b = p.open(0, ["a", "b"], 0.0, reserve=["c"])
    assert p.due() == 60.0
    p.arrived(b, 30.0)
    (c,) = p.pass_time(60.0)
    assert (c.client, p.due()) == ("c", 120.0)
    assert p.arrived(a, 61.0) == "late"
    p.arrived(c, 62.0)
    assert clients(p.close().counted) == ["b", "c"]


def test_kept_updates_count_later_with_their_age():
    p = pool(count=1, late="keep", max_age=2)
    a, b, c = p.open(0, ["a", "b", "c"], 0.0)
    p.arrived(a, 1.0)
    assert p.arrived(b, 1.0) == "accepted", "it waits for the next round"
    assert clients(p.close().counted) == ["a"]
    p.open(1, ["a"], 1.0)
    assert p.done
    (arrival,) = p.close().counted
    assert (arrival.ticket, arrival.at, arrival.age) == (b, 1.0, 1)
    assert p.busy == {"a", "c"}
    for round_ in (2, 3):
        (fresh,) = p.open(round_, ["b"], round_)
        p.arrived(fresh, round_ + 0.5)
        p.close()
    assert p.arrived(c, 4.0) == "stale"
    p.open(4, ["b"], 4.0)
    p.pass_time(4.0)
    assert not p.done


def test_a_client_whose_update_waits_is_not_asked_so_that_no_round_counts_it_twice():
    """Noise is scaled for one update of each client in a round."""
    p = pool(count=2, late="keep")
    a, b, c, _ = p.open(0, ["a", "b", "c", "d"], 0.0)
    p.arrived(a, 1.0), p.arrived(b, 1.0)
    p.close()
    assert p.arrived(c, 1.5) == "accepted", "between two rounds"
    assert (p.busy, p.held) == ({"d"}, {"c", "d"})
    assert [name for name in "abcd" if p.may_ask(name)] == ["a", "b"]
    with pytest.raises(AssertionError, match="c is asked twice"):
        p.open(1, ["a", "c"], 2.0)
    fresh, _ = p.open(1, ["a", "b"], 2.0)
    p.arrived(fresh, 2.5)
    assert clients(p.close().counted) == ["c", "a"]
    assert p.may_ask("c")


def test_a_waiting_update_may_grow_stale():
    p = pool(count=1, late="keep", max_age=0)
    a, b = p.open(0, ["a", "b"], 0.0)
    p.arrived(a, 1.0)
    p.arrived(b, 1.0)
    p.close()
    p.open(1, [], 2.0)
    assert p.done
    closed = p.close()
    assert closed.counted == ()
    assert [loss.reason for loss in closed.losses] == ["its model was 1 rounds old, and at most 0 may be"]


def test_a_cap_on_how_often_one_counts():
    p = pool(cap=2)
    for round_ in range(2):
        assert p.may_ask("a")
        (a,) = p.open(round_, ["a"], round_)
        assert not p.may_ask("a")
        p.arrived(a, round_ + 0.5)
        p.close()
    assert not p.may_ask("a")
    assert p.may_ask("b")


def test_mistakes_of_the_caller():
    p = pool()
    p.open(0, ["a"], 1.0)
    with pytest.raises(AssertionError, match="backwards"):
        p.pass_time(0.5)
    with pytest.raises(AssertionError, match="a is asked twice"):
        pool().open(0, ["a", "a"], 0.0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"deadline_s": 0.0}, "deadline_s must be above 0"),
        ({"deadline_s": float("nan")}, "deadline_s must be above 0"),
        ({"lost_after_s": -1.0}, "lost_after_s must be above 0"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"cap": 0}, "cap must be at least 1"),
        ({"late": "drop", "max_age": 3}, "late updates are dropped"),
        ({"late": "wait"}, "late"),
        ({"count": 2.5}, "count must be"),
    ],
)
def test_bad_quorums_are_refused(options, says):
    with pytest.raises(hw.ConfigError, match=says):
        hw.Quorum(**options)


# whole runs over random events ------------------------------------------------------------------------

QUORUMS = st.fixed_dictionaries(
    {},
    optional={
        "count": st.integers(1, 6),
        "deadline_s": st.floats(0.5, 20.0),
        "retries": st.integers(0, 2),
        "replace": st.booleans(),
        "lost_after_s": st.floats(1.0, 30.0),
        "cap": st.integers(1, 6),
    },
)
LATE = st.one_of(
    st.just({"late": "drop"}),
    st.fixed_dictionaries({"late": st.just("keep")}, optional={"max_age": st.integers(0, 3)}),
)


def simulated(quorum, seed, rounds=12):
    """A run in which answers, failures and silence are drawn at random; what was told, and how rounds were closed."""
    draw = random.Random(seed)
    p, now, sequence = RoundPool(quorum), 0.0, 0
    events, told, closed, verdicts = [], [], [], {}

    def send(tickets):
        nonlocal sequence
        for ticket in tickets:
            kind = draw.choice(["answer", "answer", "answer", "fail", "silence", "twice"])
            at = now + draw.choice([0.0, 1.0, draw.uniform(0, 8)])
            for again in range(2 if kind == "twice" else 1):
                if kind != "silence":
                    heapq.heappush(events, (at + again, ticket.client, sequence, kind, ticket))
                    sequence += 1

    for round_ in range(rounds):
        free = [name for name in NAMES if p.may_ask(name)]
        cohort = draw.sample(free, min(len(free), draw.randint(0, 5)))
        reserve = [name for name in free if name not in cohort]
        send(p.open(round_, cohort, now, reserve))
        steps = 0
        while not p.done:
            steps += 1
            assert steps < 10_000, "the round waits for ever"
            due = p.due()
            assert due < float("inf"), "nothing can end the round"
            if events and events[0][0] <= due:
                at, _, _, kind, ticket = heapq.heappop(events)
                now = max(now, at)
                if kind == "fail":
                    send(p.failed(ticket, now, "failed"))
                else:
                    verdict = p.arrived(ticket, now)
                    verdicts.setdefault(ticket.number, []).append(verdict)
                told.append((now, ticket.client, kind))
            else:
                now = max(now, due)
                send(p.pass_time(now))
        closed.append(p.close())
    return p, told, closed, verdicts


@settings(max_examples=150, deadline=None)
@given(QUORUMS, LATE, st.integers(0, 10**6))
def test_every_update_counts_once_and_no_round_waits_for_ever(options, late, seed):
    quorum = hw.Quorum(**options, **late)
    p, _, closed, verdicts = simulated(quorum, seed)
    counted = [arrival.ticket.number for one in closed for arrival in one.counted]
    assert len(counted) == len(set(counted)), "an update counted twice"
    for number in counted:
        assert verdicts[number].count("accepted") == 1
    lost = [loss.ticket.number for one in closed for loss in one.losses]
    assert not set(lost) & set(counted), "lost and counted"
    assert len(lost) == len(set(lost))
    assert p.served == Counter(arrival.ticket.client for one in closed for arrival in one.counted)
    if quorum.cap is not None:
        assert max(p.served.values(), default=0) <= quorum.cap
    for one in closed:
        assert len(set(clients(one.counted))) == len(one.counted), "a client counted twice in a round"
        if quorum.count is not None:
            assert len(one.counted) <= quorum.count
        for arrival in one.counted:
            assert arrival.age == one.round - arrival.ticket.round >= 0
            assert quorum.max_age is None or arrival.age <= quorum.max_age
            assert quorum.late == "keep" or arrival.age == 0
    accepted = {number for number, told in verdicts.items() if "accepted" in told}
    waiting = {arrival.ticket.number for arrival in p._accepted}
    assert accepted == set(counted) | waiting | (accepted & set(lost)), "an update was forgotten"


@settings(max_examples=40, deadline=None)
@given(QUORUMS, LATE, st.integers(0, 10**6))
def test_only_events_and_times_decide(options, late, seed):
    quorum = hw.Quorum(**options, **late)
    one, other = simulated(quorum, seed), simulated(quorum, seed)
    assert one[1:] == other[1:]


def test_between_rounds_nobody_is_asked_and_models_in_use_are_known():
    """An update that comes and an ask that fails after the round was closed, before the next one begins."""
    p = pool(count=1, late="keep", retries=3, replace=True)
    a, b, c = p.open(0, ["a", "b", "c"], 0.0, reserve=["d"])
    p.arrived(a, 1.0)
    assert clients(p.close().counted) == ["a"]
    assert p.open_rounds == {0}
    (e,) = p.open(1, ["e"], 1.0, reserve=["d"])
    p.arrived(b, 2.0)
    assert clients(p.close().counted) == ["b"]
    assert p.open_rounds == {0, 1}
    assert p.arrived(c, 3.0) == "accepted"
    assert p.busy == {"e"}
    assert p.open_rounds == {0, 1}, "c waits to count"
    assert p.failed(e, 3.0, "it crashed") == ()
    assert p.open_rounds == {0}
    p.open(2, [], 4.0)
    closed = p.close()
    assert [(arrival.ticket, arrival.age) for arrival in closed.counted] == [(c, 2)]
    assert [loss.ticket for loss in closed.losses] == [e]
    assert p.open_rounds == set()
