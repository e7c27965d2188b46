"""The size of a benchmark: with HEADWAY_SMALL=1 all are small, as in the tests, and their figures mean nothing."""

from __future__ import annotations

import os
from typing import TypeVar

SMALL = bool(os.environ.get("HEADWAY_SMALL"))

T = TypeVar("T")


def sized(usual: T, small: T) -> T:
    """One of the two."""
    return small if SMALL else usual
