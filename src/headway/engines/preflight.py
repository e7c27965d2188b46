"""Before the first round the whole path is tried once on a few examples, so that what cannot work fails by its name."""

from __future__ import annotations

from dataclasses import replace

from headway.client.central_test import CentralTest, spread
from headway.client.evaluation import score_client
from headway.core.algorithm import State
from headway.core.errors import ConfigError, HeadwayError, UpdateRejected
from headway.core.update import Tensors
from headway.data.dataset.client_index import ClientIndex
from headway.engines.engine import Engine
from headway.engines.executors.client_setup import ClientSetup
from headway.engines.grouping import expected_cohort
from headway.model.blame import stage_of
from headway.model.module_checks import untouched
from headway.protocol.effects import EffectHandler, drive
from headway.protocol.messages import Answer, Ask, Exchange, Message, Train
from headway.protocol.sums import ExactTotal
from headway.server.collector import GroupResult

TRAINED = 32  # examples of one client
LEAST = 4  # examples that a client has whose training is tried, if there is one
MOST_MEMBERS = 64  # clients of a protocol whose exchanges are tried
ROWS = 1 << 24  # numbers of all updates that a rule for the whole cohort is tried on


def try_once(engine: Engine, central: CentralTest | None, state: State, evaluated: bool) -> list[str]:
    """Tries the clients' part of the path and the evaluation on the central test set; sentences on what a user should
    know of how the model is used.

    Raises:
        HeadwayError: naming what fails.
    """
    notes = engine.try_once(state, evaluated)
    if central is not None:
        central.score(state, few=True)
    return list(notes)


def try_client(setup: ClientSetup, state: State, evaluated: bool) -> list[str]:
    """Trains one client for one step, sums its update, advances the server's state, and evaluates the client;
    sentences on what was not tried.

    A protocol with exchanges is tried with the fewest clients that it takes, each of which trains on the examples of
    the one; where these are more than `MOST_MEMBERS`, or than there are, the client alone trains, and sends what would
    be masked.

    All is forgotten: parameters, statistics, attributes, modes, generators, notes; no memory is proposed.

    evaluated: whether clients are evaluated in the run.

    Raises:
        ClientFailed: naming the client, the part that failed, and its inputs.
        ConfigError: naming the stage that failed at the server.
    """
    data, flat_module = setup.job.data, setup.flat_module
    with untouched(flat_module):
        with setup.device.training():
            notes = _train(setup, state, _first_drawn(setup))
        tested = ClientIndex.of(data.test).sizes
        if evaluated and bool(tested.any()):
            client = data.clients[int((tested > 0).nonzero()[0])]
            examples = spread(data.test_of(client))
            message = setup.device.message(Message(state.model, buffers=state.buffers))
            score_client(flat_module, message, examples, setup.job.memory, client)
    return notes


def _first_drawn(setup: ClientSetup) -> str:
    """The first client that a round can have and that has a few examples, or as many as any has."""
    job = setup.job
    named = getattr(job.algorithm.sampler, "clients", None) or ()
    names = [name for name in named if name in job.data.train] or job.data.clients
    sizes = (
        ClientIndex.of(job.data.train).sizes
        if names is job.data.clients
        else ClientIndex.of(job.data.train).sizes_of(names)
    )
    return names[int((sizes >= min(LEAST, int(sizes.max()))).nonzero()[0])]


