"""A server and seven agents on this machine, two of which attack: what a median keeps, and what the mean does not.

python examples/attacked_federation.py [FOLDER]
"""

import sys
import tempfile
import threading
from pathlib import Path

import headway as hw
from headway.attacks import AttackPlan, SignFlip
from headway.data import RemoteData
from headway.federation import AccessOptions, Agent, AgentOptions, ColludingAgents, Server, ServerJob, ServerOptions
from headway.observe.journal import Journal
from headway.observe.run_folder import JOURNAL

CLIENTS, ROUNDS = 7, 5
DATA = hw.data.load("digits", clients=CLIENTS, partition={"kind": "iid"})
PLAN = AttackPlan(SignFlip(scale=5.0), attackers=("client-5", "client-6"))


def task() -> hw.Task:
    """Softmax regression."""
    return hw.Task(model=lambda: hw.models.logistic(DATA.input_shape, 10), metrics=("accuracy",))


def own(client: str) -> hw.FederatedData:
    """The data of one client."""
    return hw.FederatedData(
        DATA.name, DATA.store, {client: DATA.train[client]}, {client: DATA.test[client]}, classes=DATA.classes
    )


def accuracy(rule: hw.Aggregator, folder: Path) -> float:
    """The accuracy on the clients' own test parts after a federation of agents with this rule."""
    algorithm = hw.Algorithm(hw.chain(rule), hw.LocalSGD(lr=0.5, batch_size=32), hw.All())
    known = RemoteData("digits", DATA.input_shape, classes=10, expected=DATA.clients)
    options = ServerOptions(port=0, access=AccessOptions(insecure=True))
    server = Server([ServerJob("digits", algorithm, known, task(), ROUNDS)], folder / "run", options)
    threads = [threading.Thread(target=server.run)]
    threads[0].start()
    server.listening.wait(60)
    attackers = ColludingAgents(PLAN, cohort=CLIENTS)  # one object: they work together
    for client in DATA.clients:
        hostile = client in PLAN.attackers
        agent = Agent(
            server.url,
            attackers.data(own(client)) if hostile else own(client),
            task=task(),
            name=client,
            state=folder / client,
            options=AgentOptions(attack=attackers if hostile else None),
        )
        threads.append(threading.Thread(target=agent.run))
        threads[-1].start()
    for thread in threads:
        thread.join()
    journal = Journal(folder / "run" / JOURNAL)
    found = journal.series("clients", "accuracy")[-1][1]
    journal.close()
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(made)
        for name, rule in {"mean": hw.Mean("clients"), "median": hw.Median(2)}.items():
            print(f"{name}: accuracy {accuracy(rule, place / name):.3f}", flush=True)
