"""A disk that refuses while a server with agents runs: clear errors, agents that try again, a run that goes on."""

import errno
import os
import random
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from agent_threads import AgentThread
from network import Network
from recorded_run import TRAINER
from toys import blobs, linear_task

import headway as hw
from headway.federation.spool.disk_errors import SpoolError
from headway.federation.spool.disk_errors import disk as disk_of
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.round_manifests import RoundManifests
from headway.federation.spool.run_check import RunCheck
from headway.federation.spool.spool import Spool

ROUNDS = 3
DATA, TASK = blobs((7, 12, 5)), linear_task(dtype="float64")
ALGORITHM = hw.recipes.recipe("scaffold", trainer=TRAINER)


class Disk:
    """Refuses calls, by their names, a number of times each, from a round on."""

    def __init__(self, after: int = 1, **times: int) -> None:
        self.after, self.left, self.refused = after, Counter(times), Counter[str]()
        self.round = 0
        self.lock = threading.Lock()  # uploads end in several threads

    def refuses(self, call: str) -> bool:
        with self.lock:
            if self.round < self.after or self.left[call] <= 0:
                return False
            self.left[call] -= 1
            self.refused[call] += 1
            return True


def fail(code: int) -> None:
    raise OSError(code, os.strerror(code))


class FailingSpool(Spool):
    """A spool on a disk that refuses."""

    disk: Disk
    ending = threading.local()

    def _write(self, held: object, data: bytes) -> None:
        if self.disk.refuses("piece"):
            super()._write(held, data[: len(data) // 2])  # type: ignore[arg-type]
            held.received -= len(data) // 2  # type: ignore[attr-defined]
            held.hash = None  # type: ignore[attr-defined]
            fail(errno.ENOSPC)
        super()._write(held, data)  # type: ignore[arg-type]

    def _keep(self, held: object, digest: str) -> None:
        self.ending.refused = self.disk.refuses("end of an upload")
        try:
            super()._keep(held, digest)  # type: ignore[arg-type]
        finally:
            self.ending.refused = False

    def _rename(self, path: Path, digest: str) -> None:
        if getattr(self.ending, "refused", False):
            fail(errno.EIO)  # as `os.fsync` does, for this thread alone
        super()._rename(path, digest)

    def put_file(self, path: Path, *, move: bool = False, digest: str | None = None) -> str:
        if self.disk.refuses("message"):
            with disk_of(path):
                fail(errno.EROFS)
        return super().put_file(path, move=move, digest=digest)


class FailingLog(EventLog):
    """An event log on a disk that refuses."""

    disk: Disk

    def append(self, event: object) -> int:
        if self.disk.refuses("event"):
            raise SpoolError(f"{self.path} cannot be written or read: database or disk is full.")
        return super().append(event)  # type: ignore[arg-type]


class Rounds(hw.Observer):
    """Sets the round of a disk."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def on_recorded(self, report: hw.RoundReport) -> None:
        self.disk.round = report.round


def run_with(folder: Path, disk: Disk) -> hw.Run:
    """A run with agents in `folder`, or the rest of one."""
    place = folder / "run"
    spool, log = FailingSpool(place / "spool"), FailingLog(place)
    spool.disk = log.disk = disk
    network = Network.of(ALGORITHM, TASK, spool, log, ROUNDS, expected=frozenset(DATA.clients), wait_limit_s=60.0)
    agents = [AgentThread(network.url, DATA, client, folder, task=TASK) for client in DATA.clients]
    resume, run = (place / "run.json").exists(), None
    state = "paused"
    try:
        run = hw.Run(
            ALGORITHM,
            DATA,
            TASK,
            rounds=ROUNDS,
            engine=network.engine,
            folder=place,
            resume=resume,
            checkpoint_every=1,
            observers=[RoundManifests(place, network.engine, spool), Rounds(disk)],
        )
        list(run)
        state = "finished"
    finally:
        if run is not None:
            run.close()
        network.assignments.set_state(state)
        for agent in agents:
            agent.stop() if state == "paused" else agent.join()
        network.close(state)
    return run


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    local = hw.Run(ALGORITHM, DATA, TASK, rounds=ROUNDS)
    list(local)
    return local.state.params


@pytest.mark.parametrize("call", ["piece", "end of an upload"])
def test_agents_send_again_what_the_disk_refused(tmp_path: Path, expected: torch.Tensor, call: str) -> None:
    disk = Disk(**{call: 4})
    run = run_with(tmp_path, disk)
    assert disk.refused[call] == 4
    assert torch.equal(run.state.params, expected)
    result = RunCheck(tmp_path / "run").check()
    assert (result.replayed, result.differences) == ([1, 2, 3], [])


@pytest.mark.parametrize(("call", "why"), [("message", "Read-only file system"), ("event", "disk is full")])
def test_a_run_whose_own_files_cannot_be_written_ends_and_goes_on(
    tmp_path: Path, expected: torch.Tensor, call: str, why: str
) -> None:
    disk = Disk(**{call: 1})
    with pytest.raises(SpoolError, match=why):
        run_with(tmp_path, disk)
    run = run_with(tmp_path, disk)
    assert torch.equal(run.state.params, expected)
    result = RunCheck(tmp_path / "run").check()
    assert (result.replayed, result.differences) == ([1, 2, 3], [])


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(50))
def test_fifty_faults_of_the_disk(tmp_path: Path, expected: torch.Tensor, seed: int) -> None:
    draw = random.Random(seed)
    calls = draw.sample(["piece", "end of an upload", "message", "event"], k=draw.randint(1, 3))
    disk = Disk(draw.randint(0, 2), **{call: draw.randint(1, 3) for call in calls})
    for _ in range(12):
        try:
            run = run_with(tmp_path, disk)
        except SpoolError:
            continue
        break
    assert sum(disk.refused.values()) >= 1
    assert torch.equal(run.state.params, expected)
    result = RunCheck(tmp_path / "run").check()
    assert (result.replayed, result.differences) == ([1, 2, 3], [])
