"""The access to a server by its options: how it listens, whom it admits, and what its operator should know."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from headway.federation.identity.admission import Admission, CertifiedAdmission, OpenAdmission
from headway.federation.identity.enrolment import Enrolment
from headway.federation.identity.node_identity import AUTHORITY, Identity, NodeIdentity, OpenIdentity, moment
from headway.federation.identity.private_files import IdentityError
from headway.federation.serving.http_bodies import Handler


@dataclass(frozen=True)
class AccessOptions:
    """The options of a server that concern identity.

    identity: its identity folder.  authority: the folder with the registry of nodes, and with the authority's key where
    nodes are enrolled here.  insecure: plain HTTP without identities, on loopback.  behind_proxy: a proxy ends TLS, so
    that signatures alone show who calls.  rate, burst: requests of a node in a second, and at once.
    """

    identity: Path | None = None
    authority: Path | None = None
    insecure: bool = False
    behind_proxy: bool = False
    rate: float = 100.0
    burst: float = 400.0


@dataclass(frozen=True)
class ServerAccess:
    """How a server listens and whom it admits.

    context: of TLS; `None` for plain HTTP.  notes: what is to be shown to the operator when the server starts.
    """

    identity: Identity
    admission: Admission
    context: ssl.SSLContext | None
    enrolment: Enrolment | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, host: str, options: AccessOptions, state: str | Path | None = None) -> ServerAccess:
        """The access by a server's options.

        host: at which it listens.  state: a folder for the numbers of requests that were accepted, kept from one run to
        the next; by default that of the identity.

        Raises:
            IdentityError: if the options contradict each other, or a certificate is missing or not valid.
        """
        if options.insecure:
            return cls._open(host, options)
        if options.identity is None or options.authority is None:
            raise IdentityError(
                "a server needs an identity and the registry of its nodes: make them with `headway identity ca ca` and"
                " `headway identity issue server --host NAME`, then give --identity server --ca ca; to try things out"
                " on this machine alone, --insecure."
            )
        identity = NodeIdentity.load(options.identity, state)
        identity.check_validity()
        _check_authority(identity, options.authority)
        context: ssl.SSLContext | None = identity.server_context()
        until = moment(identity.facts.not_after)
        notes = [identity.ends_soon() or f"The certificate of {identity.name!r} is valid until {until}."]
        if options.behind_proxy:
            notes.append(
                "Identity is by signature alone (--behind-proxy): the proxy that ends TLS can read what passes, and can"
                " neither change a request nor make one."
            )
            if is_loopback(host):
                context = None  # the proxy is on this machine
        admission = CertifiedAdmission(
            options.authority, options.behind_proxy, state or options.identity, rate=options.rate, burst=options.burst
        )
        try:
            enrolment = Enrolment.of(options.authority)
        except IdentityError:
            admission.close()
            raise
        if enrolment is None:
            notes.append(f"Nodes are not enrolled here: the authority's key is not in {options.authority}.")
        return cls(identity, admission, context, enrolment, tuple(notes))

    @classmethod
    def _open(cls, host: str, options: AccessOptions) -> ServerAccess:
        if not is_loopback(host):
            raise IdentityError(
                f"--insecure is for this machine alone, and {host!r} can be reached from others: listen at 127.0.0.1,"
                f" or use an identity (headway identity ca, headway identity issue)."
            )
        if options.identity is not None or options.authority is not None or options.behind_proxy:
            raise IdentityError("--insecure goes without --identity, --ca and --behind-proxy: give one or the others.")
        warning = (
            "WARNING: --insecure: plain HTTP without identities; every program on this machine can take part under any"
            " name."
        )
        return cls(OpenIdentity("server"), OpenAdmission(options.rate, options.burst), None, None, (warning,))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names and addresses for which the server's certificate is; none without one."""
        return self.identity.facts.hosts if isinstance(self.identity, NodeIdentity) else ()

    @property
    def scheme(self) -> str:
        """The scheme of the server's address."""
        return "http" if self.context is None else "https"

    def url(self, host: str, port: int, name: str | None = None) -> str:
        """The address of a server that listens there; by default it has a name of the certificate.

        >>> ServerAccess(OpenIdentity("server"), OpenAdmission(), None, None, ()).url("0.0.0.0", 8443)
        'http://localhost:8443'
        """
        usual = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0", "::") else host
        named = usual if not self.hosts or usual in self.hosts else self.hosts[0]
        return f"{self.scheme}://{name or named}:{port}"

    def routes(self) -> list[tuple[str, str, Handler]]:
        """The routes of enrolment, if nodes are enrolled here."""
        return [] if self.enrolment is None else self.enrolment.routes()

    def close(self) -> None:
        """Closes the registry and the files of numbers."""
        self.admission.close()
        if self.enrolment is not None:
            self.enrolment.close()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as nobody else reaches it.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "", "example.org")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_authority(identity: NodeIdentity, folder: Path) -> None:
    """Refuses a registry of another authority, none of whose nodes could connect."""
    try:
        theirs = (folder / AUTHORITY).read_bytes()
    except OSError as error:
        raise IdentityError(f"there is no certificate authority in {folder}: {AUTHORITY} is missing.") from error
    if theirs.strip() != (identity.folder / AUTHORITY).read_bytes().strip():
        raise IdentityError(
            f"the identity in {identity.folder} is from another authority than the one in {folder}: its nodes and this"
            f" server would refuse each other; issue one with `headway identity issue {identity.name} --ca {folder}`."
        )
