"""The content of a page, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headway.experiment.comparison import Summary
from headway.model.metrics import measured_on
from headway.reports.page.journal_reader import Record
from headway.reports.page.privacy_facts import PrivacyFacts


@dataclass(frozen=True)
class DataNotes:
    """The facts of its data that a run folder keeps.

    notes: what reading them took, a line each.  class_names: by class, where known.  undefined: the metrics that the
    split leaves without a value, and why.  answer, constant: the best constant answer in words, and its metrics where
    the run's own are measured.  headline: the metric that decided.
    """

    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    undefined: Mapping[str, str] = field(default_factory=dict)
    answer: str = ""
    constant: Mapping[str, float] = field(default_factory=dict)
    headline: str | None = None


@dataclass(frozen=True)
class SeedRun:
    """One run of a method at one seed.

    values, losses, bytes_total: at the evaluated `rounds`; simulated_s too, where the run had a clock.
    clients: each client's own value over the last rounds.  failure: why it counts for nothing, if so.
    record: its journal, where one was kept.  fingerprint: of the data, where known.  versions: of what made it.
    data: what was kept of its data.  privacy: what it spent, where its chain adds noise.
    """

    seed: int
    rounds: tuple[int, ...]
    values: tuple[float, ...]
    losses: tuple[float, ...]
    bytes_total: tuple[int, ...]
    clients: Mapping[str, float]
    failure: str | None = None
    record: Record | None = None
    source: str = ""
    fingerprint: str | None = None
    versions: Mapping[str, str] | None = None
    simulated_s: tuple[float, ...] = ()
    data: DataNotes = DataNotes()
    privacy: PrivacyFacts | None = None


@dataclass(frozen=True)
class Method:
    """A method: its name, its seeds, and what it was made of.

    chain: its stages in words.  numbers: everything that was set, by its path.  runfile: a TOML text, where kept.
    """

    name: str
    runs: tuple[SeedRun, ...]
    summed: Summary
    chain: str
    numbers: Mapping[str, str]
    runfile: str | None = None

    def records(self) -> list[Record]:
        """The journals that were kept."""
        return [run.record for run in self.runs if run.record is not None]

    @property
    def data(self) -> list[DataNotes]:
        """The kept facts of the data of each seed."""
        return [run.data for run in self.runs]


@dataclass(frozen=True)
class Holding:
    """One client's training examples: their number, the count of each class, and the distance from the pool.

    entropy: H_i = -sum_k p_ik log p_ik, in nats.  distance: TV_i = 1/2 sum_k |p_ik - p_k|.
    """

    client: str
    size: int
    labels: tuple[int, ...]
    entropy: float
    distance: float


@dataclass(frozen=True)
class Partition:
    """The labels of each client.  classes: how many; 0 where targets are not classes."""

    source: str
    classes: int
    holdings: tuple[Holding, ...]


@dataclass(frozen=True)
class Evidence:
    """All that a page is made from.

    more: further verdicts of a comparison, at equal bytes or on the way to pooled training.
    budget, time_budget: the bytes, and the simulated seconds, at which methods are compared at equal cost, where that
    is another question.  clocked: whether all runs have simulated time.
    gaps: each client's value alone, in the federation and with pooled data, where that was run.
    drawn: whether each seed draws the clients' data anew, so that a client's name means another one at each seed.
    partition: the examples of each client at the seed `partition_seed`, or the reason why they are not shown.
    notices: sentences that a reader must know before believing a number.
    """

    title: str
    sentence: str
    more: tuple[str, ...]
    caption: str
    metric: str
    central: bool
    lower_is_better: bool
    drawn: bool
    target: float
    budget: float | None
    gaps: tuple[tuple[str, float, float, float], ...]
    tail: str
    methods: tuple[Method, ...]
    partition: Partition | str
    partition_seed: int = 0
    notices: tuple[str, ...] = ()
    clocked: bool = False
    time_budget: float | None = None

    @property
    def where(self) -> str:
        """On what the metric was measured."""
        return measured_on(self.metric, self.central)

    @property
    def measure(self) -> str:
        """The metric's name in words."""
        return self.metric.replace("_", " ")
