"""A client: an object that answers requests from its own data and memory."""

from __future__ import annotations

from headway.client.client_algorithm import ClientAlgorithm
from headway.client.client_training import ClientTraining
from headway.client.evaluation import evaluate_client, training_loss
from headway.client_state.store import Memories
from headway.core.errors import ConfigError, ExchangeRefused, UpdateRejected
from headway.core.update import Tensors
from headway.data import Examples
from headway.model.module_checks import undisturbed
from headway.protocol.messages import (
    STRAGGLER,
    Ask,
    Declined,
    Evaluate,
    Exchange,
    ExchangeReply,
    Measure,
    Reply,
    Request,
    Scores,
    Settle,
    Settled,
    Train,
    UpdateReply,
)


class Participant:
    """One client: its examples, its memory, and the answers to requests; the same in a simulation and on a network.

    algorithm: the clients' part, with the model; clients of one process may share it.  train, test: the client's
    examples; `None` for no test part.  memory: where the client's memory lies; a store of one client, or of many.
    """

    def __init__(
        self, client: str, algorithm: ClientAlgorithm, train: Examples, test: Examples | None, memory: Memories
    ) -> None:
        self.client, self.algorithm, self.train, self.test, self.memory = client, algorithm, train, test, memory
        self.training = ClientTraining(algorithm)
        self.secret: Tensors = {}  # of the protocol's exchanges, until the round is settled

    def answer(self, request: Request) -> Reply:
        """The reply to a request.

        Torch's generator, those of NumPy and Python, and the attributes of the model are left as they were.

        Raises:
            ClientFailed: naming the client, the stage and the inputs of the call that failed.
            ConfigError: for a request that this client has no answer to.
        """
        with undisturbed(self.algorithm.flat_module):
            match request:
                case Train():
                    return self._train(request)
                case Evaluate() | Measure():
                    return self._scores(request)
                case Exchange():
                    program, facts = self.algorithm.algorithm, self.algorithm.exchange_context(self.client, request)
                    try:
                        tensors, self.secret = program.answer(request, self.secret, facts)
                    except ExchangeRefused as refusal:
                        return Declined("rejected", str(refusal))
                    return ExchangeReply(tensors)
                case Settle():
                    self.memory.settle((request.round, request.attempt), [self.client] if request.counted else [])
                    self.secret = {}
                    return Settled()
        raise ConfigError(f"client {self.client!r} has no answer to a {type(request).__name__} request.")

    def _train(self, request: Train) -> Reply:
        """The update of local training; the memory that it leaves is pending until the round is settled."""
        ask = Ask(request, (self.client,), steps={} if request.steps is None else {self.client: request.steps})
        if self.algorithm.dropped(ask.cohort, ask):
            return Declined("dropped", STRAGGLER)
        ask = ask.map_broadcasts(self.algorithm.flat_module.site.message)
        try:
            with self.algorithm.flat_module.site.training():
                outcome = self.training.train(
                    self.client, ask, self.train, self.memory.get(self.client), self.secret or None
                )
        except UpdateRejected as refusal:
            return Declined("rejected", refusal.reason)
        self.memory.propose(self.client, (request.round, request.attempt), outcome.memory)
        if self.secret:
            facts = self.algorithm.exchange_context(self.client, request)
            self.secret = self.algorithm.algorithm.spent(request, self.secret, facts)
        if self.algorithm.algorithm.protected:
            return UpdateReply(outcome.update)
        steps, loss = float(outcome.trained.count), float(outcome.trained.loss)
        figures = {"examples": float(len(self.train)), "steps": steps, "train_loss": loss}
        return UpdateReply(outcome.update, figures)

    def _scores(self, request: Evaluate | Measure) -> Reply:
        """The metrics on the test part, or the mean loss over the training examples."""
        flat_module = self.algorithm.flat_module
        flat_module.seed(self.algorithm.key.derive("evaluation", request.round).seed())
        if isinstance(request, Measure):
            loss = training_loss(flat_module, request.message, self.train, self.memory, self.client)
            return Scores({"train_loss": loss}, len(self.train))
        if self.test is None or not len(self.test):
            return Scores({}, 0)
        scores = evaluate_client(flat_module, request.message, self.test, self.memory, self.client)
        return Scores(scores, len(self.test))
