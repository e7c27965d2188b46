"""The sizes of the clients' data that a run at a server knows: what they report, taken in between two rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headway.data import ClientSize, RemoteData
from headway.federation.http_api import DataFacts
from headway.federation.serving.server_setup import ServerSetup

Sizes = Mapping[str, Sequence[Any]]  # training and test examples, and fingerprint, by client, as events hold them


def reported_sizes(facts: Mapping[str, DataFacts]) -> dict[str, list[Any]]:
    """What clients report of their data, in plain values."""
    return {client: [each.train, each.test, each.fingerprint] for client, each in facts.items()}


def take_in(setup: ServerSetup, reported: Sizes) -> tuple[list[str], list[str]]:
    """Takes in what clients report of their data; those that are new or changed, and notes on the latter."""
    known = setup.job.known
    if not isinstance(known, RemoteData):
        return [], []
    before = dict(known.sizes)
    changed = known.update({client: ClientSize(*each) for client, each in reported.items()})
    setup.collector.population = setup.job.population
    notes = []
    for client in (client for client in changed if client in before):
        old, new = before[client], known.sizes[client]
        sizes = f"{new.train} training examples and {new.test} to test, before {old.train} and {old.test}"
        notes.append(f"the data of {client} have changed: {sizes}")
    return changed, notes
