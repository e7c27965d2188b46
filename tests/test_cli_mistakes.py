"""Mistakes that were once a traceback, or passed in silence."""

import re
import sys

import pytest

from headway import cli
from headway.compare import Trial, gather
from headway.runfile import load_runfile

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
def headway(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.toml").write_text(PLAIN)

    def headway(*arguments):
        monkeypatch.setattr(sys, "argv", ["headway", *arguments])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return headway


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--set", 'model.hidden="x"'], "the model 'mlp' cannot be made with hidden = 'x'"),
        (["run", "--set", "model.hidden=[-1]"], r"the model 'mlp' cannot be made with hidden = \[-1\]"),
        (["compare", "--methods", "fedavg,fedprox", "--set", "algorithm.mu=1"], "changes one recipe"),
        (["compare", "--methods", "fedavg,fedprox", "--set", "algorithm.FedPrx.mu=1"], "did you mean 'FedProx'"),
        (["compare", "--methods", "fedavg,fedprox", "--out", "taken"], "taken exists already"),
        (["compare", "--methods", "fedavg,fedprox", "--seeds", "1", "--set", "data.test_share=0"], "was not defined"),
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
    summary = gather("name", runfiles, trials, 0.5).summaries()[0]
    assert (summary.rounds_to_target, summary.bytes_to_target) == (3, 30)
