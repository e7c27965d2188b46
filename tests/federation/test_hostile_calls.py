"""Calls that must not work: each is refused with a problem, none ends the server, and the run goes on unchanged."""

import contextlib
import functools
import json
import os
import random
import socket
from collections import Counter

import pytest
import torch
from aiohttp.streams import StreamReader
from processes import until
from raw_client import join_request, prepared
from serving_run import DATA, ROUNDS, Serving

import headway as hw
from headway.federation import http_api as api
from headway.federation.serving.http_server import BUFFER

REPLAYS = int(os.environ.get("HEADWAY_REPLAYS", "10000"))


@pytest.fixture
def serving(tmp_path):
    serving = Serving(tmp_path)
    yield serving
    serving.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    serving = Serving(tmp_path_factory.mktemp("undisturbed"))
    with serving.client() as raw:
        assert raw.join(5).status == 200
        params = serving.finish(raw)
    serving.close()
    return params


JOIN = {
    "a number that is none": 1e400,
    "a negative number": -1,
    "a fraction": 2.5,
    "text": "5",
    "far too large": 10**400,
}


@pytest.mark.parametrize("name", JOIN)
def test_facts_that_are_none(serving, name):
    with serving.client() as raw:
        body = json.loads(join_request(raw.job(), 5).model_dump_json())
        body["data"]["train"] = JOIN[name]
        answer = raw.post(api.JOIN, body)
        assert (answer.status, answer.kind) == (400, "malformed")
        assert "data.train" in answer.json["message"]


BODIES = {
    "no JSON": b"\x80\x04\x95pickle",
    "empty": b"",
    "a list": b"[]",
    "nested": b"[" * 100_000,
    "an unknown key": b'{"job": "job", "class": "os.system"}',
    "a number of another kind": b'{"job": 3}',
    "NaN": b'{"job": "job", "wait_s": NaN}',
    "too long a wait": b'{"job": "job", "wait_s": 1e9}',
    "no text": b'{"job": "\xff"}',
    "a name with a path": b'{"job": "../../etc/passwd"}',
}


