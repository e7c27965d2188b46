"""Boards and rounds for tests of the status."""

import math
from collections import Counter

from headway.federation.operations.status_board import ClientsNow, StatusBoard
from headway.federation.operations.status_snapshot import ChainStatus, ClientStatus
from headway.observe.round_report import Alarm, RoundReport
from headway.protocol.reports import Reports

HOSTILE = "<script>alert('x')</script>\"'&</style><img src=http://other.test/x onerror=alert(1)>"


def rounds_of(count, names=("north", "south", "west"), reason="not finite"):
    """Finished rounds in which one client counts, one is refused and one is lost."""
    for round_ in range(1, count + 1):
        reports = Reports(
            names,
            ("counted", "rejected", "dropped"),
            bytes_up=100,
            bytes_down=50,
            metrics={"train_loss": [0.25, None, None]},
            reasons=("", reason, "the deadline passed"),
        )
        yield RoundReport(
            round_,
            1.0 / round_,
            reports,
            2.0,
            300,
            150,
            metrics={"accuracy": 0.5, "loss": math.nan},
            drift={"headway": 0.3, "leeway": 0.4},
            alarms=(Alarm("against", (names[0],), f"{names[0]} pulls against the others."),),
            notes=("a remark",),
        )


def server_board(clients, rounds=8, done=0, wall=lambda: 1_000_000.0):
    """The board of a server with these clients."""
    presences = Counter(each.presence for each in clients)
    board = StatusBoard(
        "server",
        "mine",
        rounds,
        lambda: ClientsNow(clients[:1000], presences, {"401": 7}),
        lambda: ("job-1", "running", ""),
        wall,
    )
    board.describe("accuracy", ChainStatus(columns=("stage", "runs at"), rows=(("Mean()", "server"),)), len(clients))
    for report in rounds_of(done):
        board.add_round(report)
    return board


def hostile_board(done=3):
    """The board of a server whose every text comes from a client that wants to be run."""
    client = ClientStatus(
        name=HOSTILE, presence="connected", activity=HOSTILE, done=0.4, awaited=True, reason=HOSTILE, contact=999_990.0
    )
    gone = ClientStatus(name="gone", presence="gone", contact=999_000.0, awaited=True)
    board = server_board([client, gone])
    board.name = HOSTILE
    for report in rounds_of(done, (HOSTILE, "south", "west"), reason=HOSTILE):
        board.add_round(report)
    board.add_event("late", HOSTILE, HOSTILE)
    board.set_phase("training", HOSTILE, since=999_960.0, deadline=1_000_090.0, waiting_for=[HOSTILE, "gone"])
    return board
