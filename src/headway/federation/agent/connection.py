"""The connection of an agent to a server: calls that are repeated until they are answered, and pieces of files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Literal, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from headway.core.errors import ConfigError, HeadwayError
from headway.federation import http_api as api
from headway.federation.agent.addresses import PROXY_FORM, checked_proxy, checked_server
from headway.federation.agent.agent_log import AgentLog
from headway.federation.agent.backoff import Backoff
from headway.federation.agent.open_sockets import OpenSockets
from headway.federation.identity.clock_skew import clock_sentence
from headway.federation.identity.node_identity import EMPTY, Identity, NodeIdentity
from headway.federation.identity.tls_problems import OwnCertificateRefused, tls_problem

OF_HEAD: Mapping[int, Literal["unauthorised", "unknown", "refused", "late"]] = {
    401: "unauthorised",
    403: "unauthorised",
    404: "unknown",
    409: "refused",
    410: "late",
}
B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")
CONNECT_S = 15.0  # to open a connection
SILENCE_S = 60.0  # without a byte for so long, beyond what was asked for, a connection counts as broken
UNKNOWN_HOST_S = 120.0  # how long a host that no name server knows, or that does not speak Headway, is tried
LOOK_S = 60.0  # between two looks at why connections are closed
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # answers after which the same call is made again


class ProblemAnswer(HeadwayError):
    """A server's refusal of a call."""

    def __init__(self, status: int, problem: api.Problem) -> None:
        self.status, self.problem = status, problem
        sides = f" (needed: {problem.needed}; found: {problem.found})" if problem.needed or problem.found else ""
        super().__init__(f"the server answers: {problem.message}{sides}")


class Unreachable(HeadwayError):
    """A call failed on its way, and may be made again.

    after: the seconds that the server asks to wait.  temporary: whether waiting may mend it.  problem: what a Headway
    server that is busy has answered.
    """

    def __init__(
        self, reason: str, after: float = 0.0, temporary: bool = True, problem: api.Problem | None = None
    ) -> None:
        self.after, self.temporary, self.problem = after, temporary, problem
        super().__init__(reason)


