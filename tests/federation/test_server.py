"""Servers of whole jobs: finished, stopped and gone on with, several one after another, and what they refuse."""

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from agent_threads import AgentThread
from processes import until
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import ConfigError, RunFolderError
from headway.data import RemoteData
from headway.federation import JobOptions, Server, ServerJob, ServerOptions
from headway.federation import server as federation_server
from headway.federation.identity.server_access import AccessOptions
from headway.federation.serving.http_server import HttpServer
from headway.federation.spool.run_check import RunCheck
from headway.observe.run_folder import VECTORS
from headway.server import vector_files

OPEN = AccessOptions(insecure=True)


def job_of(data, name="study", rounds=3, clients=None, **options):
    algorithm = hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.1, batch_size=4, epochs=2))
    known = RemoteData(
        name, data.input_shape, classes=data.classes, expected=data.clients if clients is None else clients
    )
    return ServerJob(name, algorithm, known, linear_task(dtype="float64"), rounds, options=JobOptions(**options))


class ServerThread:
    """A server in a thread, at a free port."""

    def __init__(self, jobs, folder, **options):
        self.events = []
        options.setdefault("sinks", [lambda *event: self.events.append(event)])
        self.server = Server(jobs, folder, ServerOptions(port=0, access=OPEN, **options))
        self.state, self.error = None, None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.state = self.server.run()
        except Exception as error:
            self.error = error
        finally:
            self.server.listening.set()

    @property
    def url(self):
        assert self.server.listening.wait(60)
        if self.error is not None:
            raise self.error
        return self.server.url

    def end(self):
        self.thread.join(120)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.state

    def texts(self, kind):
        return [sentence for each, sentence, _ in self.events if each == kind]

    def wait_too_long(self, seconds):
        """Waits until client-2 alone is missing, and for so long after that, by the clock of the run."""
        until(lambda: "round 1 waits for client-2" in self.texts("waiting"))
        engine = self.server.served.engine
        engine.channel.clock.set(engine.now + seconds)


def agents(server, data, folder, clients=None, **options):
    return [
        AgentThread(server.url, data, client, folder, linear_task(dtype="float64"), **options)
        for client in clients or data.clients
    ]


def ended(agents):
    for each in agents:
        each.join()
    return [each.state for each in agents]


def expected_params(data, rounds=3):
    job = job_of(data, rounds=rounds)
    run = hw.Run(job.algorithm, data, job.task, rounds=rounds)
    list(run)
    return run.state.params


def params_of(folder: Path):
    (path,) = sorted((folder / "checkpoints").glob("round-*.safetensors"))[-1:]
    from safetensors.torch import load_file

    return load_file(path)["params"]


def test_a_job_is_served_to_its_end_and_has_the_weights_of_a_simulation(tmp_path):
    data = blobs((7, 12, 5))
    server = ServerThread([job_of(data)], tmp_path / "run")
    joined = agents(server, data, tmp_path)
    assert server.end() == "finished"
    assert ended(joined) == ["finished"] * 3
    assert torch.equal(params_of(tmp_path / "run"), expected_params(data))
    assert json.loads((tmp_path / "run" / "job.json").read_text())["state"] == "finished"
    assert len(server.texts("round")) == 3
    assert "round 3/3: 3 counted" in server.texts("round")[-1]
    assert RunCheck(tmp_path / "run").check().first is None
    again = ServerThread([job_of(data)], tmp_path / "run")
    assert again.end() == "finished"
    assert again.texts("complete") == [f"study is complete: 3 of 3 rounds are done, in {tmp_path / 'run'}."]


@pytest.mark.parametrize("memory", ["1 GB", "100 B"])
def test_a_server_that_is_stopped_goes_on_with_the_same_round(tmp_path, monkeypatch, memory):
    """Also where its state lies in files."""
    monkeypatch.setattr(vector_files, "LEAST", 4)
    data = blobs((7, 12, 5))

    def first_round(kind, sentence, facts):
        if kind == "round":
            server.server.stop()

    server = ServerThread([job_of(data, memory=memory)], tmp_path / "run", sinks=[first_round])
    joined = agents(server, data, tmp_path)
    assert server.end() == "paused"
    assert json.loads((tmp_path / "run" / "job.json").read_text())["state"] == "paused"
    for each in joined:
        each.agent.stop()
        each.thread.join(60)
    server = ServerThread([job_of(data, memory=memory)], tmp_path / "run")
    joined = agents(server, data, tmp_path)
    assert server.end() == "finished"
    assert ended(joined) == ["finished"] * 3
    assert torch.equal(params_of(tmp_path / "run"), expected_params(data))
    assert (tmp_path / "run" / VECTORS).is_dir() == (memory == "100 B")


def test_waiting_names_the_round_after_a_restart(tmp_path):
    data = blobs((7,))
    server = ServerThread([job_of(data, rounds=1)], tmp_path / "run")
    joined = agents(server, data, tmp_path)
    assert server.end() == "finished"
    assert ended(joined) == ["finished"]
    server = ServerThread([job_of(data, rounds=2, wait_limit_s=0.1)], tmp_path / "run")
    assert server.end() == "failed"
    assert server.texts("waiting") == ["round 2 waits for client-0"]


def test_a_disk_without_room_for_updates_is_written_while_the_round_waits(tmp_path, monkeypatch):
    data, usage = blobs((7,)), shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))
    server = ServerThread([job_of(data, rounds=1)], tmp_path / "run")
    joined = agents(server, data, tmp_path)
    while not server.texts("disk"):
        assert server.thread.is_alive()
        threading.Event().wait(0.02)
    (event,) = server.server.served.status.board.snapshot().events
    monkeypatch.setattr(shutil, "disk_usage", usage)
    assert server.end() == "finished"
    assert ended(joined) == ["finished"]
    (sentence,) = server.texts("disk")  # and not with each attempt of the agent
    assert "no update is taken at present" in sentence
    assert "has 1000 bytes left" in sentence
    assert event.text == sentence


