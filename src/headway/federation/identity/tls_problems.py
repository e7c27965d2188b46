"""Why a TLS connection to a server fails, as a sentence with both sides.

The libraries of HTTP show a client that its certificate was refused as a connection that was closed, and a certificate
for another name without that name.  So the connection is made once more, alone, and looked at.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from headway.federation.identity.clock_skew import clock_difference
from headway.federation.identity.node_identity import NodeIdentity, moment
from headway.federation.identity.private_files import IdentityError

TIMEOUT_S = 10.0
_EXPIRED, _NOT_YET, _OTHER_NAMES = (10,), (9,), (62, 64)  # codes of X509_verify_cert
_OTHER_AUTHORITY = (2, 18, 19, 20, 21)


class OwnCertificateRefused(IdentityError):
    """The node's own certificate is not valid, or the server refuses it: nothing mends that but another one."""


@dataclass(frozen=True)
class _Dialled:
    host: str
    port: int

    @property
    def text(self) -> str:
        return f"{self.host}:{self.port}"


def tls_problem(url: str, identity: NodeIdentity, public_authorities: bool = False) -> IdentityError | None:
    """Why the server at a URL and a node refuse each other; `None` if they do not, or the server cannot be reached.

    The server is dialled directly, not by way of an HTTP proxy; for at most about 20 s, in the thread of the caller.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return None
    dialled = _Dialled(parts.hostname, parts.port or 443)
    try:
        sentence = _of_answer(dialled, identity, public_authorities)
    except ssl.SSLCertVerificationError as error:
        return IdentityError(_of_server(error, dialled, identity))
    except ssl.SSLError as error:
        return _of_alert(error.reason or "", dialled, identity)
    except IdentityError as error:
        return OwnCertificateRefused(str(error))
    except OSError:
        return None
    return OwnCertificateRefused(sentence) if sentence else None


def _of_answer(dialled: _Dialled, identity: NodeIdentity, public_authorities: bool) -> str:
    """The sentence on a server that answers a node without its certificate, and not with it; empty otherwise.

    Servers on asyncio close the connection on a certificate that they refuse, without the alert that TLS has for it.
    """
    closed: OSError | None = None
    try:
        if _head(dialled, identity.client_context(public_authorities)):
            return ""
    except ssl.SSLCertVerificationError:
        raise
    except (ConnectionError, ssl.SSLError) as error:
        closed = error
    without = _head(dialled, identity.client_context(public_authorities, own_certificate=False))
    if without and not _answers(dialled, identity.client_context(public_authorities)):  # still: it was no restart
        ahead = clock_difference({"Date": _date(without)})
        return _of_refused_certificate(dialled, identity, time.time() - (ahead or 0.0))
    if closed is not None:
        raise closed
    return ""


def _answers(dialled: _Dialled, context: ssl.SSLContext) -> bool:
    try:
        return bool(_head(dialled, context))
    except OSError:
        return False


def _head(dialled: _Dialled, context: ssl.SSLContext) -> bytes:
    """The start of a server's answer to a call that needs no certificate; empty if it closes the connection."""
    with (
        socket.create_connection((dialled.host, dialled.port), TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=dialled.host) as secure,
    ):
        secure.sendall(b"GET /health HTTP/1.1\r\nHost: headway\r\nConnection: close\r\n\r\n")
        return secure.recv(4096)


def _date(head: bytes) -> str:
    found = re.search(rb"^Date: *([^\r\n]*)", head, re.MULTILINE | re.IGNORECASE)
    return found[1].decode("latin-1") if found else ""