def _train(setup: ClientSetup, state: State, client: str) -> list[str]:
    """One client's step, and the server's part of a round with its update; sentences on what was left out."""
    job, trainer = setup.job, setup.client_algorithm.trainer
    algorithm, examples = job.algorithm, job.data.train_of(client)
    batch = getattr(trainer, "batch_size", None) or TRAINED
    examples = examples.rows(0, min(len(examples), TRAINED, max(batch, LEAST)))
    members, secrets = _members(setup, client), dict[str, Tensors]()
    if untried := _untried(setup, len(members)):
        members = (client,)
    steps = dict.fromkeys(members, 1) if trainer.facts.paced else {}

    def send(ask: Ask) -> Answer:
        if isinstance(ask.request, Exchange):
            return Answer(replies={name: _exchanged(setup, ask, name, secrets) for name in ask.cohort})
        here, outcome = replace(ask, steps=steps).map_broadcasts(setup.device.message), None
        done, total, counted = GroupResult(), ExactTotal(), members if len(members) > 1 else _senders(setup, client)
        for name in counted:
            if outcome is None or name in secrets:  # each masks its own; without masks one update stands for all
                sender = name if secrets else client
                outcome = setup.training.train(sender, here, examples, job.memory.get(client), secrets.get(name))
                setup.guard.check(outcome.update, client, len(examples))
            setup.collector.count(here, name, outcome, done)
            if name in secrets:
                request = ask.request_for(name)
                assert isinstance(request, Train)
                facts = setup.client_algorithm.exchange_context(name, request)
                secrets[name] = algorithm.spent(request, secrets[name], facts)
        total.add_group(done.group)
        reports = setup.collector.reports_of(members, (0.0, 0, 0), 0, 0, 0.0, 0.0, 0.0)
        return Answer(total=total, reports=reports)

    if untried:
        ask = replace(setup.first_ask([client]), steps=steps).map_broadcasts(setup.device.message)
        setup.training.trial.train(client, ask, examples, job.memory.get(client))
        return [untried]
    population, layout = len(job.data.clients), setup.flat_module.layout
    rounds = algorithm.round(state, members, key=job.key, layout=layout, flows=setup.flows, population=population)
    try:
        drive(rounds, EffectHandler(send))
    except HeadwayError as error:
        if not isinstance(error, UpdateRejected) and type(error) is not HeadwayError:
            raise  # the others are a matter of values, which the rounds themselves report
    except Exception as error:
        raise ConfigError(
            f"{stage_of(error)} failed on a trial update before the first round, with {type(error).__name__}: {error}."
        ) from error
    return []


def _members(setup: ClientSetup, client: str) -> tuple[str, ...]:
    """The cohort of the trial, sorted: this client, with as many others as a protocol needs."""
    needed = _needed(setup)
    others = [name for name in setup.job.data.clients[:needed] if name != client] if needed else []
    return tuple(sorted([client, *others[: needed - 1]]))


def _needed(setup: ClientSetup) -> int:
    """The fewest clients that the chain's protocol takes, 0 where it has none."""
    last = setup.flows[-1]
    return 0 if setup.job.algorithm.chain.protocol is None else max(last.min_cohort, last.min_updates)


def _untried(setup: ClientSetup, members: int) -> str:
    """A sentence on exchanges that the trial leaves to the first round, with the reason; empty where there are none."""
    protocol, needed = setup.job.algorithm.chain.protocol, _needed(setup)
    if protocol is None or needed <= members <= MOST_MEMBERS:
        return ""
    reason = f"a trial takes {MOST_MEMBERS} at most" if needed > MOST_MEMBERS else f"there are {members} here"
    return (
        f"the exchanges of {protocol[0]} were not tried before the first round, since they need {needed} "
        f"clients and {reason}: one client was trained without them, and what fails in them shows in the first round."
    )


def _exchanged(setup: ClientSetup, ask: Ask, client: str, secrets: dict[str, Tensors]) -> Tensors:
    """A client's reply to an exchange of the protocol."""
    request = ask.request_for(client)
    assert isinstance(request, Exchange)
    facts = setup.client_algorithm.exchange_context(client, request)
    reply, secrets[client] = setup.job.algorithm.answer(request, secrets.get(client, {}), facts)
    return reply


def _senders(setup: ClientSetup, client: str) -> list[str]:
    """Under whose names the update counts: as many clients as a round has, where a rule looks at the whole cohort."""
    if not setup.job.algorithm.chain.aggregator.whole_cohort:
        return [client]
    cohort = expected_cohort(setup.job.algorithm, len(setup.job.data.clients))
    return list(setup.job.data.clients[: max(1, min(cohort, ROWS // max(setup.flat_module.layout.size, 1)))])
