"""A participant answers requests from its own data and memory, and commits memory when its update was counted."""

from __future__ import annotations

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway.client.client_algorithm import ClientAlgorithm
from headway.client.participant import Participant
from headway.client_state.store import MemoryStore
from headway.core.errors import ConfigError
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.protocol.messages import (
    Declined,
    Evaluate,
    Exchange,
    Measure,
    Message,
    Request,
    Scores,
    Settle,
    Settled,
    Train,
    UpdateReply,
)

KEY = Key.root(0)
DATA = blobs(sizes=(7, 12))


def made(*stages, **trainer):
    algorithm = hw.Algorithm(hw.chain(*stages, hw.Mean("clients")), hw.LocalSGD(**{"lr": 0.1, **trainer}), hw.All())
    task = linear_task()
    data = DATA.to(task.number)
    half = ClientAlgorithm(algorithm, FlatModule(task, KEY), algorithm.flows(), KEY)
    client = data.clients[0]
    one = Participant(client, half, data.train_of(client), data.test_of(client), MemoryStore((client,)))
    params = half.flat_module.shared.clone()
    return one, Message(params, algorithm.chain.broadcast(algorithm.chain.init(params)))


def test_an_update_with_the_figures_of_its_training() -> None:
    one, message = made(batch_size=3)
    reply = one.answer(Train(message))
    assert isinstance(reply, UpdateReply)
    assert float(reply.update.delta.norm()) > 0
    assert reply.figures["examples"] == 7
    fewer = one.answer(Train(message, steps=1))
    assert (fewer.figures["steps"], reply.figures["steps"]) == (1, 3)


def test_the_same_request_has_the_same_reply_and_leaves_the_generator_alone() -> None:
    one, message = made(batch_size=3)
    before = torch.get_rng_state()
    first, second = one.answer(Train(message)), one.answer(Train(message))
    assert torch.equal(first.update.delta, second.update.delta)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first.update.delta, one.answer(Train(message, round=1)).update.delta)


@pytest.mark.parametrize("counted", [True, False])
def test_memory_is_pending_until_the_round_is_settled(counted) -> None:
    one, message = made(hw.Scaffold())
    one.answer(Train(message, round=3))
    assert one.memory.get(one.client) is None
    assert isinstance(one.answer(Settle(round=3, counted=counted)), Settled)
    kept = one.memory.get(one.client)
    assert (kept is not None and bool(kept["Scaffold"])) == counted


def test_scores_on_the_test_part_and_the_loss_on_the_training_part() -> None:
    one, message = made()
    scores, loss = one.answer(Evaluate(message)), one.answer(Measure(message))
    assert isinstance(scores, Scores)
    assert (scores.metrics.keys(), scores.examples) == ({"accuracy", "loss"}, len(one.test))
    outputs = one.algorithm.flat_module.module(one.train.inputs).detach()
    assert loss.metrics["train_loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(outputs, one.train.targets))
    )
    one.test = None
    assert one.answer(Evaluate(message)) == Scores({}, 0)


def test_a_straggler_and_a_training_that_explodes_are_declined() -> None:
    one, message = made(epochs=2, stragglers=1.0, straggler_policy="drop")
    assert one.answer(Train(message)).status == "dropped"
    one, message = made(lr=1e38, epochs=5)
    reply = one.answer(Train(message))
    assert isinstance(reply, Declined)
    assert reply.status == "rejected"
    assert "its local training ended with a model that" in reply.reason


def test_requests_without_an_answer_are_refused() -> None:
    one, message = made()
    with pytest.raises(ConfigError, match="no stage of the chain answers the exchange 'advertise'"):
        one.answer(Exchange(message, name="advertise"))

    class Unknown(Request):
        pass

    with pytest.raises(ConfigError, match="has no answer to a Unknown request"):
        one.answer(Unknown(message))
