"""Runs whose clients have a reputation: who falls below whom, quarantine, resume, engines, journal and page."""

import itertools
import sqlite3

import pytest
import torch

import headway as hw
from headway.attacks import LabelFlip
from headway.attacks.poisoned_data import poisoned
from headway.engines.wire_engine import WireEngine
from headway.experiment.runfile import load_runfile
from headway.numerics.keys import Key

ATTACKERS = {f"client-{index}" for index in range(15, 19)}
FLIP = '"SignFlip"\nscale = 5.0'
FILE = """
run = {{ name = "standings", rounds = {rounds}, evaluate_every = {rounds} }}
data = {{ source = "digits", clients = 19, partition = {{ {partition} }}, central_share = 0.2, test_share = 0.0 }}
model = {{ name = "logistic" }}
engine = {{ lanes = 19 }}
[algorithm]
chain = [{{ stage = "Mean", over = "clients" }}, {{ stage = "ServerSGD", lr = 1.0, momentum = 0.9 }}]
trainer = {{ lr = 0.5, batch_size = 32, steps = 1 }}
{reputation}
[attack]
attack = {attack}
clients = 4
"""


def runfile(tmp_path, attack, partition='kind = "iid"', rounds=40, reputation="quarantine_below = 0.3"):
    policy = f"reputation = {{ {reputation} }}" if reputation else ""
    path = tmp_path / "standings.toml"
    path.write_text(FILE.format(attack=attack, partition=partition, rounds=rounds, reputation=policy))
    return path


def trained(path, **options):
    run = load_runfile(str(path)).start(**options)
    try:
        return list(run)
    finally:
        run.close()


def split(report):
    scores = sorted(report.reputation)
    return [report.reputation[name] for name in scores[:-4]], [report.reputation[name] for name in scores[-4:]]


def test_attackers_fall_below_all_others_and_the_mean_recovers_without_them(tmp_path):
    fast = "quarantine_below = 0.4, patience = 1, memory = 0.8"
    reports = trained(runfile(tmp_path, FLIP, rounds=20, reputation=fast))
    scored = [report for report in reports if len(report.reputation) == 19]
    assert all(max(attackers) < min(honest) for honest, attackers in map(split, scored))
    inside = [set(report.quarantine) for report in reports]
    assert ATTACKERS in inside[:6]
    assert all(each <= ATTACKERS for each in inside)
    with_them = trained(runfile(tmp_path, FLIP, rounds=20, reputation=""))
    assert reports[-1].central["accuracy"] > 0.75
    assert with_them[-1].central["accuracy"] < 0.4


def test_flips_of_usual_length_are_found_by_their_direction(tmp_path):
    honest, attackers = split(trained(runfile(tmp_path, '"SignFlip"', rounds=16, reputation="memory = 0.9"))[-1])
    assert max(attackers) < min(honest)


def test_long_updates_are_found_where_each_client_holds_one_class(tmp_path):
    sorted_by_label = 'kind = "shards", per_client = 1'
    reports = trained(runfile(tmp_path, FLIP, sorted_by_label, 8, "memory = 0.9"))
    assert all(max(attackers) < min(honest) for honest, attackers in map(split, reports))


def test_refused_updates_are_reported_by_client_and_reason_and_count_as_nothing(tmp_path, headway):
    path, out = runfile(tmp_path, '"NotFinite"', rounds=18), tmp_path / "run"
    code, _, errors = headway("run", path, "--out", out)
    assert code == 0, errors
    with sqlite3.connect(out / "journal.sqlite") as journal:
        refused = journal.execute("SELECT DISTINCT client, reason FROM clients WHERE status = 'rejected'").fetchall()
        scores = dict(journal.execute("SELECT name, value FROM metrics WHERE scope = 'reputation' AND round = 12"))
        inside = {name for (name,) in journal.execute("SELECT name FROM metrics WHERE scope = 'quarantine'")}
    assert {client for client, _ in refused} == ATTACKERS
    assert all("is not finite" in reason for _, reason in refused)
    assert all(scores[name] == pytest.approx(0.9**12) for name in ATTACKERS)
    assert inside == ATTACKERS
    assert headway("report", out, "--out", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert "Reputation of clients" in page
    assert "client-16" in page
    assert "is not finite" in page


def small(engine, stop=None, **options):
    """A run of 8 clients, of which two have wrong labels, so that every engine can have it."""
    data = hw.data.load("digits", clients=8, partition={"kind": "iid"}, central_share=0.2, test_share=0.0)
    data = poisoned(data, ("client-6", "client-7"), LabelFlip(), Key.root(0))
    task = hw.Task(model=lambda: hw.models.logistic(data.input_shape, 10), dtype="float64")
    policy = hw.Reputation(quarantine_below=0.6, patience=1, rounds=2, memory=0.5)
    trainer = hw.LocalSGD(lr=0.2, batch_size=32, steps=2)
    algorithm = hw.Algorithm(hw.chain(hw.Mean("clients")), trainer, hw.Uniform(6), reputation=policy)
    run = hw.Run(algorithm, data, task, rounds=8, engine=engine, evaluate_every=None, **options)
    try:
        reports = []
        for report in run:
            reports.append(report)
            if report.round == stop:
                break
        return reports, run.state.params
    finally:
        run.close()


def test_standings_and_models_are_the_same_on_every_engine():
    wanted, params = small(hw.LocalEngine())
    assert any(report.quarantine for report in wanted)
    assert all(not set(one.quarantine) & set(next_.clients.clients) for one, next_ in itertools.pairwise(wanted))
    for engine in (hw.LocalEngine(lanes=4, drift=False), hw.ProcessEngine(workers=2, lanes=1), WireEngine()):
        reports, found = small(engine)
        assert torch.allclose(found, params, atol=1e-10), engine
        for one, other in zip(wanted, reports, strict=True):
            assert one.quarantine == other.quarantine, engine
            assert one.reputation == pytest.approx(other.reputation, abs=1e-9), engine


def test_a_resumed_run_has_the_same_standings_and_bits(tmp_path):
    wanted, params = small(hw.LocalEngine())
    small(hw.LocalEngine(), stop=4, folder=tmp_path / "run", checkpoint_every=3)
    reports, found = small(hw.LocalEngine(), folder=tmp_path / "run", checkpoint_every=3, resume=True)
    assert torch.equal(found, params)
    tail = wanted[-len(reports) :]
    assert [report.reputation for report in reports] == [report.reputation for report in tail]
    assert [report.quarantine for report in reports] == [report.quarantine for report in tail]
    assert 0 < len(reports) < 8
