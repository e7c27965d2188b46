"""All that the rounds of a run work with, made ready once: data, engine, clients' memory, the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from headway.client.central_test import CentralTest
from headway.client_state.store import Memories
from headway.core.algorithm import Algorithm, State
from headway.core.errors import ConfigError
from headway.core.flow import Flow
from headway.data import ClientData, known_population
from headway.engines import Engine, Job, LocalEngine
from headway.experiment.population import StandingsRecord, check_population, history_of
from headway.experiment.run_options import RunOptions
from headway.model.data_checks import check_data
from headway.model.flat_module import FlatModule
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.observe.run_folder import read_identity
from headway.protocol.client_history import ClientHistory


@dataclass(frozen=True)
class Federation:
    """An algorithm, data, a task and an open engine, with all that follows from them.

    known: the clients with their sizes, and their examples where these lie here.
    key: of the run, from its seed.  memory: of the clients.  flows: the facts after each stage of the chain.
    history: what samplers know of the clients' earlier rounds, where the sampler asks for it.
    flat_module: the model, with its initial weights.  central: scores models on the central test set, where there is
    one.  system: whether noise is drawn from the operating system.  standings: of the clients with the server, where
    the algorithm has a reputation.
    """

    algorithm: Algorithm
    known: ClientData
    task: Task
    engine: Engine
    key: Key
    memory: Memories
    flows: Sequence[Flow]
    history: ClientHistory | None
    flat_module: FlatModule
    central: CentralTest | None
    system: bool = False
    standings: StandingsRecord | None = None

    @classmethod
    def open(cls, algorithm: Algorithm, known: ClientData, task: Task, options: RunOptions) -> Federation:
        """Checks data, chain and population, and opens the engine.

        Raises:
            ConfigError, DataError, ChainRefused, RunFolderError: if the parts do not fit, or the engine cannot work.
        """
        known = known.to(task.number)
        task = task if task.example is not None else replace(task, example=known.example)
        key = Key.root(options.seed)
        if (held := known.held) is not None:
            known = held.with_notes(check_data(task, held, key))
        engine = options.engine or LocalEngine()
        if options.until_s is not None and not (engine.facts.clock and options.until_s > 0):
            raise ConfigError(
                f"until_s is {options.until_s}: it needs a run with a simulated clock, and must be above 0 seconds."
            )
        if options.resume and options.place is not None:
            engine.restore_settings(read_identity(options.place).get("plan", {}))
        memory = engine.memory(known.clients, options.place)
        flows = algorithm.flows(engine.facts, population=known.population)
        check_population(algorithm, engine, known)
        asked = options.privacy.randomness
        system = asked == "system" or (asked is None and engine.facts.deployed)
        engine.open(Job(algorithm, task, known, key, memory, options.rounds, system))
        try:
            history = history_of(algorithm, engine, known)
            flat_module = FlatModule(task, key, engine.site)
            averages = task.buffers == "average" and flat_module.has_statistics
            averaged = flat_module.statistics_layout.size if averages else 0
            flows = algorithm.sized(flows, flat_module.layout.size, averaged)
            central = None if known.central is None else CentralTest(flat_module, known.central, algorithm, key)
        except BaseException:
            engine.close()
            raise
        standings = None if algorithm.reputation is None else StandingsRecord(algorithm.reputation)
        return cls(algorithm, known, task, engine, key, memory, flows, history, flat_module, central, system, standings)

    @property
    def population(self) -> int:
        """The number of clients, as far as they are known."""
        return len(self.engine.clients()) if self.known.held is not None else known_population(self.known)

    @property
    def averages_statistics(self) -> bool:
        """Whether the model has statistics that are averaged."""
        return self.task.buffers == "average" and self.flat_module.has_statistics

    def initial_state(self) -> State:
        """The server's state before the first round."""
        buffers: Tensor | None = self.flat_module.statistics().cpu() if self.averages_statistics else None
        return self.algorithm.initial_state(self.flat_module.shared.cpu(), buffers)

    def kept(self, state: State) -> State:
        """The same state, in the memory that the engine has for the server's."""
        memory = self.engine.state_memory
        return state if memory is None else memory.kept(state)
