"""The Ed25519 signature of a request: what it covers, and the headers that carry it.

Signed is the text of ten lines

    headway-request, PROTOCOL, METHOD, PATH with its query, NODE, RUN, ROUND, SEQUENCE, NONCE, SHA-256 of the body

each ended by a line feed; the names of node and run are percent-encoded as in the headers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

from headway.federation.http_api import NODE, PROTOCOL

RUN = "Headway-Run"
ROUND = "Headway-Round"
SEQUENCE = "Headway-Sequence"  # of a request; in a refusal: the smallest number that is accepted
NONCE = "Headway-Nonce"
BODY_DIGEST = "Headway-Body"  # SHA-256 of the body in hexadecimal
SIGNATURE = "Headway-Signature"

LARGEST_SEQUENCE = 2**53 - 1  # whole in every language's numbers

_FORMS = {
    NODE: re.compile(r"[!-~]{1,1800}"),
    RUN: re.compile(r"[!-~]{0,1800}"),
    ROUND: re.compile(r"[0-9]{1,15}"),
    SEQUENCE: re.compile(r"[0-9]{1,16}"),
    NONCE: re.compile(r"[0-9a-f]{32}"),
    BODY_DIGEST: re.compile(r"[0-9a-f]{64}"),
    SIGNATURE: re.compile(r"[0-9a-f]{128}"),
}
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f/\\]{1,200}")


@dataclass(frozen=True)
class SignedRequest:
    """The signed facts of a request. node, run: percent-encoded, as in the headers."""

    method: str
    path: str
    node: str
    run: str
    round: int
    sequence: int
    nonce: str
    body: str

    @property
    def signed_bytes(self) -> bytes:
        """The bytes that are signed."""
        lines = ("headway-request", PROTOCOL, self.method, self.path, self.node, self.run)
        facts = (self.round, self.sequence, self.nonce, self.body)
        return "".join(f"{line}\n" for line in (*lines, *facts)).encode()

    def headers(self, signature: str) -> dict[str, str]:
        """The headers of the request."""
        return {
            NODE: self.node,
            RUN: self.run,
            ROUND: str(self.round),
            SEQUENCE: str(self.sequence),
            NONCE: self.nonce,
            BODY_DIGEST: self.body,
            SIGNATURE: signature,
        }


def request_of(method: str, path: str, headers: Mapping[str, str]) -> tuple[SignedRequest, bytes]:
    """The signed facts and the signature of a received request; nothing is verified yet.

    Raises:
        ValueError: naming the header that is missing or malformed.
    """
    values: dict[str, str] = {}
    for name, form in _FORMS.items():
        value = headers.get(name, "" if name == RUN else None)
        if value is None:
            raise ValueError(f"the header {name} is missing")
        if not form.fullmatch(value):
            raise ValueError(f"the header {name} is malformed")
        values[name] = value
    sequence = int(values[SEQUENCE])
    if sequence > LARGEST_SEQUENCE:
        raise ValueError(f"the header {SEQUENCE} is malformed")
    facts = (values[NODE], values[RUN], int(values[ROUND]), sequence, values[NONCE], values[BODY_DIGEST])
    return SignedRequest(method, path, *facts), bytes.fromhex(values[SIGNATURE])


def name_to_header(name: str) -> str:
    """A name as a header carries it.

    >>> name_to_header("Zürich 1")
    'Z%C3%BCrich%201'
    """
    return quote(name, safe="")


def name_from_header(value: str) -> str:
    """The name that a header carries.

    Raises:
        ValueError: if it is not a name: empty, too long, or with control characters or slashes.
    """
    name = unquote(value, errors="strict") if value.isascii() else ""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError(f"the header {NODE} does not hold a name of 1 to 200 characters without slashes")
    return name
