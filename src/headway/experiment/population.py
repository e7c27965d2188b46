"""The clients of a run: whether they can ever fill a round, and the record of each that samplers read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from headway.core.algorithm import Algorithm
from headway.core.errors import ConfigError
from headway.core.replicas import check_groups
from headway.data import ClientData, RemoteData
from headway.engines import ClockEngine, Engine
from headway.engines.virtual_clock.device_availability import HORIZON_S, Bernoulli
from headway.numerics.binomial import log_choose
from headway.numerics.keys import Key
from headway.numerics.units import time_text
from headway.protocol.client_history import ClientHistory
from headway.protocol.standings import StandingsRecord as StandingsRecord
from headway.samplers import Fixed


def check_population(algorithm: Algorithm, engine: Engine, known: ClientData) -> None:
    """Refuses a sampler that no round of these clients can satisfy, and a clock by which one takes years.

    Of clients that join as they come nothing is known before they do.

    Raises:
        ConfigError: with the number that is too large or too small.
    """
    if (population := known.population) is None:
        return
    sampler, clients = algorithm.sampler, _names(known, population)
    check_names(algorithm, clients)
    if isinstance(sampler, Fixed):
        sampler.draw(clients, 0, Key.root(0))  # which names a client that is not there
    elif not algorithm.enough(clients):
        count = getattr(sampler, "count", None)
        wanted = "more clients than there are" if count is None else f"{count} clients in a round"
        raise ConfigError(
            f"{type(sampler).__name__} is to draw {wanted}, but the data have {len(clients)}: lower "
            f"algorithm.sampler.count to {len(clients)} at most, or divide the data among more clients."
        )
    if not isinstance(engine, ClockEngine):
        return
    available = engine.fleet.availability
    if isinstance(available, Bernoulli) and 0 < available.share < 1:
        _check_wait(available, algorithm, clients)


def check_names(algorithm: Algorithm, clients: Sequence[str]) -> None:
    """Refuses clients that are not in groups of replicas, or have no root, where the rule knows them by name.

    Raises:
        ConfigError: naming the rule and what is missing.
    """
    if (replicas := algorithm.flows()[-1].replicas) > 1:
        check_groups(clients, replicas)
    rule = algorithm.chain.aggregator
    if (root := getattr(rule, "root", None)) is not None and root not in clients:
        raise ConfigError(
            f"{type(rule).__name__}.root is {root!r}, which must be the client that holds the server's root data, "
            f"found none of that name among {len(clients)}: name one of them."
        )


def _names(known: ClientData, population: int) -> Sequence[str]:
    """All clients of a population."""
    names = known.expected if isinstance(known, RemoteData) else known.clients
    assert len(names) == population
    return names


def _check_wait(available: Bernoulli, algorithm: Algorithm, clients: Sequence[str]) -> None:
    """Refuses a share by which enough clients are there at once too seldom."""
    needed, of = _fewest(algorithm, clients)
    chance = at_least(needed, of, available.share)
    seconds = available.every_s / chance if chance else math.inf
    if seconds > HORIZON_S:
        often = f"every {seconds / (365 * 86_400):.2g} years" if math.isfinite(seconds) else "never"
        raise ConfigError(
            f"a round needs {needed} of {of} clients at once, but with clock.availability.share = {available.share:g} "
            f"so many are there {often} of simulated time on average, and no client is waited for longer than "
            f"{time_text(HORIZON_S)}: raise the share, or lower algorithm.sampler.count."
        )


def _fewest(algorithm: Algorithm, clients: Sequence[str]) -> tuple[int, int]:
    """The number of clients that a round needs at once, and of how many they are."""
    if isinstance(algorithm.sampler, Fixed):
        return len(algorithm.sampler.clients), len(algorithm.sampler.clients)
    low, high = 0, len(clients)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if algorithm.enough(clients[:middle]) else (middle + 1, high)
    return low, len(clients)


def at_least(successes: int, trials: int, chance: float) -> float:
    """The probability of so many successes or more in independent trials.

    >>> round(at_least(2, 3, 0.5), 3), at_least(0, 3, 0.1)
    (0.5, 1.0)
    """
    if successes <= 0:
        return 1.0
    total = 0.0
    for count in range(successes, trials + 1):
        term = math.exp(log_choose(trials, count) + count * math.log(chance) + (trials - count) * math.log1p(-chance))
        total += term
        if count > trials * chance and term < 1e-12 * total:
            break
    return min(total, 1.0)


def history_of(algorithm: Algorithm, engine: Engine, known: ClientData) -> ClientHistory | None:
    """The record of each client, where the sampler reads one.

    Raises:
        ConfigError: if it does, and the clients that may take part are not known by name.
    """
    facts = algorithm.sampler.facts(None)
    if not isinstance(known, RemoteData):
        return ClientHistory.of(facts, engine.clients(), known.train_sizes)
    if not facts.reads:
        return None
    if not known.expected:
        raise ConfigError(
            f"{type(algorithm.sampler).__name__} keeps a record of each client, but the clients of {known.name!r} are "
            "not known by name: list them (federation.clients), or use Uniform or All."
        )
    return ClientHistory(known.expected, torch.zeros(len(known.expected), dtype=torch.int64), facts.reads)


def refresh_sizes(history: ClientHistory | None, known: ClientData) -> None:
    """Gives the history the sizes that clients report by now, where their data lie with them."""
    if history is not None and isinstance(known, RemoteData):
        history.set_sizes({client: size.train for client, size in known.sizes.items()})
