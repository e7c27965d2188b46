"""Agents in threads of this process, on parts of one data set, for tests."""

from __future__ import annotations

import faulthandler
import threading
from pathlib import Path

import headway as hw
from headway.federation.agent.agent import Agent, AgentOptions


def data_of(data: hw.FederatedData, client: str) -> hw.FederatedData:
    """The data of one client alone."""
    train, test = {client: data.train[client]}, {client: data.test[client]}
    return hw.FederatedData(data.name, data.store, train, test, classes=data.classes)


class AgentThread:
    """An agent that runs in a thread.

    at: by a kind of event, what is called with the agent at each of them, before the agent goes on.
    """

    def __init__(self, url, data, client, folder: Path, task=None, identity=None, at=None, **options) -> None:
        self.events: list[tuple[str, str, dict]] = []
        self._at = at or {}
        options.setdefault("sink", self._take)
        who = {"name": client} if identity is None else {"identity": identity}
        own = AgentOptions(**options)
        self.agent = Agent(url, data_of(data, client), state=folder / client, task=task, options=own, **who)
        self.state, self.error = "", None
        self.thread = threading.Thread(target=self._run, name=client, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.state = self.agent.run()
        except BaseException as error:
            self.error = error

    def _take(self, *event) -> None:
        self.events.append(event)
        if (call := self._at.get(event[0])) is not None:
            call(self.agent)

    def kinds(self) -> list[str]:
        """The kinds of its events."""
        return [kind for kind, *_ in self.events]

    def stop(self) -> None:
        self.agent.stop()
        self.join()

    def join(self, seconds: float = 120.0) -> str:
        """Waits for its end; its state."""
        self.thread.join(seconds)
        if self.thread.is_alive():
            faulthandler.dump_traceback(all_threads=True)
            raise AssertionError(f"the agent has not ended; its events: {[text for _, text, _ in self.events]}")
        if self.error is not None:
            raise self.error
        return self.state
