"""The completed effects of rounds that took long, kept beside the checkpoints, so that a resumed run replays them.

A checkpoint holds the state between two rounds.  A run that is killed loses the rounds since the newest one, and what
clients have answered in the round under way.  A round is deterministic in the state at its start and its answers, so
it is enough to keep these: a resumed run goes through the round again and takes each answer from here.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import torch

from headway.client_state.store import Memory, MemoryStore
from headway.core import fault_points
from headway.core.algorithm import State
from headway.core.errors import RunFolderError
from headway.experiment.federation import Federation
from headway.observe.run_folder import read_notes, read_tensors, write_tensors, writing
from headway.protocol import wire
from headway.protocol.answer_state import answer_from_state, answer_to_state
from headway.protocol.effects import Concluded, Effect, EffectHandler, Persist, drive
from headway.protocol.messages import Answer, Ask, Measure, Train
from headway.protocol.reports import Reports

KEEP_AFTER_S = 20.0  # a round whose effects took less is sooner carried out again than written to disk
R = TypeVar("R")
Kind: TypeAlias = Literal["ask", "train", "concluded", "other"]  # of an effect


class RoundReplay:
    """Drives rounds, and keeps their completed effects in the run's folder.

    With the answers are kept the pending memory of the counted clients, which awaits the verdict as before, and what
    the engine needs to go on.  A round of a protocol is kept once its release is there, after which no client is asked
    anything: its secrets lie with the clients, and a part of its exchanges could not be gone on with.  A round whose
    pending memory lies elsewhere than in this process is not kept.

    keep_after_s: the seconds that effects take at least that are kept; a `Persist` is kept at once.
    folder: `None` keeps nothing.  notices: what a user should know, such as a damaged file.
    """

    def __init__(self, federation: Federation, keep_after_s: float | None = None) -> None:
        self.federation = federation
        self.keep_after_s = KEEP_AFTER_S if keep_after_s is None else keep_after_s
        self.folder: Path | None = None
        self.notices: list[str] = []
        self._completed: list[tuple[Kind, Answer]] = []  # in order

    def drive(
        self, effects: Generator[Effect, Answer, R], before: State, handler: EffectHandler
    ) -> tuple[R, list[Answer]]:
        """Drives a round to its end: its result, and the answers to its asks, replayed or carried out.

        before: the state at the start of the round.
        """
        self._completed = self._replayed(before)
        spent = 0.0

        def carry_out(effect: Effect) -> Answer:
            nonlocal spent
            begun = time.perf_counter()
            answer = handler(effect)
            self._completed.append((_kind(effect), answer))
            spent += time.perf_counter() - begun
            if isinstance(effect, Persist) or (spent >= self.keep_after_s and not self._exchanges):
                self._keep(before)
                fault_points.at("after the effects of a round are on disk")
            return answer

        result = drive(effects, carry_out, [answer for _, answer in self._completed])
        concluded = any(kind == "concluded" for kind, _ in self._completed)  # whose reports include those on training
        answers = [
            _without_reports(answer) if kind == "train" and concluded else answer
            for kind, answer in self._completed
            if kind != "other"
        ]
        self._completed = []
        return result, answers

    @property
    def _exchanges(self) -> bool:
        """Whether clients hold secrets of a protocol until the end of a round's exchanges."""
        protocol = self.federation.algorithm.chain.protocol
        return protocol is not None and protocol[1].exchanges

    def take_notices(self) -> list[str]:
        """The notices since the last call."""
        notices, self.notices = self.notices, []
        return notices

    def has_release(self, round_: int) -> bool:
        """Whether the privacy events of this round were reserved, and are replayed with what followed."""
        if self.folder is None or not (path := self._path(round_, self.folder)).is_file():
            return False
        try:
            return any(not each["asked"] for each in read_notes(path)["answers"])
        except RunFolderError:
            return False  # it is damaged, and the round is carried out anew

    def forget_before(self, round_: int) -> None:
        """Removes what is kept of rounds that a resumed run no longer goes through, since a checkpoint has them."""
        if self.folder is not None and self.folder.is_dir():
            with writing(self.folder):
                for path in self.folder.glob("round-*.safetensors"):
                    if int(path.stem.removeprefix("round-")) < round_:
                        path.unlink()

    def _keep(self, before: State) -> None:
        """Writes the completed effects of a round, whole or not at all."""
        if self.folder is None:
            return
        if (memory := self._pending(before.round)) is None:
            return
        values, tensors = self.federation.engine.saved()
        tensors = {f"engine/{name}": tensor for name, tensor in tensors.items()}
        answers = []
        for place, (kind, answer) in enumerate(self._completed):
            state, own = answer_to_state(answer)
            answers.append({"asked": kind != "other", "kind": kind, "answer": state})
            tensors |= {f"answers/{place}/{name}": tensor for name, tensor in own.items()}
        held = []
        for place, (client, kept) in enumerate(memory.items()):
            held.append({"client": client, "names": [[label, name] for label in kept for name in kept[label]]})
            each = [tensor for label in kept for tensor in kept[label].values()]
            tensors |= {f"memory/{place}/{number}": tensor for number, tensor in enumerate(each)}
        notes = {"round": before.round, "start": _digest(before), "engine": values, "answers": answers, "memory": held}
        path = self._path(before.round, self.folder)
        with writing(path):
            self.folder.mkdir(exist_ok=True)
            write_tensors(path, tensors, notes)

    def _replayed(self, before: State) -> list[tuple[Kind, Answer]]:
        """The kept effects of the round that starts from this state; engine and memory are as after them."""
        if self.folder is None or not (path := self._path(before.round, self.folder)).is_file():
            return []
        try:
            tensors, notes = read_tensors(path)
        except RunFolderError as error:
            self.notices.append(f"{error} The clients of round {before.round + 1} are asked again.")
            return []
        if notes["start"] != _digest(before):
            return []  # of a round that started from elsewhere

        def under(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        for place, held in enumerate(notes["memory"]):
            own: dict[str, dict[str, torch.Tensor]] = {}
            for number, (label, name) in enumerate(held["names"]):
                own.setdefault(label, {})[name] = tensors[f"memory/{place}/{number}"]
            self.federation.memory.propose(held["client"], (before.round, 0), own)
        if notes["engine"]:
            self.federation.engine.restore(notes["engine"], under("engine/"))
        return [
            (
                each.get("kind", "ask" if each["asked"] else "other"),
                answer_from_state(each["answer"], under(f"answers/{place}/")),
            )
            for place, each in enumerate(notes["answers"])
        ]

    def _pending(self, round_: int) -> dict[str, Memory] | None:
        """The pending memory of the counted clients; `None` if it cannot be had here."""
        if not self.federation.engine.keeps_memory:
            return {}
        store, counted = self.federation.memory, [c for _, answer in self._completed for c in answer.counted]
        if not isinstance(store, MemoryStore):
            return None
        each = {client: store.pending(client, (round_, 0)) for client in counted}
        found = {client: memory for client, memory in each.items() if memory is not None}
        return None if len(found) < len(each) else found

    def _path(self, round_: int, folder: Path) -> Path:
        return folder / f"round-{round_:06d}.safetensors"


def _kind(effect: Effect) -> Kind:
    match effect:
        case Ask():
            return "train" if isinstance(effect.request, Train | Measure) else "ask"
        case Concluded():
            return "concluded"
    return "other"


def _without_reports(answer: Answer) -> Answer:
    """An answer without what another one holds instead: the reports and notes of an answer to Train."""
    if not len(answer.reports):
        return answer
    return replace(answer, reports=Reports(), earlier=Reports(), notes=())


def _digest(state: State) -> str:
    """A digest of the state that a round starts from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(state.tensors().items()):
        digest.update(name.encode())
        digest.update(wire.raw(tensor))
    return digest.hexdigest()
