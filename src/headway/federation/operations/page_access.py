"""Who may see the status: whoever has the token, which is not the identity of any client."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from headway.core.errors import RunFolderError
from headway.federation.identity.private_files import IdentityError, write_private

TOKEN_FILE = "status-token"  # in a run folder, readable by its owner alone
LEAST = 32  # characters of a token


@dataclass(frozen=True)
class PageAccess:
    """The token of the status and the live page.

    It travels as `Authorization: Bearer TOKEN`, or once in the address of the page, which then sets a cookie; the
    cookie holds another value, from which the token cannot be had.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @classmethod
    def of(cls, folder: Path) -> PageAccess:
        """The token of a run folder, made if there is none yet.

        Raises:
            RunFolderError: if the file cannot be read or written, or holds no token.
        """
        path = folder / TOKEN_FILE
        try:
            if not path.exists():
                write_private(path, f"{secrets.token_urlsafe(32)}\n".encode())
            if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise RunFolderError(
                    f"{path} is readable by others, who could see the status: delete it, and a new token is made."
                )
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError, IdentityError) as error:
            raise RunFolderError(f"the token of the status page in {path} cannot be used: {error}") from error
        if len(token) < LEAST:
            raise RunFolderError(
                f"{path} holds no token of {LEAST} or more characters: delete it, and a new one is made."
            )
        return cls(token)

    def url(self, base: str) -> str:
        """The address of the page with the token; base: of the server."""
        return f"{base.rstrip('/')}/?token={self.token}"

    @property
    def cookie(self) -> tuple[str, str]:
        """The name and the value of the cookie; the name differs between servers of one machine."""
        value = hashlib.sha256(f"headway status cookie {self.token}".encode()).hexdigest()
        return f"headway-{value[:8]}", value[8:]

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(given.encode(errors="surrogateescape"), self.token.encode())

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a call with these headers may see the status."""
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.is_token(given.strip())
        name, value = self.cookie
        try:
            found = SimpleCookie(headers.get("Cookie", "")).get(name)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(errors="surrogateescape"), value.encode())
