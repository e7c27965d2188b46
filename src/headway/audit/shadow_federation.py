"""A run's server and clients in this process, for rounds that an attacker looks into and that are then forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from headway.audit.round_view import RoundView, TappedAlgorithm
from headway.audit.shadow_clients import ShadowClients
from headway.client.remote_client import RemoteClient
from headway.client_state.store import MemoryStore
from headway.core.algorithm import Algorithm, State
from headway.core.flow import EngineFacts
from headway.data import FederatedData
from headway.engines.engine import Job
from headway.engines.executors.client_setup import ClientSetup
from headway.model.data_checks import check_data
from headway.model.device import Device
from headway.model.task import Task
from headway.numerics.keys import Key
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.messages import Message

FACTS = EngineFacts("the audit", clock=True)  # every client answers at once, whatever the quorum


class ShadowFederation:
    """A run's server and clients for rounds that are looked into: nothing is learned, kept, or spent of a budget.

    Requests and replies travel as bytes, as on a network, and pass the checks of the server.  Each round starts from a
    state that is given, and the clients forget it when it is over.  A round has the cohort that the caller names.

    Raises:
        ConfigError, DataError, ChainRefused: if the parts of the run do not fit.
    """

    def __init__(self, algorithm: Algorithm, data: FederatedData, task: Task, seed: int) -> None:
        data = data.to(task.number)
        task = task if task.example is not None else replace(task, example=data.example)
        self.key, self.algorithm = Key.root(seed), algorithm
        self.data = data.with_notes(check_data(task, data, self.key))
        flows = algorithm.flows(FACTS, population=data.population)
        job = Job(algorithm, task, self.data, self.key, MemoryStore(data.clients))
        self.setup = ClientSetup.of(job, flows, False, Device(), False)
        self.flows = self.setup.flows
        self.flat_module = self.setup.flat_module
        self.start = self._initial_state(task)
        self.remote: dict[str, RemoteClient] = {}

    def _initial_state(self, task: Task) -> State:
        averaged = task.buffers == "average" and self.flat_module.has_statistics
        statistics = self.flat_module.statistics().cpu() if averaged else None
        return self.algorithm.initial_state(self.flat_module.shared.cpu(), statistics)

    @property
    def sees_each(self) -> bool:
        """Whether the server sees each client's update."""
        return self.flows[-1].server_sees == "each"

    @property
    def sees(self) -> str:
        """What the server sees, as a phrase."""
        last = self.flows[-1]
        sums = f"only the sums of {last.buckets} buckets of clients"
        return {"each": "each client's update", "sum": "only the sum of the updates"}.get(last.server_sees, sums)

    def round(self, cohort: Sequence[str], state: State | None = None, steps: int | None = None) -> RoundView:
        """One round from a state, by default the initial one.

        steps: the number of local steps that the server asks for, instead of the trainer's own.

        Raises:
            What a run's round raises.
        """
        state = self.start if state is None else state
        tapped, clients = TappedAlgorithm.of(self.algorithm), ShadowClients(self.setup, self.remote, steps)
        effects = tapped.round(
            state,
            tuple(sorted(cohort)),
            key=self.key,
            layout=self.flat_module.layout,
            flows=self.flows,
            population=len(self.data.clients),
        )
        try:
            after = drive(effects, EffectHandler(clients.answer))
        finally:
            clients.forget()
        return RoundView(
            Message(state.params, self.algorithm.chain.broadcast(state.stages), state.buffers),
            clients.seen,
            tapped.aggregates[0] if tapped.aggregates else None,
            tapped.releases[0] if tapped.releases else None,
            state,
            after,
            tuple(clients.counted),
            clients.declined,
        )
