"""Servers and agents as forks of a process that has imported everything, so that hundreds may be killed in a minute.

    with Nodes(folder) as nodes:
        server = nodes.serve(fault="after an event is on disk|kill|2")
        assert nodes.wait(server) == -9

A fork is told what to do by a line of JSON on the standard input of `python crash_nodes.py`, which answers with its
process.  All forks end with it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
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


def serve(folder: str, port: int, recipe: str, rounds: int, relayed: bool, begun: float) -> None:
    from network import Network

    import headway as hw
    from headway.federation.serving.http_server import HttpServer
    from headway.federation.spool.event_log import EventLog
    from headway.federation.spool.spool import Spool

    start = HttpServer.start
    HttpServer.start = lambda self, host, _, context=None: start(self, host, port, context)
    algorithm, data, task = parts(recipe)
    own = Path(folder)
    log = EventLog(own)
    options = {"expected": frozenset(data.clients), "wait_limit_s": 60.0, "population": len(data.clients)}
    options |= {"relays": (RELAY,), "group": 1, "lease_s": 90.0} if relayed else {}
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
    until = time.monotonic() + 60
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


def join(folder: str, url: str, client: str, recipe: str) -> None:
    from agent_threads import data_of

    from headway.federation.agent.agent import Agent

    _, data, task = parts(recipe)
    agent = Agent(url, data_of(data, client), state=Path(folder) / client, name=client, task=task)
    state = agent.run()
    sys.exit(0 if state == "finished" else f"the job is {state}")


def relay(folder: str, url: str, port: int, clients: int, recipe: str) -> None:
    from headway.federation.identity.admission import OpenAdmission
    from headway.federation.identity.node_identity import OpenIdentity
    from headway.federation.identity.server_access import ServerAccess
    from headway.federation.relay.relay import Relay, RelayOptions

    _, _, task = parts(recipe)
    access = ServerAccess(OpenIdentity(RELAY), OpenAdmission(1e6, 1e6), None, None, ())
    options = RelayOptions(port=port, clients=clients)
    state = Relay(url, access, lambda job: task, state=Path(folder) / RELAY, options=options).run()
    sys.exit(0 if state == "finished" else f"the job is {state}")


def fork(order: dict) -> int:
    """A fork that carries out an order."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with its parent
        log = os.open(order.pop("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        from launch import hook_for

        from headway.core import fault_points

        if fault := order.pop("fault"):
            fault_points.install(hook_for(fault, ""))
        if size := order.pop("file_size"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        kind = order.pop("kind")
        code = 0
        {"serve": serve, "join": join, "relay": relay}[kind](**order)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        print(end.code, file=sys.stderr)
    except BaseException:
        code = 1
        traceback.print_exc(limit=-3)
    finally:
        sys.stderr.flush()
        os._exit(code)


def warm_up() -> None:
    """Does once what each fork would do again, and has their collectors of garbage leave alone what is there."""
    import headway as hw

    list(hw.Run(*parts(RECIPES[0]), rounds=1, evaluate_every=None))
    gc.collect()
    gc.freeze()


def main() -> None:
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import agent_threads  # noqa: F401
    import network  # noqa: F401
    import torch

    import headway.federation.relay.relay  # noqa: F401

    torch.set_num_threads(1)
    warm_up()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            pid, status = os.waitpid(order["wait"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        else:
            answer = {"pid": fork(order)}
        print(json.dumps(answer), flush=True)


# the side of the tests -----------------------------------------------------------------------------------------


class Nodes:
    """A server and its agents in one folder; killed at the end, whatever happens."""

    def __init__(self, folder: Path, recipe: str = RECIPES[0], rounds: int = ROUNDS, port: int | None = None) -> None:
        import headway

        self.folder, self.recipe, self.rounds = folder, recipe, rounds
        self.port, self.other_port = port or free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        sources = str(Path(headway.__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "crash_nodes.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": sources, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder)},
            text=True,
            start_new_session=True,
        )
        self.codes: dict[int, int] = {}
        self.started: list[int] = []

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()

    def order(self, **order) -> dict:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def fresh(self, name: str) -> None:
        """The next nodes work in another folder; what a failed test has left running ends."""
        for pid in self.started:
            self.kill(pid)
        self.started.clear()
        self.folder = self.folder.parent / name
        self.folder.mkdir()

    def serve(self, fault: str = "", file_size: int = 0, port: int | None = None, relayed: bool = False) -> int:
        own = {"folder": str(self.folder), "port": port or self.port, "recipe": self.recipe, "rounds": self.rounds}
        log = self.folder / "server.log"
        own |= {"relayed": relayed, "log": str(log), "begun": time.monotonic() if log.exists() else 0.0}
        self.started.append(self.order(kind="serve", fault=fault, file_size=file_size, **own)["pid"])
        return self.started[-1]

    def join(self, client: str, fault: str = "", url: str = "") -> int:
        own = {"folder": str(self.folder), "url": url or self.url, "client": client, "recipe": self.recipe}
        log = str(self.folder / f"{client}.log")
        self.started.append(self.order(kind="join", fault=fault, file_size=0, log=log, **own)["pid"])
        return self.started[-1]

    def relay(self, clients: int, fault: str = "") -> int:
        """A relay at `other_url` for so many clients."""
        own = {"folder": str(self.folder), "url": self.url, "port": self.other_port, "clients": clients}
        own["recipe"] = self.recipe
        log = str(self.folder / f"{RELAY}.log")
        self.started.append(self.order(kind="relay", fault=fault, file_size=0, log=log, **own)["pid"])
        return self.started[-1]

    @property
    def other_url(self) -> str:
        return f"http://127.0.0.1:{self.other_port}"

    def code(self, pid: int) -> int | None:
        """The exit code of a node, `None` while it runs."""
        if pid not in self.codes:
            if (code := self.order(wait=pid)["code"]) is None:
                return None
            self.codes[pid] = code
        return self.codes[pid]

    def wait(self, pid: int, seconds: float = 60.0) -> int:
        until = time.monotonic() + seconds
        while (code := self.code(pid)) is None:
            assert time.monotonic() < until, self.logs()
            time.sleep(0.01)
        return code

    def kill(self, pid: int) -> None:
        if self.code(pid) is None:
            os.kill(pid, signal.SIGKILL)
            self.wait(pid)

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
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


if __name__ == "__main__":
    main()
