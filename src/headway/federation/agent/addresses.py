"""The addresses that an agent is given, of its server and of a proxy, checked before anything is dialled."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from headway.core.errors import ConfigError

PROXY_FORM = "needed http://HOST:PORT, or http://NAME:PASSWORD@HOST:PORT where it asks for them"


def checked_server(url: str) -> tuple[str, bool]:
    """The address without a slash at its end, and whether it is HTTPS.

    Raises:
        ConfigError: if it is not one of HTTP, has no host, or holds a password, which logs would have.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigError(
            "the address of a server has no name and no password in it, since its agents are known by their "
            "certificates: needed https://HOST:PORT."
        )
    if not _is_of_http(parts) or parts.query or parts.fragment:
        raise ConfigError(
            f"{url!r} is not the address of a server: needed https://HOST:PORT, as its `headway serve` prints it."
        )
    return url.rstrip("/"), parts.scheme == "https"


def checked_proxy(proxy: str | None) -> str | None:
    """The address of an HTTP proxy; it may hold a password, and is in no sentence.

    Raises:
        ConfigError: if it is not one of HTTP, or has no host.
    """
    if proxy is not None and not _is_of_http(urlsplit(proxy)):
        raise ConfigError(f"--proxy names no HTTP proxy: {PROXY_FORM}.")
    return proxy


def _is_of_http(parts: SplitResult) -> bool:
    """Whether an address has a scheme of HTTP, a host, and no port that is none."""
    try:
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
