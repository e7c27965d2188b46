"""The agent needs nothing that only Linux has: what it imports is imported where such modules and calls are missing."""

import subprocess
import sys
import textwrap

MISSING = """
import builtins, importlib.abc, os, sys

LINUX = {"fcntl", "resource", "pwd", "grp", "termios", "posix_ipc", "pty", "tty", "syslog", "spwd", "_posixshmem"}


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in LINUX:
            raise ImportError(f"{name} is not on this system")
        return None


real_open = builtins.open


def open_(file, *args, **options):
    if str(file).startswith("/proc"):
        raise FileNotFoundError(file)
    return real_open(file, *args, **options)
"""
USED = """
import torch, aiohttp, cryptography, pydantic, safetensors, uuid, multiprocessing  # libraries see to themselves
sys.meta_path.insert(0, Finder())
for name in LINUX:
    sys.modules.pop(name, None)
builtins.open = open_
for name in ("fork", "forkpty", "pread", "preadv", "pwrite", "posix_fallocate", "sched_getaffinity", "getuid", "nice"):
    if hasattr(os, name):
        delattr(os, name)
import signal
for name in ("pthread_kill", "pthread_sigmask", "SIGKILL"):
    delattr(signal, name)
"""


def run_without_linux(program, tmp_path):
    """Runs a program where modules and calls of Linux are missing."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(MISSING) + textwrap.dedent(USED) + textwrap.dedent(program))
    made = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=600, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout


def test_the_agent_and_its_command_are_imported(tmp_path):
    out = run_without_linux(
        """
        from headway.core import stopping
        stopping.install()
        assert not stopping.is_installed()
        import headway
        from headway.federation import Agent, AgentOptions, LocalPolicy, MachineLimits, NodeIdentity
        import headway.cli.join_command, headway.cli.main
        print("multiprocessing started:", multiprocessing.get_start_method(allow_none=True))
        """,
        tmp_path,
    )
    assert "multiprocessing started: None" in out


def test_a_job_is_trained_and_its_update_is_kept(tmp_path):
    out = run_without_linux(
        f"""
        from pathlib import Path
        import headway as hw
        from headway.federation.agent.agent_job import AgentJob
        from headway.federation.agent.surroundings import Surroundings
        from headway.federation.agent.agent_memory import AgentMemory
        from headway.federation.agent.agent_store import AgentStore
        from headway.federation.agent.machine_limits import MachineLimits
        from headway.federation.http_api import Assignment
        from headway.federation.serving.server_setup import describe_job
        from headway.protocol.messages import Train
        from headway.protocol.wire_messages import encode_request
        from hashlib import sha256

        folder = Path({str(tmp_path)!r})
        data = hw.FederatedData.from_clients({{"a": ([[0.0], [1.0], [2.0]], [0, 1, 1])}})
        task = hw.Task(lambda: torch.nn.Linear(1, 2))
        job = describe_job("job", "name", hw.recipes.recipe("scaffold"), task, 2, seed=0)
        store = AgentStore(folder / "state")
        with MachineLimits(threads=1, nice=5).applied():
            ready = AgentJob.of(job, Surroundings("a", data, task), store.private_key(), AgentMemory("a"))
            raw = encode_request(ready.setup.first_ask(["a"]).request)
            (folder / "request").write_bytes(raw)
            asked = Assignment(assignment="one", job="job", kind="train", round=0, message=sha256(raw).hexdigest(),
                               size=len(raw), limit=1 << 20)
            answered = ready.answering.answer(asked, folder / "request", None, {{}}, store.fresh)
        print(store.keep(asked, answered).size, store.pending("job"))
        store.close()
        """,
        tmp_path,
    )
    assert "round=0 attempt=0" in out
