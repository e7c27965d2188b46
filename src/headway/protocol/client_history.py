"""The history of the clients at the server, for samplers that read it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from operator import mul, sub

import torch
from torch import Tensor

from headway.core.errors import ConfigError
from headway.core.facts import EARLIER_READINGS, Reading, SamplerFacts
from headway.protocol.reports import ClientReport, Reports

# column: which readings need it, what it is of a client that nothing is known of
COLUMNS: Mapping[str, tuple[frozenset[Reading], int | float | bool]] = {
    "asked": (frozenset({"participation"}), 0),
    "counted": (frozenset({"participation"}), 0),
    "last": (frozenset({"participation"}), -1),
    "in_flight": (frozenset({"participation", "availability"}), False),
    "seen": (frozenset({"availability"}), 0),
    "loss": (frozenset({"losses"}), math.nan),
    "seconds": (frozenset({"times"}), math.nan),
}


EARLIER_COLUMNS = {"in_flight": "out"}  # the names in checkpoints of earlier versions
PREFIX = "roster/"  # before the names of its tensors in a checkpoint


class ClientHistory:
    """The server's record of each client, a column for each fact and a row for each client.

    names: the population, sorted.  sizes: how many training examples each has, int64 `[N]`.  reads: what is kept; a
    column that is not read takes no memory.  The columns `[N]`:

        asked     how often the client was asked to train
        counted   how often its update counted; last: the last such round, -1 if there is none
        in_flight whether it was asked and has not answered since
        seen      in how many rounds it was available, or at work, when the round began
        loss      the mean training loss that it reported last, NaN if it never did
        seconds   how long it last took, in a clock's seconds: at least so long, if it did not answer; NaN if not known

    rounds: how many rounds it has seen.  totals: for each of them the sum, over the clients that counted, of their
    examples times their loss, float64 `[rounds]`.  fresh: the losses that were measured in this round.

    >>> history = ClientHistory(("a", "b"), torch.tensor([5, 3]), frozenset({"participation"}))
    >>> history.record_round(0, ("a", "b"), ("b",), [ClientReport("b", "counted")])
    >>> history.column("counted", history.places(["b", "a"])).tolist()
    [0, 1]
    """

    def __init__(self, names: Sequence[str], sizes: Tensor, reads: Iterable[Reading]) -> None:
        assert len(sizes) == len(names)
        self.names, self.sizes = names, sizes
        self.reads = frozenset(EARLIER_READINGS.get(reading, reading) for reading in reads)
        self.rounds = 0
        self.totals = torch.zeros(0, dtype=torch.float64)
        self.fresh: dict[str, float] = {}
        self._places: dict[str, int] | None = None
        self._columns = {name: _column(len(names), first) for name, (by, first) in COLUMNS.items() if by & self.reads}

    @classmethod
    def of(cls, facts: SamplerFacts, names: Sequence[str], sizes: Tensor) -> ClientHistory | None:
        """The history for a sampler of these facts, if it reads one; of fewer clients than sizes, one holds all."""
        sizes = sizes if len(names) == len(sizes) else sizes.sum().view(1)
        return cls(names, sizes, facts.reads) if facts.reads else None

    def set_sizes(self, sizes: Mapping[str, int]) -> None:
        """The numbers of training examples of some clients, which have changed or were not known.

        Raises:
            ConfigError: if one of them is not in the population.
        """
        for client, size in sizes.items():
            self.sizes[self._place(client)] = size

    def places(self, clients: Sequence[str]) -> Tensor:
        """The rows of these clients, ascending, int64 `[n]`: the same in whatever order they are named.

        Raises:
            ConfigError: if one of them is not in the population.
        """
        if clients is self.names:
            return torch.arange(len(self.names))
        return torch.tensor(sorted(self._place(client) for client in clients), dtype=torch.int64)

    def column(self, name: str, places: Tensor) -> Tensor:
        """One thing that is known, of the clients in these rows."""
        assert name in self._columns, f"{name} is not kept: the sampler's facts must list it"
        return self._columns[name][places]

    def named(self, places: Iterable[int]) -> tuple[str, ...]:
        """The clients of these rows, in order."""
        return tuple(self.names[place] for place in sorted(places))

    def set_fresh_losses(self, reports: Iterable[ClientReport]) -> None:
        """Takes the losses that were measured for this round; one that is no number is the worst there can be."""
        with_loss = Reports.of(reports).with_status("counted").with_metric("train_loss")
        losses = zip(with_loss.clients, with_loss.metric("train_loss"), strict=True)
        self.fresh = {client: math.inf if math.isnan(loss) else loss for client, loss in losses if loss is not None}

    def record_round(
        self, round: int, available: Sequence[str], cohort: Sequence[str], reports: Sequence[ClientReport]
    ) -> None:
        """Takes in a finished round: the available clients, the cohort, and the reports."""
        self.rounds, self.fresh = self.rounds + 1, {}
        kept = self._columns
        if "seen" in kept:
            present = kept["in_flight"].clone()
            present[self.places(available)] = True
            kept["seen"] += present
        if "in_flight" in kept:
            asked = self.places(cohort)
            kept["in_flight"][asked] = True
            if "asked" in kept:
                kept["asked"][asked] += 1
        if kept:
            self._note(round, Reports.of(reports))

    def tensors(self) -> dict[str, Tensor]:
        """All that changes, under the names that it has in a checkpoint; `restore` takes it back."""
        named = {"rounds": torch.tensor([self.rounds]), "totals": self.totals, **self._columns}
        return {f"{PREFIX}{name}": tensor for name, tensor in named.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from another history's tensors, also of an earlier version; other tensors may be among them."""
        self.rounds, self.totals = int(tensors[f"{PREFIX}rounds"]), tensors[f"{PREFIX}totals"]
        earlier = {name: EARLIER_COLUMNS.get(name, name) for name in self._columns}
        found = {name: name if f"{PREFIX}{name}" in tensors else earlier[name] for name in self._columns}
        self._columns = {name: tensors[f"{PREFIX}{found[name]}"].clone() for name in self._columns}

    def _note(self, round: int, reports: Reports) -> None:
        """Takes in the reports of a round, one of each client."""
        kept, place_of = self._columns, {client: self._place(client) for client in reports.clients}

        def rows(these: Reports) -> Tensor:
            return torch.tensor([place_of[client] for client in these.clients], dtype=torch.int64)

        if "in_flight" in kept:
            places = rows(reports)
            if "asked" in kept:
                kept["asked"][places] += ~kept["in_flight"][places]  # asked instead of one of the cohort
            kept["in_flight"][places] = False
        if "seconds" in kept:
            timed = reports.with_metric("asked_s")
            self._note_seconds(timed, rows(timed))
        counted = reports.with_status("counted")
        if "counted" in kept:
            places = rows(counted)
            kept["counted"][places] += 1
            kept["last"][places] = round
        if "loss" in kept:
            with_loss = counted.with_metric("train_loss")
            places, losses = rows(with_loss), with_loss.metric("train_loss")
            kept["loss"][places] = _numbers(losses)
            total = sum(map(mul, self.sizes[places].tolist(), losses))
            self.totals = torch.cat([self.totals, _numbers([total])])

    def _note_seconds(self, timed: Reports, places: Tensor) -> None:
        """The seconds of the timed clients; at least so many, where one did not answer."""
        took = _numbers(list(map(sub, timed.metric("ended_s"), timed.metric("asked_s"))))
        before = self._columns["seconds"][places]
        dropped = torch.tensor([status == "dropped" for status in timed.statuses], dtype=torch.bool)
        longer = dropped & (before > took)  # NaN, where nothing was known, is above nothing
        self._columns["seconds"][places] = torch.where(longer, before, took)

    def _place(self, client: str) -> int:
        try:
            if not isinstance(self.names, (tuple, list)):
                return self.names.index(client)  # names that are made when asked for know their places
            if self._places is None:
                self._places = {name: place for place, name in enumerate(self.names)}
            return self._places[client]
        except (KeyError, ValueError) as error:
            raise ConfigError(f"the client {client!r} is not in the population, so nothing is known of it.") from error


def _numbers(values: Sequence[float | None]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _column(count: int, first: int | float | bool) -> Tensor:
    dtype = {bool: torch.bool, int: torch.int64, float: torch.float64}[type(first)]
    return torch.full((count,), first, dtype=dtype)
