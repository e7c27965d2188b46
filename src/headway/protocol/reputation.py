"""The policy by which clients have a reputation, and may be left out of rounds for a while."""

from __future__ import annotations

from dataclasses import dataclass

from headway.core.errors import ChainRefused
from headway.core.fields import at_least, between
from headway.core.flow import Flow
from headway.core.registry import Plain
from headway.protocol.quorum import Quorum


@dataclass(frozen=True)
class Reputation(Plain):
    """A score in [0, 1] of each client, from the history of its updates; and a quarantine of clients with a low one.

    Formula: after each round in which a client answered, from R_i = 1,

        R_i <- memory R_i + (1 - memory) s_i        s_i = 0 for an update that was refused

    s_i is how well the update fits the others of its round (see `headway.protocol.standings`).  The score is our own;
    it orders clients, and is no probability.

    quarantine_below: a round after which the score is below this counts against the client, any other takes one such
        round back; `None`, the default, for scores alone, which change nothing.
    patience: how many rounds that count against a client bring it into quarantine.
    rounds: how long a quarantine lasts: so many rounds in which the client is not drawn.  Then it is on probation: it
        starts again at the threshold, and the first round that counts against it brings it back.
    most: the share of the clients that may be in quarantine at once, the worst of them: below a half, since a score
        compares a client with most of the others.
    memory: the share of the score that stays in each round.

    A round that could not be filled otherwise takes clients from their quarantine, the best first, and says so.  **A
    client whose data are unlike all others looks like an attacker**: look at the scores before setting a threshold.

    Raises:
        ConfigError: for a number out of range.
        ChainRefused: where the server sees only sums, with noise that is promised to hide single clients, with late
            updates that are kept; and of a quarantine, with replacement or a stage that needs all clients.

    >>> Reputation(quarantine_below=0.3).summary
    'a client whose reputation is below 0.3 after 5 rounds is not drawn for 20 rounds'
    """

    quarantine_below: float | None = between(0, 1, None)
    patience: int = at_least(1, 5)
    rounds: int = at_least(1, 20)
    most: float = between(0, 0.5, 0.3, without=0.5)
    memory: float = between(0, 1, 0.9, without=1)

    @property
    def summary(self) -> str:
        """What follows from a low score, as a sentence without its end."""
        if self.quarantine_below is None:
            return "each client has a reputation, which changes nothing (no quarantine_below is set)"
        return (
            f"a client whose reputation is below {self.quarantine_below:g} after {self.patience} "
            f"{'round' if self.patience == 1 else 'rounds'} is not drawn for {self.rounds} "
            f"{'round' if self.rounds == 1 else 'rounds'}"
        )

    @property
    def excludes(self) -> bool:
        """Whether clients may be left out of rounds."""
        return self.quarantine_below is not None

    def check(self, flow: Flow, quorum: Quorum) -> None:
        """Refuses a chain whose server must not, or cannot, compare the updates of single clients.

        Raises:
            ChainRefused: with what was needed, found, caused by, and what to do.
        """
        flow.require(
            self,
            each_update=True,
            single_updates=True,
            unprotected="a score of each client would leave the protected channel",
        )
        flow.require(self, synchronous="updates of one model are compared")
        if self.excludes and quorum.replace:
            raise ChainRefused(
                needed="rounds whose clients are all drawn, since a client in quarantine is not (Reputation depends "
                "on it)",
                found="others that are asked instead of those that fail",
                caused_by=repr(quorum),
                do_this="leave quorum.replace or quarantine_below out",
            )
