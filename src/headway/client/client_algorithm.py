"""The clients' half of an algorithm, opened on one flat module: the trainer, the keys, and the form of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from headway.client.derived_signer import DerivedSigner
from headway.client_state.store import TRAINER, Memory
from headway.core.algorithm import Algorithm
from headway.core.context import ClientSigner, ExchangeContext
from headway.core.errors import ConfigError
from headway.core.flow import Flow
from headway.core.replicas import group_of
from headway.core.update import Tensors
from headway.model.flat_module import FlatModule
from headway.numerics.keys import Key, Keys
from headway.protocol.messages import Ask, Message, Request, Train
from headway.training.trainer import Trainer


class ClientAlgorithm:
    """An algorithm on one flat module, as clients need it: the trainer, the clients' keys, the form of their memory.

    measure: whether to measure the lengths of each client's steps.
    keeps_own: whether a part of the model stays with each client.
    system: whether private draws come from the operating system.  run: the identifier of the run.
    signer, private: each client's identity, and the key of its secrets, which a deployment replaces by its own.
    """

    def __init__(
        self, algorithm: Algorithm, flat_module: FlatModule, flows: tuple[Flow, ...], key: Key, measure: bool = False
    ) -> None:
        self.algorithm, self.flat_module, self.flows = algorithm, flat_module, flows
        self.key, self.measure = key, measure
        self.keeps_own = bool(flat_module.personal.numel()) or flat_module.keeps_statistics
        if flows[-1].replicas > 1 and self.keeps_own:
            raise ConfigError(
                f"{flows[-1].set_by['replicas']} compares the updates of clients that do the same work, and this model "
                "has parts or statistics that stay with each client: share all of it, or use another rule."
            )
        trainer = algorithm.trainer
        assert isinstance(trainer, Trainer)
        trainer.check(flat_module)
        self.trainer = trainer
        self.run = key.derive("run").secret.hex()
        self.signer: Callable[[str], ClientSigner] = lambda client: DerivedSigner(client, self.key)
        self.private: Callable[[str], Key] = lambda client: self.key.derive("private", client)
        self.system = False
        self._digest: tuple[Message, bytes] | None = None  # of the message that was asked with last

    def use_system_randomness(self) -> None:
        """Draws noise, masks and rounding from the operating system from here on, and not from the run's seed."""
        self.system, self.private = True, lambda client: Key.system()

    def system_key(self) -> Key:
        """A fresh key of the operating system, for a client that draws from it."""
        return Key.system()

    def system_keys(self, clients: Sequence[str]) -> Keys:
        """Fresh keys of many clients, likewise."""
        return Key.system().for_each("client", names=clients)

    def client_key(self, client: str, round_: int) -> Key:
        """The client's key in a round, from which its stages' and its trainer's keys are derived; that of its group,
        where several clients do the same work."""
        return self.key.derive("client", round_).owned(self._owner(client))

    def client_keys(self, clients: Sequence[str], round_: int) -> Keys:
        """The keys of many clients in a round."""
        owners = [group_of(client) for client in clients] if self.flows[-1].replicas > 1 else clients
        return self.key.for_each("client", round_, names=owners)

    def _owner(self, client: str) -> str:
        return group_of(client) if self.flows[-1].replicas > 1 else client

    def keys_of(self, clients: Sequence[str], ask: Ask) -> Keys:
        """The keys of clients that are asked, each of the round in which it was."""
        if not ask.earlier:
            return self.client_keys(clients, ask.round)
        return Keys.of([self.client_key(client, ask.asked_in(client)) for client in clients])

    def exchange_context(self, client: str, request: Request) -> ExchangeContext:
        """The facts of a protocol's exchanges for a client that answers this request."""
        return ExchangeContext(
            client=client,
            key=self.client_key(client, request.round),
            private=self.private(client),
            signer=self.signer(client),
            run=self.run,
            round=request.round,
            attempt=request.attempt,
            chain=self.algorithm.chain.fingerprint,
            flow=self.flows[-1],
            model_hash=self._model_hash(request.message) if isinstance(request, Train) else b"",
        )

    def _model_hash(self, message: Message) -> bytes:
        """The digest of all that a client is asked with, but for the protocol's own part."""
        if self._digest is None or self._digest[0] is not message:
            protocol = self.algorithm.chain.protocol
            self._digest = (message, message.digest("" if protocol is None else protocol[0]))
        return self._digest[1]

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
