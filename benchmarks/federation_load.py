"""The load of many agents on one server: time, failures, and the server's memory.

    python benchmarks/federation_load.py [--agents 500] [--parameters 1000000] [--rounds 2]

A server of its own process runs rounds for simulated agents in this one (benchmarks/simulated_agents.py), on loopback
and without TLS: in each round every agent downloads the model and uploads an update of its own, and the updates are
checked, kept on disk and summed.  Beside it, in the same run, a server of the same library takes the same number of
bytes and does nothing but write and flush them to files.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from sizes import sized

PIECE = 4 << 20


def serve(folder: Path, agents: int, parameters: int, rounds: int) -> None:
    """A server of rounds; prints its address, then a line a round."""
    import torch

    import headway as hw
    from headway.data.dataset.remote import RemoteData
    from headway.federation.identity.admission import OpenAdmission
    from headway.federation.serving.assignments import Assignments, MembersChanged
    from headway.federation.serving.http_server import HttpServer
    from headway.federation.serving.job_desk import JobDesk
    from headway.federation.serving.members import Members
    from headway.federation.serving.network_engine import NetworkEngine, NetworkOptions
    from headway.federation.serving.request_channel import RequestChannel
    from headway.federation.serving.server_setup import describe_job
    from headway.federation.spool.event_log import EventLog
    from headway.federation.spool.spool import Spool

    torch.set_num_threads(1)
    wide = max(1, parameters // 10)
    task = hw.Task(lambda: torch.nn.Linear(wide, 10, bias=False))
    algorithm = hw.recipes.recipe("fedavg")
    assignments = Assignments()
    members = Members(120.0, on_change=lambda: assignments.events.put(MembersChanged()))
    channel = RequestChannel(members, assignments, Spool(folder / "spool"))
    log = EventLog(folder)
    engine = NetworkEngine(channel, log, NetworkOptions(min_clients=agents, drift=False))
    desk = JobDesk(members, assignments, verdict=engine.verdict)
    shape = {"input_shape": [wide], "classes": [str(each) for each in range(10)]}
    desk.offer(describe_job("job", "load", algorithm, task, rounds, seed=0, data_schema=shape))
    assignments.set_state("running")
    server = HttpServer(desk, members, assignments, channel.files, OpenAdmission())
    server.start("127.0.0.1", 0)
    print("http://{}:{}".format(*server.address), flush=True)
    while len(members.available()) < agents:
        time.sleep(0.1)
    names = [f"agent-{number:05d}" for number in range(agents)]
    data = RemoteData("load", (wide,), classes=10, expected=names)
    run = hw.Run(algorithm, data, task, rounds=rounds, engine=engine, evaluate_every=None)
    before, begun, used = memory("RssAnon"), time.perf_counter(), time.process_time()
    for report in run:
        now = time.perf_counter()
        counted = report.count("counted")
        mapped, spent = memory("RssFile") >> 20, time.process_time() - used
        print(
            f"round {report.round}: {counted} of {agents} counted, {now - begun:.1f} s, {spent:.1f} s of a "
            f"core, {report.bytes_up / 1e6 / (now - begun):.0f} MB/s up; memory {before >> 20} MB before, "
            f"{memory('RssAnon') >> 20} MB now; {mapped} MB of mapped files",
            flush=True,
        )
        begun, used = time.perf_counter(), time.process_time()
    assignments.set_state("finished")
    time.sleep(2)
    server.stop()
    log.close()


def memory(name: str) -> int:
    """A figure of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def write_alone(folder: Path) -> None:
    """A server that writes what it receives to files and flushes them; prints its address."""
    from aiohttp import web

    async def put(request: web.Request) -> web.Response:
        with (folder / request.match_info["name"]).open("ab") as file:
            async for part in request.content.iter_any():
                file.write(part)
            if request.query.get("last"):
                file.flush()
                await asyncio.to_thread(os.fsync, file.fileno())
        return web.Response()

    async def main() -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_put("/{name}", put)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        print("http://{}:{}".format(*runner.addresses[0][:2]), flush=True)
        await asyncio.Event().wait()

    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        runner.run(main())


async def upload_all(url: str, agents: int, size: int) -> float:
    """The seconds that as many uploads of this size take, all at once."""
    data = os.urandom(size)

    async def one(session: aiohttp.ClientSession, name: str) -> None:
        for offset in range(0, size, PIECE):
            last = "?last=1" if offset + PIECE >= size else ""
            async with session.put(f"/{name}{last}", data=data[offset : offset + PIECE]) as answer:
                assert answer.status == 200

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        begun = time.perf_counter()
        await asyncio.gather(*(one(session, f"{number}") for number in range(agents)))
        return time.perf_counter() - begun


def child(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=sized(500, 5))
    parser.add_argument("--parameters", type=int, default=sized(1_000_000, 1000))
    parser.add_argument("--rounds", type=int, default=sized(2, 1))
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    own = options.agents, options.parameters, options.rounds
    if options.serve:
        serve(options.serve, *own)
        return
    if options.write:
        write_alone(options.write)
        return
    from simulated_agents import SimulatedAgents

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "files")
        made.mkdir()
        writer = child("--write", made)
        try:
            assert writer.stdout is not None
            size = 4 * options.parameters
            seconds = asyncio.run(upload_all(writer.stdout.readline().strip(), options.agents, size))
            rate = options.agents * size / seconds / 1e6
            done = f"{options.agents} uploads of {size / 1e6:.1f} MB, {seconds:.1f} s, {rate:.0f} MB/s"
            print(f"written to files alone: {done}")
        finally:
            writer.kill()
            writer.wait()
        for path in made.iterdir():
            path.unlink()
        sizes = ["--agents", own[0], "--parameters", own[1], "--rounds", own[2]]
        server = child("--serve", Path(folder), *sizes)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            names = [f"agent-{number:05d}" for number in range(options.agents)]
            figures = asyncio.run(SimulatedAgents(url, names).run())
            print(server.stdout.read(), end="")
            print(f"agents: {figures.text()}")
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
