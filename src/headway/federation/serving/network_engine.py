"""The engine of a server: requests go to clients over a network, and a coordinator on the real clock waits for them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from torch import Tensor

from headway.client_state.store import Memories, MemoryStore
from headway.core.errors import ConfigError, HeadwayError
from headway.core.flow import EngineFacts
from headway.engines.engine import Engine, Job
from headway.federation.http_api import Pending, RoundVerdict
from headway.federation.serving.gathering import Gathering
from headway.federation.serving.network_training import NetworkTraining, Progress
from headway.federation.serving.protocol_rounds import BEGUN_AGAIN, ProtocolRounds
from headway.federation.serving.request_channel import RequestChannel
from headway.federation.serving.round_sum import SumOptions
from headway.federation.serving.server_setup import ServerSetup
from headway.federation.serving.training_round import RoundRecord, TrainingRounds
from headway.federation.spool.round_event import RoundLog
from headway.protocol.messages import Answer, Ask, Evaluate, Exchange, Measure, Request, Settle, Train
from headway.server.coordinator import Coordinator

PHASES: Mapping[type[Request], str] = {Evaluate: "evaluating", Measure: "measuring", Exchange: "exchanging keys"}


class WaitedTooLong(HeadwayError):
    """A round could not begin, since too few clients were connected for too long."""


@dataclass(frozen=True)
class NetworkOptions:
    """The options of a network engine.

    expected: the clients without which no round begins.  min_clients: how many a round begins with at least.
    wait_limit_s: the seconds after which waiting for them ends the run; `None` waits without end.
    group: how many clients are summed in float64, in the order of their names, before the exact sum is paid.
    drift: whether to measure how far the clients pull apart, where single updates are seen.
    memory: bytes of main memory that the sum of a round, and the server's step after it, may take; files: the folder of
    what is beyond it.
    population: how many clients the job has, at a relay, which knows its own clients alone.
    """

    expected: frozenset[str] = field(default_factory=frozenset)
    min_clients: int = 1
    wait_limit_s: float | None = None
    drift: bool = True
    group: int = SumOptions.group
    memory: float = SumOptions.memory
    files: Path | None = None
    population: int | None = None


@final
class NetworkEngine(Engine):
    """Carries requests to clients over a network.

    channel: to the clients.  log: of the events of rounds, which a resumed run is decided by again.
    progress: what it does now; show: is given each change of that.
    """

    def __init__(
        self,
        channel: RequestChannel,
        log: RoundLog,
        options: NetworkOptions | None = None,
        show: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.channel, self.log, self.options, self.show = channel, log, options or NetworkOptions(), show
        self.progress = Progress()
        self._decided = 0  # rounds whose verdicts are on disk
        self._training: NetworkTraining | None = None  # until it is opened
        self.protocol: ProtocolRounds | None = None  # of a chain that has one

    @property
    def facts(self) -> EngineFacts:
        """Keeps memory, at the clients; has a clock, the real one."""
        return EngineFacts("Network", clock=True, deployed=True)

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """The size of groups, where it is not the usual one."""
        return {} if self.options.group == SumOptions.group else {"group": self.options.group}

    @property
    def now(self) -> float:
        """The seconds since the run began, without the time in which the server was down."""
        return self.channel.clock.now()

    def memory(self, clients: Sequence[str], folder: Path | None) -> Memories:
        """No memory: it lies with the clients."""
        return MemoryStore(())

    def open(self, job: Job) -> None:
        """Makes ready.

        Raises:
            ConfigError: for a quorum whose work is limited by the deadline, which needs the speed of each client.
        """
        if job.algorithm.quorum.work != "whole":
            raise ConfigError(
                f'Quorum.work is "{job.algorithm.quorum.work}", which needs the speed of each client, as a simulated '
                'clock has it: use "whole" with real clients, and a count below the cohort or a deadline.'
            )
        self.job = job
        flows = job.algorithm.flows(self.facts, population=self.options.population or job.known.population)
        setup = ServerSetup.of(job, flows, self.options.drift)
        summing = SumOptions(self.options.group, self.options.memory, self.options.files)
        self.coordinator = Coordinator(job.algorithm.quorum)
        self.rounds = TrainingRounds(self.coordinator, self.log.append)
        self._training = NetworkTraining(setup, self.channel, self.rounds, self._show, summing)
        self.state_memory = self._training.sum.step_memory
        self.gathering = Gathering(self.channel, self._training.between, secrets.token_hex(4))
        self.gathering.on_change = lambda names: self._show(replace(self.progress, waiting_for=tuple(names)))
        if job.algorithm.chain.protocol is not None:
            self.protocol = ProtocolRounds(self.channel, self.rounds, self.gathering, self.log)
        self._recall(0)

    @property
    def attempt(self) -> int:
        """The attempt at the present round, above 0 where a restart has begun the exchanges of a protocol again."""
        return 0 if self.protocol is None else self.protocol.attempt

    @property
    def training(self) -> NetworkTraining:
        """The rounds of training, once the engine is open."""
        assert self._training is not None
        return self._training

    def clients(self) -> Sequence[str]:
        """The population."""
        return self.job.known.clients

    @property
    def busy(self) -> int:
        """The number of clients that are at work on an earlier request, or whose update waits to count."""
        return len(self.coordinator.pool.held)

    def candidates(self, enough: Callable[[Sequence[str]], bool]) -> Sequence[str]:
        """The clients that may be asked; waits until they are enough for a round.

        Raises:
            WaitedTooLong: if that takes longer than the limit.
        """
        self.rounds.replay_between()
        opened = self.rounds.opened if self.protocol is None else self.protocol.recall()
        if opened is not None:  # the round that a crash interrupted had these
            self.training.take_in(opened.more.get("sizes", {}))
            return tuple(opened.more["available"])
        self.channel.assignments.begin()
        channel, begun = self.channel, self.channel.clock.now()
        pool, options = self.coordinator.pool, self.options
        while True:
            present = channel.members.available()
            free = tuple(client for client in present if pool.may_ask(client))
            there = len(free) + len(pool.held)
            missing = sorted(options.expected - set(present) - pool.held)
            if not missing and there >= options.min_clients and enough(free):
                self.rounds.available, self.rounds.sizes = free, self.training.take_in()
                return free
            self._wait(begun, there, missing)

    def ask(self, ask: Ask) -> Answer:
        """Puts a request to clients and waits for its quorum."""
        match ask.request:
            case Train():
                answer = self._train(ask)
                self._show(Progress("between rounds", ask.round, self.now))
                return answer
            case Settle():
                return self._settle(ask)
        self._show(Progress(PHASES[type(ask.request)], ask.round, self.now, ask.cohort))
        if isinstance(ask.request, Exchange):
            assert self.protocol is not None
            return self.protocol.exchange(ask)
        return self.gathering.answer(ask)

    def close(self) -> None:
        """Stops waiting for replies; requests that are open stay so, for a run that is gone on with."""
        self.channel.assignments.end()
        if self._training is not None:
            self._training.sum.close()

    # what a resumed run needs ---------------------------------------------------------------------------

    def saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The pool, the open rounds, the attempts of a protocol, and the number of the last event that they include."""
        values, tensors = self.coordinator.to_state()
        record = {"record": self.rounds.record.to_state(), "event": self.rounds.last}
        protocol = {} if self.protocol is None else {"protocol": self.protocol.to_state()}
        return {**values, **record, **protocol, "decided": self._decided, "now": self.now}, tensors

    def restore(self, notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what was saved, with the events since then."""
        self.coordinator.from_state(notes, tensors)
        self._decided = notes.get("decided", self.coordinator.pool.round)
        self.rounds.record = RoundRecord.from_state(notes["record"])
        self.channel.clock.set(notes["now"])
        if self.protocol is not None:
            self.protocol.from_state(notes.get("protocol", {}))
        self._recall(notes["event"])

    def verdict(self, client: str, pending: Pending) -> RoundVerdict | None:
        """The verdict on an update that a client still holds as pending; `None` while its round is open."""
        decided = self._decided  # read before the log, since the run's thread writes the log first
        if (known := self.log.verdict(client, pending.round, pending.attempt)) is not None:
            return known
        if self._training is None:
            return None
        if self.protocol is not None and self.protocol.is_left(pending.round, pending.attempt):
            return RoundVerdict(round=pending.round, attempt=pending.attempt, counted=False, reason=BEGUN_AGAIN)
        ticket = self.coordinator.pool.ticket_of(client)
        if ticket is not None and ticket.round == pending.round:
            return None
        if pending.round >= decided:
            return None
        why = "the server knows nothing of this update"
        return RoundVerdict(round=pending.round, attempt=pending.attempt, counted=False, reason=why)

    def _recall(self, after: int) -> None:
        """Takes the events since the one of this number, which are fed again."""
        recorded = self.log.after(after)
        self.rounds.recorded.clear()
        self.rounds.recorded.extend(recorded)
        self.rounds.last = after
        if recorded:
            self.channel.clock.set(recorded[-1][1].at)

    # parts ----------------------------------------------------------------------------------------------

    def _train(self, ask: Ask) -> Answer:
        """The answer to a request to train, which is one step of a round where there is a protocol."""
        if self.protocol is None:
            return self.training.train(ask)
        self.protocol.begin(ask)
        answer = self.training.train(ask)
        return replace(answer, notes=(*answer.notes, *self.protocol.trained()))

    def _wait(self, begun: float, there: int, missing: Sequence[str]) -> None:
        """Waits a moment for clients."""
        limit, needed = self.options.wait_limit_s, self.options.min_clients
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        of = f"for {names}" if missing else f"for clients: {there} are connected, and {needed} are needed at least"
        if limit is not None and self.now - begun > limit:
            raise WaitedTooLong(
                f"the server has waited {limit:g} s {of}. Start the missing agents and serve the same folder again, "
                "or raise federation.wait_limit_s."
            )
        following = max(self.coordinator.pool.round + 1, self._decided)  # a pool that was restored has had no round yet
        self._show(Progress("waiting for clients", following, begun, tuple(missing), note=of))
        event = self.channel.event()
        self.training.between(event)
        if self.coordinator.pool.busy:
            self.training.lose_silent()

    def _settle(self, ask: Ask) -> Answer:
        """Writes the verdicts on the round, which each client receives at its next contact."""
        verdicts = self.training.verdicts(ask.cohort)
        if self.protocol is not None:
            verdicts = self.protocol.end(verdicts)
        self.log.record_verdicts(verdicts)
        self._decided = max(self._decided, ask.round + 1)
        self.channel.assignments.add_verdicts(verdicts, self.channel.members.node_of)
        return Answer()

    def _show(self, progress: Progress) -> None:
        if progress != self.progress:
            self.progress = progress
            self.show(progress)
