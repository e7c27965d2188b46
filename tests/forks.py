"""Programs as forks of a process that has imported what they import, so that each begins at once.

    code, output = run_benchmark(Path("benchmarks/walk.py"), ["--list"], tmp_path)
    code, output, errors = command("run", "hospitals", folder=tmp_path).result()

`python forks.py` makes a fork for a line of JSON on its standard input, and answers with its number.  All forks end
with it, and it ends with the tests.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
FOLDERS = (HERE.parent / "src", HERE, HERE / "federation")  # of the modules that forks import
MODULES = (
    "torch",
    "aiohttp.web",
    "safetensors.torch",
    "headway.cli.main",
    "headway.cli.run_command",
    "headway.cli.serve_command",
    "headway.cli.join_command",
    "headway.federation.server",
    "headway.federation.agent.agent",
    "headway.federation.relay.relay",
    "headway.experiment.runfile",
)


# the process that forks ------------------------------------------------------------------------------------


def run_script() -> None:
    """Runs the script of `sys.argv` as Python does."""
    import runpy

    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")


def _become(order: Mapping) -> None:
    """What is of the process that forks, and not of the program."""
    import ctypes

    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with its parent
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has told its children to ignore it
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    errors = os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "errors" in order else log
    for target, source in ((0, null), (1, log), (2, errors)):
        os.dup2(source, target)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=True)
    sys.argv = order["argv"]


def _warm_up() -> None:
    """What each fork would do again, once; their collectors of garbage leave alone what is there."""
    import torch
    from toys import blobs, linear_task

    import headway as hw

    torch.set_num_threads(1)
    algorithm = hw.recipes.recipe("scaffold", trainer=hw.LocalSGD(lr=0.1, batch_size=4))
    list(hw.Run(algorithm, blobs((7, 12)), linear_task(), rounds=1, evaluate_every=None))
    gc.collect()
    gc.freeze()


def main() -> None:
    sys.path[:0] = [str(folder) for folder in FOLDERS]
    for module in MODULES:
        importlib.import_module(module)
    _warm_up()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            pid, status = os.waitpid(order["wait"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if pid else None}
        elif pid := os.fork():
            answer = {"pid": pid}
        else:
            _become(order)
            module, _, function = order["function"].partition(":")
            getattr(importlib.import_module(module), function)(**order["arguments"])
            return
        print(json.dumps(answer), flush=True)


# the side of the tests -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Fork:
    """A fork, with the methods of `subprocess.Popen` that tests use."""

    forks: Forks
    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.forks.order(wait=self.pid)["code"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (timeout or float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """The process that forks."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "forks.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
            start_new_session=True,
        )

    def order(self, **order) -> dict:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(
        self,
        function: str,
        argv: Sequence[object],
        *,
        folder: Path,
        log: Path,
        environment: Mapping[str, str] | None = None,
        errors: Path | None = None,
        **arguments: object,
    ) -> Fork:
        """A fork that calls "module:function", with its output in a file, and its errors in another if one is given."""
        log.touch()
        own = {"folder": str(folder), "log": str(log), "environment": os.environ | (environment or {})}
        if errors is not None:
            own["errors"] = str(errors)
        return Fork(self, self.order(function=function, argv=list(map(str, argv)), arguments=arguments, **own)["pid"])

    def close(self) -> None:
        self.process.stdin.close()
        self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()


@functools.cache
def forks() -> Forks:
    """The one of these tests."""
    made = Forks()
    atexit.register(made.close)
    return made


class Command:
    """`headway` as a process: what it has written, and the fork."""

    def __init__(self, arguments: Sequence[object], folder: Path, environment: Mapping[str, str]) -> None:
        self.kept = tempfile.TemporaryDirectory()
        self.written = [Path(self.kept.name, name) for name in ("out", "err")]
        for path in self.written:
            path.touch()
        log, errors = self.written
        own = {"folder": folder, "log": log, "errors": errors, "environment": environment}
        self.fork = forks().start("launch:main", ["headway", *arguments], **own)
        self.pid = self.fork.pid

    @property
    def out(self) -> str:
        """What it has written so far."""
        return self.written[0].read_text()

    def result(self, timeout: float = 600.0) -> tuple[int, str, str]:
        """Waits for its end: the exit code, its output and its errors."""
        code = self.fork.wait(timeout)
        texts = [path.read_text() for path in self.written]
        self.kept.cleanup()
        return code, texts[0], texts[1]


def command(*arguments: object, folder: Path, **environment: str) -> Command:
    """Starts a command in a folder, as its console script does, with more in its environment (see launch.py)."""
    return Command(arguments, folder, {"HEADWAY_TEST_GRACE": "100"} | environment)


def run_benchmark(script: Path, arguments: Sequence[object], folder: Path) -> tuple[int, str]:
    """Runs a benchmark at a small size to its end: its exit code, and its output with its errors."""
    path = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {"HEADWAY_SMALL": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with tempfile.NamedTemporaryFile("r") as log:
        own = {"folder": folder, "log": Path(log.name), "environment": environment}
        code = forks().start("forks:run_script", [script, *arguments], **own).wait()
        return code, log.read()


if __name__ == "__main__":
    main()
