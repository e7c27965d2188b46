"""Mistakes that were once a traceback, or passed in silence."""

import os
import re
import signal
import subprocess
import sys

import forks
import pytest
from processes import in_session, until

from headway.experiment.comparison import Limits, Trial, gather
from headway.experiment.runfile import load_runfile

PLAIN = """\
[run]
rounds = 1
[data]
source = "hospitals"
[model]
name = "mlp"
hidden = [4]
[algorithm]
recipe = "fedprox"
mu = 0.1
[methods.strong]
mu = 1.0
trainer = { lr = 0.2 }
"""


@pytest.fixture
def headway(headway, tmp_path, monkeypatch):
    """In a folder that holds what the tests run."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.toml").write_text(PLAIN)
    return headway


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--set", 'model.hidden="x"'], 'model.hidden must be a list, found "x"'),
        (["run", "--set", "model.hidden=[-1]"], r"the model 'mlp' cannot be made with hidden = \[-1\]"),
        (["compare", "--methods", "fedavg,fedprox", "--set", "algorithm.mu=1"], "changes one recipe"),
        (["compare", "--methods", "fedavg,fedprox", "--set", "algorithm.FedPrx.mu=1"], "did you mean 'FedProx'"),
        (["compare", "--methods", "fedavg,fedprox", "--out", "taken"], "taken exists already"),
        (
            ["compare", "--methods", "fedavg,fedprox", "--seeds", "1", "--set", "data.test_share=0"],
            "no client has test",
        ),
        (["compare", "mine.toml"], "two of the files are named 'mine'"),
    ],
)
def test_is_refused_with_a_sentence(headway, tmp_path, arguments, sentence):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "table.md").touch()
    code, _, err = headway(arguments[0], "mine.toml", *arguments[1:])
    assert code == 1
    assert re.search(f"error: .*{sentence}", err)


def test_a_misspelled_key_is_named_even_if_it_leaves_another_missing(headway, tmp_path):
    (tmp_path / "mine.toml").write_text(PLAIN.replace("rounds", "round"))
    assert "unknown key 'run.round' (did you mean 'rounds'?)" in headway("run", "mine.toml")[2]


def test_debug_may_stand_after_the_command(headway):
    with pytest.raises(Exception, match="no packaged example"):
        headway("run", "nothere", "--debug")


def test_a_method_without_a_recipe_changes_numbers_of_the_files_own(headway):
    strong = load_runfile("mine.toml", method="strong").algorithm
    assert strong.chain.stages[0].mu == 1.0
    assert strong.trainer.lr == 0.2


def test_a_client_that_fails_in_a_worker_is_named(headway, tmp_path):
    (tmp_path / "failing.py").write_text(
        "import torch\n\nclass Net(torch.nn.Linear):\n    def forward(self, x):\n        raise ValueError('boom')\n\n"
        "def net():\n    return Net(35, 2)\n"
    )
    (tmp_path / "mine.toml").write_text(PLAIN.replace('"mlp"\nhidden = [4]', '"failing:net"'))
    code, _, err = headway("compare", "mine.toml", "--methods", "fedavg,fedprox", "--seeds", "1", "--workers", "2")
    assert code == 1
    assert "error: " in err
    assert "client 'cleveland' failed" in err
    assert "boom" in err


def test_a_seed_that_never_reaches_the_target_is_late_in_the_median():
    runfiles = {"a": load_runfile("hospitals"), "b": load_runfile("hospitals")}
    values = {0: [0.9, 0.9, 0.9], 1: [0.1, 0.1, 0.9], 2: [0.1, 0.1, 0.1]}
    trials = [
        Trial(method, seed, (1, 2, 3), tuple(each), (0.0,) * 3, (10, 20, 30), {})
        for method in runfiles
        for seed, each in values.items()
    ]
    summary = gather("name", runfiles, trials, Limits(target=0.5)).summaries()[0]
    assert (summary.rounds_to_target, summary.bytes_to_target) == (3, 30)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("data.key=3", "unknown key 'data.key'"),
        ("run.threads=100000", "run.threads must be a whole number from 1 to 1024, found 100000"),
        ('model.name=":f"', "module '' cannot be imported"),
        ('model.name="broken:f"', "'broken' cannot be imported: SyntaxError"),
        ('model.name="raising:f"', "'raising' cannot be imported: KeyError"),
        ('model.name="builtins:dict"', "whose arguments are known"),
        ('model.name="own:fails"', "cannot be made with .*: KeyError"),
        ('model.name="own:number"', r"no function 'number' .known: fails"),
    ],
)
def test_a_wrong_value_is_a_sentence(headway, tmp_path, change, sentence):
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "raising.py").write_text("raise KeyError(1)")
    (tmp_path / "own.py").write_text("number = 3\ndef fails(hidden): return {}[0]")
    code, _, said = headway("run", "mine.toml", "--set", change)
    assert code == 1
    assert re.search(sentence, said)


def test_a_run_file_may_start_with_a_byte_order_mark(headway, tmp_path):
    (tmp_path / "mine.toml").write_text(PLAIN, encoding="utf-8-sig")
    assert headway("explain", "mine.toml")[0] == 0


def test_no_metrics_leaves_the_loss(headway):
    assert "Best loss" in headway("run", "mine.toml", "--set", "task.metrics=[]")[1]
    arguments = ("--methods", "fedavg,fedprox", "--seeds", "1", "--workers", "1", "--set", "task.metrics=[]")
    assert "Mean loss" in headway("compare", "mine.toml", *arguments)[1]


def test_a_target_that_is_no_number_is_refused(headway):
    code, _, said = headway("compare", "mine.toml", "--methods", "fedavg,fedprox", "--target", "nan")
    assert (code, "must be a finite number" in said) == (1, True)


def test_a_comparison_of_what_is_never_evaluated_is_refused(headway):
    sets = ("--set", "run.evaluate_every='never'", "--methods", "fedavg,fedprox")
    code, _, said = headway("compare", "mine.toml", *sets)
    assert code == 1
    assert 'run.evaluate_every is "never", so none are measured: give the number of rounds between evaluations' in said


def test_a_round_in_which_nobody_counts_is_said(headway):
    drops = ("epochs=2", "stragglers=1.0", "straggler_policy=drop")
    sets = [part for change in drops for part in ("--set", f"algorithm.trainer.{change}")]
    assert "no client was counted" in headway("run", "mine.toml", *sets)[1]


def _command(*arguments):
    return [sys.executable, "-m", "headway", *arguments]


def test_a_terminal_without_the_letters_gets_their_numbers(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = ("run", "hospitals", "--rounds", "1", "--out", "r\u00e4")
    done = subprocess.run(_command(*run), cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, "r\\xe4" in done.stdout) == (0, True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs another system: one with /dev/full")
def test_a_full_disk_under_the_output_is_a_sentence(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            _command("list"), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_comparison_that_is_terminated_leaves_no_worker(tmp_path):
    many = ("--methods", "fedavg,fedprox", "--rounds", "100000", "--seeds", "2", "--workers", "2", "--json")
    going = forks.command("compare", "hospitals", *many, folder=tmp_path)
    until(lambda: len(in_session(going.pid)) >= 3, what="it has started no workers")
    going.fork.send_signal(signal.SIGTERM)
    assert going.result()[0] == 143
    until(lambda: not in_session(going.pid), what="a worker is left")
