"""The errors, as a small taxonomy.

Every error is a sentence for the person at the keyboard: what was needed, what was found, who caused
it, what to do.  Nothing here is raised for a programmer's mistake; those are plain assertions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HeadwayError(Exception):
    """Base of every error that Headway raises on purpose."""


class ChainRefused(HeadwayError):
    """A chain of stages that cannot mean anything, refused before any data moves.

    The four parts of the refusal are attributes, so that a program can act on them.
    """

    def __init__(self, *, needed: str, found: str, caused_by: str, do_this: str) -> None:
        self.needed, self.found, self.caused_by, self.do_this = needed, found, caused_by, do_this
        super().__init__(f"needed: {needed}; found: {found}; caused by: {caused_by}; do this: {do_this}.")


class ConfigError(HeadwayError):
    """A value of a run file, an option or an argument that cannot be carried out."""


class DataError(HeadwayError):
    """The data are missing, malformed, or cannot be divided among the clients as asked."""


class ClientFailed(HeadwayError):
    """A client's computation raised.  Carries the client, the stage and every input of the failing call.

    who: what is named in the place of a client, such as the central test set.
    """

    def __init__(
        self, client: str, where: str, inputs: dict[str, object], cause: BaseException, who: str | None = None
    ) -> None:
        self.client, self.where, self.inputs = client, where, inputs
        given = "".join(f"\n    {name} = {value}" for name, value in inputs.items())
        named = who or f"client {client!r}"
        super().__init__(f"{named} failed in {where} with {type(cause).__name__}: {cause}\n  its inputs:{given}")


class UpdateRejected(HeadwayError):
    """One client's update may not enter the model (not finite, wrong shape, too large)."""

    def __init__(self, client: str, reason: str) -> None:
        self.client, self.reason = client, reason
        super().__init__(f"the update of client {client!r} was rejected: {reason}.")


class ExchangeRefused(HeadwayError):
    """A client does not answer a request of a protocol: the answer could reveal more than the protocol allows."""


class Diverged(HeadwayError):
    """The run no longer learns: the model or most updates are not finite, or the loss exploded."""


class PrivacyBudgetSpent(HeadwayError):
    """A release that would pass the privacy budget, refused before it is made."""


class FrameError(HeadwayError):
    """A received message is not the message that was expected; nothing of it was used."""


class RunFolderError(HeadwayError):
    """A run folder cannot be written, read or continued."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`" (did you mean 'beta'?)"`, or the known names when none is near.

    >>> nearest("betta", ["beta", "select"])
    " (did you mean 'beta'?)"
    >>> nearest("zzz", ["beta", "select"])
    ' (known: beta, select)'
    """
    names = sorted(known)
    folded = {known_name.lower(): known_name for known_name in names}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    if close:
        return f" (did you mean {folded[close[0]]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""
