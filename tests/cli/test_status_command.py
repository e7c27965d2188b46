"""`headway status`: what it prints of a server, on a terminal or piped, and its refusals."""

import json
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from headway.cli import status_command
from headway.federation.operations import page_server, status_pages
from headway.federation.operations.page_server import PageServer

sys.path.append(str(Path(__file__).parent.parent / "federation" / "operations"))

from boards import HOSTILE, hostile_board, rounds_of, server_board

from headway.federation.operations.status_board import StatusBoard
from headway.federation.operations.status_reader import StatusReader
from headway.federation.operations.status_snapshot import ChainStatus, ClientStatus

NOW = 1_000_000.0  # by the clock of a server


@pytest.fixture
def served():
    """Serves boards until the test is over; gives the address."""
    servers = []

    def serve(board):
        server = PageServer(board)
        server.start()
        servers.append(server)
        return server.url

    yield serve
    for server in servers:
        server.stop()


def running(done=2):
    clients = [
        ClientStatus(
            name="north", presence="connected", activity="training", done=0.4, awaited=True, counted=2, bytes_up=2048
        ),
        ClientStatus(name="south", presence="gone", contact=NOW - 90, reason="not finite", refused=1),
    ]
    board = server_board(clients, done=done, wall=lambda: NOW)
    board.set_phase("training", since=NOW - 42, deadline=NOW + 80, waiting_for=["north"])
    return board


def test_what_it_prints(headway, served):
    code, out, err = headway("status", served(running()))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "mine running: Round 3 of 8: training, waiting for 1 client: north."
    assert lines[1] == "  since     42 s; the deadline is in 1 min 20 s"
    assert "  clients   1 of 2 connected" in lines
    assert "  updates   2 counted, 2 refused, 2 lost; 600 B up, 300 B down" in lines
    assert "  results   training loss 0.5000, accuracy over the clients 0.5000, loss over the clients -" in lines
    (north,) = [line for line in lines if line.startswith("north")]
    assert north.split() == ["north", "2", "0", "0", "0", "2.0", "kB", "0", "B", "training,", "40", "%"]
    assert any(line.endswith("gone, silent for 1 min 30 s (not finite)") for line in lines)
    assert "  round 2, refused: south: not finite" in lines


def test_json_is_the_whole_status(headway, served):
    code, out, _ = headway("status", served(running()), "--json")
    record = json.loads(out)
    assert code == 0
    assert (record["event"], record["round"], record["clients"][0]["name"]) == ("status", 2, "north")


def test_it_watches_to_the_end(headway, served, monkeypatch):
    monkeypatch.setattr(status_command, "EVERY_S", 0.05)
    board = StatusBoard("simulation", "mine", 2)
    board.describe("accuracy", ChainStatus(), 3)
    board.set_state("running")
    board.set_phase("training", "round 1")

    looks, read, going = [], StatusReader.read, rounds_of(2)

    async def noted(self):
        """A look at the status, after every second of which a round ends, and then the run."""
        found = await read(self)
        looks.append(found.round)
        if len(looks) % 2 == 0:
            if (report := next(going, None)) is not None:
                board.add_round(report)
            else:
                board.set_state("failed", "the disk is full")
        return found

    monkeypatch.setattr(StatusReader, "read", noted)
    code, out, _ = headway("status", served(board), "--watch")
    lines = [line.partition(" ")[2] for line in out.splitlines()]
    assert code == 0
    assert looks == [0, 0, 1, 1, 2, 2, 2]
    assert lines == [
        "Round 1 of 2: training.",
        "Round 2 of 2: training.",
        "The run has failed: the disk is full; 2 of 2 rounds are done.",
    ]


def test_the_page_of_a_run_waits_for_its_watchers(monkeypatch):
    monkeypatch.setattr(status_pages, "FOLLOWED_S", 600.0)
    monkeypatch.setattr(page_server, "LOOKS", 6000)
    board = running()
    server = PageServer(board)
    server.start()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    bearer = {"Authorization": f"Bearer {server.access.token}"}
    request = urllib.request.Request(server.url.partition("/?")[0] + "/v1/status", headers=bearer)

    def state():
        with opener.open(request, timeout=60) as response:
            return json.load(response)["state"]

    assert state() == "running"
    board.set_state("finished")
    ending = threading.Thread(target=server.stop, daemon=True)
    ending.start()
    ending.join(0.3)
    assert ending.is_alive()
    assert state() == "finished"
    ending.join(60)
    assert not ending.is_alive()


def test_hostile_names_do_not_move_the_cursor(headway, served):
    board = hostile_board()
    board.name = HOSTILE + "\x1b[2J\x9b2J\r\n"
    board.set_phase("waiting for clients", "for \x9b2J\x1b]0;x\x07")
    board.add_event("late", "\x1b[31mred\x9b2J", "evil\x9b2J")
    code, out, _ = headway("status", served(board))
    assert code == 0
    assert not [letter for letter in out if letter != "\n" and not letter.isprintable()]
    assert "<script>" in out
    terminal = Console(width=100, height=30, force_terminal=True, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in status_command.status_parts(board.snapshot()):
        terminal.print(part)
    assert "\x9b" not in terminal.export_text()
    terminal.file.close()


def test_many_clients_are_cut_and_said(headway, served):
    many = [ClientStatus(name=f"c{each:03}", presence="connected", awaited=each == 99) for each in range(100)]
    _, out, _ = headway("status", served(server_board(many)))
    assert "  40 of 100 clients; all that are kept with --json" in out.splitlines()
    assert "\nc099 " in out


def test_where_the_token_may_come_from(headway, served, tmp_path, monkeypatch):
    base, _, token = served(running()).partition("/?token=")
    (tmp_path / "token").write_text(token + "\n")
    assert headway("status", base, "--token", token)[0] == 0
    assert headway("status", base, "--token-file", "token")[0] == 0
    monkeypatch.setenv("HEADWAY_TOKEN", token)
    assert headway("status", base)[0] == 0
    monkeypatch.setenv("HEADWAY_TOKEN", "x" * 43)
    code, _, err = headway("status", base)
    assert code == 1
    assert "refuses the token" in err
    assert token not in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["http://127.0.0.1:1/?token=abc"], "no server answers at http://127.0.0.1:1"),
        (["http://127.0.0.1:1"], "needs the server's token"),
        (["http://192.0.2.1:80/?token=abc"], "would send the token in the clear"),
        (["ftp://host/?token=abc"], "is no address of a server"),
        (["https://host:notaport/?token=abc"], "is no address of a server"),
        (["https://127.0.0.1:1", "--token-file", "nothing"], "the token cannot be read from nothing"),
        (["https://127.0.0.1:1", "--token", "x", "--ca", "nothing"], "nothing is no certificate"),
        (["https://127.0.0.1:1", "--token", "x", "--identity", "nothing"], "there is no identity in nothing"),
    ],
    ids=["nobody", "no-token", "clear", "ftp", "port", "file", "ca", "identity"],
)
def test_mistakes_are_a_sentence(headway, arguments, words):
    code, out, err = headway("status", *arguments)
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1
