"""The server's parts of an algorithm, built again from the facts at the start of a chain of manifests."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from itertools import accumulate
from math import prod
from typing import Any

import torch

from headway.core.algorithm import State
from headway.core.errors import HeadwayError
from headway.core.flow import Flow
from headway.core.layout import Entry, Layout
from headway.experiment.identity import algorithm_of
from headway.federation.job_facts import NETWORK
from headway.federation.spool.manifest import Manifest
from headway.model.device import Device
from headway.numerics.keys import Key
from headway.protocol.effects import Effect
from headway.protocol.messages import Answer
from headway.server.collector import UpdateCollector
from headway.server.guard import Promise


class NotReplayable(HeadwayError):
    """A round that cannot be computed from what is at hand."""


class ReplaySetup:
    """The algorithm of a run, with the layout of its model.

    start: what `ManifestFolder.start` gives.

    Raises:
        NotReplayable: if the algorithm has parts that are not installed here.
    """

    def __init__(self, start: Mapping[str, Any]) -> None:
        try:
            self.algorithm = algorithm_of(start["algorithm"])
            self.layout, self.key = _layout(start["layout"], start["dtype"]), Key.root(start["seed"])
            self.statistics = int(start["statistics"])
        except (HeadwayError, KeyError, TypeError, ValueError) as error:
            raise NotReplayable(f"the algorithm of the run cannot be built here: {error}") from error

    def flows(self, planned: int | None) -> tuple[Flow, ...]:
        """The facts after each stage; planned: how many clients the run is for, if that is fixed."""
        return self.algorithm.flows(NETWORK, planned, self.layout.size, self.statistics)

    def at(self, manifest: Manifest) -> tuple[Promise, UpdateCollector, dict[str, int]]:
        """The promises on updates, the collector of their sum, and how many numbers each summed vector has."""
        flows, size, number = self.flows(manifest.planned), self.layout.size, manifest.population
        guard = Promise.of(self.algorithm.chain, flows, size, self.statistics)
        collector = UpdateCollector(self.algorithm, self.key, flows, self.layout, Device(), guard, number)
        lengths = dict(self.algorithm.chain.summed_lengths(flows, size))
        return guard, collector, {**lengths, **({"buffers": self.statistics} if self.statistics else {})}

    def round(self, state: State, cohort: tuple[str, ...], manifest: Manifest) -> Generator[Effect, Answer, State]:
        """The round of a manifest from the state before it."""
        flows, number = self.flows(manifest.planned), manifest.population
        return self.algorithm.round(state, cohort, key=self.key, layout=self.layout, flows=flows, population=number)


def _layout(entries: list[list[Any]], dtype: str) -> Layout:
    shapes = [tuple(shape) for _, shape in entries]
    offsets = [0, *accumulate(prod(shape) for shape in shapes)]
    named = zip(entries, shapes, offsets, strict=False)
    number = torch.float64 if dtype == "float64" else torch.float32
    return Layout(tuple(Entry(name, shape, offset) for (name, _), shape, offset in named), number)
