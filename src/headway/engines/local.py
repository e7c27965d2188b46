"""The Local engine: clients in this process, one at a time or in lanes side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from headway.client.evaluate import evaluate_clients
from headway.core.ask import Answer, Ask, ClientReport
from headway.core.errors import ConfigError
from headway.core.flow import EngineFacts
from headway.core.total import Total
from headway.core.update import Tensors
from headway.engines.engine import Engine, Job
from headway.engines.planner import MOST, Plan, default_store, make_plan
from headway.engines.units import UnitRunner, answered, units
from headway.engines.way import Way, Wish


class LocalEngine(Engine):
    """Simple and exact: what fails, fails here, under your debugger, with the client, the stage and its inputs.

    drift: whether to measure how far the clients, and the steps within each, pull apart in every round (never of
        a protected chain).
    lanes: how many clients train side by side as one batched program; where they cannot, `alone` says why, and they
        train one at a time.  The numbers agree to rounding.  "auto" measures, when the engine opens, how many lanes
        and threads are fastest here, and what is left open below; `plan` says what was found.
    low_rank: whether crews of clients never write their large linear layers (`headway.client.lowrank`), without drift
        and where no stage looks at a client's vector; a crew whose model has other layers too then trains one
        client after another, by plain SGD only.  `None`: where the model has no other layers.
    channels_last: whether images lie in memory with their channels side by side; `None`: as they are.

    Raises:
        ConfigError: if lanes is below 1.
    """

    def __init__(
        self,
        drift: bool = True,
        lanes: int | Literal["auto"] = 1,
        *,
        low_rank: bool | None = None,
        channels_last: bool | None = None,
    ) -> None:
        if lanes != "auto" and (isinstance(lanes, bool) or not isinstance(lanes, int) or lanes < 1):
            raise ConfigError(f'lanes must be a whole number from 1, or "auto", found {lanes!r}.')
        self.drift = drift
        self.lanes: int | Literal["auto"] = lanes
        self.wish = Wish(low_rank, channels_last)
        self.plan: Plan | None = None

    @property
    def facts(self) -> EngineFacts:
        """Keeps memory; every client answers at once."""
        width = self._way.lanes
        return EngineFacts("Local" if width == 1 else f"Lanes of {width}")

    @property
    def _way(self) -> Way:
        """How clients train, as far as it is known."""
        if self.plan is not None:
            return self.plan.way
        return Way(1 if self.lanes == "auto" else self.lanes, self.wish.low_rank, bool(self.wish.channels_last))

    @property
    def spoken(self) -> str:
        """The plan, and why clients train one at a time where they should not."""
        if self._way == Way() and self.plan is None:
            return ""
        why = self.runner.why_not
        said = self._way.spoken if self.plan is None else self.plan.spoken
        return said if why is None else f"clients one at a time, since {why}"

    @property
    def decided(self) -> dict[str, Any]:
        """The way, where it is not one client at a time."""
        return self._way.decided

    def follow(self, decided: Mapping[str, Any]) -> None:
        """Measures nothing: does as a run did that is resumed."""
        if self.lanes == "auto":
            self.plan = Plan(Way.of(decided), int(decided.get("threads", torch.get_num_threads())))

    def open(self, job: Job) -> None:
        """Builds the one workbench that all clients use."""
        self.job = job
        self.population = job.data.clients
        flows = job.algorithm.flows(self.facts, population=len(self.population))
        measure = self.drift and not job.algorithm.protected
        measuring = self.lanes == "auto" and self.plan is None
        way = replace(self._way, lanes=MOST) if measuring else self._way
        self.runner = UnitRunner(job, flows, measure, way)
        if measuring:
            cohort = job.algorithm.sampler.facts(len(self.population)).expected or len(self.population)
            self.plan = self._measured(int(cohort))
        if self.plan is not None:
            self.runner.use(self.plan.way)
            self._set_threads(self.plan.threads)
        self.secrets: dict[str, Tensors] = {}

    def _measured(self, cohort: int) -> Plan:
        """The fastest plan for cohorts of this size."""
        return make_plan(self.runner, cohort, torch.get_num_threads(), self.wish, default_store())

    def _set_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    @property
    def alone(self) -> str | None:
        """Why clients train one at a time, as a phrase; `None` if they do not."""
        return self.runner.alone

    def clients(self) -> Sequence[str]:
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
        for members in units(ask.cohort, self.job.data.train, self.runner.width):
            done = self.runner.run(ask, members, self.secrets, meter)
            total.add_group(done.group)
            reports += done.reports
        return answered(total, reports, meter)

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
