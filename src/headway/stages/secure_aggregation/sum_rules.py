"""The numbers of a secure sum that every client holds the server to, and the end of a round without one."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

from headway.core.errors import ChainRefused
from headway.protocol.messages import Answer, Ask


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the stage that every client holds the server to.

    threshold: the share of the asked clients that must remain to the end.  min_cohort, min_survivors: the fewest
    clients that are asked, and that remain.  corrupt: the share that may collude with the server.
    most: the clients for whose sum the modulus is large enough; `None` where that is not known.
    """

    threshold: float
    min_cohort: int
    min_survivors: int
    corrupt: float
    most: int | None = None

    def needed(self, clients: int) -> int:
        """How many of so many asked clients must remain to the end.

        >>> Rules(0.7, 5, 4, 0.2).needed(100), Rules(0.7, 5, 4, 0.2).needed(5)
        (70, 4)
        """
        return max(math.ceil(self.threshold * clients - 1e-9), self.min_survivors)

    def check_cohort(self, clients: int) -> None:
        """Ends a round of which too few clients were asked, or more than the modulus has room for.

        Raises:
            RoundEnded: saying how many.
        """
        if (reason := self.wrong_size(clients)) is not None:
            raise RoundEnded(f"{clients} clients were asked, and {reason}")

    def wrong_size(self, clients: int) -> str | None:
        """Why so many asked clients can have no sum, as a clause; `None` if they can."""
        if clients < self.min_cohort:
            return f"a secure sum is over at least {self.min_cohort} clients"
        if self.most is not None and clients > self.most:
            return f"the sum of more than {self.most} may be larger than its modulus"
        return None

    def check_quorum(self, train: Ask, needed: int | None = None) -> None:
        """Refuses a quorum with which no round can have a sum; needed: how many must remain, where not of one sum.

        Raises:
            ChainRefused: if a round ends with fewer updates than must remain.
        """
        count, needed = train.quorum.count, needed or self.needed(len(train.cohort))
        if count is not None and count < needed:
            raise ChainRefused(
                needed=f"at least {needed} updates of the {len(train.cohort)} clients that were asked (SecureSum)",
                found=f"rounds that end with {count}",
                caused_by=repr(train.quorum),
                do_this="raise quorum.count, or lower SecureSum.threshold",
            )

    def plain(self, train: Ask) -> Generator[Ask, Answer, Answer]:
        """The answer to Train without any protection, where enough clients remain.

        Raises:
            RoundEnded: if too few were asked, or remain.
        """
        self.check_cohort(len(train.cohort))
        answer, needed = (yield train), self.needed(len(train.cohort))
        if answer.total.count < needed:
            reason = f"{answer.total.count} of {len(train.cohort)} clients sent a vector, and {needed} must remain"
            raise RoundEnded(reason, answer)
        return answer


class RoundEnded(Exception):
    """The round ends without a sum, for a reason; answer: that to Train, where clients were asked to train."""

    def __init__(self, reason: str, answer: Answer | None = None) -> None:
        super().__init__(reason)
        self.reason, self.answer = reason, answer
