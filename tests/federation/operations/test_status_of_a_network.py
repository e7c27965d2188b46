"""The status of a server with real clients: on its own HTTP server, while rounds go on."""

import contextlib
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from network import Network, TrustingAdmission
from processes import until
from toys import blobs, linear_task

import headway as hw
from headway.federation.identity.admission import NotAdmitted
from headway.federation.operations.page_access import PageAccess
from headway.federation.operations.run_facts import describe_run
from headway.federation.operations.server_status import ServerStatus
from headway.federation.operations.status_board import StatusBoard
from headway.federation.operations.status_pages import StatusPages
from headway.federation.operations.status_snapshot import StatusSnapshot
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.protocol.quorum import Quorum

ROUNDS = 3
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Watched:
    """A network with the status on its server."""

    def __init__(self, folder: Path, data, algorithm, task) -> None:
        self.access = PageAccess.of(folder)
        self.pages = StatusPages(StatusBoard("server", "none yet", 0), self.access)
        mounted = (TrustingAdmission(), None, self.pages.routes())
        files, log = Spool(folder / "spool"), EventLog(folder)
        expected = frozenset(data.clients)
        network = self.network = Network.of(
            algorithm, task, files, log, ROUNDS, access=mounted, expected=expected, wait_limit_s=300.0
        )
        now = network.engine.channel.clock.now
        self.status = ServerStatus.of(network.members, network.assignments, name="mine", rounds=ROUNDS, now=now)
        network.engine.show = self.status.show
        self.pages.board = self.status.board

    def get(self, path="/v1/status", token=None):
        bearer = {"Authorization": f"Bearer {token or self.access.token}"}
        with OPENER.open(urllib.request.Request(self.network.url + path, headers=bearer), timeout=60) as response:
            return response.read().decode()

    def read(self) -> StatusSnapshot:
        return StatusSnapshot.model_validate_json(self.get())

    def read_if(self, is_wanted) -> StatusSnapshot | None:
        status = self.read()
        return status if is_wanted(status) else None


@pytest.fixture
def watched(tmp_path):
    data, task = blobs((7, 12, 5, 9)), linear_task(dtype="float64")
    algorithm = hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1, batch_size=4))
    algorithm = hw.Algorithm(algorithm.chain, algorithm.trainer, algorithm.sampler, Quorum(deadline_s=600.0))
    made = Watched(tmp_path, data, algorithm, task)
    made.parts = (algorithm, task, data)
    yield made
    made.network.close()


def test_while_rounds_go_on(watched):
    algorithm, task, data = watched.parts
    first, seen = data.clients[0], []

    @contextlib.contextmanager
    def gate(client, assignment):
        if client == first and assignment.kind == "train":
            status = until(lambda: watched.read_if(lambda status: status.phase.phase == "training"))
            seen.append((status, watched.get("/metrics")))
        yield

    before = watched.read()
    assert (before.state, before.round, before.population) == ("running", 0, 0)
    watched.network.join(algorithm, task, data, data.clients, gate=gate)
    run = hw.Run(
        algorithm, data, task, rounds=ROUNDS, engine=watched.network.engine, observers=[watched.status.observer]
    )
    describe_run(watched.status.board, run)
    reports = list(run)
    assert len(seen) == ROUNDS
    status, metrics = seen[1]
    assert status.round == 1
    assert status.phase.phase == "training"
    assert first in status.phase.waiting_for
    assert 0 < status.phase.deadline - status.at <= 600.0
    own = {each.name: each for each in status.clients}
    assert own[first].awaited
    assert own[first].presence == "connected"
    assert own[first].train == len(data.train[first])
    assert "headway_rounds_completed_total 1\n" in metrics
    watched.network.assignments.set_state("finished")
    after = watched.read()
    assert (after.state, after.round, after.connected) == ("finished", ROUNDS, 4)
    assert after.totals.bytes_up == sum(report.bytes_up for report in reports)
    assert after.totals.counted == 4 * ROUNDS
    assert after.metric in after.metrics
    assert all(each.counted == ROUNDS for each in after.clients)
    assert all(each.bytes_up > 0 for each in after.clients)


def test_an_evaluation_waits_for_those_that_have_not_answered(watched):
    algorithm, task, data = watched.parts
    last, seen = data.clients[-1], []

    @contextlib.contextmanager
    def gate(client, assignment):
        if client == last and assignment.kind == "evaluate":
            status = until(lambda: watched.read_if(lambda status: status.phase.waiting_for == (last,)))
            seen.append(status.phase.phase)
        yield

    watched.network.join(algorithm, task, data, data.clients, gate=gate)
    run = hw.Run(algorithm, data, task, rounds=1, engine=watched.network.engine, observers=[watched.status.observer])
    list(run)
    assert seen == ["evaluating"]


def test_a_client_is_no_viewer(watched):
    for headers in ({}, {"Headway-Node": "north"}):
        for path in ("/", "/v1/status", "/metrics", "/v1/events"):
            request = urllib.request.Request(watched.network.url + path, headers=headers)
            with pytest.raises(urllib.error.HTTPError) as caught:
                OPENER.open(request, timeout=60)
            with caught.value as refused:
                assert refused.code == 401
                assert watched.access.token not in refused.read().decode()


def test_it_waits_for_clients_and_names_them(watched):
    algorithm, task, data = watched.parts
    engine, phases = watched.network.engine, []
    watched.network.join(algorithm, task, data, data.clients[:2])
    run = hw.Run(algorithm, data, task, rounds=ROUNDS, engine=engine, observers=[watched.status.observer])

    def show(progress, before=watched.status.show):
        before(progress)
        phases.append(watched.read())
        engine.options = replace(engine.options, wait_limit_s=0.1)  # what was waited for is on the page by now

    engine.show = show
    with pytest.raises(hw.HeadwayError, match="waited"):
        list(run)
    (status, *_) = [each for each in phases if each.phase.phase == "waiting for clients"]
    assert set(data.clients[2:]) <= set(status.phase.waiting_for)
    presences = {each.name: each.presence for each in status.clients}
    assert {name: presences[name] for name in data.clients[2:]} == dict.fromkeys(data.clients[2:], "absent")


def test_calls_that_are_not_admitted_are_counted(watched, monkeypatch):
    def refuse(*arguments):
        raise NotAdmitted("the signature is not that of 'north'.")

    monkeypatch.setattr(TrustingAdmission, "authenticate", refuse)
    with pytest.raises(urllib.error.HTTPError) as caught:
        OPENER.open(watched.network.url + "/v1/job", timeout=60)
    caught.value.close()
    assert watched.read().refused_calls == {"401": 1}
    assert 'headway_refused_calls_total{status="401"} 1\n' in watched.get("/metrics")


def test_another_job_takes_the_page_over(watched):
    board = StatusBoard("server", "second", 5)
    watched.pages.board = board
    assert watched.read().name == "second"
