"""The clients in this process: each request to them, and its answer."""

from __future__ import annotations

from dataclasses import replace

import torch

from headway.client.evaluation import WHOLE, Window, evaluate_clients, training_losses
from headway.core.errors import ConfigError
from headway.core.update import Tensors
from headway.engines.group_runner import GroupRunner
from headway.engines.grouping import groups_of
from headway.model.module_checks import undisturbed
from headway.protocol import wire as frame
from headway.protocol.messages import Answer, Ask, Evaluate, Exchange, Measure, Settle, Train
from headway.protocol.reports import Reports, columns_of
from headway.protocol.sums import ExactTotal
from headway.server.collector import answered

REPLY = {"loss": torch.zeros((), dtype=torch.float64)}  # the tensors of a reply to a request to measure


class LocalClients:
    """Answers every request, one group of clients after another."""

    def __init__(self, groups: GroupRunner) -> None:
        self.groups, self.execution, self.setup = groups, groups.execution, groups.setup
        self.secrets: dict[str, Tensors] = {}

    def answer(self, ask: Ask, window: Window = WHOLE) -> Answer:
        """The answer to an ask; its cohort trains in an order that the names and sizes of its clients decide.

        window: the part of the cohort whose results are asked for here, of a request to evaluate or to measure.
        The generators and settings of torch, NumPy and Python are left as they were found.
        """
        with undisturbed(self.setup.flat_module):
            match ask.request:
                case Train():
                    with self.setup.device.training():
                        return self._train(ask)
                case Evaluate():
                    return self._evaluate(ask, window)
                case Measure():
                    return self._measure(ask, window)
                case Settle():
                    return self._settle(ask)
                case Exchange():
                    return self._exchange(ask)
        raise ConfigError(f"this engine has no answer to a {type(ask.request).__name__} request.")

    def _train(self, ask: Ask) -> Answer:
        total, meter = ExactTotal(), self.setup.meter(ask)
        parts: list[Reports] = []
        for members in groups_of(ask.cohort, self.setup.job.data.train, self.groups.width, self.groups.group):
            result = self.groups.run(ask, members, self.secrets, meter)
            total.add_group(result.group)
            parts += result.parts
        self.spend(ask)
        return replace(answered(total, parts, meter), notes=self.execution.fallbacks.take())

    def spend(self, ask: Ask) -> None:
        """The secrets of clients that were asked to train, after their updates."""
        setup = self.setup
        for client in self.secrets.keys() & set(ask.cohort):
            request = ask.request_for(client)
            assert isinstance(request, Train)
            facts = setup.client_algorithm.exchange_context(client, request)
            self.secrets[client] = setup.job.algorithm.spent(request, self.secrets[client], facts)

    def _evaluate(self, ask: Ask, window: Window) -> Answer:
        setup = self.setup
        setup.flat_module.seed(setup.job.key.derive("evaluation", ask.round).seed())
        data, memory = setup.job.data, setup.job.memory
        scores, pooled = evaluate_clients(setup.flat_module, ask.message, data, ask.cohort, memory, window)
        self.execution.unwritten.check()
        sizes = [len(data.test[client]) for client in scores]
        reports = Reports(scores, "counted", sizes, metrics=columns_of(list(scores.values())))
        return Answer(reports=reports, figures=pooled)

    def _measure(self, ask: Ask, window: Window) -> Answer:
        """The loss of the model on each client's training examples."""
        setup = self.setup
        data, memory = setup.job.data, setup.job.memory
        losses = training_losses(setup.flat_module, ask.message, data, ask.cohort, memory, window)
        self.execution.unwritten.check()
        up, down = frame.size(REPLY), frame.size(ask.message.tensors())
        metrics = {"train_loss": list(losses.values())}
        return Answer(reports=Reports(losses, bytes_up=up, bytes_down=down, metrics=metrics))

    def _settle(self, ask: Ask) -> Answer:
        """The round is over: the cohort was counted, and no secret is needed any more."""
        self.setup.job.memory.settle((ask.round, ask.attempt), ask.cohort)
        self.secrets.clear()
        return Answer()

    def _exchange(self, ask: Ask) -> Answer:
        """A request of the protocol's own: each client answers and keeps its secret until the round is over."""
        algorithm, replies = self.setup.job.algorithm, dict[str, Tensors]()
        for client in sorted(ask.cohort):
            own, secret = ask.request_for(client), self.secrets.get(client, {})
            assert isinstance(own, Exchange)
            facts = self.setup.client_algorithm.exchange_context(client, own)
            replies[client], self.secrets[client] = algorithm.answer(own, secret, facts)
        return Answer(replies=replies)
