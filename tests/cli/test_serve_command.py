"""`headway serve` as a process: ended by SIGTERM and by kill -9, gone on with by the same command, and its mistakes."""

import json
import signal
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import headway as hw
from headway.cli.run_command import resume_folder
from headway.cli.serve_command import ServeOptions, serve_file
from headway.federation import http_api
from headway.federation.agent.answering import Answering
from headway.protocol.messages import Train

sys.path.insert(0, str(Path(__file__).parent.parent / "federation"))
from agent_threads import AgentThread
from crash_nodes import free_port
from processes import Processes, until

OPEN = ServeOptions(None, None, "127.0.0.1", 0, None, None, True, False, None)
FILE = """
[run]
rounds = 4
[federation]
clients = ["a", "b"]
[model]
name = "logistic"
[task]
dtype = "float64"
[algorithm]
recipe = "scaffold"
[algorithm.trainer]
lr = 0.1
batch_size = 4
epochs = 1
[data]
kind = "arrays"
shape = [2]
classes = ["0", "1"]
"""


def data():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(24, 2, generator=draw)
    y = (x[:, 0] + 0.3 * x[:, 1] > 0).long()
    return hw.FederatedData.from_clients({"a": (x[:10], y[:10], x[10:12], y[10:12]), "b": (x[12:], y[12:])})


def records(path):
    """The whole lines of a log that a server may be writing."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def trained_when_told(monkeypatch):
    """The rounds that agents in threads of this process may train in, which tests set.  An agent that waits for one
    hears of a server's end at once, as its heartbeats are quick."""
    monkeypatch.setattr(http_api, "HEARTBEAT_S", 0.2)
    true, may_train = Answering._reply, [threading.Event() for _ in range(4)]

    def reply(self, request):
        assert not isinstance(request, Train) or may_train[request.round].wait(60)
        return true(self, request)

    monkeypatch.setattr(Answering, "_reply", reply)
    return may_train


def test_a_server_is_ended_in_every_way_and_comes_to_the_same_weights(tmp_path, monkeypatch, capsys):
    (tmp_path / "study.toml").write_text(FILE)
    log = tmp_path / "log.jsonl"
    command = ["serve", "study.toml", "--insecure", "--out", "run", "--log", "log.jsonl", "--port"]
    first, second, *later = trained_when_told(monkeypatch)
    port = free_port()

    def rounds():
        return [each["round"] for each in records(log) if each["event"] == "round"]

    with Processes(tmp_path) as processes:
        server = processes.start("server", *command, port)
        joined = [AgentThread(server.url(), data(), client, tmp_path) for client in ("a", "b")]
        first.set()
        until(lambda: 1 in rounds())
        server.kill()
        assert not (tmp_path / "run" / "job.json").read_text().count("finished")
        server = processes.start("server", *command, port)
        second.set()
        until(lambda: 2 in rounds())
        server.signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM, server.text
        assert "study is paused: the server stops (stopped by SIGTERM), and goes on" in server.text
        assert server.text.rstrip().endswith("The run is kept: the same command goes on with it.")
        assert json.loads((tmp_path / "run" / "job.json").read_text())["state"] == "paused"
        for each in later:
            each.set()
        server = processes.start("server", *command, port)
        assert server.wait() == 0, server.text
        for each in joined:
            each.join(60)
    monkeypatch.chdir(tmp_path)
    serve_file("study.toml", replace(OPEN, out=Path("run")))
    assert "study is complete: 4 of 4 rounds are done, in run." in capsys.readouterr().out
    with pytest.raises(hw.RunFolderError, match="is the run of a server: `headway serve FILE --out run` goes on with"):
        resume_folder(Path("run"), [], None, False)
    run = hw.Run(*parts(), rounds=4)
    list(run)
    assert torch.equal(
        load_file(tmp_path / "run" / "checkpoints" / "round-000004.safetensors")["params"], run.state.params
    )
    assert rounds()[-3:] == [2, 3, 4]  # the first once more, where the server was killed before its checkpoint
    token = (tmp_path / "run" / "status-token").read_text().strip()
    assert token not in log.read_text()
    assert token not in (tmp_path / "server.log").read_text()
    assert {"listening", "connected", "round", "waiting"} <= {each["event"] for each in records(log)}


def parts():
    algorithm = hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.1, batch_size=4, epochs=1))
    task = hw.Task(hw.models.factory("logistic", (2,), 2, {}), metrics=("accuracy",), dtype="float64")
    return algorithm, data(), task


def test_a_port_in_use_is_a_sentence_and_an_exit_code(tmp_path):
    (tmp_path / "study.toml").write_text(FILE)
    with socket.socket() as taken, Processes(tmp_path) as processes:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = processes.start("port", "serve", "study.toml", "--insecure", "--port", port)
        assert process.wait() == 1
        assert f"cannot listen at 127.0.0.1:{port}" in " ".join(process.text.split())
        assert "Traceback" not in process.text


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no.toml", {}, r"no\.toml cannot be read: No such file or directory"),
        ("wrong.toml", {}, "run.rounds must be a whole number"),
        ("study.toml", {"host": "0.0.0.0"}, "is for this machine alone"),
        ("study.toml", {"insecure": False}, "needs an identity"),
        ("study.toml", {"log": "no/such\0"}, "cannot be written"),
    ],
)
def test_mistakes_are_a_sentence(tmp_path, monkeypatch, name, options, message):
    monkeypatch.chdir(tmp_path)
    Path("study.toml").write_text(FILE)
    Path("wrong.toml").write_text(FILE.replace("rounds = 4", 'rounds = "four"'))
    with pytest.raises(hw.HeadwayError, match=message):
        serve_file(name, replace(OPEN, **options))
