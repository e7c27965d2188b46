"""The result of an audit: a row for each attack and observer, what was reconstructed, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from headway.audit.canary_outcome import CanaryOutcome, Verdict

SERVER = "server"  # the observer that receives what clients send
CAUTION = (
    "A failed attack proves nothing more than that: these attacks, with this effort, from this seed, did not succeed. "
    "Other attacks may."
)


@dataclass(frozen=True, slots=True)
class AttackRow:
    """One attack on what one observer sees.

    attack: its name.  observer: the party that sees it.  seen: what that is.  before, after: the attack's result
    without and with the chain's protections.  verdict: of the attack with them.  reason: why so, as a sentence.
    figures: the numbers, by name.
    """

    attack: str
    observer: str
    seen: str
    before: str
    after: str
    verdict: Verdict
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A record beside what an attack made of what was seen.

    name: which record.  original, before, after: in the shape of an input; `None` where there is nothing to show.
    captions: a short text under each of the three.
    """

    name: str
    original: Tensor
    before: Tensor | None
    after: Tensor | None
    captions: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True, slots=True)
class Gallery:
    """Reconstructions of one attack.

    low, high: the range of the values, for the shades of a picture.  features: the names of a table's inputs.
    """

    attack: str
    title: str
    caption: str
    items: Sequence[Reconstruction]
    low: float = 0.0
    high: float = 1.0
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """A receiver operating characteristic: the true positive rate at each false positive rate."""

    name: str
    false_positive: tuple[float, ...]
    true_positive: tuple[float, ...]


@dataclass(frozen=True)
class AuditReport:
    """All that an audit found.

    name: of the run file.  chain, protections: in words.  rows: the attacks.  notes: what was not attacked, and why.
    trusted_server: whether attacks by the server do not count.
    """

    name: str
    seed: int
    chain: str
    protections: tuple[str, ...]
    sees: str
    rows: tuple[AttackRow, ...]
    galleries: tuple[Gallery, ...] = ()
    curves: tuple[Curve, ...] = ()
    canaries: tuple[CanaryOutcome, ...] = ()
    notes: tuple[str, ...] = ()
    thorough: bool = False
    trusted_server: bool = False

    def counts(self, row: AttackRow) -> bool:
        """Whether an attack counts: not that of a server which is trusted with what it sees."""
        return row.verdict != "not judged" and not (self.trusted_server and row.observer == SERVER)

    @property
    def succeeded(self) -> tuple[AttackRow, ...]:
        """The attacks that succeeded in spite of the protections, and count."""
        return tuple(row for row in self.rows if row.verdict == "succeeded" and self.counts(row))

    @property
    def judged(self) -> tuple[AttackRow, ...]:
        """The attacks that count."""
        return tuple(row for row in self.rows if self.counts(row))

    @property
    def passed(self) -> bool:
        """Whether there were attacks that count, and none of them succeeded."""
        return bool(self.judged) and not self.succeeded

    @property
    def exit_code(self) -> int:
        """0 if it passed, 1 if an attack succeeded, 2 if nothing is known."""
        return 0 if self.passed else 1 if self.succeeded else 2

    @property
    def headline(self) -> str:
        """The result in a few words."""
        return ("No attack succeeded", "Attacks succeeded", "Nothing is known")[self.exit_code]

    @property
    def sentence(self) -> str:
        """The result in plain words."""
        judged, besides = len(self.judged), ""
        if not judged:
            return "No attack could be run and judged, so nothing is known: see the notes, or allow more time."
        if self.trusted_server:
            besides = " besides those of the server, which is trusted"
        if left := sum(row.verdict == "not judged" for row in self.rows):
            besides += f" ({left} more {'was' if left == 1 else 'were'} not judged)"
        if self.passed:
            return f"None of {judged} attacks succeeded{besides}. {CAUTION}"
        found = f"{len(self.succeeded)} of {judged} attacks succeeded{besides}"
        return (
            f"{found}: what leaves the clients under this algorithm gives single clients' data or participation away."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values: everything but the pictures."""
        return {
            "name": self.name,
            "seed": self.seed,
            "thorough": self.thorough,
            "trusted_server": self.trusted_server,
            "passed": self.passed,
            "sentence": self.sentence,
            "chain": self.chain,
            "protections": list(self.protections),
            "server_sees": self.sees,
            "attacks": [asdict(row) for row in self.rows],
            "roc": [asdict(curve) for curve in self.curves],
            "notes": list(self.notes),
        }
