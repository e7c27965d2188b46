"""Names of clients: numbered ones that take no memory, and the places of names in a sorted population."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import final, overload

import torch
from torch import Tensor

from headway.core.errors import DataError


@final
class NumberedNames(Sequence[str]):
    """The names `prefix0`, `prefix1`, ..., zero-padded so that sorted order is numeric order, made when asked for.

    They take no memory, and a name's position is read from the name.

    Raises:
        DataError: count is below 0.

    >>> names = NumberedNames(11)
    >>> names[2], names[-1], len(names), names.index("client-07")
    ('client-02', 'client-10', 11, 7)
    >>> "client-7" in names, names[3:5]
    (False, ('client-03', 'client-04'))
    """

    def __init__(self, count: int, prefix: str = "client-") -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise DataError(f"a number of clients is needed, a whole number from 0, found {count!r}.")
        self._count, self._prefix, self._width = count, prefix, len(str(max(count - 1, 0)))
        self._form = f"{prefix.replace('%', '%%')}%0{self._width}d"  # formats faster than an f-string does

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...

    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        if isinstance(place, slice):
            return tuple(self._name(number) for number in range(self._count)[place])
        return self._name(range(self._count)[place])

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(self._count))

    def __contains__(self, name: object) -> bool:
        return self.place(name) is not None

    def index(self, name: str, start: int = 0, stop: int | None = None) -> int:
        """The position of a name.

        Raises:
            ValueError: it is not among them.
        """
        place = self.place(name)
        if place is None or place not in range(*slice(start, stop).indices(self._count)):
            raise ValueError(f"{name!r} is not among {self!r}")
        return place

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NumberedNames):
            return (self._count, self._prefix) == (other._count, other._prefix)
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self._count, self._prefix))

    def __repr__(self) -> str:
        return f"NumberedNames({self._count}, {self._prefix!r})"

    def _name(self, number: int) -> str:
        return self._form % number

    def place(self, name: object) -> int | None:
        """The position of a name, `None` if it is not among them."""
        if not isinstance(name, str) or not name.startswith(self._prefix):
            return None
        digits = name[len(self._prefix) :]
        if len(digits) != self._width or not (digits.isascii() and digits.isdigit()) or int(digits) >= self._count:
            return None
        return int(digits)

    def places(self, names: Sequence[str]) -> Tensor:
        """The positions of these names, int64 `[n]`: their letters are read together.

        Raises:
            KeyError: one is not among them.

        >>> NumberedNames(11).places(["client-07", "client-10"])
        tensor([ 7, 10])
        """
        before, length, text = len(self._prefix), len(self._prefix) + self._width, "".join(names)
        if names and text.isascii() and set(map(len, names)) == {length}:
            letters = torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8).view(-1, length)
            wanted = torch.tensor([ord(letter) for letter in self._prefix], dtype=torch.uint8)
            digits = letters[:, before:].long() - ord("0")
            places = digits @ 10 ** torch.arange(self._width - 1, -1, -1)
            known = (letters[:, :before] == wanted).all() & (digits >= 0).all() & (digits <= 9).all()
            if bool(known & (places < self._count).all()):
                return places
        found = [self.place(name) for name in names]
        if None in found:
            raise KeyError(names[found.index(None)])
        return torch.tensor(found, dtype=torch.int64)


def place_in(clients: Sequence[str], client: str) -> int | None:
    """The position of a client in a sorted population; `None` if it is not there."""
    if isinstance(clients, NumberedNames):
        return clients.place(client)
    index = bisect_left(clients, client)
    return index if index < len(clients) and clients[index] == client else None


def places_in(clients: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The positions of these clients in a sorted population.

    Raises:
        KeyError: one is not there.

    >>> places_in(("a", "b", "d"), ["d", "a"])
    [2, 0]
    """
    if isinstance(clients, NumberedNames):
        return clients.places(wanted).tolist()
    places = [bisect_left(clients, client) for client in wanted]
    for place, client in zip(places, wanted, strict=True):
        if place == len(clients) or clients[place] != client:
            raise KeyError(client)
    return places
