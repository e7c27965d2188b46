"""The report: what it says is what the runs did, nothing in it runs or loads, and it repeats to the byte."""

import base64
import dataclasses
import hashlib
import json
import math
import re
import sqlite3
import statistics

import pytest
import torch
from reporting import Page, make_comparison, make_python_run, make_run, runfile, trial_of
from toys import blobs, linear_task

import headway as hw
from headway.core.errors import ConfigError
from headway.data.skew.skew import label_skew
from headway.observe.journal import Journal
from headway.observe.round_report import RoundReport
from headway.observe.text import bytes_text, number_text
from headway.protocol.reports import ClientReport
from headway.reports import evidence
from headway.reports.page import partition_of, read_record, render
from headway.reports.page.matrix import MOST_CLIENTS, bubble_chart, shown
from headway.reports.run_reader import read_comparison

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two methods at two seeds on the hospitals, with journals."""
    return make_comparison(tmp_path_factory.mktemp("reports") / "hospitals")


@pytest.fixture(scope="module")
def page(compared):
    return Page(render(evidence([compared])))


def results(folder):
    return read_comparison(json.loads((folder / "results.json").read_text())["comparison"])


def test_a_record_holds_what_the_run_reported(tmp_path):
    reports = make_run(tmp_path / "run", "fedavg")
    record = read_record(tmp_path / "run" / "journal.sqlite", tail=2)
    assert record.rounds == (1, 2, 3)
    assert record.loss == {r.round: r.train_loss for r in reports}
    assert record.headline("auroc") == {r.round: r.metrics["auroc"] for r in reports}
    assert {name: curve[3] for name, curve in record.drift.items()} == dict(reports[-1].drift)
    assert record.bytes_until()[3] == sum(r.bytes_up + r.bytes_down for r in reports)
    for client, pull in record.pulls.items():
        own = [next(c for c in r.clients if c.client == client).metrics for r in reports]
        assert pull.leeway == pytest.approx(statistics.fmean(each["leeway"] for each in own))
        assert pull.cosine == pytest.approx(statistics.fmean(each["cosine"] for each in own))
        last = [r.evaluation[client]["accuracy"] for r in reports[-2:]]
        assert record.tails["accuracy"][client] == pytest.approx(statistics.fmean(last))
    assert set(record.pulls) == set(reports[0].evaluation)


def test_reading_touches_nothing(compared):
    folder = compared / "runs" / "fedavg-s0"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir() if path.is_file()}
    evidence([compared])
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir() if p.is_file()} == before


def test_a_journal_that_is_being_written_is_read_too(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    journal.record(RoundReport(1, 0.5, (ClientReport("a", "counted"),), 0.1, 10, 20))
    assert read_record(tmp_path / "journal.sqlite", tail=10).bytes_until() == {1: 30}
    journal.close()


def test_a_client_whose_metric_was_not_always_defined_has_no_value(tmp_path):
    journal = Journal(tmp_path / "journal.sqlite")
    for round_, value in ((1, 0.5), (2, float("nan"))):
        scores = {"a": {"auroc": value}, "b": {"auroc": 0.7}}
        journal.record(RoundReport(round_, 0.5, (), 0.1, 1, 1, metrics={"auroc": 0.7}, evaluation=scores))
    journal.close()
    assert read_record(tmp_path / "journal.sqlite", tail=10).tails == {"auroc": {"b": 0.7}}


def test_runs_say_what_their_comparison_says(compared):
    """The same trials, found as runs and found in results.json."""
    whole = evidence([compared])
    apart = evidence(sorted((compared / "runs").iterdir(), reverse=True))
    assert apart.sentence == whole.sentence == results(compared).sentence()
    for one, other in zip(sorted(apart.methods, key=lambda m: m.name), whole.methods, strict=True):
        assert one.name == other.name
        mine, theirs = ({**dataclasses.asdict(m.summed), "difference": 0.0} for m in (one, other))  # to another first
        halves = [each.pop("difference_half") for each in (mine, theirs)]
        assert sum(map(math.isnan, halves)) == 1
        assert mine.pop("method") == theirs.pop("method")
        assert mine == pytest.approx(theirs, nan_ok=True)
    assert apart.target == pytest.approx(whole.target)


def test_the_table_holds_the_summaries(compared, page):
    assert results(compared).sentence() in page.text("p")
    cells = [data for tag, data in page.texts if tag == "td"]
    for summary in results(compared).summaries():
        for number in (summary.mean, summary.half_width, summary.spread, summary.worst):
            assert number_text(number) in cells
        assert bytes_text(summary.bytes_a_round) in cells


def test_curves_are_means_over_seeds_and_bands_their_range(compared, page):
    trials = results(compared).of("scaffold+ecgr")
    (line,) = [each for each in page.plots()["balanced accuracy over rounds"]["lines"] if each["n"] == "scaffold+ecgr"]
    assert line["x"] == [1, 2, 3]
    for place in range(3):
        values = [trial.values[place] for trial in trials]
        assert line["y"][place] == number_text(statistics.fmean(values))
        low, high = number_text(min(values)), number_text(max(values))
        assert f"{line['y'][place]} ({low} to {high})" in page.text("td")
    spent = page.plots()["balanced accuracy over bytes"]["lines"][1]
    assert spent["x"][-1] == pytest.approx(trials[0].bytes_total[-1], rel=1e-4)


def test_every_measure_of_drift_has_a_chart(page):
    names = {"headway share", "headway", "leeway", "gradient diversity", "dissimilarity", "alignment"}
    names |= {"path efficiency", "relative step variance", "step variance"}
    assert {f"{name} over rounds" for name in names} <= set(page.plots())


def test_clients_that_pull_elsewhere_are_named(compared, page):
    record = read_record(compared / "runs" / "fedavg-s0" / "journal.sqlite", 10)
    words = page.text()
    for client in record.pulls:
        assert client in words
    assert "Largest leeway" in words
    assert "owest cosine" in words


def test_alarms_are_told_with_their_rounds(tmp_path):
    """Each kind of alarm about the same clients once, with what was said last."""
    make_run(tmp_path / "run", "fedavg")
    path = tmp_path / "run" / "journal.sqlite"
    rows = [(r, "against", '["va"]', "[]", f"va pulls against <b> in round {r}", "{}") for r in (1, 2, 3)]
    rows.append((2, "above", '["va"]', "[]", "va is far above", "{}"))
    with sqlite3.connect(path) as database:
        database.executemany("INSERT INTO alarms VALUES (?,?,?,?,?,?)", rows)
    first, second = read_record(path, 10).alarms
    assert (first.kind, first.count, first.first, first.last) == ("against", 3, 1, 3)
    assert first.text == "va pulls against <b> in round 3"
    assert (second.kind, second.count) == ("above", 1)
    words = Page(render(evidence([tmp_path / "run"]))).text()
    assert "3, from 1 to 3" in words
    assert "va pulls against <b> in round 3" in words
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE alarms")
    assert read_record(path, 10).alarms == ()


def test_every_picture_has_a_name_and_ids_are_unique(page):
    pictures = [each for each in page.all("svg") if "swatch" not in each["class"]]
    assert len(pictures) >= 12
    assert all(each["role"] == "img" and each["aria-label"] for each in pictures)
    assert page.text("title").count(pictures[0]["aria-label"]) == 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {each["href"].removeprefix("#") for each in page.all("a")} <= set(ids)
    assert [tag for tag, _ in page.elements if tag == "h1"] == ["h1"]


def test_nothing_is_loaded_and_only_our_own_script_may_run(compared, page):
    source = render(evidence([compared]))
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "style", "action", "data")
            assert not name.startswith("on")
            assert name != "href" or value == "data:," or value.startswith("#")
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", source, re.DOTALL)[1] for tag in ("style", "script"))
    assert not re.search(r"url\(|@import|@font-face", style)
    assert not re.search(r"fetch|XMLHttpRequest|import|src\b|innerHTML", script)
    (policy,) = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for name, text in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


def test_the_same_inputs_give_the_same_bytes(compared):
    assert render(evidence([compared])) == render(evidence([compared]))


def test_text_from_files_stays_text(tmp_path):
    """Names of clients, methods and reasons, and what stands in run files."""
    features = blobs()
    given = {HOSTILE: "client-0", "</td><b onclick=x>": "client-1", "{{ 7 * 7 }}": "client-2"}
    parts = {}
    for name, old in given.items():
        train, test = features.train_of(old), features.test_of(old)
        parts[name] = (train.inputs, train.targets, test.inputs, test.targets)
    data = hw.FederatedData.from_clients(parts, name="hostile")
    run = tmp_path / "<b>run</b>"
    make_python_run(run, data, linear_task(), stragglers=0.7, straggler_policy="drop", epochs=2)
    (run / "run.toml").write_text(f'# </pre></details>{HOSTILE}\n[run]\nrounds = 2\nname = "</title><b>"\n')
    page = Page(render(evidence([run])))
    assert len(page.all("script")) == 1
    assert not page.all("b")
    for name in given:
        assert name in page.text()
    assert f"</pre></details>{HOSTILE}" in page.text("pre")
    assert "</title><b>" in page.text("h1")


def test_an_older_comparison_says_what_was_not_recorded(tmp_path, compared):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "results.json").write_bytes((compared / "results.json").read_bytes())
    old, page = evidence([folder]), Page(render(evidence([folder])))
    assert old.sentence == evidence([compared]).sentence
    assert "balanced accuracy over rounds" in page.plots()
    assert "training loss over rounds" in page.plots()
    assert "headway over rounds" not in page.plots()
    assert page.text("p").count("was not recorded") == 3
    assert len(page.all("circle")) >= 8  # the clients' own values are in the results


def test_runs_are_grouped_by_method_and_named_by_what_differs(tmp_path):
    for number, (method, sets, seed) in enumerate(
        [
            ("fedavg", [], 0),
            ("fedprox", ["algorithm.FedProx.mu=0.1"], 1),
            ("fedprox", ["algorithm.FedProx.mu=0.5"], 0),
            ("fedprox", ["algorithm.FedProx.mu=0.1"], 0),
        ]
    ):
        make_run(tmp_path / f"r{number}", method, sets, seed)
    found = evidence([tmp_path / f"r{number}" for number in range(4)])
    assert {m.name: [run.seed for run in m.runs] for m in found.methods} == {
        "fedavg": [0],
        "fedprox FedProx.mu=0.1": [0, 1],
        "fedprox FedProx.mu=0.5": [0],
    }
    assert "none is called better" in found.sentence
    assert any("not run at the same seeds" in notice for notice in found.notices)


def test_runs_on_other_data_are_not_ranked(tmp_path):
    make_run(tmp_path / "a", "fedavg")
    make_run(tmp_path / "b", "fedprox", ["data.test_share=0.4"])
    found = evidence([tmp_path / "a", tmp_path / "b"])
    assert "none is called better" in found.sentence
    assert any("data.test_share" in notice for notice in found.notices)


def test_runs_of_other_lengths_are_not_ranked(tmp_path):
    make_run(tmp_path / "a", "fedavg")
    make_run(tmp_path / "b", "fedprox", ["run.rounds=2"])
    found = evidence([tmp_path / "a", tmp_path / "b"])
    assert "none is called better" in found.sentence
    assert any("(2, 3)" in notice for notice in found.notices)


def test_a_run_that_stopped_early_counts_for_nothing(tmp_path):
    make_run(tmp_path / "a", "fedavg")
    make_run(tmp_path / "b", "fedprox", rounds=2)
    found = evidence([tmp_path / "a", tmp_path / "b"])
    assert [run.failure for method in found.methods for run in method.runs] == [None, "stopped at round 2 of 3"]
    page = Page(render(found))
    assert "fedprox (1 failed)" in page.text("th")
    assert "stopped at round 2 of 3" in page.text("td")


def test_a_run_on_its_way_is_shown_so_far(tmp_path):
    reports = make_run(tmp_path / "a", "fedavg", rounds=2)
    found = evidence([tmp_path / "a"])
    assert found.methods[0].summed.mean == pytest.approx(trial_of("fedavg", 0, reports).final)
    assert "round 2 of 3" in found.notices[0]
    assert "one seed, which says nothing of chance" in found.sentence


def test_rejected_and_dropped_clients_are_listed(tmp_path):
    make_python_run(tmp_path / "run", blobs(), linear_task(), 3, stragglers=0.5, straggler_policy="drop", epochs=2)
    record = read_record(tmp_path / "run" / "journal.sqlite", 10)
    assert record.troubles
    words = Page(render(evidence([tmp_path / "run"]))).text("td")
    for each in record.troubles:
        assert f"{each.client} dropped {each.count}" in words
    assert "a straggler" in words


def test_what_is_counted_twice_is_refused(tmp_path, compared):
    make_run(tmp_path / "a", "fedavg")
    make_run(tmp_path / "b", "fedavg")
    with pytest.raises(ConfigError, match=r"/a and .*/b are the same method \(fedavg\) at the same seed, 0"):
        evidence([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ConfigError, match="same method"):
        evidence([compared, tmp_path / "a"])
    assert len(evidence([tmp_path / "a", tmp_path / "a" / ".." / "a"]).methods[0].runs) == 1


def test_a_run_joins_the_method_of_a_comparison(tmp_path, compared):
    make_run(tmp_path / "third", "fedavg", seed=2)
    found = evidence([tmp_path / "third", compared])
    assert [run.seed for run in found.methods[0].runs] == [0, 1, 2]


def test_mixed_metrics_are_refused(tmp_path):
    make_run(tmp_path / "a", "fedavg")
    make_run(tmp_path / "b", "fedprox", ["task.metrics=['accuracy']"])
    with pytest.raises(ConfigError, match=r"balanced_accuracy over clients .*/a.* accuracy over clients .*/b"):
        evidence([tmp_path / "a", tmp_path / "b"])


# who holds what --------------------------------------------------------------------------------------------


def test_the_partition_agrees_with_the_skew_of_the_data():
    data = blobs((7, 12, 5, 9))
    found, skew = partition_of(data), label_skew(data)
    assert statistics.fmean(h.entropy for h in found.holdings) == pytest.approx(skew.entropy)
    assert statistics.fmean(h.distance for h in found.holdings) == pytest.approx(skew.distance)
    assert tuple(h.size for h in found.holdings) == skew.sizes == tuple(sum(h.labels) for h in found.holdings)


def test_beyond_forty_clients_the_most_unlike_are_shown():
    found = partition_of(blobs((5,) * 60))
    rows = shown(found)
    assert (len(rows.holdings), len(rows.rest)) == (MOST_CLIENTS, 20)
    assert min(h.distance for h in rows.holdings) >= max(h.distance for h in rows.rest)
    assert ">20 more, mean<" in bubble_chart("title", found)


def test_the_area_of_a_bubble_is_a_count():
    data = hw.FederatedData.from_clients({"a": ([[0.0]] * 5, [0, 0, 0, 0, 1]), "b": ([[0.0]], [1])})
    radii = dict(re.findall(r'r="([\d.]+)"><title>([^<]*)<', bubble_chart("title", partition_of(data))))
    sizes = {words: float(radius) for radius, words in radii.items()}
    largest, smallest = sizes["a, class 0: 4"], min(sizes.values())
    assert (largest / smallest) ** 2 == pytest.approx(4, rel=0.05)


def test_the_partition_of_a_run_is_read_again(compared):
    found = evidence([compared]).partition
    data = runfile().load_data()
    assert found == partition_of(data)


def test_data_that_changed_are_not_shown(compared, tmp_path):
    make_run(tmp_path / "run", "fedavg")
    identity = tmp_path / "run" / "run.json"
    identity.write_text(re.sub(r'"data": "\w+"', '"data": "00"', identity.read_text()))
    assert evidence([tmp_path / "run"]).partition == (
        "The data read now are not those that the run trained on, so who holds what is not shown."
    )


def test_data_that_are_gone_are_said_to_be(tmp_path):
    make_run(tmp_path / "run", "fedavg")
    config = tmp_path / "run" / "run.toml"
    config.write_text(config.read_text().replace('source = "hospitals"', 'source = "/nowhere/x.csv"'))
    assert re.match("The data could not be read again.*x.csv", evidence([tmp_path / "run"]).partition)


def test_a_run_made_in_python_has_no_partition_but_all_else(tmp_path):
    make_python_run(tmp_path / "run", blobs(), linear_task())
    found = evidence([tmp_path / "run"])
    assert "made in Python" in found.partition
    assert found.metric == "accuracy"
    assert "accuracy over rounds" in Page(render(found)).plots()


def test_regression_shows_sizes(tmp_path):
    x, y = [[float(i)] for i in range(6)], [float(i) for i in range(6)]
    data = hw.FederatedData.from_clients({"a": (x, y, x[:2], y[:2]), "b": (x[:3], y[:3], x[:2], y[:2])})
    found = partition_of(data)
    assert [h.size for h in found.holdings] == [6, 3]
    task = hw.Task(lambda: torch.nn.Linear(1, 1), loss="mean_squared_error", metrics=("mean_absolute_error",))
    make_python_run(tmp_path / "run", data, task)
    gathered = evidence([tmp_path / "run"])
    assert (gathered.metric, gathered.lower_is_better) == ("mean_absolute_error", True)
    words = Page(render(dataclasses.replace(gathered, partition=found))).text("p")
    assert "The targets are not classes, so only sizes are shown." in words
