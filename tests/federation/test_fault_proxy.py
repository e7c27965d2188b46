"""The proxy does what it says, and nothing without a fault."""

import contextlib
import http.client
import http.server
import socket
import threading
import time

import pytest
from fault_proxy import FaultProxy, Faults


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_): ...


class Origin(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_): ...


@pytest.fixture(scope="module")
def origin():
    server = Origin(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.server_address
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxy(origin):
    with FaultProxy(origin) as proxy:
        yield proxy


def put(connection, size):
    body = bytes(range(256)) * (size // 256)
    connection.request("PUT", "/", body)
    answer = connection.getresponse()
    assert answer.read() == body
    return answer.status


@pytest.fixture
def connect(proxy):
    opened = []

    def connect():
        opened.append(http.client.HTTPConnection(*proxy.address, timeout=60))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


@pytest.mark.parametrize(
    "faults", [Faults(), Faults(buffering=True), Faults(latency_s=0.01)], ids=["none", "buffering", "latency"]
)
def test_bytes_pass_unchanged(proxy, connect, faults):
    proxy.faults = faults
    connection = connect()
    assert [put(connection, size) for size in (256, 1 << 18)] == [200, 200]
    assert proxy.carried[0] > 1 << 18
    assert proxy.carried[1] > 1 << 18
    assert (proxy.cuts, len(proxy.accepted)) == (0, 1)


def test_a_rate_is_a_lower_bound_on_the_time(proxy, connect):
    proxy.faults = Faults(rate=1 << 19)
    begun = time.monotonic()
    put(connect(), 1 << 17)
    assert time.monotonic() - begun >= 0.25


@pytest.mark.parametrize("fault", [{"cut_up": 10_000}, {"cut_down": 10_000}, {"loss": 1.0}], ids=str)
def test_a_cut(proxy, connect, fault):
    proxy.faults = Faults(**fault)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        put(connect(), 1 << 18)
    assert proxy.cuts == 1
    if "cut_up" in fault:
        assert proxy.carried[0] == 10_000
    proxy.faults = Faults()
    assert put(connect(), 256) == 200


def test_cuts_that_end(proxy, connect):
    proxy.faults = Faults(cut_up=1000, times=1)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        put(connect(), 1 << 16)
    assert put(connect(), 1 << 16) == 200


def test_a_partition_heals_on_the_same_connection(proxy, connect):
    connection = connect()
    put(connection, 256)
    proxy.faults = Faults(frozen=True)
    threading.Timer(0.2, lambda: setattr(proxy, "faults", Faults())).start()
    assert put(connection, 256) == 200
    assert len(proxy.accepted) == 1


def test_a_forgotten_connection_is_open_and_silent(proxy, connect):
    connection = connect()
    put(connection, 256)
    connection.sock.settimeout(0.2)
    proxy.forget()
    with pytest.raises(TimeoutError):
        put(connection, 256)
    assert put(connect(), 256) == 200


def test_idle_connections_are_cut(proxy, connect):
    proxy.faults = Faults(idle_s=0.1)
    with socket.create_connection(proxy.address) as idle:
        idle.settimeout(60)
        with contextlib.suppress(ConnectionError):  # as good as the end of the stream
            assert idle.recv(1) == b""
    assert proxy.cuts == 1


def test_a_gateway_without_its_server(proxy, connect):
    proxy.faults = Faults(bad_gateway=True)
    connection = connect()
    for _ in range(2):
        connection.request("PUT", "/x", b"abc")
        answer = connection.getresponse()
        assert (answer.status, answer.read()[:6]) == (502, b"<html>")
    assert proxy.requests == [b"PUT /x HTTP/1.1"] * 2
    assert proxy.carried == [0, 0]


def test_refused_connections(proxy, connect):
    proxy.faults = Faults(refusing=True)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        put(connect(), 256)


def test_cutting_all(proxy, connect):
    connection = connect()
    put(connection, 256)
    proxy.cut()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        put(connection, 256)
