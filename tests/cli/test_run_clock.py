"""A run file with a clock, from the command line."""

import json
import re
import sqlite3

import pytest

from headway.experiment.runfile import load_runfile

SLOW = ["clock.preset=hospitals", "clock.examples_per_s=50", "algorithm.quorum.count=3"]


def sets(*changes):
    return [word for change in changes for word in ("--set", change)]


def test_a_run_by_a_clock_says_its_time_and_keeps_it(headway, tmp_path):
    folder = tmp_path / "run"
    code, said, err = headway("run", "hospitals", "--rounds", 3, "--out", folder, *sets(*SLOW))
    assert code == 0, err
    assert "clock   50 examples/s" in said
    assert "quorum  a round ends when 3 have answered; late updates are dropped" in said
    assert "simulated" in said
    assert re.search(
        r"By the simulated clock the run took [\d.]+ s\. Clients worked .* together, .* of it in vain \(", said
    )
    assert re.search(r"(Each|\d) of 4 clients (never )?counted; Jain's index of how often each did: [01]\.\d{4} ", said)
    with sqlite3.connect(folder / "journal.sqlite") as journal:
        rows = journal.execute("SELECT name, value FROM metrics WHERE scope = 'clock' ORDER BY round").fetchall()
        (dropped,) = journal.execute("SELECT count(*) FROM clients WHERE status = 'dropped'").fetchone()
    assert {name for name, _ in rows} == {"begun_s", "ended_s", "wasted_s", "population"}
    ends = [value for name, value in rows if name == "ended_s"]
    assert 0 < ends[0] < ends[1] < ends[2]
    assert dropped == 3
    code, said, err = headway("resume", folder, "--rounds", 4, "--json")
    assert code == 0, err
    (record,) = [json.loads(line) for line in said.splitlines() if '"event": "round"' in line]
    assert record["clock"]["begun_s"] == pytest.approx(ends[2])


def test_kept_updates_say_how_old_they_were(headway, tmp_path):
    changes = [
        "clock.preset=hospitals",
        "clock.examples_per_s=50",
        "algorithm.quorum.count=2",
        "algorithm.quorum.late=keep",
    ]
    _, said, _ = headway("run", "hospitals", "--rounds", 5, "--out", "run", *sets(*changes))
    assert re.search(r"Counted updates were [\d.]+ rounds old on average\.", said)
    with sqlite3.connect(tmp_path / "run" / "journal.sqlite") as journal:
        open_ = dict(journal.execute("SELECT client, asked_s FROM flying WHERE round = 5").fetchall())
        (ended,) = journal.execute(
            "SELECT max(value) FROM metrics WHERE scope = 'clock' AND name = 'ended_s'"
        ).fetchone()
        last = journal.execute("SELECT client FROM clients WHERE round = 5 AND status = 'counted'").fetchall()
    assert len(last) == len(open_) == 2  # of four at work at once two have just counted
    assert not set(open_) & {client for (client,) in last}
    assert all(asked < ended for asked in open_.values())
    _, plain, _ = headway("run", "hospitals", "--rounds", 1, "--out", "plain")
    assert "simulated" not in plain
    assert "Jain" not in plain


def test_a_client_that_is_asked_again_keeps_both_asks(headway, tmp_path):
    """All that failed before they counted: their time and bytes are in the journal, and in the sums of the round."""
    changes = ["clock.preset=hospitals", "clock.crash=0.4", "algorithm.quorum.retries=3"]
    code, _, err = headway("run", "hospitals", "--rounds", 4, "--out", "run", *sets(*changes))
    assert code == 0, err
    with sqlite3.connect(tmp_path / "run" / "journal.sqlite") as journal:
        earlier = journal.execute("SELECT round, client, ended_s - asked_s, bytes_down FROM earlier").fetchall()
        told = journal.execute("SELECT round, client FROM clients").fetchall()
        (lost,) = journal.execute(
            "SELECT sum(e.value - a.value) FROM clients c JOIN metrics a ON a.round = c.round AND a.name = 'asked_s' "
            "AND a.scope = 'client:' || c.client JOIN metrics e ON e.round = c.round AND e.name = 'ended_s' AND "
            "e.scope = 'client:' || c.client WHERE c.status = 'dropped'"
        ).fetchone()
        (wasted,) = journal.execute("SELECT sum(value) FROM metrics WHERE name = 'wasted_s'").fetchone()
        sent = journal.execute("SELECT sum(bytes_down) FROM rounds").fetchone()[0]
        (known,) = journal.execute("SELECT sum(bytes_down) FROM clients").fetchone()
    assert earlier
    assert {(round_, client) for round_, client, *_ in earlier} <= set(told)
    assert len(told) == len(set(told)) == 16
    assert (lost or 0.0) + sum(seconds for *_, seconds, _ in earlier) == pytest.approx(wasted)
    assert known + sum(size for *_, size in earlier) == sent


