"""Calls of Ray actors: what passes is repeated, what has ended is said, and no wait is without a limit."""

import itertools
from types import SimpleNamespace

import pytest

from headway.engines.ray import actors
from headway.engines.ray.actors import RayActors, Unread
from headway.engines.worker_pool import Lost

ray = pytest.importorskip("ray")
errors = ray.exceptions
AWAY = errors.ActorUnavailableError("the connection was reset", None)
DIED = errors.ActorDiedError()
SILENT = errors.GetTimeoutError("nothing yet")


def failed(cause):
    """What `ray.get` raises where a method, or the reading of its arguments, raised."""
    return errors.RayTaskError("unit", "a traceback", cause)


class Actor:
    """Each call takes the next of some answers; the last of them stands for all that follow."""

    def __init__(self, *answers):
        self.answers, self.sent = list(answers), []
        self.unit = SimpleNamespace(remote=self.remote)

    def remote(self, *arguments):
        self.sent.append(arguments)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    """References are the answers themselves, and each look at the clock takes five seconds."""
    clock = itertools.count(step=5.0)

    def get(answer, timeout):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(actors, "import_ray", lambda: SimpleNamespace(get=get, exceptions=errors))
    monkeypatch.setattr(actors, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None))


def got(actor):
    remote = RayActors()
    return remote, lambda: remote.get(remote.call(actor, "unit", 1, "two"))


def test_an_error_that_passes_is_repeated_with_the_same_arguments_and_said():
    actor = Actor(AWAY, AWAY, "done")
    remote, get = got(actor)
    assert get() == "done"
    assert actor.sent == [(1, "two")] * 3
    assert remote.report() == ["2 calls of Ray actors had to be repeated (ActorUnavailableError)"]
    assert remote.report() == []


def test_an_actor_that_died_is_lost_at_once():
    actor = Actor(DIED)
    remote, get = got(actor)
    with pytest.raises(Lost, match="died unexpectedly"):
        get()
    assert len(actor.sent) == 1
    assert remote.report() == []


@pytest.mark.parametrize("error", [AWAY, errors.ObjectFetchTimedOutError("0" * 40, "", "")])
def test_what_does_not_pass_has_a_limit(error):
    with pytest.raises(Lost, match=r"not reached for 1\d\d s"):
        got(Actor(error))[1]()


def test_silence_has_a_limit_and_a_lost_answer_is_asked_for_again():
    actor = Actor(SILENT)
    with pytest.raises(Lost, match=r"no answer for 3\d\d s"):
        got(actor)[1]()
    assert len(actor.sent) > 2
    assert got(Actor(SILENT, "done"))[1]() == "done"


@pytest.mark.parametrize(
    ("cause", "raised"),
    [
        (ValueError("in the method"), ValueError),
        (errors.RaySystemError("cannot read it"), Unread),
        (DIED, Lost),
    ],
)
def test_what_a_method_raised_is_told_from_arguments_that_never_reached_it(cause, raised):
    with pytest.raises(raised):
        got(Actor(failed(cause)))[1]()


def test_a_result_is_known_from_then_on():
    remote = RayActors()
    call = remote.call(Actor("done"), "unit")
    assert remote.get(call) == remote.get(call) == "done"
    other = remote.call(Actor(DIED), "unit", call)
    assert other.arguments == ("done",), "a call as an argument stands for its result"
    for _ in range(2):
        with pytest.raises(Lost):
            remote.get(other)
