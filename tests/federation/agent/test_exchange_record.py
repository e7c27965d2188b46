"""What an agent answers in the rounds of a protocol: each step once, no older attempt, none beside a revealed one."""

import hashlib
import sqlite3
import stat

import pytest
import torch
from agent_threads import AgentThread
from secure_chain import registered, secure
from secured import Secured
from toys import blobs, linear_task

import headway as hw
from headway.federation import http_api as api
from headway.federation.agent.agent_store import AgentStore
from headway.federation.agent.answering import Answered
from headway.federation.agent.exchange_record import Step
from headway.protocol.wire_files import WrittenFrame

DATA, TASK = blobs((7, 12, 5)), linear_task(dtype="float64")
SECRET = {"key": torch.arange(4)}


@pytest.fixture
def store(tmp_path):
    store = AgentStore(tmp_path / "state")
    store.begin("job")
    yield store
    store.close()


def step(name="advertise", round_=0, attempt=0, request="a"):
    return Step((round_, attempt), name, request)


def keep(store, own, secret=None, data=b"reply"):
    """Keeps a reply as the agent does."""
    digest = hashlib.sha256(data).hexdigest()
    store.fresh.write_bytes(data)
    name = f"{own.name}-{own.tag[0]}-{own.tag[1]}"
    kind = "train" if own.name == "train" else "exchange"
    assignment = api.Assignment(
        assignment=name, job="job", kind=kind, round=own.tag[0], attempt=own.tag[1], message="0" * 64, size=1, limit=9
    )
    return store.keep(assignment, Answered(store.fresh, WrittenFrame(len(data), digest), secret=secret, step=own))


def refusal(store, own):
    known = store.exchanges.known("job", own)
    return None if known is None else known.refusal


def test_the_same_request_gets_the_same_bytes_and_another_none(store):
    kept = keep(store, step(), SECRET)
    known = store.exchanges.known("job", step())
    assert (known.digest, known.size, known.refusal) == (kept.digest, kept.size, "")
    assert store.blob(known.digest).read_bytes() == b"reply"
    assert "another request" in refusal(store, step(request="b"))
    assert refusal(store, step("train")) is None


def test_a_mask_key_is_used_for_one_update(store):
    keep(store, step(), SECRET)
    keep(store, step("train", request="model"))
    assert "no key is used twice" in refusal(store, step("train", request="another model"))


def test_no_attempt_after_one_in_which_shares_were_revealed(store):
    keep(store, step(), SECRET)
    keep(store, step("train"))
    assert refusal(store, step(attempt=1)) is None  # nothing is revealed yet
    keep(store, step("unmask"))
    assert "would show single updates" in refusal(store, step(attempt=1))
    assert refusal(store, step(round_=1)) is None


def test_an_older_attempt_and_a_settled_one_are_over(store):
    keep(store, step(), SECRET)
    keep(store, step(attempt=1), {"key": torch.arange(3)})
    assert "is newer" in refusal(store, step("train"))
    assert store.exchanges.secret("job", (0, 0)) == {}
    store.settle("job", (0, 1), True)
    assert "over" in refusal(store, step(attempt=1))
    assert store.exchanges.secret("job", (0, 1)) == {}


def test_a_verdict_on_an_earlier_attempt_leaves_the_secret_of_the_present_one(store):
    keep(store, step(), SECRET)
    keep(store, step(attempt=1), SECRET)
    store.settle("job", (0, 0), False)
    assert torch.equal(store.exchanges.secret("job", (0, 1))["key"], SECRET["key"])


def test_the_secret_outlives_the_process_and_is_readable_by_its_owner_alone(tmp_path):
    first = AgentStore(tmp_path / "state")
    first.begin("job")
    keep(first, step(), SECRET)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in first.folder.glob("agent.sqlite*")}
    assert set(modes.values()) == {0o600}, modes
    first.close()
    second = AgentStore(tmp_path / "state")
    assert torch.equal(second.exchanges.secret("job", (0, 0))["key"], SECRET["key"])
    assert "another request" in refusal(second, step(request="b"))
    second.close()


def test_nothing_of_a_settled_secret_stays_on_the_disk(tmp_path):
    secret = torch.frombuffer(bytearray(b"a key that nobody else may have, 48 bytes of it."), dtype=torch.uint8)
    store = AgentStore(tmp_path / "state")
    store.begin("job")
    keep(store, step(), {"key": secret})
    held = bytes(secret.tolist())
    assert any(held in path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    store.settle("job", (0, 0), True)
    assert not any(held in path.read_bytes() for path in store.folder.rglob("*") if path.is_file())
    store.close()


def test_a_store_of_an_earlier_version_is_gone_on_with(tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    with sqlite3.connect(folder / "agent.sqlite") as database:
        database.execute(
            "CREATE TABLE memory (job TEXT PRIMARY KEY, committed TEXT, secret TEXT, "
            "round INTEGER, attempt INTEGER, digest TEXT, pending TEXT)"
        )
    database.close()
    store = AgentStore(folder)
    store.begin("job")
    keep(store, step(), SECRET)
    store.settle("job", (0, 0), False)
    store.close()


def test_agents_come_to_the_weights_of_the_local_engine(tmp_path):
    algorithm = secure()
    local = hw.Run(algorithm, DATA, TASK, rounds=2)
    list(local)
    secured = Secured(tmp_path, DATA.clients)
    with registered(), secured.network(algorithm, TASK, 2, expected=frozenset(DATA.clients)) as network:
        own = {client: {"identity": secured.identity(client)} for client in DATA.clients}
        agents = [
            AgentThread(network.url, DATA, client, tmp_path / "states", TASK, **own[client]) for client in DATA.clients
        ]
        run = hw.Run(algorithm, DATA, TASK, rounds=2, engine=network.engine, evaluate_every=None)
        reports = list(run)
        network.assignments.set_state("finished")
        assert [agent.join() for agent in agents] == ["finished"] * 3
        run.close()
    assert torch.equal(run.state.params, local.state.params)
    assert not any(report.notes for report in reports)
    for client in DATA.clients:
        store = AgentStore(tmp_path / "states" / client)
        assert store.exchanges.secret(network.assignments.job, (1, 0)) == {}
        store.close()
