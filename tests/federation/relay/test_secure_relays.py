"""Secure sums whose clients are behind relays: the weights of a simulation, and nothing but masked vectors at a relay."""

import pytest
import torch
from agent_threads import AgentThread
from secured import Secured
from test_relay import RelayThread
from toys import blobs, linear_task

import headway as hw
from headway.federation.identity.admission import OpenAdmission
from headway.federation.identity.server_access import AccessOptions, ServerAccess

DATA, TASK = blobs((7, 12, 5, 9, 6)), linear_task(dtype="float64")
TRAINER = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)
NEAR, FAR = DATA.clients[:2], DATA.clients[2:]


def algorithm(mode="real", **quorum):
    chain = hw.chain(
        hw.Clip(1.0),
        hw.Quantize(16),
        hw.SecureSum(threshold=0.61, min_cohort=3, min_survivors=3, mode=mode),
        hw.Mean("clients"),
    )
    return hw.Algorithm(chain, TRAINER, hw.All(), hw.Quorum(**quorum))


def of_clients(names, rounds=1):
    """The weights of these clients alone, in a simulation of all of them."""
    train = {client: DATA.train[client] for client in names}
    test = {client: DATA.test[client] for client in names}
    part = hw.FederatedData(DATA.name, DATA.store, train, test, classes=DATA.classes)
    run = hw.Run(algorithm("ideal"), part, TASK, rounds=rounds, evaluate_every=None)
    list(run)
    return run.state.params


class Tree:
    """A server, relays and agents, all with certificates; tree: of each relay ("" for none), its clients."""

    def __init__(self, folder, tree, rounds=1, made=None, **options):
        self.folder, self.tree, self.rounds, self.made = folder, tree, rounds, made or algorithm()
        names = [name for name in tree if name]
        self.secured = Secured(folder, [client for own in tree.values() for client in own], names)
        population = len(DATA.clients)
        options = {"expected": frozenset(DATA.clients), "wait_limit_s": 20.0, "relays": tuple(names), **options}
        self.context = self.secured.network(self.made, TASK, rounds, population=population, **options)

    def __enter__(self):
        self.network = self.context.__enter__()
        self.relays, self.agents, self.accesses = {}, {}, []
        for name, clients in self.tree.items():
            if name:
                given = AccessOptions(identity=self.folder / name, authority=self.folder / "ca")
                access = ServerAccess.of("127.0.0.1", given, self.folder / f"{name}-state")
                self.accesses.append(access)
                self.relays[name] = RelayThread(
                    self.network.url, self.folder / f"{name}-state", name, len(clients), access=access
                )
        for name, clients in self.tree.items():
            url = self.relays[name].url if name else self.network.url
            for client in clients:
                own = {"identity": self.secured.identity(client)}
                self.agents[client] = AgentThread(url, DATA, client, self.folder / "states", TASK, **own)
        self.run = hw.Run(
            self.made, DATA, TASK, rounds=self.rounds, engine=self.network.engine, evaluate_every=None
        )
        return self

    def __exit__(self, *failure):
        self.network.assignments.set_state("finished")
        for relay in self.relays.values():
            relay.thread.join(20)
        for agent in self.agents.values():
            agent.agent.stop()
            agent.thread.join(10)
        self.run.close()
        self.context.__exit__(*failure)
        for access in self.accesses:
            access.close()


TREES = {"some": {"near": NEAR, "": FAR[:1], "far": FAR[1:]}, "all": {"near": DATA.clients}}


@pytest.mark.parametrize("tree", TREES)
def test_the_weights_are_those_of_a_simulation(tmp_path, tree):
    with Tree(tmp_path, TREES[tree], 2) as served:
        reports = list(served.run)
    assert torch.equal(served.run.state.params, of_clients(DATA.clients, 2))
    assert [report.count("counted") for report in reports] == [5, 5]
    assert not any(report.notes for report in reports)
    assert {relay.state for relay in served.relays.values()} == {"finished"}
