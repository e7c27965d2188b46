"""The clients' half of an algorithm, opened on one flat module: the trainer, the keys, and the form of memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from headway.client_state.store import TRAINER, Memory
from headway.core.algorithm import Algorithm
from headway.core.flow import Flow
from headway.core.update import Tensors
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key, Keys
from headway.protocol.messages import Ask, Message
from headway.training.trainer import Trainer


class ClientAlgorithm:
    """An algorithm on one flat module, as clients need it: the trainer, the clients' keys, the form of their memory.

    measure: whether to measure the lengths of each client's steps.
    keeps_own: whether a part of the model stays with each client.
    """

    def __init__(
        self, algorithm: Algorithm, flat_module: FlatModule, flows: tuple[Flow, ...], key: Key, measure: bool = False
    ) -> None:
        self.algorithm, self.flat_module, self.flows = algorithm, flat_module, flows
        self.key, self.measure = key, measure
        self.keeps_own = bool(flat_module.personal.numel()) or flat_module.keeps_statistics
        trainer = algorithm.trainer
        assert isinstance(trainer, Trainer)
        trainer.check(flat_module)
        self.trainer = trainer

    def client_key(self, client: str, round_: int) -> Key:
        """The client's key in a round, from which its stages' and its trainer's keys are derived."""
        return self.key.derive("client", round_).owned(client)

    def client_keys(self, clients: Sequence[str], round_: int) -> Keys:
        """The keys of many clients in a round."""
        return self.key.for_each("client", round_, names=clients)

    def keys_of(self, clients: Sequence[str], ask: Ask) -> Keys:
        """The keys of clients that are asked, each of the round in which it was."""
        if not ask.earlier:
            return self.client_keys(clients, ask.round)
        return Keys.of([self.client_key(client, ask.asked_in(client)) for client in clients])

    def dropped(self, clients: Sequence[str], ask: Ask) -> list[str]:
        """The stragglers among the clients whose work would be dropped."""
        dropped = self.trainer.dropped(self.keys_of(clients, ask).derive(TRAINER))
        return [client for client, drops in zip(clients, dropped, strict=True) if drops]

    def check(self, sizes: Iterable[int]) -> None:
        """Refuses, before any training, steps that the trainer could not keep; sizes: the clients' examples.

        Raises:
            ConfigError: if a client's steps do not fit the trainer's budget.
        """
        if "steps" in self.flows[-1].needs:
            for examples in sorted(set(sizes), reverse=True):
                self.trainer.step_plan(examples, self.flat_module.layout)

    def first_memory(self) -> Memory:
        """What a client's memory holds after its first training, in names, shapes and number types."""
        keep = self.trainer.keeps(self.flat_module)
        return self.memory_after(self.algorithm.chain.remember(self.flat_module.shared), keep)

    def remembered(self, message: Message) -> Memory:
        """The memory of a client that has none yet and receives this message."""
        return self.algorithm.chain.remember(message.params)

    def memory_after(self, kept: dict[str, Tensors], keep: Tensors) -> dict[str, Tensors]:
        """The stages' memory, with the trainer's and the parameters and statistics that never leave the client."""
        own: dict[str, Tensor] = dict(keep)
        if self.flat_module.personal.numel():
            own["personal"] = self.flat_module.personal.clone()
        if self.flat_module.keeps_statistics:
            own["statistics"] = self.flat_module.statistics()
        return {**kept, TRAINER: own} if own else kept
