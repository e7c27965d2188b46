"""The examples of each client, for a million clients: views of one vector of indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from headway.core.errors import DataError
from headway.core.names import NumberedNames

BLOCK = 1 << 20  # indices that are looked at together


@final
class ClientIndex(Mapping[str, Tensor]):
    """For each client the int64 indices of its examples: a mapping that holds no object per client.

    Client i of the sorted `names` holds `index[starts[i] : starts[i] + sizes[i]]`, or, without an index, the
    examples `starts[i] ... starts[i] + sizes[i] - 1` themselves.  `parts[client]` is made when asked for: a view of the
    index, which is not to be written to.

    names: sorted, each once.  starts, sizes: int64 `[C]`.  index: int64 `[n]`, or None.

    Raises:
        DataError: the lengths or number types do not fit.

    >>> parts = ClientIndex.of({"b": torch.tensor([5, 1]), "a": torch.tensor([3])})
    >>> list(parts), parts["b"].tolist(), parts.sizes.tolist()
    (['a', 'b'], [5, 1], [1, 2])
    >>> parts.rows(["b", "a"])
    (tensor([5, 1, 3]), tensor([2, 1]))
    """

    def __init__(self, names: Sequence[str], starts: Tensor, sizes: Tensor, index: Tensor | None = None) -> None:
        for what, given in (("starts", starts), ("sizes", sizes)):
            if given.dtype != torch.int64 or given.shape != (len(names),):
                raise DataError(
                    f"{what} must be one int64 number for each of {len(names)} clients, found {given.dtype} "
                    f"{list(given.shape)}."
                )
        if len(names) and (int(sizes.min()) < 0 or (index is not None and not _within(starts, sizes, len(index)))):
            raise DataError("sizes are from 0, and starts and sizes lie within the index; some do not.")
        self.names, self.starts, self.sizes, self.index = names, starts, sizes, index
        self._runs: Tensor | None = None
        self._places: dict[str, int] | None = None  # of names that are texts; made when one is first looked up
        self._latest: dict[
            str, int
        ] = {}  # a cohort is looked up again and again, and a small dictionary stays in cache

    @classmethod
    def of(cls, given: Mapping[str, Tensor], what: str = "") -> ClientIndex:
        """The same mapping in this form; one that has it already is given back.

        what: "training" or "test", for errors.

        Raises:
            DataError: a name that is no text, or indices that are not int64 `[n]`.
        """
        if isinstance(given, ClientIndex):
            return given
        for client, index in given.items():
            if not isinstance(client, str):
                raise DataError(f"the client id {client!r} is not a text; write {str(client)!r}.")
            if index.dtype != torch.int64 or index.ndim != 1:
                raise DataError(
                    f"the {what + ' ' * bool(what)}indices of client {client!r} must be int64 and one-dimensional."
                )
        names = tuple(sorted(given))
        sizes = torch.tensor([len(given[client]) for client in names], dtype=torch.int64)
        index = torch.cat([torch.empty(0, dtype=torch.int64), *(given[client] for client in names)])
        return cls(names, sizes.cumsum(0) - sizes, sizes, index)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, client: object) -> bool:
        return self._place(client) is not None

    def __getitem__(self, client: str) -> Tensor:
        place = self.place(client)
        start = int(self.starts[place])
        stop = start + int(self.sizes[place])
        return torch.arange(start, stop) if self.index is None else self.index[start:stop]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClientIndex):
            return NotImplemented
        alike = len(self) == len(other) and torch.equal(self.sizes, other.sizes)
        same = alike and (self.names == other.names or list(self.names) == list(other.names))
        return same and all(torch.equal(a, b) for a, b in zip(self.blocks(), other.blocks(), strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ClientIndex({len(self)} clients, {int(self.sizes.sum())} examples)"

    def place(self, client: str) -> int:
        """The position of a client among the names.

        Raises:
            KeyError: no such client.
        """
        place = self._place(client)
        if place is None:
            raise KeyError(client)
        return place

    def rows(self, clients: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The indices of these clients one after another, int64 `[sum n]`, and how many each has, int64 `[C]`.

        Raises:
            KeyError: no such client.
        """
        places = self._places_of(clients)
        sizes = self.sizes[places]
        return self._flat(self.starts[places], sizes), sizes

    def sizes_of(self, clients: Sequence[str]) -> Tensor:
        """How many indices each of these clients has, int64 `[C]`.

        Raises:
            KeyError: no such client.
        """
        return self.sizes[self._places_of(clients)]

    def blocks(self) -> Iterator[Tensor]:
        """All indices, client after client, in vectors of about a million; where they are cut follows from `sizes`."""
        ends = self.sizes.cumsum(0)
        first = 0
        while first < len(self):
            done = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(torch.searchsorted(ends, done + BLOCK, right=True)))
            yield self.between(first, last)
            first = last

    def between(self, first: int, last: int) -> Tensor:
        """The indices of the clients at the positions `first ... last - 1`, one after another, int64 `[sum n]`."""
        return self._flat(self.starts[first:last], self.sizes[first:last])

    def selections(self, clients: Sequence[str]) -> list[slice | Tensor]:
        """The places of each client's examples in the store: a slice where they lie there one after another, which
        copies nothing, and else the indices.

        Raises:
            KeyError: no such client.

        >>> ClientIndex.of({"a": torch.tensor([3, 4]), "b": torch.tensor([5, 1])}).selections(["b", "a"])
        [tensor([5, 1]), slice(3, 5, None)]
        """
        places = self._places_of(clients)
        starts, sizes = self.starts[places], self.sizes[places]
        spans = zip(starts.tolist(), (starts + sizes).tolist(), strict=True)
        if self.index is None or not len(self.index):
            return [slice(*span) for span in spans]
        index, firsts = self.index, self.index[starts.clamp_max(len(self.index) - 1)].tolist()
        whole = self._consecutive()[places].tolist()
        return [
            slice(first, first + stop - start) if run else index[start:stop]
            for (start, stop), first, run in zip(spans, firsts, whole, strict=True)
        ]

    def _consecutive(self) -> Tensor:
        """Of which clients each index is the one before plus one, bool `[C]`; looked up once."""
        if self._runs is None:
            assert self.index is not None
            breaks = self.index[1:] != self.index[:-1] + 1
            broken = torch.cat([torch.zeros(1, dtype=torch.int32), breaks.cumsum(0, dtype=torch.int32)])
            last = (self.starts + self.sizes - 1).clamp_min(0)
            self._runs = broken[last] == broken[self.starts.clamp_max(max(len(self.index) - 1, 0))]
        return self._runs

    def _flat(self, starts: Tensor, sizes: Tensor) -> Tensor:
        """The indices of clients by their starts and sizes `[C]`, one after another, int64 `[sum n]`."""
        shift = starts - (sizes.cumsum(0) - sizes)
        flat = torch.arange(int(sizes.sum())) + torch.repeat_interleave(shift, sizes)
        return flat if self.index is None else self.index[flat]

    def _place(self, client: object) -> int | None:
        if not isinstance(client, str):
            return None
        if isinstance(self.names, NumberedNames):
            return self.names.place(client)
        return self._known().get(client)

    def _places_of(self, clients: Sequence[str]) -> Tensor:
        """The positions of these clients, int64 `[C]`."""
        if isinstance(self.names, NumberedNames):
            return self.names.places(clients)
        if not all(map(self._latest.__contains__, clients)):
            known = self._known()
            self._latest = {client: known[client] for client in clients}
        return torch.tensor([*map(self._latest.__getitem__, clients)], dtype=torch.int64)

    def _known(self) -> dict[str, int]:
        """The positions of names that are texts."""
        if self._places is None:
            self._places = {name: place for place, name in enumerate(self.names)}
        return self._places


def _within(starts: Tensor, sizes: Tensor, count: int) -> bool:
    return int(starts.min()) >= 0 and int((starts + sizes).max()) <= count