def test_the_clock_is_written_into_the_run(tmp_path):
    changes = [*SLOW, 'clock.availability={availability="Diurnal", hours=6}']
    runfile = load_runfile("hospitals", sets=changes)
    (tmp_path / "again.toml").write_text(runfile.to_toml())
    again = load_runfile(str(tmp_path / "again.toml"))
    assert again.sections.clock.fleet() == runfile.sections.clock.fleet()
    assert again.sections.clock.fleet().availability.hours == 6
    assert again.algorithm.quorum == runfile.algorithm.quorum


def test_a_trace_is_found_beside_the_run_file(headway, tmp_path):
    (tmp_path / "windows.csv").write_text("client,start_s,stop_s\ncleveland,0,10\n")
    text = load_runfile("hospitals").to_toml()
    clock = '\n[clock]\navailability = { availability = "Trace", file = "windows.csv" }\n'
    (tmp_path / "mine.toml").write_text(text + clock)
    code, _, err = headway("run", tmp_path / "mine.toml", "--rounds", 1, "--out", tmp_path / "run")
    assert code == 1
    assert "has no window of the client" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("clock.preset=moon", 'clock.preset must be one of "phones" or "hospitals" or "instant", found "moon"'),
        ("clock.speed=3", "Fleet has no option 'speed'"),
        ("clock.crash=3", "clock.crash must be between 0 and 1, found 3.0"),
        ("algorithm.quorum.deadline_s=0", "algorithm.quorum.deadline_s must be above 0 seconds, found 0"),
        ("algorithm.quorum.count=9", "a cohort of at least 9"),
        ("clock.availability={availability='Bernoulli', share=0}", "after 0 s of simulated time 0 of 4 clients"),
        ("clock.availability={availability='Sometimes'}", "there is no availability named 'Sometimes'"),
        ("clock.availability={availability='Trace', file='none.csv'}", "cannot be read"),
    ],
)
def test_mistakes_are_sentences(headway, tmp_path, change, says):
    changes = ["clock.preset=hospitals", change]
    code, _, err = headway("run", "hospitals", "--rounds", 1, "--out", tmp_path / "run", *sets(*changes))
    assert code == 1
    assert says in " ".join(err.split())
    assert "Traceback" not in err


def test_bounds_know_no_clock(headway, tmp_path):
    words = [
        "compare",
        "hospitals",
        "--methods",
        "fedavg,fedprox",
        "--seeds",
        1,
        "--rounds",
        2,
        "--bounds",
        "--workers",
        1,
    ]
    small = ["model.hidden=[4]", "algorithm.trainer.epochs=1"]
    code, _, err = headway(*words, "--out", tmp_path / "out", *sets(*SLOW, *small))
    assert code == 0, err


def test_a_run_that_ends_by_its_clock_counts_seconds(headway, tmp_path):
    changes = ["clock.preset=hospitals", "clock.examples_per_s=50", "run.until_s=20"]
    code, said, err = headway("run", "hospitals", "--rounds", 500, "--out", tmp_path / "run", *sets(*changes))
    assert code == 0, err
    assert "simulated second 20/20" in said
    code, said, err = headway("resume", tmp_path / "run")
    assert code == 0, err
    assert "is complete" in said


def test_runs_that_end_by_their_clock_are_compared_and_reported(headway, tmp_path):
    """They have different numbers of rounds, and the same time."""
    changes = ["clock.preset=hospitals", "clock.examples_per_s=50", "run.until_s=20"]
    out = ("--out", tmp_path / "both", "--workers", 1, "--seeds", 2, "--rounds", 500)
    code, said, err = headway("compare", "hospitals", "--methods", "fedavg,fedprox", *out, *sets(*changes))
    assert code == 0, err
    assert "500 rounds, but no longer than 20 s of simulated time, each" in said
    assert "run 4/4" in said
    code, said, err = headway("report", tmp_path / "both", "--out", tmp_path / "page.html")
    assert code == 0, err
    assert "not ranked" not in (tmp_path / "page.html").read_text()
    assert "Not finished" not in (tmp_path / "page.html").read_text()


def test_bounds_need_a_number_of_rounds(headway, tmp_path):
    changes = ["clock.preset=hospitals", "clock.examples_per_s=50", "run.until_s=20"]
    out = ("--out", tmp_path / "both", "--seeds", 1, "--rounds", 9, "--bounds")
    code, _, err = headway("compare", "hospitals", "--methods", "fedavg,fedprox", *out, *sets(*changes))
    assert code != 0
    assert "leave run.until_s or the bounds out" in err
