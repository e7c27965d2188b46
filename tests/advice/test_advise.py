"""`headway advise`: what it measures, what it advises, and that all of it can be run."""

import json
import shlex

import pytest
import torch
from toys import blobs, linear_task

import headway as hw
from headway import recipes
from headway.advice.findings import THRESHOLDS, Finding, UserFacts, dominant, findings, level, rate
from headway.advice.likeness import LabelMix, Likeness
from headway.advice.probe import Probe, probe, traffic
from headway.core.errors import ConfigError
from headway.core.stage import stages
from headway.experiment.runfile import load_runfile

HEAD = '[run]\nrounds = 2\n[data]\nsource = "hospitals"\n[model]\nname = "logistic"\n'


@pytest.fixture
def headway(headway, tmp_path):
    """In a folder that holds what the tests run."""
    (tmp_path / "mine.toml").write_text(HEAD + "[algorithm.trainer]\nlr = 0.05\n")
    return headway


def advice(headway, *arguments):
    code, out, err = headway("advise", *arguments, "--json")
    assert (code, err) == (0, "")
    records = [json.loads(line) for line in out.splitlines()]
    return records[-1], {record["name"]: record for record in records[:-1]}


@pytest.mark.parametrize(
    ("options", "recipe", "dominant"),
    [
        ([], "scaffold", "likeness"),
        (["--unreliable", "0.6"], "fedprox", "reliability"),
        (["--unreliable", "0.2"], "scaffold", "likeness"),
        (["--untrusted-server"], "scaffold", "trust"),
        (["--set", "algorithm.preset=cross-device"], "fedadam", "likeness"),
    ],
)
def test_the_fragment_and_the_command_load_and_mean_the_same(headway, tmp_path, options, recipe, dominant):
    found, _ = advice(headway, "mine.toml", "--quick", *options)
    assert (found["recipe"], found["dominant"]) == (recipe, dominant)
    (tmp_path / "fragment.toml").write_text(HEAD + found["fragment"])
    advised = load_runfile("fragment.toml")
    assert advised.preset is not None
    assert advised.sections.compare.methods == found["methods"]
    command = shlex.split(found["command"])
    assert command[:3] == ["headway", "compare", "mine.toml"]
    sets = [command[at + 1] for at, word in enumerate(command) if word == "--set"]
    for method in found["methods"]:
        one, other = load_runfile("mine.toml", sets, method=method), load_runfile("fragment.toml", method=method)
        assert one.algorithm == other.algorithm
    assert found["methods"][0] == "fedavg"
    assert recipe in found["methods"]


def test_the_advised_command_runs(headway):
    found, _ = advice(headway, "mine.toml", "--quick", "--unreliable", "0.3")
    arguments = shlex.split(found["command"])[1:]
    code, out, err = headway(*arguments, "--rounds", "1", "--seeds", "1", "--workers", "1", "--json")
    assert (code, err) == (0, "")
    assert sum(json.loads(line)["event"] == "method" for line in out.splitlines()) == len(found["methods"])


def test_out_writes_a_file_that_says_it_all(headway, tmp_path):
    code, out, _ = headway("advise", "mine.toml", "--quick", "--unreliable", "0.3", "--out", "advised.toml")
    assert code == 0
    assert "headway compare advised.toml" in out
    advised = load_runfile("advised.toml")
    assert advised.algorithm.trainer.stragglers == 0.3
    assert advised.algorithm.trainer.lr == 0.05
    assert "exists already" in headway("advise", "mine.toml", "--quick", "--out", "advised.toml")[2]


def test_the_probe_sees_that_updates_of_different_clients_cancel_and_of_shuffled_ones_do_not():
    clients = {}
    part = blobs(sizes=(40,), classes=2, seed=2).train_of("client-0")
    for name, labels in (("a", part.targets), ("b", 1 - part.targets)):  # what one learns, the other unlearns
        clients[name] = (part.inputs, labels)
    task = hw.Task(model=lambda: torch.nn.Linear(4, 2), metrics=("accuracy",))
    *words, found = probe(hw.FederatedData.from_clients(clients), task, hw.LocalSGD(lr=0.1, batch_size=8), 0)
    assert len(words) == 6
    assert isinstance(found, Probe)
    own, shuffled = found.lost
    assert own > 0.9
    assert own > shuffled + 0.2
    assert set(found.cosines) == {"a", "b"}
    assert found.steps == (5, 5)


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "fedprox+ecgr", "fednova", "feddyn"])
def test_traffic_is_what_a_run_reports(name):
    data, task = blobs(), linear_task()
    algorithm = recipes.recipe(name)
    report = next(iter(hw.rounds(algorithm, data, task, rounds=1)))
    sent = {(client.bytes_up, client.bytes_down) for client in report.clients}
    assert sent == {traffic(algorithm, task, len(data.clients))}


def likely(beyond=0.0, sizes=(100, 100)):
    mix = LabelMix(beyond, 0.0, 1.0, 0.0, 0.0, 0.5)
    return Likeness(sizes, (200, 200), 0, mix, None, None)