@pytest.mark.parametrize("path", [api.JOIN, api.WORK, api.HEARTBEAT, api.COMPLETE.format(assignment="a")])
@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_none(shared, path, name):
    with shared.client() as raw:
        answer = raw.post(path, BODIES[name])
        assert answer.status in (400, 409, 410), answer
        assert answer.kind in ("malformed", "gone", "late")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A server that waits for a client: its calls change nothing."""
    serving = Serving(tmp_path_factory.mktemp("shared"))
    yield serving
    serving.close()


def test_a_body_that_is_too_large(shared):
    with shared.client() as raw:
        answer = raw.post(api.WORK, b" " * (api.BODY + 1))
        assert (answer.status, answer.kind) == (413, "too_large")
    with shared.client() as raw:  # without its length
        raw.connection = None
        sock = raw.socket()
        sock.sendall(
            f"POST {api.WORK} HTTP/1.1\r\nHost: x\r\n{api.NODE}: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        try:
            for _ in range(64):
                sock.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            reply = sock.recv(100)
        except ConnectionError:
            reply = b"HTTP/1.1 413"  # the server has closed before all was sent
        assert reply.startswith(b"HTTP/1.1 413") or not reply
        sock.close()


PATHS = ["/v1/messages/../../etc/passwd", "/v1/messages/%2e%2e%2fjournal.sqlite", f"/v1/messages/{'0' * 64}"]
PATHS += [
    "/v1/messages/" + "A" * 64,
    "/v1/replies/%00",
    "/v1/replies/..%2f..",
    "/v2/job",
    "/etc/passwd",
    "//",
    "/v1/messages/",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_lead_nowhere(shared, path):
    with shared.client() as raw:
        answer = raw.call("GET", path)
        assert answer.status in (400, 404, 405, 410), answer
        assert b"root:" not in answer.body
        assert b"Traceback" not in answer.body


@pytest.mark.parametrize("span", ["bytes=5-2", "bytes=-", "bytes=99999999999-", "lines=1", "bytes=a-b", "bytes=-5-3"])
def test_ranges_that_are_none(serving, span):
    with serving.client() as raw:
        assert raw.join(5).status == 200
        assignment = raw.assignment()
        answer = raw.call("GET", api.MESSAGE.format(digest=assignment.message), headers={"Range": span})
        assert answer.status in (200, 400, 416), answer
        serving.finish(raw)


def test_raw_bytes_that_are_not_http(shared):
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x00" * 1000,
        b"GET\r\n\r\n",
        b"A" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with shared.client().socket() as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                reply = sock.recv(1 << 16)
            except ConnectionError:
                continue
            assert not reply or b" 400 " in reply.split(b"\r\n")[0]
            assert b"Traceback" not in reply
    with shared.client() as raw:
        assert raw.call("GET", api.HEALTH).status == 200


def test_replays_and_pieces_out_of_order(serving, undisturbed):
    """The same pieces, ends and verdicts again and again, in any order, by the client and by others."""
    with serving.client() as raw, serving.client(DATA.clients[0]) as other:
        assert raw.join(5).status == 200
        for _ in range(ROUNDS):
            assignment = raw.assignment()
            message = raw.message(assignment)
            data, changed = (prepared(assignment, message, 5.0, value) for value in (0.25, 100.0))
            half = len(data) // 2
            assert raw.put(assignment, data[half:], half).status == 409
            assert raw.received(assignment) == 0
            assert raw.complete(assignment, data).status >= 400
            assert raw.put(assignment, data[:half], 0).status == 200
            assert raw.put(assignment, data[:half], 0).status == 409
            assert raw.put(assignment, data[half + 1 :], half + 1).status == 409
            assert raw.complete(assignment, data).status >= 400
            assert raw.received(assignment) == half
            assert other.put(assignment, data[half:], half).status == 410, "another client's reply"
            assert other.complete(assignment, data).status == 410
            assert raw.put(assignment, data[half:] + b"more", half).status == 200
            assert raw.complete(assignment, data).status == 409
            assert raw.complete(assignment, data + b"more", digest="0" * 64).status == 409
            assert raw.received(assignment) == 0, "an upload with another digest begins anew"
            receipts = [raw.send(assignment, data), *(raw.complete(assignment, data) for _ in range(20))]
            assert [each.status for each in receipts] == [200] * 21
            assert {api.Receipt.model_validate_json(each.body).verdict for each in receipts} == {"accepted"}
            assert raw.put(assignment, changed, 0).status in (409, 410)
            assert raw.complete(assignment, changed).status == 410
        assert torch.equal(serving.finish(raw), undisturbed)
    assert [report.count("counted") for report in serving.reports] == [3] * ROUNDS


@pytest.mark.soak
def test_ten_thousand_replays(serving, undisturbed):
    """What was sent before, by anybody, in any order and round: an update that has counted never counts again."""
    chance, kinds, sent = random.Random(0), Counter(), []
    with serving.client() as raw, serving.client(DATA.clients[0]) as other:
        assert raw.join(5).status == 200
        for _ in range(ROUNDS):
            assignment = raw.assignment()
            data = prepared(assignment, raw.message(assignment), 5.0, 0.25)
            sent.append((assignment, data, raw.send(assignment, data).body))
            for _ in range(-(-REPLAYS // ROUNDS)):
                earlier, whole, receipt = chance.choice(sent)
                match kind := chance.choice(("end", "piece", "changed", "other's piece", "other's end")):
                    case "end":
                        answer = raw.complete(earlier, whole)
                        assert (answer.status, answer.body) == (200, receipt)
                    case "piece":
                        offset = chance.randrange(len(whole))
                        assert raw.put(earlier, whole[offset:], offset).status in (409, 410)
                    case "changed":
                        assert raw.complete(earlier, whole, digest=f"{chance.getrandbits(256):064x}").status in (
                            409,
                            410,
                        )
                    case "other's piece":
                        assert other.put(earlier, whole).status == 410
                    case "other's end":
                        assert other.complete(earlier, whole).status == 410
                kinds[kind] += 1
        assert torch.equal(serving.finish(raw), undisturbed)
    assert [report.count("counted") for report in serving.reports] == [3] * ROUNDS
    print(f"{kinds.total()} replays: none counted; {dict(kinds)}")


def test_the_update_of_another_client_cannot_be_downloaded(serving, undisturbed):
    with serving.client() as raw, serving.client(DATA.clients[0]) as other:
        assert raw.join(5).status == 200
        assignment = raw.assignment()
        receipt = api.Receipt.model_validate_json(raw.answer(assignment, 5.0, 0.25).body)
        path = api.MESSAGE.format(digest=receipt.digest)
        assert [each.call("GET", path).kind for each in (raw, other)] == ["gone", "gone"]
        assert torch.equal(serving.finish(raw), undisturbed)


def test_a_reply_that_is_too_large(serving, undisturbed):
    with serving.client() as raw:
        assert raw.join(5).status == 200
        assignment = raw.assignment()
        answer = raw.put(assignment, bytes(assignment.limit + 1))
        assert (answer.status, answer.kind) == (413, "too_large")
        answer = raw.put(assignment, b"x", 1 << 59)
        assert answer.status == 413
        answer = raw.put(assignment, bytes(api.CHUNK + 1))
        assert (answer.status, answer.kind) == (413, "too_large")
        raw.close()
        for offset in ("-1", "1e3", "", "9" * 5000):
            path = api.REPLY.format(assignment=assignment.assignment)
            answer = raw.call("PUT", path, b"x", {api.OFFSET: offset.encode().decode("latin-1")})
            assert answer.status == 400, (offset, answer)
        assert torch.equal(serving.finish(raw), undisturbed)


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.soak) for number in range(1, 20))])
def test_slow_clients_do_not_delay_the_others(tmp_path, number):
    """Heads, bodies and downloads that come or go a byte at a time, while a round has a deadline."""
    serving = Serving(tmp_path, quorum=hw.Quorum(deadline_s=3600.0))
    engine, sockets = serving.network.engine, []
    try:
        with serving.client() as raw:
            assert raw.join(5).status == 200
            assignment = raw.assignment()
            put = f"PUT {api.REPLY.format(assignment=assignment.assignment)} HTTP/1.1\r\nHost: x\r\n"
            put += f"{api.NODE}: {raw.name}\r\n{api.OFFSET}: 0\r\nContent-Length: 300\r\n\r\n"
            starts = [
                b"",
                b"GET /v1/jo",
                put.encode(),
                put.encode() + b"x",
                f"POST {api.WORK} HTTP/1.1\r\nContent-".encode(),
            ]
            sockets = [raw.socket() for _ in range(200)]
            for place, sock in enumerate(sockets):
                sock.sendall(starts[place % len(starts)])

            def only_slow_ones_are_missing(round_):
                for sock in sockets[::20]:
                    with contextlib.suppress(OSError):
                        sock.sendall(b"a")
                progress = engine.progress
                return (progress.phase, progress.round, progress.waiting_for) == ("training", round_, (raw.name,))

            for round_ in range(ROUNDS):
                until(functools.partial(only_slow_ones_are_missing, round_))
                engine.channel.clock.set(engine.now + 3600.0)
        serving.thread.join(60)
        assert [report.count("counted") for report in serving.reports] == [2] * ROUNDS
        reasons = {row.client: row.reason for row in serving.reports[0].clients if row.status != "counted"}
        assert "round was over" in reasons[DATA.clients[2]]
    finally:
        for sock in sockets:
            sock.close()
        serving.close()


def test_a_client_that_is_gone_amid_a_piece_is_no_failure_of_the_server(serving, undisturbed, caplog):
    with serving.client() as raw:
        assert raw.join(5).status == 200
        assignment = raw.assignment()
        data = prepared(assignment, raw.message(assignment), 5.0, 0.25)
        head = f"PUT {api.REPLY.format(assignment=assignment.assignment)} HTTP/1.1\r\nHost: x\r\n"
        head += f"{api.NODE}: {raw.name}\r\n{api.OFFSET}: 0\r\nContent-Length: {len(data)}\r\n\r\n"
        with raw.socket() as sock:
            sock.sendall(head.encode() + data[:100])
            until(lambda: serving.network.server._writing, what="the piece has not begun")
        until(lambda: not serving.network.server._writing, what="the piece has not ended")
        kept = raw.received(assignment)  # what was read of it before the connection was lost
        assert kept in (0, 100)
        assert raw.put(assignment, data[kept:], kept).status == 200
        assert raw.complete(assignment, data).status == 200
        assert torch.equal(serving.finish(raw), undisturbed)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_the_bytes_of_an_upload_that_wait_in_memory_are_few(serving, monkeypatch):
    """Hundreds of clients upload at once, and a server holds a little of each."""
    waiting, feed = [0], StreamReader.feed_data

    def measured(reader, data, *more):
        result = feed(reader, data, *more)
        waiting[0] = max(waiting[0], reader._size)
        return result

    monkeypatch.setattr(StreamReader, "feed_data", measured)
    large = api.Assignment(
        assignment="large", job="job", kind="train", round=0, message="0" * 64, size=1, limit=1 << 23
    )
    serving.network.assignments.open("large", large)  # of a client that is not in the run
    with serving.client("large") as raw:
        assert raw.put(large, bytes(api.CHUNK)).status == 200
        assert raw.received(large) == api.CHUNK
    assert 0 < waiting[0] <= 2 * BUFFER + 2 * (1 << 18)  # of two reads at most


def test_connections_that_come_and_go_leave_nothing_behind(shared):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    for _ in range(300):
        with shared.client().socket() as sock:
            sock.sendall(b"POST /v1/work HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
    until(lambda: open_files() <= before + 10, what="connections stay open")
    with shared.client() as raw:
        assert raw.call("GET", api.HEALTH).status == 200
