"""The server of a relay's own clients: at one address, job after job, with the relay's status."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headway.federation.identity.server_access import ServerAccess
from headway.federation.operations.page_access import TOKEN_FILE, PageAccess
from headway.federation.operations.status_pages import StatusPages
from headway.federation.relay.relay_desk import RelayDesk
from headway.federation.serving.http_server import HttpServer
from headway.federation.spool.receipts import signer


@dataclass
class RelayServer:
    """Serves the clients of one job after another.

    host, port: where it listens; port 0 is a free one.  access: whom it admits.  folder: of the token of its status.
    desk: of the job at present; clients still ask about one that has ended, until there is another.
    url: the address, once it listens.  page: that of the live page, with the token.
    """

    host: str
    port: int
    access: ServerAccess
    folder: Path
    desk: RelayDesk | None = None
    url: str = ""
    page: str = ""
    _http: HttpServer | None = None
    _pages: StatusPages | None = None

    @property
    def token_file(self) -> Path:
        """The file with the token of the status."""
        return self.folder / TOKEN_FILE

    def offer(self, desk: RelayDesk) -> None:
        """Has clients served with this job from now on, with receipts that the relay signs; listens with the first one.

        Raises:
            ConfigError: if the port is in use.
            RunFolderError: if the token of the status cannot be used.
        """
        last, self.desk = self.desk, desk
        desk.answering.channel.sign = signer(self.access.identity)
        if self._http is not None and self._pages is not None:
            self._pages.board = desk.status.board
            self._http.serve(desk.jobs, desk.members, desk.assignments, desk.spool)
        else:
            shown = PageAccess.of(self.folder)
            self._pages = StatusPages(desk.status.board, shown)
            own = (desk.jobs, desk.members, desk.assignments, desk.spool)
            self._http = HttpServer(*own, self.access.admission, self._pages.routes())
            self._http.start(self.host, self.port, self.access.context)
            self.url = self.access.url(self.host, self._http.address[1])
            self.page = shown.url(self.url)
        if last is not None:
            last.close()

    def close(self) -> None:
        """Ends the server."""
        if self._http is not None:
            self._http.stop()
        if self.desk is not None:
            self.desk.close()
