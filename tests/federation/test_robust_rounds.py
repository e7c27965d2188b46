"""Rules that compare clients, between a server and real agents: the weights and the standings of a simulation."""

import json
import sqlite3
import urllib.request

import torch
from agent_threads import AgentThread
from network import Network
from test_server import ServerThread, ended, params_of
from toys import blobs, linear_task, weights_and_reports

import headway as hw
from headway.attacks import AttackedEngine, AttackPlan, SignFlip
from headway.data import RemoteData
from headway.federation import ColludingAgents, JobOptions, ServerJob
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool

TASK, TRAINER = linear_task(dtype="float64"), hw.LocalSGD(lr=0.1, batch_size=4)
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def served(folder, made, data, plan=None):
    """The weights and the reports of one round with an agent for each client, some of which may attack."""
    options = {"expected": frozenset(data.clients), "population": len(data.clients), "wait_limit_s": 120.0}
    network = Network.of(made, TASK, Spool(folder / "spool"), EventLog(folder), 1, **options)
    agents = agents_of(network.url, data, folder, plan)
    try:
        run = hw.Run(made, data, TASK, rounds=1, engine=network.engine, evaluate_every=None)
        found = weights_and_reports(run)
        network.assignments.set_state("finished")
        assert [agent.join() for agent in agents] == ["finished"] * len(agents)
    finally:
        network.close()
    return found


def agents_of(url, data, folder, plan=None):
    attack = {} if plan is None else dict.fromkeys(plan.attackers, ColludingAgents(plan, len(data.clients)))
    return [AgentThread(url, data, client, folder, TASK, attack=attack.get(client)) for client in data.clients]


def simulated(made, data):
    """The weights of one round."""
    return weights_and_reports(hw.Run(made, data, TASK, rounds=1, evaluate_every=None))[0]


def test_sums_of_buckets_between_agents_are_those_of_a_simulation(tmp_path):
    def made(mode):
        stage = hw.SecureSum(buckets=2, min_cohort=3, min_survivors=2, threshold=0.65, mode=mode)
        return hw.Algorithm(hw.chain(hw.Clip(1.0), hw.Quantize(16), stage, hw.GeometricMedian(0)), TRAINER, hw.All())

    data = blobs((7, 12, 5, 9, 8, 6))
    params, (report,) = served(tmp_path, made("real"), data)
    assert torch.equal(params, simulated(made("ideal"), data))
    assert report.count("counted") == 6
    assert {(row.examples, row.norm) for row in report.clients} == {(0, None)}


def test_votes_of_replicas_between_agents_are_those_of_a_simulation(tmp_path):
    """One replica lies, and is named; the weights are those of the honest."""
    names, parts = [f"{group}.{number}" for group in ("north", "south") for number in (1, 2, 3)], blobs((7, 12))
    own = {name: parts.clients[place // 3] for place, name in enumerate(names)}
    train, test = ({name: part[own[name]] for name in names} for part in (parts.train, parts.test))
    data = hw.FederatedData("replicas", parts.store, train, test, classes=parts.classes)
    made = hw.Algorithm(hw.chain(hw.MajorityVote(3, 0.0)), TRAINER, hw.All())
    params, (report,) = served(tmp_path, made, data, AttackPlan(SignFlip(), ("south.2",)))
    assert torch.equal(params, simulated(made, data))
    assert {row.client: row.status for row in report.clients if row.status != "counted"} == {"south.2": "rejected"}


def test_reputation_and_quarantine_of_agents_are_those_of_a_simulation(tmp_path):
    data, seen = blobs((7, 9, 8, 12, 5)), {}
    attacker = data.clients[-1]
    plan = AttackPlan(SignFlip(20.0), (attacker,))
    policy = hw.Reputation(quarantine_below=0.5, patience=1, rounds=2, memory=0.5)
    made = hw.Algorithm(hw.chain(hw.Mean("clients")), TRAINER, hw.All(), reputation=policy)

    def status(kind, sentence, facts):
        if kind == "round":
            url, _, token = server.server.page.partition("/?token=")
            asked = urllib.request.Request(f"{url}/v1/status", headers={"Authorization": f"Bearer {token}"})
            with OPENER.open(asked, timeout=60) as response:
                now = json.load(response)
            seen[now["round"]] = {each["name"]: (each["reputation"], each["quarantine"]) for each in now["clients"]}

    known = RemoteData("study", data.input_shape, classes=data.classes, expected=data.clients)
    job = ServerJob("study", made, known, TASK, 5, options=JobOptions(evaluate_every=None))
    server = ServerThread([job], tmp_path / "served", sinks=[status])
    agents = agents_of(server.url, data, tmp_path, plan)
    assert server.end() == "finished"
    assert ended(agents) == ["finished"] * 5
    engine = AttackedEngine(hw.LocalEngine(), plan)
    params, reports = weights_and_reports(
        hw.Run(made, data, TASK, rounds=5, engine=engine, evaluate_every=None, folder=tmp_path / "simulated")
    )
    assert torch.equal(params_of(tmp_path / "served"), params)
    wanted = standings_in(tmp_path / "simulated")
    assert standings_in(tmp_path / "served") == wanted
    assert attacker in {name for scope, _, name, _ in wanted if scope == "quarantine"}
    for report in reports[:4]:
        assert {name: until for name, (_, until) in seen[report.round].items() if until} == dict(report.quarantine)
        for client, score in report.reputation.items():
            assert seen[report.round][client][0] == score


def standings_in(folder):
    """What the journal of a run says of reputation and quarantine."""
    with sqlite3.connect(folder / "journal.sqlite") as journal:
        return journal.execute(
            "SELECT scope, round, name, value FROM metrics WHERE scope IN ('reputation', 'quarantine') "
            "ORDER BY scope, round, name"
        ).fetchall()