def test_a_disk_that_is_full_when_the_state_is_made_ends_the_server_with_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    server = ServerThread([job_of(blobs((7, 12, 5)), memory="100 B")], tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"vectors/.*\.vector cannot be written: No space left on device\."):
        server.end()


def test_several_jobs_are_served_one_after_another_to_the_same_agents(tmp_path):
    data = blobs((7, 12, 5))
    server = ServerThread([job_of(data, "first", 1), job_of(data, "second", 2)], tmp_path / "runs")
    joined = agents(server, data, tmp_path, stay=True)
    assert server.end() == "finished"
    for each in joined:
        each.agent.stop()
        each.thread.join(60)
    assert torch.equal(params_of(tmp_path / "runs" / "second"), expected_params(data, 2))
    assert [text.split(":")[0] for text in server.texts("job")] == ["first", "second"]


def test_waiting_is_said_once_and_has_a_limit(tmp_path):
    data = blobs((7, 12, 5))
    server = ServerThread([job_of(data, wait_limit_s=3600.0)], tmp_path / "run")
    joined = agents(server, data, tmp_path, ["client-0", "client-1"])
    server.wait_too_long(3600.0)
    assert server.end() == "failed"
    assert ended(joined) == ["failed"] * 2
    assert "the server has waited 3600 s for client-2" in server.server.reason
    assert server.texts("waiting")[-1] == "round 1 waits for client-2"
    assert len(server.texts("waiting")) <= 4  # one for each client that comes
    record = json.loads((tmp_path / "run" / "job.json").read_text())
    assert record["state"] == "failed"
    assert "client-2" in record["reason"]
    server = ServerThread([job_of(data)], tmp_path / "run")  # and it can be gone on with
    joined = agents(server, data, tmp_path)
    assert server.end() == "finished"
    assert ended(joined) == ["finished"] * 3
    assert torch.equal(params_of(tmp_path / "run"), expected_params(data))


def test_a_job_that_has_failed_does_not_hold_up_the_next_one(tmp_path):
    data, others = blobs((7, 12, 5)), blobs((7, 12))
    jobs = [job_of(data, "first", 1, wait_limit_s=3600.0), job_of(others, "second", 2)]
    server = ServerThread(jobs, tmp_path / "runs")
    joined = agents(server, others, tmp_path, stay=True)
    server.wait_too_long(3600.0)
    assert server.end() == "failed"
    assert "the server has waited 3600 s for client-2" in server.server.reason
    for each in joined:
        each.agent.stop()
        each.thread.join(60)
    states = [json.loads((tmp_path / "runs" / name / "job.json").read_text())["state"] for name in ("first", "second")]
    assert states == ["failed", "finished"]
    assert torch.equal(params_of(tmp_path / "runs" / "second"), expected_params(others, 2))


def test_a_job_that_is_stopped_for_good_tells_its_agents(tmp_path, monkeypatch):
    monkeypatch.setattr(federation_server, "PARTING_S", 60.0)
    data = blobs((7, 12, 5))
    server = ServerThread([job_of(data)], tmp_path / "run")
    joined = agents(server, data, tmp_path, ["client-0"])
    until(lambda: server.texts("connected"))
    server.server.stop(final=True)
    assert server.end() == "stopped"
    assert ended(joined) == ["stopped"]


def test_a_defect_ends_the_run_and_tells_the_agents(tmp_path):
    data = blobs((7, 12, 5))

    def broken(kind, sentence, facts):
        if kind == "round":
            raise ZeroDivisionError("a defect")

    server = ServerThread([job_of(data)], tmp_path / "run", sinks=[broken])
    joined = agents(server, data, tmp_path)
    with pytest.raises(ZeroDivisionError):
        server.end()
    assert ended(joined) == ["failed"] * 3
    record = json.loads((tmp_path / "run" / "job.json").read_text())
    assert (record["state"], record["reason"]) == ("failed", "ZeroDivisionError: a defect")


def test_an_address_of_another_machine_is_named_as_the_mistake():
    server = HttpServer(*[None] * 5)
    with pytest.raises(ConfigError, match=r"cannot listen at 192\.0\.2\.1:0: .*\(--host\)"):
        server.start("192.0.2.1", 0)


def test_a_server_refuses_what_it_cannot_do_in_a_sentence(tmp_path):
    data = blobs((7, 12, 5))
    with pytest.raises(hw.HeadwayError, match="a server needs a job"):
        Server([], tmp_path)
    with pytest.raises(hw.HeadwayError, match="--insecure"):
        Server([job_of(data)], tmp_path / "no", ServerOptions(port=0)).run()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("x")
    with pytest.raises(RunFolderError, match="holds other files"):
        Server([job_of(data)], tmp_path / "other", ServerOptions(port=0, access=OPEN)).run()
    server = ServerThread([job_of(data)], tmp_path / "run")
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=f"cannot listen at 127.0.0.1:{port}"):
        Server([job_of(data)], tmp_path / "run2", ServerOptions(port=port, access=OPEN)).run()
    with pytest.raises(RunFolderError, match="in use by another process"):
        Server([job_of(data)], tmp_path / "run", ServerOptions(port=0, access=OPEN)).run()
    server.server.stop()
    assert server.end() == "paused"
