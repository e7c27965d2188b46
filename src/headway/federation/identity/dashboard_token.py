"""The token of the dashboard: whoever has it sees the pages of a server, and nothing else."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from headway.federation.identity.private_files import make_folder, read_private, write_private

FILE = "dashboard.token"
COOKIE = "headway-dashboard"


class DashboardToken:
    """A secret of a run folder, in a file of mode 0600."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    @classmethod
    def of(cls, folder: str | Path) -> DashboardToken:
        """The token in a folder; made where there is none.

        Raises:
            IdentityError: if the file is readable by others, or cannot be written.
        """
        path = Path(folder) / FILE
        if not path.exists():
            make_folder(path.parent)
            write_private(path, secrets.token_urlsafe(24).encode())
        return cls(read_private(path).decode().strip())

    def url(self, base: str) -> str:
        """The address that opens the dashboard in a browser, which then keeps a cookie."""
        return f"{base.rstrip('/')}/?token={self._secret}"

    def header(self) -> dict[str, str]:
        """The header of a program's request."""
        return {"Authorization": f"Bearer {self._secret}"}

    def admits(self, headers: Mapping[str, str], query: Mapping[str, str] | None = None) -> bool:
        """Whether a request has the token: as a bearer token, in the cookie, or as `token` in the address."""
        given = [headers.get("Authorization", "").removeprefix("Bearer "), (query or {}).get("token", "")]
        try:
            cookie = SimpleCookie(headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        given.append(cookie.value if cookie else "")
        found = [hmac.compare_digest(each.encode(), self._secret.encode()) for each in given]
        return any(found)

    def cookie(self, secure: bool = True) -> str:
        """The value of `Set-Cookie`: not for scripts, nor from other sites; secure: over HTTPS alone."""
        return f"{COOKIE}={self._secret}; Path=/; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}"

    def __repr__(self) -> str:
        return "DashboardToken(...)"
