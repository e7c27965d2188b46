"""Disks that are full or broken, and two servers on one folder: a sentence, an exit code, and a run to go on."""

from pathlib import Path

import pytest
from crash_nodes import parts
from processes import until
from test_kills import check

PLACES = ["before an event is on disk", "before a content is on disk", "before verdicts are on disk"]


def run_with(nodes, **options):
    """A run whose first server has this trouble, and its second one none; the first one's exit code and log."""
    agents = [nodes.join(client) for client in parts(nodes.recipe)[1].clients]
    server = nodes.serve(**options)
    code = nodes.wait(server)
    text = (nodes.folder / "server.log").read_text()
    server = nodes.serve()
    assert [nodes.wait(agent) for agent in agents] == [0] * len(agents), nodes.logs()
    nodes.end()
    assert nodes.wait(server) == 0, nodes.logs()
    check(nodes)
    return code, text


@pytest.mark.parametrize("size", [2000, 20_000, 60_000])
def test_a_full_disk(nodes, size):
    """No file grows beyond a size: the event log, the journal or the checkpoint cannot be written."""
    nodes.fresh(f"full-{size}")
    code, text = run_with(nodes, file_size=size)
    assert code == 1
    last = [line for line in text.splitlines() if line][-1]
    assert "Error" in last
    assert "full" in text or "too large" in text or "I/O" in text


@pytest.mark.parametrize("action", ["full", "broken"])
@pytest.mark.parametrize("place", PLACES[:1])
def test_a_write_that_fails(nodes, place, action):
    nodes.fresh(f"{action}-{place.replace(' ', '-')}")
    code, text = run_with(nodes, fault=f"{place}|{action}|3")
    assert code == 1
    assert ("No space left" if action == "full" else "Input/output error") in text


def state(node):
    """The letter of a process's state, T for one that is stopped."""
    return Path(f"/proc/{node.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@pytest.mark.parametrize("number", [0, *(pytest.param(number, marks=pytest.mark.soak) for number in range(1, 20))])
def test_two_servers_on_one_folder(nodes, number):
    nodes.fresh(f"two-{number}")
    clients = parts(nodes.recipe)[1].clients
    first = nodes.serve(fault=f"after an event is on disk|stop|{2 + number % 6}")  # it holds the folder, and waits
    agents = [nodes.join(client) for client in clients]
    until(lambda: state(first) == "T", what="the first server has not stopped")
    second = nodes.serve(port=nodes.other_port)
    assert nodes.wait(second) == 1
    assert "another process" in (nodes.folder / "server.log").read_text()
    nodes.kill(first)
    server = nodes.serve()
    assert [nodes.wait(agent) for agent in agents] == [0] * len(agents), nodes.logs()
    nodes.end()
    assert nodes.wait(server) == 0
    check(nodes)
