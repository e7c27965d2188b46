"""The enrolment of this machine as a node: `headway identity enrol URL TOKEN`."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from pydantic import ValidationError

from headway.federation.http_api import ENROL, Problem
from headway.federation.identity.authority import NodeKeys, node_keys, write_identity, write_keys
from headway.federation.identity.certificates import common_name, read_certificate
from headway.federation.identity.enrolment_messages import (
    EnrolReply,
    EnrolRequest,
    is_proof,
    proof_of,
    reply_bytes,
    request_bytes,
)
from headway.federation.identity.node_identity import NodeIdentity, public_hex
from headway.federation.identity.private_files import IdentityError

TIMEOUT_S = 30.0
_TOKEN = re.compile(r"([0-9a-f]{12})\.([0-9a-f]{48})")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def enrol(url: str, token: str, out: str | Path) -> NodeIdentity:
    """Makes keys in a folder and has a server's authority certify them; the keys never leave the folder.

    In the folder of an identity its keys are kept and its certificate is renewed.  When the answer was lost, the same
    call again gets the certificate.

    Raises:
        IdentityError: if the server cannot be reached, or refuses the token, with its sentence.
    """
    base, out = server_url(url), Path(out)
    parts = _TOKEN.fullmatch(token.strip())
    if parts is None:
        raise IdentityError(
            "this is not an enrolment token: it has 12 and 48 hexadecimal digits with a dot between them, as"
            " `headway identity issue NAME --token` prints it."
        )
    token_id, secret = parts[1], bytes.fromhex(parts[2])
    keys = node_keys(out, None)
    write_keys(out, keys)
    asked = _request(token_id, secret, keys)
    reply = asyncio.run(_send(base, asked))
    if not is_proof(secret, reply_bytes(token_id, reply.certificate, reply.authority), reply.proof):
        raise IdentityError(
            f"the answer of {base} was not made with this token: it is another server, or something on the way changed"
            f" the answer; nothing was written."
        )
    _store(out, keys, reply, base)
    return NodeIdentity.load(out)


def server_url(url: str) -> str:
    """The address of a server without a path; HTTPS where no scheme is named.

    Raises:
        IdentityError: if it is not an address, or is plain HTTP to another machine.

    >>> server_url("example.org:8443/")
    'https://example.org:8443'
    """
    full = url if "://" in url else f"https://{url}"
    parts = urlsplit(full)
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = None
    if parts.scheme not in ("https", "http") or not parts.hostname or port is None:
        raise IdentityError(f"{url!r} is not the address of a server: it has the form https://HOST:PORT.")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise IdentityError(f"{url!r} is plain HTTP, which is for this machine alone: use https://.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}"


def _request(token_id: str, secret: bytes, keys: NodeKeys) -> EnrolRequest:
    csr = x509.CertificateSigningRequestBuilder().subject_name(common_name("node")).sign(keys[0], hashes.SHA256())
    request = base64.b64encode(csr.public_bytes(serialization.Encoding.DER)).decode()
    signing_key = public_hex(keys[1])
    signed = request_bytes(token_id, signing_key, request)
    return EnrolRequest(
        token=token_id,
        signing_key=signing_key,
        request=request,
        proof=proof_of(secret, signed),
        signature=keys[1].sign(signed).hex(),
    )


async def _send(base: str, asked: EnrolRequest) -> EnrolReply:
    # The authority is not known yet, so the connection proves nothing: the token's secret does, in both directions.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(trust_env=True, timeout=timeout) as session:
            headers = {"Content-Type": "application/json"}
            async with session.post(
                f"{base}{ENROL}", data=asked.model_dump_json().encode(), headers=headers, ssl=context
            ) as response:
                body = await response.content.read(64 << 10)
                if response.status != 200:
                    raise IdentityError(_refusal(base, response.status, body))
                return EnrolReply.model_validate_json(body)
    except ValidationError:
        raise IdentityError(f"{base} answered something else than a certificate: is it a Headway server?") from None
    except TimeoutError as error:
        raise IdentityError(f"{base} did not answer within {TIMEOUT_S:g} seconds.") from error
    except (aiohttp.ClientError, OSError) as error:
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        number = getattr(cause, "errno", None) or 0
        reason = (
            os.strerror(number).lower()
            if number > 0
            else getattr(cause, "strerror", "") or str(cause) or type(cause).__name__
        )
        raise IdentityError(f"cannot reach {base}: {reason}.") from error


def _refusal(base: str, status: int, body: bytes) -> str:
    if status == 404:
        return f"{base} does not enrol nodes: its authority's key is kept elsewhere, or it is no Headway server."
    try:
        return f"{base} refuses: {Problem.model_validate_json(body).message}"
    except ValidationError:
        pass
    return f"{base} answered with HTTP status {status}."


def _store(out: Path, keys: NodeKeys, reply: EnrolReply, base: str) -> None:
    try:
        authority = x509.load_der_x509_certificate(base64.b64decode(reply.authority, validate=True))
        der = base64.b64decode(reply.certificate, validate=True)
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IdentityError(f"the certificate from {base} is not from its authority: {error}.") from error
    facts = read_certificate(der)
    if facts.key != public_hex(keys[1]) or certificate.public_key() != keys[0].public_key():
        raise IdentityError(f"the certificate from {base} is for other keys; nothing was written.")
    write_identity(out, keys, facts, authority.public_bytes(serialization.Encoding.PEM))
