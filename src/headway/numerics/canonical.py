"""Plain values in one form of bytes, and their digest: what hash chains are made of."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """The JSON of plain values in one form: sorted keys, no spaces, UTF-8, numbers that are finite.

    >>> canonical({"b": 0.1, "a": ["ü"]}).decode()
    '{"a":["ü"],"b":0.1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """The SHA-256 of plain values in their canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()
