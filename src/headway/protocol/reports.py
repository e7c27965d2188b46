"""Reports on the clients of a round: a column for each figure, and a row, made on demand, for each client."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import le
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, final, overload

T = TypeVar("T")

Status = Literal["counted", "rejected", "dropped"]
OneOrEach: TypeAlias = T | Sequence[T]  # one value that all clients share, or a column


@dataclass(slots=True)  # not frozen, which would take four times as long, and there may be thousands in a round
class ClientReport:
    """The report on one client in a round.

    status: "counted"; "rejected" by the guard; "dropped" (a straggler, or lost).
    norm: L2 norm of the delta.  metrics: named numbers, absent where the chain protects the update.
    """

    client: str
    status: Status
    examples: int = 0
    steps: int = 0
    norm: float | None = None
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


@final
class Same(Sequence[T], Generic[T]):
    """A column in which all clients are alike."""

    __slots__ = ("_length", "value")

    def __init__(self, value: T, length: int) -> None:
        self.value, self._length = value, length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...

    def __getitem__(self, place: int | slice) -> T | Sequence[T]:
        if isinstance(place, slice):
            return Same(self.value, len(range(self._length)[place]))
        range(self._length)[place]  # no place beyond the end
        return self.value

    def __iter__(self) -> Iterator[T]:
        return repeat(self.value, self._length)

    def count(self, value: Any) -> int:
        """How many of all are this: all, or none."""
        return self._length if self.value == value else 0


@final
class Reports(Sequence[ClientReport]):
    """Reports on many clients, which are not changed: a `ClientReport` is made of a row when it is looked at.

    A round of thousands of clients makes, sends and reads a few columns, and no object for each client.  Each argument
    is a column, or one value that holds for all; in a metric's column a client that has no such metric has None.  The
    columns can be read under the arguments' names.

    Equal to any sequence of the same reports.

    >>> reports = Reports(("a", "b"), "counted", [3, 5], bytes_up=7, metrics={"train_loss": [0.5, None]})
    >>> reports[1].examples, reports[1].metrics, list(reports.bytes_up)
    (5, {}, [7, 7])
    >>> reports == Reports.of([reports[0], reports[1]])
    True
    """

    # the columns but for the metrics, each with the field of a row that it is of
    PLAIN: Mapping[str, str] = {
        "clients": "client",
        "statuses": "status",
        "examples": "examples",
        "steps": "steps",
        "norms": "norm",
        "seconds": "seconds",
        "bytes_up": "bytes_up",
        "bytes_down": "bytes_down",
        "reasons": "reason",
    }
    __slots__ = (*PLAIN, "metrics")

    def __init__(
        self,
        clients: Iterable[str] = (),
        statuses: OneOrEach[Status] = "counted",
        examples: OneOrEach[int] = 0,
        steps: OneOrEach[int] = 0,
        norms: OneOrEach[float | None] = None,
        seconds: OneOrEach[float] = 0.0,
        bytes_up: OneOrEach[int] = 0,
        bytes_down: OneOrEach[int] = 0,
        metrics: Mapping[str, OneOrEach[float | None]] | None = None,
        reasons: OneOrEach[str] = "",
    ) -> None:
        self.clients: Final = tuple(clients)
        count = len(self.clients)
        self.statuses: Final[Sequence[Status]] = _column(statuses, count)
        self.examples: Final[Sequence[int]] = _column(examples, count)
        self.steps: Final[Sequence[int]] = _column(steps, count)
        self.norms: Final[Sequence[float | None]] = _column(norms, count)
        self.seconds: Final[Sequence[float]] = _column(seconds, count)
        self.bytes_up: Final[Sequence[int]] = _column(bytes_up, count)
        self.bytes_down: Final[Sequence[int]] = _column(bytes_down, count)
        self.metrics: Final[Mapping[str, Sequence[float | None]]] = {
            name: _column(column, count) for name, column in (metrics or {}).items()
        }
        self.reasons: Final[Sequence[str]] = _column(reasons, count)

    # made -----------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, rows: Iterable[ClientReport]) -> Reports:
        """These reports as columns; themselves, if they are."""
        if isinstance(rows, Reports):
            return rows
        rows = list(rows)
        plain: dict[str, Any] = {name: [getattr(row, each) for row in rows] for name, each in cls.PLAIN.items()}
        return cls(**plain, metrics=columns_of([row.metrics for row in rows]))

    @classmethod
    def joined(cls, parts: Iterable[Reports]) -> Reports:
        """The reports of all parts, one part after another."""
        parts = [part for part in parts if len(part)]
        if len(parts) == 1:
            return parts[0]
        plain: dict[str, Any] = {name: _joined([getattr(part, name) for part in parts]) for name in cls.PLAIN}
        names = dict.fromkeys(name for part in parts for name in part.metrics)
        return cls(**plain, metrics={name: _joined([part.metric(name) for part in parts]) for name in names})

    def to_state(self) -> dict[str, Any]:
        """The columns as JSON holds them; `Reports(**state)` makes the reports again."""
        metrics = {name: _to_state(column) for name, column in self.metrics.items()}
        return {**{name: _to_state(getattr(self, name)) for name in self.PLAIN}, "metrics": metrics}

    def adding(self, metrics: Mapping[str, Sequence[float | None]]) -> Reports:
        """The same with columns of metrics more; a None in one leaves the earlier value."""
        added = {name: _over(column, self.metrics.get(name)) for name, column in metrics.items()}
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.PLAIN}
        return Reports(**plain, metrics={**self.metrics, **added})

    def uncounted(self, reason: str, clients: Collection[str] | None = None, status: Status = "dropped") -> Reports:
        """The same, the clients that were counted being dropped for a reason; clients: these ones alone."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.PLAIN}
        some = set(self.clients if clients is None else clients)
        drops = [s == "counted" and client in some for s, client in zip(self.statuses, self.clients, strict=True)]
        plain["statuses"] = [status if d else before for d, before in zip(drops, self.statuses, strict=True)]
        plain["reasons"] = [reason if d else before for d, before in zip(drops, self.reasons, strict=True)]
        return Reports(**plain, metrics=self.metrics)

    # looked at ------------------------------------------------------------------------------------------

    def metric(self, name: str) -> Sequence[float | None]:
        """A metric's column; None for all, if no client has it."""
        return self.metrics.get(name, Same(None, len(self)))

    def by_client(self) -> Reports:
        """The same, ordered by client."""
        if all(map(le, self.clients, self.clients[1:])):
            return self
        return self._at(sorted(range(len(self)), key=self.clients.__getitem__))

    def with_status(self, status: Status) -> Reports:
        """The reports on clients of this status."""
        found = self.statuses.count(status)
        if found in (0, len(self)):  # as in nearly every round
            return self if found else Reports()
        return self._at([place for place, each in enumerate(self.statuses) if each == status])

    def with_metric(self, metric: str) -> Reports:
        """The reports on clients that have this metric."""
        column = self.metric(metric)
        missing = column.count(None)
        if missing in (0, len(self)):
            return Reports() if missing else self
        return self._at([place for place, each in enumerate(column) if each is not None])

    def __len__(self) -> int:
        return len(self.clients)

    @overload
    def __getitem__(self, place: int) -> ClientReport: ...

    @overload
    def __getitem__(self, place: slice) -> Reports: ...

    def __getitem__(self, place: int | slice) -> ClientReport | Reports:
        if isinstance(place, slice):
            return self._at(range(len(self))[place])
        plain: dict[str, Any] = {each: getattr(self, name)[place] for name, each in self.PLAIN.items()}
        return ClientReport(**plain, metrics=self._metrics(place))

    def __iter__(self) -> Iterator[ClientReport]:
        return map(
            ClientReport,
            self.clients,
            self.statuses,
            self.examples,
            self.steps,
            self.norms,
            self.seconds,
            self.bytes_up,
            self.bytes_down,
            map(self._metrics, range(len(self))),
            self.reasons,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (Reports, tuple, list)):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # rows have none either

    def __repr__(self) -> str:
        return f"Reports.of({list(self)})"

    def _metrics(self, place: int) -> dict[str, float]:
        """The metrics of a row."""
        return {name: own for name, column in self.metrics.items() if (own := column[place]) is not None}

    def _at(self, places: Sequence[int]) -> Reports:
        """The reports at these places."""
        plain: dict[str, Any] = {name: _picked(getattr(self, name), places) for name in self.PLAIN}
        metrics = {name: _picked(column, places) for name, column in self.metrics.items()}
        return Reports(**plain, metrics=metrics)


