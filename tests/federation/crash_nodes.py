"""Servers and agents as forks, so that hundreds may be killed in a minute.

with Nodes(folder) as nodes:
    server = nodes.serve(fault="after an event is on disk|kill|2")
    assert nodes.wait(server) == -9
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

from forks import Fork, forks

ROUNDS, CLIENTS = 3, 3
RECIPES = ("scaffold", "fedavg+ecgr")
RELAY = "relay"  # the name of the one that the server lists
RECOVERY = "recovery.txt"


# what forks do -------------------------------------------------------------------------------------------------


def parts(recipe):
    from toys import blobs, linear_task

    import headway as hw

    trainer = hw.LocalSGD(lr=0.1, batch_size=4, epochs=2)
    if recipe in ("secure", "private"):
        ends = (hw.Mean("expected"), hw.GaussianNoise(2.0)) if recipe == "private" else (hw.Mean("clients"),)
        chain = hw.chain(hw.Clip(1.0), hw.Quantize(16), hw.SecureSum(min_cohort=3, min_survivors=3), *ends)
        return hw.Algorithm(chain, trainer, hw.All()), blobs((7, 12, 5)), linear_task(dtype="float64")
    return hw.recipes.recipe(recipe, trainer=trainer), blobs((7, 12, 5)), linear_task(dtype="float64")


def run_options(recipe):
    """The options of a run; that of the private recipe has a ledger."""
    from headway.privacy.options import PrivacyOptions

    private = {"privacy": PrivacyOptions(delta=1e-5, randomness="derived")} if recipe == "private" else {}
    return {"evaluate_every": None, **private}


def serve(port: int, recipe: str, rounds: int, relayed: bool, begun: float) -> None:
    from network import Network

    import headway as hw
    from headway.federation.serving.http_server import HttpServer
    from headway.federation.spool.event_log import EventLog
    from headway.federation.spool.spool import Spool

    start = HttpServer.start
    HttpServer.start = lambda self, host, _, context=None: start(self, host, port, context)
    algorithm, data, task = parts(recipe)
    own = Path.cwd()
    log = EventLog(own)
    options = {"expected": frozenset(data.clients), "wait_limit_s": 300.0, "lease_s": 90.0}
    options |= {"population": len(data.clients)} | ({"relays": (RELAY,), "group": 1} if relayed else {})
    network = Network.of(algorithm, task, Spool(own / "spool"), log, rounds, **options)
    kept = own / "run"
    if begun:
        note_recovery(network.assignments, own / RECOVERY, begun)
    run = hw.Run(
        algorithm,
        data,
        task,
        rounds=rounds,
        engine=network.engine,
        folder=kept,
        resume=(kept / "run.json").exists(),
        checkpoint_every=1,
        **run_options(recipe),
    )
    list(run)
    events = [(event, max(e.attempt for e in own)) for own in map(log.events, log.rounds()) for event in own]
    arrived = [(e.round, e.client) for e, last in events if e.kind == "arrived" and e.attempt == last]
    (own / "result.new").write_text(json.dumps({"params": run.state.params.tolist(), "arrived": arrived}))
    os.replace(own / "result.new", own / "result.json")
    network.assignments.set_state("finished")
    until = time.monotonic() + 300
    while not (own / "end").exists() and time.monotonic() < until:
        time.sleep(0.02)
    network.server.stop()


def note_recovery(assignments, file: Path, begun: float) -> None:
    """Notes the seconds until the round of before takes replies again, in a line of a file."""
    listen, noted = assignments.listen, []

    def listening() -> None:
        if not noted:
            noted.append(time.monotonic() - begun)
            with file.open("a") as lines:
                lines.write(f"{noted[0]:.3f}\n")
        listen()

    assignments.listen = listening


def join(url: str, client: str, recipe: str) -> None:
    from agent_threads import data_of

    from headway.federation.agent.agent import Agent

    _, data, task = parts(recipe)
    agent = Agent(url, data_of(data, client), state=Path.cwd() / client, name=client, task=task)
    state = agent.run()
    sys.exit(0 if state == "finished" else f"the job is {state}")


def relay(url: str, port: int, clients: int, recipe: str) -> None:
    from headway.federation.identity.admission import OpenAdmission
    from headway.federation.identity.node_identity import OpenIdentity
    from headway.federation.identity.server_access import ServerAccess
    from headway.federation.relay.relay import Relay, RelayOptions

    _, _, task = parts(recipe)
    access = ServerAccess(OpenIdentity(RELAY), OpenAdmission(1e6, 1e6), None, None, ())
    options = RelayOptions(port=port, clients=clients)
    state = Relay(url, access, lambda job: task, state=Path.cwd() / RELAY, options=options).run()
    sys.exit(0 if state == "finished" else f"the job is {state}")


def node(kind: str, fault: str, file_size: int, **options) -> None:
    """A fork that carries out an order; it ends at once, with what it has opened."""
    from launch import hook_for

    from headway.core import fault_points

    code = 1
    try:
        if fault:
            fault_points.install(hook_for(fault, ""))
        if file_size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        code = 0
        {"serve": serve, "join": join, "relay": relay}[kind](**options)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        print(end.code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc(limit=-3)
    finally:
        sys.stderr.flush()
        os._exit(code)


# the side of the tests -----------------------------------------------------------------------------------------


class Nodes:
    """A server and its agents in one folder; killed at the end, whatever happens."""

    def __init__(self, folder: Path, recipe: str = RECIPES[0], rounds: int = ROUNDS, port: int | None = None) -> None:
        self.folder, self.recipe, self.rounds = folder, recipe, rounds
        self.port, self.other_port = port or free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.started: list[Fork] = []

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_all()

    def _end_all(self) -> None:
        for each in self.started:
            self.kill(each)
        self.started.clear()

    def start(self, kind: str, log: Path, fault: str, file_size: int = 0, **options) -> Fork:
        place = {"folder": self.folder, "log": log, "environment": {"XDG_CACHE_HOME": str(self.folder.parent)}}
        own = {"kind": kind, "fault": fault, "file_size": file_size, "recipe": self.recipe}
        self.started.append(forks().start("crash_nodes:node", ["node"], **place, **own, **options))
        return self.started[-1]

    def fresh(self, name: str) -> None:
        """The next nodes work in another folder; what a failed test has left running ends."""
        self._end_all()
        self.folder = self.folder.parent / name
        self.folder.mkdir()

    def serve(self, fault: str = "", file_size: int = 0, port: int | None = None, relayed: bool = False) -> Fork:
        log = self.folder / "server.log"
        begun = time.monotonic() if log.exists() else 0.0
        own = {"port": port or self.port, "rounds": self.rounds, "relayed": relayed, "begun": begun}
        return self.start("serve", log, fault, file_size, **own)

    def join(self, client: str, fault: str = "", url: str = "") -> Fork:
        return self.start("join", self.folder / f"{client}.log", fault, url=url or self.url, client=client)

    def relay(self, clients: int, fault: str = "") -> Fork:
        """A relay at `other_url` for so many clients."""
        own = {"url": self.url, "port": self.other_port, "clients": clients}
        return self.start(RELAY, self.folder / f"{RELAY}.log", fault, **own)

    @property
    def other_url(self) -> str:
        return f"http://127.0.0.1:{self.other_port}"

    def code(self, node: Fork) -> int | None:
        """The exit code of a node, `None` while it runs."""
        return node.poll()

    def wait(self, node: Fork, seconds: float = 120.0) -> int:
        try:
            return node.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.logs()) from None

    def kill(self, node: Fork) -> None:
        node.kill()
        node.wait(60)

    def end(self) -> None:
        """Has the server close, once the agents have ended."""
        (self.folder / "end").touch()

    def recoveries(self) -> list[float]:
        """The seconds from each start of a server after the first until the run took replies again."""
        file = self.folder / RECOVERY
        return [float(line) for line in file.read_text().split()] if file.exists() else []

    def result(self) -> dict:
        return json.loads((self.folder / "result.json").read_text())

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))


def free_port() -> int:
    """A port at which nobody listens; where the system allows it, no other process is given it before a server is."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, which then may listen there
    held.bind(("127.0.0.1", 0))
    port = held.getsockname()[1]
    if sys.platform == "linux":
        held.detach()  # stays bound until this process ends
    else:
        held.close()
    return port
