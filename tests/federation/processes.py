"""Servers and agents as processes of their own, killed when a test asks for it, and always at its end.

with Processes(tmp_path) as processes:
    server = processes.start("server", "serve", "federation.toml", "--port", "0", fault="after x|kill|2")
    url = server.url()
    assert server.wait() == -9
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from forks import Fork, forks

import headway

HERE = Path(__file__).parent
SOURCES = str(Path(headway.__file__).parents[1])
ADDRESS = re.compile(r"https?://[^\s/]+:\d+")
PATIENCE_S = 60.0


class Process:
    """One process, its output in a file."""

    def __init__(self, name: str, process: subprocess.Popen[bytes] | Fork, log: Path, start: int) -> None:
        self.name, self.process, self.log, self._start = name, process, log, start

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_bytes()[self._start :].decode(errors="replace")

    def url(self) -> str:
        """The first address that it prints."""
        return self.shows(rf"{ADDRESS.pattern}(?=\D)").group(0)  # whose last digit is there

    def shows(self, pattern: str, seconds: float = PATIENCE_S) -> re.Match[str]:
        """Waits for a line of its output."""
        until, compiled = time.monotonic() + seconds, re.compile(pattern)
        while True:
            ended = not self.alive
            if found := compiled.search(self.text):
                return found
            assert not ended, f"{self.name} ended with {self.process.returncode} before {pattern!r}:\n{self.text}"
            assert time.monotonic() < until, f"{self.name} has not shown {pattern!r}:\n{self.text}"
            time.sleep(0.02)

    def wait(self, seconds: float = 3 * PATIENCE_S) -> int:
        """Its exit code."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended:\n{self.text}") from None

    def kill(self) -> None:
        """As a loss of power."""
        self.signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def signal(self, number: int) -> None:
        if self.alive:
            self.process.send_signal(number)

    @property
    def memory(self) -> int:
        """Its resident bytes now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def cpu_s(self) -> float:
        """Seconds of the processor that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Processes:
    """The processes of a test, in one folder, with a log file for each name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Process] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.started:
            if each.alive:
                each.process.send_signal(signal.SIGCONT)
                each.process.kill()
            each.process.wait(PATIENCE_S)
            for pid in in_session(each.pid):  # what it has started
                with contextlib.suppress(ProcessLookupError):  # of one that has ended meanwhile
                    os.kill(pid, signal.SIGKILL)

    def start(
        self,
        name: str,
        *arguments: object,
        fault: str = "",
        trace: Path | None = None,
        file_size: int | None = None,
        program: bool = False,
        within: tuple[str, ...] = (),
    ) -> Process:
        """Starts `headway` with these arguments; program: a script, instead; within: a command before it."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([SOURCES, str(HERE), str(HERE.parent)]),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "HEADWAY_TEST_FAULT": fault,
            "HEADWAY_TEST_TRACE": str(trace or ""),
            "HEADWAY_TEST_FILE_SIZE": str(file_size or ""),
            "HEADWAY_TEST_RUN": "1" if program else "",
        }
        log = self.folder / f"{name}.log"
        start = log.stat().st_size if log.exists() else 0
        argv = [str(HERE / "launch.py"), *map(str, arguments)]
        if not within:
            process = forks().start("launch:main", argv, folder=self.folder, log=log, environment=environment)
        else:
            with log.open("ab") as file:
                own = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
                command = [*within, sys.executable, *argv]
                process = subprocess.Popen(command, cwd=self.folder, env=environment, start_new_session=True, **own)
        self.started.append(Process(name, process, log, start))
        return self.started[-1]


def in_session(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


def until(condition, seconds: float = PATIENCE_S, what: str = "") -> object:
    """Waits for a condition; what it gave."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what or f"{condition} did not come true"
        time.sleep(0.01)
    return found
