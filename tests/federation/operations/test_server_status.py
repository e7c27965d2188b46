"""The status of a server: its members, the phase of its engine, and its job."""

import time

from headway.federation import http_api as api
from headway.federation.job_facts import own_versions
from headway.federation.operations.server_status import ServerStatus, shown_clients
from headway.federation.operations.status_board import MOST_CLIENTS
from headway.federation.operations.status_text import now_text
from headway.federation.serving.assignments import Assignments
from headway.federation.serving.members import Members
from headway.federation.serving.network_training import Progress


def joining(job="job-1"):
    task = api.TaskFacts(layout="x", parameters=3, loss="squared_error")
    data = api.DataFacts(train=40, test=10, input_shape=(3,))
    return api.JoinRequest(job=job, versions=own_versions(), task=task, data=data)


def assignment(name="a-1"):
    return api.Assignment(
        assignment=name, job="job-1", kind="train", round=3, message="0" * 64, size=10, limit=100
    )  # fmt: skip


def test_clients_and_what_they_do():
    now = [100.0]
    members, assignments = Members(lease_s=60.0, clock=lambda: now[0]), Assignments()
    assignments.job = "job-1"
    assignments.set_state("running")
    status = ServerStatus.of(members, assignments, name="mine", rounds=9, now=lambda: now[0])
    for name in ("north", "south", "west", "left"):
        members.join(name, joining())
    members.decline("east", "the local policy requires a secure sum")
    members.leave("left")
    now[0] += 100.0
    members.contact("north", "training", 0.25)
    members.contact("west", "", None)
    assignments.open("north", assignment())
    for _ in range(3):
        members.count("west", "refused", "not finite")
    members.count("north", "counted")
    members.count("north", "late", "the round was over before it arrived")
    wall = time.time()
    shown = status.board.snapshot()
    assert wall <= shown.at <= time.time()
    found = {each.name: each for each in shown.clients}
    assert {name: each.presence for name, each in found.items()} == {
        "east": "declined",
        "left": "left",
        "north": "connected",
        "south": "gone",
        "west": "set aside",
    }
    north = found["north"]
    assert (north.activity, north.done, north.awaited) == ("training", 0.25, True)
    assert (north.train, north.test, north.counted, north.late) == (40, 10, 1, 1)
    assert wall - 100.0 <= found["south"].contact <= shown.at - 100.0
    assert found["east"].reason == "the local policy requires a secure sum"
    assert found["west"].refused == 3
    assert (shown.connected, shown.population, shown.job, shown.state) == (1, 5, "job-1", "running")
    (late,) = shown.events
    assert (late.sort, late.client, late.text) == ("late", "north", "the round was over before it arrived")


def test_the_phase_of_the_engine_in_unix_time():
    assignments = Assignments()
    assignments.set_state("running")
    status = ServerStatus.of(Members(), assignments, name="mine", rounds=9, now=lambda: 500.0)
    wall = time.time()
    status.show(Progress("training", 4, since=460.0, waiting_for=("a", "b"), deadline=530.0))
    phase = status.board.snapshot().phase
    assert (phase.phase, phase.waiting_for, phase.waiting) == ("training", ("a", "b"), 2)
    passed = time.time() - wall
    assert 0.0 <= phase.since - (wall - 40.0) <= passed
    assert 0.0 <= phase.deadline - (wall + 30.0) <= passed
    status.show(Progress("waiting for clients", 4, since=490.0, note="for north"))
    assert status.board.snapshot().phase.deadline is None


def test_a_job_that_failed_shows_why():
    assignments = Assignments()
    status = ServerStatus.of(Members(), assignments, name="mine", rounds=9, now=lambda: 0.0)
    assignments.set_state("failed", "the disk is full")
    shown = status.board.snapshot()
    assert (shown.state, shown.reason) == ("failed", "the disk is full")


def test_among_many_clients_those_that_matter_are_shown():
    rows = [{"name": f"c{each:05}", "present": each != 2500} for each in range(3000)]
    shown, presences = shown_clients(rows, 0.0, {"c02999"})
    names = {each.name for each in shown}
    assert len(names) == MOST_CLIENTS
    assert {"c02500", "c02999"} <= names
    assert presences == {"connected": 2999, "gone": 1}


def test_a_relay_is_no_client():
    rows = [
        {"name": "relay", "present": True, "relays": True},
        {"name": "north", "present": True, "via": "relay"},
        {"name": "south", "present": True},
    ]
    shown, presences = shown_clients(rows, 0.0, {"relay", "north"})
    assert presences == {"connected": 2}
    words = {each.name: now_text(each, 0.0) for each in shown}
    assert words == {"relay": "relay: asked", "north": "asked (by the relay relay)", "south": "waits for work"}


def test_the_clients_behind_a_relay_are_awaited():
    assignments = Assignments()
    assignments.open("relay", assignment().model_copy(update={"clients": ("north", "west")}))
    assert assignments.open_clients() == {"relay", "north", "west"}
