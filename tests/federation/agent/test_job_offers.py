"""The jobs that a server offers: the one after another, the wait for it, and a server that lets nobody in any more."""

import asyncio
from types import SimpleNamespace

import pytest

from headway.federation import http_api as api
from headway.federation.agent import job_offers
from headway.federation.agent.connection import ProblemAnswer, Unreachable
from headway.federation.agent.job_offers import JobOffers

FIRST, SECOND = SimpleNamespace(job="first"), SimpleNamespace(job="second")
REVOKED = ProblemAnswer(403, api.Problem(kind="unauthorised", message="revoked"))


class Server:
    """A connection to a server that gives these answers one after another, the last one again and again."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def call(self, *_):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    call_once = call


def after(*answers, stay):
    return asyncio.run(JobOffers(Server(*answers), stay).after(FIRST))


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(job_offers, "FIRST_S", 0.0)


@pytest.mark.parametrize("stay", [False, True])
def test_the_job_after_one(stay):
    assert after(SECOND, stay=stay) is SECOND


def test_another_job_is_waited_for_by_those_that_stay_alone():
    assert after(FIRST, FIRST, SECOND, stay=True) is SECOND
    assert after(FIRST, SECOND, stay=False) is None


def test_who_is_not_let_in_any_more_does_not_end_in_silence_while_it_waits():
    with pytest.raises(ProblemAnswer, match="revoked"):
        after(FIRST, REVOKED, stay=True)
    assert after(REVOKED, stay=False) is None  # it has done its part
    assert after(Unreachable("closed"), stay=False) is None
