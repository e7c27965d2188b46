"""The sockets of a client's connections, so that none outlives the loop that it belongs to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import weakref
from typing import Any

TURNS = 4  # of a loop in which a broken connection is closed


class OpenSockets:
    """Makes the sockets of a connector (`aiohttp.TCPConnector(socket_factory=sockets.make)`), and ends them.

    A connection that is closed stays open until its last bytes are sent.  A server that takes none, as where an upload
    is given up, would keep it open for longer than the client lives.
    """

    def __init__(self) -> None:
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def make(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket for an address, as `socket.getaddrinfo` gives it."""
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        self._made.add(made)
        return made

    async def end(self) -> None:
        """Breaks the connections that are left, and has their loop close them."""
        left = [each for each in self._made if each.fileno() != -1]
        for each in left:
            with contextlib.suppress(OSError):  # it is not connected yet, or not any more
                each.shutdown(socket.SHUT_RDWR)
        for _ in range(TURNS if left else 0):
            await asyncio.sleep(0)
