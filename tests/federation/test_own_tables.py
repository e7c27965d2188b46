"""Agents that read their own files: the weights of a simulation of the same examples."""

import csv
import random

import pytest
import torch
from agent_threads import AgentThread
from network import Network

import headway as hw
from headway.data.sources.schema_sample import sample_schema
from headway.data.sources.tables import Reading
from headway.federation.agent.agent_data import AgentData
from headway.federation.agent.agent_file import AgentFile
from headway.federation.serving.server_setup import describe_job
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool

ROUNDS, SEED = 3, 2
ALGORITHM = hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.05, batch_size=16))


def tables(folder):
    """One table with a column of clients, and one for each client alone, with its columns in another order."""
    draw, header = random.Random(1), ["age", "sex", "dose", "ill", "site"]
    rows = [
        [draw.randint(20, 90), draw.choice("fm"), draw.choice(["", 1.5, 2, 4]), draw.choice(["no", "yes"]), site]
        for site in ("north", "south", "west")
        for _ in range(draw.randint(30, 60))
    ]
    with (folder / "all.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    for site in ("north", "south", "west"):
        order = draw.sample(range(4), 4)
        own = [[row[place] for place in order] for row in rows if row[4] == site]
        with (folder / f"{site}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[header[place] for place in order], *own])


def federated(folder, schema, specs, task):
    """The weights of a run whose clients are agents on their own data."""
    files = Spool(folder / "spool")
    network = Network.of(ALGORITHM, task, files, EventLog(folder), ROUNDS, seed=SEED, expected=frozenset(specs))
    job = describe_job("job", "test", ALGORITHM, task, ROUNDS, seed=SEED, data_schema=schema)
    parts = {client: AgentData.of(AgentFile.of(spec)).read(job, client) for client, spec in specs.items()}
    agents = [AgentThread(network.url, data, client, folder, task) for client, data in parts.items()]
    everyone = hw.FederatedData.from_clients(
        {client: (data.train_of(client).inputs, data.train_of(client).targets) for client, data in parts.items()}
    )  # of which the server's run uses names and sizes
    run = hw.Run(ALGORITHM, everyone, task, rounds=ROUNDS, seed=SEED, engine=network.engine, evaluate_every=None)
    try:
        list(run)
        network.assignments.set_state("finished")
        for agent in agents:
            agent.join()
    finally:
        for agent in agents:
            agent.agent.stop()
        network.close()
    return run.state.params


@pytest.mark.parametrize("kind", ["tables", "hospitals"])
def test_the_weights_are_those_of_a_simulation(tmp_path, kind):
    if kind == "tables":
        tables(tmp_path)
        options = {"target": "ill", "client_column": "site", "standardise": "client"}
        data = hw.data.load(tmp_path / "all.csv", key=SEED, **options)
        schema, _ = sample_schema([tmp_path / "all.csv"], "ill", how=Reading(skip=("site",)))
        section, specs = schema.to_config(), {client: tmp_path / f"{client}.csv" for client in data.clients}
    else:
        data = hw.data.load("hospitals", key=SEED)
        section, specs = {"source": "hospitals"}, {client: f"hospitals:{client}" for client in data.clients}
    width = len(data.features)
    task = hw.Task(model=lambda: torch.nn.Linear(width, 2), dtype="float64")
    local = hw.Run(ALGORITHM, data, task, rounds=ROUNDS, seed=SEED, evaluate_every=None)
    list(local)
    assert torch.equal(federated(tmp_path, section, specs, task), local.state.params)