def columns_of(rows: Sequence[Mapping[str, float]]) -> dict[str, Sequence[float | None]]:
    """Metrics of each client as a column for each metric, with None where a client has no such metric.

    >>> columns_of([{"loss": 0.5}, {}, {"loss": 0.25, "age": 1.0}])
    {'loss': [0.5, None, 0.25], 'age': [None, None, 1.0]}
    """
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(chain.from_iterable(rows))}


def total(column: Sequence[int]) -> int:
    """The sum of a column of whole numbers.

    >>> total(Same(5, 3)), total((5, 6))
    (15, 11)
    """
    return column.value * len(column) if isinstance(column, Same) else sum(column)


def _column(given: Any, count: int) -> Any:
    """A column of so many clients."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        return Same(given, count)
    assert len(given) == count, f"a column of {len(given)} for {count} clients"
    return given if isinstance(given, Same) else tuple(given)


def _to_state(column: Sequence[T]) -> OneOrEach[T]:
    """A column as JSON holds it."""
    return column.value if isinstance(column, Same) else column


def _joined(columns: Sequence[Sequence[T]]) -> Sequence[T]:
    """One column after another."""
    first = columns[0] if columns else ()
    if isinstance(first, Same):
        shown = repr(first.value)  # 0.0 and -0.0 differ
        if all(isinstance(each, Same) and repr(each.value) == shown for each in columns):
            return Same(first.value, sum(map(len, columns)))
    return tuple(chain.from_iterable(columns))


def _picked(column: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    """The values of these rows."""
    return Same(column.value, len(places)) if isinstance(column, Same) else tuple([column[place] for place in places])


def _over(column: Sequence[float | None], before: Sequence[float | None] | None) -> Sequence[float | None]:
    """One column over another, which shows where the first has None."""
    if before is None:
        return column
    return [old if new is None else new for new, old in zip(column, before, strict=True)]
