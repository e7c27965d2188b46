"""The common parts of all executors: the job here, its model, the clients' algorithm and the server's checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headway.client.client_algorithm import ClientAlgorithm
from headway.client.client_training import ClientTraining
from headway.core.flow import Flow
from headway.engines.engine import Job
from headway.model.device import Device
from headway.model.flat_module import FlatModule
from headway.model.module_checks import EXAMINED, examine, has_own_code, untouched
from headway.model.shapes import check_shapes
from headway.observe.drift import DriftMeter
from headway.protocol.messages import Ask, Message, Train
from headway.server.collector import UpdateCollector
from headway.server.guard import Promise


@dataclass(frozen=True, slots=True)
class ClientSetup:
    """One job in one process.

    job: its examples lie on the device, where they fit.  measure: whether drift is measured.  guard: what updates must
    be.  summed: how many numbers each vector of the sum has.
    """

    job: Job
    flows: tuple[Flow, ...]
    measure: bool
    device: Device
    flat_module: FlatModule
    client_algorithm: ClientAlgorithm
    training: ClientTraining
    guard: Promise
    collector: UpdateCollector
    summed: dict[str, int]

    @classmethod
    def of(cls, job: Job, flows: tuple[Flow, ...], measure: bool, device: Device, channels_last: bool) -> ClientSetup:
        """The setup of a job.

        Raises:
            ConfigError: if the loss or a metric would pair the model's outputs and the targets wrongly.
        """
        device.check(job.task.number)
        measure = measure or job.algorithm.reputation is not None
        job = replace(job, known=job.data.with_store(device.place_dataset(job.data.store)))
        flat_module = FlatModule(job.task, job.key, device)
        flat_module.channels_last = channels_last
        flat_module.own_code = has_own_code(job.algorithm, job.task)
        examine(flat_module, job.data.store.rows(0, EXAMINED))
        with untouched(flat_module):
            check_shapes(flat_module, [job.data.store, *([] if job.data.central is None else [job.data.central])])
        size, statistics = flat_module.layout.size, 0
        if job.task.buffers == "average" and flat_module.has_statistics:
            statistics = flat_module.statistics_layout.size
        flows = job.algorithm.sized(flows, size, statistics)
        clients = ClientAlgorithm(job.algorithm, flat_module, flows, job.key, measure)
        if job.system:
            clients.use_system_randomness()
        clients.check(job.data.train_sizes.tolist())
        training = ClientTraining(clients)
        guard = Promise.of(job.algorithm.chain, flows, size, statistics)
        population = len(job.data.clients)
        collector = UpdateCollector(job.algorithm, job.key, flows, flat_module.layout, device, guard, population)
        summed = job.algorithm.chain.summed_lengths(flows, size) | ({"buffers": statistics} if statistics else {})
        return cls(job, flows, measure, device, flat_module, clients, training, guard, collector, summed)

    @property
    def has_client_state(self) -> bool:
        """Whether a stage keeps memory at clients."""
        return any(stage.has("remember") for stage in self.job.algorithm.chain)

    def meter(self, ask: Ask, cohort: int | None = None) -> DriftMeter | None:
        """The meter of a round's drift, if that is measured; cohort: its number of clients, if not the ask's."""
        if not self.measure:
            return None
        kept = self.job.algorithm.reputation is not None
        return DriftMeter.of(ask, cohort or len(ask.cohort), self.flat_module.layout.size, self.job.key, kept)

    def first_ask(self, clients: Sequence[str], steps: int | None = None) -> Ask:
        """The ask of the run's first round to these clients; steps: how many each makes, if not all."""
        flat_module, chain = self.flat_module, self.job.algorithm.chain
        start = flat_module.shared.clone().cpu()  # as the server has it
        averaged = self.job.task.buffers == "average" and flat_module.has_statistics
        statistics = flat_module.statistics().cpu() if averaged else None
        message = Message(start, chain.broadcast(chain.init(start)), statistics)
        return Ask(Train(message), tuple(clients), steps={} if steps is None else dict.fromkeys(clients, steps))
