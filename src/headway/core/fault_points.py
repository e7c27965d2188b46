"""Named places at which a test may stop the process, as a crash would: inert unless a test installs a hook.

Nothing outside the tests installs one, and no setting, file or environment variable does.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def at(place: str) -> None:
    """Marks a place, such as "after an update is on disk"; without a hook it does nothing."""
    if _hook is not None:
        _hook(place)


def install(hook: Callable[[str], None] | None) -> None:
    """Has `hook` called with the name of each place that is passed; `None` removes it."""
    global _hook
    _hook = hook
