"""`headway relay`: clients behind a relay by command lines, and what is refused with a sentence."""

import threading

import torch
from agent_threads import AgentThread
from aiohttp import web
from network import Network
from tls_server import serving

import headway as hw
from headway.data import load
from headway.federation.identity.authority import Authority
from headway.federation.serving.server_setup import describe_job
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.model import zoo

DATA = load("hospitals", key=0)
TASK = hw.Task(zoo.factory("logistic", DATA.input_shape, 2, {}), metrics=("accuracy",))
SCAFFOLD = hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.05, batch_size=64))


def network_of(folder, **more):
    network = Network.of(
        SCAFFOLD,
        TASK,
        Spool(folder / "spool"),
        EventLog(folder),
        2,
        group=1,
        wait_limit_s=60.0,
        relays=("relay",),
        expected=frozenset(DATA.clients),
    )
    job = describe_job("job", "heart", SCAFFOLD, TASK, 2, seed=0, model={"name": "logistic"}, **more)
    network.server.desk.offer(job)
    return network


def test_all_hospitals_behind_a_relay_have_the_bits_of_local(tmp_path, headway, monkeypatch):
    local = hw.Run(SCAFFOLD, DATA, TASK, rounds=2, engine=hw.LocalEngine(group=1))
    list(local)
    network, agents, printed = network_of(tmp_path, data_schema={"source": "hospitals"}), [], []
    text_sink = __import__("headway.cli.relay_command", fromlist=["text_sink"]).text_sink

    def sink():
        write = text_sink()

        def show(kind, sentence, facts):
            write(kind, sentence, facts)
            printed.append(kind)
            if kind == "listening":
                address = facts["address"].replace("localhost", "127.0.0.1")
                agents.extend(AgentThread(address, DATA, client, tmp_path, task=TASK) for client in DATA.clients)

        return show

    monkeypatch.setattr("headway.cli.relay_command.text_sink", sink)
    monkeypatch.setattr("headway.federation.relay.relay.GOODBYE_S", 60.0)
    run = hw.Run(SCAFFOLD, DATA, TASK, rounds=2, engine=network.engine)

    def serve():
        list(run)
        network.assignments.set_state("finished")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    options = ("--insecure", "--port", "0", "--clients", "4", "--state", str(tmp_path / "relay"))
    code, out, err = headway("relay", network.url, *options)
    assert code == 0, err
    thread.join(60)
    assert [agent.join() for agent in agents] == ["finished"] * 4
    network.close()
    assert "WARNING: --insecure" in err
    assert "may join at http://localhost:" in out
    assert printed[-1] == "ended"
    assert torch.equal(run.state.params, local.state.params)


def test_a_job_without_a_schema_is_refused_with_a_sentence(tmp_path, headway):
    network = network_of(tmp_path)
    code, _, err = headway("relay", network.url, "--insecure", "--port", "0", "--state", str(tmp_path / "relay"))
    network.close()
    assert code != 0
    assert "states no schema of its data" in err


def test_a_server_behind_a_proxy_with_a_public_certificate(tmp_path, headway, monkeypatch):
    async def job(request):
        return web.json_response({"kind": "refused", "message": "the server behind the proxy answers"}, status=409)

    with Authority.create(tmp_path / "ca") as authority, Authority.create(tmp_path / "public") as public:
        authority.issue("relay", tmp_path / "own", ("localhost",))
        context = public.issue("proxy", tmp_path / "proxy", ("localhost",)).server_context()
    context.load_verify_locations(tmp_path / "ca" / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public" / "ca.pem"))
    with serving([("GET", "/v1/job", job)], context) as port:
        words = ["relay", f"https://localhost:{port}", "--identity", tmp_path / "own", "--ca", tmp_path / "ca"]
        words += ["--port", "0", "--state", tmp_path / "state"]
        code, _, err = headway(*words)
        assert (code, "is from the authority" in err) == (1, True), err
        code, _, err = headway(*words, "--public-authorities")
        assert (code, "the server behind the proxy answers" in err) == (1, True), err
