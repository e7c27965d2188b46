"""Classes of published advisories on federated-learning software, each tried on the running server and agent.

Code in messages, memory by a length that a caller names, classes by their name, an identity that a caller chooses,
paths from a caller, work for callers who are nobody.
"""

import contextlib
import gzip
import hashlib
import itertools
import json
import pickle
import resource
import socket
import struct
import sys
import tracemalloc

import pytest
import torch
from raw_client import RawClient
from secured import Secured
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import FrameError, HeadwayError
from headway.federation import http_api as api
from headway.federation.agent.job_building import algorithm_of_names
from headway.federation.agent.task_building import task_of_names
from headway.protocol import wire

CLIENTS = ("anna", "bert")
NUMBERS = itertools.count()
HOSTILE_PATHS = ("..", "../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\0b", "C:\\x", "\n")


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    return Secured(tmp_path_factory.mktemp("federation"), CLIENTS, rate=10_000, burst=10_000)


@pytest.fixture(scope="module")
def network(secured):
    task = linear_task()
    with secured.network(hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1)), task, 3) as network:
        network.assignments.begin()
        for client in CLIENTS:
            with network.connect(network.url, client) as raw:
                assert raw.join(5).status == 200
        yield network


@pytest.fixture
def anna(network):
    with network.connect(network.url, "anna") as raw:
        raw.job_id = "job"
        yield raw


@pytest.fixture
def assignment(network, secured):
    """A request to anna whose reply may have 100,000 bytes."""
    message = network.server.uploads.put(b"the request")
    name = f"request-{next(NUMBERS)}-to-anna"
    made = api.Assignment(assignment=name, job="job", kind="train", round=0, message=message, size=11, limit=100_000)
    network.assignments.open("anna", made)
    yield made
    network.assignments.withdraw(["anna"])


def calls(assignment):
    """Each call of a client that has a body."""
    reply = api.REPLY.format(assignment=assignment.assignment)
    posts = [api.JOIN, api.DECLINE, api.WORK, api.HEARTBEAT, f"{reply}/complete", api.ENROL]
    return [*(("POST", path) for path in posts), ("PUT", reply)]


class Bomb:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_in_a_message_is_bytes_like_others(anna, assignment, tmp_path):
    canary = tmp_path / "executed"
    for body in (pickle.dumps(Bomb(canary)), json.dumps({"py/object": "posix.system", "job": "job"}).encode()):
        for method, path in calls(assignment):
            answer = anna.call(method, path, body, {api.OFFSET: "0"})
            assert answer.status < 500, (path, answer)
    with pytest.raises(FrameError):
        wire.decode(pickle.dumps(Bomb(canary)), wire.Expected("update", {"delta": (torch.float32, (3,))}, round=0))
    assert not canary.exists()


