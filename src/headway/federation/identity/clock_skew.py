"""The difference between the clocks of a node and its server, from the header `Date` of answers."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

from headway.federation.identity.node_identity import moment

TOLERATED_S = 300.0


def clock_difference(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """The seconds by which this machine's clock is ahead of the server's; `None` if the answer has no date.

    >>> clock_difference({"Date": "Thu, 01 Jan 1970 00:00:10 GMT"}, now=25.0)
    15.0
    """
    try:
        server = email.utils.parsedate_to_datetime(headers["Date"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None
    return (time.time() if now is None else now) - server


def clock_sentence(headers: Mapping[str, str], now: float | None = None) -> str | None:
    """A sentence on two clocks that differ by more than five minutes; `None` if they agree.

    Nothing in the protocol depends on the time, but certificates do: they start and end at times.
    """
    difference = clock_difference(headers, now)
    if difference is None or abs(difference) <= TOLERATED_S:
        return None
    here = time.time() if now is None else now
    way = "ahead of" if difference > 0 else "behind"
    return (
        f"this machine's clock ({moment(here)}) is {abs(difference) / 60:.0f} minutes {way} the server's"
        f" ({moment(here - difference)}): set the wrong one, since certificates are valid between two times."
    )
