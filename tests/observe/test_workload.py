"""What a journal says of clients by a clock, against numbers worked out by hand."""

import math
import sqlite3

import pytest

from headway.observe.journal import Journal
from headway.observe.round_report import RoundReport
from headway.observe.workload import MOST_SPANS, STRETCHES, at_work
from headway.protocol.reports import ClientReport


def counted(client, asked, ended, age=0):
    return ClientReport(
        client,
        "counted",
        bytes_up=3,
        bytes_down=7,
        metrics={"asked_s": asked, "ended_s": ended, "age": float(age), "train_loss": 0.1},
    )


def dropped(client, asked, ended, status="dropped"):
    return ClientReport(client, status, bytes_down=7, reason="late", metrics={"asked_s": asked, "ended_s": ended})


def round_(number, begun, ended, clients, earlier=(), flying=None, population=5.0):
    """A round in which `wasted_s` is what the clock would say: the time of all that was dropped."""
    lost = [r for r in (*clients, *earlier) if r.status == "dropped"]
    figures = {
        "begun_s": begun,
        "ended_s": ended,
        "wasted_s": sum(r.metrics["ended_s"] - r.metrics["asked_s"] for r in lost),
    }
    figures |= {} if population is None else {"population": population}
    return RoundReport(
        number, 0.5, tuple(clients), 0.1, 0, 0, clock=figures, earlier=tuple(earlier), flying=flying or {}
    )


@pytest.fixture
def journal(tmp_path):
    book = Journal(tmp_path / "journal.sqlite")
    yield book
    book.close()


def two_rounds(book):
    """Round 1 ends at 10 s: a counts, b is cut off, c failed twice, then counted.  Round 2, to 40 s: a, and late b."""
    book.record(
        round_(
            1,
            0.0,
            10.0,
            [counted("a", 0.0, 10.0), dropped("b", 0.0, 10.0), counted("c", 6.0, 8.0)],
            earlier=[dropped("c", 0.0, 2.0), dropped("c", 2.0, 6.0)],
        )
    )
    book.record(round_(2, 10.0, 40.0, [counted("a", 20.0, 40.0), counted("b", 10.0, 30.0, age=1)], flying={"d": 15.0}))


def test_time_bytes_and_ages_are_added_up(journal):
    two_rounds(journal)
    work = journal.work()
    assert work.ends == (10.0, 40.0)
    assert work.counted_s == 10 + 2 + 20 + 20
    assert work.vain_s == 10 + 2 + 4
    assert work.counted_bytes == 4 * 10
    assert work.vain_bytes == 3 * 7
    assert work.ages == {0: 3, 1: 1}
    assert work.mean_age == pytest.approx(0.25)


def test_those_never_asked_lower_the_index_and_are_counted_as_never(journal):
    """Of five clients a counted twice, b and c once, d was asked and has not answered, e was never asked."""
    two_rounds(journal)
    work = journal.work()
    assert work.counts == {"a": 2, "b": 1, "c": 1, "d": 0}
    assert (work.population, work.clients) == (5, 5)
    assert work.never == pytest.approx(2 / 5)
    assert work.jain == pytest.approx((2 + 1 + 1) ** 2 / (5 * (4 + 1 + 1)))


def test_who_worked_when_with_earlier_asks_and_those_in_flight(journal):
    two_rounds(journal)
    spans = {span.client: span for span in journal.work().spans}
    assert list(spans) == ["a", "b", "d", "c"]  # 30, 30, 25 and 8 s
    assert spans["c"].pieces == ((0.0, 6.0, "vain"), (6.0, 8.0, "counted"))
    assert (spans["c"].asked, spans["c"].counted, spans["c"].seconds) == (3, 1, 8.0)
    assert spans["b"].pieces == ((0.0, 10.0, "vain"), (10.0, 30.0, "counted"))
    assert spans["d"].pieces == ((15.0, 40.0, "flying"),)


