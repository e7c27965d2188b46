"""Whole agents with certificates: over TLS, through a proxy that ends it, and revoked in the middle of a run."""

import contextlib
import dataclasses
import threading
from contextlib import closing

import aiohttp
import pytest
import torch
from agent_threads import AgentThread
from aiohttp import web
from secured import Secured
from tls_server import serving
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import HeadwayError
from headway.federation.identity.authority import Authority
from headway.federation.identity.node_registry import NodeRegistry

ROUNDS = 3
SIZES = (7, 12, 5)
HOP = ("transfer-encoding", "content-length")  # headers of one connection


@pytest.fixture
def parts():
    return blobs(SIZES), linear_task(dtype="float64"), hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1))


def local_params(parts):
    data, task, algorithm = parts
    run = hw.Run(algorithm, data, task, rounds=ROUNDS)
    for _ in run:
        pass
    return run.state.params


@contextlib.contextmanager
def proxy_to(url, context):
    """A reverse proxy that ends TLS and adds what such proxies add; yields its port."""

    async def forward(request):
        headers = {key: value for key, value in request.headers.items() if key.lower() != "host"}
        headers["X-Forwarded-For"], headers["X-Forwarded-User"] = "10.0.0.9", "somebody"
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, f"{url}{request.path_qs}", headers=headers, data=await request.read() or None
            ) as answer,
        ):
            kept = {key: value for key, value in answer.headers.items() if key.lower() not in HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    with serving([("*", "/{path:.*}", forward)], context) as port:
        yield f"https://localhost:{port}"


def run_of(parts, network, url, secured, folder, stop=None, **options):
    """A run with agents that have certificates; their threads and its reports."""
    data, task, algorithm = parts
    agents = [
        AgentThread(url, data, client, folder, task, secured.identity(client), **options) for client in data.clients
    ]
    run = hw.Run(algorithm, data, task, rounds=ROUNDS, engine=network.engine)
    reports = []
    for report in run:
        reports.append(report)
        if stop is not None and report.round == 1:
            stop()
    network.assignments.set_state("finished")
    return run, reports, agents


def test_the_weights_are_those_of_the_local_engine(tmp_path, parts):
    data, task, algorithm = parts
    secured = Secured(tmp_path, data.clients)
    expected = frozenset(data.clients)
    with secured.network(algorithm, task, ROUNDS, expected=expected, wait_limit_s=300.0) as network:
        run, _, agents = run_of(parts, network, network.url, secured, tmp_path / "agents")
        assert [agent.join() for agent in agents] == ["finished"] * len(SIZES)
    assert torch.equal(run.state.params, local_params(parts))


def test_through_a_proxy_that_ends_tls_with_a_public_certificate(tmp_path, parts, monkeypatch):
    data, task, algorithm = parts
    secured = Secured(tmp_path, data.clients, behind_proxy=True)
    with Authority.create(tmp_path / "public") as public:
        context = public.issue("proxy", tmp_path / "proxy", hosts=("localhost",)).server_context()
    context.load_verify_locations(tmp_path / "ca" / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public" / "ca.pem"))
    expected = frozenset(data.clients)
    with (
        secured.network(algorithm, task, ROUNDS, expected=expected, wait_limit_s=300.0) as network,
        proxy_to(network.url, context) as url,
    ):
        assert network.url.startswith("http://")
        with pytest.raises(HeadwayError, match="is from the authority"):
            AgentThread(url, data, data.clients[0], tmp_path / "first", task, secured.identity(data.clients[0])).join()
        options = {"public_authorities": True}
        run, _, agents = run_of(parts, network, url, secured, tmp_path / "agents", **options)
        assert [agent.join() for agent in agents] == ["finished"] * len(SIZES)
    assert torch.equal(run.state.params, local_params(parts))


def test_an_agent_that_is_revoked_in_a_run_ends_with_the_sentence(tmp_path, parts):
    data, task, algorithm = parts
    secured = Secured(tmp_path, data.clients)
    victim, done = sorted(data.clients)[1], threading.Event()

    def revoke():
        with closing(NodeRegistry.of(tmp_path / "ca")) as registry:
            registry.revoke(victim)
        network.engine.options = dataclasses.replace(network.engine.options, min_clients=len(SIZES) - 1)
        done.set()

    with secured.network(algorithm, task, ROUNDS, min_clients=len(SIZES), wait_limit_s=300.0) as network:
        _, reports, agents = run_of(parts, network, network.url, secured, tmp_path / "agents", revoke)
        assert done.is_set()
        for agent in agents:
            if agent.agent.surroundings.name == victim:
                with pytest.raises(HeadwayError, match=rf"certificate of '{victim}' was revoked at"):
                    agent.join()
            else:
                assert agent.join() == "finished"
        (row,) = (row for row in network.members.snapshot() if row["name"] == victim)
    assert "was revoked at" in row["declined"]
    assert len(reports) == ROUNDS
    assert reports[-1].count("counted") == len(SIZES) - 1


def test_an_agent_that_is_revoked_while_it_waits_for_another_job_ends_with_the_sentence(tmp_path, parts):
    data, task, algorithm = parts
    secured = Secured(tmp_path, data.clients)
    expected = frozenset(data.clients)
    with secured.network(algorithm, task, ROUNDS, expected=expected, wait_limit_s=300.0) as network:
        _, _, agents = run_of(parts, network, network.url, secured, tmp_path / "agents", stay=True)
        while not all("ended" in agent.kinds() for agent in agents):
            assert all(agent.thread.is_alive() for agent in agents)
            threading.Event().wait(0.02)
        with closing(NodeRegistry.of(tmp_path / "ca")) as registry:
            for client in data.clients:
                registry.revoke(client)
        for agent in agents:
            with pytest.raises(HeadwayError, match="was revoked at"):
                agent.join()
