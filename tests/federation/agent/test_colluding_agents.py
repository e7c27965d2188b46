"""Agents that attack a federation of this machine: the bits of a simulation, and what they are refused."""

import threading
from types import SimpleNamespace

import pytest
import torch
from agent_threads import AgentThread, data_of
from test_server import ServerThread, ended, params_of
from toys import blobs, linear_task

import headway as hw
from headway.attacks import ALIE, AttackedEngine, AttackPlan, InnerProduct, LabelFlip, LineSearch, SignFlip
from headway.core import stopping
from headway.core.errors import ConfigError
from headway.core.update import Update
from headway.data import RemoteData
from headway.federation import Agent, AgentOptions, ColludingAgents, JobOptions, ServerJob
from headway.protocol.messages import Message, Train, UpdateReply

DATA, TASK = blobs((7, 9, 8, 12, 5, 6, 10)), linear_task(dtype="float64")
ATTACKERS = ("client-5", "client-6")


def algorithm(rule):
    return hw.Algorithm(hw.chain(rule), hw.LocalSGD(lr=0.1, batch_size=4, epochs=2), hw.All())


def simulated(rule, plan=None, rounds=3):
    engine = hw.LocalEngine() if plan is None else AttackedEngine(hw.LocalEngine(), plan)
    run = hw.Run(algorithm(rule), DATA, TASK, rounds=rounds, engine=engine)
    list(run)
    run.close()
    return run.state.params


def served(rule, plan, folder, rounds=3):
    known = RemoteData("study", DATA.input_shape, classes=DATA.classes, expected=DATA.clients)
    server = ServerThread(
        [ServerJob("study", algorithm(rule), known, TASK, rounds, options=JobOptions())], folder / "run"
    )
    hostile = ColludingAgents(plan, len(DATA.clients))
    agents = [
        AgentThread(server.url, DATA, client, folder, TASK, **({"attack": hostile} if client in ATTACKERS else {}))
        for client in DATA.clients
    ]
    assert server.end() == "finished"
    assert ended(agents) == ["finished"] * len(agents)
    attack = [event for agent in agents for event in agent.events if event[0] == "attack"]
    assert len(attack) == 2
    return params_of(folder / "run")


@pytest.mark.parametrize(
    "plan",
    [
        AttackPlan(SignFlip(20.0), ATTACKERS),
        AttackPlan(LineSearch(ALIE()), ATTACKERS, from_round=2),
    ],
    ids=lambda plan: type(plan.attack).__name__,
)
def test_a_federation_of_agents_under_attack_has_the_bits_of_the_simulation(plan, tmp_path):
    attacked = served(hw.Median(2), plan, tmp_path)
    assert torch.equal(attacked, simulated(hw.Median(2), plan))
    assert not torch.equal(attacked, simulated(hw.Median(2)))


def test_a_median_defends_where_the_mean_does_not():
    """In the simulation, whose bits a federation has."""
    plan, honest = AttackPlan(SignFlip(20.0), ATTACKERS), simulated(hw.Mean("clients"))
    moved = {
        type(rule).__name__: float((simulated(rule, plan) - honest).norm())
        for rule in (hw.Mean("clients"), hw.Median(2))
    }
    assert moved["Mean"] > 10 * moved["Median"]


def test_an_attacker_trains_on_poisoned_data():
    hostile = ColludingAgents(AttackPlan(LabelFlip(), ATTACKERS), 7)
    own = data_of(DATA, "client-5")
    read = hostile.data(own)(SimpleNamespace(seed=0))
    assert torch.equal(read.train_of("client-5").targets, 2 - own.train_of("client-5").targets)


def request(round_=0, attempt=0):
    return Train(Message(torch.zeros(3, dtype=torch.float64)), round=round_, attempt=attempt)


def reply(value):
    return UpdateReply(Update.of(torch.full((3,), value, dtype=torch.float64), 5.0), {"examples": 5.0})


def joined(plan, **options):
    """The attackers, made ready without a server."""
    hostile = ColludingAgents(plan, 7, **options)
    run = hw.Run(algorithm(hw.Median(2)), DATA, TASK, rounds=1)
    for client in plan.attackers:
        hostile.join(client, run.federation.engine.execution.setup)
    run.close()
    return hostile


def test_attackers_wait_for_one_another_and_an_absent_one_is_not_waited_for_without_end():
    hostile, sent = joined(AttackPlan(InnerProduct(3.0), ATTACKERS)), {}

    def attacker(client, value):
        sent[client] = hostile.change(client, request(), reply(value)).update.delta

    threads = [threading.Thread(target=attacker, args=pair) for pair in zip(ATTACKERS, (1.0, 3.0), strict=True)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert {client: update.tolist() for client, update in sent.items()} == dict.fromkeys(ATTACKERS, [-6.0] * 3)
    hostile.wait_s = 0.1
    alone = hostile.change(ATTACKERS[0], request(1), reply(1.0))
    assert alone.update.delta.tolist() == [-3.0] * 3
    assert alone.figures == {"examples": 5.0}


def test_an_attacker_whose_work_is_withdrawn_waits_no_longer():
    hostile, found = joined(AttackPlan(SignFlip(), ATTACKERS)), []

    def attacker():
        stopping.interrupt(threading.get_ident())
        try:
            hostile.change(ATTACKERS[0], request(), reply(1.0))
        except stopping.Interrupted as interrupted:
            found.append(interrupted)
        finally:
            stopping.resume(threading.get_ident())

    thread = threading.Thread(target=attacker)
    thread.start()
    thread.join(60)
    assert len(found) == 1


def test_what_agents_cannot_do_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="known by name"):
        ColludingAgents(AttackPlan(SignFlip(), count=2), 7)
    with pytest.raises(ConfigError, match="never sent the updates of others"):
        ColludingAgents(AttackPlan(SignFlip(), ATTACKERS, knows="everyone"), 7)
    with pytest.raises(ConfigError, match=r"from the first round on, found LabelFlip\(\) from round 2: set"):
        ColludingAgents(AttackPlan(LabelFlip(), ATTACKERS, from_round=2), 7)
    hostile = joined(AttackPlan(SignFlip(), ATTACKERS))
    with pytest.raises(ConfigError, match="'client-0' is none of the plan's attackers: client-5, client-6"):
        hostile.join("client-0", None)
    for url in ("https://hospital.example:8443", "https://127.evil.example"):
        with pytest.raises(ConfigError, match="attacks a federation of this machine alone"):
            Agent(url, DATA, state=tmp_path, name="client-5", options=AgentOptions(attack=hostile))
