"""The clients' memory beside the workers: each range of the population with keepers of its own, twice over."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import torch

from headway.client.memory import Memory, MemoryStore, Tag, not_alike, of_others
from headway.client.versions import read_versions, write_versions
from headway.core.errors import HeadwayError
from headway.data.parts import place_in
from headway.engines.arrays import Arrays, arrays_of, tensor_of
from headway.engines.dispatch import Lost

COPIES = 2  # of each range; more than one is lost only if both are lost between two verdicts
BLOCK = 64  # clients whose memory travels together
TRIES = 3  # to put another keeper in the place of a lost one

Kept = Mapping[str, Arrays]  # a memory, as arrays
Actor = object
Reference = object
Make = Callable[[Sequence[str], Sequence[Actor]], Actor]  # a keeper of these clients, apart from those other ones


class Remote(Protocol):
    """How actors are reached."""

    def put(self, value: object) -> Reference:
        """Brings a value to where every actor can read it."""

    def call(self, actor: Actor, method: str, *arguments: object) -> Reference:
        """Asks an actor, and does not wait."""

    def get(self, reference: Reference) -> Any:
        """Waits for an answer; raises what the method raised, and `Lost` if the actor is."""

    def kill(self, actor: Actor) -> None:
        """Ends an actor."""


class Keeper:
    """Keeps the memory of some clients, in a process of its own."""

    def __init__(self, clients: Sequence[str]) -> None:
        torch.set_num_threads(1)
        self.store = MemoryStore(clients)
        self.settled: Tag = (-1, -1)

    def get(self, clients: Sequence[str], names: Sequence[tuple[str, str]] | None) -> list[Kept | None]:
        """Each client's memory, `None` where it has none; names: of these tensors only."""
        return [None if (memory := self.store.get(c)) is None else _arrays(memory, names) for c in clients]

    def propose(self, clients: Sequence[str], tag: Tag, kept: Kept) -> None:
        """Pending memory of clients, each tensor `[C, ...]`; of a round that is over, it is too late."""
        if tag > self.settled:
            self.store.propose_stacked(clients, tag, _tensors(kept))

    def settle(self, tag: Tag, counted: Sequence[str]) -> None:
        """The verdict."""
        self.store.settle(tag, counted)
        self.settled = tag

    def adopt(self, told: tuple[Sequence[str], Sequence[Kept], Sequence[bool]]) -> None:
        """Memory from a file or from another keeper, with whether it is not saved yet."""
        for client, kept, changed in zip(*told, strict=True):
            self.store.adopt(client, _tensors(kept), changed)

    def export(self, clients: Sequence[str]) -> tuple[Sequence[str], Sequence[Kept], Sequence[bool]]:
        """What `adopt` takes."""
        changed = set(self.store.changed())
        return clients, [_arrays(self.store.get(c) or {}) for c in clients], [c in changed for c in clients]

    def clients(self) -> list[str]:
        """Those that have memory."""
        return list(self.store.clients())

    def changed(self) -> list[str]:
        """Those whose memory is not saved."""
        return self.store.changed()

    def saved(self) -> None:
        """All is saved."""
        self.store.saved()

    def forget(self) -> None:
        """Nobody has memory."""
        self.store.forget()
        self.settled = (-1, -1)


@dataclass
class Range:
    """Some clients that lie together in the sorted population, and their keepers; the first is asked first."""

    first: str
    last: str
    keepers: list[Actor]


