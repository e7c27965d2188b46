"""What a report shows of a simulated clock, against journals and against numbers worked out by hand."""

import re
import statistics

import pytest
from reporting import Page, make_comparison, make_run

from headway.numerics.units import time_text
from headway.observe.text import bytes_text, number_text
from headway.observe.workload import COUNTED, IN_FLIGHT, VAIN, Span
from headway.reports import evidence
from headway.reports.page import read_record, render
from headway.reports.page.bars import histogram_chart, timeline_chart

CLOCK = ["clock.preset=hospitals", "clock.examples_per_s=50", "clock.crash=0.2", "run.rounds=6"]
DROP = [*CLOCK, "algorithm.quorum.count=3", "algorithm.quorum.retries=1"]
KEEP = [*CLOCK, "algorithm.quorum.count=2", "algorithm.quorum.late=keep"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two methods at two seeds by a clock."""
    return make_comparison(tmp_path_factory.mktemp("clock") / "hospitals", ("fedavg", "fedprox"), sets=DROP)


@pytest.fixture(scope="module")
def page(compared):
    return Page(render(evidence([compared])))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One run in which late updates are kept, and the reports of its rounds."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    return folder, make_run(folder, "fedavg", KEEP)


def records(compared, method):
    return [read_record(compared / "runs" / f"{method}-s{seed}" / "journal.sqlite", 10) for seed in range(2)]


def unit_of(name):
    return {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}[name]


def test_the_metric_stands_over_time_and_bytes(compared, page):
    plot = page.plots()["balanced accuracy over simulated time"]
    (line,) = [each for each in plot["lines"] if each["n"] == "fedprox"]
    ends = [record.clock["ended_s"] for record in records(compared, "fedprox")]
    values = [record.clients["balanced_accuracy"] for record in records(compared, "fedprox")]
    for place, round_ in enumerate(range(1, 7)):
        seconds = statistics.fmean(end[round_] for end in ends)
        assert line["x"][place] == pytest.approx(seconds / unit_of(plot["unit"]), rel=1e-3)
        assert line["y"][place] == number_text(statistics.fmean(value[round_] for value in values))
    assert plot["span"][0] == 0  # a run begins at no time
    assert "balanced accuracy over bytes" in page.plots()


def test_runs_with_and_without_a_clock_say_which(tmp_path, kept):
    make_run(tmp_path / "plain", "fedprox", ["run.rounds=6"])
    found = evidence([kept[0], tmp_path / "plain"])
    words = Page(render(found)).text()
    assert not found.clocked
    assert "Without a clock: fedprox" in words
    assert "Not known of fedprox." in words
    assert "time to target" not in words


def test_without_a_clock_there_is_nothing_of_it(tmp_path):
    make_run(tmp_path / "plain", "fedavg")
    page = Page(render(evidence([tmp_path / "plain"])))
    assert not any(
        "simulated" in data or "in vain" in data for tag, data in page.texts if tag not in ("style", "script")
    )
    assert not any(each.get("id") == "clock" for each in page.all("section"))
    assert "balanced accuracy over bytes" in page.plots()


def test_the_table_says_what_was_in_vain_and_who_counted(compared, page):
    for method in ("fedavg", "fedprox"):
        works = [record.work for record in records(compared, method)]
        assert all(work.vain_s > 0 for work in works)
        cells = [
            time_text(statistics.fmean(work.ends[-1] for work in works)),
            time_text(statistics.fmean(work.counted_s for work in works)),
            time_text(statistics.fmean(work.vain_s for work in works)),
            f"{statistics.fmean(w.vain_s / (w.vain_s + w.counted_s) for w in works) * 100:.3g} %",
            bytes_text(statistics.fmean(work.vain_bytes for work in works)),
        ]
        assert " ".join(cells) in page.text("td")


def test_bytes_in_vain_are_part_of_the_bytes_of_a_run(compared):
    """The asks that were made again too: what counted and what did not add up to all that was sent."""
    for record in (*records(compared, "fedavg"), *records(compared, "fedprox")):
        work = record.work
        assert work.counted_bytes + work.vain_bytes == record.bytes_until()[6]
        assert work.vain_s == pytest.approx(sum(record.clock["wasted_s"].values()))
        pieces = [piece for span in work.spans for piece in span.pieces]
        assert sum(end - begun for begun, end, kind in pieces if kind == VAIN) == pytest.approx(work.vain_s)


def test_the_curve_of_participation_is_sorted_and_ends_at_the_population(compared, page):
    (line,) = [each for each in page.plots()["how often each client counted"]["lines"] if each["n"] == "fedavg"]
    works = [record.work for record in records(compared, "fedavg")]
    assert line["x"] == [1, 2, 3, 4]
    ranked = [sorted(work.counts.values(), reverse=True) for work in works]
    expected = [statistics.fmean(each[place] if place < len(each) else 0 for each in ranked) for place in range(4)]
    assert line["y"] == [number_text(value) for value in expected]


def test_ages_are_shown_where_late_updates_are_kept(page, kept):
    folder, reports = kept
    ages = [c.metrics["age"] for r in reports for c in r.clients if c.status == "counted"]
    assert max(ages) > 0
    source = render(evidence([folder]))
    found = re.findall(r"<title>fedavg: ([\d.]+) %</title>", source)
    expected = [f"{ages.count(age) / len(ages) * 100:.3g}" for age in range(int(max(ages)) + 1)]
    assert found == expected
    assert "still at work at the end" in Page(source).text("figcaption")
    assert "Ages of counted updates" not in page.text()


def test_a_timeline_shows_each_kind_of_work_once():
    pieces = ((0.0, 10.0, COUNTED), (10.0, 20.0, VAIN), (20.0, 30.0, COUNTED), (30.0, 40.0, IN_FLIGHT))
    rows = [Span("<a>", 4, 2, 40.0, pieces), Span("b", 1, 1, 40.0, ((0.0, 40.0, COUNTED),))]
    chart = timeline_chart("t", 0, rows, [10.0, 40.0], ("seconds", 1.0), lambda span: f"about {span.client}")
    assert "about &lt;a&gt;" in chart
    bars = {kind: re.findall(rf'<path class="{kind}" d="([^"]*)"', chart) for kind in (COUNTED, VAIN, IN_FLIGHT)}
    assert {kind: sum(path.count("M") for path in paths) for kind, paths in bars.items()} == {
        COUNTED: 3,
        VAIN: 1,
        IN_FLIGHT: 1,
    }
    widths = [float(width) for width in re.findall(r"h([\d.]+)v13", " ".join(bars[COUNTED]))]
    assert widths[2] == pytest.approx(4 * widths[0], rel=0.01)
    assert widths[0] == pytest.approx(widths[1], rel=0.01)
    (marks,) = re.findall(r'<path class="end" d="([^"]*)"', chart)
    assert marks.count("M") == 2


def test_a_histogram_puts_many_numbers_into_few_bars():
    chart = histogram_chart("t", [(0, "a", {0: 0.5, 33: 0.25, 34: 0.25})], "age")
    shares = re.findall(r"<title>a: ([\d.]+) %</title>", chart)
    assert [float(share) for share in shares] == [50.0, *[0.0] * 10, 50.0]  # 0 to 2, ..., 33 to 34
    assert "33-34" in chart


def test_the_same_journals_give_the_same_bytes(compared):
    assert render(evidence([compared])) == render(evidence([compared]))
