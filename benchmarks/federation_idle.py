"""Agents that wait for work: what ten thousand open requests cost a server, over mTLS.

    python benchmarks/federation_idle.py [--agents 10000] [--seconds 60] [--poll-s 45] [--plain]

A server of its own process holds the long polls of agents in this one, each with a connection of its own and signed
requests; memory and processor time of the server are those of its process.  --poll-s: for how long a call is held open
(`federation.poll_s`).  --plain: without TLS and signatures.
The number is lowered to what the limit of open files allows, which is raised as far as it goes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sizes import sized

SPARE = 200  # files besides connections


def serve(folder: Path, plain: bool, poll_s: float) -> None:
    """A server whose run waits for ever; prints its address."""
    import torch

    import headway as hw
    from headway.federation.identity.server_access import AccessOptions, ServerAccess
    from headway.federation.serving.assignments import Assignments
    from headway.federation.serving.http_server import HttpServer
    from headway.federation.serving.job_desk import JobDesk
    from headway.federation.serving.members import Members
    from headway.federation.serving.server_setup import describe_job
    from headway.federation.spool.spool import Spool

    options = (
        AccessOptions(insecure=True) if plain else AccessOptions(identity=folder / "server", authority=folder / "ca")
    )
    access = ServerAccess.of("localhost", options, folder / "state")
    task = hw.Task(lambda: torch.nn.Linear(10, 10))
    assignments, members = Assignments(), Members(3 * poll_s)
    desk = JobDesk(members, assignments)
    shape = {"input_shape": [10], "classes": [str(each) for each in range(10)]}
    own = {"seed": 0, "data_schema": shape, "poll_s": poll_s}
    desk.offer(describe_job("job", "idle", hw.recipes.recipe("fedavg"), task, 1, **own))
    assignments.set_state("running")
    server = HttpServer(desk, members, assignments, Spool(folder / "spool"), access.admission)
    server.start("localhost", 0, access.context)
    print(f"{'http' if plain else 'https'}://localhost:{server.address[1]}", flush=True)
    while True:
        time.sleep(60)


def issue(folder: Path, names: list[str]) -> None:
    """An authority, and certificates for a server and all agents."""
    from headway.federation.identity.authority import Authority

    begun = time.perf_counter()
    with Authority.create(folder / "ca") as authority:
        authority.issue("server", folder / "server", hosts=("localhost",))
        for name in names:
            authority.issue(name, folder / name)
    print(f"{len(names)} certificates in {time.perf_counter() - begun:.0f} s", flush=True)


def rss(pid: int) -> float:
    """Resident memory in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu(pid: int) -> float:
    """Seconds of processor time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files() -> int:
    """The limit of open files, raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, 1 << 16), max(hard, 1 << 16)))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard)) if soft < hard else None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def wait_with(url: str, names: list[str], folder: Path | None, pid: int, seconds: float) -> None:
    """Opens all agents' polls, and measures the server while they wait."""
    from simulated_agents import SimulatedAgents

    sign, contexts = None, {}
    if folder is not None:
        from headway.federation.identity.node_identity import NodeIdentity

        nodes = {name: NodeIdentity.load(folder / name) for name in names}
        contexts = {name: node.client_context() for name, node in nodes.items()}

        def sign(name: str, method: str, path: str, body: bytes) -> dict[str, str]:
            return dict(nodes[name].sign_headers(method, path, hashlib.sha256(body).hexdigest(), "job", 0))

    agents, stop = SimulatedAgents(url, names, sign=sign, contexts=contexts), asyncio.Event()
    before = rss(pid)
    task = asyncio.ensure_future(agents.run(at_once=50, stop=stop))
    while agents.joined < len(names) and not task.done():
        await asyncio.sleep(0.2)
    await asyncio.sleep(5)
    used, begun, polls = cpu(pid), time.perf_counter(), agents.figures.polls
    await asyncio.sleep(seconds)
    took = time.perf_counter() - begun
    share = 100 * (cpu(pid) - used) / took
    print(
        f"{agents.joined} agents wait: {rss(pid):.0f} MB ({before:.0f} MB without them, "
        f"{1000 * (rss(pid) - before) / max(1, agents.joined):.0f} KB an agent), {share:.1f} % of a core, "
        f"{(agents.figures.polls - polls) / took:.0f} polls a second; failures {dict(agents.figures.failures)}"
    )
    stop.set()
    await task


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--agents", type=int, default=sized(10_000, 20))
    parser.add_argument("--seconds", type=float, default=sized(60.0, 1.0))
    parser.add_argument("--poll-s", type=float, default=45.0)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--serve", type=Path)
    options = parser.parse_args()
    most = open_files() - SPARE
    if options.serve:
        serve(options.serve, options.plain, options.poll_s)
        return
    count = min(options.agents, most)
    if count < options.agents:
        print(f"{count} agents instead of {options.agents}: the limit of open files is {most + SPARE}")
    names = [f"agent-{number:05d}" for number in range(count)]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if not options.plain:
            issue(folder, names)
        command = [sys.executable, __file__, "--serve", made, "--poll-s", str(options.poll_s)]
        command += ["--plain"] if options.plain else []
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            asyncio.run(wait_with(url, names, None if options.plain else folder, server.pid, options.seconds))
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
