"""Updates that must not count: each is refused with its reason, and leaves the model as if it had never been sent."""

import hashlib
import threading
from dataclasses import replace

import pytest
import torch
from network import Network
from raw_client import RawClient, binding_of
from serving_run import stores
from toys import blobs, linear_task

import headway as hw
from headway.core.update import Update
from headway.federation import http_api as api
from headway.protocol.messages import Declined, Scores, Settled, UpdateReply
from headway.protocol.wire_messages import encode_reply

ROUNDS = 2
DATA, TASK = blobs((7, 12, 5)), linear_task()
HONEST, HOSTILE = DATA.clients[:2], DATA.clients[2]
FIGURES = {"examples": 5.0, "steps": 1.0, "train_loss": 1.0}


def algorithm():
    return hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1, batch_size=4))


def update(size, weight=5.0, value=0.5, **vectors):
    return UpdateReply(Update.of(torch.full((size,), value), weight, **vectors), FIGURES)


def with_sum(size, number):
    reply = update(size)
    return replace(reply, update=reply.update.with_sums(extra=torch.tensor(number)))


def flipped(place):
    def flip(data):
        changed = bytearray(data)
        changed[int(len(data) * place)] ^= 1
        return bytes(changed)

    return flip


REPLIES = {
    "not a number": (lambda n: update(n, value=float("nan")), "not finite"),
    "infinite": (lambda n: update(n, value=float("inf")), "not finite"),
    "weight 1e30": (lambda n: update(n, 1e30), "weight is 1e+30"),
    "weight below zero": (lambda n: update(n, -1.0), "weight is -1"),
    "weight not a number": (lambda n: update(n, float("nan")), "weight is nan"),
    "weight above its examples": (lambda n: update(n, 6.0), "above its 5 examples"),
    "one number too many": (lambda n: update(n + 1), "has shape"),
    "one number too few": (lambda n: update(n - 1), "has shape"),
    "a matrix": (lambda n: UpdateReply(Update({"delta": torch.zeros(n, 1)}, torch.tensor(5.0)), FIGURES), "has shape"),
    "a vector of weights": (lambda n: UpdateReply(Update({"delta": torch.zeros(n)}, torch.ones(2)), FIGURES), "shape"),
    "integers": (lambda n: UpdateReply(Update.of(torch.zeros(n, dtype=torch.int64), 5.0), FIGURES), "torch.int64"),
    "an unknown vector": (lambda n: update(n, control=torch.zeros(n)), "does not send"),
    "another vector": (lambda n: UpdateReply(Update({"other": torch.zeros(n)}, torch.tensor(5.0))), "is missing"),
    "a sum that is infinite": (lambda n: with_sum(n, float("inf")), "sum 'extra'"),
    "scores": (lambda n: Scores({"accuracy": 1.0}, 5), "an update was asked for"),
    "settled": (lambda n: Settled(), "an update was asked for"),
}
BYTES = {
    "a bit of the vector": (flipped(0.7), "checksum"),
    "a bit of the checksum": (flipped(0.99), "checksum"),
    "a bit of the header": (flipped(0.05), ""),
    "cut short": (lambda data: data[:-20], ""),
    "longer": (lambda data: data + bytes(20), ""),
    "empty": (lambda data: b"", ""),
    "other bytes": (lambda data: b"GET / HTTP/1.1\r\n\r\n" * 9, ""),
}
BINDINGS = {"round": 7, "attempt": 1, "ask": 3}


def outcome(folder, send):
    """The weights of a run in which one client answers by `send(raw, assignment)`; its members, and the answers."""
    own = algorithm()
    spool, log = stores(folder)
    network = Network.of(own, TASK, spool, log, ROUNDS, expected=frozenset(DATA.clients))
    network.join(own, TASK, DATA, HONEST)
    answers = []

    def hostile():
        with RawClient(network.url, HOSTILE) as raw:
            assert raw.join(5).status == 200
            answers.extend(send(raw, raw.assignment()) for _ in range(ROUNDS))

    thread = threading.Thread(target=hostile, daemon=True)
    thread.start()
    run = hw.Run(own, DATA, TASK, rounds=ROUNDS, engine=network.engine, evaluate_every=None)
    try:
        reports = list(run)
        thread.join(60)
    finally:
        network.close()
        log.close()
    assert len(answers) == ROUNDS
    assert [report.count("counted") for report in reports] == [2] * ROUNDS
    return run.state.params, network, answers


def size_of(raw):
    return raw.job().task.parameters


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The weights when the client declines in each round."""

    def decline(raw, assignment):
        return raw.send(assignment, encode_reply(Declined("dropped", "no"), binding_of(assignment)))

    return outcome(tmp_path_factory.mktemp("without"), decline)[0]


def check(folder, without, send, reason):
    params, network, answers = outcome(folder, send)
    assert torch.equal(params, without)
    for answer in answers:
        receipt = api.Receipt.model_validate_json(answer.body)
        assert (answer.status, receipt.verdict) == (200, "refused")
        assert reason in receipt.reason
    (member,) = (row for row in network.members.snapshot() if row["name"] == HOSTILE)
    assert member["outcomes"]["refused"] == ROUNDS
    assert reason in member["reason"]


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply(tmp_path, without, name):
    make, reason = REPLIES[name]

    def send(raw, assignment):
        return raw.send(assignment, encode_reply(make(size_of(raw)), binding_of(assignment)))

    check(tmp_path, without, send, reason)


@pytest.mark.parametrize("name", BYTES)
def test_damaged_bytes(tmp_path, without, name):
    damage, reason = BYTES[name]

    def send(raw, assignment):
        return raw.send(assignment, damage(encode_reply(update(size_of(raw)), binding_of(assignment))))

    check(tmp_path, without, send, reason)


@pytest.mark.parametrize("name", BINDINGS)
def test_a_reply_to_another_request(tmp_path, without, name):
    def send(raw, assignment):
        other = replace(binding_of(assignment), **{name: BINDINGS[name]})
        return raw.send(assignment, encode_reply(update(size_of(raw)), other))

    check(tmp_path, without, send, "was expected, found one to")


def test_an_update_of_another_model(tmp_path, without):
    def send(raw, assignment):
        data = encode_reply(update(size_of(raw)), binding_of(assignment))
        assert raw.put(assignment, data).status == 200
        return raw.complete(assignment, data, message=hashlib.sha256(b"another model").hexdigest())

    check(tmp_path, without, send, "another model")


@pytest.mark.parametrize("place", [0.05, 0.7, 0.99])
def test_bytes_that_are_damaged_on_their_way_are_sent_again(tmp_path, without, place):
    """Their digest is that of the bytes before; what is sent then counts, as if nothing had happened."""
    refused = []

    def send(raw, assignment):
        data = encode_reply(Declined("dropped", "no"), binding_of(assignment))
        assert raw.put(assignment, flipped(place)(data)).status == 200
        refused.append(raw.complete(assignment, data).status)
        return raw.send(assignment, data)

    params, _, answers = outcome(tmp_path, send)
    assert refused == [409] * ROUNDS
    assert [answer.status for answer in answers] == [200] * ROUNDS
    assert torch.equal(params, without)
