"""Reading the status of a server from another machine."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
from pydantic import ValidationError

from headway.core.errors import ConfigError, HeadwayError
from headway.federation import http_api as api
from headway.federation.identity.node_identity import NodeIdentity
from headway.federation.identity.tls_problems import tls_problem
from headway.federation.operations.status_snapshot import STATUS_VERSION, StatusSnapshot

TIMEOUT_S = 15.0
LARGEST = 1 << 24  # bytes of a status


class StatusUnavailable(HeadwayError):
    """The status cannot be read now; it may be later.  passing: whether to try again makes sense."""

    def __init__(self, message: str, passing: bool = True) -> None:
        super().__init__(message)
        self.passing = passing


@dataclass(frozen=True)
class StatusAddress:
    """Where a status is, and with which token.

    base: of the server, without a path.  identity: whose authority is trusted, in the place of the system's.
    authority: a file with that authority's certificate alone.
    """

    base: str
    token: str
    identity: NodeIdentity | None = None
    authority: Path | None = None

    @classmethod
    def of(cls, address: str, token: str | None = None) -> StatusAddress:
        """The address that a server printed, with its token in it or apart.

        Raises:
            ConfigError: if it is no address, has no token, or would send the token over a network in the clear.
        """
        parts = urlsplit(address if "//" in address else f"https://{address}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(
                f"{address!r} is no address of a server: needed is https://HOST:PORT, as `headway serve` prints it."
            )
        given = token or next(iter(parse_qs(parts.query).get("token", [])), "")
        if not given.strip():
            raise ConfigError(
                "the status needs the server's token: give the whole address that `headway serve` printed, or --token, "
                "or --token-file (the file status-token in the run folder), or set HEADWAY_TOKEN."
            )
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ConfigError(
                f"{parts.hostname} is another machine, and http:// would send the token in the clear: use https://."
            )
        path = parts.path.rstrip("/")
        return cls(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}", given.strip())

    def trusting(self, identity: Path | None, authority: Path | None) -> StatusAddress:
        """The same, with the authority of an identity folder, or of a file, trusted instead of the system's."""
        made = None if identity is None else NodeIdentity.load(identity)
        return replace(self, identity=made, authority=authority)

    def context(self) -> ssl.SSLContext | bool:
        """The TLS settings."""
        if not self.base.startswith("https:"):
            return True
        if self.identity is not None:
            return self.identity.client_context()
        if self.authority is None:
            return True
        try:
            context = ssl.create_default_context(cafile=self.authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{self.authority} is no certificate of an authority that can be read: {error}."
            ) from error
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


class StatusReader:
    """Reads the status of an address, over one connection."""

    def __init__(self, address: StatusAddress) -> None:
        self.address = address
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> StatusReader:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.address.context()),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            headers={"Authorization": f"Bearer {self.address.token}"},
            trust_env=True,
        )
        return self

    async def __aexit__(self, *raised: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def read(self) -> StatusSnapshot:
        """The status now.

        Raises:
            StatusUnavailable: with the reason.
        """
        assert self._session is not None, "a reader is entered before it is used"
        base = self.address.base
        try:
            async with self._session.get(base + api.STATUS, allow_redirects=False) as response:
                raw = b""
                async for part in response.content.iter_chunked(1 << 16):
                    raw += part
                    if len(raw) > LARGEST:
                        raise StatusUnavailable(f"what {base} sends is no status: it is too long.", passing=False)
                return _status(base, response.status, raw)
        except aiohttp.ClientSSLError as error:
            known = None
            if self.address.identity is not None:
                known = await asyncio.to_thread(tls_problem, base, self.address.identity)
            raise StatusUnavailable(str(known or _tls_sentence(base, error)), passing=False) from error
        except aiohttp.ClientConnectorDNSError as error:
            raise StatusUnavailable(
                f"no name server knows the host of {base}: look at the address for a mistake.", passing=False
            ) from error
        except TimeoutError as error:
            raise StatusUnavailable(f"{base} does not answer within {TIMEOUT_S:g} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise StatusUnavailable(
                f"no server answers at {base}: {_brief(error)}. Look at the address and the port, and whether the "
                "server runs."
            ) from error


def _status(base: str, code: int, raw: bytes) -> StatusSnapshot:
    """The status in an answer."""
    if code == 401:
        raise StatusUnavailable(
            f"the server at {base} refuses the token: it is that of another run. The file status-token in the run "
            "folder holds the right one.",
            passing=False,
        )
    if code in (429, 502, 503, 504):
        raise StatusUnavailable(f"{base} answers with status {code}, as a proxy does whose server is away.")
    if code != 200:
        raise StatusUnavailable(
            f"{base} answers with status {code}: it is no Headway server, or one that keeps no status.", passing=False
        )
    try:
        status = StatusSnapshot.model_validate_json(raw)
    except ValidationError:
        raise StatusUnavailable(
            f"what {base} sends is no status: it is no Headway server, or one of another version.", passing=False
        ) from None
    if status.version != STATUS_VERSION:
        raise StatusUnavailable(
            f"the server at {base} has version {status.version} of the status, and this program version "
            f"{STATUS_VERSION}: use the program of the server's version.",
            passing=False,
        )
    return status


def _tls_sentence(base: str, error: aiohttp.ClientSSLError) -> str:
    reason = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    words = getattr(reason, "verify_message", "") or _brief(reason)
    return (
        f"the certificate of {base} is not trusted ({words}): give the federation's authority by --identity FOLDER or "
        "--ca FILE, and dial a name that the certificate is for."
    )


def _brief(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(reason).rstrip(".")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