def _of_server(error: ssl.SSLCertVerificationError, dialled: _Dialled, identity: NodeIdentity) -> str:
    """The sentence on a server's certificate that the node refuses."""
    start = f"the certificate of the server at {dialled.text}"
    found = _certificate_at(dialled)
    if found is None:
        return f"{start} is refused: {error.verify_message}."
    now = moment(time.time())
    if error.verify_code in _OTHER_NAMES:
        return (
            f"{start} is for {_names(found)}, and the name dialled is {dialled.host!r}: dial one of its names, or have"
            f" a certificate issued for this one (headway identity issue SERVER --host {dialled.host})."
        )
    if error.verify_code in _EXPIRED:
        until = moment(found.not_valid_after_utc.timestamp())
        return (
            f"{start} expired at {until}, and this machine's clock is at {now}: the server needs a new one (headway"
            f" identity issue), or this clock is wrong."
        )
    if error.verify_code in _NOT_YET:
        since = moment(found.not_valid_before_utc.timestamp())
        return (
            f"{start} is valid from {since} only, and this machine's clock is at {now}: one of the two clocks is wrong,"
            f" this one or that of the authority."
        )
    if error.verify_code in _OTHER_AUTHORITY:
        return (
            f"{start} is from the authority {_common_name(found.issuer)!r} ({_key_id(found)}), and the identity in"
            f" {identity.folder} trusts {_common_name(identity.authority.subject)!r} ({_key_id(identity.authority)})"
            f" only: it is another federation's server, or the identity is from another federation."
        )
    return f"{start} is refused: {error.verify_message}."


def _of_refused_certificate(dialled: _Dialled, identity: NodeIdentity, server_time: float) -> str:
    """The sentence on a node's certificate that the server refuses; server_time: the server's clock."""
    start, facts = f"the server at {dialled.text} refuses the certificate of {identity.name!r}", identity.facts
    clocks = f"the server's clock is at {moment(server_time)}, this machine's at {moment(time.time())}"
    if server_time > facts.not_after:
        return (
            f"{start}, which is valid until {moment(facts.not_after)}; {clocks}: have a new one issued (headway"
            f" identity issue {identity.name}), or set the wrong clock."
        )
    if server_time < facts.not_before:
        return f"{start}, which is valid from {moment(facts.not_before)}; {clocks}: set the wrong clock."
    return (
        f"{start}, which is from the authority {_common_name(identity.authority.subject)!r}"
        f" ({_key_id(identity.authority)}): the server trusts another one, so the identity in {identity.folder} is from"
        f" another federation."
    )


def _of_alert(reason: str, dialled: _Dialled, identity: NodeIdentity) -> IdentityError | None:
    """The problem behind an alert, as proxies send it, or what is no TLS; `None` for a connection that broke."""
    start = f"the server at {dialled.text}"
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        own = f"the certificate of {identity.name!r}"
        return OwnCertificateRefused(f"{start} or a proxy before it refuses {own}: {_words(reason)}.")
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return IdentityError(
            f"{start} does not speak TLS: it is another service, or a Headway server with --insecure, or one with "
            "--behind-proxy, whose proxy is to be dialled."
        )
    if "PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        what = "it is no Headway server, or a proxy that ends TLS"
        return IdentityError(f"{start} offers no TLS 1.3, which is needed: {what}.")
    return None if not reason or "EOF" in reason else IdentityError(f"TLS with {start} fails: {_words(reason)}.")


def _certificate_at(dialled: _Dialled) -> x509.Certificate | None:
    """The certificate that a server shows, whoever signed it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((dialled.host, dialled.port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=dialled.host) as secure,
        ):
            der = secure.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der) if der else None
    except (OSError, ValueError):
        return None


def _names(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return repr(_common_name(certificate.subject))
    hosts = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return ", ".join(map(repr, hosts)) or "no host at all (a client's)"


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _key_id(certificate: x509.Certificate) -> str:
    """The first digits of the authority's key identifier, by which two authorities of one name differ."""
    try:
        if certificate.issuer == certificate.subject:
            own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            return own.digest.hex()[:8]
        issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        return (issuer.key_identifier or b"").hex()[:8]
    except x509.ExtensionNotFound:
        return "unknown"


def _words(reason: str) -> str:
    return reason.replace("_", " ").lower()
