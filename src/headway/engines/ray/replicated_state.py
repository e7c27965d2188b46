"""The clients' memory at Ray actors: each range of the population has keepers of its own, two of each."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import torch

from headway.client_state.sqlite_versions import read_versions, write_versions
from headway.client_state.store import Memory, Tag, not_alike, of_others
from headway.core.errors import HeadwayError
from headway.core.names import place_in
from headway.engines.processes.arrays import tensor_of
from headway.engines.ray.actors import Actor, Call, Reference
from headway.engines.ray.state_replica import Kept, arrays_in, tensors_in
from headway.engines.worker_pool import Lost

COPIES = 2  # of each range; more than one is lost only if both are lost between two verdicts
BLOCK = 64  # clients whose memory travels together
TRIES = 3  # to put another keeper in the place of a lost one

Make = Callable[[Sequence[str], str], Actor]  # a keeper of these clients, on this node if it can be
Nodes = Callable[[], Sequence[str]]  # the living nodes of the cluster


class Remote(Protocol):
    """The calls of actors; each method is as in `actors.RayActors`."""

    def put(self, value: object) -> Reference:
        """Puts a value where every actor can read it."""

    def call(self, actor: Actor, method: str, *arguments: object) -> Call:
        """Calls a method, and does not wait."""

    def get(self, call: Call) -> Any:
        """Waits for the result, within limits."""

    def kill(self, actor: Actor) -> None:
        """Ends an actor."""


@dataclass
class ClientRange:
    """A range of the sorted population, and its keepers; the first keeper is asked first."""

    first: str
    last: str
    keepers: list[Actor]


class RemoteMemory:
    """The clients' memory as the engine, its workers and the run see it: a `MemoryStore` whose rows lie with keepers.

    Every range has two keepers with the same content, on two nodes where there are as many.  What is proposed counts if
    one of them has it; at the verdict, a keeper that is lost, or that missed something, is replaced by a copy of the
    other.  Until `open` no client has memory.

    missed: the keepers, as (range, number), that did not answer in this round, and why.  notes: sentences about the
    keepers that were replaced.

    Raises:
        HeadwayError: if both keepers of a range are lost between two verdicts: their clients' memory is gone.
    """

    def __init__(self, clients: Sequence[str], remote: Remote, ranges: Sequence[ClientRange] = ()) -> None:
        self._clients, self._remote, self.ranges = clients, remote, list(ranges)
        self.missed: dict[tuple[int, int], str] = {}
        self.notes: list[str] = []
        self._proposed: list[tuple[int, dict[int, Call]]] = []
        self._make: Make | None = None
        self._nodes: Nodes = list
        self._homes: dict[int, str] = {}  # the node of each keeper, by its id
        self._closed = False

    def open(self, parts: int, make: Make, nodes: Nodes) -> None:
        """Starts the keepers of so many ranges."""
        self._make, self._nodes, count = make, nodes, len(self._clients)
        parts, living = min(parts, count), nodes()
        for part in range(parts):
            start, stop = count * part // parts, count * (part + 1) // parts
            own = ClientRange(self._clients[start], self._clients[stop - 1], [])
            for copy in range(COPIES):
                own.keepers.append(make(self._some(start, stop), living[(part + copy) % len(living)]))
            self.ranges.append(own)
        self._restore()

    def begin(self, ranges: Sequence[ClientRange], missed: Mapping[tuple[int, int], str]) -> None:
        """Takes over the keepers at a worker, without the ones that missed something; earlier proposals are dropped."""
        self.ranges, self._proposed = list(ranges), []
        self.missed = dict(missed)

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
        return _each(tensors_in(kept), torch.clone)  # which may be held after the store has gone

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

    def of_group(self, clients: Sequence[str], tag: Tag) -> RemoteGroup:
        """The memory of clients that train one after another."""
        return RemoteGroup(self, clients, tag)

    def propose(self, client: str, tag: Tag, memory: Memory) -> None:
        """Pending memory of a client."""
        if memory:
            self.propose_stacked([client], tag, _each(memory, lambda tensor: tensor.unsqueeze(0)))

    def propose_stacked(self, clients: Sequence[str], tag: Tag, memory: Memory) -> None:
        """Pending memory of several clients, which is sent on its way: `flush` waits for it."""
        if not memory:
            return
        assert self.ranges, "memory was proposed, but no client keeps memory"
        for part, places in self._by_range(clients).items():
            stored = self._remote.put(arrays_in(_each(memory, itemgetter(places))))
            own = [clients[place] for place in places]
            self._proposed.append((part, self._call_keepers(part, "propose", own, tag, stored)))

    def flush(self) -> None:
        """Waits until a keeper has what was proposed."""
        proposed, self._proposed = self._proposed, []
        for part, calls in proposed:
            self._wait_for_keepers(part, calls)

    # what the server does -------------------------------------------------------------------------------

    def settle(self, tag: Tag, counted: Iterable[str]) -> None:
        """The verdict on a round; then lost keepers are replaced."""
        self.flush()
        by_range, names = {}, list(counted)
        if self.ranges:
            by_range = {part: [names[place] for place in places] for part, places in self._by_range(names).items()}
        self._drop_missed()
        parts = range(len(self.ranges))
        ends = {part: self._call_keepers(part, "settle", tag, by_range.get(part, [])) for part in parts}
        for part, calls in ends.items():
            self._wait_for_keepers(part, calls)
        self._restore()

    def save(self, path: Path, round_: int, oldest_kept: int) -> str | None:
        """Writes the changes up to a round, a block of clients at a time; a digest of what the file then holds."""
        self._check_open()
        changed = [client for part in range(len(self.ranges)) for client in self._read({part: ()}, "changed")[part]]
        if not changed and not path.exists():
            return None
        digest = write_versions(path, round_, self._blockwise(changed), oldest_kept)
        for part in range(len(self.ranges)):
            self._wait_for_keepers(part, self._call_keepers(part, "saved"))
        return digest

    def load(self, path: Path, round_: int) -> None:
        """The memory as it was after a round."""
        for part in range(len(self.ranges)):
            self._wait_for_keepers(part, self._call_keepers(part, "forget"))
        versions = read_versions(path, round_) if path.exists() else iter(())
        while block := list(islice(versions, BLOCK)):
            for client, _ in block:
                if place_in(self._clients, client) is None:
                    raise of_others(path, client, len(self._clients))
            for part, places in self._by_range([client for client, _ in block]).items():
                names = [block[place][0] for place in places]
                stored = self._remote.put((names, [arrays_in(block[p][1]) for p in places], [False] * len(places)))
                self._wait_for_keepers(part, self._call_keepers(part, "adopt", stored))

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
                yield client, tensors_in(kept or {})

    def _read(self, asked: Mapping[int, tuple[Any, ...]], method: str) -> dict[int, Any]:
        """The result of one keeper of each range: of the first, or of another where that is lost."""
        answers: dict[int, Any] = {}
        while waiting := [part for part in asked if part not in answers]:
            sent = {}
            for part in waiting:
                number = self._living(part)[0]
                sent[part] = number, self._remote.call(self.ranges[part].keepers[number], method, *asked[part])
            for part, (number, call) in sent.items():
                try:
                    answers[part] = self._remote.get(call)
                except Lost as lost:
                    self.missed[part, number] = str(lost)
        return answers

    def _living(self, part: int) -> list[int]:
        """The keepers of a range that have missed nothing in this round."""
        own = self.ranges[part]
        living = [number for number in range(len(own.keepers)) if (part, number) not in self.missed]
        if not living:
            raise self._gone(part)
        return living

    def _call_keepers(self, part: int, method: str, *arguments: object) -> dict[int, Call]:
        """Calls all keepers of a range, by their number."""
        keepers = self.ranges[part].keepers
        return {number: self._remote.call(keepers[number], method, *arguments) for number in self._living(part)}

    def _wait_for_keepers(self, part: int, calls: Mapping[int, Call]) -> None:
        """Waits for the calls of a range's keepers; a keeper that is lost is noted in `missed`."""
        for number, call in calls.items():
            try:
                self._remote.get(call)
            except Lost as lost:
                self.missed[part, number] = str(lost)
        self._living(part)

    # lost keepers ---------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Ends the keepers that missed something; each range has two again, on two nodes where there are as many.

        A copy that fails now is tried again at the next verdict.
        """
        self._drop_missed()
        for _ in range(TRIES):
            used = Counter(self._homes.values())
            fresh = [(own, self._started(own, used)) for own in self.ranges if self._wants(own)]
            if not fresh:
                return
            for own, keeper in fresh:  # they start side by side
                self._add(own, keeper)

    def _drop_missed(self) -> None:
        for part, own in enumerate(self.ranges):
            living = [own.keepers[number] for number in self._living(part)]
            if len(living) < len(own.keepers):
                why = next(why for (where, _), why in self.missed.items() if where == part)
                self.notes.append(f"a keeper of the memory of {own.first} to {own.last} was lost ({why}) and replaced")
            for keeper in own.keepers:
                if not any(keeper is other for other in living):
                    self._end(keeper)
            own.keepers = living
        self.missed.clear()

    def _wants(self, own: ClientRange) -> bool:
        """Whether a range has too few keepers, or all on one node while there is another."""
        if self._make is None or len(own.keepers) < COPIES:
            return self._make is not None
        try:
            homes = {self._home(keeper) for keeper in own.keepers}
        except Lost:  # a moment ago it was well: the next verdict finds the other one
            return False
        return len(homes) < COPIES and not set(self._nodes()) <= homes

    def _started(self, own: ClientRange, used: Counter[str]) -> Actor:
        """Another keeper of a range, on a node with none of them and few others."""
        start, stop = place_in(self._clients, own.first), place_in(self._clients, own.last)
        assert start is not None
        assert stop is not None
        assert self._make is not None
        taken = {self._homes.get(id(keeper)) for keeper in own.keepers}
        node = min(self._nodes(), key=lambda node: (node in taken, used[node], node))
        used[node] += 1
        return self._make(self._some(start, stop + 1), node)

    def _add(self, own: ClientRange, fresh: Actor) -> None:
        """Copies the first keeper's memory to a new keeper, which becomes the second, unless one of the two is lost."""
        remote = self._remote
        try:
            known = remote.get(remote.call(own.keepers[0], "clients"))
            for begin in range(0, len(known), BLOCK):
                exported = remote.call(own.keepers[0], "export", known[begin : begin + BLOCK])
                remote.get(remote.call(fresh, "adopt", exported))
            self._home(fresh)
        except Lost:
            self._end(fresh)
            return
        for last in own.keepers[1:]:
            self._end(last)
        own.keepers[1:] = [fresh]

    def _end(self, keeper: Actor) -> None:
        self._remote.kill(keeper)
        self._homes.pop(id(keeper), None)

    def _home(self, keeper: Actor) -> str:
        """The node that a keeper is on, asked once."""
        if id(keeper) not in self._homes:
            self._homes[id(keeper)] = self._remote.get(self._remote.call(keeper, "node"))
        return self._homes[id(keeper)]

    def _check_open(self) -> None:
        if self._closed:
            raise HeadwayError(
                "the clients' memory lay with Ray actors, which ended with the run: needed before Run.close, found "
                "after it. Read it earlier, or resume the run from its folder."
            )

    def _gone(self, part: int) -> HeadwayError:
        own, whys = self.ranges[part], {why for (where, _), why in self.missed.items() if where == part}
        return HeadwayError(
            f"the memory of the clients {own.first} to {own.last} is lost: needed one of the {COPIES} Ray actors that "
            f"keep it, found that all have ended within a round ({'; '.join(sorted(whys))}). Often a node went, or "
            "memory ran out. Resume the run from its last checkpoint (headway resume RUN); one that keeps no folder is "
            "started anew."
        )


def _each(memory: Memory, change: Callable[[torch.Tensor], torch.Tensor]) -> Memory:
    return {label: {name: change(tensor) for name, tensor in kept.items()} for label, kept in memory.items()}


class RemoteGroup:
    """The memory of a group of clients in a `RemoteMemory`; what is proposed is sent on its way at once.

    committed: the memory of each client, fetched when its turn comes, so that one client's is held at a time.
    """

    def __init__(self, memory: RemoteMemory, clients: Sequence[str], tag: Tag) -> None:
        self.committed = _Committed(memory, clients)
        self._memory, self._clients, self._tag = memory, clients, tag

    def propose(self, place: int, memory: Memory) -> None:
        """The next memory of the client at this place in the group."""
        self._memory.propose(self._clients[place], self._tag, memory)

    def close(self) -> None:
        """Nothing is left to propose."""


class _Committed(Sequence[Memory | None]):
    """The committed memory of some clients, fetched one at a time."""

    def __init__(self, memory: RemoteMemory, clients: Sequence[str]) -> None:
        self._memory, self._clients = memory, clients

    def __len__(self) -> int:
        return len(self._clients)

    def __getitem__(self, place: Any) -> Any:
        return self._memory.get(self._clients[place])
