"""Comparisons that are gone on with, tuned on held-out examples, bounded, and made at equal bytes."""

import json
import re
from dataclasses import replace

import pytest
import torch

from headway.client.evaluation import evaluate_clients, mean_metrics
from headway.client_state.store import MemoryStore
from headway.data import load
from headway.data.dataset.dataset_view import EVERYONE, View, pooled
from headway.experiment.baselines import baseline_jobs, gather_alone, weights_alone
from headway.experiment.comparison import Limits, gather
from headway.experiment.grid_search import candidates, choose
from headway.experiment.run import Run
from headway.experiment.runfile import load_runfile
from headway.experiment.trials import Trial, in_processes, run_trials
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key
from headway.protocol.messages import Message

SMALL = ["model.hidden=[4]", "algorithm.trainer.epochs=1", "run.rounds=3"]
FILE = """
[run]
rounds = 3
[data]
source = "hospitals"
[model]
name = "mlp"
hidden = [4]
[algorithm.trainer]
lr = 0.05
[compare]
methods = ["fedavg", "fedprox"]
seeds = 2
"""


@pytest.fixture
def headway(headway, tmp_path):
    """In a folder that holds what the tests run."""
    (tmp_path / "mine.toml").write_text(FILE)
    return headway


def finished(steps):
    return [step for step in steps if isinstance(step, Trial)]


def test_a_stopped_comparison_goes_on_to_the_same_trials(tmp_path):
    runfiles = {method: load_runfile("hospitals", SMALL, method=method) for method in ("fedavg", "scaffold")}
    whole = finished(run_trials(runfiles, range(2), 1, tmp_path / "whole"))
    part = run_trials(runfiles, range(2), 1, tmp_path / "part")
    for _ in range(6):  # into the second method
        next(part)
    part.close()
    assert (tmp_path / "part" / "runs" / "scaffold-s0").is_dir()
    assert finished(run_trials(runfiles, range(2), 1, tmp_path / "part")) == whole
    assert finished(run_trials(runfiles, range(2), 2, tmp_path / "part")) != []  # all there already


