"""The refusal of a call, which the HTTP server answers with a problem."""

from __future__ import annotations

from typing import Literal

from headway.core.errors import HeadwayError
from headway.federation.http_api import Problem

Kind = Literal[
    "unknown", "refused", "mismatch", "late", "busy", "gone", "too_large", "unauthorised", "malformed", "failed"
]
LONGEST = 2000  # characters of a text in a problem


class Refused(HeadwayError):
    """A call that is answered with a problem."""

    def __init__(self, kind: Kind, message: str, needed: str = "", found: str = "") -> None:
        self.problem = Problem(kind=kind, message=message[:LONGEST], needed=needed[:LONGEST], found=found[:LONGEST])
        super().__init__(message)
