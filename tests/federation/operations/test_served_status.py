"""The status of `headway serve`: its page and its token, which no log has."""

import json
import threading
import urllib.request
from types import SimpleNamespace

import pytest
from agent_threads import AgentThread
from processes import until
from toys import blobs, linear_task

import headway as hw
from headway.cli import serve_command
from headway.data import RemoteData
from headway.federation import Server, ServerJob, ServerOptions
from headway.federation.identity.server_access import AccessOptions
from headway.federation.job_clients import JobClients
from headway.federation.operations.page_access import TOKEN_FILE
from headway.federation.operations.status_snapshot import StatusSnapshot

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def test_a_server_from_its_first_client_to_its_end(tmp_path, monkeypatch):
    data, events, end_seen, dismiss = blobs((7, 12)), [], threading.Event(), JobClients.dismiss
    monkeypatch.setattr(JobClients, "dismiss", lambda *given: (end_seen.wait(600), dismiss(*given)))
    algorithm = hw.recipes.fedavg(trainer=hw.LocalSGD(lr=0.1, batch_size=4))
    known = RemoteData("study", data.input_shape, classes=data.classes, expected=data.clients)
    job = ServerJob("study", algorithm, known, linear_task(dtype="float64"), 4)
    options = ServerOptions(port=0, access=AccessOptions(insecure=True), sinks=[lambda *event: events.append(event)])
    server = Server([job], tmp_path / "run", options)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert server.listening.wait(60)
    token = (tmp_path / "run" / TOKEN_FILE).read_text().strip()
    assert server.page == f"{server.url}/?token={token}"

    def read(is_wanted):
        request = urllib.request.Request(server.url + "/v1/status", headers={"Authorization": f"Bearer {token}"})
        with OPENER.open(request, timeout=60) as response:
            status = StatusSnapshot.model_validate_json(response.read())
        return status if is_wanted(status) else None

    before = until(lambda: read(lambda status: status.phase.phase == "waiting for clients"))
    assert (before.name, before.state, before.round, before.rounds) == ("study", "running", 0, 4)
    assert {each.name: each.presence for each in before.clients} == dict.fromkeys(data.clients, "absent")
    agents = [AgentThread(server.url, data, each, tmp_path, linear_task(dtype="float64")) for each in data.clients]
    after = until(lambda: read(lambda status: status.state != "running"), 600.0)
    end_seen.set()
    thread.join(60)
    assert not thread.is_alive()
    assert [agent.join() for agent in agents] == ["finished"] * 2
    assert (after.state, after.round, after.population) == ("finished", 4, 2)
    assert after.totals.counted == 8
    assert [each.round for each in after.history] == [1, 2, 3, 4]
    (listening,) = [facts for kind, _, facts in events if kind == "listening"]
    assert listening["token_file"] == str(tmp_path / "run" / TOKEN_FILE)
    assert token not in json.dumps(events)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_token_is_printed_on_a_terminal_alone(capsys, monkeypatch, terminal):
    server = SimpleNamespace(url="https://localhost:8443", page="https://localhost:8443/?token=secret")
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    serve_command._page(server)("listening", "Serving", {"token_file": "run/status-token"})
    out = capsys.readouterr().out
    assert ("secret" in out) is terminal
    assert ("run/status-token" in out) is not terminal