def test_the_same_command_goes_on_and_another_setting_is_refused(headway, tmp_path):
    assert headway("compare", "mine.toml", "--out", "here", "--workers", "1", "--seeds", "1")[0] == 0
    before = (tmp_path / "here/runs/fedavg-s0/best.safetensors").stat().st_mtime_ns
    assert headway("compare", "mine.toml", "--out", "here", "--workers", "1")[0] == 0
    assert len(json.loads((tmp_path / "here/results.json").read_text())["comparison"]["trials"]) == 4
    assert (tmp_path / "here/runs/fedavg-s0/best.safetensors").stat().st_mtime_ns == before
    code, _, said = headway(
        "compare", "mine.toml", "--out", "here", "--workers", "1", "--set", "algorithm.trainer.lr=1.0"
    )
    assert (code, "made with another algorithm" in said) == (1, True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    code, _, said = headway("compare", "mine.toml", "--out", "other")
    assert (code, "no comparison to go on with" in said) == (1, True)


def trial(method, seed, values, a_round):
    rounds = tuple(range(1, len(values) + 1))
    return Trial(method, seed, rounds, tuple(values), (0.0,) * len(values), tuple(a_round * r for r in rounds), {})


def test_equal_bytes_ask_another_question():
    """The method that is best by rounds sends three times as much, and is behind where both have sent 12."""
    runfiles = {method: load_runfile("hospitals", SMALL) for method in ("lean", "lavish")}
    trials = [trial("lean", s, [0.5] * 2 + [0.6 + s / 1e3] * 10, 1) for s in range(3)]
    trials += [trial("lavish", s, [0.1] * 4 + [0.9 + s / 1e3] * 8, 3) for s in range(3)]
    found = gather("name", runfiles, trials)
    lean, lavish = found.summaries()
    assert found.budget == 12
    assert lean.at_budget == pytest.approx(0.601)
    assert lavish.at_budget == pytest.approx(0.1)
    assert "lavish is highest" in found.sentence()
    assert found.budget_sentence().startswith("lean is highest with 0.6010")
    assert "ahead of every other" in found.budget_sentence()
    tight = gather("name", runfiles, trials, Limits(budget=2))
    assert next(s.at_budget for s in tight.summaries()) == pytest.approx(0.5)
    assert "lean" in tight.budget_sentence()  # the other has sent nothing that fits
    assert gather("name", runfiles, [replace(t, bytes_total=t.rounds) for t in trials]).budget_sentence() is None


@pytest.mark.parametrize("wrong", ["0", "-3MB", "much", "nan"])
def test_a_budget_that_is_no_size_is_refused(headway, wrong):
    code, _, said = headway("compare", "mine.toml", "--budget-bytes", wrong)
    assert (code, "must be a number of bytes above 0" in said) == (1, True)


def test_a_budget_is_shown(headway):
    _, out, _ = headway("compare", "mine.toml", "--workers", "1", "--budget-bytes", "9kB")
    assert re.search(r"at 9.*kB", out)
    assert re.search(r"At equal bytes, 9.* each: (fedavg|fedprox) is highest", out)
    _, out, _ = headway("compare", "mine.toml", "--workers", "1", "--budget-bytes", "90")
    assert "no method can send a round" in out


class TestViews:
    data = load("hospitals", key=0)

    def test_held_out_examples_come_from_training_alone(self):
        seen = View(held_out=0.25).of(self.data, Key.root(0))
        assert seen.central is None
        for client in self.data.clients:
            whole = set(self.data.train[client].tolist())
            train, test = set(seen.train[client].tolist()), set(seen.test[client].tolist())
            assert train | test == whole
            assert not train & test
            assert len(test) == int(len(whole) * 0.25 + 0.5)

    def test_one_client_only(self):
        seen = View(only="va").of(self.data, Key.root(0))
        assert seen.clients == ("va",)
        assert torch.equal(seen.test["va"], self.data.test["va"])
        with pytest.raises(Exception, match="no client 'vaa'"):
            View(only="vaa").of(self.data, Key.root(0))

    def test_pooled_data_are_the_same_examples(self):
        seen = pooled(self.data)
        assert seen.clients == (EVERYONE,)
        assert seen.train[EVERYONE].tolist() == sorted(i for index in self.data.train.values() for i in index.tolist())


def test_bounds_are_plain_training(tmp_path):
    """Alone is a federation of one; pooled training is too, and is measured on each client's test part."""
    file = load_runfile("hospitals", SMALL, method="scaffold+ecgr")
    experiment = file.build()
    jobs = baseline_jobs(file, experiment.data.clients, 0, tmp_path)
    assert [job.method for job in jobs][:2] == ["pooled", "alone, cleveland"]
    trials = {t.method: t for t in finished(in_processes(jobs, 1))}
    assert set(trials["pooled"].clients) == set(load("hospitals", key=0).clients)
    plain = load_runfile("hospitals", SMALL, method="fedavg").algorithm
    run = Run(plain, pooled(experiment.data), experiment.task, rounds=3, seed=0)
    list(run)
    flat_module = FlatModule(experiment.task, Key.root(0))
    message, data = Message(run.state.params), experiment.data
    scores, _ = evaluate_clients(flat_module, message, data, data.clients, MemoryStore())
    name = experiment.task.headline
    sizes = {client: len(data.test[client]) for client in data.clients}
    assert trials["pooled"].values[-1] == pytest.approx(mean_metrics(scores, sizes)[name])
    alone = gather_alone([t for m, t in trials.items() if m != "pooled"], weights_alone(experiment.data), 0)
    weights = {c: len(experiment.data.test[c]) for c in experiment.data.clients}
    expected = sum(weights[c] * trials[f"alone, {c}"].final for c in weights) / sum(weights.values())
    assert alone.final == pytest.approx(expected)


def test_the_gap_is_said(headway, tmp_path):
    _, out, _ = headway("compare", "mine.toml", "--workers", "1", "--seeds", "1", "--bounds", "--out", "here")
    assert "Each client alone reaches" in out
    gaps = json.loads((tmp_path / "here/results.json").read_text())["gaps"]
    assert [row["client"] for row in gaps] == ["cleveland", "hungary", "switzerland", "va"]
    assert all(0 <= row[kind] <= 1 for row in gaps for kind in ("alone", "federated", "pooled"))


class TestTuning:
    def test_the_best_setting_by_held_out_examples_is_used(self, headway, tmp_path):
        grid = '[compare.grid]\n"algorithm.trainer.lr" = [1e-6, 0.1]\n'
        own = '[methods.fedprox]\nrecipe = "fedprox"\ngrid = { "algorithm.FedProx.mu" = [0.1, 0.2] }\n'
        (tmp_path / "mine.toml").write_text(FILE + grid + own)
        code, out, _ = headway("compare", "mine.toml", "--workers", "1", "--out", "here")
        assert code == 0
        results = json.loads((tmp_path / "here/results.json").read_text())
        assert results["methods"]["fedavg"]["algorithm"]["trainer"]["lr"] == 0.1
        tuned = results["comparison"]["tuned"]
        assert (tuned["fedavg"]["tried"], tuned["fedprox"]["tried"]) == (2, 4)
        assert "fedavg: lr 0.1, best of 2" in out
        assert "untuned" not in out
        assert len(list((tmp_path / "here/tuning/runs").iterdir())) == 6

    def test_a_method_without_a_grid_is_untuned(self, headway, tmp_path):
        own = '[methods.fedprox]\nrecipe = "fedprox"\ngrid = { "algorithm.FedProx.mu" = [0.1, 0.2] }\n'
        (tmp_path / "mine.toml").write_text(FILE + own)
        assert "untuned: fedavg." in headway("compare", "mine.toml", "--workers", "1")[1].replace("\n", " ")

    def test_failed_settings_are_out(self):
        found = candidates("m", {"algorithm.trainer.lr": [0.1, 0.2]}, lambda sets: load_runfile("hospitals", sets))
        good = trial(found[1].name, 0, [0.3] * 3, 1)
        bad = replace(trial(found[0].name, 0, [0.9] * 3, 1), failure="diverged")
        chosen = choose(found, [good, bad], "accuracy")[0]["m"]
        assert chosen[1].chosen == {"algorithm.trainer.lr": 0.2}
        chosen, failed = choose(found, [replace(good, failure="no"), bad], "accuracy")
        assert (chosen, failed) == ({}, {"m": "every setting of its grid failed, the first like this: diverged"})

    def test_lower_may_be_better(self):
        found = candidates("m", {"algorithm.trainer.lr": [0.1, 0.2]}, lambda sets: load_runfile("hospitals", sets))
        trials = [trial(c.name, 0, [value] * 3, 1) for c, value in zip(found, (0.9, 0.3), strict=True)]
        assert choose(found, trials, "loss")[0]["m"][0] is found[1]

    @pytest.mark.parametrize(
        ("grid", "sentence"),
        [
            ('"algorithm.trainer.lr" = []', "needs a list of values"),
            ('"algorithm.FedPox.mu" = [1.0]', "none of the methods has a stage 'FedPox'"),
            ('"algorithm.trainer.lr" = ["a"]', "lr must be a number"),
        ],
    )
    def test_a_wrong_grid_is_a_sentence(self, headway, tmp_path, grid, sentence):
        (tmp_path / "mine.toml").write_text(f"{FILE}[compare.grid]\n{grid}\n")
        code, _, said = headway("compare", "mine.toml", "--workers", "1")
        assert (code, sentence in said) == (1, True), said


@pytest.mark.parametrize(
    ("alone", "pooled", "said"),
    [
        (0.5, 0.9, "50 % of the way"),
        (0.5, 0.6, "beyond what pooling"),
        (0.8, 0.9, "worse than none"),
        (0.9, 0.5, "pooling the data brings nothing"),
    ],
)
def test_the_gap_in_words(alone, pooled, said):
    runfiles = {method: load_runfile("hospitals", SMALL) for method in ("a", "b")}
    trials = [trial(method, seed, [0.7] * 3, 1) for method in runfiles for seed in range(2)]
    bounds = {"alone": (trial("alone", 0, [alone], 1),), "pooled": (trial("pooled", 0, [pooled], 1),)}
    assert said in gather("name", runfiles, trials, bounds=bounds).gap_sentence()
