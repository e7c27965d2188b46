"""What summing costs a server: a round of uploads, beside the same server that only writes the same bytes to disk.

    python benchmarks/aggregation.py [--clients 500] [--numbers 1000000] [--repeats 3] [--memory "1 GB"] [--folder DIR]

Agents that do not train (`simulated_agents.py`) upload prepared updates of float32 over loopback HTTP, all at once, to
a server in a process of its own, with its spool and event log in the folder.  `sum` is the server of a run: each update
is checked, acknowledged after its bytes and its event are on disk, and summed.  `write` is the same HTTP server, spool
and log, and its updates are acknowledged unread.  The two take turns; medians are shown, and the ratio of the times of
a round, from the opening of the requests to the sum.  Memory is the peak of the server's anonymous memory, which holds
what it has at its start as well (torch, the model and a copy of it that is checked), and the peak with mapped files.
--memory is what the sum may take (`federation.memory`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from sizes import sized
from torch import nn

import headway as hw
from headway.client_state.store import MemoryStore
from headway.engines.engine import Job
from headway.federation.identity.admission import OpenAdmission
from headway.federation.serving.assignments import Assignments, MembersChanged, ReplyArrived
from headway.federation.serving.http_server import HttpServer
from headway.federation.serving.job_desk import JobDesk
from headway.federation.serving.members import Members
from headway.federation.serving.network_engine import NetworkEngine, NetworkOptions
from headway.federation.serving.request_channel import RequestChannel
from headway.federation.serving.server_setup import describe_job
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.round_event import RoundEvent
from headway.federation.spool.spool import Spool
from headway.numerics.keys import Key
from headway.numerics.units import bytes_of
from headway.protocol.messages import Ask, Message, Train


def memory(kind: str) -> int:
    """Bytes of this process's memory, of a kind that the kernel counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) << 10
    return 0


class Watch:
    """The largest anonymous memory of this process, looked at ten times a second, and that at the start."""

    def __init__(self) -> None:
        self.start = self.most = memory("RssAnon")
        self._end = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._end.wait(0.1):
            self.most = max(self.most, memory("RssAnon"))

    def take(self) -> int:
        """The largest since this was last called, beside that at the start."""
        most, self.most = self.most, memory("RssAnon")
        return most - self.start

    def end(self) -> dict[str, int]:
        """The figures, in bytes."""
        self._end.set()
        return {"start": self.start, "anonymous": self.most, "peak": memory("VmHWM")}


def serve(kind: str, clients: int, numbers: int, group: int, limit: str, folder: Path) -> None:
    """One server with one round, whose figures it prints."""
    torch.set_num_threads(1)
    task = hw.Task(model=lambda: nn.Linear(numbers, 1, bias=False), loss="mean_squared_error", metrics=())
    algorithm = hw.Algorithm(hw.chain(hw.Mean()), hw.LocalSGD(lr=0.1), hw.All())
    assignments = Assignments()
    members = Members(600.0, on_change=lambda: assignments.events.put(MembersChanged()))
    spool, log = Spool(folder / "spool", spare=0), EventLog(folder)
    channel = RequestChannel(members, assignments, spool)
    summing = {"memory": bytes_of(limit, "--memory"), "files": folder / "sums"}
    engine = NetworkEngine(channel, log, NetworkOptions(drift=False, group=group, **summing))
    desk = JobDesk(members, assignments)
    desk.offer(describe_job("job", "aggregation", algorithm, task, 1, seed=0))
    assignments.set_state("running")
    server = HttpServer(desk, members, assignments, spool, OpenAdmission(1e9, 1e9))
    server.start("127.0.0.1", 0)
    print("http://{}:{}".format(*server.address), flush=True)
    engine.open(Job(algorithm, task, hw.data.RemoteData("agents", (numbers,)), Key.root(0), MemoryStore(())))
    while len(members.available()) < clients:
        time.sleep(0.05)
    time.sleep(1.0)
    ask = Ask(Train(Message(torch.zeros(numbers))), members.available())
    watch, begun = Watch(), time.perf_counter()
    if kind == "sum":
        answer = engine.ask(ask)
        assert answer.total.count == clients, answer.total.count
        total = answer.total.value().delta
        figures = {"seconds": time.perf_counter() - begun, **watch.end()}
        assert bool((total == total[0]).all()), total
        assert 1e-3 <= float(total[0]) / answer.total.weight.value() <= 2.001e-3, total
    else:
        write(channel, log, ask, engine.training.setup.reply_limit())
        figures = {"seconds": time.perf_counter() - begun, **watch.end()}
    assignments.set_state("finished")
    time.sleep(0.5)
    print(json.dumps(figures), flush=True)
    server.stop()
    log.close()


def write(channel: RequestChannel, log: EventLog, ask: Ask, limit: int) -> None:
    """A round whose updates are acknowledged when they are on disk, and not looked at."""
    sent = channel.encode(ask)
    channel.assignments.begin()
    for number, client in enumerate(ask.cohort):
        channel.send(client, f"job-{number}", ask, sent, limit)
    waiting = set(ask.cohort)
    while waiting:
        event = channel.event()
        if isinstance(event, ReplyArrived):
            log.append(RoundEvent("arrived", 0, 0, channel.clock.now(), 0, event.client, event.digest))
            channel.decide(event, "accepted")
            waiting.discard(event.client)


def measure(kind: str, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one server."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        numbers = [str(each) for each in (options.clients, options.numbers, options.group)]
        limit = options.memory if kind == "sum" else "1 GB"
        command = [sys.executable, __file__, "--serve", kind, "--clients", numbers[0], "--numbers", numbers[1]]
        command += ["--group", numbers[2], "--memory", limit, "--folder", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            agents = Path(__file__).with_name("simulated_agents.py")
            subprocess.run([sys.executable, agents, url, "--agents", numbers[0]], check=True, stdout=subprocess.DEVNULL)
            return json.loads(server.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=sized(500, 4))
    parser.add_argument("--numbers", type=int, default=sized(1_000_000, 1000))
    parser.add_argument("--repeats", type=int, default=sized(3, 1))
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--memory", default="1 GB")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--serve", choices=("sum", "write"))
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.clients, options.numbers, options.group, options.memory, options.folder)
        return
    found: dict[str, list[dict[str, float]]] = {"write": [], "sum": []}
    for _ in range(options.repeats):
        for kind, figures in found.items():
            figures.append(measure(kind, options))
    size = 4 * options.numbers * options.clients / 1e6
    print(f"{options.clients} clients, {options.numbers:,} numbers each: {size:,.0f} MB in a round")
    medians = {}
    for kind, figures in found.items():
        middle = {name: statistics.median(each[name] for each in figures) for name in figures[0]}
        medians[kind] = middle["seconds"]
        rate = size / middle["seconds"]
        held = f"{middle['start'] / 1e6:.0f} MB before, {middle['anonymous'] / 1e6:.0f} MB at most"
        held += f", {middle['peak'] / 1e6:.0f} MB with mapped files"
        print(f"{kind:6} {middle['seconds']:8.2f} s {rate:8.0f} MB/s   memory {held}")
    print(f"sum / write: {medians['sum'] / medians['write']:.2f}")


if __name__ == "__main__":
    main()
