"""A program that is no algorithm: a federated mean, of which the server sees each client's sum and count alone."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

import headway as hw
from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError
from headway.core.layout import Layout
from headway.core.program import Program
from headway.numerics.keys import Key
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.messages import Answer, Ask, Exchange, Message

COLUMNS = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([6.0]), "c": torch.tensor([3.0, 5.0, 7.0])}


@dataclass(frozen=True)
class Spread:
    """The mean, and around it the variance, of all clients' numbers: two exchanges in a round."""

    def initial_state(self, w, buffers=None):
        return w

    def round(self, state, cohort, *, key, layout, flows, population):
        ask = Ask(Exchange(Message(state), name="sum"), cohort)
        sums = yield ask
        count = sum(reply["count"] for reply in sums.replies.values())
        mean = sum(reply["total"] for reply in sums.replies.values()) / count
        squares = yield ask.exchange("squares", Message(mean.reshape(1)))
        variance = sum(reply["total"] for reply in squares.replies.values()) / count
        return torch.stack([mean, variance])

    def answer(self, request, secret, ctx):
        own = COLUMNS[ctx.client]
        if request.name == "sum":
            return {"total": own.sum(), "count": torch.tensor(float(len(own)))}, {}
        return {"total": (own - request.message.params).square().sum()}, secret


def send(program: Program, asked):
    def answer(ask):
        asked.append(ask)
        return Answer(
            replies={
                client: program.answer(ask.request_for(client), {}, SimpleNamespace(client=client))[0]
                for client in ask.cohort
            }
        )

    return answer


def test_another_program_than_an_algorithm_runs_on_effects_alone():
    program, asked = Spread(), []
    start = program.initial_state(torch.zeros(2))
    rest = {"key": Key.root(0), "layout": Layout.of({"w": start}), "flows": (), "population": 3}
    result = drive(program.round(start, tuple(COLUMNS), **rest), EffectHandler(send(program, asked)))
    values = torch.cat(list(COLUMNS.values()))
    torch.testing.assert_close(result, torch.stack([values.mean(), values.var(unbiased=False)]))
    assert [(ask.request.name, ask.number) for ask in asked] == [("sum", 0), ("squares", 1)]


def test_an_algorithm_is_a_program():
    algorithm: Program = hw.recipes.fedavg()
    assert isinstance(algorithm, Algorithm)
    with pytest.raises(ConfigError, match="no stage of the chain answers the exchange 'advertise'"):
        algorithm.answer(Exchange(Message(torch.zeros(1)), name="advertise"), {}, None)
