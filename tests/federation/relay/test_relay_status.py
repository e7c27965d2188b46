"""What a relay shows of its clients, of what it does, and of the rounds as they were there."""

import urllib.request

import pytest
from processes import until
from test_relay import RelayThread
from test_server import ServerThread, agents, job_of
from toys import blobs, linear_task

import headway as hw
from headway.federation.http_api import JobDescription
from headway.federation.operations.live_page import fragments, render_page
from headway.federation.operations.metrics_text import metrics_text
from headway.federation.operations.page_access import TOKEN_FILE
from headway.federation.operations.status_snapshot import StatusSnapshot
from headway.federation.operations.status_text import state_sentence
from headway.federation.relay.relay_status import RelayStatus
from headway.federation.serving.assignments import Assignments
from headway.federation.serving.members import Members
from headway.federation.serving.network_training import Progress
from headway.protocol.messages import Answer
from headway.protocol.reports import Reports

DATA = blobs((7, 12))
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def status():
    description = JobDescription.model_construct(name="study", rounds=100)
    algorithm = hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1, batch_size=4))
    return RelayStatus.of_job(description, "north", algorithm, (Members(), Assignments()), lambda: 0.0)


def test_the_round_is_known_from_the_first_request_on(status):
    status.wait(2)
    shown = status.board.snapshot()
    assert state_sentence(shown) == "Waiting for 2 more clients before it joins its server."
    status.wait(0)
    assert state_sentence(status.board.snapshot()) == "Waiting for its server."
    assert "- of 100" in render_page(shown, fragments(shown))
    status.show(Progress("training", 41, 0.0, ("a", "b")))
    shown = status.board.snapshot()
    assert state_sentence(shown) == "Round 42 of 100: training, waiting for 2 clients: a, b."
    assert (shown.name, shown.kind, shown.round) == ("study, at the relay north", "relay", 41)


def test_a_round_has_its_clients_and_bytes(status):
    reports = Reports(
        ("a", "b", "c"), ("counted", "counted", "dropped"), 3, bytes_up=(10, 10, 0), bytes_down=5,
        metrics={"train_loss": [0.5, 0.7, None]}, reasons=("", "", "the deadline passed"),
    )  # fmt: skip
    status.show(Progress("training", 41, 0.0, ("a",)))
    status.add_answer(41, Answer(reports=reports), 2.5)
    shown = status.board.snapshot()
    assert (shown.round, shown.totals.counted, shown.totals.dropped) == (42, 2, 1)
    (done,) = shown.history
    assert (done.round, done.bytes_up, done.bytes_down, done.seconds) == (42, 20, 15, 2.5)
    assert done.train_loss == pytest.approx(0.6)
    assert [(each.client, each.text) for each in shown.events] == [("c", "the deadline passed")]


def test_its_page_has_what_a_relay_knows(status):
    status.show(Progress("training", 0, 0.0, ("a",)))
    shown = status.board.snapshot()
    page = render_page(shown, fragments(shown))
    assert "Headway relay, live" in page
    assert 'id="algorithm"' in page
    assert 'id="drift"' not in page
    assert 'id="privacy"' not in page
    assert 'kind="relay"' in metrics_text(shown)
    assert 'headway_clients{presence="connected"} 0' in metrics_text(shown)


def test_the_status_of_a_relay_from_its_first_client_to_the_end_of_the_job(tmp_path):
    server = ServerThread([job_of(DATA, rounds=2, relays=("relay",))], tmp_path / "run")
    relay = RelayThread(server.url, tmp_path / "relay", clients=2, task=linear_task(dtype="float64"), stay=True)
    url = relay.url
    token = (tmp_path / "relay" / TOKEN_FILE).read_text().strip()
    assert relay.relay.server.page == f"{url}/?token={token}"

    def read(is_wanted):
        request = urllib.request.Request(url + "/v1/status", headers={"Authorization": f"Bearer {token}"})
        with OPENER.open(request, timeout=60) as response:
            found = StatusSnapshot.model_validate_json(response.read())
        return found if is_wanted(found) else None

    before = until(lambda: read(lambda found: found.phase.phase == "waiting for clients"))
    assert (before.kind, before.state, before.rounds, before.connected) == ("relay", "running", 2, 0)
    joined = agents(relay, DATA, tmp_path, stay=True)
    try:
        assert server.end() == "finished"
        # the last verdicts of the server come with the end of its job
        after = until(lambda: read(lambda found: found.over))
        assert (after.state, after.round, after.population, after.connected) == ("finished", 2, 2, 2)
        assert after.totals.counted == 4
        assert [each.round for each in after.history] == [1, 2]
        assert all(each.counted == 2 and each.bytes_up > 0 for each in after.clients)
        with pytest.raises(urllib.request.HTTPError, match="401"):
            OPENER.open(url + "/v1/status", timeout=60)
    finally:
        for each in joined:
            each.stop()
        relay.relay.stop()
    assert relay.join() == "stopped"
    assert token not in str(relay.events)
