"""`headway join`: a client of a server by its command line, and its trial."""

import json
import threading

import pytest
from network import Network

import headway as hw
from headway.data import load
from headway.federation.agent.agent_data import one_client
from headway.federation.serving.server_setup import describe_job
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool
from headway.model import zoo

CLIENT = "cleveland"


@pytest.fixture
def server(tmp_path):
    """A server of one round for one of the four hospitals, which names the model; the run is begun by the test."""
    data = one_client(load("hospitals", key=0), CLIENT, CLIENT)
    task = hw.Task(zoo.factory("logistic", data.input_shape, 2, {}), metrics=("accuracy",))
    algorithm = hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.05, batch_size=64))
    network = Network.of(algorithm, task, Spool(tmp_path / "spool"), EventLog(tmp_path), 2)
    schema = {"source": "hospitals"}
    job = describe_job("job", "heart", algorithm, task, 2, seed=0, model={"name": "logistic"}, data_schema=schema)
    network.server.desk.offer(job)
    network.run = lambda: list(hw.Run(algorithm, data, task, rounds=2, engine=network.engine))
    yield network
    network.close()


def test_a_client_takes_part_until_the_job_has_ended(server, headway):
    def run():
        server.run()
        server.assignments.set_state("finished")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    code, out, err = headway("join", server.url, "--data", f"hospitals:{CLIENT}", "--insecure", "--json")
    assert code == 0, err
    thread.join(60)
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events] == ["joining", "trained", "trained", "ended"]
    assert events[1]["round"] == 0
    assert "Warning: --insecure" in err


def test_the_trial_sends_nothing_and_names_what_differs(server, headway, tmp_path):
    arguments = ("join", server.url, "--data", f"hospitals:{CLIENT}", "--insecure", "--check")
    code, out, err = headway(*arguments)
    assert code == 0, err
    assert "One local step: trained" in out
    assert out.endswith("This agent can take part; nothing was sent.\n")
    assert server.members.names() == ()
    assert not (tmp_path / "agents").exists()
    job = server.server.desk.description()
    server.server.desk.offer(job.model_copy(update={"versions": job.versions.model_copy(update={"draws": 77})}))
    code, _, err = headway(*arguments)
    assert code == 1
    assert "draws 77" in err
    assert f"draws {job.versions.draws}" in err


def test_a_job_that_the_policy_does_not_allow_is_declined_with_the_reason(server, headway, tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text(f'[data]\nsource = "hospitals"\nclient = "{CLIENT}"\n[policy]\nsecure_sum = true\nnoise = 1.0\n')
    code, _, err = headway("join", server.url, "--data", file, "--insecure")
    assert code == 1
    assert "policy.secure_sum" in err
    (row,) = server.members.snapshot()
    assert row["name"] == CLIENT
    assert "policy.noise" in row["declined"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("http://localhost:1", "--data", "hospitals:cleveland"), "is no address of HTTPS"),
        (("https://localhost:1", "--data", "hospitals:cleveland"), "give --identity DIR"),
        (("https://h:1", "--data", "hospitals:va", "--identity", "va", "--name", "va"), "the name is that of its cert"),
        (("localhost", "--data", "hospitals:cleveland", "--insecure"), "is not the address of a server"),
        (("http://example.org", "--data", "hospitals:cleveland", "--insecure"), "plain HTTP to another machine"),
        (("http://localhost:1", "--data", "hospitals:cleveland", "--insecure", "--device", "tpu"), "device must be"),
        (("http://localhost:1", "--data", "hospitals:cleveland", "--insecure", "--wait", "0"), "no Headway server"),
        (("http://localhost:1", "--data", "hospitals:cleveland", "--insecure", "--check"), "was asked for its job"),
    ],
)
def test_mistakes_are_a_sentence(headway, arguments, sentence):
    code, _, err = headway("join", *arguments)
    assert code == 1
    assert sentence in err
    assert "Traceback" not in err
