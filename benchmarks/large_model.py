"""A model of gigabytes through a server of a federation: the most main memory, and the time of a round.

    python benchmarks/large_model.py [--parameters 500000000] [--agents 2] [--rounds 2] [--memory "1 GB"]
        [--recipe fedavg] [--folder DIR]

A server in a process of its own (`headway.federation.Server`: checks, spool, sum, step, checkpoints, manifests) runs
rounds for agents that do not train: each downloads the model and uploads an update of its own, over loopback and
without TLS, one agent at a time.  --memory is the server's `federation.memory`.  Memory is the anonymous memory of the
server's process beside what it had with torch alone: pages of mapped files are not in it, which the system drops or
writes out where memory is needed.  The most is given for the start, in which the model is made, and for each round.
--folder needs disk space for the updates of a round and six models.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import mmap
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch
from aggregation import Watch
from simulated_agents import SimulatedAgents, reply_to
from sizes import sized

import headway as hw
from headway.data import RemoteData
from headway.federation import AccessOptions, JobOptions, Server, ServerJob, ServerOptions
from headway.protocol.wire_messages import read_request, write_reply


def serve(options: argparse.Namespace) -> None:
    """The server; prints its address, then a line for the start and for each round."""
    torch.set_num_threads(1)
    watch, width, numbers = Watch(), max(1, options.parameters // 10), options.parameters

    def model() -> torch.nn.Module:
        made = torch.nn.Linear(width, 10, bias=False, device="meta").to_empty(device="cpu")
        made.weight.data.fill_(0.01)  # without the minutes of drawing each
        return made

    def write(kind: str, sentence: str, facts: object) -> None:
        if kind in ("listening", "round"):
            most = watch.take()
            print(f"{sentence}; at most {most / 1e6:,.0f} MB, {most / numbers:.1f} bytes a parameter", flush=True)

    expected = [f"agent-{number:05d}" for number in range(options.agents)]
    data = RemoteData("large", input_shape=(width,), classes=10, expected=expected)
    own = JobOptions(memory=options.memory, lease_s=3600.0, keep=1, keep_rounds=1, evaluate_every=None)
    algorithm = hw.recipes.recipe(options.recipe)
    job = ServerJob("large", algorithm, data, hw.Task(model), options.rounds, options=own)
    access = AccessOptions(insecure=True)
    server = Server([job], options.serve / "run", ServerOptions(port=0, access=access, sinks=[write]))

    def address() -> None:
        server.listening.wait()
        print(f"url {server.url}", flush=True)

    threading.Thread(target=address, daemon=True).start()
    server.run()


class FrugalAgents(SimulatedAgents):
    """Agents whose messages and replies lie in files, one at a time."""

    def __init__(self, url: str, names: list[str], folder: Path) -> None:
        super().__init__(url, names)
        self.folder, self._turn = folder, asyncio.Lock()

    async def _answer(self, session, name, given) -> None:  # type: ignore[no-untyped-def]
        async with self._turn:
            await super()._answer(session, name, given)

    async def _reply(self, session, name, given):  # type: ignore[no-untyped-def]
        asked, made = self.folder / "asked", self.folder / "made"
        with asked.open("wb") as file:
            async for part in self._parts(session, name, given):
                file.write(part)
        request, binding = read_request(asked, 1 << 40)
        value = self.value * (1 + self.places[name] / len(self.places))
        with made.open("wb") as file:
            write_reply(file, reply_to(given.kind, request.message.params, self.train, value), binding)
        digest = hashlib.sha256()
        with made.open("rb") as file:
            while piece := file.read(1 << 24):
                digest.update(piece)
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        asked.unlink()
        made.unlink()
        return held, digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parameters", type=int, default=sized(500_000_000, 20_000))
    parser.add_argument("--agents", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--memory", default="1 GB")
    parser.add_argument("--recipe", default="fedavg")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--serve", type=Path)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        command = [sys.executable, __file__, *sys.argv[1:], "--serve", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                while not (line := server.stdout.readline()).startswith("url "):
                    print(line, end="", flush=True)
                    assert line, "the server has ended"
                names = [f"agent-{number:05d}" for number in range(options.agents)]
                agents = FrugalAgents(line.split()[1], names, Path(folder))
                shown = threading.Thread(target=lambda: [print(each, end="", flush=True) for each in server.stdout])
                shown.start()
                figures = asyncio.run(agents.run())
                shown.join()
                print(f"agents: {figures.text()}")
            finally:
                server.kill()


if __name__ == "__main__":
    main()
