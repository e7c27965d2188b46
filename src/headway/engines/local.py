"""The Local engine: clients in this process, one at a time or in lanes side by side."""

from __future__ import annotations

import torch

from headway.client.evaluate import evaluate_clients
from headway.core.ask import Answer, Ask, ClientReport
from headway.core.errors import ConfigError
from headway.core.flow import EngineFacts
from headway.core.total import Total
from headway.core.update import Tensors
from headway.engines.engine import Engine, Job
from headway.engines.units import UnitRunner, units, with_drift


class LocalEngine(Engine):
    """Simple and exact: what fails, fails here, under your debugger, with the client, the stage and its inputs.

    drift: whether to measure how far the clients, and the steps within each, pull apart in every round (never of
        a protected chain).
    lanes: how many clients train side by side as one batched program; where they cannot, `alone` says why, and they
        train one at a time.  The numbers agree to rounding.

    Raises:
        ConfigError: if lanes is below 1.
    """

    def __init__(self, drift: bool = True, lanes: int = 1) -> None:
        if isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1:
            raise ConfigError(f"lanes must be a whole number from 1, found {lanes!r}.")
        self.drift, self.width = drift, lanes

    @property
    def facts(self) -> EngineFacts:
        """Keeps memory; every client answers at once."""
        return EngineFacts("Local" if self.width == 1 else f"Lanes of {self.width}")

    def open(self, job: Job) -> None:
        """Builds the one workbench that all clients use."""
        self.job = job
        self.population = job.data.clients
        flows = job.algorithm.flows(self.facts, population=len(self.population))
        measure = self.drift and not job.algorithm.protected
        self.runner = UnitRunner(job, flows, measure, self.width)
        self.secrets: dict[str, Tensors] = {}

    @property
    def alone(self) -> str | None:
        """Why clients train one at a time, as a phrase; `None` if they do not."""
        return self.runner.alone

    def clients(self) -> tuple[str, ...]:
        """The population."""
        return self.population

    def ask(self, ask: Ask) -> Answer:
        """Runs one ask on its cohort, in an order that the names and sizes of its clients decide.

        torch's own generator is left as it was found.
        """
        before = torch.get_rng_state()
        try:
            if ask.kind == "train":
                return self._train(ask)
            if ask.kind == "evaluate":
                return self._evaluate(ask)
            if ask.kind == "settle":
                return self._settle(ask)
            return self._protocol(ask)
        finally:
            torch.set_rng_state(before)

    def close(self) -> None:
        """Nothing is held open."""

    def _train(self, ask: Ask) -> Answer:
        total, meter = Total(), self.runner.meter(ask)
        reports: list[ClientReport] = []
        train = self.job.data.train
        sizes = {client: len(train[client]) for client in ask.cohort}
        for members in units(ask.cohort, sizes, self.runner.width):
            done = self.runner.run(ask, members, self.secrets, meter)
            total.add_group(done.group)
            reports += done.reports
        reports.sort(key=lambda report: report.client)
        if meter is None:
            return Answer(total=total, reports=tuple(reports))
        cohort, clients = meter.figures()
        return Answer(total=total, reports=tuple(with_drift(reports, clients)), figures=cohort)

    def _evaluate(self, ask: Ask) -> Answer:
        scores = evaluate_clients(self.runner.bench, ask.message, self.job.data, ask.cohort, self.job.memory)
        reports = [
            ClientReport(client, "counted", len(self.job.data.test[client]), metrics=metrics)
            for client, metrics in scores.items()
        ]
        return Answer(reports=tuple(reports))

    def _settle(self, ask: Ask) -> Answer:
        """The round is over: those of the cohort were counted, and nobody's secret is needed any more."""
        self.job.memory.settle((ask.round, ask.attempt), ask.cohort)
        self.secrets.clear()
        return Answer()

    def _protocol(self, ask: Ask) -> Answer:
        """One of a protocol's own asks: each client answers and keeps its secret until the round is over."""
        found = self.job.algorithm.chain.protocol
        if found is None:
            raise ConfigError(f"nothing in the chain answers the ask {ask.kind!r}.")
        label, protocol = found
        replies: dict[str, Tensors] = {}
        for client in sorted(ask.cohort):
            key = self.runner.runner.client_key(client, ask.round).derive(label, ask.attempt)
            reply, self.secrets[client] = protocol.answer(ask, self.secrets.get(client, {}), client, key)
            replies[client] = reply
        return Answer(replies=replies)