def test_a_shift_that_was_standardised_away_is_said_to_be(headway, tmp_path):
    rows = "".join(f"{i % 3},{i * 7 % 11 + 50 * (i % 3)},{i * 5 % 13}.5\n" for i in range(150))
    (tmp_path / "t.csv").write_text("site,dose,outcome\n" + rows)
    headway("init", "--data", "t.csv", "--client-column", "site", "--target", "outcome")
    _, figures = advice(headway, "run.toml", "--quick")
    assert figures["features"]["level"] == "none"
    assert "standardised by each client apart" in figures["features"]["words"]
    text = (tmp_path / "run.toml").read_text()
    (tmp_path / "run.toml").write_text(text.replace('standardise = "client"', ""))
    _, figures = advice(headway, "run.toml", "--quick")
    assert figures["features"]["level"] == "strong"
    assert "standardised" not in figures["features"]["words"]


def test_what_is_not_known_is_not_called_fine():
    assert level(findings(likely(), None, UserFacts(untrusted_server=False), 100), "trust") == "unknown"
    assert level(findings(likely(), None, UserFacts(), 100), "likeness") == "unknown"  # the drift was not probed


def test_levels_follow_the_thresholds():
    for value, expected in ((0.09, "unknown"), (0.10, "mild"), (0.32, "mild"), (0.33, "strong")):
        assert level(findings(likely(value), None, UserFacts(), 100), "likeness") == expected
    told = findings(likely(), None, UserFacts(unreliable=0.5, untrusted_server=False, untrusted_clients=False), 100)
    assert (level(told, "reliability"), level(told, "trust"), dominant(told)) == ("strong", "none", "reliability")
    assert level(findings(likely(), None, UserFacts(), 100), "bytes") == "unknown"
    assert dominant(findings(likely(), None, UserFacts(), 100)) is None
    assert level(findings(likely(sizes=(1, 1, 100)), None, UserFacts(), 100), "sizes") == "strong"


@pytest.mark.parametrize(("uplink", "expected"), [(1e6, "none"), (5e5, "mild"), (5e4, "strong")])
def test_bytes_are_dear_where_sending_takes_longer_than_computing(uplink, expected):
    seen = Probe(2, 3, {}, {}, {}, (4, 4), seconds=1.0)
    assert level(findings(likely(), seen, UserFacts(uplink=uplink), 600_000), "bytes") == expected


def test_protections_are_advised_where_somebody_is_not_trusted(headway):
    found, _ = advice(headway, "mine.toml", "--quick", "--untrusted-server", "--untrusted-clients")
    assert any("robust aggregator: put NNM" in sentence for sentence in found["reasons"])
    assert any("secure sums" in sentence for sentence in [*found["reasons"], *found["missing"]])
    trusting = advice(headway, "mine.toml", "--quick")[0]
    assert not trusting["missing"]
    assert not any("robust aggregator" in sentence for sentence in trusting["reasons"])


def test_what_is_not_there_is_said_and_not_advised(headway, monkeypatch):
    monkeypatch.setattr(stages, "names", list)
    found, _ = advice(headway, "mine.toml", "--quick", "--untrusted-server", "--untrusted-clients")
    assert any("secure sums; this version has none" in sentence for sentence in found["missing"])
    assert any("robust aggregator; this version has none" in sentence for sentence in found["missing"])


def test_the_file_may_say_what_cannot_be_measured(headway, tmp_path):
    with (tmp_path / "mine.toml").open("a") as file:
        file.write('[advise]\nunreliable = 0.7\nuplink = "1kB/s"\nuntrusted_clients = false\n')
    found, figures = advice(headway, "mine.toml", "--quick")
    assert found["recipe"] == "fedprox"
    assert "scaffold" not in found["methods"]
    assert (figures["clients"]["level"], figures["server"]["level"]) == ("none", "unknown")
    assert advice(headway, "mine.toml", "--quick", "--unreliable", "0")[0]["recipe"] == "scaffold"
    assert "advise" not in load_runfile("mine.toml").resolved()


def test_without_any_test_examples_some_are_held_out(headway):
    found, figures = advice(headway, "mine.toml", "--quick", "--set", "data.test_share=0")
    assert figures["own tests"]["level"] == "strong"
    assert "data.test_share=0.2" in found["sets"]


def test_a_report_for_people_names_every_threshold_that_was_used(headway):
    code, out, err = headway("advise", "mine.toml", "--unreliable", "0.3", "--uplink", "1MB/s")
    assert (code, err) == (0, "")
    for name, threshold in THRESHOLDS.items():
        if name != "target":
            assert f"matters from {threshold.mild:g}, much from {threshold.strong:g} ({threshold.source})" in out
    assert "[algorithm]" in out
    assert "\x1b" not in out


def test_a_probe_that_diverges_is_said_and_the_rest_still_told(headway):
    code, out, _ = headway("advise", "mine.toml", "--set", "algorithm.trainer.lr=1e30", "--set", "model.name=mlp")
    assert code == 0
    assert "The probe stopped: the run diverged in round 1" in out
    assert "not probed" in out


@pytest.mark.parametrize(("text", "expected"), [("2 MB/s", 2e6), ("500kB/s", 5e5), ("80Mbit/s", 1e7), ("64B/s", 64)])
def test_speeds(text, expected):
    assert rate(text) == expected


@pytest.mark.parametrize("text", ["fast", "1", "-1MB/s", "0MB/s", "1 XB/s", "MB/s", "nanMB/s"])
def test_what_is_no_speed_is_refused(text):
    with pytest.raises(ConfigError, match="must be a speed such as"):
        rate(text)


def test_a_wrong_file_is_one_sentence(headway):
    code, out, err = headway("advise", "hospital")
    assert (code, out) == (1, "")
    assert "did you mean 'hospitals'" in err
    assert Finding("trust", "server", None, "", "unknown").threshold is None
