"""The work of an agent on one job: joining, asking for requests, answering them, delivering the replies."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from headway.core import fault_points
from headway.core.errors import FrameError
from headway.core.update import Tensors
from headway.federation import http_api as api
from headway.federation.agent.agent_log import AgentLog
from headway.federation.agent.agent_memory import AgentMemory
from headway.federation.agent.agent_store import AgentStore, StoredReply
from headway.federation.agent.answering import Answered
from headway.federation.agent.backoff import Backoff
from headway.federation.agent.connection import Connection, ProblemAnswer, Unreachable
from headway.federation.agent.exchange_record import TRAINING
from headway.federation.agent.training_thread import TrainingThread, WorkWithdrawn
from headway.federation.agent.transfers import ask_once, complete, download, is_wanted, upload
from headway.observe.text import bytes_text

ENDED = ("finished", "failed", "stopped")
NOT_COUNTED = ("late", "stale", "refused")  # verdicts of a receipt by which an update never counts
SPIN_S = 0.5  # a request for work that is answered sooner, and brings nothing, is followed by a wait
DAMAGED = ("malformed", "mismatch")  # problems of an upload that came in otherwise than it was sent
TRIES = 3
WITHOUT_VERDICT_S = 5.0  # between two questions for the verdict on pending memory
LAST_BEAT_S = 1.0  # how long a heartbeat is waited for that is under way when an assignment ends


class Answers(Protocol):
    """The answers to assignments: see `Answering`."""

    @property
    def telemetry(self) -> bool:
        """Whether the server is sent what is being done."""
        ...

    def check(self, assignment: api.Assignment) -> None:
        """Refuses an assignment before anything is fetched."""
        ...

    def answer(
        self, assignment: api.Assignment, message: Path, private: Path | None, secret: Tensors, into: Path
    ) -> Answered:
        """The reply to an assignment."""
        ...


class SessionJob(Protocol):
    """A job as its session needs it: that of an agent, or of a relay."""

    @property
    def description(self) -> api.JobDescription:
        """The server's description."""
        ...

    @property
    def memory(self) -> AgentMemory:
        """The memory of the client."""
        ...

    @property
    def answering(self) -> Answers:
        """The answers to assignments."""
        ...

    def join_request(self, pending: api.Pending | None) -> api.JoinRequest:
        """The request to join; pending: memory without a verdict."""
        ...


