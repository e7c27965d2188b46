"""Clients that drop out at random in each round: every round finishes, and the sum is that of the others, exactly."""

import hashlib
import os
import threading

import pytest
import torch
from network import Network
from raw_client import RawClient, binding_of
from serving_run import stores
from toys import blobs, linear_task

import headway as hw
from headway.federation import http_api as api
from headway.protocol.messages import Declined
from headway.protocol.wire_messages import encode_reply

CLIENTS, SHARE = 8, 0.3
DATA, TASK = blobs(tuple(range(4, 4 + CLIENTS))), linear_task(dtype="float64")
ROUNDS = int(os.environ.get("HEADWAY_DROPOUTS", "200"))


def drops(client, round_):
    """Whether a client drops out in a round; never all of them."""
    number = int(hashlib.sha256(f"{client} {round_}".encode()).hexdigest()[:8], 16)
    return client != DATA.clients[round_ % CLIENTS] and number / 2**32 < SHARE


def size(client):
    return len(DATA.train[client])


def value(client, round_):
    return (size(client) - 6) / 64 + round_ / 1024


def work(url, client, failures):
    """Answers with a constant update, or leaves and comes back."""
    try:
        with RawClient(url, client) as raw:
            raw.join(size(client))
            left = ""
            while True:
                work = raw.work(2.0, settled=raw.settled)
                raw.settled = tuple((each.round, each.attempt) for each in work.verdicts)
                if work.state not in ("waiting", "running"):
                    return
                given = work.assignment
                if given is None or given.kind != "train":
                    continue
                if drops(client, given.round) and given.assignment == left:  # it came back before it was missed
                    raw.send(given, encode_reply(Declined("dropped", "it has left"), binding_of(given)))
                elif drops(client, given.round):
                    left = given.assignment
                    assert raw.post(api.LEAVE, b"{}").status == 200
                    raw.close()  # and the connection with it
                    raw.join(size(client))
                else:
                    assert raw.answer(given, float(size(client)), value(client, given.round)).status == 200
    except Exception as error:
        failures.append((client, error))


def check(folder, rounds):
    algorithm = hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1, batch_size=4))
    spool, log = stores(folder)
    everybody = frozenset(DATA.clients)
    network = Network.of(algorithm, TASK, spool, log, rounds, lease_s=120.0, expected=everybody, wait_limit_s=120.0)
    failures, counted, lost = [], [], {}
    threads = [
        threading.Thread(target=work, args=(network.url, client, failures), daemon=True) for client in DATA.clients
    ]
    for thread in threads:
        thread.start()
    run = hw.Run(algorithm, DATA, TASK, rounds=rounds, engine=network.engine, evaluate_every=None)
    start = run.state.params.clone()
    try:
        for report in run:
            counted.append([row.client for row in report.clients if row.status == "counted"])
            lost[report.round] = {row.client: row.reason for row in report.clients if row.status != "counted"}
    finally:
        network.assignments.set_state("finished")
        for thread in threads:
            thread.join(60)  # no reply waits for a decision of a run that is over
        ended = not any(thread.is_alive() for thread in threads)
        network.close()
        log.close()
    assert ended
    assert not failures, failures[:2]
    wanted = [[client for client in DATA.clients if not drops(client, round_)] for round_ in range(rounds)]
    assert counted == wanted, lost
    for round_, clients in enumerate(wanted):
        start += sum(size(c) * value(c, round_) for c in clients) / sum(map(size, clients))
    assert torch.allclose(run.state.params, start, rtol=0, atol=1e-12)
    return counted


def test_rounds_with_dropouts(tmp_path):
    check(tmp_path, 6)


@pytest.mark.soak
def test_two_hundred_rounds_with_dropouts(tmp_path):
    counted = check(tmp_path, ROUNDS)
    asked = CLIENTS * ROUNDS
    print(f"{asked - sum(map(len, counted))} of {asked} requests dropped in {ROUNDS} rounds: all finish, sums exact")
