"""The event log: what it acknowledges is on the disk, in order, and survives the end of the process."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headway.core.errors import RunFolderError
from headway.federation.http_api import RoundVerdict
from headway.federation.spool.disk_errors import SpoolError
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.round_event import RoundEvent
from headway.observe.run_folder import EVENTS

EVENTS_OF_A_ROUND = [
    RoundEvent("opened", 3, 0, 1.5, digest="e" * 64, more={"cohort": ["a", "ü"]}),
    RoundEvent("arrived", 3, 0, 1.75, 6, "b", "c" * 64),
    RoundEvent("arrived", 3, 1, 2.25, 7, "ü", "d" * 64, 10.5),
    RoundEvent("failed", 3, 0, 2.5, 8, "a", reason="it left", more={"refused": True}),
    RoundEvent("passed", 3, 0, 3.0),
    RoundEvent("closed", 3, 0, 3.0),
]


def test_events_come_back_as_they_were(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert [log.append(event) for event in EVENTS_OF_A_ROUND] == [1, 2, 3, 4, 5, 6]
    log.append(RoundEvent("opened", 4, 0, 9.0))
    log.close()
    log = EventLog(tmp_path)
    assert log.events(3) == EVENTS_OF_A_ROUND
    assert (log.last_time(), log.last(), log.rounds(), log.events(5)) == (9.0, 7, [3, 4], [])
    log.forget_after(3)
    assert log.rounds() == [3]
    assert log.append(RoundEvent("opened", 4, 0, 0.0)) == 8, "a number is used once"
    log.close()


def test_an_empty_log(tmp_path: Path) -> None:
    """Its file is made with the first event, since a run makes its folder after the log."""
    log = EventLog(tmp_path / "new")
    assert (log.last_time(), log.last(), log.rounds(), log.verdict("a", 1, 0)) == (0.0, 0, [], None)
    assert not (tmp_path / "new").exists()
    assert log.append(EVENTS_OF_A_ROUND[0]) == 1
    log.close()


def test_each_commit_is_flushed(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert log._connected().execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert log._connected().execute("PRAGMA synchronous").fetchone() == (2,)
    log.close()


def test_the_events_after_one_come_with_their_numbers(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    assert log.append_all(EVENTS_OF_A_ROUND) == 6
    assert log.after(4) == [(5, EVENTS_OF_A_ROUND[4]), (6, EVENTS_OF_A_ROUND[5])]
    assert [number for number, _ in log.after(0)] == [1, 2, 3, 4, 5, 6]
    log.close()


def test_verdicts_stay_and_are_shown_until_they_are_carried_out(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    late = RoundVerdict(round=2, attempt=1, counted=False, reason="late")
    counted = RoundVerdict(round=1, attempt=0, counted=True)
    log.record_verdicts({"a": late})
    log.record_verdicts({"a": counted, "b": counted})
    log.record_verdicts({"b": RoundVerdict(round=1, attempt=0, counted=False, reason="the server knows nothing")})
    log.close()
    log = EventLog(tmp_path)
    assert log.verdicts("a") == (counted, late)
    log.set_settled("a", [(1, 0), (9, 9)])
    log.set_settled("a", [])
    assert (log.verdicts("a"), log.verdicts("b"), log.verdicts("c")) == ((late,), (counted,), ())
    assert (log.verdict("a", 1, 0), log.verdict("a", 1, 1), log.verdict("d", 1, 0)) == (counted, None, None)
    log.close()


def test_an_acknowledged_event_survives_a_killed_process(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from headway.federation.spool.event_log import EventLog\n"
        "from headway.federation.spool.round_event import RoundEvent\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "for number in range(10**6):\n"
        "    log.append(RoundEvent('arrived', number // 10, 0, 0.0, number))\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged == 57:
                os.kill(process.pid, signal.SIGKILL)
                break
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
    log = EventLog(tmp_path)
    found = [event.number for round_ in log.rounds() for event in log.events(round_)]
    assert found[: acknowledged + 1] == list(range(acknowledged + 1))
    assert len(found) <= acknowledged + 2
    log.close()


def test_a_disk_that_refuses_keeps_nothing_of_the_call(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append(EVENTS_OF_A_ROUND[0])
    pages = log._connected().execute("PRAGMA page_count").fetchone()[0]
    log._connected().execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(SpoolError, match=r"full.*then go on"):
        log.append_all([RoundEvent("arrived", 3, 0, 0.0, client="x" * 5000) for _ in range(10)])
    log._connected().execute("PRAGMA max_page_count = 1000000")
    assert log.events(3) == EVENTS_OF_A_ROUND[:1]
    assert log.append(EVENTS_OF_A_ROUND[1]) == 2
    log.close()


def test_a_log_that_another_program_holds_or_that_is_read_only(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log._connected().execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(tmp_path / EVENTS)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(SpoolError, match="locked"):
        log.append(EVENTS_OF_A_ROUND[0])
    other.close()
    log._connected().execute("PRAGMA query_only = 1")
    with pytest.raises(SpoolError, match="readonly"):
        log.append(EVENTS_OF_A_ROUND[0])
    log.close()


def test_a_damaged_log_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_bytes(b"no database " * 100)
    with pytest.raises(RunFolderError, match=r"damaged.*restore"):
        EventLog(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot be written"):
        EventLog(tmp_path / "file").append(EVENTS_OF_A_ROUND[0])


def test_a_torn_tail_of_the_log_loses_only_what_was_not_acknowledged(tmp_path: Path) -> None:
    """The write-ahead log as a power failure leaves it in the middle of a commit."""
    log = EventLog(tmp_path)
    log.append_all(EVENTS_OF_A_ROUND)
    whole = (tmp_path / f"{EVENTS}-wal").read_bytes()
    log.append(RoundEvent("closed", 3, 0, 4.0))
    longer = (tmp_path / f"{EVENTS}-wal").read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / EVENTS).write_bytes((tmp_path / EVENTS).read_bytes())
    (copy / f"{EVENTS}-wal").write_bytes(longer[: (len(whole) + len(longer)) // 2])
    log.close()
    torn = EventLog(copy)
    assert torn.events(3) == EVENTS_OF_A_ROUND
    torn.close()


def test_threads_share_a_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path)

    def write(client: str) -> None:
        for number in range(20):
            log.append(RoundEvent("arrived", 0, 0, 0.0, number, client))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = log.events(0)
    for client in "abc":
        assert [event.number for event in events if event.client == client] == list(range(20))
    log.close()