class JobSession:
    """One job of a server, from joining it to its end.

    pass_on: is given verdicts on clients behind a relay, before they are reported as carried out.
    end: the last state of the job that the server has sent.
    """

    def __init__(
        self,
        connection: Connection,
        store: AgentStore,
        job: SessionJob,
        thread: TrainingThread,
        log: AgentLog,
        pass_on: Callable[[Sequence[api.RoundVerdict]], None] = lambda verdicts: None,
    ) -> None:
        self.connection, self.store, self.job, self.thread, self.log = connection, store, job, thread, log
        self.pass_on = pass_on
        self.name, self.telemetry = job.description.job, job.answering.telemetry
        self.end: api.Work | None = None
        self._settled: set[tuple[int, int]] = set()  # carried out, and not yet reported
        self._working: tuple[str, ...] = ()
        self._activity, self._done = "", None  # type: tuple[str, float | None]
        self._task: asyncio.Task[None] | None = None
        self._withdrawn = False

    async def run(self) -> api.Work:
        """Works until the job has ended; its last state.

        Raises:
            ProblemAnswer: if the server does not let this client take part.
        """
        self.connection.job = self.name
        await self.join()
        for stored in await asyncio.to_thread(self.store.undelivered, self.name):
            await self._ask_for_receipt(stored)
        idle = Backoff(shortest=SPIN_S, longest=10.0)
        while self.end is None:
            begun = time.monotonic()
            work = await self._ask()
            if self.end is not None or work is None:
                continue
            did = bool(work.verdicts)
            if work.assignment is not None:
                did = await self._carry_out(work.assignment)
            if did:
                idle.reset()
            elif time.monotonic() - begun < SPIN_S:
                await asyncio.sleep(idle.wait())
        await self._last_receipts()
        return self.end

    # the server -----------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Joins the job, or joins it again after the server was started anew."""
        pending = await asyncio.to_thread(self.store.pending, self.name)
        request = self.job.join_request(pending)
        try:
            work = await self.connection.call("POST", api.JOIN, request, api.Work)
        except ProblemAnswer as answer:
            if answer.problem.kind != "gone":
                raise
            self._ended(answer)
        else:
            await self._take(work)

    async def _ask(self) -> api.Work | None:
        """The server's answer to a request for work; `None` where it has to be joined again first."""
        wait_s = self.job.description.poll_s
        request, settled = self._request(wait_s)
        try:
            work = await self.connection.call("POST", api.WORK, request, api.Work, wait_s)
        except ProblemAnswer as answer:
            await self._other_server(answer)
            return None
        self._settled -= settled
        await self._take(work)
        if work.reason and self.end is None:
            self.log.once("notice", f"The server: {work.reason}.")
        else:
            self.log.over("notice")
        return work

    def _request(self, wait_s: float) -> tuple[api.WorkRequest, set[tuple[int, int]]]:
        settled = set(self._settled)
        activity, done = (self._activity, self._done) if self.telemetry else ("", None)
        request = api.WorkRequest(
            job=self.name,
            wait_s=wait_s,
            working=self._working,
            settled=tuple(sorted(settled)),
            activity=activity,
            done=done,
        )
        return request, settled

    async def _other_server(self, answer: ProblemAnswer) -> None:
        """A server that does not know this client joins it again; one with another job has ended this one."""
        if answer.problem.kind == "unknown":
            await self.join()
        elif answer.problem.kind == "gone":
            self._ended(answer)
        else:
            raise answer

    def _ended(self, answer: ProblemAnswer) -> None:
        self.end = api.Work(job=self.name, state="stopped", reason=answer.problem.message)

    async def _take(self, work: api.Work) -> None:
        """Carries out the verdicts of an answer, and notes the end of the job."""
        if any(verdict.client for verdict in work.verdicts):
            await asyncio.to_thread(self.pass_on, work.verdicts)
        for verdict in work.verdicts:
            if verdict.client:
                self._settled.add((verdict.round, verdict.attempt))
                continue
            await self._settle(verdict.round, verdict.attempt, verdict.counted, verdict.reason)
            self._settled.add((verdict.round, verdict.attempt))
        if work.job != self.name:
            self.end = api.Work(job=self.name, state="stopped", reason="the server has begun another job")
        elif work.state in ENDED:
            self.end = work

    async def _settle(self, round_: int, attempt: int, counted: bool, reason: str = "") -> None:
        """Commits or drops the memory that awaits the verdict on this attempt."""
        tag = (round_, attempt)
        fault_points.at("agent: before a verdict is carried out")
        await asyncio.to_thread(self.store.settle, self.name, tag, counted)
        if counted:  # also where that was carried out before, by a heartbeat that was ended meanwhile
            self.job.memory.committed = await asyncio.to_thread(self.store.committed, self.name)
        fault_points.at("agent: after a verdict is carried out")
        if not counted:
            why = f": {reason}" if reason else ""
            self.log.write("not counted", f"Round {round_ + 1}: the update was not counted{why}.", round=round_)

    # one assignment -------------------------------------------------------------------------------------

    async def _carry_out(self, assignment: api.Assignment) -> bool:
        """Answers a request and delivers the reply, with heartbeats beside it; whether something new was done."""
        self._withdrawn, self._working = False, (assignment.assignment,)
        self._task = asyncio.create_task(self._answer_and_deliver(assignment))
        beats = asyncio.create_task(self._heartbeats(assignment, over := asyncio.Event()))
        try:
            await asyncio.shield(self._task)
            over.set()
            await asyncio.wait([beats], timeout=LAST_BEAT_S)  # to the server, this client has what is in its answer
            return True
        except asyncio.CancelledError:
            if not self._withdrawn:  # the agent itself ends
                self._task.cancel()
                raise
            self.log.write("withdrawn", f"Round {assignment.round + 1}: the request was withdrawn by the server.")
            if self.end is None:
                await self._last_receipts()
            return True
        except WorkWithdrawn:
            return True
        except FrameError as error:
            self.log.write("refused", f"Round {assignment.round + 1}: the request is not answered: {error}")
            return False
        except ProblemAnswer as answer:
            if answer.problem.kind != "gone":
                raise
            # of a server that was started anew since it made the request, and makes it again
            self.log.write("withdrawn", f"Round {assignment.round + 1}: {answer.problem.message}")
            return False
        finally:
            self._working, self._activity, self._done = (), "", None
            beats.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beats

    async def _answer_and_deliver(self, assignment: api.Assignment) -> None:
        stored = await asyncio.to_thread(self.store.reply, self.name, assignment.assignment)
        if stored is None:
            self.job.answering.check(assignment)
            if assignment.kind == "train":
                await self._until_settled(assignment)
                self.job.memory.committed = await asyncio.to_thread(self.store.committed, self.name)
            stored = await self._answered(assignment)
        await self._deliver(stored)

    async def _until_settled(self, assignment: api.Assignment) -> None:
        """Waits for the verdict on pending memory: a client never trains from memory that may not have counted."""
        while (pending := await asyncio.to_thread(self.store.pending, self.name)) is not None:
            tag = (assignment.round, assignment.attempt)
            if await asyncio.to_thread(self.store.exchanges.answered, self.name, tag, TRAINING):
                break  # the same reply is sent again
            if pending.round == assignment.round and pending.attempt < assignment.attempt:
                await self._settle(pending.round, pending.attempt, False, "the round was begun again")
                continue
            self._activity = "waiting for the verdict on its last update"
            self.log.once("verdict", f"The verdict on the update of round {pending.round + 1} is asked for again.")
            await self.join()
            if await asyncio.to_thread(self.store.pending, self.name) is not None:
                await asyncio.sleep(WITHOUT_VERDICT_S)
        self.log.over("verdict")

    async def _answered(self, assignment: api.Assignment) -> StoredReply:
        """The reply to an assignment, on disk."""
        begun = time.monotonic()
        message = await self._fetched(assignment.message, assignment.size)
        private = None
        if assignment.private is not None:
            private = await self._fetched(assignment.private, assignment.private_size)
        secret = await asyncio.to_thread(self.store.exchanges.secret, self.name, (assignment.round, assignment.attempt))
        doing = {"train": "training", "exchange": "exchanging"}
        self._activity, self._done = doing.get(assignment.kind, "scoring"), None
        fetched = time.monotonic()
        fault_points.at("agent: a request is fetched")
        answered = await self.thread.run(
            functools.partial(self.job.answering.answer, assignment, message, private, secret, self.store.fresh)
        )
        trained = time.monotonic()
        fault_points.at("agent: a reply is computed")
        if answered.failure is not None:
            self.log.write("failed", f"Round {assignment.round + 1}: {answered.failure}", round=assignment.round)
        kept = asyncio.to_thread(self.store.keep, assignment, answered)
        stored = await asyncio.shield(kept)
        fault_points.at("agent: a reply is on disk")
        await asyncio.to_thread(self.store.forget_messages, {assignment.message})
        if assignment.kind == "train":
            self.log.write(
                "trained",
                f"Round {assignment.round + 1}: trained in {trained - fetched:.1f} s; the update has "
                f"{bytes_text(stored.size)}.",
                round=assignment.round,
                fetch_s=round(fetched - begun, 3),
                train_s=round(trained - fetched, 3),
                bytes_up=stored.size,
                bytes_down=assignment.size + assignment.private_size,
            )
        return stored

    async def _fetched(self, digest: str, size: int) -> Path:
        self._activity = f"fetching {bytes_text(size)}"
        return await download(self.connection, digest, size, self.store.messages, self._progress)

    async def _deliver(self, stored: StoredReply) -> None:
        """Sends a reply until the server has given a receipt, or does not want it."""
        self._activity, self._done = f"sending {bytes_text(stored.size)}", 0.0
        end = api.Complete(size=stored.size, digest=stored.digest, message=stored.message)
        receipt: api.Receipt | None = None
        for attempt in range(TRIES):
            try:
                path = self.store.blob(stored.digest)
                await upload(self.connection, stored.assignment, path, stored.size, stored.round, self._progress)
                fault_points.at("agent: a reply is sent")
                receipt = await complete(self.connection, stored.assignment, end, stored.round)
                fault_points.at("agent: a receipt is there")
                break
            except ProblemAnswer as answer:
                if answer.problem.kind == "unauthorised":
                    raise
                if answer.problem.kind == "unknown":
                    await self.join()
                elif answer.problem.kind not in DAMAGED or attempt + 1 == TRIES:
                    self.log.write(
                        "not wanted", f"Round {stored.round + 1}: the reply is not taken: {answer.problem.message}"
                    )
                    break
        await self._received(stored, receipt)

    async def _ask_for_receipt(self, stored: StoredReply) -> None:
        """Asks for the receipt of a reply that may have arrived whole before this agent was stopped.

        One that has not is delivered when the server asks for it again.  One of which a server cannot tell yet, as a
        relay that waits for its own, is asked for at the end of the job: until then there may be other work.
        """
        end = api.Complete(size=stored.size, digest=stored.digest, message=stored.message)
        with contextlib.suppress(ProblemAnswer, Unreachable):
            if not await is_wanted(self.connection, stored.assignment):
                await self._received(stored, await complete(self.connection, stored.assignment, end, stored.round))

    async def _received(self, stored: StoredReply, receipt: api.Receipt | None) -> None:
        """Keeps the receipt of a reply; `None` for one that the server does not want."""
        await asyncio.to_thread(self.store.deliver, stored, receipt)
        fault_points.at("agent: a receipt is on disk")
        if receipt is not None and receipt.verdict in NOT_COUNTED and stored.kind == "train":
            await self._settle(stored.round, stored.attempt, False, receipt.reason or receipt.verdict)

    async def _last_receipts(self) -> None:
        """Asks once for the receipts of replies whose delivery was given up: the server may have decided before."""
        for stored in await asyncio.to_thread(self.store.undelivered, self.name):
            end = api.Complete(size=stored.size, digest=stored.digest, message=stored.message)
            with contextlib.suppress(ProblemAnswer, Unreachable):
                await self._received(stored, await ask_once(self.connection, stored.assignment, end))

    def _progress(self, done: int, of: int) -> None:
        self._done = min(1.0, done / max(1, of))

    # heartbeats -----------------------------------------------------------------------------------------

    async def _heartbeats(self, assignment: api.Assignment, over: asyncio.Event) -> None:
        """Contact until an assignment is over, however long that takes; a request that was withdrawn is given up."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), api.HEARTBEAT_S)
                return
            request, settled = self._request(0.0)
            try:
                work = await self.connection.call_once("POST", api.HEARTBEAT, request, api.Work)
                self._settled -= settled
                await self._take(work)
                given_up = assignment.assignment in work.withdrawn
            except Unreachable:
                continue  # the work goes on; the next one may get through
            except ProblemAnswer as answer:
                with contextlib.suppress(ProblemAnswer):
                    await self._other_server(answer)
                given_up = False
            if given_up or self.end is not None:
                self._give_up()
                return

    def _give_up(self) -> None:
        """Ends the work on the present assignment, if it is not over."""
        if self._task is not None and not self._task.done():
            self._withdrawn = True
            self.thread.interrupt()
            self._task.cancel()