def test_how_many_are_at_work(journal):
    """a and b until 10 s, and c until 8 s; then b; d from 15 s on; a again from 20 s on; b until 30 s."""
    two_rounds(journal)
    work = journal.work()
    (curve,) = at_work([work], 8)  # stretches of 5 s
    # a and b all along; c until 8 s, so for 3 of the 5 s
    assert list(curve.values()) == pytest.approx([3, 2 + 3 / 5, 1, 2, 3, 3, 2, 2])
    assert work.worked(0.0, 40.0) == pytest.approx(work.counted_s + work.vain_s + 25)
    assert len(work.until) == STRETCHES + 1
    assert at_work([], 8) == []


def test_runs_are_laid_beside_one_another_until_the_first_ends(tmp_path):
    works = []
    for place, end in enumerate((10.0, 20.0)):
        book = Journal(tmp_path / f"{place}.sqlite")
        book.record(round_(1, 0.0, end, [counted("a", 0.0, end / 2)]))
        works.append(book.work())
        book.close()
    short, long = at_work(works, 2)
    assert (short, long) == ({0: pytest.approx(1), 1: pytest.approx(0)}, {0: pytest.approx(1), 1: pytest.approx(1)})


def test_rejected_work_was_in_vain(journal):
    journal.record(round_(1, 0.0, 10.0, [counted("a", 0.0, 4.0), dropped("b", 1.0, 9.0, "rejected")]))
    work = journal.work()
    assert (work.counted_s, work.vain_s, work.counted_bytes, work.vain_bytes) == (4.0, 8.0, 10, 7)
    assert work.counts == {"a": 1, "b": 0}


def test_a_run_in_which_nobody_counted(journal):
    journal.record(round_(1, 0.0, 10.0, [dropped("a", 0.0, 10.0)]))
    work = journal.work()
    assert math.isnan(work.jain)
    assert math.isnan(work.mean_age)
    assert work.never == 1.0


def test_of_many_clients_the_busiest_and_the_idlest_are_kept(journal):
    journal.record(round_(1, 0.0, 100.0, [counted(f"c{n:02d}", 0.0, 1.0 + n) for n in range(60)], population=80.0))
    spans = journal.work().spans
    assert len(spans) == MOST_SPANS
    assert [span.client for span in spans[:2]] == ["c59", "c58"]
    assert spans[-1].client == "c00"
    assert journal.work().never == pytest.approx(20 / 80)


def test_hardly_any_pause_is_none(journal):
    """A thousand asks of one client, one after the other, are one piece of work; kinds are kept apart."""
    for number in range(1000):
        begin = float(number)
        kind = dropped if number == 500 else counted
        journal.record(round_(number + 1, begin, begin + 1, [kind("a", begin, begin + 1)]))
    (span,) = journal.work().spans
    assert span.pieces == ((0.0, 500.0, "counted"), (500.0, 501.0, "vain"), (501.0, 1000.0, "counted"))
    assert span.asked == 1000


def test_an_older_journal_is_read_without_what_it_lacks(journal, tmp_path):
    journal.record(round_(1, 0.0, 10.0, [counted("a", 0.0, 10.0), dropped("b", 0.0, 4.0)], population=None))
    with sqlite3.connect(tmp_path / "journal.sqlite") as database:
        database.execute("DROP TABLE earlier")
        database.execute("DROP TABLE flying")
        database.execute("UPDATE metrics SET value = 9 WHERE name = 'wasted_s'")  # with attempts that it did not keep
    work = journal.work()
    assert (work.population, work.clients, work.vain_s) == (None, 2, 9.0)
    assert work.never == pytest.approx(1 / 2)
    again = Journal(tmp_path / "journal.sqlite")  # and gone on with
    again.record(
        round_(2, 10.0, 20.0, [counted("b", 11.0, 20.0)], earlier=[dropped("b", 10.0, 11.0)], flying={"a": 12.0})
    )
    assert again.work().vain_s == 10.0
    again.close()


def test_without_a_clock_there_is_no_work(journal):
    journal.record(RoundReport(1, 0.5, (ClientReport("a", "counted"),), 0.1, 1, 1))
    assert journal.work() is None


def test_rounds_that_are_run_again_leave_nothing_behind(journal):
    two_rounds(journal)
    journal.forget_after(0)
    assert journal.work() is None
    assert (journal.rows("earlier"), journal.rows("flying")) == ([], [])
    two_rounds(journal)
    assert journal.work().vain_s == 16.0
    assert [row["client"] for row in journal.rows("flying")] == ["d"]