@pytest.mark.parametrize("length", [1 << 62, 10**13, api.CHUNK + 1, -1, "x", "1e3"])
def test_no_memory_is_taken_for_a_length_that_a_caller_names(network, secured, anna, assignment, length):
    identity = secured.identity("anna")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for method, path in calls(assignment):
        signed = identity.sign_headers(method, path)
        head = {"Host": "x", "Content-Length": length, api.OFFSET: 0, **signed}
        with anna.socket() as raw:
            raw.settimeout(60)
            text = "".join(f"{name}: {value}\r\n" for name, value in head.items())
            raw.sendall(f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode())
            status = raw.recv(12).partition(b" ")[2]
        assert status in (b"400", b"413", b"403", b"410"), (path, status)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("<4sBBHIIIQ", b"HWAY", 1, 0, 65535, 0, 0, 0, 1 << 60),
        struct.pack("<4sBBHIIIQ", b"HWAY", 1, 0, 1, 0, 0, 0, 1 << 62)
        + struct.pack("<BBBQ", 5, 0, 1, 1 << 60)
        + b"delta",
        struct.pack("<4sBBHIIIQ", b"HWAY", 1, 0, 1, 0, 0, 0, 0) + struct.pack("<BBB8Q", 1, 0, 8, *[1 << 63] * 8) + b"a",
    ],
    ids=["payload", "one buffer", "dimensions"],
)
def test_no_memory_is_taken_for_a_shape_that_a_frame_names(frame):
    tracemalloc.start()
    with pytest.raises(FrameError):
        wire.decode(frame + b"\0" * 64, wire.Expected("update", {"delta": (torch.float32, (3,))}, round=0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_bodies_are_not_decompressed(anna, assignment, network):
    bomb = gzip.compress(b"0" * (50 << 20))
    for encoding in ("gzip", "deflate", "br", "zstd"):
        for method, path in calls(assignment):
            answer = anna.call(method, path, bomb, {"Content-Encoding": encoding, api.OFFSET: "0"})
            assert answer.status in (400, 415), (path, answer)
    assert anna.received(assignment) == 0


@pytest.mark.parametrize(
    "body",
    [b"[" * 900_000, b'{"a":' * 100_000, b'{"job": "' + b"x" * 900_000 + b'"}', b"9" * 900_000, b"\xff\xfe" * 1000],
    ids=["deep lists", "deep tables", "a long text", "a long number", "no text"],
)
def test_hostile_json_is_refused(anna, assignment, body):
    for method, path in calls(assignment):
        if method == "POST":
            assert anna.call(method, path, body).status in (400, 410, 413), path


def test_a_class_is_not_found_by_its_name():
    good = {"chain": [{"stage": "Mean"}], "trainer": {}, "sampler": {}, "quorum": {}}
    before = set(sys.modules)
    for name in (
        "os.system",
        "subprocess:Popen",
        "builtins.eval",
        "antigravity",
        "headway.cli.main:main",
        "__import__",
    ):
        for part in ("chain", "trainer", "sampler"):
            hostile = [{"stage": name}, {"name": name}, {"kind": name}]
            for each in hostile:
                with pytest.raises(HeadwayError):
                    algorithm_of_names({**good, part: [each] if part == "chain" else each})
        for section in ({"name": name}, {"name": "mlp", "hidden": [4], "path": "/tmp"}):
            with pytest.raises(HeadwayError):
                task_of_names(section, {"loss": name}, blobs((4,)))
    assert "antigravity" not in set(sys.modules) - before


def test_an_identity_is_not_what_a_caller_calls_itself(network, secured, anna):
    """Neither by the header of the name, nor by one that proxies add, nor by another's certificate."""
    anna_identity, bert = secured.identity("anna"), secured.identity("bert")
    forged = [
        {api.NODE: "bert"},
        {"X-Forwarded-User": "bert", "X-SSL-Client-CN": "bert", "X-Client-Cert": bert.certificate},
        {"Authorization": "Bearer bert"},
    ]
    body = api.WorkRequest(job="job").model_dump_json().encode()
    before = network.members.get("bert").contact
    for headers in forged:
        answer = anna.call("POST", api.HEARTBEAT, body, headers)
        assert answer.status == (403 if api.NODE in headers else 200)
    with network.connect(network.url, "bert", identity=_pair(anna_identity, bert)) as mixed:
        answer = mixed.call("POST", api.HEARTBEAT, body)
        assert answer.status == 403
        assert (
            "in the name of 'bert', and the certificate of its connection is that of 'anna'" in answer.json["message"]
        )
    assert network.members.get("bert").contact == before


def _pair(tls, signing):
    """The certificate of one node, and the signatures of another."""

    class Mixed:
        name = signing.name
        client_context = tls.client_context
        sign_headers = signing.sign_headers

    return Mixed()


def test_a_reply_belongs_to_the_client_that_was_asked(network, assignment):
    with network.connect(network.url, "bert") as bert:
        assert bert.put(assignment, b"mine").status == 410
        assert bert.complete(assignment, b"mine").status == 410
    assert network.server.uploads.received(hashlib.sha256(f"anna\0{assignment.assignment}".encode()).hexdigest()) == 0


def test_what_others_sent_cannot_be_fetched(network, anna, assignment):
    """The digests of updates are public, in manifests and receipts; their contents are not."""
    update = network.server.uploads.put(b"the update of bert")
    assert anna.call("GET", api.MESSAGE.format(digest=assignment.message)).body == b"the request"
    assert anna.call("GET", api.MESSAGE.format(digest=update)).status == 410


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_a_path_from_a_caller_is_none(network, secured, anna, assignment, path, tmp_path):
    before = {each for each in secured.folder.rglob("*") if each.suffix not in ("-wal", "-shm")}
    quoted = "".join(f"%{byte:02X}" for byte in path.encode())
    for target in (api.MESSAGE.format(digest=quoted), api.REPLY.format(assignment=quoted)):
        assert anna.call("GET", target).status in (400, 404, 405, 410)
        assert anna.call("PUT", target, b"x", {api.OFFSET: "0"}).status in (400, 404, 405, 410)
    request = api.WorkRequest(job="job").model_dump()
    answer = anna.post(api.HEARTBEAT, {**request, "working": [path], "job": path})
    assert answer.status in (400, 410)
    assert {each for each in secured.folder.rglob("*") if each.suffix not in ("-wal", "-shm")} == before


@pytest.mark.parametrize("header", [{}, {api.NODE: "anna"}, {api.NODE: "nobody"}])
def test_nobody_is_refused_before_the_body_is_read(network, secured, assignment, header):
    """The answer comes although the body never does."""
    node = secured.identity("anna")
    with RawClient(network.url, "anna", None, node.client_context(own_certificate=False)) as nobody:
        for method, path in calls(assignment):
            if path == api.ENROL:
                continue
            with nobody.socket() as raw:
                raw.settimeout(60)
                head = {"Host": "x", "Content-Length": 1000, api.OFFSET: 0, **header}
                text = "".join(f"{name}: {value}\r\n" for name, value in head.items())
                raw.sendall(f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode())
                assert raw.recv(12) == b"HTTP/1.1 401", path


def test_a_signature_without_a_certificate_is_refused(network, secured):
    with network.connect(network.url, "anna", certificate=False) as raw:
        answer = raw.call("GET", api.JOB)
    assert answer.status == 401
    assert "--behind-proxy" in answer.json["message"]


def test_a_request_of_another_connection_is_not_sent_again(network, secured):
    """Whoever records a request cannot repeat it, on the same connection or on another."""
    with network.connect(network.url, "anna") as first:
        signed = secured.identity("anna").sign_headers("GET", api.JOB)
        first.sign = None
        assert first.call("GET", api.JOB, headers=signed).status == 200
        assert first.call("GET", api.JOB, headers=signed).status == 401
    with network.connect(network.url, "anna") as second:
        second.sign = None
        assert second.call("GET", api.JOB, headers=signed).status == 401


@pytest.mark.parametrize(
    "extra", [{"Range": "bytes=x"}, {"Range": "bytes=9-1"}, {"Range": "rows=1-2"}, {"Range": "bytes=0-,5-"}]
)
def test_a_malformed_range_is_refused(anna, assignment, extra):
    assert anna.call("GET", api.MESSAGE.format(digest=assignment.message), headers=extra).status in (200, 400, 416)


def test_plain_http_at_a_tls_port_gets_nothing(network):
    host, port = network.server.address
    with socket.create_connection((host, port), 60) as raw:
        raw.sendall(b"GET /v1/job HTTP/1.1\r\nHost: x\r\n\r\n")
        raw.settimeout(60)
        with contextlib.suppress(ConnectionError):
            assert b"HTTP/1.1 200" not in raw.recv(100)


def test_a_request_for_another_run_is_refused(network, secured):
    identity = secured.identity("anna")
    with network.connect(network.url, "anna") as raw:
        raw.sign = None
        for run, status in (("another", 410), ("", 200), ("job", 200)):
            body = api.WorkRequest(job="job").model_dump_json().encode()
            signed = identity.sign_headers("POST", api.HEARTBEAT, hashlib.sha256(body).hexdigest(), run=run)
            assert raw.call("POST", api.HEARTBEAT, body, signed).status == status
        signed = identity.sign_headers("POST", api.LEAVE, run="another")
        assert raw.call("POST", api.LEAVE, headers=signed).status == 410
        assert raw.call("GET", api.JOB, headers=identity.sign_headers("GET", api.JOB, run="another")).status == 200


@pytest.mark.parametrize("control", ["\x1b[2J", "\x9b2J", "\x07", "\r", "\x00"])
def test_what_a_client_says_cannot_steer_a_terminal(network, anna, control):
    request = api.WorkRequest(job="job").model_dump()
    body = json.dumps({**request, "activity": f"{control}training"}).encode()
    assert anna.call("POST", api.HEARTBEAT, body).status == 200
    shown = network.members.get("anna").activity
    assert shown.endswith("training")
    assert control not in shown
    assert anna.call("POST", api.HEARTBEAT, json.dumps({**request, "working": [f"a{control}"]}).encode()).status == 400


def test_no_secret_is_in_an_answer(network, anna, secured):
    answers = [anna.call("GET", path) for path in (api.HEALTH, api.JOB, "/", "/v1/none")]
    secrets = [
        line
        for file in secured.folder.rglob("*.key")
        for line in file.read_text().splitlines()
        if not line.startswith("-----")
    ]
    for answer in answers:
        assert not any(secret.encode() in answer.body for secret in secrets)
        assert b"Traceback" not in answer.body


def test_the_server_goes_on(network):
    """After all of the above."""
    with network.connect(network.url, "anna") as raw:
        assert raw.job().job == "job"
