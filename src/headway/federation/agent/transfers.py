"""Files that an agent fetches and sends, which go on at the byte where a connection broke."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from headway.core import fault_points
from headway.core.errors import FrameError
from headway.federation import http_api as api
from headway.federation.agent.backoff import Backoff
from headway.federation.agent.connection import Connection, ProblemAnswer, Unreachable

READ = 1 << 18  # bytes that are read and written at a time
FIRST_PIECE, SMALLEST_PIECE = 1 << 18, 1 << 14  # bytes of a piece of an upload; the others follow its speed
LONG_S = 300.0  # without an answer to a piece for so long, the connection counts as broken
PIECE_S = 5.0  # how long a piece of an upload is to take, so that a slow line does not look like a broken one
DAMAGED = 3  # whole downloads with another digest, after which it is given up
Progress = Callable[[int, int], None]  # bytes that are there, of how many


async def download(
    connection: Connection, digest: str, size: int, folder: Path, progress: Progress = lambda done, of: None
) -> Path:
    """The file of a message, fetched from where an earlier attempt ended; its digest is checked.

    Raises:
        ProblemAnswer: if the server does not have it any more.
        FrameError: if what comes is not what was announced, again and again.
    """
    whole, part = folder / digest, folder / f"{digest}.part"
    if whole.is_file():
        return whole
    for _ in range(DAMAGED):
        backoff = Backoff()
        await connection.insist(functools.partial(_fetch, connection, (digest, size), part, backoff, progress), backoff)
        if await asyncio.to_thread(_digest_of, part) == digest:
            os.replace(part, whole)
            return whole
        part.unlink()
    raise FrameError(
        f"the message {digest[:16]}... of the server was fetched {DAMAGED} times, and each time was another: something "
        "between here and the server changes what it carries, such as a proxy that rewrites content."
    )


async def _fetch(
    connection: Connection, message: tuple[str, int], part: Path, backoff: Backoff, progress: Progress
) -> None:
    """Adds to a part what is still missing, as far as the connection holds; message: its digest and size."""
    digest, size = message
    there = _length(part)
    headers = {"Range": f"bytes={there}-", "Accept-Encoding": "identity"} if there else {"Accept-Encoding": "identity"}
    path = api.MESSAGE.format(digest=digest)
    async with connection.request("GET", path, headers=headers) as response:
        if there and (response.status != 206 or not _begins_at(response.headers.get("Content-Range", ""), there)):
            there = 0  # the whole again, from a server or cache that does not know ranges
        with part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(there)
            file.seek(there)
            async for block in response.content.iter_chunked(READ):
                there += len(block)
                if there > size:
                    file.truncate(0)
                    raise Unreachable(f"a message of more than the {size} bytes that were announced")
                file.write(block)
                fault_points.at("agent: within a download")
                backoff.reset()
                progress(there, size)
    if there < size:
        raise Unreachable(f"the message ended at byte {there} of {size}")


async def upload(
    connection: Connection,
    assignment: str,
    file: Path,
    size: int,
    round_: int = 0,
    progress: Progress = lambda done, of: None,
) -> None:
    """Sends a reply in pieces, from where the server has it.

    Raises:
        ProblemAnswer: if the server does not want it any more.
    """
    path, backoff = api.REPLY.format(assignment=quote(assignment, safe="")), Backoff()

    async def send() -> None:
        async with connection.request("HEAD", path, round_=round_) as response:
            offset = _offset(response.headers.get(api.OFFSET, "0"))
        piece = FIRST_PIECE
        while offset < size:
            data = await asyncio.to_thread(_read, file, offset, min(piece, size - offset))
            headers = {api.OFFSET: str(offset), "Content-Type": "application/octet-stream"}
            begun = time.monotonic()
            try:
                async with connection.request("PUT", path, data, headers, silence_s=LONG_S, round_=round_) as response:
                    offset = _offset(response.headers.get(api.OFFSET, str(offset + len(data))))
            except ProblemAnswer as answer:
                if answer.problem.kind != "mismatch":  # of offsets: another attempt sent this piece after all
                    raise
                raise Unreachable(str(answer)) from answer
            fault_points.at("agent: within an upload")
            piece = next_piece(piece, time.monotonic() - begun)
            backoff.reset()
            progress(offset, size)

    await connection.insist(send, backoff)


async def is_wanted(connection: Connection, assignment: str) -> bool:
    """Whether the server waits for the reply to an assignment."""
    try:
        async with connection.request("HEAD", api.REPLY.format(assignment=quote(assignment, safe=""))):
            return True
    except ProblemAnswer:
        return False


async def complete(connection: Connection, assignment: str, end: api.Complete, round_: int = 0) -> api.Receipt:
    """The server's receipt for an upload, which is asked for until the run has decided about it.

    Raises:
        ProblemAnswer: if the server does not want the reply, or it came in damaged.
    """
    path, body = api.COMPLETE.format(assignment=quote(assignment, safe="")), end.model_dump_json().encode()
    headers, waits = {"Content-Type": "application/json"}, Backoff(shortest=0.1, longest=2.0)

    async def ask() -> api.Receipt | None:
        async with connection.request("POST", path, body, headers, round_=round_) as response:
            content = await response.content.read(api.BODY)
            return None if response.status == 202 else connection.parsed(content, api.Receipt)

    while (receipt := await connection.insist(ask)) is None:
        await asyncio.sleep(waits.wait())
    return receipt


async def ask_once(connection: Connection, assignment: str, end: api.Complete) -> api.Receipt | None:
    """The server's receipt for a reply whose delivery was given up; `None` where it does not want the reply any more.

    Raises:
        ProblemAnswer, Unreachable: if it is not known now.
    """
    path = api.COMPLETE.format(assignment=quote(assignment, safe=""))
    try:
        return await connection.call_once("POST", path, end, api.Receipt)
    except ProblemAnswer as answer:
        if answer.problem.kind != "late":
            raise
        return None


def next_piece(piece: int, seconds: float) -> int:
    """The bytes of the piece after one that took so long: more on a fast line, fewer on a slow one.

    >>> next_piece(1 << 18, 0.1), next_piece(1 << 18, 20.0), next_piece(4 << 20, 0.1)
    (524288, 65536, 4194304)
    """
    wanted = 2 * piece if seconds < PIECE_S / 2 else piece * PIECE_S / seconds
    return int(min(api.CHUNK, max(SMALLEST_PIECE, wanted)))


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _begins_at(content_range: str, offset: int) -> bool:
    return content_range.startswith(f"bytes {offset}-")


def _offset(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise Unreachable(f"{api.OFFSET} is {text!r}, no number")
    return int(text)


def _read(path: Path, offset: int, count: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(count)


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
