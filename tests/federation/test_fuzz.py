"""Faulty messages against a running server: all are refused with a reason, none ends it, and memory stays bounded."""

import gc
import hashlib
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated
from network import Network
from raw_client import RawClient, binding_of
from serving_run import stores
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import FrameError, UpdateRejected
from headway.federation import http_api as api
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.protocol.messages import UpdateReply
from headway.protocol.wire_messages import Binding, decode_reply
from headway.server.guard import guard

SIZE, TRAIN = 15, 5
MESSAGES = int(os.environ.get("HEADWAY_FUZZ", "100000"))
MOST_GROWTH = 64 << 20


@given(st.integers(0, 2**32))
@settings(max_examples=1000)
def test_each_fault_is_refused_by_the_reader_or_the_guard(seed):
    _, data = mutated(random.Random(seed), SIZE, TRAIN, binding := Binding(3, 1, 0))
    try:
        reply = decode_reply(data, binding, 1 << 20)
        refused = not isinstance(reply, UpdateReply)
        if not refused:
            guard(reply.update, {"delta": SIZE}, "client")
            refused = not 0 <= float(reply.update.weight) <= TRAIN
    except (FrameError, UpdateRejected):
        refused = True
    assert refused


def rss():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Line:
    """A hostile client, on a connection on which it sends its calls ahead of their answers."""

    def __init__(self, url, name):
        self.raw = RawClient(url, name)
        assert self.raw.join(TRAIN).status == 200
        self.socket = self.raw.socket()
        self.file = self.socket.makefile("rb")
        self.assignment, self.settled, self.last = None, (), b""
        self.ask()

    def close(self):
        self.file.close()
        self.socket.close()
        self.raw.close()

    def send(self, method, path, body, **headers):
        head = {"Host": "x", api.NODE: self.raw.name, "Content-Length": len(body), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        self.socket.sendall("\r\n".join(lines).encode() + body)

    def receive(self):
        """The status and the body of the next answer."""
        status, length = int(self.file.readline().split()[1]), 0
        while (line := self.file.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        return status, self.file.read(length)

    def ask(self):
        """Sends for the next request."""
        request = api.WorkRequest(job=self.raw.job_id, wait_s=25.0, settled=self.settled)
        self.send("POST", api.WORK, request.model_dump_json().encode())

    def binding(self):
        """What a reply to the next request is bound to."""
        before, self.assignment = self.assignment, None
        while self.assignment is None:
            work = api.Work.model_validate_json(self.receive()[1])
            self.settled = tuple((verdict.round, verdict.attempt) for verdict in work.verdicts)
            if work.assignment is None or work.assignment == before:
                assert work.state == "running", work
                self.ask()
            else:
                self.assignment = work.assignment
        return binding_of(self.assignment)

    def end(self, data):
        body = {"size": len(data), "digest": hashlib.sha256(data).hexdigest(), "message": self.assignment.message}
        self.send("POST", api.COMPLETE.format(assignment=self.assignment.assignment), json.dumps(body).encode())

    def send_faulty(self, kind, data):
        """Sends a message whole, and for the next request; one that is too large is announced, and given up."""
        if len(data) <= self.assignment.limit:
            path = api.REPLY.format(assignment=self.assignment.assignment)
            self.send("PUT", path, data, **{api.OFFSET: 0})
            self.last = data
        else:
            self.end(data)
            self.last = b""
        self.end(self.last)
        self.ask()
        return kind

    def receipt(self):
        """The receipt of the message that was sent last."""
        taken = self.receive()
        assert taken[0] in (200, 413), taken
        status, body = self.receive()
        while status == 202:  # no decision yet; the answer to the request for work comes before that to this one
            self.end(self.last)
            self.receive()
            status, body = self.receive()
            self.ask()
        return api.Receipt.model_validate_json(body)


def fuzz(folder, count, hostile, threads):
    """Rounds in which hostile clients send `count` faulty messages beside an honest one; kinds, reasons, growth."""
    data, task = blobs((TRAIN,) * (hostile + 1)), linear_task()
    honest, others = data.clients[0], data.clients[1:]
    rounds = -(-count // hostile)
    algorithm = hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1, batch_size=4))
    spool, log = stores(folder)
    network = Network.of(algorithm, task, spool, log, rounds, expected=frozenset(data.clients), lease_s=600.0)
    network.members.set_aside_after = 1 << 40
    network.join(algorithm, task, data, [honest])
    kinds, reasons, wrong, growth = Counter(), Counter(), [], []

    def attack(names, seed):
        chance = random.Random(seed)
        lines = [Line(network.url, name) for name in names]
        try:
            for _ in range(rounds):
                sent = [line.send_faulty(*mutated(chance, SIZE, TRAIN, line.binding())) for line in lines]
                for line, kind in zip(lines, sent, strict=True):
                    receipt = line.receipt()
                    kinds[kind] += 1
                    reasons[receipt.reason[:30]] += 1
                    if receipt.verdict != "refused" or not receipt.reason:
                        wrong.append((kind, receipt))
        except Exception as error:
            wrong.append(error)
        finally:
            for line in lines:
                line.close()

    attackers = [threading.Thread(target=attack, args=(others[n::threads], n), daemon=True) for n in range(threads)]
    for attacker in attackers:
        attacker.start()
    run = hw.Run(algorithm, data, task, rounds=rounds, engine=network.engine, evaluate_every=None)
    counted = []
    try:
        for report in run:
            counted.append(report.count("counted"))
            spool.forget(network.assignments.undecided())  # as a server does between rounds
            if report.round % max(1, rounds // 10) == 0:
                gc.collect()
                growth.append(rss())
                print(f"{report.round * hostile} messages, {growth[-1] >> 20} MB", flush=True)
            if wrong:
                break
        for attacker in attackers:
            attacker.join(60)
    finally:
        network.close()
        log.close()
        run.close()
    gc.collect()
    assert not wrong, wrong[:3]
    assert counted == [1] * rounds
    assert kinds.total() == rounds * hostile
    return kinds, reasons, rss() - growth[0]


def test_some_hundred_faulty_messages(tmp_path):
    kinds, reasons, _ = fuzz(tmp_path, 400, 20, 2)
    assert len(kinds) == 10
    assert len(reasons) > 10


@pytest.fixture
def in_memory(tmp_path):
    """A folder whose files are in memory, where there is such a file system: no time goes into flushing a disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.soak
def test_a_hundred_thousand_faulty_messages(in_memory):
    begun = time.monotonic()
    kinds, reasons, growth = fuzz(in_memory, MESSAGES, 100, 4)
    print(
        f"{kinds.total()} faulty messages in {time.monotonic() - begun:.0f} s, all refused for {len(reasons)} reasons"
    )
    print(f"memory of server and attackers together grew by {growth / 1e6:.0f} MB; {dict(kinds)}")
    assert growth < MOST_GROWTH


@pytest.mark.soak
def test_memory_is_flat_over_a_thousand_rounds(tmp_path):
    """Of a process with a server and three clients, from the 100th round on."""
    rounds = int(os.environ.get("HEADWAY_ROUNDS", "1000"))
    data, task = blobs((7, 12, 5)), linear_task()
    algorithm = hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.01, batch_size=4))
    spool, log = Spool(tmp_path / "spool", grace_s=0.0), EventLog(tmp_path)
    network = Network.of(algorithm, task, spool, log, rounds, expected=frozenset(data.clients))
    network.join(algorithm, task, data, data.clients)
    run = hw.Run(algorithm, data, task, rounds=rounds, engine=network.engine, folder=tmp_path / "run")
    memory, files = [], []
    try:
        for report in run:
            spool.forget(network.assignments.undecided())  # as a server does between rounds
            if report.round % (rounds // 10) == 0:
                gc.collect()
                memory.append(rss())
                files.append(len(os.listdir("/proc/self/fd")))
    finally:
        network.close()
        run.close()
        log.close()
    print("memory in MB:", [each >> 20 for each in memory], "open files:", files)
    assert memory[-1] - memory[0] < 16 << 20
    assert files[-1] <= files[0] + 5
    assert torch.isfinite(run.state.params).all()
