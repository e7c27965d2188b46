"""A TCP proxy with the faults of networks, in a thread of its own: latency, rate, cuts, half-open connections, idle
limits, buffering, and answers of a gateway whose server is away.

    with FaultProxy(("127.0.0.1", port)) as proxy:
        proxy.faults = Faults(latency_s=0.2)
        ... connect to proxy.address ...
        proxy.forget()          # open connections carry nothing from now on, and neither side is told
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import threading
import time
import weakref
from dataclasses import dataclass, field

PIECE = 1 << 14
BAD_GATEWAY = b"<html><body>502 Bad Gateway</body></html>"


@dataclass
class Faults:
    """What the proxy does to traffic; assign a new one to `FaultProxy.faults` at any time.

    latency_s: of each piece in each direction.  rate: bytes a second in each direction of a connection.  loss: the
    chance that a piece cuts its connection.  cut_up, cut_down: bytes of a connection towards and from the server after
    which it is cut.  times: how many cuts by `cut_up` and `cut_down` there are.  idle_s: a connection without traffic
    for so long is cut.  frozen: nothing is forwarded, nothing is closed (a partition).  refusing: each new connection
    is closed at once.  buffering: a request and a response are forwarded when they are whole.  bad_gateway: requests
    are answered with 502, by the proxy.  The last two need traffic that the proxy can read.
    """

    latency_s: float = 0.0
    rate: float = 0.0
    loss: float = 0.0
    cut_up: int | None = None
    cut_down: int | None = None
    times: int = 1 << 30
    idle_s: float = 0.0
    frozen: bool = False
    refusing: bool = False
    buffering: bool = False
    bad_gateway: bool = False


@dataclass(eq=False)
class Link:
    """A connection through the proxy, both halves."""

    writers: tuple[asyncio.StreamWriter, ...]
    moved: list[int] = field(default_factory=lambda: [0, 0])
    last: float = field(default_factory=time.monotonic)
    forgotten: bool = False

    def cut(self) -> None:
        """Resets both halves."""
        for writer in self.writers:
            sock = writer.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Cut(Exception):
    """A connection ends here."""


class FaultProxy:
    """A proxy to one address; `address` is its own.

    accepted: the times of the connections, by the monotonic clock.  carried: bytes to and from the server.  cuts: how
    many connections the proxy has cut.  requests: head lines of requests, where it reads them.  outer: ends the
    callers' TLS, with this context; inner: the context for the server.
    """

    def __init__(
        self,
        target: tuple[str, int],
        faults: Faults | None = None,
        outer: ssl.SSLContext | None = None,
        inner: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.target, self.faults, self.outer, self.inner = target, faults or Faults(), outer, inner
        self.accepted: list[float] = []
        self.requests: list[bytes] = []
        self.carried = [0, 0]
        self.cuts = 0
        self.port = port
        self._links: set[Link] = set()
        self._chance = random.Random(0)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        """The address as a URL."""
        return f"{'https' if self.outer else 'http'}://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        assert self._ready.wait(60), "the proxy did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the proxy did not end"

    def cut(self) -> None:
        """Resets every connection."""
        self._each(Link.cut)

    def forget(self) -> None:
        """Half-open connections: what is open now carries nothing any more, and is not closed."""
        self._each(lambda link: setattr(link, "forgotten", True))

    def _each(self, do) -> None:
        done = threading.Event()

        def all_of_them() -> None:
            for link in list(self._links):
                do(link)
            done.set()

        self._loop.call_soon_threadsafe(all_of_them)
        assert done.wait(60)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self.outer, limit=1 << 26)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for link in list(self._links):
            link.cut()
        await asyncio.sleep(0)  # a connection that was just accepted has its task
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0.05)  # transports close in the next turns of the loop

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.append(time.monotonic())
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._transports.add(writer.transport)
        try:
            await self._connection(reader, writer)
        except (OSError, Cut, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.faults.refusing:
            Link((writer,)).cut()
            return
        if self.faults.bad_gateway:
            await self._answer_bad_gateway(reader, writer)
            return
        there, back = await asyncio.open_connection(*self.target, ssl=self.inner, limit=1 << 26)
        self._transports.add(back.transport)
        link = Link((writer, back))
        self._links.add(link)
        ways = [
            asyncio.ensure_future(self._pump(link, 0, reader, back)),
            asyncio.ensure_future(self._pump(link, 1, there, writer)),
            asyncio.ensure_future(self._idle(link)),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
            if any(isinstance(way.exception(), Cut) for way in done):
                self.cuts += 1
                link.cut()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._links.discard(link)
            for each in link.writers:
                each.close()

    async def _pump(self, link: Link, way: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            piece = await (whole_message(reader) if self.faults.buffering else reader.read(PIECE))
            if not piece:
                break
            faults = self.faults
            if faults.bad_gateway:
                raise Cut
            link.last = time.monotonic()
            limit = faults.cut_down if way else faults.cut_up
            cut = limit is not None and faults.times > 0 and link.moved[way] + len(piece) > limit
            if cut:
                faults.times -= 1
                piece = piece[: max(0, limit - link.moved[way])]
            if faults.latency_s:
                await asyncio.sleep(faults.latency_s)
            while self.faults.frozen or link.forgotten:
                await asyncio.sleep(0.01)
            link.moved[way] += len(piece)
            self.carried[way] += len(piece)
            writer.write(piece)
            await writer.drain()
            link.last = time.monotonic()
            if cut or (faults.loss and self._chance.random() < faults.loss):
                raise Cut
            if faults.rate:
                end = time.monotonic() + len(piece) / faults.rate
                while self.faults is faults and (left := end - time.monotonic()) > 0:
                    await asyncio.sleep(min(left, 0.05))
        while self.faults.frozen or link.forgotten:
            await asyncio.sleep(0.01)
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
        if way:
            raise ConnectionResetError  # the server has ended the connection

    async def _idle(self, link: Link) -> None:
        while True:
            await asyncio.sleep(0.01)
            if self.faults.idle_s and time.monotonic() - link.last > self.faults.idle_s:
                raise Cut

    async def _answer_bad_gateway(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """As a gateway does that keeps its connections open while its server is away."""
        while self.faults.bad_gateway:
            request = await whole_message(reader)
            if not request:
                return
            self.requests.append(request.split(b"\r\n", 1)[0])
            head = f"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: {len(BAD_GATEWAY)}\r\n\r\n"
            writer.write(head.encode() + BAD_GATEWAY)
            await writer.drain()


async def whole_message(reader: asyncio.StreamReader) -> bytes:
    """The next HTTP message of a connection, with its body; empty at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as end:
        return end.partial
    fields = {}
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip().lower()
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        parts = [head]
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            parts += [line, await reader.readexactly(size + 2)]
            if not size:
                return b"".join(parts)
    return head + await reader.readexactly(int(fields.get(b"content-length", b"0")))