class Connection:
    """Calls to one server.  Those that fail on their way are made again, with longer and longer waits.

    identity: signs the calls, and has the certificate.  patience_s: how long a server is waited for that has not
    answered once; `None` without end.  proxy: the address of an HTTP proxy; by default what the environment names
    (HTTPS_PROXY, NO_PROXY).  public_authorities: whether a certificate of the server is trusted that the operating
    system trusts, as of a proxy that ends TLS.

    Raises:
        ConfigError: if the URL or the proxy's is not one of HTTP, or has no host.
    """

    def __init__(
        self,
        url: str,
        identity: Identity,
        log: AgentLog,
        *,
        patience_s: float | None = None,
        proxy: str | None = None,
        public_authorities: bool = False,
    ) -> None:
        self.url, self.secure = checked_server(url)
        self.identity, self.log, self.patience_s, self.proxy = identity, log, patience_s, checked_proxy(proxy)
        self.public_authorities = public_authorities
        self.reached = False  # whether the server has answered once
        self.job = ""  # of the calls that are signed now
        self._since, self._look_again = time.monotonic(), 0.0
        self._session: aiohttp.ClientSession | None = None
        self._sockets = OpenSockets()

    async def __aenter__(self) -> Connection:
        context = self.identity.client_context(self.public_authorities) if self.secure else None
        if isinstance(self.identity, NodeIdentity) and (sentence := self.identity.ends_soon()):
            self.log.once("certificate", sentence)
        trust = context if context is not None else True
        connector = aiohttp.TCPConnector(ssl=trust, limit=8, keepalive_timeout=20.0, socket_factory=self._sockets.make)
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, trust_env=self.proxy is None, auto_decompress=False
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()
        await self._sockets.end()
        self._session = None

    async def call(self, method: str, path: str, body: BaseModel | None, answer: type[B], wait_s: float = 0.0) -> B:
        """The server's answer to a call, however long it takes to reach it.

        wait_s: how long the server may hold the call open.

        Raises:
            ProblemAnswer: if the server refuses.
            ConfigError: if there is no such server, or it is not one of Headway.
        """
        return await self.insist(lambda: self.call_once(method, path, body, answer, wait_s))

    async def call_once(
        self, method: str, path: str, body: BaseModel | None, answer: type[B], wait_s: float = 0.0
    ) -> B:
        """The server's answer to a call that is made once.

        Raises:
            ProblemAnswer, Unreachable: see `call`.
        """
        raw = b"" if body is None else body.model_dump_json().encode()
        headers = {"Content-Type": "application/json"} if raw else {}
        async with self.request(method, path, raw, headers, silence_s=SILENCE_S + wait_s) as response:
            content = await response.content.read(api.BODY + 1)
            while not response.content.at_eof() and len(content) <= api.BODY:
                content += await response.content.read(api.BODY)
        return self.parsed(content, answer)

    async def certificates(self) -> dict[str, str]:
        """The certificates of the clients that have joined the server, DER in base64, by name."""
        found: dict[str, str] = {}
        more, after = True, ""
        while more:
            path = f"{api.CERTIFICATES}?after={quote(after, safe='')}"
            answer = await self.call("GET", path, None, api.Certificates)
            found |= answer.certificates
            more, after = answer.more and max(found, default="") > after, max(found, default="")
        return found

    async def send_once(self, method: str, path: str, body: BaseModel) -> None:
        """A call that is made once, and whose answer says nothing.

        Raises:
            ProblemAnswer, Unreachable: see `call`.
        """
        headers = {"Content-Type": "application/json"}
        async with self.request(method, path, body.model_dump_json().encode(), headers):
            pass

    def check_loopback(self) -> None:
        """Refuses to send over plain HTTP to another machine.

        Raises:
            ConfigError: if the host is not this machine.
        """
        if not self._is_here:
            raise ConfigError(
                f"{self.url} is plain HTTP to another machine, by which anybody on the way could read the updates and "
                "take this client's name: use https:// and an identity (`headway identity enrol`)."
            )

    def check_attackable(self) -> None:
        """Refuses to attack another machine.

        Raises:
            ConfigError: if the host is not this machine.
        """
        if not self._is_here:
            raise ConfigError(
                f"an agent attacks a federation of this machine alone, found {self.url}: start a server at 127.0.0.1."
            )

    @property
    def _is_here(self) -> bool:
        """Whether the host is this machine."""
        host = urlsplit(self.url).hostname or ""
        with contextlib.suppress(ValueError):
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        return False  # a name, which may be of another machine whatever it begins with

    async def insist(self, attempt: Callable[[], Awaitable[T]], backoff: Backoff | None = None) -> T:
        """The result of an attempt, which is made again while it is `Unreachable`; said once, and once when it is over.

        backoff: the waits, where the attempt makes them short again as it gets on.
        """
        backoff, begun = backoff or Backoff(), time.monotonic()
        while True:
            try:
                result = await attempt()
            except Unreachable as failure:
                self._check_patience(failure)
                what = f"answers: {failure.problem.message}" if failure.problem else f"cannot be reached ({failure})."
                sentence = f"The server at {self.url} {what} It is tried again, less and less often, until it answers."
                self.log.once("unreachable", sentence, reason=str(failure))
                await asyncio.sleep(backoff.wait(failure.after))
                continue
            if self.log.over("unreachable"):
                seconds = time.monotonic() - begun
                self.log.write("reached", f"The server answers again, after {seconds:.0f} s.", seconds=seconds)
            return result

    def _check_patience(self, failure: Unreachable) -> None:
        """Gives up an address that never was a server's."""
        waited = time.monotonic() - self._since
        limits = [self.patience_s] if self.patience_s is not None else []
        if not failure.temporary:
            limits.append(UNKNOWN_HOST_S)
        if not self.reached and limits and waited >= min(limits):
            raise ConfigError(
                f"no Headway server has answered at {self.url} for {waited:.0f} s: {failure}. Look at the address for "
                "a mistake, and whether the server runs and this machine may reach it (proxy: --proxy, HTTPS_PROXY)."
            )

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        silence_s: float = SILENCE_S,
        round_: int = 0,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response below 400, to one request.

        Raises:
            ProblemAnswer: if the server refuses.
            Unreachable: if the request, or the response within the context, fails on its way.
        """
        assert self._session is not None, "a connection is entered before it is used"
        digest = hashlib.sha256(body).hexdigest() if body else EMPTY
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s)
        url = URL(self.url + path, encoded=True)
        try:
            for again in (True, False):
                signed = await asyncio.to_thread(self.identity.sign_headers, method, path, digest, self.job, round_)
                async with self._session.request(
                    method,
                    url,
                    data=body or None,
                    headers={**(headers or {}), **signed},
                    timeout=timeout,
                    proxy=self.proxy,
                    allow_redirects=False,
                ) as response:
                    if response.status == 401 and again and self.identity.catch_up(response.headers):
                        continue  # the server was restarted: the number of the request has to be a higher one
                    if difference := clock_sentence(response.headers):
                        self.log.once("clock", difference[0].upper() + difference[1:])
                    if response.status >= 300:
                        await self._refused(response)
                    self.reached = True
                    yield response
                    return
        except aiohttp.ClientConnectorDNSError as error:
            whose = "its host" if error.host == urlsplit(self.url).hostname else f"the host of the proxy {error.host}"
            raise Unreachable(f"no name server knows {whose} ({error.os_error})", temporary=False) from error
        except aiohttp.InvalidURL as error:  # the server's was looked at before
            raise ConfigError(f"HTTPS_PROXY names no HTTP proxy: {PROXY_FORM}.") from error
        except aiohttp.ClientHttpProxyError as error:
            reason = f"the proxy answers {error.status} ({error.message})"
            raise Unreachable(reason, temporary=self.reached or error.status in AGAIN) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if problem := await self._tls_problem(error):
                if self.reached and not isinstance(problem, OwnCertificateRefused):
                    raise Unreachable(str(problem)) from error  # the server's certificate is replaced some day
                raise problem from error
            unknown = isinstance(error.__cause__, socket.gaierror)
            raise Unreachable(_reason(error), temporary=not unknown) from error

    async def _refused(self, response: aiohttp.ClientResponse) -> None:
        """Raises what an answer of 300 and above means: a problem of the server's, or of something before it."""
        raw = await response.content.read(1 << 16)
        try:
            problem = api.Problem.model_validate_json(raw)
        except ValidationError:
            problem = None
        if response.method == "HEAD" and response.status in (401, 403):
            async with self.request("GET", api.JOB):
                pass  # is refused likewise, with a sentence
        if response.method == "HEAD" and response.status in OF_HEAD:  # whose answer has no body
            kind = OF_HEAD[response.status]
            problem = api.Problem(kind=kind, message=f"status {response.status} ({response.reason})")
        if response.status in AGAIN:
            after = response.headers.get("Retry-After", "")
            reason = f"status {response.status}" + (f": {problem.message}" if problem is not None else "")
            self.reached = self.reached or problem is not None
            raise Unreachable(reason, min(float(after), 60.0) if after.isdecimal() else 0.0, problem=problem)
        if problem is None:
            raise Unreachable(
                f"status {response.status} ({response.reason}) from what is no Headway server, such as a proxy",
                temporary=self.reached,
            )
        self.reached = True
        raise ProblemAnswer(response.status, problem)

    def parsed(self, content: bytes, answer: type[B]) -> B:
        """The body of an answer.

        Raises:
            ConfigError: if it is that of a server of another version.
            Unreachable: if it is no such body.
        """
        try:
            return answer.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            versions = _versions_of(content)
            if versions:
                raise ConfigError(
                    f"the server at {self.url} has another version ({versions}), whose {answer.__name__} this agent "
                    f"cannot read ({where}: {first['msg']}): install the same version of headway at both sides."
                ) from error
            raise Unreachable(
                f"an answer that is no {answer.__name__} of a Headway server ({where}: {first['msg']})",
                temporary=self.reached,
            ) from error

    async def _tls_problem(self, error: BaseException) -> HeadwayError | None:
        """Why the certificates of the two sides do not fit, if that is why a call failed, which no waiting mends.

        A server that refuses this client's certificate closes the connection, which is looked into now and then.
        """
        closed = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError)
        if not self.secure or not isinstance(self.identity, NodeIdentity):
            return None
        if not isinstance(error, aiohttp.ClientSSLError):
            if not closed or isinstance(error, aiohttp.ClientConnectorError) or time.monotonic() < self._look_again:
                return None
            self._look_again = time.monotonic() + LOOK_S
        found = await asyncio.to_thread(tls_problem, self.url, self.identity, self.public_authorities)
        if found is None and isinstance(error, aiohttp.ClientConnectorCertificateError) and not self.reached:
            return ConfigError(f"the certificate of the server at {self.url} is refused: {error.certificate_error}.")
        return found


def _versions_of(content: bytes) -> str:
    """The version of headway that an answer names, if it does."""
    try:
        versions = json.loads(content)["versions"]
        return f"headway {versions['headway']}, interface {versions['protocol']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {error.host}:{error.port}: {error.os_error.strerror or error.os_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        text = error.os_error.strerror or str(error.os_error)
        return text.lower() if text.istitle() else text
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
