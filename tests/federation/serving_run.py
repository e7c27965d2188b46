"""A server with a run in a thread and honest clients, beside which a test misbehaves."""

from __future__ import annotations

import threading
from dataclasses import replace

from network import Network
from raw_client import RawClient
from toys import blobs, linear_task

import headway as hw
from headway.federation.spool.event_log import EventLog
from headway.federation.spool.spool import Spool

DATA, TASK = blobs((7, 12, 5)), linear_task()
ALGORITHM = hw.recipes.recipe("fedavg", trainer=hw.LocalSGD(lr=0.1, batch_size=4))
ROUNDS = 3


def stores(folder):
    """The spool and the log of a server."""
    return Spool(folder / "spool"), EventLog(folder)


class Stopped(Exception):
    """The test is over."""


class Serving:
    """A run of three clients, of which the last is in the hands of the test."""

    def __init__(self, folder, quorum=None, rounds=ROUNDS, **options):
        self.algorithm = ALGORITHM if quorum is None else replace(ALGORITHM, quorum=quorum)
        spool, self.log = stores(folder)
        self.network = Network.of(
            self.algorithm, TASK, spool, self.log, rounds, expected=frozenset(DATA.clients), **options
        )
        self.network.join(self.algorithm, TASK, DATA, DATA.clients[:2])
        engine = self.network.engine
        self.run = hw.Run(self.algorithm, DATA, TASK, rounds=rounds, engine=engine, evaluate_every=None)
        self.reports: list = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._go, daemon=True)
        self.thread.start()

    def _go(self):
        try:
            self.reports.extend(self.run)
        except Stopped:
            pass
        except BaseException as error:
            self.error = error

    def client(self, name=DATA.clients[2]):
        return RawClient(self.network.url, name, timeout=60)

    def finish(self, raw):
        """Answers honestly until the run ends; its weights."""
        while len(self.reports) < self.run.rounds and self.thread.is_alive():
            work = raw.work(1.0)
            if work.assignment is not None:
                answer = raw.answer(work.assignment, 5.0, 0.25)
                assert answer.status == 200, answer
        self.thread.join(60)
        assert len(self.reports) == self.run.rounds
        return self.run.state.params

    def close(self):
        def stop(seconds=0.0):
            raise Stopped

        self.network.engine.channel.event = stop
        self.thread.join(60)
        self.network.close()
        self.log.close()
        assert self.error is None, self.error
