"""A job at an agent: the algorithm of a description on the agent's own data, model and memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from headway.client.participant import Participant
from headway.engines.engine import Job
from headway.engines.executors.client_setup import ClientSetup
from headway.federation.agent.agent_memory import AgentMemory
from headway.federation.agent.answering import Answering, KnownSteps
from headway.federation.agent.job_building import algorithm_of_names
from headway.federation.agent.local_policy import reads_sizes
from headway.federation.agent.own_data import data_facts, fitted, read_data
from headway.federation.agent.surroundings import Surroundings
from headway.federation.agent.task_building import task_of_names
from headway.federation.http_api import DataFacts, JobDescription, JoinRequest, Pending, TaskFacts
from headway.federation.job_facts import NETWORK, own_versions, task_facts
from headway.model.task import Task
from headway.numerics.keys import Key


@dataclass(frozen=True, slots=True)
class AgentJob:
    """One job, ready for requests.

    memory: of the client; whose committed part the agent sets.  task, data: the facts that the server checks.
    """

    description: JobDescription
    setup: ClientSetup
    memory: AgentMemory
    answering: Answering
    task: TaskFacts
    data: DataFacts
    certificate: str

    @property
    def exchanges_keys(self) -> bool:
        """Whether the clients of the job agree on keys with one another."""
        protocol = self.setup.job.algorithm.chain.protocol
        return protocol is not None and protocol[1].exchanges

    def join_request(self, pending: Pending | None) -> JoinRequest:
        """The request to join; pending: its memory without a verdict."""
        return JoinRequest(
            job=self.description.job,
            versions=own_versions(),
            task=self.task,
            data=self.data,
            pending=pending,
            memory=self.memory.committed is not None,
            certificate=self.certificate,
        )

    @classmethod
    def of(
        cls,
        description: JobDescription,
        own: Surroundings,
        private_key: Key,
        memory: AgentMemory,
        known: KnownSteps = lambda step: None,
    ) -> AgentJob:
        """The job of a description; reads the data.

        private_key: of this agent, from which it draws where the job says so.  memory: its own of this job.
        known: what a step of a protocol has had before.

        Raises:
            ConfigError, DataError, ChainRefused: if the job, the policy, the data and the task do not fit.
        """
        algorithm = algorithm_of_names(description.algorithm)
        flows = algorithm.flows(NETWORK, population=description.population or None)
        own.policy.check(algorithm, flows, description.randomness)
        data, key = read_data(own.data, description), Key.root(description.seed)
        task = own.task(description, data) if own.task is not None and not isinstance(own.task, Task) else own.task
        if task is None:
            task = task_of_names(description.model, description.task_section, data)
        data = fitted(data, task, key)
        task = task if task.example is not None else replace(task, example=data.store.inputs[:1].clone())
        job = Job(algorithm, task, data, key, memory, description.rounds, description.randomness == "system")
        setup = ClientSetup.of(job, flows, False, own.device, False)
        client = data.clients[0]
        setup.client_algorithm.run = description.job
        signer = own.signer or setup.client_algorithm.signer(own.name)
        setup.client_algorithm.signer = lambda client: signer
        if description.keys == "private":
            setup.client_algorithm.key = private_key
        held = setup.job.data
        test = held.test_of(client) if len(held.test[client]) else None
        participant = Participant(own.name, setup.client_algorithm, held.train_of(client), test, memory)
        largest = setup.first_ask([own.name]).message
        shown = not algorithm.protected or description.client_metrics == "released"
        changed = None
        if own.attack is not None:
            own.attack.join(own.name, setup)
            changed = partial(own.attack.change, own.name)
        answering = Answering(participant, memory, largest, own.policy.telemetry and shown, known, changed)
        facts = data_facts(data, notes=own.policy.telemetry)
        if algorithm.protected and not reads_sizes(flows):
            facts = facts.without_sizes()
        known_task = task_facts(setup.flat_module)
        return cls(description, setup, memory, answering, known_task, facts, own.certificate)
