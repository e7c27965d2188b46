"""The report of a run with noise: epsilon over rounds, budget, releases, and a ledger that cannot be trusted."""

import json

import pytest
from reporting import make_run

from headway.experiment.runfile import load_runfile
from headway.observe.run_folder import LEDGER
from headway.reports.assemble import evidence
from headway.reports.ledger_reader import read_privacy
from headway.reports.page import read_record, render

PRIVATE = """
[run]
rounds = 3
[data]
source = "hospitals"
[model]
name = "mlp"
hidden = [4]
[algorithm]
chain = [{stage="Clip", norm=1.0}, {stage="Mean", over="expected"}, {stage="GaussianNoise", multiplier=3.0}]
sampler = {sampler="All"}
[privacy]
epsilon = 6.0
delta = 1e-3
client_metrics = "released"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    (place / "private.toml").write_text(PRIVATE)
    run = load_runfile(str(place / "private.toml")).start(place / "run")
    list(run)
    run.close()
    return place / "run"


def facts_of(folder):
    return read_privacy(folder, read_record(folder / "journal.sqlite", 5))


def test_the_facts_of_a_run(folder):
    facts = facts_of(folder)
    assert list(facts.curves["client"]) == [1, 2, 3]
    assert 0 < facts.curves["client"][1] < facts.curves["client"][3] < 6
    assert (facts.budgets, facts.delta, facts.trouble) == ({"client": 6.0}, 1e-3, "")
    assert facts.releases == [["delta", "gaussian", "3", "0.25", "one client with all of its data", "at the server"]]
    assert (
        "mean metrics on the clients' own test parts",
        "no noise: not covered by any epsilon",
        "reports",
    ) in facts.others


def test_the_page_has_a_section(folder):
    page = render(evidence([folder]))
    for words in (
        "Epsilon over rounds",
        "one client&#39;s part in what the server releases",
        "amplifies nothing",
        "not covered by any epsilon",
    ):
        assert words in page


def test_a_run_without_noise_has_none(tmp_path):
    make_run(tmp_path / "run", rounds=1)
    assert facts_of(tmp_path / "run") is None


def test_a_changed_ledger_is_shown_as_one(folder):
    path = folder / LEDGER
    whole = path.read_text()
    lines = whole.splitlines()
    entry = json.loads(lines[1])
    entry["round"] = 9
    try:
        path.write_text("\n".join([lines[0], json.dumps(entry), *lines[2:]]) + "\n")
        assert "line 2: its content does not agree" in facts_of(folder).trouble
        path.unlink()
        assert "is missing" in facts_of(folder).trouble
    finally:
        path.write_text(whole)
