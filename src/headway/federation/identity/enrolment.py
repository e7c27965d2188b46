"""The enrolment of nodes at a server: a one-time token and a node's keys for a certificate."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path

from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from headway.federation.http_api import ENROL
from headway.federation.identity.admission import NotAdmitted
from headway.federation.identity.authority import AUTHORITY_KEY, Authority
from headway.federation.identity.certificates import CertificateRequest, NodeCertificate
from headway.federation.identity.enrolment_messages import (
    EnrolReply,
    EnrolRequest,
    is_proof,
    proof_of,
    reply_bytes,
    request_bytes,
)
from headway.federation.identity.node_identity import moment
from headway.federation.identity.node_registry import EnrolmentToken
from headway.federation.identity.private_files import IdentityError
from headway.federation.identity.token_bucket import TokenBuckets
from headway.federation.serving.http_bodies import Handler, body_of

LARGEST = 32 << 10  # bytes of a request


class Enrolment:
    """Gives certificates for tokens, where the authority's key is at the server."""

    def __init__(self, authority: Authority, rate: float = 20.0, burst: float = 200.0) -> None:
        self._authority, self._buckets = authority, TokenBuckets(rate, burst)

    @classmethod
    def of(cls, folder: str | Path) -> Enrolment | None:
        """Enrolment by the authority in a folder; `None` where its key is kept elsewhere.

        Raises:
            IdentityError: if the authority is damaged.
        """
        return cls(Authority.load(folder)) if (Path(folder) / AUTHORITY_KEY).exists() else None

    def close(self) -> None:
        """Closes the registry."""
        self._authority.close()

    def routes(self) -> list[tuple[str, str, Handler]]:
        """The routes of a server, as (method, path, handler)."""
        return [("POST", ENROL, self._handle)]

    async def _handle(self, request: web.Request) -> web.Response:
        wait = self._buckets.take(request.remote or "")
        if wait > 0:
            raise NotAdmitted("too many enrolments from this address: ask again in a second.", 429)
        if request.content_length is None or request.content_length > LARGEST:
            raise web.HTTPRequestEntityTooLarge(LARGEST, request.content_length or LARGEST + 1)
        try:
            asked = EnrolRequest.model_validate_json(await body_of(request))
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
            raise web.HTTPBadRequest(reason=f"not a request for enrolment: {found}".replace("\n", " ")) from None
        reply = await asyncio.get_running_loop().run_in_executor(None, self.enrol, asked)
        return web.Response(text=reply.model_dump_json(), content_type="application/json")

    def enrol(self, asked: EnrolRequest) -> EnrolReply:
        """The certificate for a token; the same again for the same keys, when an answer was lost.

        Raises:
            NotAdmitted: if the token is unknown, was used by other keys, or has expired.
        """
        token, signed = (
            self._authority.registry.token(asked.token),
            request_bytes(asked.token, asked.signing_key, asked.request),
        )
        if token is None or not is_proof(token.secret, signed, asked.proof):
            raise NotAdmitted("this enrolment token is unknown: was it copied whole? Otherwise ask for a new one.", 403)
        tls_key = _proved_keys(asked, signed)
        if token.key not in (None, asked.signing_key):
            raise NotAdmitted(
                f"the enrolment token of {token.name!r} counts for another key"
                f"{'' if token.used is None else f', which used it at {moment(token.used)}'}: ask for a new one, and"
                f" have that node revoked if nobody knows who used it.",
                403,
            )
        certificate = self._used(token, tls_key) if token.used is not None else self._issue(token, asked, tls_key)
        one, other = _base64(certificate.der), _base64(self._authority.der)
        proof = proof_of(token.secret, reply_bytes(asked.token, one, other))
        return EnrolReply(certificate=one, authority=other, proof=proof)

    def _issue(self, token: EnrolmentToken, asked: EnrolRequest, tls_key: ec.EllipticCurvePublicKey) -> NodeCertificate:
        if time.time() > token.expires:
            raise NotAdmitted(
                f"the enrolment token of {token.name!r} expired at {moment(token.expires)}: ask for a new one.", 403
            )
        request = CertificateRequest(token.name, tls_key, asked.signing_key, token.hosts, token.days)
        try:
            certificate = self._authority.sign(request)
        except IdentityError as error:
            raise NotAdmitted(str(error), 403) from error
        if not self._authority.registry.use_token(token, certificate):
            raise NotAdmitted("this enrolment token was used at this moment by another request.", 403)
        return certificate

    def _used(self, token: EnrolmentToken, tls_key: ec.EllipticCurvePublicKey) -> NodeCertificate:
        issued = self._authority.registry.of_fingerprint(token.fingerprint or "")
        if issued is None or issued.revoked is not None:
            raise NotAdmitted(f"the enrolment token of {token.name!r} was used, and its node revoked.", 403)
        if x509.load_der_x509_certificate(issued.certificate.der).public_key() != tls_key:
            raise NotAdmitted(f"the enrolment token of {token.name!r} was used with another TLS key.", 403)
        return issued.certificate


def _proved_keys(asked: EnrolRequest, signed: bytes) -> ec.EllipticCurvePublicKey:
    """The TLS key of a request, when it is shown that the caller has both keys."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(asked.signing_key)).verify(
            bytes.fromhex(asked.signature), signed
        )
        request = x509.load_der_x509_csr(base64.b64decode(asked.request, validate=True))
        key = request.public_key()
        if not request.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("the request does not hold a P-256 key that signed it")
        if not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(f"the TLS key is on the curve {key.curve.name}, needed is P-256")
    except (InvalidSignature, ValueError, TypeError) as error:
        raise NotAdmitted(
            f"the keys of the request are not proved: {error or 'the signature does not fit'}.", 403
        ) from error
    return key


def _base64(der: bytes) -> str:
    return base64.b64encode(der).decode()
