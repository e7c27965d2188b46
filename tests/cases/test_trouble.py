"""A client's code raises, exits, hangs or prints: a sentence with the client, nothing left behind, JSON stays JSON."""

import json
import sys
from types import SimpleNamespace

import forks
import numpy as np
import pytest
from mk import blobs, toml

from headway.cli.run_command import Spent
from headway.engines.processes.process_pool import ProcessPool

OWN = """
import os
import sys
import time

from torch import nn

HERE = os.getpid()


class Trouble(nn.Module):
    def __init__(self, shape, outputs, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(shape[0], outputs), kind

    def forward(self, x):
        if self.training and os.environ.get("TROUBLE") == "on" and len(x) == 5:
            if self.kind == "raise":
                raise type("Odd", (Exception,), {"__init__": lambda s, a, b: None})(1, 2)
            if self.kind == "exit" and os.getpid() != HERE:
                os._exit(3)
            if self.kind == "sysexit":
                sys.exit("bye")
            if self.kind == "interrupt":
                raise KeyboardInterrupt
            if self.kind == "hang" and os.getpid() != HERE:
                time.sleep(1e6)
        if self.kind == "print":
            print("x" * 100, flush=True)
            os.write(1, b"from C\\n")
        return self.layer(x)


def trouble(shape, outputs, kind):
    return Trouble(shape, outputs, kind)
"""


@pytest.fixture
def trouble(headway, tmp_path, monkeypatch):
    """`headway run` with a model that makes trouble of a kind, at the one client that has a batch of five."""
    x, y = blobs(n=90)
    np.savez("t.npz", x=x, y=y, client=np.repeat(np.arange(4), [20, 20, 30, 20]))
    (tmp_path / "trouble_own.py").write_text(OWN)
    monkeypatch.setenv("TROUBLE", "on")
    monkeypatch.delitem(sys.modules, "trouble_own", raising=False)

    def trouble(kind, *arguments, apart=False):
        toml(
            "t.toml",
            'source = "t.npz"\ntest_share = 0.5',
            f'name = "trouble_own:trouble"\nkind = "{kind}"',
            run="name = 't'",
            trainer="lr = 0.05\nbatch_size = 10",
        )
        command = ["run", "t.toml", "--out", "t", *arguments]
        if not apart:
            return headway(*command)
        return forks.command(*command, folder=tmp_path).result()

    return trouble


@pytest.mark.parametrize("workers", [(), ("--workers", "2", "--lanes", "1")], ids=["here", "workers"])
@pytest.mark.parametrize(
    ("kind", "said"), [("raise", "Odd"), ("sysexit", "SystemExit: bye"), ("interrupt", "KeyboardInterrupt")]
)
def test_what_a_clients_code_raises_is_the_clients_failure(trouble, kind, said, workers):
    code, _, err = trouble(kind, *workers)
    assert code == 1
    assert err.startswith("error: client 'client-2' failed in the model's forward pass")
    assert said in err
    assert "Traceback" not in err


def test_a_clients_code_ends_its_worker(trouble):
    code, _, err = trouble("exit", "--workers", "2", "--lanes", "1")
    assert code == 1
    assert "ended 3 times while it trained client-2, the last time with exit code 3" in err
    assert "os._exit" in err


def test_a_clients_code_hangs_beyond_the_limit(trouble, monkeypatch):
    check_time = ProcessPool._check_time

    def once_the_others_are_done(pool, busy):
        if len(busy) == 1:  # a busy machine may need longer than the limit for a client that does not hang
            check_time(pool, busy)

    monkeypatch.setattr(ProcessPool, "_check_time", once_the_others_are_done)
    code, _, err = trouble("hang", "--workers", "2", "--lanes", "1", "--set", "engine.client_timeout=0.5")
    assert code == 1
    assert err.startswith("error: client-2 trained for ")
    assert "engine.client_timeout allows 0.5" in err


def test_a_limit_needs_workers(trouble):
    code, _, err = trouble("none", "--set", "engine.client_timeout=5")
    assert code == 1
    assert "give their number (--workers N)" in err


@pytest.mark.parametrize("workers", [(), ("--workers", "2", "--lanes", "1")], ids=["here", "workers"])
def test_what_a_model_prints_does_not_spoil_json(trouble, workers):
    code, out, err = trouble("print", "--json", *workers, apart=True)
    assert code == 0, err
    assert [json.loads(line)["event"] for line in out.splitlines()] == ["round", "round", "round", "done"]
    assert "from C" in err


def test_a_measured_plan_says_how_to_have_its_bits_again(trouble, tmp_path):
    code, out, err = trouble("none", "--workers", "2", "--set", "run.checkpoint_every=1")
    assert code == 0, err
    (line,) = (line for line in out.splitlines() if line.startswith("  bits"))
    options = line.split("repeat this run with ")[1].split()
    assert options[0] == "--lanes"
    first = (tmp_path / "t" / "checkpoints" / "round-000003.safetensors").read_bytes()
    code, out, err = trouble("none", "--workers", "1", *options, "--out", "again", "--set", "run.checkpoint_every=1")
    assert code == 0, err
    assert "  bits" not in out
    assert (tmp_path / "again" / "checkpoints" / "round-000003.safetensors").read_bytes() == first


def test_evaluation_that_takes_long_is_mentioned():
    spent = Spent()
    spent.add(SimpleNamespace(seconds=10.0, evaluation_seconds=20.0))
    assert spent.line() is None
    spent.add(SimpleNamespace(seconds=30.0, evaluation_seconds=20.0))
    assert "50 % of the run: with run.evaluate_every = 10" in spent.line()
