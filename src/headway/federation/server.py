"""A server: jobs one after another, for the clients that join."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headway.core import stopping
from headway.core.errors import HeadwayError
from headway.federation.federation_file import load_federation
from headway.federation.identity.server_access import AccessOptions, ServerAccess
from headway.federation.operations.page_access import TOKEN_FILE, PageAccess
from headway.federation.operations.status_pages import StatusPages
from headway.federation.served_job import ServedJob
from headway.federation.server_job import ServerJob
from headway.federation.server_log import ServerLog, Sink
from headway.federation.serving.assignments import State
from headway.federation.serving.http_server import HttpServer
from headway.federation.spool.receipts_route import receipts_routes

PORT = 8443
PARTING_S = 3.0  # how long clients are given to learn that the server stops


@dataclass(frozen=True)
class ServerOptions:
    """How a server listens and whom it admits.

    host, port: where it listens; port 0 is a free one.  name: in the address that it writes; by default one of its
    certificate.
    access: its identity and the registry of nodes, or none on this machine alone.  sinks: receive events of its work,
    see `headway.federation.server_log`.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    name: str | None = None
    access: AccessOptions = field(default_factory=AccessOptions)
    sinks: Sequence[Sink] = ()


class Server:
    """Serves jobs one after another; each has a run in a folder, as a simulation has.

    jobs: their runs, or the path of a federation's file.  folder: of the run; of several jobs, each has a folder of its
    name in it.  A run that is there is gone on with, and one that is finished stays as it is.
    url: the address, once it listens.  page: that of its live page, with the token.

    Raises:
        ConfigError: if a file is wrong, or there is no job.

    Example::

        server = Server("FEDERATION.toml", "runs/study", ServerOptions(access=AccessOptions(insecure=True)))
        state = server.run()  # until the last job has ended: "finished", "failed", "stopped" or "paused"
    """

    def __init__(
        self, jobs: Sequence[ServerJob] | str | Path, folder: str | Path, options: ServerOptions | None = None
    ) -> None:
        named = load_federation(str(jobs)).jobs if isinstance(jobs, str | Path) else tuple(jobs)
        if not named:
            raise HeadwayError("a server needs a job, and none is given.")
        self.jobs, self.folder, self.options = named, Path(folder), options or ServerOptions()
        self.log = ServerLog(self.options.sinks)
        self.url, self.page = "", ""
        self.served: ServedJob | None = None  # the job at present
        self.reason = ""  # of the last state
        self.listening = threading.Event()
        self._http: HttpServer | None = None
        self._access: ServerAccess | None = None
        self._pages: StatusPages | None = None
        self._ending: State | None = None  # asked for by `stop`

    def run(self) -> State:
        """Serves until the last job has ended, or one of them was stopped.

        Returns the last state, or "failed" if a job has failed, after which the next one begins.

        Raises:
            HeadwayError: if a job or the server cannot begin.
        """
        state: State = "finished"
        failed = ""
        try:
            for job in self.jobs:
                if (state := self._serve(job)) == "failed":
                    failed = failed or self.reason
                elif state != "finished":
                    return state
        finally:
            self._close()
        if failed:
            self.reason = failed
            return "failed"
        return state

    def stop(self, final: bool = False) -> None:
        """Ends `run` from another thread: the round is parked, and the next `run` goes on with it.

        final: whether clients are told that the job is over, so that they do not wait for it.
        """
        self._ending = "stopped" if final else "paused"
        if (served := self.served) is not None:
            served.engine.channel.interrupt()

    # one job --------------------------------------------------------------------------------------------

    def _serve(self, job: ServerJob) -> State:
        served = ServedJob(job, self._place(job), self.log)
        self.served = served
        try:
            if served.run.finished:
                done = f"{served.run.state.round} of {job.rounds} rounds are done"
                self.log.write("complete", f"{job.name} is complete: {done}, in {served.folder}.", job=job.name)
                return "finished"
            self._notices(served)
            access = self._admit()
            served.offer(access.identity)
            self._listen(served, access)
            if self._ending is not None:
                served.engine.channel.interrupt()
            return self._train(served)
        finally:
            served.close()
            self.served = None

    def _train(self, served: ServedJob) -> State:
        """Trains a job to its end; the state that it ends in."""
        log, job, patience = self.log, served.job, {}
        state: State = "finished"
        reason = ""
        try:
            for report in served.run:
                log.round(report, job.rounds, served.run.facts.headline, served.seconds_left(report.round))
            reason = served.run.stopped_because
        except (stopping.Stopped, KeyboardInterrupt) as signal:
            state, reason = self._parting(signal)
            patience = {"patience_s": PARTING_S}
        except (HeadwayError, OSError) as error:
            state, reason = "failed", str(error)
        except Exception as error:  # clients do not work on for a run that has come to an end by a defect
            self._end(served, "failed", f"{type(error).__name__}: {error}", {})
            raise
        self._end(served, state, reason, patience)
        return state

    def _end(self, served: ServedJob, state: State, reason: str, patience: dict[str, float]) -> None:
        """Ends a job in a state, which its clients are shown."""
        log, job, self.reason = self.log, served.job, reason
        with stopping.held():
            sentence = _sentence(job.name, state, reason)
            try:
                log.write(state, sentence, job=job.name, round=served.run.state.round, reason=reason)
            finally:  # where the log cannot be written, too
                served.end(state, reason, **patience)

    def _parting(self, signal: BaseException) -> tuple[State, str]:
        """The state and the reason of an end that was asked for."""
        if self._ending == "stopped":
            return "stopped", "the job was stopped"
        by = f" ({signal})" if self._ending is None and str(signal) else ""
        return "paused", f"the server stops{by}, and goes on when it is started again"

    # parts ----------------------------------------------------------------------------------------------

    def _place(self, job: ServerJob) -> Path:
        """The folder of a job's run."""
        return self.folder if len(self.jobs) == 1 else self.folder / job.name

    def _notices(self, served: ServedJob) -> None:
        run, job = served.run, served.job
        where = f" from round {run.state.round + 1}" if run.state.round else ""
        again = f"{job.name}: {job.rounds} rounds{where}, in {served.folder}"
        self.log.write("job", again, job=job.name, rounds=job.rounds, round=run.state.round, folder=str(served.folder))
        for notice in (*run.known.notes, *run.notices, *run.algorithm.explain().warnings):
            self.log.write("notice", notice)

    def _admit(self) -> ServerAccess:
        """Whom the server admits, from its first job on."""
        if self._access is None:
            self._access = ServerAccess.of(self.options.host, self.options.access)
            for note in self._access.notes:
                self.log.write("notice", note)
        return self._access

    def _listen(self, served: ServedJob, access: ServerAccess) -> None:
        """Has clients served with this job, from now on.

        Raises:
            ConfigError: if the port is in use.
        """
        if self._http is not None and self._pages is not None:
            self._pages.board = served.status.board
            clients = served.clients
            self._http.serve(served.desk, clients.members, clients.assignments, served.stores.files)
            return
        options, shown = self.options, PageAccess.of(self.folder)
        self._pages = StatusPages(served.status.board, shown)
        self._http = HttpServer(
            served.desk,
            served.clients.members,
            served.clients.assignments,
            served.stores.files,
            access.admission,
            [*self._pages.routes(), *access.routes(), *receipts_routes(access.admission, self._present_folder)],
        )
        self._http.start(options.host, options.port, access.context)
        self.url = access.url(options.host, self._http.address[1], options.name)
        self.page = shown.url(self.url)
        self.log.write("listening", f"Serving at {self.url}", url=self.url, token_file=str(self.folder / TOKEN_FILE))
        self.listening.set()

    def _present_folder(self) -> Path:
        """The folder of the job at present."""
        return self.folder if self.served is None else self.served.folder

    def _close(self) -> None:
        if self._http is not None:
            self._http.stop()
            self._http = None
        if self._access is not None:
            self._access.close()
            self._access = None


def _sentence(name: str, state: State, reason: str) -> str:
    """The sentence about a job that has ended."""
    words = {"finished": "is finished", "failed": "has failed", "stopped": "is stopped", "paused": "is paused"}
    return f"{name} {words.get(state, state)}" + (f": {reason.rstrip('.')}." if reason else ".")
