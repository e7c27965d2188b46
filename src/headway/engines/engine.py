"""The abstract engine: runs asks on clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from headway.client_state.store import Memories, MemoryStore
from headway.core.algorithm import Algorithm, State, StateMemory
from headway.core.flow import EngineFacts
from headway.data import ClientData, FederatedData, examples_of, known_population
from headway.model.device import Device
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.protocol.messages import Answer, Ask


@dataclass(frozen=True, slots=True)
class Job:
    """A run's parts for an engine: the algorithm, the task, the data, the run's key, the clients' memory.

    known: the clients with their sizes, and their examples where these lie here.
    rounds: how many the run has, at most, on which the worth of preparation depends.  system: whether noise, masks and
    rounding are drawn from the operating system, so that the run does not repeat.
    """

    algorithm: Algorithm
    task: Task
    known: ClientData
    key: Key
    memory: Memories
    rounds: int = 1
    system: bool = False

    @property
    def data(self) -> FederatedData:
        """The data with their examples.

        Raises:
            ConfigError: if the examples lie with the clients.
        """
        return examples_of(self.known, "training in this process")

    @property
    def population(self) -> int:
        """The number of clients, as far as they are known."""
        return known_population(self.known)

    def train_sizes(self) -> dict[str, int]:
        """The number of training examples of each client that is known."""
        return dict(zip(self.known.clients, self.known.train_sizes.tolist(), strict=True))


class Engine(ABC):
    """Runs asks on clients, wherever they are.

    site: where the models and batches of a step lie.  state_memory: in which the server's state lies, once it is open;
    `None` for main memory without a limit.
    """

    site = Device()
    state_memory: StateMemory | None = None

    @property
    def now(self) -> float:
        """The seconds of a simulated clock, where there is one."""
        return 0.0

    @property
    @abstractmethod
    def facts(self) -> EngineFacts:
        """The engine's abilities."""

    @property
    def recorded_name(self) -> str:
        """The engine's name as run folders record it."""
        return self.facts.name

    @property
    def summary(self) -> str:
        """In a line, how it trains, where that is worth saying."""
        return ""

    @property
    def pinned_settings(self) -> dict[str, Any]:
        """The settings that fix a run's bits: given, or decided by measuring."""
        return {}

    @property
    def repeat(self) -> str:
        """The options of the command line with which another run has these bits, if something was measured that decides
        them; else ""."""
        return ""

    @property
    def timed(self) -> dict[str, Any]:
        """By which simulated clock, in plain values."""
        return {}

    @property
    def keeps_memory(self) -> bool:
        """Whether clients keep something between rounds."""
        return False

    def restore_settings(self, decided: Mapping[str, Any]) -> None:  # noqa: B027 (most engines decide nothing)
        """Takes over the settings of a run that is resumed; called before `open`.

        Raises:
            RunFolderError: if it cannot.
        """

    def memory(self, clients: Sequence[str], folder: Path | None) -> Memories:
        """The store of the clients' memory; folder: of the run, for what is too large for main memory."""
        return MemoryStore(clients, folder)

    @abstractmethod
    def open(self, job: Job) -> None:
        """Makes ready; refuses a chain that cannot work here."""

    @abstractmethod
    def clients(self) -> Sequence[str]:
        """The population, sorted; the same object in every round, so that nothing is made anew for it."""

    def try_once(self, state: State, evaluated: bool) -> Sequence[str]:
        """Tries the whole path on a few examples before the first round, and forgets it; sentences on what a user
        should know of how the model is used.

        state: that the next round starts from.  evaluated: whether clients are evaluated in the run.

        Raises:
            HeadwayError: naming what fails.
        """
        return ()

    @property
    def attempt(self) -> int:
        """The attempt at the round for which `candidates` was called last; above 0 where a protocol begins it again."""
        return 0

    @property
    def busy(self) -> int:
        """The number of clients that are at work on an earlier ask."""
        return 0

    def candidates(self, enough: Callable[[Sequence[str]], bool]) -> Sequence[str]:
        """The clients that may be asked; waits until they are enough for a round."""
        return self.clients()

    def saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The state of the engine that a resumed run needs: plain values, and tensors by name."""
        return {}, {}

    def restore(self, notes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:  # noqa: B027 (most keep nothing)
        """Goes on from what was saved."""

    @abstractmethod
    def ask(self, ask: Ask) -> Answer:
        """Runs one ask and waits for its quorum."""

    @abstractmethod
    def close(self) -> None:
        """Releases what was opened."""
