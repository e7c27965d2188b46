"""The page over HTTP: nothing without the token, nothing from elsewhere, events that end with the run."""

import json
import socket
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from boards import hostile_board, rounds_of, server_board

from headway.core.errors import ConfigError
from headway.federation.operations.page_server import PageServer
from headway.federation.operations.status_board import StatusBoard
from headway.federation.operations.status_pages import MOST_VIEWERS
from headway.federation.operations.status_snapshot import StatusSnapshot


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments):
        return None


OPENER = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))


@contextmanager
def served(board):
    server = PageServer(board)
    server.start()
    try:
        yield server, server.url.partition("/?")[0]
    finally:
        server.stop()


def get(url, **headers):
    request = urllib.request.Request(url, headers={name.capitalize(): text for name, text in headers.items()})
    try:
        with OPENER.open(request, timeout=60) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def test_nothing_without_the_token():
    board = hostile_board()
    with served(board) as (server, base):
        for path in ("/", "/v1/status", "/metrics", "/v1/events", "/?token=wrong", "/?token="):
            code, headers, text = get(base + path)
            assert code == 401, path
            assert board.name not in text
            assert server.access.token not in text
            assert headers["WWW-Authenticate"] == "Bearer"
        assert get(f"{base}/v1/status?token={server.access.token}")[0] == 401  # addresses end in logs
        assert json.loads(get(base + "/health")[2]) == {"status": "ok", "state": "running"}


def test_the_token_becomes_a_cookie_and_leaves_the_address():
    with served(server_board([], done=1)) as (server, base):
        code, headers, _ = get(server.url)
        assert (code, headers["Location"]) == (303, "./")
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie
        assert server.access.token not in cookie
        assert "Secure" not in cookie  # plain HTTP on this machine
        assert "Secure" in get(server.url, **{"X-Forwarded-Proto": "https"})[1]["Set-Cookie"]
        code, headers, page = get(base + "/", cookie=cookie.partition(";")[0])
        assert code == 200
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers
        assert server.access.token not in page


def test_json_and_metrics():
    with served(server_board([], done=2)) as (server, base):
        bearer = f"Bearer {server.access.token}"
        status = StatusSnapshot.model_validate_json(get(base + "/v1/status", authorization=bearer)[2])
        assert (status.round, status.state, status.job) == (2, "running", "job-1")
        _, headers, text = get(base + "/metrics", authorization=bearer)
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "headway_rounds_completed_total 2\n" in text


def events(base, server):
    """The events until the server ends them."""
    request = urllib.request.Request(base + "/v1/events", headers={"Authorization": f"Bearer {server.access.token}"})
    with OPENER.open(request, timeout=60) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        for line in response:
            if line.startswith(b"data: ") and "fragments" in (news := json.loads(line[6:])):  # no mere sign of life
                yield news


def test_events_hold_what_has_changed_and_end_with_the_run():
    board = StatusBoard("simulation", "mine", 2)
    board.set_state("running")
    reports = list(rounds_of(2))
    with served(board) as (server, base):
        stream = events(base, server)
        first = next(stream)
        assert {"state", "clients", "learning", "title", "spoken"} <= first["fragments"].keys()
        board.add_round(reports[0])
        second = next(stream)
        assert "1 of 2" in second["fragments"]["state"]
        assert "algorithm" not in second["fragments"]
        assert not second["over"]
        board.add_round(reports[1])
        board.set_state("failed", "the disk is full")
        rest = list(stream)
        assert rest[-1]["over"]
        assert rest[-1]["last"]
        assert "the disk is full" in rest[-1]["fragments"]["state"]


def test_viewers_are_limited_and_counted_down():
    with served(server_board([])) as (server, base):
        streams = [events(base, server) for _ in range(3)]
        for stream in streams:
            next(stream)
        assert server.pages.viewers == 3
        server.pages.viewers += MOST_VIEWERS - 3
        assert get(base + "/v1/events", authorization=f"Bearer {server.access.token}")[0] == 503
        server.pages.viewers -= MOST_VIEWERS - 3
        for stream in streams:
            stream.close()


def test_a_port_in_use_is_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port}: Address already in use"):
            PageServer(server_board([]), port)


def test_it_ends_while_pages_are_open_and_leaves_no_thread():
    before = set(threading.enumerate())
    with served(server_board([])) as (server, base):
        stream = events(base, server)
        next(stream)
    stream.close()
    assert set(threading.enumerate()) <= before
    unused = PageServer(server_board([]))
    unused.stop()  # a run that never began
