"""The exchange of an enrolment: a token for a certificate, each side proved by the token's secret, which is not sent.

The node's proof covers its keys, so that the token counts for them alone; the server's proof covers the certificates,
so that a node knows the authority that it is to trust before it has any reason to trust the connection.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from pydantic import Field

from headway.federation.http_api import Body

TokenId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Proof = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Base64 = Annotated[str, Field(max_length=8000, pattern=r"^[A-Za-z0-9+/=]+$")]


class EnrolRequest(Body):
    """A node's request for its certificate.

    token: the identifier of the token, without its secret.  signing_key: the node's Ed25519 key.  request: a PKCS 10
    request, DER in base64, which shows that the node has the TLS key in it; nothing else of it is used.
    proof: HMAC-SHA256 of `request_bytes` with the token's secret.  signature: of the same bytes, by the signing key.
    """

    token: TokenId
    signing_key: PublicKey
    request: Base64
    proof: Proof
    signature: Signature


class EnrolReply(Body):
    """A node's certificate, and that of the authority, DER in base64.

    proof: HMAC-SHA256 of `reply_bytes` with the token's secret.
    """

    certificate: Base64
    authority: Base64
    proof: Proof


def request_bytes(token: str, signing_key: str, request: str) -> bytes:
    """What the node proves and signs."""
    return f"headway-enrol\n{token}\n{signing_key}\n{request}\n".encode()


def reply_bytes(token: str, certificate: str, authority: str) -> bytes:
    """What the server proves."""
    return f"headway-enrolled\n{token}\n{certificate}\n{authority}\n".encode()


def proof_of(secret: bytes, data: bytes) -> str:
    """HMAC-SHA256 in hexadecimal."""
    return hmac.new(secret, data, hashlib.sha256).hexdigest()


def is_proof(secret: bytes, data: bytes, proof: str) -> bool:
    """Whether a proof is right, in a time that does not depend on where it is wrong."""
    return hmac.compare_digest(proof_of(secret, data), proof)
