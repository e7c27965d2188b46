"""The agreement of all clients on what an example is: its shape, features and classes, by name and in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from headway.data.dataset.class_names import listed_names
from headway.data.sources.data_schema import DataSchema
from headway.federation.http_api import DataFacts
from headway.federation.serving.refusals import Refused


class AgreedData:
    """The form of the data that every client must have: that of the schema, or else of the first client that joined.

    Without this check, a client whose classes or columns have another order would be averaged with the others, and
    nothing would fail.
    """

    def __init__(self, schema: DataSchema | None = None) -> None:
        self._lock = threading.Lock()
        self._agreed: DataFacts | None = None
        self._source = "the schema of the federation"
        if schema is not None:
            names, shape = schema.class_names or None, schema.input_shape
            self._agreed = DataFacts(train=1, input_shape=shape, classes=names, features=schema.features)

    def check(self, client: str, facts: DataFacts) -> None:
        """Refuses data of another form.

        Raises:
            Refused: with both sides.
        """
        with self._lock:
            if self._agreed is None:
                self._agreed, self._source = facts, f"client {client!r}, which joined first,"
                return
            agreed, source = self._agreed, self._source
        differing = list(_differences(agreed, facts))
        if differing:
            what, needed, found = differing[0]
            more = f" {len(differing) - 1} more facts differ." if len(differing) > 1 else ""
            raise Refused(
                "mismatch",
                f"the data of client {client!r} have the {what} {found}, and {source} has {needed}.{more} Models of "
                "different meaning are never averaged: read both by one schema ([data] of the server's file).",
                f"{what}: {needed}",
                f"{what}: {found}",
            )


def _differences(agreed: DataFacts, facts: DataFacts) -> Iterator[tuple[str, str, str]]:
    """What differs, and the two sides."""
    if agreed.classes != facts.classes:
        yield "classes", *_sides(agreed.classes, facts.classes)
    if agreed.features != facts.features:
        yield "features", *_sides(agreed.features, facts.features)
    if agreed.input_shape != facts.input_shape:
        yield "input shape", str(list(agreed.input_shape)), str(list(facts.input_shape))


def _sides(needed: Sequence[str] | None, found: Sequence[str] | None) -> tuple[str, str]:
    """Two lists of names in words: whole where they are short, else from the first place where they differ."""
    if needed is None or found is None:
        nothing = "none (values to predict)"
        return nothing if needed is None else listed_names(needed), nothing if found is None else listed_names(found)
    if max(len(needed), len(found)) <= 8:
        return listed_names(needed) or "none", listed_names(found) or "none"
    pairs = zip(needed, found, strict=False)
    place = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(needed), len(found)))
    one, other = (
        f"{each[place]!r} as number {place + 1} of {len(each)}" if place < len(each) else f"{len(each)} in all"
        for each in (needed, found)
    )
    return one, other
