"""Findings: measurements and facts from the user, with the thresholds from which on they matter.

The thresholds are rules of thumb: they show where to look first, and a comparison with several seeds decides.
`docs/choosing.md` argues each of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from headway.advice.likeness import Likeness
from headway.advice.probe import Probe
from headway.core.errors import ConfigError
from headway.observe.text import bytes_text

Level = Literal["none", "mild", "strong", "unknown"]
ORDER = ("trust", "reliability", "bytes", "likeness", "sizes")  # what dominates where several are strong
LEVELS = ("none", "unknown", "mild", "strong")  # what is not known is not fine
SILOS = 100  # clients, up to which a federation is taken for one of organisations
BITS = {"bit": 1 / 8, "b": 1 / 8, "B": 1}
UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class Threshold:
    """From which values on a figure matters a little and much, and where those values come from."""

    mild: float
    strong: float
    source: str


THRESHOLDS = {
    "label mix": Threshold(0.10, 0.33, "ours: Dirichlet(1) partitions of ten classes come to 0.3 to 0.4"),
    "missing classes": Threshold(0.10, 0.50, "ours: two classes per client of ten, as in arXiv 1602.05629, is 0.80"),
    "features": Threshold(0.10, 0.40, "Cohen (1988): f = 0.10 is small, 0.40 large"),
    "target": Threshold(0.10, 0.40, "Cohen (1988): f = 0.10 is small, 0.40 large"),
    "drift": Threshold(0.10, 0.30, "ours: digits divided by Dirichlet(1): 0.3 to 0.4, divided at random: 0.01"),
    "sizes": Threshold(0.50, 1.00, "ours: standard deviation of local steps over their mean"),
    "dropouts": Threshold(0.10, 0.50, "ours; arXiv 1812.06127 studies shares of 0.5 and 0.9"),
    "upload": Threshold(1.00, 10.0, "ours: at 1, sending takes as long as computing"),
    "own tests": Threshold(0.10, 0.20, "the 95 % interval of an accuracy of one half: 0.98 / sqrt(n)"),
}


@dataclass(frozen=True)
class UserFacts:
    """Facts that no data can show; `None` where the user gave none.

    unreliable: the share of clients that are late or lost in a round.  uplink: bytes a second.
    """

    untrusted_server: bool | None = None
    untrusted_clients: bool | None = None
    unreliable: float | None = None
    uplink: float | None = None


@dataclass(frozen=True)
class Finding:
    """One figure: which constraint it speaks of, how it is called, what was found, and how much it matters."""

    constraint: str
    name: str
    value: float | None
    words: str
    level: Level

    @property
    def threshold(self) -> Threshold | None:
        """The values that its level follows from."""
        return THRESHOLDS.get(self.name)


def rate(text: str) -> float:
    """A speed in bytes a second.

    Raises:
        ConfigError: for anything but a number with a unit such as kB/s, MB/s or Mbit/s.

    >>> rate("1 MB/s"), rate("8Mbit/s")
    (1000000.0, 1000000.0)
    """
    number, unit = text.strip().removesuffix("/s").removesuffix("ps"), ""
    while number and not number[-1].isdigit():
        number, unit = number[:-1], number[-1] + unit
    unit = unit.strip()
    for name, size in BITS.items():
        scale = unit.removesuffix(name)
        if unit.endswith(name) and scale in UNITS:
            try:
                value = float(number) * UNITS[scale] * size
            except ValueError:
                break
            if value > 0 and math.isfinite(value):
                return value
    raise ConfigError(f"the uplink must be a speed such as 500kB/s, 1MB/s or 20Mbit/s, found {text!r}.")


def findings(found: Likeness, probe: Probe | None, facts: UserFacts, upload: int, apart: bool = False) -> list[Finding]:
    """Every figure, constraint by constraint.

    upload: the bytes that a client of FedAvg sends in a round.  apart: whether each client's features were
    standardised by its own means, so that these no longer show.
    """
    return [
        *_trust(facts),
        _reliability(facts),
        _bytes(facts, probe, upload),
        *_labels(found),
        *_shifts(found, apart),
        _drift(probe),
        _sizes(found, probe),
        _tests(found),
    ]


def level(found: Sequence[Finding], constraint: str) -> Level:
    """The highest level of a constraint's findings."""
    return max((f.level for f in found if f.constraint == constraint), key=LEVELS.index, default="unknown")


def dominant(found: Sequence[Finding]) -> str | None:
    """The constraint to see to first: of the highest level, and of several the first in `ORDER`."""
    for wanted in ("strong", "mild"):
        for constraint in ORDER:
            if level(found, constraint) == wanted:
                return constraint
    return None


def _judged(constraint: str, name: str, value: float, words: str) -> Finding:
    if math.isnan(value):
        return Finding(constraint, name, None, words, "unknown")
    threshold = THRESHOLDS[name]
    rank: Level = "strong" if value >= threshold.strong else "mild" if value >= threshold.mild else "none"
    return Finding(constraint, name, value, words, rank)


def _trust(facts: UserFacts) -> list[Finding]:
    rows = []
    for name, flag, option in (
        ("server", facts.untrusted_server, "--untrusted-server"),
        ("clients", facts.untrusted_clients, "--untrusted-clients"),
    ):
        if flag is None:
            rows.append(Finding("trust", name, None, f"cannot be measured; give {option} if so", "unknown"))
        else:
            words = f"the {name} {'are' if name == 'clients' else 'is'} {'not ' if flag else ''}trusted, as given"
            rows.append(Finding("trust", name, float(flag), words, "strong" if flag else "none"))
    return rows


