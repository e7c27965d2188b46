"""The facts of a group are those of each of its clients alone."""

from __future__ import annotations

import torch
from toys import blobs, linear_task

import headway as hw
from headway.client.client_algorithm import ClientAlgorithm
from headway.client.group_facts import GroupFacts
from headway.core.update import Tensors
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.protocol.messages import Ask, Message, Train, Version

KEY = Key.root(0)
DATA = blobs(sizes=(7, 12, 5))


def half() -> ClientAlgorithm:
    algorithm = hw.Algorithm(hw.chain(hw.Scaffold(), hw.Mean()), hw.LocalSGD(lr=0.1, batch_size=4), hw.All())
    return ClientAlgorithm(algorithm, FlatModule(linear_task(), KEY), algorithm.flows(), KEY)


def message(one: ClientAlgorithm, shift: float) -> Message:
    chain, params = one.algorithm.chain, one.flat_module.shared + shift
    stages: dict[str, Tensors] = chain.broadcast(chain.init(params))
    return Message(params, stages)


def facts(one: ClientAlgorithm, ask: Ask, *clients: str) -> GroupFacts:
    return GroupFacts.of(one, ask, clients, torch.tensor([len(DATA.train[client]) for client in clients]))


def test_a_group_has_the_facts_of_its_clients_alone() -> None:
    one, clients = half(), DATA.clients
    ask = Ask(Train(message(one, 0.0), 3), tuple(clients), steps={clients[1]: 2})
    group = facts(one, ask, *clients)
    for place, client in enumerate(clients):
        alone = facts(one, ask, client)
        assert (group.seeds[place], group.dropout[place], group.steps[place]) == (
            alone.seeds[0],
            alone.dropout[0],
            alone.steps[0],
        )
        assert group.keys[place].seed() == alone.keys[0].seed() == one.client_key(client, 3).seed()
        assert group.stage_keys[place].keys() == alone.stage_keys[0].keys()
    assert len(set(group.seeds)) == 3
    assert list(group.steps) == [None, 2, None]


def test_clients_that_were_asked_earlier_have_the_message_and_the_keys_of_their_round() -> None:
    one, clients = half(), DATA.clients
    new, old = message(one, 0.0), message(one, 1.0)
    ask = Ask(Train(new, 3), tuple(clients), earlier={clients[1]: Version(1, old)})
    group = facts(one, ask, *clients)
    assert list(group.rounds) == [3, 1, 3]
    assert group.messages[1].params is old.params
    assert group.keys[1].seed() == one.client_key(clients[1], 1).seed()
    (label,) = group.step_contexts[0]
    models = [torch.cat([ctx.global_params for ctx in contexts[label]]) for contexts in group.step_contexts]
    assert torch.equal(models[0], new.params)
    assert torch.equal(models[1], old.params)
    assert group.step_contexts[0] is group.step_contexts[2], "made once for each message"