class RemoteMemory:
    """The clients' memory as the engine, its workers and the run see it: a `MemoryStore` whose rows lie with keepers.

    Every range has two keepers that are told the same.  What is proposed counts if one of them has it; at the verdict,
    a keeper that is lost, or that missed something, is replaced by a copy of the other.  Until `open` nobody has
    memory.

    Raises:
        HeadwayError: if both keepers of a range are lost between two verdicts: their clients' memory is gone.
    """

    def __init__(self, clients: Sequence[str], remote: Remote, ranges: Sequence[Range] = ()) -> None:
        self._clients, self._remote, self.ranges = clients, remote, list(ranges)
        self.missed: set[tuple[int, int]] = set()  # (range, keeper) that did not answer
        self._proposed: list[tuple[int, list[Reference]]] = []
        self._make: Make | None = None
        self._closed = False
        self._why = "for a reason that is not known"

    def open(self, parts: int, make: Make) -> None:
        """Starts the keepers of so many ranges."""
        self._make, count = make, len(self._clients)
        parts = min(parts, count)
        for part in range(parts):
            start, stop = count * part // parts, count * (part + 1) // parts
            own = Range(self._clients[start], self._clients[stop - 1], [])
            for _ in range(COPIES):
                own.keepers.append(make(self._some(start, stop), own.keepers))
            self.ranges.append(own)

    def begin(self, ranges: Sequence[Range]) -> None:
        """At a worker: who keeps what from now on; what was not waited for is forgotten."""
        self.ranges, self._proposed = list(ranges), []
        self.missed = set()

    def close(self) -> None:
        """Ends the keepers; the memory is gone but for what was saved."""
        for keeper in (keeper for own in self.ranges for keeper in own.keepers):
            self._remote.kill(keeper)
        self.ranges, self._closed = [], True

    # what clients do ------------------------------------------------------------------------------------

    def enrol(self, clients: Sequence[str]) -> None:
        """All clients are in the population."""
        assert all(place_in(self._clients, client) is not None for client in clients)

    def declare(self, first: Memory) -> None:
        """Nothing is shared by forking."""

    def get(self, client: str) -> Memory | None:
        """The committed memory of a client."""
        kept = self._fetch([client], None)[0]
        if kept is None:
            return None
        return _each(_tensors(kept), torch.clone)  # whoever holds it after the store has gone

    def gather(self, clients: Sequence[str], first: Memory) -> Memory:
        """The memory of several clients, each tensor `[C, ...]`."""
        if not first:
            return {}
        found = self._fetch(clients, [(label, name) for label, kept in first.items() for name in kept])
        stacked: dict[str, dict[str, torch.Tensor]] = {}
        for label, named in first.items():
            for name, start in named.items():
                rows = stacked.setdefault(label, {})[name] = start.expand(len(clients), *start.shape).clone()
                for place, (client, kept) in enumerate(zip(clients, found, strict=True)):
                    if kept is None:
                        continue
                    if name not in kept.get(label, {}):
                        raise not_alike(label, name, client)
                    rows[place] = tensor_of(kept[label][name])
        return stacked

    def propose(self, client: str, tag: Tag, memory: Memory) -> None:
        """Pending memory of a client."""
        if memory:
            self.propose_stacked([client], tag, _each(memory, lambda tensor: tensor.unsqueeze(0)))

    def propose_stacked(self, clients: Sequence[str], tag: Tag, memory: Memory) -> None:
        """Pending memory of several clients, which is sent on its way: `flush` waits for it."""
        if not memory:
            return
        assert self.ranges, "memory was proposed where none was said to be kept"
        for part, places in self._by_range(clients).items():
            told = self._remote.put(_arrays(_each(memory, itemgetter(places))))
            own = [clients[place] for place in places]
            self._proposed.append((part, self._tell(part, "propose", own, tag, told)))

    def flush(self) -> None:
        """Waits until a keeper has what was proposed."""
        proposed, self._proposed = self._proposed, []
        for part, references in proposed:
            self._heard(part, references)

    # what the server says -------------------------------------------------------------------------------

    def settle(self, tag: Tag, counted: Iterable[str]) -> None:
        """The verdict on a round; then lost keepers are replaced."""
        self.flush()
        by_range, names = {}, list(counted)
        if self.ranges:
            by_range = {part: [names[place] for place in places] for part, places in self._by_range(names).items()}
        self._drop_missed()
        told = {part: self._tell(part, "settle", tag, by_range.get(part, [])) for part in range(len(self.ranges))}
        for part, references in told.items():
            self._heard(part, references)
        self._drop_missed()
        for own in self.ranges:
            self._mend(own)

    def save(self, path: Path, round_: int, oldest_kept: int) -> None:
        """Writes the changes up to a round, a block of clients at a time."""
        self._check_open()
        changed = [client for part in range(len(self.ranges)) for client in self._read({part: ()}, "changed")[part]]
        if not changed and not path.exists():
            return
        write_versions(path, round_, self._blockwise(changed), oldest_kept)
        for part in range(len(self.ranges)):
            self._heard(part, self._tell(part, "saved"))

    def load(self, path: Path, round_: int) -> None:
        """The memory as it was after a round."""
        for part in range(len(self.ranges)):
            self._heard(part, self._tell(part, "forget"))
        versions = read_versions(path, round_) if path.exists() else iter(())
        while block := list(islice(versions, BLOCK)):
            for client, _ in block:
                if place_in(self._clients, client) is None:
                    raise of_others(path, client, len(self._clients))
            for part, places in self._by_range([client for client, _ in block]).items():
                names = [block[place][0] for place in places]
                told = self._remote.put((names, [_arrays(block[p][1]) for p in places], [False] * len(places)))
                self._heard(part, self._tell(part, "adopt", told))

    def clients(self) -> list[str]:
        """The clients that have memory, sorted."""
        self._check_open()
        found = self._read(dict.fromkeys(range(len(self.ranges)), ()), "clients")
        return [client for part in range(len(self.ranges)) for client in found[part]]

    # --------------------------------------------------------------------------------------------------

    def _some(self, start: int, stop: int) -> Sequence[str]:
        """A range of the population; all of it as it is, which may be names that are made when asked for."""
        return self._clients if stop - start == len(self._clients) else self._clients[start:stop]

    def _by_range(self, clients: Sequence[str]) -> dict[int, list[int]]:
        """The places of the clients, by whose range they are in."""
        firsts, places = [own.first for own in self.ranges], dict[int, list[int]]()
        for place, client in enumerate(clients):
            places.setdefault(max(bisect_right(firsts, client) - 1, 0), []).append(place)
        return places

    def _fetch(self, clients: Sequence[str], names: Sequence[tuple[str, str]] | None) -> list[Kept | None]:
        self._check_open()
        found: list[Kept | None] = [None] * len(clients)
        if self.ranges:
            by_range = self._by_range(clients)
            asked = {part: ([clients[place] for place in places], names) for part, places in by_range.items()}
            for part, kept in self._read(asked, "get").items():
                for place, one in zip(by_range[part], kept, strict=True):
                    found[place] = one
        return found

    def _blockwise(self, clients: Sequence[str]) -> Iterator[tuple[str, Memory]]:
        for start in range(0, len(clients), BLOCK):
            block = clients[start : start + BLOCK]
            for client, kept in zip(block, self._fetch(block, None), strict=True):
                yield client, _tensors(kept or {})

    def _read(self, asked: Mapping[int, tuple[Any, ...]], method: str) -> dict[int, Any]:
        """What one keeper of each range says: all first ones are asked at once, the others where those are lost."""
        answers: dict[int, Any] = {}
        waiting = {part: self._living(part) for part in asked}
        while waiting:
            sent = {}
            for part, left in waiting.items():
                if not left:
                    raise self._gone(self.ranges[part])
                sent[part] = self._remote.call(self.ranges[part].keepers[left[0]], method, *asked[part])
            for part, reference in sent.items():
                try:
                    answers[part] = self._remote.get(reference)
                    del waiting[part]
                except Lost as lost:
                    self._why = str(lost)
                    self.missed.add((part, waiting[part].pop(0)))
        return answers

    def _living(self, part: int) -> list[int]:
        return [n for n in range(len(self.ranges[part].keepers)) if (part, n) not in self.missed]

    def _tell(self, part: int, method: str, *arguments: object) -> list[Reference]:
        """Tells all keepers of a range the same."""
        return [self._remote.call(keeper, method, *arguments) for keeper in self.ranges[part].keepers]

    def _heard(self, part: int, references: Sequence[Reference]) -> None:
        """Waits until those that were told have done it; who has not is not trusted any more."""
        for number, reference in enumerate(references):
            try:
                self._remote.get(reference)
            except Lost as lost:
                self._why = str(lost)
                self.missed.add((part, number))
        if not self._living(part):
            raise self._gone(self.ranges[part])

    def _drop_missed(self) -> None:
        """Ends the keepers that missed something."""
        for part, own in enumerate(self.ranges):
            living = [own.keepers[number] for number in self._living(part)]
            if not living:
                raise self._gone(own)
            for keeper in own.keepers:
                if keeper not in living:
                    self._remote.kill(keeper)
            own.keepers = living
        self.missed.clear()

    def _mend(self, own: Range) -> None:
        """Copies what one keeper has to another in the place of a lost one; if that fails, the next verdict tries."""
        tries = 0
        while len(own.keepers) < COPIES and tries < TRIES and self._make is not None:
            tries += 1
            start, stop = place_in(self._clients, own.first), place_in(self._clients, own.last)
            assert start is not None
            assert stop is not None
            remote, fresh = self._remote, self._make(self._some(start, stop + 1), own.keepers)
            try:
                known = remote.get(remote.call(own.keepers[0], "clients"))
                for begin in range(0, len(known), BLOCK):
                    told = remote.call(own.keepers[0], "export", known[begin : begin + BLOCK])
                    remote.get(remote.call(fresh, "adopt", told))
                own.keepers.append(fresh)
            except Lost:
                remote.kill(fresh)

    def _check_open(self) -> None:
        if self._closed:
            raise HeadwayError(
                "the clients' memory lay with Ray actors, which ended with the run: needed before Run.close, found "
                "after it. Read it earlier, or resume the run from its folder."
            )

    def _gone(self, own: Range) -> HeadwayError:
        return HeadwayError(
            f"the memory of the clients {own.first} to {own.last} is lost: needed one of the {COPIES} Ray actors that "
            f"keep it, found that all have ended within a round ({self._why}). Often a node went, or memory ran out. "
            "Resume the run from its last checkpoint (headway resume RUN); one that keeps no folder is started anew."
        )


def _each(memory: Memory, change: Callable[[torch.Tensor], torch.Tensor]) -> Memory:
    return {label: {name: change(tensor) for name, tensor in kept.items()} for label, kept in memory.items()}


def _arrays(memory: Memory, names: Sequence[tuple[str, str]] | None = None) -> Kept:
    """A memory as arrays; names: of these tensors only, where it has them."""
    if names is not None:
        labels = dict.fromkeys(label for label, _ in names)
        memory = {
            label: {n: memory[label][n] for where, n in names if where == label and n in memory[label]}
            for label in labels
            if label in memory
        }
    return {label: arrays_of(kept) for label, kept in memory.items()}


def _tensors(kept: Kept) -> Memory:
    return {label: {name: tensor_of(array) for name, array in named.items()} for label, named in kept.items()}