def _reliability(facts: UserFacts) -> Finding:
    if facts.unreliable is not None and not 0 <= facts.unreliable <= 1:
        raise ConfigError(f"the share of unreliable clients must be from 0 to 1, found {facts.unreliable}.")
    if facts.unreliable is None:
        return Finding("reliability", "dropouts", None, "cannot be measured; give --unreliable SHARE", "unknown")
    words = f"{facts.unreliable:.0%} of the clients are late or lost in a round, as given"
    return _judged("reliability", "dropouts", facts.unreliable, words)


def _bytes(facts: UserFacts, probe: Probe | None, upload: int) -> Finding:
    sent = f"{bytes_text(upload)} up from a client and round"
    if facts.uplink is None:
        return Finding("bytes", "upload", None, f"{sent}; how long that takes, --uplink 1MB/s would show", "unknown")
    seconds = upload / facts.uplink
    if probe is None:
        return Finding(
            "bytes",
            "upload",
            None,
            f"{sent}, {seconds:.2g} s; a probe would show the time of computing to compare it with",
            "unknown",
        )
    words = f"{sent}, {seconds:.2g} s at that speed, against {probe.seconds:.2g} s of computing on this machine"
    return _judged("bytes", "upload", seconds / max(probe.seconds, 1e-9), words)


def _labels(found: Likeness) -> list[Finding]:
    if found.labels is None:
        return []
    mix = found.labels
    words = (
        f"{mix.beyond_chance:.2f} of the way from alike to one class each: distance {mix.distance:.2f} to the pooled "
        f"mix, {mix.by_chance:.2f} by chance, {mix.most:.2f} at most; entropy {mix.entropy:.2f} nats"
    )
    if mix.most > 0 and mix.by_chance > 0.9 * mix.most:
        words = f"not known: clients are so small that chance alone gives {mix.by_chance:.2f} of {mix.most:.2f} at most"
        return [Finding("likeness", "label mix", None, words, "unknown")]
    pairs = f"{mix.missing:.0%} of the pairs of client and class have no example, {mix.missing_by_chance:.0%} by chance"
    return [
        _judged("likeness", "label mix", mix.beyond_chance, words),
        _judged("likeness", "missing classes", max(0.0, mix.missing - mix.missing_by_chance), pairs),
    ]


def _shifts(found: Likeness, apart: bool) -> list[Finding]:
    rows = []
    if found.shift is not None:
        given = " within a class" if found.shift.given_class else ""
        words = f"clients' means differ by f = {_f(found.shift.typical)}{given} in the median feature"
        if found.shift.typical >= THRESHOLDS["features"].mild or found.shift.fixed:
            words += "; most: " + ", ".join(f"{name} {_f(value)}" for name, value in found.shift.largest)
        words += "; features are standardised by each client apart, which hides most of it" if apart else ""
        rows.append(_judged("likeness", "features", found.shift.typical, words))
    if found.shift is not None and found.shift.fixed:
        several = found.shift.fixed > 1
        words = (
            f"{found.shift.fixed} feature{'s are' if several else ' is'} the same in all examples of a client and "
            f"{'differ' if several else 'differs'} between clients{given}, so that a model can tell clients by it"
        )
        strong = found.shift.typical >= THRESHOLDS["features"].strong
        rows.append(
            Finding("likeness", "fixed features", float(found.shift.fixed), words, "strong" if strong else "mild")
        )
    if found.target_shift is not None:
        words = f"clients' mean targets differ by f = {_f(found.target_shift)}"
        if math.isnan(found.target_shift):
            words = "not known: targets do not vary, or no client has two examples"
        rows.append(_judged("likeness", "target", found.target_shift, words))
    return rows


def _f(value: float) -> str:
    return "infinity (the same within a client)" if math.isinf(value) else f"{value:.2f}"


def _drift(probe: Probe | None) -> Finding:
    if probe is None or (lost := probe.lost) is None:
        return Finding("likeness", "drift", None, "not probed", "unknown")
    own, shuffled = probe.own, probe.shuffled
    words = (
        f"averaging cancels {lost[0]:.0%} of what clients send, and {lost[1]:.0%} with the same data divided at random "
        f"(B = {own['dissimilarity']:.2f} and {shuffled['dissimilarity']:.2f}); leeway over headway "
        f"{_ratio(own):.2f} and {_ratio(shuffled):.2f}; mean cosine of two clients {own['alignment']:.2f} and "
        f"{shuffled['alignment']:.2f}"
    )
    if len(probe.cosines) > 1:
        client = min(probe.cosines, key=lambda name: (probe.cosines[name], name))
        words += f"; furthest off course: {client} (cosine {probe.cosines[client]:.2f})"
    return _judged("likeness", "drift", max(0.0, lost[0] - lost[1]), words)


def _ratio(drift: Mapping[str, float]) -> float:
    return float(drift["leeway"] / drift["headway"]) if drift["headway"] > 0 else math.inf


def _sizes(found: Likeness, probe: Probe | None) -> Finding:
    spread, of = found.spread, "examples"
    if probe is not None and len(probe.steps) == len(found.sizes):
        spread, of = statistics.pstdev(probe.steps) / max(statistics.fmean(probe.steps), 1e-9), "local steps"
    words = f"{_range(found.sizes)} examples a client; {of} spread by {spread:.2f} of their mean"
    return _judged("sizes", "sizes", spread, words)


def _tests(found: Likeness) -> Finding:
    tested = [count for count in found.tests if count]
    if not tested:
        words = "no client has test examples" + (f"; {found.central} in a central test set" if found.central else "")
        return Finding("tests", "own tests", None, words, "none" if found.central else "strong")
    least = min(tested)
    width = 0.98 / math.sqrt(least)
    words = f"{_range(tested)} test examples a client: an accuracy on the fewest is known to +- {width:.2f}"
    return _judged("tests", "own tests", width, words)


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"
