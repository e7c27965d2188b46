"""The clients of a server: presence by contact, outcomes of their replies, and setting aside."""

from headway.federation import http_api as api
from headway.federation.serving.members import Members

FACTS = api.JoinRequest(
    job="job",
    versions=api.Versions(headway="1", torch="2", protocol=1, wire=1, draws=2),
    task=api.TaskFacts(layout="x", parameters=3, loss="cross_entropy"),
    data=api.DataFacts(train=5, input_shape=(4,)),
)


class Seconds:
    now = 0.0

    def __call__(self):
        return self.now


def members_of(*names, **options):
    clock = Seconds()
    members = Members(10.0, clock=clock, **options)
    for name in names:
        members.join(name, FACTS)
    return members, clock


def test_a_client_is_there_as_long_as_it_is_in_contact():
    members, clock = members_of("b", "a")
    assert members.available() == ("a", "b")
    clock.now = 9.0
    members.contact("a")
    clock.now = 15.0
    assert members.available() == ("a",)
    assert members.silent(["a", "b"]) == {"b": "it has not been in contact for 10 s"}
    members.contact("b")
    assert members.available() == ("a", "b")


def test_bytes_count_as_contact():
    members, clock = members_of("a")
    for second in range(5, 100, 5):
        clock.now = float(second)
        members.add_bytes("a", up=1)
    assert members.available() == ("a",)
    assert members.get("a").bytes_up == 19


def test_a_client_of_before_a_restart_has_time_to_join_again():
    members, clock = members_of()
    assert members.silent(["a"]) == {}
    clock.now = 11.0
    assert members.silent(["a"]) == {"a": "it has not joined since the server was started"}


def test_one_that_left_is_gone_at_once_and_may_return():
    changes = []
    members, _ = members_of("a", on_change=lambda: changes.append(1))
    members.leave("a")
    assert (members.available(), members.contact("a")) == ((), None)
    assert members.silent(["a"]) == {"a": "it has left"}
    members.join("a", FACTS)
    assert (members.available(), len(changes)) == (("a",), 3)


def test_repeated_refusals_set_a_client_aside():
    members, _ = members_of("a", "b", set_aside_after=2)
    assert not members.count("a", "refused", "NaN")
    members.count("a", "counted")
    assert not members.count("a", "refused", "NaN")
    assert members.count("a", "refused", "NaN")
    assert members.available() == ("b",)
    row = next(row for row in members.snapshot() if row["name"] == "a")
    assert (row["set_aside"], row["outcomes"]["refused"], row["reason"]) == (True, 3, "NaN")


def test_one_that_declines_is_shown_with_its_reason():
    members, _ = members_of("a")
    members.decline("a", "it requires a secure sum")
    members.decline("z", "it requires noise")
    assert members.available() == ()
    assert {row["name"]: row["declined"] for row in members.snapshot()} == {
        "a": "it requires a secure sum",
        "z": "it requires noise",
    }


def test_clients_with_the_same_versions_and_task_share_them_in_memory():
    """Ten thousand clients agree with the job in all of them."""
    members = Members()
    for name in ("a", "b"):
        members.join(name, api.JoinRequest.model_validate_json(FACTS.model_dump_json()))
    first, second = members.get("a").facts, members.get("b").facts
    assert first == second
    assert first.task is second.task
    assert first.versions is second.versions
