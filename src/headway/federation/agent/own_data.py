"""The data of an agent: read when a job starts, checked against its task, and described to the server."""

from __future__ import annotations

from collections.abc import Callable

from headway.core.errors import DataError
from headway.data import FederatedData
from headway.federation.http_api import DataFacts, JobDescription
from headway.model.data_checks import check_data
from headway.model.task import Task
from headway.numerics.keys import Key

MOST_NOTES = 50
DataSource = FederatedData | Callable[[JobDescription], FederatedData]  # of one client


def read_data(source: DataSource, job: JobDescription) -> FederatedData:
    """The data of the one client for a job, read anew where the source is a function.

    Raises:
        DataError: if there are several clients in it.
    """
    data = source(job) if callable(source) else source
    if len(data.clients) != 1:
        raise DataError(
            f"an agent is one client, and {data.name!r} holds {len(data.clients)} ({', '.join(data.clients[:3])}, ...):"
            " give it the data of one."
        )
    return data


def fitted(data: FederatedData, task: Task, key: Key) -> FederatedData:
    """The data in the task's number type, with notes on what is odd.

    Raises:
        DataError, ConfigError: if they do not fit the task.
    """
    data = data.to(task.number)
    return data.with_notes(check_data(task, data, key))


def data_facts(data: FederatedData, notes: bool = True) -> DataFacts:
    """The facts that the server learns of these data; notes: whether those on their reading are among them."""
    client = data.clients[0]
    classes = None
    if data.classes is not None:
        classes = data.class_names or tuple(str(number) for number in range(data.classes))
    return DataFacts(
        train=len(data.train[client]),
        test=len(data.test[client]),
        input_shape=data.input_shape,
        classes=classes,
        features=data.features,
        fingerprint=data.fingerprint(),
        notes=tuple(note[:2000] for note in data.notes[:MOST_NOTES]) if notes else (),
    )
