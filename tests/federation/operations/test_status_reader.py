"""Reading a status over the network: what may go wrong, each in a sentence."""

import asyncio
import ssl
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from boards import server_board

from headway.federation.identity.authority import Authority
from headway.federation.operations.page_access import PageAccess
from headway.federation.operations.status_pages import StatusPages
from headway.federation.operations.status_reader import StatusAddress, StatusReader, StatusUnavailable


@asynccontextmanager
async def served(handler, context=None):
    """Serves one handler at the path of the status; gives the address of the server."""
    app = web.Application()
    app.router.add_get("/v1/status", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield "{}://127.0.0.1:{}".format("https" if context else "http", runner.addresses[0][1])
    finally:
        await runner.cleanup()


def answer(status=200, text="", **headers):
    async def handler(request):
        return web.Response(status=status, text=text, headers=headers)

    return handler


async def read_from(handler):
    async with served(handler) as base, StatusReader(StatusAddress.of(base, "x")) as reader:
        return await reader.read()


@pytest.mark.parametrize(
    ("handler", "words", "passing"),
    [
        (answer(401), "refuses the token", False),
        (answer(404), "no Headway server, or one that keeps no status", False),
        (answer(302, Location="http://other.test/"), "status 302", False),
        (answer(502), "as a proxy does", True),
        (answer(200, "<html>"), "is no status", False),
        (answer(200, '{"version": 2}'), "version 2 of the status", False),
        (answer(200, " " * (17 << 20)), "too long", False),
    ],
    ids=["token", "missing", "redirected", "gateway", "html", "version", "long"],
)
def test_what_is_no_status(handler, words, passing):
    with pytest.raises(StatusUnavailable, match=words) as caught:
        asyncio.run(read_from(handler))
    assert caught.value.passing is passing


def test_a_status_over_tls(tmp_path):
    authority = Authority.create(tmp_path / "ca", "hospitals")
    authority.issue("server", tmp_path / "server", hosts=["127.0.0.1"])
    other = Authority.create(tmp_path / "other", "others")
    other.issue("stranger", tmp_path / "stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server" / "node.pem", tmp_path / "server" / "tls.key")
    access = PageAccess()
    pages = StatusPages(server_board([], done=2, wall=time.time), access)

    async def read(trusting):
        async with served(pages.status, context) as base:
            address = StatusAddress.of(base, access.token).trusting(*trusting)
            async with StatusReader(address) as reader:
                return await reader.read()

    assert asyncio.run(read((tmp_path / "server", None))).round == 2
    assert asyncio.run(read((None, tmp_path / "server" / "ca.pem"))).round == 2
    with pytest.raises(StatusUnavailable, match="is not trusted"):
        asyncio.run(read((None, None)))
    with pytest.raises(StatusUnavailable, match="is not trusted"):
        asyncio.run(read((None, tmp_path / "stranger" / "ca.pem")))
    with pytest.raises(StatusUnavailable, match=r"authority 'hospitals'.*trusts 'others'"):
        asyncio.run(read((tmp_path / "stranger", None)))


def test_the_token_is_not_in_the_address_that_is_shown():
    address = StatusAddress.of("https://user:secret@host:8443/base/?token=abcdef")
    assert (address.base, address.token) == ("https://host:8443/base", "abcdef")
    assert StatusAddress.of("host:8443", "x").base == "https://host:8443"
    assert StatusAddress.of("http://[::1]:80/?token=y").base == "http://[::1]:80"
