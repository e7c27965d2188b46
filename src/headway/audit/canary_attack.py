"""The audit's canaries: the epsilon that they show beside the one that the ledger counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from headway.audit.audit_result import SERVER, AttackRow
from headway.audit.canaries import COARSEST, CanaryRounds
from headway.audit.canary_outcome import TOLERANCE, CanaryOutcome
from headway.core.algorithm import Algorithm
from headway.core.facts import PrivacyEvent
from headway.core.flow import Flow
from headway.data import FederatedData
from headway.model.task import Task
from headway.privacy.account_book import AccountBook
from headway.privacy.gaussian_epsilon import gaussian_epsilon
from headway.privacy.spends import Sampling

NAME = "canary clients"


def promises(events: Sequence[PrivacyEvent], place: str) -> tuple[PrivacyEvent, ...]:
    """The events that promise something for whole clients' deltas, of noise at the client or after it."""
    return tuple(
        event
        for event in events
        if event.unit == "client" and "delta" in event.covers and (event.at == "client") == (place == "client")
    )


def claimed_multiplier(events: Sequence[PrivacyEvent]) -> float:
    """The noise multiplier of several releases of one cohort together: `(sum z^-2)^(-1/2)`."""
    return 1 / math.sqrt(sum(event.noise_multiplier**-2 for event in events))


def run_epsilon(events: Sequence[PrivacyEvent], last: Flow, rounds: int, delta: float) -> float | None:
    """The epsilon that the ledger counts for so many rounds with these events, of one account."""
    book, sampling = AccountBook(), Sampling.of_flow(last)
    for round_ in range(rounds):
        book.add(events, round_, sampling)
    found = book.epsilons(delta)
    return next(iter(found.values()), None)


def canary_outcome(
    parts: tuple[Algorithm, FederatedData, Task, int], place: str, delta: float, rounds: int, seconds: float
) -> CanaryOutcome:
    """The canaries of an algorithm whose events at this place promise differential privacy.

    place: "client", where each message is the release, or "server".
    """
    algorithm, data, task, seed = parts
    canaries = CanaryRounds(algorithm, data, task, seed, local=place == "client")
    last = algorithm.flows(population=data.population)[-1]
    events = promises(last.events, place)
    claimed = claimed_multiplier(events)
    estimate = canaries.estimate(seconds)
    low, high = estimate.interval(delta)
    fresh = all(event.mechanism != "matrix" for event in events)
    run, shown_run = run_epsilon(events, last, rounds, delta), None
    if fresh and math.isfinite(estimate.multiplier):
        measured = PrivacyEvent(
            "gaussian", estimate.multiplier, events[0].sensitivity, relation=events[0].relation, at=events[0].at
        )
        shown_run = run_epsilon([measured], last, rounds, delta)
    return CanaryOutcome(
        where="each client's message" if place == "client" else "the released aggregate",
        estimate=estimate,
        claimed=claimed,
        delta=delta,
        release=gaussian_epsilon(claimed, delta),
        shown=estimate.epsilon(delta),
        low=low,
        high=high,
        rounds=rounds,
        fresh=fresh,
        run=run,
        shown_run=shown_run,
    )


def canary_row(outcome: CanaryOutcome) -> AttackRow:
    """The row of the table."""
    estimate = outcome.estimate
    observer = SERVER if outcome.where.startswith("each") else "anyone with the released model"
    verdict = outcome.verdict
    bounds = f"{_text(outcome.low)} to {_text(outcome.high)}"
    if verdict == "not judged" and estimate.refusal:
        reason = f"the server refused the canaries: {estimate.refusal}."
    elif verdict == "not judged":
        reason = (
            f"{len(estimate.cosines)} canaries are too few to tell (standard error {estimate.error:.0%}, at most "
            f"{COARSEST:.0%} is needed): give more time by --thorough or --budget."
        )
    elif outcome.repeats:
        reason = (
            f"the noise of one round is like that of the next (cosine {estimate.repeats:.2f}): whoever sees two rounds "
            "subtracts it."
        )
    elif verdict == "succeeded":
        reason = (
            f"a release shows epsilon {_text(outcome.shown)} ({bounds}), {outcome.ratio:.2f} times what the ledger "
            f"counts: the noise is weaker, or a client's effect larger, than the privacy events say."
        )
    else:
        reason = (
            f"a release shows epsilon {_text(outcome.shown)} ({bounds}), the ledger counts {_text(outcome.release)}"
            f"{_run_text(outcome)}; above {TOLERANCE} times would be a fault."
        )
    figures = {
        "canaries": len(estimate.cosines),
        "shadow_rounds": estimate.rounds,
        "multiplier": estimate.multiplier,
        "multiplier_claimed": outcome.claimed,
        "standard_error": estimate.error,
        "epsilon": outcome.shown,
        "epsilon_low": outcome.low,
        "epsilon_high": outcome.high,
        "epsilon_ledger": outcome.release,
        "epsilon_run": outcome.shown_run,
        "epsilon_run_ledger": outcome.run,
        "ratio": outcome.ratio,
        "delta": outcome.delta,
        "mean_cosine": float(estimate.cosines.mean()) if len(estimate.cosines) else None,
        "mean_cosine_without": float(estimate.controls.mean()) if len(estimate.cosines) else None,
        "noise_repeats": estimate.repeats,
    }
    after = f"epsilon {_text(outcome.shown)}, ledger {_text(outcome.release)}"
    return AttackRow(NAME, observer, f"{outcome.where} of one round", "no promise", after, verdict, reason, figures)


def _run_text(outcome: CanaryOutcome) -> str:
    if outcome.run is None or outcome.shown_run is None:
        return ""
    shown, counted = _text(outcome.shown_run), _text(outcome.run)
    return f" (of the run's {outcome.rounds} rounds: {shown}, ledger {counted})"


def _text(epsilon: float) -> str:
    return "unbounded" if epsilon > 1e4 else f"{epsilon:.2f}"
